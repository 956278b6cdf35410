//! Counters with real packets: exact numbers, both families, and nothing for who asks for nothing.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use headgate_tests::lab::{Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, Talk, ask_udp};
use headgate_tests::wire::{self, Wire};
use serde_json::Value;

const V4: &str = "172.16.1.1:80";
const V6: &str = "[2001:db8:1::1]:80";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn farm(mode: &str, extra: &str) -> String {
    format!(
        "[farms.web]\nmode = \"{mode}\"\nlisten = [\"{V4}\", \"{V4}/udp\", \"{V6}\", \"{V6}/udp\"]\n\
         backends.b11.address = \"172.16.2.11:8080\"\nbackends.b12.address = \"172.16.2.12:8080\"\n\
         backends.c11.address = \"[2001:db8:2::11]:8080\"\n{extra}"
    )
}

fn servers(lab: &Lab) -> Vec<Server> {
    let addresses = [backend(11, 8080), backend(12, 8080), backend6(11, 8080)];
    addresses.into_iter().map(|address| Server::start(&lab.backends, "b", address).unwrap()).collect()
}

fn shown(lab: &Lab) -> Value {
    serde_json::from_str(&lab.headgate_ok(&["farm", "show", "web", "--json"]).unwrap()).unwrap()
}

fn new_flows(lab: &Lab) -> Vec<u64> {
    let farm = shown(lab);
    let backends = farm["backends"].as_array().unwrap();
    let counts: Vec<u64> = backends.iter().map(|backend| backend["new-flows"].as_u64().unwrap()).collect();
    assert_eq!(farm["new-flows"], counts.iter().sum::<u64>());
    counts
}

#[test]
fn new_flows_are_counted_once_each_and_the_count_outlives_the_daemon() {
    for mode in ["snat", "dnat"] {
        let mut lab = Lab::new(&format!("count-{mode}")).unwrap();
        let _servers = servers(&lab);
        lab.configure(&farm(mode, "")).unwrap();
        lab.start().unwrap();
        for _ in 0..6 {
            // Many packets each, one flow each.
            let mut connection = Connection::open(&lab.client, at(V4)).unwrap().unwrap();
            (0..5).for_each(|_| connection.echo("more").unwrap());
            ask_udp(&lab.client, at(V6)).unwrap().unwrap();
        }
        assert_eq!(new_flows(&lab), [3, 3, 6]);
        lab.headgate_ok(&["backend", "down", "web", "b11"]).unwrap();
        for _ in 0..4 {
            ask_udp(&lab.client, at(V4)).unwrap().unwrap();
        }
        lab.crash().unwrap();
        Connection::open(&lab.client, at(V4)).unwrap().unwrap();
        lab.start().unwrap();
        lab.headgate_ok(&["backend", "up", "web", "b11"]).unwrap();
        assert_eq!(new_flows(&lab), [3, 8, 6], "neither a state nor a crash takes a count away");
    }
}

