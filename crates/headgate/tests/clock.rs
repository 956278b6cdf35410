//! `[system] ntp-servers`: what the daemon believes, and whom. Here it may not set the clock, which is this machine's; that it does is
//! shown in a guest (tests/boot/access.rs of the workspace).

mod support;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::WEB;
use support::namespace::{NETWORK, Namespace};

/// What a time server of a test says.
#[derive(Clone, Copy)]
enum Says {
    /// The time, so many seconds off.
    Off(i64),
    /// An answer to a question that nobody asked.
    Unasked,
    /// That it is asked too often.
    Rate,
    /// That it does not know.
    Unsynchronised,
    /// Half an answer.
    Short,
}

/// A toy that speaks just enough of NTP (RFC 5905, 7.3); how often it was asked.
fn server(ns: &Namespace, address: &str, says: Says) -> Arc<AtomicU32> {
    ns.far_address("be", &format!("{address}/24"));
    let socket = ns.at_far(|| UdpSocket::bind((address, 123))).expect("nobody else is there");
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut question = [0; 48];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            count.fetch_add(1, Ordering::Relaxed);
            assert!(length == 48 && question[0] & 7 == 3, "no question of a client: {question:?}");
            let _ = socket.send_to(&answer(&question, says), from);
        }
    });
    asked
}

fn answer(question: &[u8; 48], says: Says) -> Vec<u8> {
    let mut answer = [0; 48];
    let off = if let Says::Off(off) = says { off } else { 0 };
    (answer[0], answer[1]) = (0b00_100_100, 2);
    answer[12..16].copy_from_slice(&[192, 0, 2, 1]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seconds = (now.as_secs() + 2_208_988_800).wrapping_add_signed(off) as u32;
    let fraction = ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000) as u32;
    let time = [seconds.to_be_bytes(), fraction.to_be_bytes()].concat();
    answer[24..32].copy_from_slice(&question[40..48]);
    answer[32..40].copy_from_slice(&time);
    answer[40..48].copy_from_slice(&time);
    match says {
        Says::Off(_) => {}
        Says::Unasked => answer[31] ^= 1,
        Says::Rate => {
            answer[1] = 0;
            answer[12..16].copy_from_slice(b"RATE");
        }
        Says::Unsynchronised => (answer[0], answer[1]) = (0b11_100_100, 16),
        Says::Short => return answer[..20].to_vec(),
    }
    answer.to_vec()
}

fn configuration(servers: &[&str]) -> String {
    format!("[system]\nntp-servers = {servers:?}\n{NETWORK}")
}

fn clock(ns: &Namespace) -> Value {
    let status = ns.headgate(&["status", "--json"]).out;
    serde_json::from_str::<Value>(&status).expect("JSON")["clock"].take()
}

/// What is known of one server once it has answered, or not.
#[track_caller]
fn said(ns: &Namespace, address: &str) -> Value {
    let mut said = Value::Null;
    ns.wait_for(address, || {
        let clock = clock(ns);
        let found = clock["servers"].as_array().expect("a list").iter().find(|one| one["address"] == address).cloned();
        said = found.expect("it is named");
        !said["said"].is_null() || !said["error"].is_null()
    });
    said
}

#[test]
fn the_majority_is_believed_and_a_clock_that_must_not_be_set_is_a_fault() {
    let ns = Namespace::new(WEB);
    let servers = ["172.16.2.5", "172.16.2.6", "172.16.2.7"];
    for (address, off) in servers.into_iter().zip([0, -86_400, 0]) {
        server(&ns, address, Says::Off(off));
    }
    ns.tree.write("etc/headgate/headgate.toml", configuration(&servers));
    let _daemon = ns.start();
    ns.wait_for("an answer that is believed", || !clock(&ns)["best"].is_null());
    let clock = clock(&ns);
    assert_ne!(clock["best"]["server"], "172.16.2.6", "{clock}");
    assert!(clock["best"]["offset-ns"].as_i64().expect("a number").abs() < 500_000_000, "{clock}");
    assert_eq!(clock["synchronised-ms"], Value::Null, "it may not be set: {clock}");
    let wrong = said(&ns, "172.16.2.6")["said"]["offset-ns"].as_i64().expect("a number");
    assert!((-86_401_000_000_000..-86_399_000_000_000).contains(&wrong), "{wrong}");
    let page = ns
        .run(
            "curl",
            &[
                "-s",
                "--unix-socket",
                &ns.tree.path("run/headgate/api.sock").display().to_string(),
                "http://headgated/metrics",
            ],
        )
        .out;
    assert!(
        page.contains("headgate_clock_synchronised 0\n") && page.contains("headgate_clock_offset_seconds "),
        "{page}"
    );
    let told = ns.headgate(&["status"]).out;
    let fault =
        "degraded: the clock is not synchronised: the clock cannot be set: Operation not permitted (os error 1)";
    assert!(told.contains(fault), "{told}");
    assert!(
        ns.tree.read("run/headgate/clock-was-set").is_empty() && !ns.tree.path("run/headgate/clock-was-set").exists()
    );
}

#[test]
fn nothing_but_answers_to_our_questions_is_heard() {
    let ns = Namespace::new(WEB);
    let cases = [
        ("172.16.2.5", Says::Unasked, "no time from it: "),
        ("172.16.2.6", Says::Rate, "it asks not to be asked for 30 minutes: "),
        ("172.16.2.7", Says::Unsynchronised, "no time from it: "),
        ("172.16.2.8", Says::Short, "no time from it: "),
    ];
    let asked: Vec<_> = cases.iter().map(|(address, says, _)| server(&ns, address, *says)).collect();
    let servers: Vec<&str> = cases.iter().map(|(address, ..)| *address).collect();
    ns.tree.write("etc/headgate/headgate.toml", configuration(&servers));
    let daemon = ns.start();
    for (address, _, error) in cases {
        let said = said(&ns, address);
        assert!(said["error"].as_str().is_some_and(|told| told.starts_with(error)), "{said}");
    }
    let told = ns.headgate(&["status"]).out;
    assert!(told.contains("the clock is not synchronised: no server has answered"), "{told}");
    // Who wants peace has it.
    ns.wait_for("more questions", || asked[0].load(Ordering::Relaxed) >= 2);
    assert_eq!(asked[1].load(Ordering::Relaxed), 1);

    // Two who contradict each other, of whom one goes.
    server(&ns, "172.16.2.9", Says::Off(0));
    server(&ns, "172.16.2.10", Says::Off(3600));
    ns.tree.write("etc/headgate/headgate.toml", configuration(&["172.16.2.9", "172.16.2.10"]));
    daemon.reload("applied");
    ns.wait_for("doubt", || clock(&ns)["error"] == "1 of 2 servers agree, and that is no majority");

    // Nobody: then nobody is asked, and there is nothing to tell.
    ns.tree.write("etc/headgate/headgate.toml", NETWORK);
    daemon.reload("applied");
    ns.wait_for("nobody", || clock(&ns).is_null());
    let before: u32 = asked.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(before, asked.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u32>());
}
