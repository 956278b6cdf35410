//! Real packets through farms: each test has its own three namespaces, the product's own `headgated` and the real kernel.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use headgate_tests::lab::{BACKENDS, Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, Talk, ask_udp, ask_udp_from};

/// Names of servers and how often each answered.
type Counts = BTreeMap<String, usize>;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// One server on each backend, both families, named b11, b12, b13.
fn servers(lab: &Lab, port: u16) -> Vec<Server> {
    BACKENDS
        .into_iter()
        .flat_map(|number| [(number, backend(number, port)), (number, backend6(number, port))])
        .map(|(number, address)| Server::start(&lab.backends, &format!("b{number}"), address).unwrap())
        .collect()
}

/// Connects `times` times; who answered how often, and the one client address that all of them saw.
fn connect(lab: &Lab, to: &str, times: usize) -> (Counts, IpAddr) {
    let mut counts = Counts::new();
    let mut seen = None;
    for _ in 0..times {
        let answer = Connection::open(&lab.client, at(to)).unwrap().unwrap_or_else(|e| panic!("{to}: {e}")).answer;
        *counts.entry(answer.server).or_default() += 1;
        assert_eq!(*seen.get_or_insert(answer.client), answer.client, "the servers saw different clients");
    }
    (counts, seen.unwrap())
}

/// As [`connect`], by UDP.
fn datagrams(lab: &Lab, to: &str, times: usize) -> (Counts, IpAddr) {
    let mut counts = Counts::new();
    let mut seen = None;
    for _ in 0..times {
        let answer = ask_udp(&lab.client, at(to)).unwrap().unwrap_or_else(|e| panic!("{to}: {e}"));
        *counts.entry(answer.server).or_default() += 1;
        assert_eq!(*seen.get_or_insert(answer.client), answer.client, "the servers saw different clients");
    }
    (counts, seen.unwrap())
}

fn refused(lab: &Lab, to: &str) -> ErrorKind {
    Connection::open(&lab.client, at(to)).unwrap().expect_err("a connection where none should be").kind()
}

