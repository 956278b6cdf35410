use std::time::{Duration, Instant};

use headgate_plan::load::Load;
use headgate_plan::status::FarmStatus;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::board::{Action, Asked, Board, Key, Sample};
use super::draw::{Looks, draw, number};

fn farms(new: u64, bytes: Option<u64>) -> Vec<FarmStatus> {
    let traffic = bytes.map(|bytes| serde_json::json!({ "packets": 1, "bytes": bytes }));
    let backend = |name: &str, standing: &str, new: u64| {
        serde_json::json!({
            "name": name, "address": format!("172.16.2.11:8080"), "standing": standing, "weight": 10, "priority": 1,
            "flows": 7, "new-flows": new, "traffic": traffic,
        })
    };
    let farm = |name: &str, health: &str, new: u64| {
        serde_json::json!({
            "name": name, "health": health, "mode": "snat", "listen": ["172.16.1.1:80"], "unplaced": [], "usable": 1,
            "total": 2, "flows": 14, "new-flows": new, "traffic": traffic,
            "backends": [backend("b1", "serving", new), backend("b2", "unhealthy", 0)],
        })
    };
    serde_json::from_value(serde_json::json!([farm("mail", "down", 0), farm("web", "degraded", new)])).unwrap()
}

/// Two CPUs: the second one is busy with a queue, and both have served another.
fn load(second: u64) -> Load {
    let cpu =
        |cpu, busy_percent, packets| serde_json::json!({"cpu": cpu, "busy-percent": busy_percent, "packets": packets});
    let vector = |irq: u32, queue: Option<u32>, name: &str, interrupts: serde_json::Value| serde_json::json!({"nic": "eth0", "irq": irq, "name": name, "queue": queue, "interrupts": interrupts});
    serde_json::from_value(serde_json::json!({
        "cpus": [cpu(0, 7, 0), cpu(1, 95, 20_000 * second)],
        "vectors": [
            vector(40, None, "eth0", serde_json::json!({"0": 1})),
            vector(41, Some(0), "eth0-TxRx-0", serde_json::json!({"0": 100, "1": 10 + 3_000 * second})),
            vector(42, Some(1), "eth0-TxRx-1", serde_json::json!({"0": 5 * second, "1": 6 * second})),
        ],
    }))
    .unwrap()
}

fn board(samples: &[(u64, Option<u64>)]) -> Board {
    let begun = Instant::now();
    let mut board = Board::default();
    for (second, (new, bytes)) in samples.iter().enumerate() {
        let at = begun + Duration::from_secs(second as u64 * 2);
        board.take(Sample { at, farms: farms(*new, *bytes), load: load(second as u64) });
    }
    board
}

fn screen(board: &Board, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, board, Looks { colour: false, blocks: false })).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect()
}

