//! Traffic follows what checks say; checks follow the configuration, and keep their time.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use headgate_tests::lab::{BACKENDS, Lab, backend};
use headgate_tests::server::{Connection, Server, Talk};
use serde_json::Value;

use crate::servers::{Serving, tcp};
use crate::{PATIENCE, VIP, farms, health, of_backend, wait};

/// A farm of three backends with a check of 200 ms.
fn three(extra: &str) -> String {
    let mut text = format!(
        "[farms.web]\nlisten = [\"{VIP}\", \"172.16.1.1:80/udp\"]\n{extra}\n\
         [farms.web.health]\ninterval = \"200ms\"\ntimeout = \"200ms\"\nrise = 2\nfall = 2\n"
    );
    for number in BACKENDS {
        text += &format!("[farms.web.backends.b{number}]\naddress = \"{}\"\n", backend(number, 8080));
    }
    text
}

fn serve(lab: &Lab, number: u8) -> Server {
    Server::start(&lab.backends, &format!("b{number}"), backend(number, 8080)).unwrap()
}

/// Who answers so many requests; `None` stands for a refusal.
fn answers(lab: &Lab, count: usize) -> BTreeSet<Option<String>> {
    let ask = |_| Connection::open(&lab.client, VIP.parse().unwrap()).unwrap().ok().map(|open| open.answer.server);
    (0..count).map(ask).collect()
}

fn named(numbers: &[u8]) -> BTreeSet<Option<String>> {
    numbers.iter().map(|number| Some(format!("b{number}"))).collect()
}

/// Waits until just these answer.
fn until_answer(lab: &Lab, numbers: &[u8]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = answers(lab, 6);
        if found == named(numbers) {
            return;
        }
        assert!(Instant::now() < until, "{found:?} answer, not {numbers:?}");
    }
}

#[test]
fn traffic_follows_the_checks() {
    let mut lab = Lab::new("follow").unwrap();
    let (first, second) = (serve(&lab, 11), serve(&lab, 12));
    lab.configure(&three("")).unwrap();
    lab.start().unwrap();
    let error = wait(&lab, "web", "b13", "down");
    assert_eq!(error, "tcp connect to 172.16.2.13:8080: connection refused");
    until_answer(&lab, &[11, 12]);
    let status = lab.headgate(&["status"]).unwrap();
    assert_eq!(status.status.code(), Some(5));
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("unhealthy for ") && status.contains(&error), "{status}");
    let shown = lab.headgate_ok(&["farm", "show", "web"]).unwrap();
    assert!(shown.contains("LAST ERROR") && shown.contains(&error), "{shown}");
    // It is started, and serves.
    let third = serve(&lab, 13);
    until_answer(&lab, &[11, 12, 13]);
    // Datagrams of a client leave a backend that goes down.
    let talk = Talk::open(&lab.client, VIP.parse().unwrap()).unwrap();
    let mut servers = [Some(first), Some(second), Some(third)];
    let at: u8 = talk.ask().unwrap().server[1..].parse().unwrap();
    servers[usize::from(at - 11)] = None;
    let until = Instant::now() + PATIENCE;
    while talk.ask().is_ok_and(|answer| answer.server == format!("b{at}")) || talk.ask().is_err() {
        assert!(Instant::now() < until, "the datagrams stay with a backend that is down");
    }
    wait(&lab, "web", &format!("b{at}"), "down");
    // The operator's word wins, and has to be taken back.
    servers[usize::from(at - 11)] = Some(serve(&lab, at));
    wait(&lab, "web", &format!("b{at}"), "up");
    lab.headgate_ok(&["backend", "drain", "web", &format!("b{at}")]).unwrap();
    let others: Vec<u8> = BACKENDS.into_iter().filter(|number| *number != at).collect();
    until_answer(&lab, &others);
    lab.headgate_ok(&["backend", "up", "web", &format!("b{at}")]).unwrap();
    until_answer(&lab, &BACKENDS);
    // Nobody is left, and then somebody is.
    drop(servers);
    for number in BACKENDS {
        wait(&lab, "web", &format!("b{number}"), "down");
    }
    let refused = Connection::open(&lab.client, VIP.parse().unwrap()).unwrap().expect_err("nobody is left");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let _server = serve(&lab, 12);
    let until = Instant::now() + PATIENCE;
    while answers(&lab, 1) != named(&[12]) {
        assert!(Instant::now() < until, "the first one back does not serve");
    }
    // What is in the kernel is what was planned.
    assert_eq!(lab.headgate(&["plan"]).unwrap().status.code(), Some(0));
}

