//! `dsr` farms whose backends are behind tunnels or in a VLAN.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use headgate_tests::following::{Following, stable};
use headgate_tests::packets::{around, inner_packet, raw_socket, send};
use headgate_tests::server::{Connection, Talk};
use headgate_tests::wire::{VIP, VIP_6, Wire, alive, at, counts, farm, farm_with, shares, upload};

const IPIP: &str = "dsr = { via = \"ipip\" }";
const GRE: &str = "dsr = { via = \"gre\" }";

/// What farms of mode `dsr` do in any case, and what tunnels add to it.
fn carries(label: &str, via: &str) {
    let wire = Wire::with(label, via);
    wire.lab.once(&farm(via)).unwrap();
    let mut connections = Vec::new();
    for to in [VIP, VIP_6] {
        let opened = wire.connect(to, 12);
        assert_eq!(counts(&opened), shares([("b11", 4), ("b12", 4), ("b13", 4)]), "{to}");
        connections.extend(opened);
    }
    let talk = Talk::open(&wire.lab.client, at(VIP)).unwrap();
    let before = talk.ask().unwrap().server;
    alive("begin", &mut connections);
    for text in [farm_with(via, "drain"), format!("{}\nweight = 7\n", farm(via))] {
        wire.lab.once(&text).unwrap();
        alive("weights changed", &mut connections);
        assert_eq!(talk.ask().unwrap().server, before);
    }
    wire.lab.once(&farm_with(via, "drain")).unwrap();
    assert_eq!(counts(&wire.connect(VIP, 4)), shares([("b11", 2), ("b13", 2)]));
    // Segments as large as the kernel makes them, longer than fits when nobody tells the client.
    upload(&wire, via, VIP, 3_000_000);
    upload(&wire, via, VIP_6, 3_000_000);
    // An unchanged configuration makes no difference to the kernel, tunnel objects and all.
    let generation = || wire.lab.gate.within(|| headgate_nft::Socket::open().unwrap().generation().unwrap()).unwrap();
    wire.lab.once(&farm(via)).unwrap();
    let known = generation();
    wire.lab.once(&farm(via)).unwrap();
    assert_eq!(generation(), known, "an unchanged configuration reached the kernel");
    // What is written for people names each backend's tunnel, and other tables can still be listed.
    let explained = wire.lab.headgate_ok(&["explain", "web"]).unwrap();
    assert!(
        explained.contains("ip daddr 172.16.2.11") && explained.contains("tunnel name meta mark map @tunnels4"),
        "{explained}"
    );
    assert!(wire.lab.nft("list table inet headgate-guard").is_ok());
}

#[test]
#[ignore = "in the guest"]
fn ipip_carries_flows_and_they_stay() {
    carries("ipip", IPIP);
}

#[test]
#[ignore = "in the guest"]
fn gre_carries_flows_and_they_stay() {
    carries("gre", GRE);
}

