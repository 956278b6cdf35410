//! Flows of a real kernel: counted, listed and ended by mark. Needs root and nft.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use headgate_host::conntrack::{Conntrack, Load, Select};
use headgate_plan::names::MARK_TAG;
use support::{Namespace, nft};

#[allow(dead_code)]
mod support;

const FIRST: u32 = MARK_TAG | 1;
const SECOND: u32 = MARK_TAG | 2;

/// Two backends behind 127.1.0.1 and 127.1.0.2, each an echo over TCP and UDP; flows to 127.1.0.3 carry a foreign mark.
fn balancer() -> Namespace {
    let namespace = Namespace::new();
    namespace.run(|| {
        nft(&format!(
            "add table ip t; add chain ip t c {{ type nat hook output priority -100; }}; \
             add rule ip t c ip daddr 127.1.0.1 ct mark set {FIRST} dnat to 127.0.0.1; \
             add rule ip t c ip daddr 127.1.0.2 ct mark set {SECOND} dnat to 127.0.0.2; \
             add rule ip t c ip daddr 127.1.0.3 ct mark set 7 dnat to 127.0.0.2"
        ));
        for ip in ["127.0.0.1", "127.0.0.2"] {
            let listener = TcpListener::bind((ip, 80)).expect("port 80 of a namespace");
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                for stream in listener.incoming() {
                    let mut stream = stream.expect("a connection");
                    stream.write_all(b"!").expect("a greeting");
                    kept.push(stream);
                }
            });
            let socket = UdpSocket::bind((ip, 53)).expect("port 53 of a namespace");
            std::thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..length], from).expect("an answer");
                }
            });
        }
    });
    namespace
}

fn tcp(to: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to.parse::<SocketAddr>().expect("an address")).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    stream.read_exact(&mut [0]).expect("a greeting");
    stream
}

fn udp(to: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    socket.send_to(b"?", to).expect("a question");
    socket.recv_from(&mut [0; 16]).expect("an answer");
    socket
}

/// Flows by mark, none of which has ended.
fn counts(conntrack: &mut Conntrack) -> BTreeMap<u32, u64> {
    let loads = conntrack.loads(Select::Ours).expect("a dump");
    assert!(loads.values().all(|load| load.ended == 0), "{loads:?}");
    loads.into_iter().map(|(mark, load)| (mark, load.active)).collect()
}

#[test]
fn a_connection_counts_until_both_sides_have_closed_it() {
    Namespace::new().run(|| {
        nft(&format!(
            "add table ip t; add chain ip t c {{ type nat hook output priority -100; }}; \
             add rule ip t c ip daddr 127.1.0.1 ct mark set {FIRST} dnat to 127.0.0.1"
        ));
        let listener = TcpListener::bind("127.0.0.1:80").expect("port 80 of a namespace");
        let mut conntrack = Conntrack::open().expect("a socket");
        let mut load = || conntrack.loads(Select::covering([FIRST, SECOND]).expect("two")).expect("a dump")[&FIRST];
        let client = TcpStream::connect("127.1.0.1:80").expect("a connection");
        let (server, _) = listener.accept().expect("the connection");
        assert_eq!(load(), Load { active: 1, ended: 0, unanswered: 0 });
        drop(client);
        assert_eq!(load(), Load { active: 1, ended: 0, unanswered: 0 }, "the backend still has it");
        drop(server);
        assert_eq!(load(), Load { active: 0, ended: 1, unanswered: 0 }, "in TIME_WAIT");
    });
}

