//! What each change of a backend's state does to new flows, to TCP and to UDP: the table of the contract, row by row, with real
//! packets of both families. What remembered clients make of it is in `sticky.rs`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use headgate_tests::lab::{Lab, backend, backend6, said};
use headgate_tests::server::{Connection, Server, Talk, ask_udp};
use nix::sys::signal::Signal;

const VIP: [&str; 2] = ["172.16.1.1:80", "[2001:db8:1::1]:80"];
/// Flows of each protocol and family; with two backends in turn, both have some.
const EACH: usize = 4;
/// For what happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// How the second backend of each family is written; `None`: it is not.
type Second<'a> = Option<&'a str>;

/// A farm with one backend of each family that stays and one that `second` is about.
fn farm(lines: &str, first: &str, second: Second<'_>) -> String {
    let mut text = String::from("[farms.web]\nlisten = [");
    for to in VIP {
        text += &format!("\"{to}/tcp\", \"{to}/udp\", ");
    }
    text += &format!("]\n{lines}\n");
    for (number, more) in [(11, Some(first)), (12, second)] {
        let Some(more) = more else { continue };
        for (letter, address) in [('b', backend(number, 8080)), ('c', backend6(number, 8080))] {
            text += &format!("[farms.web.backends.{letter}{number}]\naddress = \"{address}\"\n{more}\n");
        }
    }
    text
}

fn lab(label: &str) -> (Lab, Vec<Server>) {
    let lab = Lab::new(label).unwrap();
    let both = |number| [(number, backend(number, 8080)), (number, backend6(number, 8080))];
    let start = |(number, address)| Server::start(&lab.backends, &format!("b{number}"), address).unwrap();
    let servers = [11, 12].into_iter().flat_map(both).map(start).collect();
    (lab, servers)
}

/// `headgate backend … web`, for the second backend of both families.
fn backend_command(lab: &Lab, command: &[&str]) {
    for name in ["b12", "c12"] {
        let mut arguments = vec!["backend", command[0], "web", name];
        arguments.extend(&command[1..]);
        lab.headgate_ok(&arguments).unwrap();
    }
}

fn generation(lab: &Lab) -> u32 {
    lab.gate.within(|| headgate_nft::Socket::open().unwrap().generation().unwrap()).unwrap()
}

/// Who answers new flows of both families and protocols.
fn served(lab: &Lab, what: &str) -> BTreeSet<String> {
    let mut servers = BTreeSet::new();
    for to in VIP {
        for _ in 0..EACH {
            let tcp = Connection::open(&lab.client, at(to)).unwrap().unwrap_or_else(|e| panic!("{what}: {to}: {e}"));
            let udp = ask_udp(&lab.client, at(to)).unwrap().unwrap_or_else(|e| panic!("{what}: {to}: {e}"));
            servers.extend([tcp.answer.server, udp.server]);
        }
    }
    servers
}

/// How a new flow of each protocol and family fails.
fn failures(lab: &Lab) -> Vec<ErrorKind> {
    let of = |to: &&str| {
        let tcp = Connection::open(&lab.client, at(to)).unwrap().expect_err("a connection to nobody").kind();
        let udp = ask_udp(&lab.client, at(to)).unwrap().expect_err("an answer from nobody").kind();
        [tcp, udp]
    };
    VIP.iter().flat_map(of).collect()
}

/// Both backends take new flows. With least connections the one that has fewer may get all for a while.
fn both_serve(lab: &Lab, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while served(lab, what).len() < 2 {
        assert!(Instant::now() < deadline, "{what}: one backend gets nothing");
    }
}

/// Flows of both families and protocols to both backends.
struct Flows {
    tcp: Vec<Connection>,
    udp: Vec<(String, Talk)>,
}