fn counts<const N: usize>(pairs: [(&str, usize); N]) -> Counts {
    pairs.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

fn farm(mode: &str, listen: &str, extra: &str, backends: &str) -> String {
    format!("[farms.web]\nmode = {mode:?}\nlisten = {listen}\n{extra}\n{backends}")
}

const TWO: &str = r#"
[farms.web.backends.b11]
address = "172.16.2.11:8080"
[farms.web.backends.b12]
address = "172.16.2.12:8080"
"#;

const TWO_6: &str = r#"
[farms.web.backends.c11]
address = "[2001:db8:2::11]:8080"
[farms.web.backends.c12]
address = "[2001:db8:2::12]:8080"
"#;

#[test]
fn snat_balances_both_families_and_protocols_and_hides_the_client() {
    let lab = Lab::new("snat").unwrap();
    let _servers = servers(&lab, 8080);
    let listen = r#"["172.16.1.1:80/tcp", "172.16.1.1:80/udp", "[2001:db8:1::1]:80/tcp", "[2001:db8:1::1]:80/udp"]"#;
    lab.once(&farm("snat", listen, "", &[TWO, TWO_6].concat())).unwrap();
    let even = counts([("b11", 6), ("b12", 6)]);
    assert_eq!(connect(&lab, "172.16.1.1:80", 12), (even.clone(), "172.16.2.1".parse().unwrap()));
    assert_eq!(connect(&lab, "[2001:db8:1::1]:80", 12), (even.clone(), "2001:db8:2::1".parse().unwrap()));
    assert_eq!(datagrams(&lab, "172.16.1.1:80", 12), (even.clone(), "172.16.2.1".parse().unwrap()));
    assert_eq!(datagrams(&lab, "[2001:db8:1::1]:80", 12), (even, "2001:db8:2::1".parse().unwrap()));
}

#[test]
fn dnat_keeps_the_clients_address() {
    let lab = Lab::new("dnat").unwrap();
    let _servers = servers(&lab, 8080);
    let listen = r#"["172.16.1.1:80/tcp", "172.16.1.1:80/udp", "[2001:db8:1::1]:80/tcp", "[2001:db8:1::1]:80/udp"]"#;
    lab.once(&farm("dnat", listen, "", &[TWO, TWO_6].concat())).unwrap();
    let even = counts([("b11", 6), ("b12", 6)]);
    assert_eq!(connect(&lab, "172.16.1.1:80", 12), (even.clone(), "172.16.1.10".parse().unwrap()));
    assert_eq!(connect(&lab, "[2001:db8:1::1]:80", 12), (even.clone(), "2001:db8:1::10".parse().unwrap()));
    assert_eq!(datagrams(&lab, "172.16.1.1:80", 12), (even.clone(), "172.16.1.10".parse().unwrap()));
    assert_eq!(datagrams(&lab, "[2001:db8:1::1]:80", 12), (even, "2001:db8:1::10".parse().unwrap()));
}

#[test]
fn ranges_and_wildcards_keep_the_port_and_the_narrower_listener_wins() {
    let lab = Lab::new("ranges").unwrap();
    let _servers = [
        Server::start(&lab.backends, "range", backend(11, 8005)).unwrap(),
        Server::start(&lab.backends, "exact", backend(12, 8005)).unwrap(),
        Server::start(&lab.backends, "star", backend(13, 9000)).unwrap(),
        Server::start(&lab.backends, "range6", backend6(11, 8005)).unwrap(),
        Server::start(&lab.backends, "star6", backend6(13, 9000)).unwrap(),
    ];
    lab.once(
        r#"
[farms.exact]
listen = "172.16.1.1:8006"
backends.e.address = "172.16.2.12:8005"
[farms.range]
listen = ["172.16.1.1:8000-8010", "172.16.1.1:8000-8010/udp", "[2001:db8:1::1]:8000-8010"]
backends.r.address = "172.16.2.11"
backends.r6.address = "2001:db8:2::11"
[farms.star]
listen = ["172.16.1.1:*", "172.16.1.1:*/udp", "[2001:db8:1::1]:*"]
backends.s.address = "172.16.2.13"
backends.s6.address = "2001:db8:2::13"
"#,
    )
    .unwrap();
    let one = |name| counts([(name, 1)]);
    assert_eq!(connect(&lab, "172.16.1.1:8006", 1).0, one("exact"));
    assert_eq!(connect(&lab, "172.16.1.1:8005", 1).0, one("range"));
    assert_eq!(datagrams(&lab, "172.16.1.1:8005", 1).0, one("range"));
    assert_eq!(connect(&lab, "[2001:db8:1::1]:8005", 1).0, one("range6"));
    assert_eq!(connect(&lab, "172.16.1.1:9000", 1).0, one("star"));
    assert_eq!(datagrams(&lab, "172.16.1.1:9000", 1).0, one("star"));
    assert_eq!(connect(&lab, "[2001:db8:1::1]:9000", 1).0, one("star6"));
}

#[test]
fn round_robin_honours_weights_exactly_and_smoothly() {
    let lab = Lab::new("weights").unwrap();
    let _servers = servers(&lab, 8080);
    let backends = r#"
[farms.web.backends.b11]
address = "172.16.2.11:8080"
weight = 5
[farms.web.backends.b12]
address = "172.16.2.12:8080"
weight = 2
[farms.web.backends.b13]
address = "172.16.2.13:8080"
weight = 1
"#;
    lab.once(&farm("snat", r#""172.16.1.1:80""#, "", backends)).unwrap();
    let mut order = Vec::new();
    for _ in 0..16 {
        order.push(Connection::open(&lab.client, at("172.16.1.1:80")).unwrap().unwrap().answer.server);
    }
    let of = |name: &str| order.iter().filter(|server| *server == name).count();
    assert_eq!((of("b11"), of("b12"), of("b13")), (10, 4, 2), "{order:?}");
    let longest = order.chunk_by(|a, b| a == b).map(<[String]>::len).max().unwrap();
    assert!(longest < 5, "five in a row: {order:?}");
}

#[test]
fn random_reaches_every_backend_by_weight() {
    let lab = Lab::new("random").unwrap();
    let _servers = servers(&lab, 8080);
    let backends = TWO.replace("12:8080\"", "12:8080\"\nweight = 3");
    lab.once(&farm("dnat", r#""172.16.1.1:80/udp""#, "scheduler = \"random\"", &backends)).unwrap();
    let (counts, _) = datagrams(&lab, "172.16.1.1:80", 200);
    // 200 draws at 3/4 have a standard deviation of 6.1; this is five of them to each side.
    assert!((119..=181).contains(&counts["b12"]), "{counts:?}");
    assert_eq!(counts["b11"] + counts["b12"], 200);
}

#[test]
fn states_of_backends_and_farms() {
    let lab = Lab::new("states").unwrap();
    let _servers = servers(&lab, 8080);
    let listen = r#"["172.16.1.1:80", "172.16.1.1:80/udp", "[2001:db8:1::1]:80"]"#;
    let with = |extra: &str, state: &str| {
        let both = [TWO, TWO_6].concat();
        let both = ["12:8080\"", "12]:8080\""]
            .into_iter()
            .fold(both, |text, end| text.replace(end, &format!("{end}\n{state}")));
        farm("snat", listen, extra, &both)
    };
    lab.once(&with("", "")).unwrap();
    let mut old: Vec<Connection> =
        (0..4).map(|_| Connection::open(&lab.client, at("172.16.1.1:80")).unwrap().unwrap()).collect();

    for gone in ["state = \"drain\"", "weight = 0"] {
        lab.once(&with("", gone)).unwrap();
        assert_eq!(connect(&lab, "172.16.1.1:80", 4).0, counts([("b11", 4)]), "{gone}");
        assert_eq!(connect(&lab, "[2001:db8:1::1]:80", 4).0, counts([("b11", 4)]), "{gone}");
        for connection in &mut old {
            connection.echo("still here").unwrap();
        }
    }
    lab.once(&with("state = \"down\"", "")).unwrap();
    assert_eq!(refused(&lab, "172.16.1.1:80"), ErrorKind::ConnectionRefused);
    assert_eq!(refused(&lab, "[2001:db8:1::1]:80"), ErrorKind::ConnectionRefused);
    assert_eq!(
        ask_udp(&lab.client, at("172.16.1.1:80")).unwrap().unwrap_err().kind(),
        ErrorKind::ConnectionRefused,
        "UDP gets an ICMP port unreachable"
    );
    for connection in &mut old {
        connection.echo("a farm that is down keeps its established flows").unwrap();
    }
    lab.once(&with("state = \"down\"\non-empty = \"drop\"", "")).unwrap();
    assert_eq!(refused(&lab, "172.16.1.1:80"), ErrorKind::TimedOut);
    lab.once(&with("state = \"off\"", "")).unwrap();
    assert_eq!(refused(&lab, "172.16.1.1:80"), ErrorKind::TimedOut, "nobody carries the address of a farm that is off");
    lab.once(&with("", "")).unwrap();
    assert_eq!(connect(&lab, "172.16.1.1:80", 4).0, counts([("b11", 2), ("b12", 2)]), "back at once, by itself");
}

#[test]
fn the_box_itself_and_a_backend_reach_the_address() {
    let lab = Lab::new("hairpin").unwrap();
    let _servers = servers(&lab, 8080);
    for mode in ["snat", "dnat"] {
        let listen = r#"["172.16.1.1:80", "[2001:db8:1::1]:80", "172.16.1.1:80/udp"]"#;
        lab.once(&farm(mode, listen, "", &[TWO, TWO_6].concat())).unwrap();
        for space in [&lab.gate, &lab.backends] {
            for to in ["172.16.1.1:80", "[2001:db8:1::1]:80"] {
                let mut seen = Counts::new();
                for _ in 0..4 {
                    let connection = Connection::open(space, at(to)).unwrap();
                    let mut connection = connection.unwrap_or_else(|e| panic!("{mode} {} {to}: {e}", space.name()));
                    connection.echo("hello").unwrap();
                    *seen.entry(connection.answer.server).or_default() += 1;
                }
                assert_eq!(seen, counts([("b11", 2), ("b12", 2)]), "{mode} {} {to}", space.name());
            }
            ask_udp(space, at("172.16.1.1:80")).unwrap().unwrap();
        }
    }
}

#[test]
fn the_address_comes_and_goes_with_the_farm_and_is_announced() {
    let lab = Lab::new("vip").unwrap();
    let _servers = servers(&lab, 8080);
    // A client that remembers somebody else's MAC for the address learns the new one from the announcement.
    lab.client
        .ip(&["neigh", "add", "172.16.1.1", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale"])
        .unwrap();
    let both = farm("snat", r#"["172.16.1.1:80", "[2001:db8:1::1]:80"]"#, "", &[TWO, TWO_6].concat());
    lab.once(&both).unwrap();
    let addresses = lab.gate.ip(&["-br", "address", "show", "dev", "service"]).unwrap();
    assert!(addresses.contains("172.16.1.1/32") && addresses.contains("2001:db8:1::1/128"), "{addresses}");
    let mac = lab.gate.run("cat /sys/class/net/service/address").unwrap();
    let neighbour = lab.client.ip(&["neigh", "show", "172.16.1.1"]).unwrap();
    assert!(neighbour.contains(mac.trim()), "announced {mac}, the client has {neighbour}");

    lab.once(&farm("snat", r#""172.16.1.2:80""#, "", TWO)).unwrap();
    let addresses = lab.gate.ip(&["-br", "address", "show", "dev", "service"]).unwrap();
    assert!(addresses.contains("172.16.1.2/32") && addresses.contains("172.16.1.254/24"), "{addresses}");
    assert!(!addresses.contains("172.16.1.1/32") && !addresses.contains("2001:db8:1::1/128"), "{addresses}");

    let output = lab.headgated(&["--flush"]).unwrap();
    assert!(output.status.success());
    let addresses = lab.gate.ip(&["-br", "address", "show", "dev", "service"]).unwrap();
    assert!(addresses.contains("172.16.1.254/24") && !addresses.contains("172.16.1.2/32"), "{addresses}");
    assert_eq!(lab.nft("list tables").unwrap().trim(), "");
}

#[test]
fn established_connections_survive_every_change_and_what_is_foreign_stays() {
    let mut lab = Lab::new("keep").unwrap();
    let _servers = servers(&lab, 8080);
    lab.gate.run("nft add table inet foreign").unwrap();
    lab.gate.run("nft add chain inet foreign c").unwrap();
    lab.gate.run("nft add rule inet foreign c ct mark 1199570945 counter").unwrap();
    let foreign = lab.nft("list table inet foreign").unwrap();
    let one = farm("snat", r#"["172.16.1.1:80", "[2001:db8:1::1]:80"]"#, "", &[TWO, TWO_6].concat());
    let two = one.replace("[farms.web.backends.b12]", "[farms.web.backends.b13]").replace(".12:8080", ".13:8080");
    lab.configure(&one).unwrap();
    lab.start().unwrap();
    let mut connections: Vec<Connection> = ["172.16.1.1:80", "[2001:db8:1::1]:80"]
        .iter()
        .cycle()
        .take(8)
        .map(|to| Connection::open(&lab.client, at(to)).unwrap().unwrap())
        .collect();
    let mut alive = |what: &str| {
        for connection in &mut connections {
            connection.echo("alive").unwrap_or_else(|e| panic!("after {what}: {e}"));
        }
    };
    lab.configure(&two).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    alive("another backend");
    lab.headgate_ok(&["backend", "drain", "web", "b11"]).unwrap();
    alive("drain");
    lab.configure(&one).unwrap();
    lab.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    lab.crash().unwrap();
    alive("kill -9");
    lab.start().unwrap();
    alive("restart");
    lab.stop().unwrap();
    alive("stop");
    lab.once(&one).unwrap();
    alive("--once");
    // Another firewall's tool takes our table away: the guard keeps tracking and translation hooked until it is back.
    lab.gate.run("nft delete table inet headgate").unwrap();
    alive("the table was deleted");
    lab.once(&one).unwrap();
    alive("the table is back");
    assert_eq!(lab.nft("list table inet foreign").unwrap(), foreign);
}

#[test]
fn a_second_apply_writes_nothing() {
    let lab = Lab::new("idle").unwrap();
    let both = farm("snat", r#"["172.16.1.1:80", "[2001:db8:1::1]:80"]"#, "", &[TWO, TWO_6].concat());
    lab.once(&both).unwrap();
    let generation =
        |lab: &Lab| lab.gate.within(|| headgate_nft::Socket::open().unwrap().generation().unwrap()).unwrap();
    let before = generation(&lab);
    lab.once(&both).unwrap();
    assert_eq!(generation(&lab), before, "an unchanged configuration reached the kernel");
    let plan = lab.headgate(&["plan"]).unwrap();
    assert_eq!(plan.status.code(), Some(0), "{}", headgate_tests::lab::said(&plan));
}

#[test]
fn a_change_of_one_backend_is_a_change_of_a_few_elements() {
    let mut lab = Lab::new("few").unwrap();
    let farms: String = (1..=50)
        .map(|n| {
            format!(
                "[farms.f{n}]\nlisten = \"172.16.1.1:{}\"\nbackends.a.address = \"172.16.2.11:8080\"\nbackends.b.address = \"172.16.2.12:8080\"\n",
                1000 + n
            )
        })
        .collect();
    lab.configure(&farms).unwrap();
    lab.start().unwrap();
    let monitor = lab.gate.command("nft").arg("monitor").stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    lab.headgate_ok(&["backend", "weight", "f7", "b", "3"]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let pid = nix::unistd::Pid::from_raw(monitor.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let seen = String::from_utf8(monitor.wait_with_output().unwrap().stdout).unwrap();
    let events = seen.lines().filter(|line| line.starts_with("add ") || line.starts_with("delete ")).count();
    assert!((1..=12).contains(&events), "{events} events:\n{seen}");
    assert!(!seen.contains("f8"), "another farm was touched:\n{seen}");
}

#[test]
fn an_address_that_came_without_a_carrier_is_announced_when_there_is_one() {
    let mut lab = Lab::new("late").unwrap();
    lab.client.ip(&["link", "set", "eth0", "down"]).unwrap();
    lab.configure(&farm("snat", r#""172.16.1.1:80""#, "", TWO)).unwrap();
    lab.start().unwrap();
    lab.client.ip(&["link", "set", "eth0", "up"]).unwrap();
    lab.client
        .ip(&["neigh", "add", "172.16.1.1", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale"])
        .unwrap();
    let mac = lab.gate.run("cat /sys/class/net/service/address").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let neighbour = lab.client.ip(&["neigh", "show", "172.16.1.1"]).unwrap();
        if neighbour.contains(mac.trim()) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "never announced: the client has {neighbour}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// A UDP flow in each family and a TCP connection, to each of the two backends.
struct Flows {
    udp: Vec<(String, Talk)>,
    tcp: Vec<Connection>,
}

const BOTH_PROTOCOLS: &str =
    r#"["172.16.1.1:80/tcp", "172.16.1.1:80/udp", "[2001:db8:1::1]:80/tcp", "[2001:db8:1::1]:80/udp"]"#;

impl Flows {
    fn open(lab: &Lab) -> Self {
        let mut flows = Self { udp: Vec::new(), tcp: Vec::new() };
        for to in ["172.16.1.1:80", "[2001:db8:1::1]:80"] {
            for _ in 0..2 {
                let talk = Talk::open(&lab.client, at(to)).unwrap();
                flows.udp.push((talk.ask().unwrap().server, talk));
            }
            for _ in 0..2 {
                flows.tcp.push(Connection::open(&lab.client, at(to)).unwrap().unwrap());
            }
            let reached: std::collections::BTreeSet<&String> = flows.udp.iter().map(|(server, _)| server).collect();
            assert_eq!(reached.len(), 2, "one flow to each backend: {:?}", flows.udp);
        }
        flows
    }

    /// No flow moved, or those to `gone` alone and only UDP.
    fn expect(&mut self, what: &str, gone: Option<&str>) {
        for (before, talk) in &mut self.udp {
            let now = talk.ask().unwrap_or_else(|e| panic!("{what}: the flow to {before}: {e}")).server;
            match gone == Some(before.as_str()) {
                true => assert_ne!(now, *before, "{what}"),
                false => assert_eq!(now, *before, "{what}"),
            }
            *before = now;
        }
        for connection in &mut self.tcp {
            connection.echo("still here").unwrap_or_else(|e| panic!("{what}: {:?}: {e}", connection.answer));
        }
    }
}

#[test]
fn udp_leaves_a_backend_that_goes_down_at_once_and_tcp_stays() {
    let mut lab = Lab::new("down").unwrap();
    let _servers = servers(&lab, 8080);
    lab.configure(&farm("snat", BOTH_PROTOCOLS, "", &[TWO, TWO_6].concat())).unwrap();
    lab.start().unwrap();
    let mut flows = Flows::open(&lab);
    let entries = lab.headgate_ok(&["connections", "web"]).unwrap();
    assert_eq!(entries.matches("udp").count(), 4, "{entries}");
    lab.headgate_ok(&["apply"]).unwrap();
    lab.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    let entries = lab.headgate_ok(&["connections", "web"]).unwrap();
    assert_eq!(entries.matches("udp").count(), 4, "nothing changed: {entries}");
    for arguments in [["backend", "drain", "web", "b12"], ["backend", "drain", "web", "c12"]] {
        lab.headgate_ok(&arguments).unwrap();
    }
    flows.expect("drain", None);
    for arguments in [["backend", "down", "web", "b12"], ["backend", "down", "web", "c12"]] {
        lab.headgate_ok(&arguments).unwrap();
    }
    let entries = lab.headgate_ok(&["connections", "web", "b12"]).unwrap();
    assert_eq!((entries.matches("udp").count(), entries.matches("tcp").count()), (0, 1), "{entries}");
    flows.expect("down after drain", Some("b12"));
    lab.headgate_ok(&["backend", "up", "web", "b12"]).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    flows.expect("up", None);
}

#[test]
fn udp_leaves_what_another_configuration_takes_away() {
    let mut lab = Lab::new("away").unwrap();
    let _servers = servers(&lab, 8080);
    let both = farm("dnat", BOTH_PROTOCOLS, "", &[TWO, TWO_6].concat());
    let change = |of4: &str, of6: &str| {
        let text = both.replace("address = \"172.16.2.12:8080\"", of4);
        text.replace("address = \"[2001:db8:2::12]:8080\"", of6)
    };
    let down = change(
        "address = \"172.16.2.12:8080\"\nstate = \"down\"",
        "address = \"[2001:db8:2::12]:8080\"\nstate = \"down\"",
    );
    let moved = change("address = \"172.16.2.13:8080\"", "address = \"[2001:db8:2::13]:8080\"");
    let fewer = farm("dnat", BOTH_PROTOCOLS, "", &[TWO, TWO_6].concat().replace("12]", "13]").replace(".12:", ".13:"))
        .replace("b12", "b13")
        .replace("c12", "c13");
    for (what, after) in [("down", &down), ("moved", &moved), ("removed", &fewer)] {
        lab.once(&both).unwrap();
        let mut flows = Flows::open(&lab);
        lab.once(&both).unwrap();
        flows.expect("nothing", None);
        lab.once(after).unwrap();
        flows.expect(what, Some("b12"));
        lab.once(after).unwrap();
        flows.expect("nothing again", None);
    }
    lab.once(&both).unwrap();
    lab.start().unwrap();
    let mut flows = Flows::open(&lab);
    lab.crash().unwrap();
    lab.configure(&down).unwrap();
    lab.start().unwrap();
    flows.expect("start after a crash", Some("b12"));
    lab.configure(&both).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    let mut flows = Flows::open(&lab);
    lab.headgate_ok(&["rollback"]).unwrap();
    flows.expect("rollback", Some("b12"));
    lab.headgate_ok(&["apply"]).unwrap();
    let mut flows = Flows::open(&lab);
    lab.configure(&down).unwrap();
    lab.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while lab.headgate_ok(&["connections", "web", "b12"]).unwrap().contains("udp") {
        assert!(std::time::Instant::now() < deadline, "the entries stay after SIGHUP");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    flows.expect("SIGHUP", Some("b12"));
    lab.configure(&both).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    let flows = Flows::open(&lab);
    lab.configure(&both.replace("mode =", "state = \"off\"\nmode =")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    let entries = lab.headgate_ok(&["connections"]).unwrap();
    assert_eq!(entries.matches("udp").count(), 0, "{entries}");
    assert!(entries.matches("established").count() >= flows.tcp.len(), "{entries}");
}

const THREE: &str = r#"
[farms.web.backends.b11]
address = "172.16.2.11:8080"
[farms.web.backends.b12]
address = "172.16.2.12:8080"
[farms.web.backends.b13]
address = "172.16.2.13:8080"
"#;

#[test]
fn a_hash_keeps_a_client_at_its_backend_over_reloads() {
    let lab = Lab::new("hash").unwrap();
    let _servers = servers(&lab, 8080);
    let listen = r#"["172.16.1.1:80", "172.16.1.1:80/udp"]"#;
    let web = farm("snat", listen, "scheduler = \"hash\"", THREE);
    let other = "[farms.alpha]\nlisten = \"172.16.1.2:80\"\nbackends.a.address = \"172.16.2.11:8080\"\n";
    lab.once(&web).unwrap();
    let (first, _) = connect(&lab, "172.16.1.1:80", 20);
    assert_eq!(first.len(), 1, "one client, several backends: {first:?}");
    for (what, text) in [("unchanged", web.clone()), ("another farm", [&web, other].concat()), ("without it", web)] {
        lab.once(&text).unwrap();
        assert_eq!(connect(&lab, "172.16.1.1:80", 20).0, first, "{what}");
        assert_eq!(datagrams(&lab, "172.16.1.1:80", 20).0, first, "{what}");
    }
}

/// Who answers a datagram from each of these source ports.
fn by_port(lab: &Lab, to: &str, ports: std::ops::Range<u16>) -> BTreeMap<u16, String> {
    // A port that is asked from again is the same flow to connection tracking, which would not ask the schedule again.
    lab.gate.run("conntrack --flush").unwrap();
    ports.map(|port| (port, ask_udp_from(&lab.client, port, at(to)).unwrap().unwrap().server)).collect()
}

#[test]
fn maglev_moves_the_flows_of_a_drained_backend_only() {
    let lab = Lab::new("maglev").unwrap();
    let _servers = servers(&lab, 8080);
    let extra = "scheduler = \"maglev\"\nhash = [\"source-port\"]";
    let web = farm("dnat", r#""172.16.1.1:80/udp""#, extra, THREE);
    lab.once(&web).unwrap();
    let before = by_port(&lab, "172.16.1.1:80", 20000..20200);
    for name in ["b11", "b12", "b13"] {
        let share = before.values().filter(|server| *server == name).count();
        // 200 draws at 1/3 have a standard deviation of 6.7.
        assert!((33..=100).contains(&share), "{name}: {share} of 200");
    }
    lab.once(&web.replace("12:8080\"", "12:8080\"\nstate = \"drain\"")).unwrap();
    let drained = by_port(&lab, "172.16.1.1:80", 20000..20200);
    assert!(drained.values().all(|server| server != "b12"));
    let moved = before.iter().filter(|(port, server)| *server != "b12" && drained[port] != **server).count();
    assert!(moved <= 4, "{moved} of 200 moved that had no reason to");
    lab.once(&web).unwrap();
    assert_eq!(by_port(&lab, "172.16.1.1:80", 20000..20200), before, "back where they were");
}
