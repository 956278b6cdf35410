//! Real packets through `dsr` farms. Every backend is a namespace of its own, since all of them carry the virtual address,
//! and answers the client past the box:
//!
//! ```text
//!   client ── service  box  backend ── switch ──┬── b11
//!      └──────────── eth1 ─────────────┘        ├── b12
//!                                               └── b13
//! ```
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use headgate_image::netns::{Namespace, veth};
use headgate_tests::lab::{BACKENDS, Lab};
use headgate_tests::server::{Connection, Server, Talk, ask_udp};

type Counts = BTreeMap<String, usize>;

const VIP: &str = "172.16.1.1:80";
const VIP_6: &str = "[2001:db8:1::1]:80";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The lab, with each backend in a namespace.
struct Wire {
    // Servers end before their namespaces.
    _servers: Vec<Server>,
    backends: Vec<Namespace>,
    lab: Lab,
}

impl Wire {
    fn new(label: &str) -> Self {
        let lab = Lab::new(label).unwrap();
        let switch = &lab.backends;
        switch.ip(&["address", "flush", "dev", "eth0"]).unwrap();
        switch.ip(&["link", "add", "name", "br0", "type", "bridge"]).unwrap();
        switch.ip(&["link", "set", "br0", "up"]).unwrap();
        switch.ip(&["link", "set", "eth0", "master", "br0"]).unwrap();
        veth((&lab.client, "eth1"), (switch, "client")).unwrap();
        switch.ip(&["link", "set", "client", "master", "br0"]).unwrap();
        for address in ["172.16.2.254/24", "2001:db8:2::fe/64"] {
            lab.client.ip(&["address", "add", address, "dev", "eth1", "nodad"]).unwrap();
        }
        // The client sends everything but its own subnets to the box; it takes answers from wherever they come.
        for interface in ["all", "eth0", "eth1"] {
            lab.client.run(&format!("sysctl -qw net.ipv4.conf.{interface}.rp_filter=0")).unwrap();
        }
        let backends = BACKENDS.map(|number| Self::backend(label, switch, number)).into();
        let mut wire = Self { _servers: Vec::new(), backends, lab };
        wire.set_up();
        wire._servers = wire.serve();
        // Without a link-local address an interface asks for no neighbour, and that takes a second.
        let spaces = || [&wire.lab.gate, &wire.lab.client].into_iter().chain(&wire.backends);
        while spaces().any(|space| !space.ip(&["-6", "address", "show", "tentative"]).unwrap().is_empty()) {
            std::thread::sleep(Duration::from_millis(50));
        }
        wire
    }

    fn backend(label: &str, switch: &Namespace, number: u8) -> Namespace {
        let space = Namespace::create(&format!("{label}-{number}")).unwrap();
        let port = format!("b{number}");
        veth((&space, "eth0"), (switch, &port)).unwrap();
        switch.ip(&["link", "set", &port, "master", "br0"]).unwrap();
        for address in [format!("172.16.2.{number}/24"), format!("2001:db8:2::{number}/64")] {
            space.ip(&["address", "add", &address, "dev", "eth0", "nodad"]).unwrap();
        }
        space.ip(&["route", "add", "default", "via", "172.16.2.254"]).unwrap();
        space.ip(&["-6", "route", "add", "default", "via", "2001:db8:2::fe"]).unwrap();
        space
    }

    /// Runs on each backend what `headgate farm backend-setup` prints for its two addresses.
    fn set_up(&self) {
        self.lab.configure(&farm("")).unwrap();
        let printed = self.lab.headgate_ok(&["farm", "backend-setup", "web", "--json"]).unwrap();
        let setups: Vec<serde_json::Value> = serde_json::from_str(&printed).unwrap();
        for (space, number) in self.backends.iter().zip(BACKENDS) {
            let names = [format!("b{number}"), format!("c{number}")];
            let own = setups.iter().filter(|setup| names.iter().any(|name| setup["backend"] == **name));
            let commands: Vec<&str> = own
                .flat_map(|setup| setup["commands"].as_array().unwrap())
                .map(|line| line.as_str().unwrap())
                .collect();
            assert_eq!(commands.len(), 4, "{printed}");
            for command in commands {
                space.run(command).unwrap();
            }
        }
    }