#[test]
fn flows_are_counted_listed_and_ended_by_mark() {
    balancer().run(|| {
        let first = [tcp("127.1.0.1:80"), tcp("127.1.0.1:80"), tcp("127.1.0.1:80")];
        let _second = (tcp("127.1.0.2:80"), udp("127.1.0.2:53"), udp("127.1.0.2:53"));
        let _foreign = (tcp("127.1.0.3:80"), tcp("127.0.0.1:80"));
        let mut conntrack = Conntrack::open().expect("a socket");
        assert_eq!(counts(&mut conntrack), [(FIRST, 3), (SECOND, 3)].into());

        let flows = conntrack.flows(Select::Mark(FIRST), 2).expect("a dump");
        assert_eq!((flows.flows.len(), flows.total), (2, 3));
        let flow = &flows.flows[0];
        assert_eq!((flow.protocol, flow.mark, flow.state.as_deref()), (6, FIRST, Some("established")));
        assert_eq!(flow.original.destination, "127.1.0.1:80".parse().expect("an address"));
        assert_eq!(flow.reply.source, "127.0.0.1:80".parse().expect("an address"));
        assert!(first.iter().any(|stream| stream.local_addr().expect("bound") == flow.original.source));
        assert!(flow.timeout > Duration::from_secs(60) && flow.assured);
        assert_eq!(conntrack.flows(Select::Ours, usize::MAX).expect("a dump").flows.len(), 6);

        conntrack.delete(Select::Mark(SECOND), Some(17)).expect("two are there");
        assert_eq!(counts(&mut conntrack), [(FIRST, 3), (SECOND, 1)].into(), "TCP stays");
        conntrack.delete(Select::Mark(FIRST), None).expect("three are there");
        assert_eq!(counts(&mut conntrack), [(SECOND, 1)].into());
        conntrack.delete(Select::Mark(FIRST), None).expect("none is left, and that is no error");
        conntrack.delete(Select::Ours, None).expect("one is there");
        assert_eq!(counts(&mut conntrack), [].into());
        let left = conntrack.flows(Select::Mark(7), 10).expect("a dump");
        assert_eq!(left.total, 1, "a flow of others: {left:?}");
    });
}

#[test]
fn all_but_tcp_is_ended_of_the_marks_that_are_meant_and_of_no_others() {
    balancer().run(|| {
        let _first = (tcp("127.1.0.1:80"), udp("127.1.0.1:53"), udp("127.1.0.1:53"));
        let _second = (tcp("127.1.0.2:80"), udp("127.1.0.2:53"));
        let _foreign = udp("127.1.0.3:53");
        let ping = Command::new("ping").args(["-c1", "-W2", "127.1.0.1"]).output().expect("ping(8)");
        assert!(ping.status.success(), "{ping:?}");
        let mut conntrack = Conntrack::open().expect("a socket");
        assert_eq!(counts(&mut conntrack), [(FIRST, 4), (SECOND, 2)].into());
        let none = BTreeSet::new();
        assert_eq!(conntrack.delete_lost(&BTreeSet::new(), &none).expect("nothing to do"), 0);
        assert_eq!(conntrack.delete_lost(&[FIRST].into(), &none).expect("three are there"), 3, "one of them is ICMP");
        assert_eq!(counts(&mut conntrack), [(FIRST, 1), (SECOND, 2)].into());
        assert_eq!(conntrack.delete_lost(&[FIRST, SECOND].into(), &none).expect("one is there"), 1);
        assert_eq!(conntrack.delete_lost(&[FIRST, SECOND].into(), &none).expect("none is left"), 0);
        assert_eq!(counts(&mut conntrack), [(FIRST, 1), (SECOND, 1)].into(), "TCP stays");
        assert_eq!(conntrack.flows(Select::Mark(7), 10).expect("a dump").total, 1, "a flow of others");
        let both = [FIRST, SECOND].into();
        assert_eq!(conntrack.delete_lost(&both, &[SECOND].into()).expect("TCP of the second"), 1);
        assert_eq!(counts(&mut conntrack), [(FIRST, 1)].into(), "TCP of the first stays");
        assert_eq!(conntrack.flows(Select::Mark(7), 10).expect("a dump").total, 1, "a flow of others");
    });
}

#[test]
fn ipv6_flows_are_listed() {
    Namespace::new().run(|| {
        nft(&format!(
            "add table ip6 t; add chain ip6 t c {{ type nat hook output priority -100; }}; \
             add rule ip6 t c ip6 daddr ::1 tcp dport 80 ct mark set {FIRST} dnat to [::1]:8080"
        ));
        let _listener = TcpListener::bind("[::1]:8080").expect("a port");
        let _stream = TcpStream::connect("[::1]:80").expect("a connection");
        let flows = Conntrack::open().expect("a socket").flows(Select::Ours, 10).expect("a dump");
        assert_eq!(flows.flows[0].original.destination, "[::1]:80".parse().expect("an address"));
        assert_eq!(flows.flows[0].reply.source, "[::1]:8080".parse().expect("an address"));
    });
}

#[test]
fn a_namespace_without_flows_has_none() {
    Namespace::new().run(|| {
        let mut conntrack = Conntrack::open().expect("a socket");
        assert_eq!(counts(&mut conntrack), [].into());
        assert_eq!(conntrack.flows(Select::Ours, 10).expect("a dump").total, 0);
        conntrack.delete(Select::Ours, None).expect("nothing to end");
    });
}