#[test]
fn packets_and_bytes_are_counted_only_for_who_asks() {
    let mut lab = Lab::new("count-bytes").unwrap();
    let _servers = servers(&lab);
    lab.configure(&farm("snat", "")).unwrap();
    lab.start().unwrap();
    ask_udp(&lab.client, at(V4)).unwrap().unwrap();
    assert_eq!(shown(&lab)["traffic"], Value::Null);
    assert!(!lab.nft("list table inet headgate").unwrap().contains("hook forward"), "a rule for each packet");

    lab.configure(&farm("snat", "[metrics]\ntraffic = \"bytes\"")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    // 11 bytes there, `b 8080 172.16.2.1` and a line's end back, behind headers of 28 bytes each.
    let (asked, answered) = (12 + 28, "b 8080 172.16.2.1\n".len() + 28);
    for _ in 0..4 {
        ask_udp(&lab.client, at(V4)).unwrap().unwrap();
    }
    ask_udp(&lab.client, at(V6)).unwrap().unwrap();
    let farm = shown(&lab);
    for backend in 0..2 {
        let traffic = &farm["backends"][backend]["traffic"];
        assert_eq!((&traffic["packets"], &traffic["bytes"]), (&4.into(), &(2 * (asked + answered)).into()), "{farm}");
    }
    let six = (12 + 48) + ("b 8080 2001:db8:2::1\n".len() + 48);
    assert_eq!(farm["backends"][2]["traffic"]["bytes"], six, "{farm}");
    assert_eq!(farm["traffic"]["packets"], 10);
    let text = lab.headgate_ok(&["farm", "show", "web"]).unwrap();
    assert!(text.contains("BYTES"), "{text}");
}

/// Round robin over two backends: half of an even number each. The third keeps the client's port, so its answers are found by
/// a range.
#[test]
fn stateless_farms_count_both_ways_only_for_who_asks() {
    let mut lab = Lab::new("count-stateless").unwrap();
    let _servers = servers(&lab);
    let farm = |extra| {
        format!(
            "[farms.web]\nmode = \"stateless\"\nlisten = [\"172.16.1.1:80/udp\", \"[2001:db8:1::1]:8000-8100/udp\"]\n\
             backends.b11.address = \"172.16.2.11:8080\"\nbackends.b12.address = \"172.16.2.12:8080\"\n\
             backends.c11.address = \"2001:db8:2::11\"\n{extra}"
        )
    };
    lab.configure(&farm("")).unwrap();
    lab.start().unwrap();
    ask_udp(&lab.client, at(V4)).unwrap().unwrap();
    assert_eq!(shown(&lab)["traffic"], Value::Null);
    let table = lab.nft("list table inet headgate").unwrap();
    assert!(!table.contains("traffic") && !table.contains("senders"), "a lookup for each packet:\n{table}");

    lab.configure(&farm("[metrics]\ntraffic = \"bytes\"")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    let ask = |lab: &Lab| {
        for _ in 0..4 {
            ask_udp(&lab.client, at(V4)).unwrap().unwrap();
        }
        ask_udp(&lab.client, at("[2001:db8:1::1]:8080")).unwrap().unwrap();
    };
    ask(&lab);
    // The box by itself, as health checks do: nobody asked the farm.
    ask_udp(&lab.gate, backend(11, 8080)).unwrap().unwrap();
    lab.crash().unwrap();
    ask(&lab);
    lab.start().unwrap();

    let four = (12 + 28) + ("b 8080 172.16.1.10\n".len() + 28);
    let six = (12 + 48) + ("b 8080 2001:db8:1::10\n".len() + 48);
    let farm = shown(&lab);
    for (backend, (packets, bytes)) in [(8, 4 * four), (8, 4 * four), (4, 2 * six)].into_iter().enumerate() {
        let traffic = &farm["backends"][backend]["traffic"];
        assert_eq!((&traffic["packets"], &traffic["bytes"]), (&packets.into(), &bytes.into()), "{farm}");
    }
    assert_eq!((&farm["traffic"]["packets"], &farm["traffic"]["bytes"]), (&20.into(), &(8 * four + 2 * six).into()));
}

/// Answers go past the box. One packet begins a flow, one finds it begun, and one finds it looked up a moment ago.
#[test]
fn dsr_farms_count_what_goes_to_their_backends_only_for_who_asks() {
    let mut wire = Wire::new("count-dsr");
    wire.lab.configure(&wire::farm("")).unwrap();
    wire.lab.start().unwrap();
    ask_udp(&wire.lab.client, at(wire::VIP)).unwrap().unwrap();
    assert_eq!(shown(&wire.lab)["traffic"], Value::Null);
    let table = wire.lab.nft("list table netdev headgate").unwrap();
    assert!(!table.contains("traffic"), "a lookup for each packet:\n{table}");

    wire.lab.configure(&(wire::farm("") + "[metrics]\ntraffic = \"bytes\"\n")).unwrap();
    wire.lab.headgate_ok(&["apply"]).unwrap();
    let ask = |wire: &Wire| {
        for to in [wire::VIP, wire::VIP_6] {
            for talk in (0..3).map(|_| Talk::open(&wire.lab.client, at(to)).unwrap()) {
                (0..3).for_each(|_| drop(talk.ask().unwrap()));
            }
        }
    };
    ask(&wire);
    // To a backend by its own address: nobody asked the farm.
    wire.lab.gate.run("ping -c 1 172.16.2.11").unwrap();
    wire.lab.crash().unwrap();
    ask(&wire);
    wire.lab.start().unwrap();

    let farm = shown(&wire.lab);
    for (backend, headers) in [28, 28, 28, 48, 48, 48].into_iter().enumerate() {
        let traffic = &farm["backends"][backend]["traffic"];
        assert_eq!((&traffic["packets"], &traffic["bytes"]), (&6.into(), &(6 * (12 + headers)).into()), "{farm}");
    }
    assert_eq!((&farm["traffic"]["packets"], &farm["traffic"]["bytes"]), (&36.into(), &(18 * (40 + 60)).into()));
    let text = wire.lab.headgate_ok(&["farm", "show", "web"]).unwrap();
    assert!(text.contains("BYTES"), "{text}");
    let mut page = String::new();
    let mut stream = UnixStream::connect(wire.lab.root().join("run/headgate/api.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.contains("headgate_backend_bytes_total{farm=\"web\",backend=\"b11\"} 240\n"), "{page}");
}