#[test]
fn spares_take_over_and_hand_back() {
    let mut lab = Lab::new("spare").unwrap();
    let [first, _second, _third] = BACKENDS.map(|number| serve(&lab, number));
    let text = three("") + "priority = 2\n";
    let text = text.replace("[farms.web.backends.b12]\n", "[farms.web.backends.b12]\npriority = 2\n");
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    until_answer(&lab, &[11]);
    drop(first);
    until_answer(&lab, &[12, 13]);
    let _first = serve(&lab, 11);
    until_answer(&lab, &[11]);
}

#[test]
fn a_backend_that_was_down_stays_out_over_a_crash() {
    let mut lab = Lab::new("crash").unwrap();
    let _servers = [serve(&lab, 11), serve(&lab, 12)];
    lab.configure(&three("").replace("200ms", "1s")).unwrap();
    lab.start().unwrap();
    let error = wait(&lab, "web", "b13", "down");
    until_answer(&lab, &[11, 12]);
    lab.crash().unwrap();
    // It answers again, and nobody has probed that.
    let _third = serve(&lab, 13);
    assert_eq!(answers(&lab, 9), named(&[11, 12]));
    assert_eq!(lab.headgate(&["plan"]).unwrap().status.code(), Some(0), "the plan knows who is down");
    let once = lab.headgated(&["--once"]).unwrap();
    let said = String::from_utf8_lossy(&once.stderr).into_owned();
    assert!(once.status.success() && said.contains("health checks need headgated to run"), "{said}");
    assert_eq!(answers(&lab, 9), named(&[11, 12]));
    lab.start().unwrap();
    let farms = farms(&lab);
    let found = &of_backend(&farms, "web", "b13")["health"];
    // Unless the machine is so slow that two probes have passed already.
    if found["state"] == "down" {
        assert!(
            found["since-ms"].as_u64().unwrap() > 0 && [Value::Null, error.into()].contains(&found["error"]),
            "{found}"
        );
    }
    until_answer(&lab, &BACKENDS);
    let log = std::fs::read_to_string(lab.log()).unwrap();
    let turns = |what: &str| log.lines().filter(|line| line.contains(what) && line.contains("b13")).count();
    assert_eq!((turns("the backend is down"), turns("the backend is up")), (1, 1), "{log}");
}

#[test]
fn whoever_comes_and_goes_has_to_pass_more_probes_each_time() {
    let mut lab = Lab::new("flap").unwrap();
    let switch = lab.root().join("switch");
    let command = format!("type = \"exec\"\ncommand = [\"/usr/bin/test\", \"-e\", \"{}\"]\n", switch.display());
    let text = three("").replace("rise = 2\nfall = 2\n", &format!("rise = 1\nfall = 1\n{command}"));
    std::fs::write(&switch, "").unwrap();
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    wait(&lab, "web", "b11", "up");
    for rise in [1, 2, 4] {
        std::fs::remove_file(&switch).unwrap();
        wait(&lab, "web", "b11", "down");
        let farms = farms(&lab);
        assert_eq!(of_backend(&farms, "web", "b11")["health"]["rise"], rise);
        std::fs::write(&switch, "").unwrap();
        wait(&lab, "web", "b11", "up");
    }
}