#[test]
fn it_fits_80_by_24() {
    let mut board = board(&[(100, Some(0)), (300, Some(3_000_000))]);
    let shown = screen(&board, 80, 24);
    assert_eq!(shown[0], "headgate 2 farms, 2 not well  28 flows  100 new/s  3MB/s");
    assert_eq!(shown[4], "cpu0   7 %  cpu1  95 %");
    assert_eq!(
        shown[5].split_whitespace().collect::<Vec<_>>(),
        ["FARM", "STATE", "BACKENDS", "FLOWS", "NEW/S", "BYTES/S", "LISTEN"]
    );
    assert_eq!(
        shown[7].split_whitespace().collect::<Vec<_>>(),
        ["web", "degraded", "1/2", "14", "100", "1.5M", "172.16.1.1:80"]
    );
    assert_eq!(shown[23], "up/down  Enter backends  h hardware  p pause  q quit");
    board.press(Key::Down);
    board.press(Key::Enter);
    let shown = screen(&board, 80, 24);
    assert_eq!(shown[0], "headgate farm web  degraded  14 flows  100 new/s  1.5MB/s");
    assert_eq!(
        shown[6].split_whitespace().collect::<Vec<_>>(),
        ["b1", "serving", "10", "1", "7", "100", "172.16.2.11:8080"]
    );
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn each_queue_stands_with_the_cpu_that_serves_it() {
    let mut board = board(&[(1, None), (2, None)]);
    board.press(Key::Char('h'));
    let shown = screen(&board, 80, 24);
    assert_eq!(words(&shown[5]), ["CPU", "LOAD", "PACKETS/S", "NIC", "QUEUE", "IRQ", "IRQS/S", "VECTOR"]);
    assert_eq!(words(&shown[6]), ["cpu0", "7", "%", "0", "eth0", "-", "40", "0", "eth0"]);
    assert_eq!(words(&shown[7]), ["eth0", "1", "42", "2.5", "eth0-TxRx-1"]);
    assert_eq!(words(&shown[8]), ["cpu1", "95", "%", "10k", "eth0", "0", "41", "1500", "eth0-TxRx-0"]);
    assert_eq!(words(&shown[9]), ["eth0", "1", "42", "3", "eth0-TxRx-1"]);
    assert_eq!((shown[10].as_str(), words(&shown[23])[1]), ("", "h"));
    // Nothing can be changed from here, and what was open is still open behind it.
    assert_eq!((board.press(Key::Char('d')), board.question()), (Action::None, None));
    assert_eq!((board.press(Key::Enter), board.open.clone()), (Action::None, None));
    for _ in 0..9 {
        board.press(Key::Down);
    }
    assert_eq!(board.selected, 3);
    assert_eq!(board.press(Key::Back), Action::None);
    assert!(screen(&board, 80, 24)[5].starts_with("FARM"));
    assert_eq!(board.selected, 0, "what was selected before");
    board.press(Key::Enter);
    board.press(Key::Char('h'));
    board.press(Key::Char('h'));
    assert!(board.opened().is_some());
    assert!(screen(&board, 80, 24)[23].chars().count() < 80);
    // The first look has nothing to compare with.
    let mut fresh = self::board(&[(1, None)]);
    fresh.press(Key::Char('h'));
    assert_eq!(words(&screen(&fresh, 80, 24)[6]), ["cpu0", "7", "%", "eth0", "-", "40", "eth0"]);
}

#[test]
fn no_screen_is_too_small_or_too_large() {
    let board = board(&[(1, None), (2, None)]);
    for (width, height) in [(1, 1), (20, 5), (79, 23), (300, 100)] {
        assert_eq!(screen(&board, width, height).len(), usize::from(height));
    }
    screen(&Board::default(), 80, 24);
}

#[test]
fn a_change_wants_a_yes() {
    let mut board = board(&[(1, None)]);
    assert_eq!(board.press(Key::Char('d')), Action::None, "a farm is no backend");
    assert_eq!(board.question(), None);
    board.press(Key::Down);
    board.press(Key::Enter);
    board.press(Key::Char('d'));
    assert_eq!(board.question().unwrap(), "drain b1 of web? y/n");
    assert_eq!(board.press(Key::Char('n')), Action::None);
    assert_eq!(board.asked, None);
    board.press(Key::Char('d'));
    let Action::Change(farm, backend, values) = board.press(Key::Char('y')) else { panic!("no change") };
    assert_eq!((farm.as_str(), backend.as_str()), ("web", "b1"));
    assert_eq!(values, serde_json::json!({ "state": "drain" }));
    board.press(Key::Down);
    for key in ['w', '2', '9', '\u{8}', 'x', '0'] {
        board.press(Key::Char(key));
    }
    assert_eq!(board.question().unwrap(), "weight of b2 of web (now 10): 20_  Enter/Esc");
    let Action::Change(_, backend, values) = board.press(Key::Enter) else { panic!("no change") };
    assert_eq!((backend.as_str(), values), ("b2", serde_json::json!({ "weight": 20 })));
    for key in ['w', '9', '9', '9', '9', '9', '9'] {
        board.press(Key::Char(key));
    }
    assert_eq!(board.asked, Some(Asked::Weight("99999".to_owned())));
    assert_eq!(board.press(Key::Enter), Action::None);
    assert_eq!(board.message.as_deref(), Some("\"99999\" is no weight: 0 to 65535"));
    board.press(Key::Char('w'));
    assert_eq!(board.press(Key::Back), Action::None);
    assert_eq!(board.asked, None);
    board.press(Key::Back);
    assert_eq!(board.open, None);
    assert_eq!(board.press(Key::Back), Action::Quit);
    assert_eq!(board.press(Key::Char('q')), Action::Quit);
}

#[test]
fn counters_that_began_anew_say_nothing() {
    let board = board(&[(100, None), (40, None)]);
    assert_eq!(board.total().flows, 0.0);
    assert!(screen(&board, 80, 24)[0].contains("  0 new/s"));
}

#[test]
fn what_goes_is_noticed() {
    let mut board = board(&[(1, None)]);
    board.press(Key::Enter);
    assert!(board.opened().is_some());
    board.lose("headgated does not answer".to_owned());
    let shown = screen(&board, 80, 24);
    assert!(shown[0].contains("NO ANSWER") && shown[23].contains("does not answer"), "{shown:#?}");
    board.take(Sample { at: Instant::now() + Duration::from_secs(9), farms: vec![], load: Default::default() });
    assert!(board.opened().is_none() && !board.lost);
    assert_eq!(board.message.as_deref(), Some("the farm is gone"));
    board.press(Key::Char('p'));
    board.take(Sample {
        at: Instant::now() + Duration::from_secs(19),
        farms: farms(1, None),
        load: Default::default(),
    });
    assert!(board.farms().is_empty(), "paused");
}

#[test]
fn numbers_are_short() {
    let told = [0.0, 0.5, 3.0, 9.99, 1234.0, 56_789.0, 7_800_000.0, 1e12, 1e18].map(number);
    assert_eq!(told, ["0", "0.5", "3", "10", "1234", "57k", "7.8M", "1T", "1000P"]);
}