impl Flows {
    fn open(lab: &Lab, what: &str) -> Self {
        let mut flows = Self { tcp: Vec::new(), udp: Vec::new() };
        for to in VIP {
            let (mut tcp, mut udp) = (Vec::<Connection>::new(), Vec::<(String, Talk)>::new());
            let deadline = Instant::now() + PATIENCE;
            // As in `both_serve`, one backend may get all of them for a while.
            loop {
                tcp.extend((0..EACH).map(|_| Connection::open(&lab.client, at(to)).unwrap().unwrap()));
                udp.extend((0..EACH).map(|_| {
                    let talk = Talk::open(&lab.client, at(to)).unwrap();
                    (talk.ask().unwrap().server, talk)
                }));
                let of_tcp: BTreeSet<&str> = tcp.iter().map(|connection| &*connection.answer.server).collect();
                let of_udp: BTreeSet<&str> = udp.iter().map(|(server, _)| &**server).collect();
                if (of_tcp.len(), of_udp.len()) == (2, 2) {
                    break;
                }
                assert!(Instant::now() < deadline, "{what}: {to}: {of_tcp:?} and {of_udp:?} are not both backends");
                std::thread::sleep(Duration::from_millis(100));
            }
            flows.tcp.extend(tcp);
            flows.udp.extend(udp);
        }
        flows
    }

    /// All TCP is alive and where it was, and so is all UDP but what had `gone` as its backend.
    fn check(&mut self, what: &str, gone: Option<&str>) {
        for connection in &mut self.tcp {
            connection.echo("alive").unwrap_or_else(|e| panic!("{what}: {:?}: {e}", connection.answer));
        }
        for (before, talk) in &mut self.udp {
            let now = talk.ask().unwrap_or_else(|e| panic!("{what}: UDP to {before}: {e}")).server;
            match gone == Some(before.as_str()) {
                true => assert_ne!(now, *before, "{what}: UDP stays"),
                false => assert_eq!(now, *before, "{what}: UDP moves"),
            }
            *before = now;
        }
    }
}

/// What is done to the second backend.
enum Event {
    /// `headgate backend` with these words.
    Command(&'static [&'static str]),
    /// Another configuration, applied.
    Files(Second<'static>),
}

/// What becomes of UDP flows of the second backend; TCP stays in every row.
#[derive(Clone, Copy, PartialEq)]
enum Udp {
    Stays,
    Leaves,
}

/// Event, and what becomes of UDP. New flows find the other backend in each of them.
const ROWS: [(&str, Event, Udp); 8] = [
    ("drain", Event::Command(&["drain"]), Udp::Stays),
    ("drain by files", Event::Files(Some("state = \"drain\"")), Udp::Stays),
    ("weight 0", Event::Command(&["weight", "0"]), Udp::Stays),
    ("weight 0 by files", Event::Files(Some("weight = 0")), Udp::Stays),
    ("down", Event::Command(&["down"]), Udp::Leaves),
    ("down by files", Event::Files(Some("state = \"down\"")), Udp::Leaves),
    ("removed", Event::Command(&["remove"]), Udp::Leaves),
    ("removed by files", Event::Files(None), Udp::Leaves),
];

/// All rows, with these lines of the farm.
fn rows(label: &str, lines: &str) {
    let (mut lab, _servers) = lab(label);
    let (one, both) = (farm(lines, "", None), farm(lines, "", Some("")));
    lab.configure(&both).unwrap();
    lab.start().unwrap();
    for (row, event, udp) in &ROWS {
        let what = format!("{lines}: {row}");
        let is_removal = matches!(event, Event::Command(["remove"]));
        lab.configure(if is_removal { &one } else { &both }).unwrap();
        lab.headgate_ok(&["apply"]).unwrap();
        if is_removal {
            // What a file has is not removed by a command.
            for (name, address) in [("b12", backend(12, 8080)), ("c12", backend6(12, 8080))] {
                lab.headgate_ok(&["backend", "add", "web", name, &address.to_string()]).unwrap();
            }
        }
        let mut flows = Flows::open(&lab, &what);
        match event {
            Event::Command(words) => backend_command(&lab, words),
            Event::Files(second) => {
                lab.configure(&farm(lines, "", *second)).unwrap();
                lab.headgate_ok(&["apply"]).unwrap();
            }
        }
        flows.check(&what, (*udp == Udp::Leaves).then_some("b12"));
        assert_eq!(served(&lab, &what), BTreeSet::from(["b11".to_owned()]), "{what}: new flows");
        flows.check(&format!("{what}, later"), None);
        if matches!(event, Event::Command(_)) && !is_removal {
            backend_command(&lab, &["up"]);
            backend_command(&lab, &["weight", "1"]);
            both_serve(&lab, &what);
        }
    }
}

