//! Real packets through `limits.syn-proxy`: clients that can be reached are served, and nobody else costs anything.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headgate_tests::lab::{Lab, backend, backend6};
use headgate_tests::packets;
use headgate_tests::server::{Connection, Server, ask_udp};

const VIP: [&str; 2] = ["172.16.1.1:80", "[2001:db8:1::1]:80"];
const SYN: u8 = 0x02;
const PSH_ACK: u8 = 0x18;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A farm `web` with two backends in each family; `limits` are further ones.
fn farm(lines: &str, limits: &str) -> String {
    let mut text = format!("[farms.web]\nlisten = [\"{}\", \"{}\", \"{}/udp\"]\n{lines}\n", VIP[0], VIP[1], VIP[0]);
    for number in [11, 12] {
        for (letter, address) in [('b', backend(number, 8080)), ('c', backend6(number, 8080))] {
            text += &format!("backends.{letter}{number}.address = \"{address}\"\n");
        }
    }
    format!("{text}[farms.web.limits]\nsyn-proxy = true\n{limits}\n")
}

/// The lab with its servers. The backends count what asks them for a connection.
fn lab(label: &str) -> (Lab, Vec<Server>) {
    let lab = Lab::new(label).unwrap();
    for address in ["172.16.1.20/24", "2001:db8:1::20/64"] {
        lab.client.ip(&["address", "add", address, "dev", "eth0", "nodad"]).unwrap();
    }
    let both = |number| [(number, backend(number, 8080)), (number, backend6(number, 8080))];
    let start = |(number, address)| Server::start(&lab.backends, &format!("b{number}"), address).unwrap();
    let servers = [11, 12].into_iter().flat_map(both).map(start).collect();
    let rules = lab.root().join("seen.nft");
    let text = "table inet seen {\nchain input {\ntype filter hook input priority 0\ntcp flags & (syn|ack) == syn counter\n}\n}\n";
    std::fs::write(&rules, text).unwrap();
    lab.backends.run(&format!("nft -f {}", rules.display())).unwrap();
    become_client(&lab, 10);
    (lab, servers)
}

/// How many SYNs backends have seen.
fn seen(lab: &Lab) -> u64 {
    let listed = lab.backends.run("nft list chain inet seen input").unwrap();
    let words: Vec<&str> = listed.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").unwrap();
    words[at + 1].parse().unwrap()
}

/// How many flows the box follows.
fn flows(lab: &Lab) -> u64 {
    lab.gate.run("conntrack -C").unwrap().trim().parse().unwrap()
}

fn open(lab: &Lab, to: &str) -> Connection {
    Connection::open(&lab.client, at(to)).unwrap().unwrap_or_else(|error| panic!("{to}: {error}"))
}

/// From now on the client talks to the farm from …`number`.
fn become_client(lab: &Lab, number: u8) {
    for (to, from) in [("172.16.1.1", "172.16.1."), ("2001:db8:1::1", "2001:db8:1::")] {
        lab.client.ip(&["route", "replace", to, "dev", "eth0", "src", &format!("{from}{number}")]).unwrap();
    }
}

/// The `number`th of addresses that nobody has.
fn forged(version: &IpAddr, number: u32) -> IpAddr {
    match version {
        IpAddr::V4(_) => Ipv4Addr::from(0x0a01_0000 + number).into(),
        IpAddr::V6(_) => Ipv6Addr::from(0x2001_0db8_000f_0000_0000_0000_0000_0000_u128 + u128::from(number)).into(),
    }
}

/// Sends so many packets with these flags to the farm, each from another address that nobody has.
fn flood(to: SocketAddr, count: u32, flags: u8) {
    let socket = packets::raw_socket(to.ip()).unwrap();
    for number in 0..count {
        let packet = packets::packet(forged(&to.ip(), number), to.ip(), (1024 + number as u16 % 60_000, 80), flags);
        packets::send(&socket, &packet, to.ip()).unwrap();
    }
}