#[test]
#[ignore = "in the guest"]
fn devices_are_made_kept_and_removed_and_those_of_others_left_alone() {
    let mut wire = Wire::with("device", IPIP);
    let links = |wire: &Wire| wire.lab.gate.ip(&["-br", "link"]).unwrap();
    wire.lab.configure(&farm(IPIP)).unwrap();
    wire.lab.start().unwrap();
    let mut connections = wire.connect(VIP, 6);
    let before = wire.lab.gate.ip(&["-o", "link", "show", "headgate-ipip"]).unwrap();
    wire.lab.crash().unwrap();
    alive("kill -9", &mut connections);
    wire.lab.start().unwrap();
    alive("restart", &mut connections);
    assert_eq!(wire.lab.gate.ip(&["-o", "link", "show", "headgate-ipip"]).unwrap(), before, "another device");
    // What others send us in such a tunnel is not ours to unpack.
    assert!(wire.lab.nft("list chain netdev headgate-tunnels tunnel-ingress").is_ok_and(|text| text.contains("drop")));
    // Somebody takes it down, or away: it comes back.
    for spoil in [&["link", "set", "headgate-ipip", "down"][..], &["link", "delete", "headgate-ipip"]] {
        wire.lab.gate.ip(spoil).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while Connection::open(&wire.lab.client, at(VIP)).unwrap().is_err() {
            assert!(Instant::now() < deadline, "{spoil:?}: {}", links(&wire));
        }
        alive("the device is back", &mut connections);
    }
    wire.lab.stop().unwrap();
    wire.lab.once(&farm("")).unwrap();
    assert!(!links(&wire).contains("headgate-ipip"), "{}", links(&wire));
    assert!(!wire.lab.nft("list tables").unwrap().contains("headgate-tunnels"));
    // The kernel allows one such device: with somebody else's there the farm is out, and nothing else is.
    wire.lab.gate.ip(&["link", "add", "others", "type", "ipip", "external"]).unwrap();
    let other = "[farms.other]\nmode = \"dsr\"\nlisten = \"172.16.1.2:80\"\nbackends.o.address = \"172.16.2.13\"\n";
    // Debian's kernel has no `reject` at ingress (`nft_reject_netdev`).
    let out = format!("{IPIP}\non-empty = \"drop\"");
    wire.lab.once(&[&farm(&out), other].concat()).unwrap();
    let checked = wire.lab.headgate(&["plan"]).unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(said.contains("interface others is external and of kind ipip"), "{said}");
    assert!(links(&wire).contains("others") && !links(&wire).contains("headgate-ipip "), "{}", links(&wire));
    assert!(Connection::open(&wire.lab.client, at(VIP)).unwrap().is_err());
}

#[test]
#[ignore = "in the guest"]
fn tunnels_are_told_by_trace() {
    for (via, word) in [(IPIP, "ipip"), (GRE, "gre")] {
        let wire = Wire::with(&format!("told-{word}"), via);
        wire.lab.once(&farm(via)).unwrap();
        let following = Following::begin(&wire.lab, &["--count", "2", "--seconds", "60"]);
        let opened = [VIP, VIP_6].map(|to| wire.connect(to, 1).remove(0));
        let told: Vec<String> = following.end().iter().map(|line| stable(line)).collect();
        let numbers = opened.map(|connection| connection.answer.server[1..].to_owned());
        let [four, six] = numbers;
        assert_eq!(
            told,
            [
                format!(
                    "client 172.16.1.10:PORT → 172.16.1.1:80/tcp → farm web → scheduler chose b{four} → \
                     sent on by {word} to 172.16.2.{four} → out headgate-{word}"
                ),
                format!(
                    "client [2001:db8:1::10]:PORT → [2001:db8:1::1]:80/tcp → farm web → scheduler chose c{six} → \
                     sent on by {word} to 2001:db8:2::{six} → out headgate-{word}6"
                ),
            ]
        );
    }
}