#[test]
fn each_row_with_snat() {
    rows("rows-s", "mode = \"snat\"");
}

#[test]
fn each_row_with_dnat() {
    rows("rows-d", "mode = \"dnat\"");
}

#[test]
fn each_row_where_slots_follow_the_flows() {
    rows("rows-l", "scheduler = \"least-connections\"");
}

/// With `on-fail = "reset"` a connection of a backend that goes down or is removed is reset at its next segment, and no other.
/// Nothing checks the backends: the operator's word is enough.
#[test]
fn connections_of_a_backend_that_goes_down_are_reset_where_the_farm_says_so() {
    let (mut lab, _servers) = lab("reset");
    for mode in ["snat", "dnat"] {
        let lines = format!("mode = {mode:?}\nhealth = {{ type = \"none\", on-fail = \"reset\" }}");
        let both = farm(&lines, "", Some(""));
        lab.configure(&both).unwrap();
        lab.start().unwrap();
        let down = |lab: &Lab| backend_command(lab, &["down"]);
        let removed = |lab: &Lab| {
            lab.configure(&farm(&lines, "", None)).unwrap();
            lab.headgate_ok(&["apply"]).unwrap();
        };
        for event in ["down", "removed"] {
            let what = format!("{mode}: {event}");
            lab.configure(&both).unwrap();
            lab.headgate_ok(&["apply"]).unwrap();
            let mut flows = Flows::open(&lab, &what);
            backend_command(&lab, &["drain"]);
            flows.check(&format!("{what}: drained before"), None);
            match event {
                "down" => down(&lab),
                _ => removed(&lab),
            }
            let (left, mut stay): (Vec<Connection>, Vec<Connection>) =
                flows.tcp.into_iter().partition(|connection| connection.answer.server == "b12");
            for mut connection in left {
                let kind = connection.echo("anybody").expect_err("a connection that was cut").kind();
                assert_eq!(kind, ErrorKind::ConnectionReset, "{what}");
            }
            for connection in &mut stay {
                connection.echo("alive").unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            for (before, talk) in &flows.udp {
                assert_eq!(talk.ask().unwrap().server, "b11", "{what}: UDP to {before}");
            }
            if event == "down" {
                backend_command(&lab, &["up"]);
            }
        }
        lab.stop().unwrap();
    }
}

/// The same when a health check takes the backend out. What serves goes on, and only the port that is checked closes: so a
/// connection that ends has been ended by the box.
#[test]
fn connections_of_a_backend_that_fails_its_checks_are_reset_where_the_farm_says_so() {
    let (mut lab, _servers) = lab("resetc");
    for mode in ["snat", "dnat"] {
        let check = "type = \"tcp\", port = 9000, interval = \"100ms\", timeout = \"100ms\", rise = 1";
        let lines = format!("mode = {mode:?}\nhealth = {{ {check}, on-fail = \"reset\" }}");
        let checked = |address| Server::start(&lab.backends, "checked", address).unwrap();
        let _stays = [backend(11, 9000), backend6(11, 9000)].map(checked);
        let goes = [backend(12, 9000), backend6(12, 9000)].map(checked);
        lab.configure(&farm(&lines, "", Some(""))).unwrap();
        lab.start().unwrap();
        until(&lab, mode, "up", 4);
        let flows = Flows::open(&lab, mode);
        drop(goes);
        until(&lab, mode, "down", 2);
        for mut connection in flows.tcp {
            let server = connection.answer.server.clone();
            if server != "b12" {
                connection.echo("anybody").unwrap_or_else(|e| panic!("{mode}: {server}: {e}"));
                continue;
            }
            // Its flows are cut behind the change of the ruleset that takes it out, which is what `until` sees.
            let deadline = Instant::now() + Duration::from_secs(10);
            let cut = loop {
                match connection.echo("anybody") {
                    Ok(()) => assert!(Instant::now() < deadline, "{mode}: the connection was not cut"),
                    Err(error) => break error.kind(),
                }
            };
            assert_eq!(cut, ErrorKind::ConnectionReset, "{mode}");
        }
        for (before, talk) in &flows.udp {
            assert_eq!(talk.ask().unwrap().server, "b11", "{mode}: UDP to {before}");
        }
        assert_eq!(served(&lab, mode), BTreeSet::from(["b11".to_owned()]), "{mode}");
        lab.stop().unwrap();
    }
}

/// Waits until so many backends are in a state by their checks.
fn until(lab: &Lab, what: &str, state: &str, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let said = lab.headgate_ok(&["farm", "show", "web", "--json"]).unwrap();
        let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
        let backends = shown["backends"].as_array().unwrap();
        if backends.iter().filter(|backend| backend["health"]["state"] == state).count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: not {count} {state}: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn with_all_backends_down_flows_are_refused_and_the_first_one_back_is_served() {
    let (mut lab, _servers) = lab("none");
    for mode in ["snat", "dnat"] {
        for on_empty in ["reject", "drop"] {
            let what = format!("{mode} {on_empty}");
            let lines = format!("mode = {mode:?}\non-empty = {on_empty:?}");
            lab.configure(&farm(&lines, "", Some(""))).unwrap();
            lab.start().unwrap();
            let mut flows = Flows::open(&lab, &what);
            for name in ["b11", "c11", "b12", "c12"] {
                lab.headgate_ok(&["backend", "down", "web", name]).unwrap();
            }
            for connection in &mut flows.tcp {
                connection.echo("alive").unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            let expected = match on_empty {
                "reject" => [ErrorKind::ConnectionRefused; 4],
                _ => [ErrorKind::TimedOut, ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::WouldBlock],
            };
            assert_eq!(failures(&lab), expected, "{what}");
            backend_command(&lab, &["up"]);
            assert_eq!(served(&lab, &what), BTreeSet::from(["b12".to_owned()]), "{what}");
            for (before, talk) in &flows.udp {
                // A refusal that came before is told first.
                let now = talk.ask().or_else(|_| talk.ask()).unwrap_or_else(|e| panic!("{what}: {before}: {e}"));
                assert_eq!(now.server, "b12", "{what}: the flow finds who is back");
            }
            for connection in &mut flows.tcp {
                connection.echo("alive").unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            for name in ["b11", "c11"] {
                lab.headgate_ok(&["backend", "up", "web", name]).unwrap();
            }
            lab.stop().unwrap();
        }
    }
}

#[test]
fn what_changes_nothing_writes_nothing_and_moves_nobody() {
    let (mut lab, _servers) = lab("same");
    for mode in ["snat", "dnat"] {
        let text = farm(&format!("mode = {mode:?}"), "", Some(""));
        lab.configure(&text).unwrap();
        lab.start().unwrap();
        backend_command(&lab, &["drain"]);
        backend_command(&lab, &["up"]);
        let mut flows = Flows::open(&lab, mode);
        let before = generation(&lab);
        let mut same = |lab: &Lab, what: &str| {
            assert_eq!(generation(lab), before, "{mode}: {what} wrote to the kernel");
            flows.check(&format!("{mode}: {what}"), None);
        };
        lab.headgate_ok(&["apply"]).unwrap();
        same(&lab, "apply");
        // A comment is another file, not another configuration.
        lab.configure(&format!("# looked at\n{text}")).unwrap();
        lab.signal(Signal::SIGHUP).unwrap();
        lab.headgate_ok(&["apply"]).unwrap();
        same(&lab, "SIGHUP");
        backend_command(&lab, &["up"]);
        same(&lab, "the state that it has");
        for round in 0..3 {
            lab.crash().unwrap();
            same(&lab, &format!("kill -9, {round}"));
            lab.start().unwrap();
            same(&lab, &format!("start, {round}"));
        }
        lab.stop().unwrap();
        same(&lab, "stop");
        lab.once(&text).unwrap();
        same(&lab, "--once");
        assert_eq!(served(&lab, mode).len(), 2);
    }
}

#[test]
fn flows_that_are_cut_end_and_the_others_do_not_notice() {
    let (mut lab, _servers) = lab("cut");
    for mode in ["snat", "dnat"] {
        lab.configure(&farm(&format!("mode = {mode:?}"), "", Some(""))).unwrap();
        lab.start().unwrap();
        let mut flows = Flows::open(&lab, mode);
        backend_command(&lab, &["drain"]);
        for name in ["b12", "c12"] {
            let cut = lab.headgate_ok(&["connections", "web", name, "--flush", "--json"]).unwrap();
            let cut: serde_json::Value = serde_json::from_str(&cut).unwrap();
            assert!(cut["flows"].as_u64().unwrap() >= 2, "{mode}: {name}: {cut}");
            let left = lab.headgate_ok(&["connections", "web", name]).unwrap();
            assert_eq!(left, "no flows\n", "{mode}: {name}");
        }
        for connection in &mut flows.tcp {
            let server = connection.answer.server.clone();
            let begin = Instant::now();
            match (server.as_str(), connection.echo("anybody")) {
                ("b11", answer) => answer.unwrap_or_else(|e| panic!("{mode}: {server}: {e}")),
                (_, answer) => {
                    let kind = answer.expect_err("a connection that was cut").kind();
                    assert_eq!(kind, ErrorKind::ConnectionReset, "{mode}: {server}");
                    assert!(begin.elapsed() < Duration::from_secs(1), "{mode}: {:?}", begin.elapsed());
                }
            }
        }
        flows.tcp.clear();
        flows.check(mode, Some("b12"));
        assert_eq!(served(&lab, mode), BTreeSet::from(["b11".to_owned()]));
        let nobody = lab.headgate(&["connections", "web", "nobody", "--flush"]).unwrap();
        assert_eq!(nobody.status.code(), Some(2), "{}", said(&nobody));
        flows.check(mode, None);
        backend_command(&lab, &["up"]);
        lab.stop().unwrap();
    }
}

/// While this lives, the daemon gets no new socket: the kernel answers ENOBUFS, as when it is short of memory. Those that the
/// daemon has stay.
struct NoSockets(Child);

impl NoSockets {
    fn begin(lab: &Lab) -> Self {
        let process = lab.process().unwrap();
        let inject = ["-e", "trace=socket", "-e", "inject=socket:error=ENOBUFS", "-o", "/dev/null"];
        let strace = Command::new("strace").args(["-f", "-p", &process.to_string()]).args(inject).spawn();
        let this = Self(strace.expect("this test needs strace"));
        let threads = std::path::PathBuf::from(format!("/proc/{process}/task"));
        let is_traced = |thread: std::path::PathBuf| {
            std::fs::read_to_string(thread.join("status")).is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
        };
        let until = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_dir(&threads).unwrap().all(|thread| is_traced(thread.unwrap().path())) {
            assert!(Instant::now() < until, "strace does not come to all threads");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }
}

impl Drop for NoSockets {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Connection tracking cannot be asked when a backend goes down, and can later: what is owed is settled then, by itself.
#[test]
fn flows_that_could_not_be_deleted_are_deleted_later() {
    const OWED: &str = "stay until they are idle";
    let (mut lab, _servers) = lab("states-owed");
    lab.configure(&farm("", "", Some(""))).unwrap();
    lab.start().unwrap();
    let status = |lab: &Lab| String::from_utf8(lab.headgate(&["status"]).unwrap().stdout).unwrap();
    let mut flows = Flows::open(&lab, "owed");
    let refusing = NoSockets::begin(&lab);
    backend_command(&lab, &["down"]);
    let said = status(&lab);
    assert!(said.contains(OWED) && said.contains("No buffer space"), "{said}");
    flows.check("while it is owed", None);
    assert_eq!(served(&lab, "while it is owed"), BTreeSet::from(["b11".to_owned()]), "new flows are not concerned");
    drop(refusing);
    let until = Instant::now() + Duration::from_secs(40);
    while status(&lab).contains(OWED) {
        assert!(Instant::now() < until, "{}", status(&lab));
        std::thread::sleep(Duration::from_millis(200));
    }
    flows.check("when it was settled", Some("b12"));
}