#[test]
fn clients_are_served_through_the_proxy() {
    let (lab, _servers) = lab("sp");
    for mode in ["snat", "dnat"] {
        lab.once(&farm(&format!("mode = {mode:?}"), "")).unwrap();
        for to in VIP {
            let mut servers = BTreeSet::new();
            for _ in 0..4 {
                let mut connection = open(&lab, to);
                let expected: IpAddr = match (mode, at(to).is_ipv4()) {
                    ("snat", true) => "172.16.2.1".parse().unwrap(),
                    ("snat", false) => "2001:db8:2::1".parse().unwrap(),
                    (_, true) => "172.16.1.10".parse().unwrap(),
                    (_, false) => "2001:db8:1::10".parse().unwrap(),
                };
                assert_eq!(connection.answer.client, expected, "{mode} {to}");
                connection.echo("a word").unwrap();
                servers.insert(connection.answer.server);
            }
            assert_eq!(servers.len(), 2, "{mode} {to}: by turns");
            // Far more than any window, in both directions.
            let mut connection = open(&lab, to);
            connection.echo(&"long".repeat(1_500_000)).unwrap_or_else(|error| panic!("{mode} {to}: {error}"));
            connection.echo("and on").unwrap();
        }
        // Every connection was shaken hands with: the kernel's own count, a line for each CPU.
        let counted = lab.gate.run("cat /proc/net/stat/synproxy").unwrap();
        let valid = counted.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
        let valid: u64 = valid.map(|count| u64::from_str_radix(count, 16).unwrap()).sum();
        assert!(valid >= 10, "{mode}: {counted}");
        assert_eq!(ask_udp(&lab.client, at(VIP[0])).unwrap().unwrap().port, 8080, "UDP has no handshake");
    }
}

#[test]
fn a_flood_of_forged_sources_costs_no_entry_and_reaches_no_backend() {
    const COUNT: u32 = 10_000;
    let (lab, _servers) = lab("spf");
    lab.once(&farm("", "strict-tcp = true\nconnections-per-client = 50")).unwrap();
    for to in VIP {
        let mut old = open(&lab, to);
        let (before, entries) = (seen(&lab), flows(&lab));
        let over = AtomicBool::new(false);
        let served = std::thread::scope(|scope| {
            scope.spawn(|| {
                lab.client.within(|| flood(at(to), COUNT, SYN)).unwrap();
                // Nor does an ACK of somebody who never had a cookie.
                lab.client.within(|| flood(at(to), COUNT / 10, 0x10)).unwrap();
                over.store(true, Ordering::Relaxed);
            });
            let mut served = 0;
            while !over.load(Ordering::Relaxed) || served == 0 {
                open(&lab, to).echo("honest").unwrap();
                served += 1;
            }
            served
        });
        println!("{to}: {served} connections while {COUNT} forged SYNs came");
        old.echo("still here").unwrap();
        assert_eq!(seen(&lab) - before, served, "{to}: the backends saw others");
        let made = flows(&lab) - entries;
        assert!(made <= served, "{to}: {made} entries of {served} connections");
    }
}

#[test]
fn policies_and_limits_hold_behind_the_handshake() {
    let (lab, _servers) = lab("spl");
    let policy = "[policies.out]\naction = \"deny\"\nelements = [\"172.16.1.20\", \"2001:db8:1::20\"]\n";
    let limits = "new-connections = \"3/hour\"\nban = \"1m\"\naction = \"reject\"\n";
    lab.once(&[&farm("policies = [\"out\"]", limits), policy].concat()).unwrap();
    for to in VIP {
        become_client(&lab, 20);
        let refused = Connection::open(&lab.client, at(to)).unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}: refused by the first packet");
        become_client(&lab, 10);
        // What is forged in its name takes nothing from it.
        let (own, vip) = (if at(to).is_ipv4() { "172.16.1.10" } else { "2001:db8:1::10" }, at(to).ip());
        lab.client
            .within(|| {
                let socket = packets::raw_socket(vip).unwrap();
                for port in 2000..2100 {
                    let packet = packets::packet(own.parse().unwrap(), vip, (port, 80), SYN);
                    packets::send(&socket, &packet, vip).unwrap();
                }
            })
            .unwrap();
        let mut held: Vec<Connection> = (0..3).map(|_| open(&lab, to)).collect();
        let fourth = lab.client.within(|| TcpStream::connect_timeout(&at(to), Duration::from_secs(1))).unwrap();
        assert!(fourth.is_ok(), "{to}: the handshake comes before the limit");
        let deadline = Instant::now() + Duration::from_secs(5);
        let banned = || Connection::open(&lab.client, at(to)).unwrap().map(drop).map_err(|error| error.kind());
        while banned() != Err(ErrorKind::ConnectionRefused) {
            assert!(Instant::now() < deadline, "{to}: an offender is not told at its first packet");
        }
        held.iter_mut().for_each(|connection| connection.echo("not for those that are there").unwrap());
    }
}