    /// A server on the virtual addresses of every backend, named b11, b12, b13.
    fn serve(&self) -> Vec<Server> {
        let each = self.backends.iter().zip(BACKENDS);
        each.flat_map(|(space, number)| [(space, number, VIP), (space, number, VIP_6)])
            .map(|(space, number, vip)| Server::start(space, &format!("b{number}"), at(vip)).unwrap())
            .collect()
    }

    fn connect(&self, to: &str, times: usize) -> Vec<Connection> {
        let open = || Connection::open(&self.lab.client, at(to)).unwrap().unwrap_or_else(|e| panic!("{to}: {e}"));
        (0..times).map(|_| open()).collect()
    }

    fn bindings(&self, map: &str) -> usize {
        let listed = self.lab.nft(&format!("list map netdev headgate {map}")).unwrap();
        listed.matches("expires").count()
    }
}

/// Names of servers and how many connections each has; all of them see the client itself.
fn counts(connections: &[Connection]) -> Counts {
    let mut counts = Counts::new();
    for connection in connections {
        let client: [IpAddr; 2] = ["172.16.1.10".parse().unwrap(), "2001:db8:1::10".parse().unwrap()];
        assert!(client.contains(&connection.answer.client), "{:?}", connection.answer);
        *counts.entry(connection.answer.server.clone()).or_default() += 1;
    }
    counts
}

fn alive(what: &str, connections: &mut [Connection]) {
    for connection in connections {
        connection.echo("still here").unwrap_or_else(|e| panic!("{what}: {:?}: {e}", connection.answer));
    }
}

