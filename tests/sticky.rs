//! Persistence with real packets: who keeps their backend, until when, and who has to leave it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use headgate_tests::lab::{BACKENDS, Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, ask_udp_as};

const LISTEN: &str =
    r#"["172.16.1.1:80/tcp", "172.16.1.1:80/udp", "[2001:db8:1::1]:80/tcp", "[2001:db8:1::1]:80/udp"]"#;
const VIP: [&str; 2] = ["172.16.1.1:80", "[2001:db8:1::1]:80"];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Three backends in both families behind `[farms.NAME]` with these further lines, and `state` for the second of them.
fn farm(name: &str, listen: &str, lines: &str, state: &str) -> String {
    let mut text = format!("[farms.{name}]\nlisten = {listen}\n{lines}\n");
    for number in BACKENDS {
        let state = if number == 12 { state } else { "up" };
        for (letter, address) in [('b', backend(number, 8080)), ('c', backend6(number, 8080))] {
            text +=
                &format!("[farms.{name}.backends.{letter}{number}]\naddress = \"{address}\"\nstate = \"{state}\"\n");
        }
    }
    text
}

/// The lab with clients 172.16.1.10 to .19 and 2001:db8:1::10 to ::19, and servers b11, b12, b13 in both families.
fn lab(label: &str) -> (Lab, Vec<Server>) {
    let lab = Lab::new(label).unwrap();
    for number in 11..20 {
        for address in [format!("172.16.1.{number}/24"), format!("2001:db8:1::{number}/64")] {
            lab.client.ip(&["address", "add", &address, "dev", "eth0", "nodad"]).unwrap();
        }
    }
    let both = |number| [(number, backend(number, 8080)), (number, backend6(number, 8080))];
    let start = |(number, address)| Server::start(&lab.backends, &format!("b{number}"), address).unwrap();
    let servers = BACKENDS.into_iter().flat_map(both).map(start).collect();
    (lab, servers)
}

fn client(number: u8, to: &str, port: u16) -> SocketAddr {
    match at(to).is_ipv4() {
        true => at(&format!("172.16.1.{number}:{port}")),
        false => at(&format!("[2001:db8:1::{number}]:{port}")),
    }
}

/// Who answers a new flow of this client.
fn ask(lab: &Lab, number: u8, to: &str) -> String {
    let answer = ask_udp_as(&lab.client, client(number, to, 0), at(to)).unwrap();
    answer.unwrap_or_else(|error| panic!("client {number} to {to}: {error}")).server
}

/// Who answers several new flows of one client.
fn served(lab: &Lab, number: u8, to: &str, flows: usize) -> BTreeSet<String> {
    (0..flows).map(|_| ask(lab, number, to)).collect()
}

/// Clients that the farm remembers, as nft(8) lists them.
fn remembered(lab: &Lab, map: &str) -> usize {
    lab.nft(&format!("list map inet headgate {map}")).unwrap().matches(" expires ").count()
}