#[test]
fn a_client_keeps_its_backend_over_a_restart_of_the_supervisor() {
    let (mut lab, _servers) = lab("spr");
    let text = farm("persistence = {}\nmode = \"dnat\"", "strict-tcp = true");
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    let mut connections = VIP.map(|to| open(&lab, to));
    let servers = connections.each_ref().map(|connection| connection.answer.server.clone());
    for round in 0..2 {
        if round == 0 { lab.crash() } else { lab.stop() }.unwrap();
        connections.iter_mut().for_each(|connection| connection.echo("nobody watches").unwrap());
        for (to, server) in VIP.iter().zip(&servers) {
            assert_eq!(open(&lab, to).answer.server, *server, "{to}");
        }
        lab.start().unwrap();
        lab.configure(&format!("# again\n{text}")).unwrap();
        lab.headgate_ok(&["apply"]).unwrap();
        connections.iter_mut().for_each(|connection| connection.echo("it watches again").unwrap());
        for (to, server) in VIP.iter().zip(&servers) {
            assert_eq!((0..4).map(|_| open(&lab, to).answer.server).collect::<BTreeSet<_>>(), [server.clone()].into());
        }
    }
}

#[test]
fn who_cannot_be_served_is_told_so() {
    let (mut lab, _servers) = lab("spd");
    lab.configure(&farm("", "")).unwrap();
    lab.start().unwrap();
    let mut connections: Vec<Connection> = VIP.iter().map(|to| open(&lab, to)).collect();
    for name in ["b11", "b12", "c11", "c12"] {
        lab.headgate_ok(&["backend", "down", "web", name]).unwrap();
    }
    for to in VIP {
        let refused = Connection::open(&lab.client, at(to)).unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}: nobody serves");
    }
    for name in ["b11", "b12", "c11", "c12"] {
        lab.headgate_ok(&["backend", "up", "web", name]).unwrap();
    }
    connections.iter_mut().for_each(|connection| connection.echo("a farm that came back").unwrap());
    // A connection that is not known any more gets a reset, and not the proxy's silence.
    lab.headgate_ok(&["connections", "web", "--flush"]).unwrap();
    for connection in &mut connections {
        let kind = connection.echo("anybody").unwrap_err().kind();
        assert_eq!(kind, ErrorKind::ConnectionReset);
    }
    for to in VIP {
        let (from, vip) = (forged(&at(to).ip(), 7), at(to).ip());
        lab.client
            .within(|| {
                packets::send(&packets::raw_socket(vip).unwrap(), &packets::packet(from, vip, (5, 80), PSH_ACK), vip)
            })
            .unwrap()
            .unwrap();
        open(&lab, to).echo("others are served").unwrap();
    }
    // Switched off, it is gone, and with it what it needed.
    let loose = || lab.gate.run("sysctl -n net.netfilter.nf_conntrack_tcp_loose").unwrap();
    assert_eq!(loose().trim(), "0");
    lab.configure(&farm("", "").replace("syn-proxy = true", "")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    assert_eq!(loose().trim(), "1");
    for to in VIP {
        open(&lab, to).echo("by the ordinary way").unwrap();
    }
}
