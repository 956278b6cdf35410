//! Least connections with real packets: who has fewer flows gets more new ones, and nobody pays for it but the supervisor.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use headgate_tests::lab::{BACKENDS, Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, Talk};

const V4: &str = "172.16.1.1:80";
const V6: &str = "[2001:db8:1::1]:80";

fn servers(lab: &Lab) -> Vec<Server> {
    BACKENDS
        .into_iter()
        .flat_map(|number| [(number, backend(number, 8080)), (number, backend6(number, 8080))])
        .map(|(number, address)| Server::start(&lab.backends, &format!("b{number}"), address).unwrap())
        .collect()
}

/// A farm of both families with three backends in each.
fn farm(mode: &str, extra: &str) -> String {
    let mut text = format!(
        "[farms.web]\nmode = {mode:?}\nlisten = [\"{V4}\", \"{V6}\"]\nscheduler = \"least-connections\"\n{extra}\n"
    );
    for number in BACKENDS {
        text += &format!("[farms.web.backends.b{number}]\naddress = \"{}\"\n", backend(number, 8080));
        text += &format!("[farms.web.backends.c{number}]\naddress = \"{}\"\n", backend6(number, 8080));
    }
    text
}

/// Connections that stay open, by who answered.
#[derive(Default)]
struct Held(BTreeMap<String, Vec<Connection>>);

impl Held {
    fn open(&mut self, lab: &Lab, to: &str) {
        let connection = Connection::open(&lab.client, to.parse::<SocketAddr>().unwrap()).unwrap().unwrap();
        self.0.entry(connection.answer.server.clone()).or_default().push(connection);
    }

    fn of(&self, server: &str) -> usize {
        self.0.get(server).map_or(0, Vec::len)
    }

    fn all(&self) -> [usize; 3] {
        BACKENDS.map(|number| self.of(&format!("b{number}")))
    }

    fn echo(&mut self) {
        for connection in self.0.values_mut().flatten() {
            connection.echo("still here").unwrap();
        }
    }
}

/// Flows of a backend as `headgate farm show` tells them.
fn flows(lab: &Lab, name: &str) -> u64 {
    let shown = lab.headgate_ok(&["farm", "show", "web", "--json"]).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let backends = shown["backends"].as_array().unwrap();
    backends.iter().find(|backend| backend["name"] == name).unwrap()["flows"].as_u64().unwrap()
}