#[test]
fn a_client_keeps_its_backend_over_reloads_restarts_and_crashes() {
    let (mut lab, _servers) = lab("sticky");
    for mode in ["snat", "dnat"] {
        let lines = format!("mode = {mode:?}\npersistence.key = [\"source-address\"]");
        let web = farm("web", LISTEN, &lines, "up");
        lab.configure(&web).unwrap();
        lab.start().unwrap();
        // A port that comes again within two minutes would be a flow of the mode before still.
        lab.gate.run("conntrack --flush").unwrap();
        let clients: Vec<(u8, &str)> = (10..16).flat_map(|number| VIP.map(|to| (number, to))).collect();
        let before: Vec<String> = clients.iter().map(|&(number, to)| ask(&lab, number, to)).collect();
        assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3, "the first flows go round: {before:?}");
        let same = |lab: &Lab, what: &str| {
            for (&(number, to), server) in clients.iter().zip(&before) {
                assert_eq!(served(lab, number, to, 3), BTreeSet::from([server.clone()]), "{what}: {number} {to}");
            }
        };
        same(&lab, "at first");
        let mut tcp = Connection::open(&lab.client, at(VIP[0])).unwrap().unwrap();
        assert_eq!(tcp.answer.server, before[0], "TCP and UDP are one client");
        lab.headgate_ok(&["apply"]).unwrap();
        lab.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
        same(&lab, "reload");
        let other = "[farms.alpha]\nlisten = \"172.16.1.2:80/udp\"\nbackends.a.address = \"172.16.2.11:8080\"\n";
        lab.configure(&[&web, other].concat()).unwrap();
        lab.headgate_ok(&["apply"]).unwrap();
        same(&lab, "another farm");
        lab.headgate_ok(&["backend", "weight", "web", "b11", "7"]).unwrap();
        same(&lab, "another weight");
        lab.crash().unwrap();
        same(&lab, "kill -9");
        lab.start().unwrap();
        same(&lab, "start");
        lab.stop().unwrap();
        same(&lab, "stop");
        lab.once(&web).unwrap();
        same(&lab, "--once");
        tcp.echo("still here").unwrap();
        assert!(lab.headgated(&["--flush"]).unwrap().status.success());
    }
}

#[test]
fn an_idle_client_is_forgotten_and_a_busy_one_is_not() {
    let (lab, _servers) = lab("sticky-t");
    lab.once(&farm("web", LISTEN, "persistence.timeout = \"2s\"", "up")).unwrap();
    for to in VIP {
        let first = ask(&lab, 10, to);
        for _ in 0..6 {
            sleep(Duration::from_millis(700));
            assert_eq!(ask(&lab, 10, to), first, "each flow starts the time again");
        }
        sleep(Duration::from_millis(2500));
        assert_ne!(ask(&lab, 10, to), first, "a new client has the next turn");
    }
    assert_eq!(remembered(&lab, "sticky4-web"), 0);
}

#[test]
fn who_does_not_fit_is_served_without_memory() {
    let (lab, _servers) = lab("sticky-s");
    lab.once(&farm("web", LISTEN, "persistence.size = 2", "up")).unwrap();
    for to in VIP {
        let kept: Vec<String> = [10, 11].map(|number| ask(&lab, number, to)).into();
        assert_eq!(served(&lab, 12, to, 6).len(), 3, "nobody knows this client");
        for (number, server) in [10, 11].into_iter().zip(kept) {
            assert_eq!(served(&lab, number, to, 4), BTreeSet::from([server]));
        }
    }
    lab.once(&farm("web", LISTEN, "persistence.size = 4096", "up")).unwrap();
    assert_eq!(served(&lab, 12, VIP[0], 4).len(), 1, "there is room now");
    assert_eq!(remembered(&lab, "sticky4-web"), 3, "and nobody was forgotten for it");
}

