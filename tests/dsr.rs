//! Real packets through `dsr` farms.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use headgate_image::netns::veth;
use headgate_tests::lab::BACKENDS;
use headgate_tests::server::{Connection, Server, Talk, ask_udp};
use headgate_tests::wire::{Counts, VIP, VIP_6, Wire, alive, at, counts, farm, farm_with, shares, upload};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

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
    // Nothing of this is tracked, and the maps know each flow, and that the connections have ended.
    assert_eq!(wire.lab.gate.run("conntrack -C").unwrap().trim(), "0");
    assert_eq!((wire.bindings("bindings4"), wire.bindings("bindings6")), (9, 9));
    assert_eq!((wire.bindings("closing4"), wire.bindings("closing6")), (60, 60));
    // Each was counted once, at its beginning.
    let listed = wire.lab.nft("list set netdev headgate begun").unwrap();
    assert_eq!(listed.matches("counter packets 23 ").count(), 6, "{listed}");
}

#[test]
fn a_connection_whose_end_is_near_goes_on_until_it_is_quiet() {
    let wire = Wire::new("half");
    wire.lab.once(&farm("")).unwrap();
    let mut connections = wire.connect(VIP, 6);
    alive("begin", &mut connections);
    // Somebody forges resets: the flows are taken for closing, and stay where they are.
    for connection in &connections {
        let [high, low] = connection.local().unwrap().port().to_be_bytes();
        // Header length 5 words, RST. The checksum is wrong, which only the backend would see.
        let reset = [high, low, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 4, 0, 0, 0, 0, 0, 0];
        let socket = wire.lab.client.within(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)));
        socket.unwrap().unwrap().send_to(&reset, &at(VIP).into()).unwrap();
    }
    assert_eq!(wire.bindings("closing4"), 6);
    for _ in 0..3 {
        alive("forged resets", &mut connections);
    }
    assert_eq!((wire.bindings("bindings4"), wire.bindings("closing4")), (0, 6));
}

#[test]
fn the_time_to_live_is_one_less_behind_the_box() {
    let wire = Wire::new("ttl");
    wire.lab.once(&farm("")).unwrap();
    for to in [VIP, VIP_6] {
        let ask = |hops: u32| {
            let socket = wire.lab.client.within(|| {
                let socket = UdpSocket::bind(if at(to).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(at(to)).map(|()| socket)
            });
            let socket = socket.unwrap().unwrap();
            match at(to).is_ipv4() {
                true => socket.set_ttl(hops).unwrap(),
                false => SockRef::from(&socket).set_unicast_hops_v6(hops).unwrap(),
            }
            socket.set_read_timeout(Some(Duration::from_secs(if hops == 1 { 1 } else { 10 }))).unwrap();
            socket.send(b"who\n").unwrap();
            socket.recv(&mut [0; 256])
        };
        // Without the box there is one wire to the backend: a packet that may cross one more comes through, another does not.
        assert!(ask(2).is_ok(), "{to}");
        assert!(ask(1).is_err(), "{to}: sent on with a time to live of 0");
    }
}

#[test]
fn a_silent_change_of_a_neighbour_is_found_when_its_time_is_over() {
    let wire = Wire::new("silent");
    wire.lab.once(&farm("")).unwrap();
    let talks: Vec<Talk> = (0..3).map(|_| Talk::open(&wire.lab.client, at(VIP)).unwrap()).collect();
    wire.lab.gate.ip(&["neigh", "flush", "dev", "backend"]).unwrap();
    let served: Vec<String> = talks.iter().map(|talk| talk.ask().unwrap().server).collect();
    let at_b12 = &talks[served.iter().position(|server| server == "b12").unwrap()];
    wire.backends[1].ip(&["link", "set", "eth0", "address", "02:00:00:00:12:13"]).unwrap();
    // 15 s at least until the kernel doubts what it knows.
    assert!(at_b12.ask().is_err(), "who has told?");
    for (server, talk) in served.iter().zip(&talks).filter(|(server, _)| *server != "b12") {
        assert_eq!(talk.ask().unwrap().server, **server, "others are not concerned");
    }
    for setting in ["base_reachable_time_ms=1000", "delay_first_probe_time=1", "ucast_solicit=1"] {
        wire.lab.gate.run(&format!("sysctl -qw net.ipv4.neigh.backend.{setting}")).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    while !at_b12.ask().is_ok_and(|answer| answer.server == "b12") {
        assert!(Instant::now() < deadline, "{}", wire.lab.gate.ip(&["neigh"]).unwrap());
    }
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
    upload(&wire, "", VIP, 20_000_000);
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
    upload(&wire, "", VIP, 50_000_000);
    upload(&wire, "", VIP_6, 50_000_000);
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