fn shares<const N: usize>(pairs: [(&str, usize); N]) -> Counts {
    pairs.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

const ALL: &str = r#"["172.16.1.1:80", "172.16.1.1:80/udp", "[2001:db8:1::1]:80", "[2001:db8:1::1]:80/udp"]"#;

/// A farm of all three backends, in both families.
fn farm(extra: &str) -> String {
    let mut text = format!("[farms.web]\nmode = \"dsr\"\nlisten = {ALL}\n{extra}\n");
    for number in BACKENDS {
        text += &format!("[farms.web.backends.b{number}]\naddress = \"172.16.2.{number}\"\n");
        text += &format!("[farms.web.backends.c{number}]\naddress = \"2001:db8:2::{number}\"\n");
    }
    text
}

/// The farm with a state for b12 and c12.
fn farm_with(extra: &str, state: &str) -> String {
    let text = farm(extra);
    let text = text.replace("\"172.16.2.12\"", &format!("\"172.16.2.12\"\nstate = \"{state}\""));
    text.replace("\"2001:db8:2::12\"", &format!("\"2001:db8:2::12\"\nstate = \"{state}\""))
}

#[test]
fn every_flow_stays_with_the_backend_that_it_began_with() {
    let wire = Wire::new("dsr");
    wire.lab.once(&farm("")).unwrap();
    for to in [VIP, VIP_6] {
        let mut connections = wire.connect(to, 60);
        assert_eq!(counts(&connections), shares([("b11", 20), ("b12", 20), ("b13", 20)]), "{to}");
        for _ in 0..5 {
            alive(to, &mut connections);
        }
        let mut talks = Counts::new();
        for _ in 0..9 {
            let talk = Talk::open(&wire.lab.client, at(to)).unwrap();
            let first = talk.ask().unwrap();
            assert_eq!(talk.ask().unwrap().server, first.server);
            *talks.entry(first.server).or_default() += 1;
        }
        assert_eq!(talks, shares([("b11", 3), ("b12", 3), ("b13", 3)]), "{to}");
    }
    // Nothing of this is tracked, and the map knows each flow.
    assert_eq!(wire.lab.gate.run("conntrack -C").unwrap().trim(), "0");
    assert_eq!((wire.bindings("bindings4"), wire.bindings("bindings6")), (69, 69));
}

#[test]
fn a_drain_moves_new_flows_only_and_down_those_without_an_end() {
    let mut wire = Wire::new("drain");
    wire.lab.configure(&farm("")).unwrap();
    wire.lab.start().unwrap();
    let mut connections = wire.connect(VIP, 30);
    connections.extend(wire.connect(VIP_6, 30));
    let talks: Vec<Talk> = (0..6).map(|_| Talk::open(&wire.lab.client, at(VIP)).unwrap()).collect();
    let before: Vec<String> = talks.iter().map(|talk| talk.ask().unwrap().server).collect();
    wire.lab.headgate_ok(&["backend", "drain", "web", "b12"]).unwrap();
    wire.lab.headgate_ok(&["backend", "drain", "web", "c12"]).unwrap();
    alive("drain", &mut connections);
    let after: Vec<String> = talks.iter().map(|talk| talk.ask().unwrap().server).collect();
    assert_eq!(before, after, "a drain moved a UDP flow");
    assert_eq!(counts(&wire.connect(VIP, 10)), shares([("b11", 5), ("b13", 5)]));
    assert_eq!(counts(&wire.connect(VIP_6, 10)), shares([("b11", 5), ("b13", 5)]));
    wire.lab.headgate_ok(&["backend", "down", "web", "b12"]).unwrap();
    alive("down", &mut connections);
    for (talk, before) in talks.iter().zip(&before) {
        let (first, again) = (talk.ask().unwrap().server, talk.ask().unwrap().server);
        assert_eq!(first, again, "moved twice");
        assert_ne!(first, "b12", "UDP stays with a backend that is down");
        assert!(first == *before || before == "b12", "{before} became {first}");
    }
    wire.lab.headgate_ok(&["backend", "up", "web", "b12"]).unwrap();
    alive("up", &mut connections);
    assert_eq!(counts(&wire.connect(VIP, 9)).len(), 3, "b12 serves again");
}

#[test]
fn flows_survive_whatever_happens_to_the_supervisor() {
    let mut wire = Wire::new("keep");
    let one = farm("");
    wire.lab.configure(&one).unwrap();
    wire.lab.start().unwrap();
    let mut connections = wire.connect(VIP, 30);
    connections.extend(wire.connect(VIP_6, 30));
    let other = "[farms.other]\nmode = \"dsr\"\nlisten = \"172.16.1.2:81\"\nbackends.o.address = \"172.16.2.13\"\n";
    for text in [&farm_with("", "drain"), &[&one, other].concat(), &one] {
        wire.lab.configure(text).unwrap();
        wire.lab.headgate_ok(&["apply"]).unwrap();
        alive("apply", &mut connections);
    }
    wire.lab.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    wire.lab.crash().unwrap();
    alive("kill -9", &mut connections);
    wire.lab.start().unwrap();
    alive("restart", &mut connections);
    wire.lab.stop().unwrap();
    alive("stop", &mut connections);
    wire.lab.once(&one).unwrap();
    alive("--once", &mut connections);
    let generation = || wire.lab.gate.within(|| headgate_nft::Socket::open().unwrap().generation().unwrap()).unwrap();
    let before = generation();
    wire.lab.once(&one).unwrap();
    assert_eq!(generation(), before, "an unchanged configuration reached the kernel");
}

#[test]
fn a_backend_that_is_gone_resets_its_connections_and_no_others() {
    let wire = Wire::new("gone");
    wire.lab.once(&farm("")).unwrap();
    let mut connections = wire.connect(VIP, 30);
    let talks: Vec<Talk> = (0..6).map(|_| Talk::open(&wire.lab.client, at(VIP)).unwrap()).collect();
    talks.iter().for_each(|talk| drop(talk.ask().unwrap()));
    let text = farm("");
    let start = text.find("[farms.web.backends.b12]").unwrap();
    let end = text.find("[farms.web.backends.c12]").unwrap();
    wire.lab.once(&[&text[..start], &text[end..]].concat()).unwrap();
    for connection in &mut connections {
        let echoed = connection.echo("still here");
        assert_eq!(echoed.is_ok(), connection.answer.server != "b12", "{:?}: {echoed:?}", connection.answer);
    }
    for talk in talks {
        let (first, again) = (talk.ask().unwrap().server, talk.ask().unwrap().server);
        assert_eq!(first, again, "moved twice");
        assert_ne!(first, "b12");
    }
}

#[test]
fn a_backend_that_goes_down_resets_its_connections_where_the_farm_says_so() {
    let mut wire = Wire::new("cut");
    wire.lab.configure(&farm("health = { type = \"none\", on-fail = \"reset\" }")).unwrap();
    wire.lab.start().unwrap();
    for to in [VIP, VIP_6] {
        let name = if to == VIP { "b12" } else { "c12" };
        let mut connections = wire.connect(to, 30);
        wire.lab.headgate_ok(&["backend", "drain", "web", name]).unwrap();
        alive("drain", &mut connections);
        wire.lab.headgate_ok(&["backend", "down", "web", name]).unwrap();
        for connection in &mut connections {
            let echoed = connection.echo("still here").map_err(|error| error.kind());
            match connection.answer.server.as_str() {
                "b12" => assert_eq!(echoed, Err(ErrorKind::ConnectionReset), "{to}"),
                _ => echoed.unwrap(),
            }
        }
    }
}

#[test]
fn policies_and_limits_hold_on_the_wire() {
    let wire = Wire::new("guard");
    for address in ["172.16.1.20/24", "2001:db8:1::20/64"] {
        wire.lab.client.ip(&["address", "add", address, "dev", "eth0", "nodad"]).unwrap();
    }
    let become_client = |number: u8| {
        for (to, from) in [("172.16.1.1", "172.16.1."), ("2001:db8:1::1", "2001:db8:1::")] {
            let from = format!("{from}{number}");
            wire.lab.client.ip(&["route", "replace", to, "dev", "eth0", "src", &from]).unwrap();
        }
    };
    let refused =
        |to: &str| Connection::open(&wire.lab.client, at(to)).unwrap().map(drop).map_err(|error| error.kind());
    let policy = "[policies.out]\naction = \"deny\"\nelements = [\"172.16.1.20\", \"2001:db8:1::20\"]\n";
    let limits = "policies = [\"out\"]\n[farms.web.limits]\nnew-connections = \"3/hour\"\naction = \"reject\"\n";
    wire.lab.once(&[&farm(limits), policy].concat()).unwrap();
    for to in [VIP, VIP_6] {
        become_client(20);
        assert_eq!(refused(to), Err(ErrorKind::ConnectionRefused), "{to}: policy");
        become_client(10);
        let mut connections = wire.connect(to, 3);
        assert_eq!(refused(to), Err(ErrorKind::ConnectionRefused), "{to}: three of an hour");
        assert_eq!(ask_udp(&wire.lab.client, at(to)).unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        alive("a limit is for new connections", &mut connections);
    }
    let limits = "[farms.web.limits]\nnew-connections-total = \"4/hour\"\naction = \"reject\"\n";
    wire.lab.once(&farm(limits)).unwrap();
    let mut connections: Vec<Connection> =
        [VIP, VIP_6, VIP, VIP_6].map(|to| wire.connect(to, 1)).into_iter().flatten().collect();
    assert_eq!([refused(VIP), refused(VIP_6)], [Err(ErrorKind::ConnectionRefused); 2], "both families share it");
    alive("the total too", &mut connections);
    let limits = "[farms.web.limits]\nnew-connections = \"10/second burst 2\"\nban = \"1m\"\naction = \"reject\"\n";
    wire.lab.once(&farm(limits)).unwrap();
    for to in [VIP, VIP_6] {
        become_client(10);
        let deadline = Instant::now() + Duration::from_secs(10);
        while refused(to).is_ok() {
            assert!(Instant::now() < deadline, "{to}: never over its rate");
        }
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(refused(to), Err(ErrorKind::ConnectionRefused), "{to}: its bucket is full again, and it is banned");
        become_client(20);
        assert_eq!(refused(to), Ok(()), "{to}: nobody else is");
    }
}

#[test]
fn who_finds_the_map_full_goes_by_a_hash_and_stays_too() {
    let wire = Wire::new("full");
    wire.lab.once(&farm("")).unwrap();
    // Strangers fill it: 1,048,576 flows take a while to send, so the kernel is told that there is room for 8.
    let shrink = "add map netdev headgate bindings4 { type ipv4_addr . ipv4_addr . inet_service . inet_service . \
                  inet_proto : mark; flags dynamic,timeout; size 8; timeout 120s; }";
    std::fs::write(wire.lab.root().join("shrink.nft"), shrink).unwrap();
    wire.lab.nft(&format!("-f {}", wire.lab.root().join("shrink.nft").display())).unwrap();
    let mut connections = wire.connect(VIP, 40);
    for _ in 0..5 {
        alive("a full map", &mut connections);
    }
    assert_eq!(wire.bindings("bindings4"), 8);
    assert_eq!(counts(&connections).len(), 3);
    upload(&wire, VIP, 20_000_000);
    assert_eq!(ask_udp(&wire.lab.client, at(VIP)).unwrap().unwrap().client, "172.16.1.10".parse::<IpAddr>().unwrap());
}

#[test]
fn schedulers_with_a_hash_keep_the_client() {
    let wire = Wire::new("hash");
    for scheduler in ["hash", "maglev"] {
        wire.lab.once(&farm(&format!("scheduler = \"{scheduler}\""))).unwrap();
        for to in [VIP, VIP_6] {
            let mut connections = wire.connect(to, 12);
            assert_eq!(counts(&connections).len(), 1, "one client, several backends");
            alive(scheduler, &mut connections);
        }
    }
    wire.lab.once(&farm("scheduler = \"random\"")).unwrap();
    let mut connections = wire.connect(VIP, 60);
    assert_eq!(counts(&connections).len(), 3);
    alive("random", &mut connections);
}

#[test]
fn nobody_to_serve_is_said_at_once_or_not_at_all() {
    let wire = Wire::new("empty");
    wire.lab.once(&farm("")).unwrap();
    let mut connections = wire.connect(VIP, 6);
    wire.lab.once(&farm("state = \"down\"")).unwrap();
    alive("the farm is down", &mut connections);
    for to in [VIP, VIP_6] {
        let refused = Connection::open(&wire.lab.client, at(to)).unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
        let refused = ask_udp(&wire.lab.client, at(to)).unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
    wire.lab.once(&farm("state = \"down\"\non-empty = \"drop\"")).unwrap();
    alive("still", &mut connections);
    let dropped = Connection::open(&wire.lab.client, at(VIP)).unwrap().unwrap_err();
    assert!(matches!(dropped.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{dropped}");
    wire.lab.once(&farm("state = \"off\"")).unwrap();
    assert!(Connection::open(&wire.lab.client, at(VIP)).unwrap().is_err());
    assert!(!wire.lab.nft("list tables").unwrap().contains("netdev"), "nothing is left on the wire");
}

#[test]
fn neighbours_are_the_kernels_business() {
    let wire = Wire::new("arp");
    wire.lab.once(&farm("")).unwrap();
    for to in [VIP, VIP_6] {
        for _ in 0..6 {
            wire.lab.gate.ip(&["neigh", "flush", "dev", "backend"]).unwrap();
            let begin = Instant::now();
            drop(wire.connect(to, 1));
            // A first packet that is lost comes again after a second.
            assert!(begin.elapsed() < Duration::from_millis(900), "{to}: {:?}", begin.elapsed());
        }
    }
    let mut connections = wire.connect(VIP, 12);
    let changed = &wire.backends[1];
    changed.run("sysctl -qw net.ipv4.conf.eth0.arp_notify=1").unwrap();
    changed.ip(&["link", "set", "eth0", "address", "02:00:00:00:12:12"]).unwrap();
    alive("another MAC address", &mut connections);
    upload(&wire, VIP, 50_000_000);
    upload(&wire, VIP_6, 50_000_000);
}

/// A device that comes back is another one: its index is new, and the kernel has taken the old one out of the chain.
#[test]
fn devices_that_come_back_are_found_again() {
    let mut wire = Wire::new("back");
    wire.lab.configure(&farm("")).unwrap();
    wire.lab.start().unwrap();
    drop(wire.connect(VIP, 3));
    let (gate, client) = (&wire.lab.gate, &wire.lab.client);
    gate.ip(&["link", "delete", "service"]).unwrap();
    gate.ip(&["link", "delete", "backend"]).unwrap();
    veth((client, "eth0"), (gate, "service")).unwrap();
    veth((gate, "backend"), (&wire.lab.backends, "eth0")).unwrap();
    wire.lab.backends.ip(&["link", "set", "eth0", "master", "br0"]).unwrap();
    client.run("sysctl -qw net.ipv4.conf.eth0.rp_filter=0").unwrap();
    for (space, device, address) in
        [(client, "eth0", "172.16.1.10/24"), (gate, "service", "172.16.1.254/24"), (gate, "backend", "172.16.2.1/24")]
    {
        space.ip(&["address", "add", address, "dev", device]).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut last = None;
    while Instant::now() < deadline {
        match Connection::open(client, at(VIP)).unwrap() {
            Ok(_) => {
                let mut connections = wire.connect(VIP, 6);
                alive("another device", &mut connections);
                assert_eq!(counts(&connections).len(), 3);
                return;
            }
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not found again: {last:?}");
}

#[test]
fn one_arm_is_enough() {
    let wire = Wire::new("onearm");
    // The box and its virtual address on the backends' network alone, the client as well.
    for (space, device) in [(&wire.lab.client, "eth0"), (&wire.lab.gate, "service")] {
        space.ip(&["link", "set", device, "down"]).unwrap();
        space.ip(&["address", "flush", "dev", device]).unwrap();
    }
    for space in &wire.backends {
        space.ip(&["address", "add", "172.16.2.1/32", "dev", "lo"]).unwrap();
    }
    wire.lab.gate.ip(&["address", "delete", "172.16.2.1/24", "dev", "backend"]).unwrap();
    wire.lab.gate.ip(&["address", "add", "172.16.2.9/24", "dev", "backend"]).unwrap();
    let _servers: Vec<Server> = wire
        .backends
        .iter()
        .zip(BACKENDS)
        .map(|(space, number)| Server::start(space, &format!("b{number}"), at("172.16.2.1:80")).unwrap())
        .collect();
    let text = "[farms.web]\nmode = \"dsr\"\nlisten = \"172.16.2.1:80\"\nbackends.b11.address = \"172.16.2.11\"\n\
                backends.b12.address = \"172.16.2.12\"\n";
    wire.lab.once(text).unwrap();
    let open = || Connection::open(&wire.lab.client, at("172.16.2.1:80")).unwrap().unwrap();
    let mut connections: Vec<Connection> = (0..12).map(|_| open()).collect();
    alive("one arm", &mut connections);
    let servers: Vec<&str> = connections.iter().map(|connection| connection.answer.server.as_str()).collect();
    assert_eq!(servers.iter().filter(|server| **server == "b11").count(), 6, "{servers:?}");
}

/// Sends so many bytes to a backend by way of the box, in segments as large as the kernel makes them; what arrived must be
/// what was sent.
fn upload(wire: &Wire, to: &str, bytes: usize) {
    let to = SocketAddr::new(at(to).ip(), 80);
    let port = to.port() + 1;
    let farm = farm("").replace(":80", ":81").replace("[farms.web", "[farms.upload");
    wire.lab.once(&[self::farm(""), farm].concat()).unwrap();
    let sinks: Vec<_> = wire
        .backends
        .iter()
        .map(|space| {
            let listener = space.within(|| TcpListener::bind((to.ip(), port))).unwrap().unwrap();
            listener.set_nonblocking(true).unwrap();
            std::thread::spawn(move || sink(&listener))
        })
        .collect();
    let mut stream = wire.lab.client.within(|| TcpStream::connect((to.ip(), port))).unwrap().unwrap();
    let block: Vec<u8> = (0..65_536_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut sent, mut digest) = (0, DIGEST);
    while sent < bytes {
        stream.write_all(&block).unwrap();
        digest = digested(digest, &block);
        sent += block.len();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(u64::from_le_bytes(answer), digest, "what arrived is not what was sent");
    assert_eq!(sinks.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 1);
}

const DIGEST: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
fn digested(digest: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(digest, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Takes one connection to its end, or gives up after ten seconds; how many it took.
fn sink(listener: &TcpListener) -> usize {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if Instant::now() > deadline => return 0,
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    stream.set_nonblocking(false).unwrap();
    let (mut digest, mut buffer) = (DIGEST, vec![0; 1 << 16]);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            length => digest = digested(digest, &buffer[..length]),
        }
    }
    stream.write_all(&digest.to_le_bytes()).unwrap();
    1
}