/// What a tunnel would unpack for anybody who sends it, and lead on to the client's network.
#[test]
#[ignore = "in the guest"]
fn forged_packets_in_tunnels_are_not_unpacked() {
    const PORT: u16 = 7777;
    let gre = |kind: u16| [&[0x20, 0][..], &kind.to_be_bytes(), &72_u32.to_be_bytes()].concat();
    for (via, device) in [(IPIP, "headgate-ipip"), (GRE, "headgate-gre")] {
        let wire = Wire::with("forged", via);
        let (gate, client) = (&wire.lab.gate, &wire.lab.client);
        wire.lab.once(&farm(via)).unwrap();
        for line in [
            "add table inet seen",
            "add chain inet seen c { type filter hook prerouting priority -300; }",
            &format!("add rule inet seen c tcp dport {PORT} counter"),
        ] {
            client.run(&format!("nft {line}")).unwrap();
        }
        let unpacked = || !client.run("nft list table inet seen").unwrap().contains("counter packets 0 ");
        let received = |device: &str| -> u64 {
            let link = gate.ip(&["-s", "link", "show", device]).unwrap();
            link.lines().nth(3).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let six = |text: &str| text.parse::<IpAddr>().unwrap();
        let families = [
            ("", six("172.16.2.11"), six("172.16.2.1"), six("172.16.1.10"), (4, 0x0800)),
            ("6", six("2001:db8:2::11"), six("2001:db8:2::1"), six("2001:db8:1::10"), (41, 0x86dd)),
        ];
        let forge = |outer: (IpAddr, IpAddr), to: IpAddr, (protocol, kind): (u8, u16)| {
            let inside = inner_packet(outer.0, to, (4711, PORT), 2);
            let packet = match via {
                GRE => around(outer.0, outer.1, 47, &[gre(kind), inside].concat()),
                _ => around(outer.0, outer.1, protocol, &inside),
            };
            let sent = wire.backends[0].within(|| send(&raw_socket(outer.1)?, &packet, outer.1)).unwrap();
            sent.unwrap();
        };
        for (digit, from, to, victim, kind) in families {
            let device = format!("{device}{digit}");
            let before = received(&device);
            forge((from, to), victim, kind);
            let deadline = Instant::now() + Duration::from_secs(30);
            while received(&device) == before {
                assert!(Instant::now() < deadline, "nothing came to {device}: {}", gate.ip(&["-s", "link"]).unwrap());
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(!unpacked(), "{device}: it went on to the client");
        }
        // Without the rule it would: this is what it keeps out.
        gate.run("nft flush chain netdev headgate-tunnels tunnel-ingress").unwrap();
        let (_, from, to, victim, kind) = families[0];
        forge((from, to), victim, kind);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !unpacked() {
            assert!(Instant::now() < deadline, "{device}: it is kept out by something else");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What is counted is what clients send, without the header that the tunnel puts before it.
#[test]
#[ignore = "in the guest"]
fn what_goes_into_a_tunnel_is_counted_as_the_client_sent_it() {
    for (via, word) in [(IPIP, "ipip"), (GRE, "gre")] {
        let mut wire = Wire::with(&format!("count-{word}"), via);
        wire.lab.configure(&(farm(via) + "[metrics]\ntraffic = \"bytes\"\n")).unwrap();
        wire.lab.start().unwrap();
        for to in [VIP, VIP_6] {
            for talk in (0..3).map(|_| Talk::open(&wire.lab.client, at(to)).unwrap()) {
                (0..2).for_each(|_| drop(talk.ask().unwrap()));
            }
        }
        let shown = wire.lab.headgate_ok(&["farm", "show", "web", "--json"]).unwrap();
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        // Twelve bytes each, behind UDP and IP: two questions to each of six backends.
        for (backend, headers) in [28, 28, 28, 48, 48, 48].into_iter().enumerate() {
            let traffic = &shown["backends"][backend]["traffic"];
            let expected = (&2.into(), &(2 * (12 + headers)).into());
            assert_eq!((&traffic["packets"], &traffic["bytes"]), expected, "{word}: {shown}");
        }
        wire.lab.stop().unwrap();
    }
}

#[test]
#[ignore = "in the guest"]
fn packets_leave_by_a_vlan_as_well() {
    let wire = Wire::new("vlan");
    let (gate, backends) = (&wire.lab.gate, &wire.backends);
    // The box and the backends also meet in VLAN 7 of the same wire.
    let all = std::iter::once((gate, "backend", 1))
        .chain(backends.iter().zip([11, 12, 13]).map(|(space, n)| (space, "eth0", n)));
    for (space, device, number) in all {
        space.ip(&["link", "add", "link", device, "name", "v7", "type", "vlan", "id", "7"]).unwrap();
        space.ip(&["address", "add", &format!("172.16.7.{number}/24"), "dev", "v7"]).unwrap();
        space.ip(&["link", "set", "v7", "up"]).unwrap();
    }
    let text = farm("").replace("172.16.2.", "172.16.7.");
    wire.lab.once(&text).unwrap();
    let mut connections = wire.connect(VIP, 6);
    assert_eq!(counts(&connections), shares([("b11", 2), ("b12", 2), ("b13", 2)]));
    alive("by VLAN", &mut connections);
    let sent = gate.ip(&["-s", "link", "show", "v7"]).unwrap();
    let packets: u64 = sent.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(packets >= 18, "they went another way: {sent}");
}