#[test]
fn every_mode_and_route_is_probed_as_its_flows_go() {
    let mut lab = Lab::new("modes").unwrap();
    let _servers = [serve(&lab, 11), Server::start(&lab.backends, "b80", backend(11, 80)).unwrap()];
    lab.gate.ip(&["address", "add", "172.16.2.9/24", "dev", "backend"]).unwrap();
    lab.gate.ip(&["rule", "add", "fwmark", "16", "table", "100"]).unwrap();
    lab.gate.ip(&["route", "add", "unreachable", "default", "table", "100"]).unwrap();
    let mut text = String::new();
    for (farm, port, extra, health) in [
        ("dnat", 1, "mode = \"dnat\"", "expect-body = \"172.16.2.1\""),
        // The answer to a probe is not rewritten as those to clients are.
        ("stateless", 2, "mode = \"stateless\"\nscheduler = \"maglev\"", "expect-body = \"172.16.2.1\""),
        ("dsr", 8080, "mode = \"dsr\"", "type = \"tcp\""),
        ("source", 4, "mode = \"snat\"", "source-address = \"172.16.2.9\"\nexpect-body = \"172.16.2.9\""),
        ("marked", 5, "mark = 16", "type = \"tcp\""),
    ] {
        let address = match farm {
            "dsr" => "172.16.2.11".to_owned(),
            "stateless" => backend(11, 80).to_string(),
            _ => backend(11, 8080).to_string(),
        };
        text += &format!(
            "[farms.{farm}]\nlisten = \"172.16.1.1:{port}\"\n{extra}\n[farms.{farm}.backends.b1]\naddress = \"{address}\"\n\
             [farms.{farm}.health]\ninterval = \"1s\"\n{health}\n"
        );
    }
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    for farm in ["dnat", "stateless", "dsr", "source"] {
        wait(&lab, farm, "b1", "up");
    }
    let error = wait(&lab, "marked", "b1", "down");
    assert!(error.starts_with("tcp connect to 172.16.2.11:8080: no route to host"), "{error}");
    // A source that the box does not have says nothing about the backend.
    lab.gate.ip(&["address", "del", "172.16.2.9/24", "dev", "backend"]).unwrap();
    let until = Instant::now() + PATIENCE;
    while !health(&lab, "source", "b1").1.contains("not probed: cannot probe from 172.16.2.9") {
        assert!(Instant::now() < until, "{:?}", health(&lab, "source", "b1"));
    }
    assert_eq!(health(&lab, "source", "b1").0, "up");
}

