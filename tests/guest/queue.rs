//! `queue`: a program decides about new flows first.

use std::io::ErrorKind;
use std::net::SocketAddr;

use headgate_image::netns::Namespace;
use headgate_tests::lab::{Lab, backend, backend6, said};
use headgate_tests::nfqueue::{Listener, Seen, Verdict};
use headgate_tests::server::{Connection, Server, Talk};
use headgate_tests::wire::at;

const NUMBER: u16 = 3;
const VIP: [&str; 2] = ["172.16.1.1:80", "[2001:db8:1::1]:80"];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A farm with a queue, and one beside it without.
fn farms(mode: &str) -> String {
    let farm = |name: &str, port: u16, queue: &str| {
        format!(
            "[farms.{name}]\nmode = {mode:?}\nlisten = [\"172.16.1.1:{port}/tcp\", \"172.16.1.1:{port}/udp\", \
             \"[2001:db8:1::1]:{port}/tcp\", \"[2001:db8:1::1]:{port}/udp\"]\n{queue}\n\
             backends.b.address = \"172.16.2.11:8080\"\nbackends.b6.address = \"[2001:db8:2::11]:8080\"\n"
        )
    };
    [farm("web", 80, &format!("queue = {NUMBER}")), farm("plain", 81, "")].concat()
}

/// A connection and a UDP flow, both used for a while.
fn served(space: &Namespace, to: &str, what: &str) -> (Connection, Talk) {
    let opened = Connection::open(space, at(to)).unwrap();
    let mut connection = opened.unwrap_or_else(|error| panic!("{what}: {to}: {error}"));
    let talk = Talk::open(space, at(to)).unwrap();
    for _ in 0..3 {
        connection.echo("served").unwrap_or_else(|error| panic!("{what}: {to}: {error}"));
        talk.ask().unwrap_or_else(|error| panic!("{what}: {to}: udp: {error}"));
    }
    (connection, talk)
}

/// How a listener sees the two.
fn flows((connection, talk): &(Connection, Talk), to: &str) -> [Seen; 2] {
    [(TCP, connection.local().unwrap(), at(to)), (UDP, talk.local().unwrap(), at(to))]
}

/// How a connection and a UDP flow of the client fail.
fn refused(lab: &Lab, to: &str) -> [ErrorKind; 2] {
    let tcp = Connection::open(&lab.client, at(to)).unwrap().expect_err("a connection").kind();
    let udp = Talk::open(&lab.client, at(to)).unwrap().ask().expect_err("an answer").kind();
    [tcp, udp]
}

fn sorted(flows: impl IntoIterator<Item = Seen>) -> Vec<Seen> {
    let mut flows: Vec<Seen> = flows.into_iter().collect();
    flows.sort();
    flows
}

#[test]
#[ignore = "in the guest"]
fn a_queue_is_asked_about_new_flows_of_its_farm_and_no_others() {
    let mut lab = Lab::new("queue").unwrap();
    let _servers = [backend(11, 8080), backend6(11, 8080)].map(|to| Server::start(&lab.backends, "b", to).unwrap());
    for mode in ["snat", "dnat"] {
        lab.configure(&farms(mode)).unwrap();
        lab.start().unwrap();
        assert!(!said(&lab.headgate(&["status"]).unwrap()).contains("queue has no effect"));
        for to in VIP {
            served(&lab.client, to, "nobody listens");
        }
        let listener = Listener::start(&lab.gate, NUMBER, Verdict::Accept).unwrap();
        let mut kept = Vec::new();
        for to in VIP {
            let own = served(&lab.client, to, "accepted");
            assert_eq!(sorted(listener.take().into_keys()), sorted(flows(&own, to)), "{mode} {to}");
            // What the box itself sends, what is another farm's, and what is nobody's.
            let box_own = served(&lab.gate, to, "accepted, from the box");
            assert_eq!(sorted(listener.take().into_keys()), sorted(flows(&box_own, to)), "{mode} {to}: from the box");
            served(&lab.client, &to.replace(":80", ":81"), "another farm");
            kept.push(own);
        }
        for direct in [backend(11, 8080), backend6(11, 8080)] {
            served(&lab.client, &direct.to_string(), "past all farms");
        }
        assert_eq!(sorted(listener.take().into_keys()), [], "{mode}: of others");
        drop(listener);
        let listener = Listener::start(&lab.gate, NUMBER, Verdict::Drop).unwrap();
        for to in VIP {
            assert_eq!(refused(&lab, to), [ErrorKind::TimedOut, ErrorKind::WouldBlock], "{mode} {to}");
            let asked = listener.take();
            let destinations: Vec<(u8, SocketAddr)> = asked.keys().map(|(protocol, _, to)| (*protocol, *to)).collect();
            assert_eq!(destinations, [(TCP, at(to)), (UDP, at(to))], "{mode} {to}: {asked:?}");
            served(&lab.client, &to.replace(":80", ":81"), "another farm");
        }
        for (connection, talk) in &mut kept {
            connection.echo("established before").unwrap_or_else(|error| panic!("{mode}: {error}"));
            talk.ask().unwrap_or_else(|error| panic!("{mode}: udp: {error}"));
        }
        assert_eq!(sorted(listener.take().into_keys()), [], "{mode}: of established flows");
        drop(listener);
        for to in VIP {
            served(&lab.client, to, "the program ended");
        }
        lab.stop().unwrap();
    }
}

#[test]
#[ignore = "in the guest"]
fn a_queue_before_a_service_of_the_box_itself() {
    let lab = Lab::new("queuel").unwrap();
    let to = ["172.16.1.254:7000", "[2001:db8:1::fe]:7000"];
    let _servers = to.map(|to| Server::start(&lab.gate, "own", at(to)).unwrap());
    let listen: Vec<String> = to.iter().flat_map(|to| [format!("{to}/tcp"), format!("{to}/udp")]).collect();
    lab.once(&format!("[farms.own]\nmode = \"local\"\nlisten = {listen:?}\nqueue = {NUMBER}\n")).unwrap();
    for to in to {
        served(&lab.client, to, "nobody listens");
        let listener = Listener::start(&lab.gate, NUMBER, Verdict::Accept).unwrap();
        let own = served(&lab.client, to, "accepted");
        assert_eq!(sorted(listener.take().into_keys()), sorted(flows(&own, to)), "{to}");
        drop(listener);
        let listener = Listener::start(&lab.gate, NUMBER, Verdict::Drop).unwrap();
        assert_eq!(refused(&lab, to), [ErrorKind::TimedOut, ErrorKind::WouldBlock], "{to}");
        assert_eq!(listener.take().len(), 2, "{to}");
    }
}
