//! Reload, restart and kill under load: no connection may notice. `HEADGATE_ROUNDS=5` does five times as much, which is what
//! the data plane promises: 1,000 reloads, 100 restarts and 100 kills (`make test-storm`).
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use headgate_image::nginx::Nginx;
use headgate_tests::lab::{Lab, backend};

const APPLIES: u32 = 200;
const RESTARTS: u32 = 20;
const KILLS: u32 = 20;

fn configuration(second_port: u16) -> String {
    format!(
        "[farms.web]
listen = \"172.16.1.1:80\"
backends.b11.address = \"172.16.2.11:8080\"
backends.b12.address = \"172.16.2.12:{second_port}\"
"
    )
}

fn wrk(lab: &Lab) -> Child {
    lab.client
        .command("wrk")
        .args(["-t2", "-c64", "-d20s", "--timeout", "5s", "http://172.16.1.1/"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// wrk prints `Socket errors:` and `Non-2xx or 3xx responses:` only when there were any.
fn judge(wrk: Child) {
    let output = wrk.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "wrk ended with {}", output.status);
    assert!(text.contains("requests in"), "wrk made no requests:\n{text}");
    assert!(!text.contains("Socket errors"), "{text}");
    assert!(!text.contains("Non-2xx"), "{text}");
}

#[test]
fn reloads_restarts_and_kills_under_load_lose_nothing() {
    let times =
        std::env::var("HEADGATE_ROUNDS").map_or(1, |text| text.parse::<u32>().expect("HEADGATE_ROUNDS is a number"));
    let mut lab = Lab::new("storm").unwrap();
    let listen: Vec<SocketAddr> = vec![backend(11, 8080), backend(12, 8080), backend(12, 8081)];
    let _nginx = Nginx::start(&lab.backends, &listen).unwrap();
    lab.configure(&configuration(8080)).unwrap();
    lab.start().unwrap();

    let mut load = wrk(&lab);
    let started = Instant::now();
    let (mut restarts, mut kills) = (0, 0);
    for round in 1..=APPLIES * times {
        lab.configure(&configuration(if round % 2 == 0 { 8080 } else { 8081 })).unwrap();
        lab.headgate_ok(&["apply"]).unwrap();
        if round % (APPLIES / KILLS) == 0 {
            lab.crash().unwrap();
            lab.start().unwrap();
            kills += 1;
        }
        // Halfway between two kills.
        if round % (APPLIES / RESTARTS) == APPLIES / RESTARTS / 2 {
            lab.stop().unwrap();
            lab.start().unwrap();
            restarts += 1;
        }
        // The load lasts 20 s; on a slow machine the rounds last longer, and must not go on without it.
        if load.try_wait().unwrap().is_some() {
            judge(std::mem::replace(&mut load, wrk(&lab)));
        }
        // Spread over the whole run of the load.
        let due = Duration::from_secs(18) * round / APPLIES;
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{} applies, {restarts} restarts and {kills} kills in {seconds:.1} s", APPLIES * times);
    judge(load);
}