#[test]
fn checks_follow_the_configuration() {
    let mut lab = Lab::new("change").unwrap();
    let _servers = [serve(&lab, 11), serve(&lab, 12)];
    let mut text = three("");
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    wait(&lab, "web", "b13", "down");
    wait(&lab, "web", "b11", "up");
    // How often it is asked does not change what is known; what is asked, and of whom, may.
    text = text.replace("interval = \"200ms\"", "interval = \"300ms\"");
    lab.configure(&text).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    assert_eq!(health(&lab, "web", "b13").0, "down");
    text = text.replace("172.16.2.13:8080", "172.16.2.12:8080");
    lab.configure(&text).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    wait(&lab, "web", "b13", "up");
    until_answer(&lab, &[11, 12]);
    // Without a check nobody is down by it.
    text = text.replace("172.16.2.12:8080", "172.16.2.13:8080");
    lab.configure(&text).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    wait(&lab, "web", "b13", "down");
    lab.configure(&text.replace("interval = \"300ms\"", "type = \"none\"")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    let found = farms(&lab);
    let found = of_backend(&found, "web", "b13");
    assert_eq!((&found["health"], &found["standing"]), (&Value::Null, &Value::from("serving")));
    lab.configure(&text).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    wait(&lab, "web", "b13", "down");
    // Backends and farms come and go while they are probed.
    for round in 0..10 {
        let port = 9000 + round;
        lab.headgate_ok(&[
            "farm",
            "add",
            "more",
            "--listen",
            &format!("172.16.1.1:{port}"),
            "--backend",
            "172.16.2.13:1",
        ])
        .unwrap();
        lab.headgate_ok(&["farm", "set", "more", "health.interval=100ms", "health.timeout=100ms"]).unwrap();
        wait(&lab, "more", "b1", "down");
        lab.headgate_ok(&["farm", "remove", "more"]).unwrap();
    }
    assert_eq!(farms(&lab).len(), 1);
    assert_eq!(lab.headgate(&["plan"]).unwrap().status.code(), Some(0));
}

#[test]
fn flows_without_an_answer_have_their_backend_probed_at_once() {
    let mut lab = Lab::new("signs").unwrap();
    let [first, second, _third] = BACKENDS.map(|number| serve(&lab, number));
    // Nobody is probed again by the clock while this runs.
    lab.configure(&three("").replace("interval = \"200ms\"", "interval = \"10m\"")).unwrap();
    lab.backends.run("nft add table ip silence").unwrap();
    lab.backends.run("nft add chain ip silence input { type filter hook input priority 0 ; }").unwrap();
    lab.start().unwrap();
    for number in BACKENDS {
        wait(&lab, "web", &format!("b{number}"), "up");
    }
    let try_until_down = |number: u8| {
        let until = Instant::now() + PATIENCE;
        while health(&lab, "web", &format!("b{number}")).0 != "down" {
            assert!(Instant::now() < until, "nobody suspects b{number}");
            std::thread::scope(|scope| {
                for _ in 0..9 {
                    scope.spawn(|| {
                        lab.client
                            .within(|| TcpStream::connect_timeout(&VIP.parse().unwrap(), Duration::from_millis(300)))
                    });
                }
            });
        }
    };
    // Resets.
    drop(first);
    try_until_down(11);
    // Silence.
    lab.backends.run("nft add rule ip silence input ip daddr 172.16.2.12 drop").unwrap();
    try_until_down(12);
    assert_eq!(health(&lab, "web", "b13").0, "up");
    drop(second);
}

/// 40 farms of 50 backends, one check a second for each; one in twenty never answers.
#[test]
fn two_thousand_checks_keep_their_time() {
    const FARMS: u16 = 40;
    const EACH: u16 = 50;
    let mut lab = Lab::new("crowd").unwrap();
    let _serving: Vec<Serving> =
        BACKENDS.iter().map(|&number| tcp(&lab.backends, backend(number, 8080), |_| ())).collect();
    // Silence, and not an error.
    lab.backends.run("nft add table ip silence").unwrap();
    lab.backends.run("nft add chain ip silence input { type filter hook input priority 0 ; }").unwrap();
    lab.backends.run("nft add rule ip silence input tcp dport 9 drop").unwrap();
    let mut text = String::from("[defaults.farm.health]\ninterval = \"1s\"\ntimeout = \"1s\"\n");
    for farm in 0..FARMS {
        text += &format!("[farms.f{farm}]\nlisten = \"172.16.1.1:{}\"\n", 1000 + farm);
        for index in 0..EACH {
            let port = if index % 20 == 7 { 9 } else { 8080 };
            let number = BACKENDS[usize::from(index) % BACKENDS.len()];
            text += &format!("[farms.f{farm}.backends.b{index}]\naddress = \"{}\"\n", backend(number, port));
        }
    }
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    let count = |lab: &Lab| -> Vec<(bool, u64, u64)> {
        let farms = farms(lab);
        let backends = farms.iter().flat_map(|farm| farm["backends"].as_array().unwrap());
        let told = backends.map(|backend| {
            let silent = backend["address"].as_str().unwrap().ends_with(":9");
            let health = &backend["health"];
            (silent, health["probes"].as_u64().unwrap_or(0), health["failures"].as_u64().unwrap_or(0))
        });
        told.collect()
    };
    let until = Instant::now() + PATIENCE;
    while count(&lab).iter().any(|(_, probes, _)| *probes < 2) {
        assert!(Instant::now() < until, "not all are probed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (before, begun) = (count(&lab), Instant::now());
    std::thread::sleep(Duration::from_secs(6));
    let (after, most) = (count(&lab), begun.elapsed().as_secs() + 2);
    assert_eq!(after.len(), usize::from(FARMS * EACH));
    let mut probes = 0;
    for ((silent, first, _), (_, last, failures)) in before.into_iter().zip(after) {
        // The machine may be busy with something else; yet nobody is left behind, and nobody is asked more often.
        assert!((2..=most).contains(&(last - first)), "{} probes in {:?}", last - first, begun.elapsed());
        assert_eq!(silent, failures == last, "{failures} of {last} failed");
        probes += last - first;
    }
    println!("{probes} probes of {} in {:?}", u64::from(FARMS * EACH) * 6, begun.elapsed());
}