#[test]
fn unequal_loads_even_out_in_both_families() {
    for (mode, to, back) in [("snat", V4, "b13"), ("dnat", V6, "c13")] {
        let mut lab = Lab::new("least").unwrap();
        let _servers = servers(&lab);
        lab.configure(&farm(mode, "")).unwrap();
        lab.start().unwrap();
        lab.headgate_ok(&["backend", "drain", "web", back]).unwrap();
        let mut held = Held::default();
        (0..40).for_each(|_| held.open(&lab, to));
        assert_eq!(held.of("b13"), 0, "{mode}");
        // It comes back: none of its own, and twenty of each of the others.
        lab.headgate_ok(&["backend", "up", "web", back]).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let mut opened = 0;
        while held.of("b13") + 3 < held.all().into_iter().max().unwrap() {
            assert!(Instant::now() < until, "{mode}: {:?} after {opened} more", held.all());
            held.open(&lab, to);
            opened += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        // By weights alone it would still be twenty behind.
        assert!(opened < 120, "{mode}: {:?} after {opened} more", held.all());
        assert_eq!(flows(&lab, back), held.of("b13") as u64, "{mode}");
        for _ in 0..60 {
            held.open(&lab, to);
            std::thread::sleep(Duration::from_millis(100));
        }
        let [a, b, c] = held.all();
        assert!(a.max(b).max(c) - a.min(b).min(c) <= 12, "{mode}: it swings: {:?}", held.all());
        held.echo();
        let status = lab.headgate(&["status"]).unwrap();
        let status = String::from_utf8(status.stdout).unwrap();
        assert!(status.contains("flows counted every 1 s for 1 farms"), "{status}");
    }
}

#[test]
fn a_restart_goes_on_where_the_last_one_was() {
    let mut lab = Lab::new("least-again").unwrap();
    let _servers = servers(&lab);
    lab.configure(&farm("dnat", "")).unwrap();
    lab.start().unwrap();
    let slots = |lab: &Lab| lab.nft("list map inet headgate slots").unwrap();
    let start = slots(&lab);
    lab.headgate_ok(&["backend", "drain", "web", "b13"]).unwrap();
    let mut held = Held::default();
    (0..30).for_each(|_| held.open(&lab, V4));
    lab.headgate_ok(&["backend", "up", "web", "b13"]).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while slots(&lab) == start {
        assert!(Instant::now() < until, "nothing was steered");
        std::thread::sleep(Duration::from_millis(100));
    }
    lab.crash().unwrap();
    let steered = slots(&lab);
    assert_ne!(steered, start);
    // Another supervisor finds the schedule as it should be.
    let plan = lab.headgated(&["--once"]).unwrap();
    assert!(plan.status.success());
    assert_eq!(slots(&lab), steered, "a restart moved slots");
    let said = String::from_utf8_lossy(&plan.stderr).into_owned() + &String::from_utf8_lossy(&plan.stdout);
    assert!(said.contains("need headgated to run"), "{said}");
    held.echo();
    held.open(&lab, V4);
}

/// A farm of both families whose backends take so many connections each.
fn capped_farm(mode: &str, most: u32) -> String {
    let mut text = format!("[farms.web]\nmode = {mode:?}\nlisten = [");
    for to in [V4, V6] {
        text += &format!("\"{to}/tcp\", \"{to}/udp\", ");
    }
    text += "]\non-empty = \"reject\"\n";
    for number in BACKENDS {
        let limit = format!("max-connections = {most}");
        text += &format!("[farms.web.backends.b{number}]\naddress = \"{}\"\n{limit}\n", backend(number, 8080));
        text += &format!("[farms.web.backends.c{number}]\naddress = \"{}\"\n{limit}\n", backend6(number, 8080));
    }
    text
}

#[test]
fn no_backend_has_more_connections_than_its_maximum_and_all_are_used() {
    for to in [V4, V6] {
        let mut lab = Lab::new("cap").unwrap();
        let _servers = servers(&lab);
        lab.configure(&capped_farm("dnat", 7)).unwrap();
        lab.start().unwrap();
        let address: SocketAddr = to.parse().unwrap();
        // A burst of several at once, and far more than there is room for.
        let opened: Vec<Vec<_>> = std::thread::scope(|scope| {
            let burst = || (0..30).filter_map(|_| Connection::open(&lab.client, address).unwrap().ok()).collect();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(burst)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut held = Held::default();
        for connection in opened.into_iter().flatten() {
            held.0.entry(connection.answer.server.clone()).or_default().push(connection);
        }
        assert!(held.all().into_iter().all(|count| count <= 7), "{to}: {:?}", held.all());
        // Whoever waits gets all the room there is.
        let until = Instant::now() + Duration::from_secs(15);
        while held.all() != [7, 7, 7] {
            assert!(Instant::now() < until, "{to}: {:?}", held.all());
            if let Ok(connection) = Connection::open(&lab.client, address).unwrap() {
                held.0.entry(connection.answer.server.clone()).or_default().push(connection);
                assert!(held.all().into_iter().all(|count| count <= 7), "{to}: {:?}", held.all());
            }
        }
        std::thread::sleep(Duration::from_millis(2500));
        for _ in 0..20 {
            let refused = Connection::open(&lab.client, address).unwrap().expect_err("all are full");
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        held.echo();
        // Connections of one backend end: new ones go there, and nowhere else.
        held.0.get_mut("b12").unwrap().truncate(3);
        let until = Instant::now() + Duration::from_secs(15);
        while held.of("b12") < 7 {
            assert!(Instant::now() < until, "{to}: {:?}", held.all());
            if let Ok(connection) = Connection::open(&lab.client, address).unwrap() {
                assert_eq!(connection.answer.server, "b12");
                held.0.entry(connection.answer.server.clone()).or_default().push(connection);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        held.echo();
        // A restart forgets nothing.
        lab.crash().unwrap();
        lab.start().unwrap();
        for _ in 0..20 {
            assert!(Connection::open(&lab.client, address).unwrap().is_err(), "{to}: more after a restart");
        }
        held.echo();
    }
}

/// Flows of UDP have no end but their time-out; the source is rewritten.
#[test]
fn no_backend_of_snat_has_more_udp_flows_than_its_maximum() {
    for to in [V4, V6] {
        let mut lab = Lab::new("cap-udp").unwrap();
        let _servers = servers(&lab);
        lab.configure(&capped_farm("snat", 4)).unwrap();
        lab.start().unwrap();
        // No flow that is held here is forgotten while a slow machine gets to the end.
        lab.gate.run("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600").unwrap();
        // The kernel tells one host of an unreachable port once a second.
        lab.gate.run("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0").unwrap();
        let address: SocketAddr = to.parse().unwrap();
        let mut held: BTreeMap<String, Vec<Talk>> = BTreeMap::new();
        let counts = |held: &BTreeMap<String, Vec<Talk>>| {
            BACKENDS.map(|number| held.get(&format!("b{number}")).map_or(0, Vec::len))
        };
        let ask = |held: &mut BTreeMap<String, Vec<Talk>>| {
            let talk = Talk::open(&lab.client, address).unwrap();
            let answer = talk.ask();
            if let Ok(answer) = &answer {
                held.entry(answer.server.clone()).or_default().push(talk);
            }
            assert!(counts(held).into_iter().all(|count| count <= 4), "{to}: {:?}", counts(held));
            answer
        };
        let until = Instant::now() + Duration::from_secs(30);
        while counts(&held) != [4, 4, 4] {
            assert!(Instant::now() < until, "{to}: {:?}", counts(&held));
            let _ = ask(&mut held);
        }
        for _ in 0..20 {
            let refused = ask(&mut held).expect_err("all are full");
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        for (server, talk) in held.iter().flat_map(|(server, talks)| talks.iter().map(move |talk| (server, talk))) {
            assert_eq!(talk.ask().unwrap().server, *server, "what is known stays");
        }
        // Room again is for the backend that has it.
        let name = if address.is_ipv4() { "b12" } else { "c12" };
        lab.headgate_ok(&["connections", "web", name, "--flush"]).unwrap();
        held.remove("b12");
        let until = Instant::now() + Duration::from_secs(30);
        while counts(&held) != [4, 4, 4] {
            assert!(Instant::now() < until, "{to}: {:?}", counts(&held));
            let _ = ask(&mut held);
        }
        assert!(ask(&mut held).is_err());
    }
}

#[test]
fn a_supervisor_that_is_gone_lifts_the_maximum() {
    let mut lab = Lab::new("cap-dead").unwrap();
    let _servers = servers(&lab);
    lab.configure(&capped_farm("dnat", 2)).unwrap();
    lab.start().unwrap();
    let address: SocketAddr = V4.parse().unwrap();
    let mut held: Vec<Connection> =
        (0..30).filter_map(|_| Connection::open(&lab.client, address).unwrap().ok()).collect();
    assert!((4..=6).contains(&held.len()), "{}", held.len());
    lab.crash().unwrap();
    let until = Instant::now() + Duration::from_secs(25);
    while held.len() <= 6 {
        assert!(Instant::now() < until, "still refused");
        held.extend(Connection::open(&lab.client, address).unwrap().ok());
        std::thread::sleep(Duration::from_millis(200));
    }
    for connection in &mut held {
        connection.echo("still here").unwrap();
    }
}