#[test]
fn assignments_go_before_memory() {
    let (mut lab, _servers) = lab("sticky-f");
    let lines = |name: u8| {
        format!("persistence.static = {{ \"172.16.1.10\" = \"b{name}\", \"2001:db8:1::10\" = \"c{name}\" }}")
    };
    lab.configure(&farm("web", LISTEN, "persistence.timeout = \"5m\"", "up")).unwrap();
    lab.start().unwrap();
    let before: Vec<String> = VIP.map(|to| ask(&lab, 10, to)).into();
    let assigned: u8 = if before[0] == "b12" { 13 } else { 12 };
    lab.configure(&farm("web", LISTEN, &lines(assigned), "up")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    for to in VIP {
        assert_eq!(served(&lab, 10, to, 4), BTreeSet::from([format!("b{assigned}")]), "{to}");
    }
    for name in [format!("b{assigned}"), format!("c{assigned}")] {
        lab.headgate_ok(&["backend", "drain", "web", &name]).unwrap();
    }
    assert_eq!(
        served(&lab, 10, VIP[0], 4),
        BTreeSet::from([format!("b{assigned}")]),
        "a drained one keeps its clients"
    );
    lab.headgate_ok(&["backend", "down", "web", &format!("b{assigned}")]).unwrap();
    let elsewhere = served(&lab, 10, VIP[0], 4);
    assert!(elsewhere.len() == 1 && !elsewhere.contains(&format!("b{assigned}")), "{elsewhere:?}");
    lab.headgate_ok(&["backend", "up", "web", &format!("b{assigned}")]).unwrap();
    assert_eq!(served(&lab, 10, VIP[0], 4), BTreeSet::from([format!("b{assigned}")]));
}

/// Clients 10 to 18 by the backend that they are with.
fn homes(lab: &Lab, to: &str) -> Vec<(u8, String)> {
    (10..19).map(|number| (number, ask(lab, number, to))).collect()
}

#[test]
fn a_drained_backend_keeps_its_clients_and_one_that_goes_loses_them_at_once() {
    let (mut lab, _servers) = lab("sticky-d");
    let web = |state: &str| farm("web", LISTEN, "persistence.timeout = \"5m\"", state);
    lab.configure(&web("up")).unwrap();
    lab.start().unwrap();
    for to in VIP {
        let name = if to == VIP[0] { "b12" } else { "c12" };
        let map = if to == VIP[0] { "sticky4-web" } else { "sticky6-web" };
        let before = homes(&lab, to);
        for command in ["drain", "up"] {
            lab.headgate_ok(&["backend", command, "web", name]).unwrap();
            assert_eq!(homes(&lab, to), before, "{command}");
        }
        lab.headgate_ok(&["backend", "weight", "web", name, "0"]).unwrap();
        assert_eq!(homes(&lab, to), before, "weight 0");
        assert_ne!(ask(&lab, 19, to), "b12", "a new client");
        lab.headgate_ok(&["backend", "weight", "web", name, "1"]).unwrap();
        lab.headgate_ok(&["backend", "down", "web", name]).unwrap();
        assert_eq!(remembered(&lab, map), 7, "its three clients of ten are forgotten");
        let moved = homes(&lab, to);
        for ((number, old), (_, new)) in before.iter().zip(&moved) {
            match old == "b12" {
                true => assert_ne!(new, "b12", "{number}"),
                false => assert_eq!(new, old, "{number}"),
            }
        }
        lab.headgate_ok(&["backend", "up", "web", name]).unwrap();
        assert_eq!(homes(&lab, to), moved, "nobody is torn away when it comes back");
    }
    // By files, and with nobody there who would remember what was.
    let before = homes(&lab, VIP[0]);
    lab.stop().unwrap();
    let gone = web("up").replace("[farms.web.backends.b11]", "[farms.web.backends.b13x]").replace(".11:", ".13:");
    lab.once(&gone).unwrap();
    for ((number, old), (_, new)) in before.iter().zip(homes(&lab, VIP[0])) {
        if old != "b11" {
            assert_eq!(new, *old, "{number}");
        }
        assert_ne!(new, "b11", "{number}");
    }
}

#[test]
fn a_memory_that_leads_nowhere_is_not_followed_and_heals() {
    let (lab, _servers) = lab("sticky-h");
    lab.once(&farm("web", LISTEN, "persistence.timeout = \"5m\"", "down")).unwrap();
    let marks = lab.nft("list set inet headgate down").unwrap();
    let down = marks.split_whitespace().find(|word| word.starts_with("0x48")).unwrap().to_owned();
    // As a supervisor leaves it that was killed between its commit and the removal; and of a backend that nobody knows.
    for (mark, to) in [(down.as_str(), VIP[0]), ("0x480fffff", VIP[0]), ("0x480fffff", VIP[1])] {
        let (map, address) = match to == VIP[0] {
            true => ("sticky4-web", "172.16.1.10"),
            false => ("sticky6-web", "2001:db8:1::10"),
        };
        lab.nft(&format!("flush map inet headgate {map}")).unwrap();
        lab.gate.run(&format!("nft add element inet headgate {map} {{ {address} : {mark} }}")).unwrap();
        let first = ask(&lab, 10, to);
        assert_ne!(first, "b12");
        assert_eq!(served(&lab, 10, to, 4), BTreeSet::from([first]), "the new memory holds");
    }
}

#[test]
fn farms_do_not_know_each_others_clients() {
    let (lab, _servers) = lab("sticky-2");
    let other = r#"["172.16.1.2:80/udp"]"#;
    let lines = "persistence.timeout = \"5m\"";
    let static_b13 = "persistence.static = { \"172.16.1.10\" = \"b13\" }";
    lab.once(&[farm("one", LISTEN, lines, "down"), farm("two", other, static_b13, "up")].concat()).unwrap();
    assert_eq!(served(&lab, 10, "172.16.1.2:80", 4), BTreeSet::from(["b13".to_owned()]));
    let (one, two): (Vec<_>, Vec<_>) =
        (11..17).map(|number| (ask(&lab, number, VIP[0]), ask(&lab, number, "172.16.1.2:80"))).unzip();
    assert!(!one.contains(&"b12".to_owned()) && two.contains(&"b12".to_owned()), "{one:?} {two:?}");
    lab.once(&farm("two", other, static_b13, "up")).unwrap();
    let again: Vec<String> = (11..17).map(|number| ask(&lab, number, "172.16.1.2:80")).collect();
    assert_eq!(again, two, "the other farm went");
}

#[test]
fn a_client_is_what_the_key_says() {
    let (lab, _servers) = lab("sticky-k");
    let all =
        ["source-address", "source-port", "destination-address", "destination-port", "source-mac", "destination-mac"];
    // Key, and whether another address, another port, and another listener of the farm are another client.
    let cases: [(&[&str], [bool; 3]); 9] = [
        (&["source-address"], [true, false, false]),
        (&["source-port"], [false, true, false]),
        (&["destination-address"], [false, false, true]),
        (&["destination-port"], [false, false, false]),
        (&["source-mac"], [false, false, false]),
        (&["destination-mac"], [false, false, false]),
        (&["source-mac", "destination-mac", "source-port"], [false, true, false]),
        (&["source-address", "source-port"], [true, true, false]),
        (&all, [true, true, true]),
    ];
    for (key, others) in cases {
        let listen =
            r#"["172.16.1.1:80/udp", "172.16.1.2:80/udp", "[2001:db8:1::1]:80/udp", "[2001:db8:1::2]:80/udp"]"#;
        lab.once(&farm("web", listen, &format!("persistence.key = {key:?}"), "up")).unwrap();
        for to in ["172.16.1.1:80", "[2001:db8:1::1]:80"] {
            let ask = |number: u8, port: u16, to: &str| {
                // The same five fields are the same flow until its entry is gone.
                lab.gate.run("conntrack --flush").unwrap();
                ask_udp_as(&lab.client, client(number, to, port), at(to)).unwrap().unwrap().server
            };
            let first = ask(10, 4000, to);
            for _ in 0..3 {
                assert_eq!(ask(10, 4000, to), first, "{key:?} {to}");
            }
            let other = to.replace("1::1]", "1::2]").replace("1.1:", "1.2:");
            // Round robin gives three new clients in a row three backends, so not all of them are at the first one's.
            let variants: [[String; 3]; 3] = [
                [11, 12, 13].map(|number| ask(number, 4000, to)),
                [4001, 4002, 4003].map(|port| ask(10, port, to)),
                [(); 3].map(|()| ask(10, 4000, &other)),
            ];
            for (answers, is_other) in variants.iter().take(2).zip(others) {
                assert_eq!(answers.iter().any(|server| *server != first), is_other, "{key:?} {to}: {answers:?}");
            }
            let same = variants[2].iter().all(|server| *server == variants[2][0]);
            assert!(same, "{key:?} {to}: {:?}", variants[2]);
            assert!(lab.nft("list table inet headgate").unwrap().contains("update @sticky4-web"));
            if !others[2] {
                assert_eq!(variants[2][0], first, "{key:?} {to}");
            }
        }
        assert!(lab.headgated(&["--flush"]).unwrap().status.success());
    }
}

/// What `headgate persistence web` with these words says, as JSON.
fn persistence(lab: &Lab, words: &[&str]) -> serde_json::Value {
    let text = lab.headgate_ok(&[&["persistence", "web", "--json"], words].concat()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Who is remembered or assigned, and where they go.
fn listed(lab: &Lab) -> BTreeSet<(String, String)> {
    let found = persistence(lab, &[]);
    assert_eq!((&found["key"], &found["more"]), (&serde_json::json!(["source-address"]), &serde_json::json!(false)));
    let of = |client: &serde_json::Value| {
        let expires = &client["expires"];
        assert!(expires.is_null() || (1..=300).contains(&expires.as_u64().unwrap()), "{client}");
        assert!(!expires.is_null() || client["client"][0] == "172.16.1.19", "{client}: an assignment does not expire");
        (client["client"][0].as_str().unwrap().to_owned(), client["backend"].as_str().unwrap().to_owned())
    };
    found["clients"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn who_is_remembered_can_be_listed_and_forgotten() {
    let (mut lab, _servers) = lab("sticky-l");
    let lines = "persistence.timeout = \"5m\"\npersistence.static = { \"172.16.1.19\" = \"b13\" }";
    let plain = "[farms.plain]\nlisten = \"172.16.1.3:80\"\nbackends.a.address = \"172.16.2.11:8080\"\n";
    lab.configure(&[&farm("web", LISTEN, lines, "up"), plain].concat()).unwrap();
    lab.start().unwrap();
    let assigned = ("172.16.1.19".to_owned(), "b13".to_owned());
    assert_eq!(listed(&lab), BTreeSet::from([assigned.clone()]));
    let mut expected = BTreeSet::from([assigned.clone()]);
    for (to, number) in VIP.into_iter().flat_map(|to| (10..14).map(move |number| (to, number))) {
        let server = ask(&lab, number, to);
        let name = if to == VIP[0] { server } else { server.replace('b', "c") };
        expected.insert((client(number, to, 0).ip().to_string(), name));
    }
    // Somebody with an assignment is remembered too, and stays there when it is taken back.
    assert_eq!(ask(&lab, 19, VIP[0]), "b13");
    assert_eq!(listed(&lab), expected);
    let text = lab.headgate_ok(&["persistence", "web"]).unwrap();
    assert_eq!(text.lines().count(), 11, "a heading and ten lines of nine clients:\n{text}");
    assert!(text.lines().any(|line| line.starts_with("172.16.1.19 ") && line.ends_with("never")), "{text}");
    let mut open = Connection::open(&lab.client, at(VIP[0])).unwrap().unwrap();
    assert_eq!(persistence(&lab, &["--flush"]), serde_json::json!({ "clients": 9 }));
    open.echo("a connection is no memory").unwrap();
    assert_eq!(listed(&lab), BTreeSet::from([assigned]), "assignments stay");
    assert_eq!(persistence(&lab, &["--flush"]), serde_json::json!({ "clients": 0 }));
    assert_eq!(ask(&lab, 19, VIP[0]), "b13");
    let again = ask(&lab, 10, VIP[0]);
    assert_eq!(served(&lab, 10, VIP[0], 4), BTreeSet::from([again.clone()]), "who comes back is remembered anew");
    assert!(listed(&lab).contains(&("172.16.1.10".to_owned(), again)));
    for (farm, words) in [("nobody", &[][..]), ("nobody", &["--flush"]), ("plain", &[]), ("plain", &["--flush"])] {
        let refused = lab.headgate(&[&["persistence", farm], words].concat()).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", headgate_tests::lab::said(&refused));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(&format!("farm {farm}")));
    }
}
