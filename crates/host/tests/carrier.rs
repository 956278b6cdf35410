//! What happens to packets that wait for a neighbour while there is no carrier. Needs root and iproute2.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use headgate_host::carrier::Carriers;
use support::{Namespace, command, ip};

#[allow(dead_code)]
mod support;

const PATIENCE: Duration = Duration::from_secs(20);

/// A veth between two namespaces, with addresses; up here and down there, so that there is no carrier. Neighbours that do not
/// answer are asked again after an hour.
fn cable() -> (Namespace, Namespace) {
    let (here, there) = (Namespace::new(), Namespace::new());
    let tid = there.tid;
    here.run(move || {
        ip(&format!("link add x type veth peer name y netns {tid}"));
        for family in ["ipv4", "ipv6"] {
            command("sysctl", &format!("-qw net.{family}.neigh.x.retrans_time_ms=3600000"));
        }
        ip("address add 172.16.1.1/24 dev x");
        ip("address add 2001:db8::1/64 dev x nodad");
        ip("link set x up");
    });
    there.run(|| {
        command("sysctl", "-qw net.ipv6.conf.y.keep_addr_on_down=1 net.ipv6.conf.y.accept_dad=0");
        ip("address add 172.16.1.2/24 dev y");
        ip("address add 2001:db8::2/64 dev y nodad");
    });
    (here, there)
}

/// Sends to the other end; nothing waits for an answer.
fn send(to: &str) {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    UdpSocket::bind(any).expect("a socket").send_to(b"waits", to).expect("it is queued");
}

#[test]
fn a_carrier_that_comes_has_neighbours_asked_for_again_and_loses_no_packet() {
    let (here, there) = cable();
    let mut carriers = here.run(|| {
        send("172.16.1.2:9");
        assert!(ip("neighbour show dev x").contains("172.16.1.2 INCOMPLETE"), "{}", ip("neighbour show"));
        Carriers::open().expect("sockets")
    });
    let received = there.run(|| {
        let socket = UdpSocket::bind("172.16.1.2:9").expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        ip("link set y up");
        socket
    });
    here.run(move || {
        let came = carriers.follow().expect("working sockets");
        assert_eq!((came.links, came.asked), (vec!["x".to_owned()], 1));
        carriers
    });
    let mut buffer = [0; 16];
    let length = there.run(move || received.recv(&mut buffer).map(|length| buffer[..length].to_vec()));
    assert_eq!(length.expect("the packet that had waited"), b"waits");
    here.run(|| assert!(ip("neighbour show dev x").contains("REACHABLE"), "{}", ip("neighbour show")));
}

#[test]
fn ipv6_neighbours_are_asked_for_again_too() {
    let (here, there) = cable();
    // The kernel begins with IPv6 on an interface when that has a carrier: it had one, and lost it.
    there.run(|| drop(ip("link set y up")));
    std::thread::sleep(Duration::from_millis(100));
    there.run(|| drop(ip("link set y down")));
    let mut carriers = here.run(|| {
        send("[2001:db8::2]:9");
        assert!(ip("-6 neighbour show dev x").contains("2001:db8::2 INCOMPLETE"), "{}", ip("-6 neighbour show"));
        Carriers::open().expect("sockets")
    });
    there.run(|| drop(ip("link set y up")));
    here.run(move || {
        assert!(carriers.follow().expect("working sockets").asked >= 1);
        let begin = Instant::now();
        while !ip("-6 neighbour show 2001:db8::2 dev x").contains("REACHABLE") {
            assert!(begin.elapsed() < PATIENCE, "{}", ip("-6 neighbour show"));
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn other_interfaces_and_answered_neighbours_are_left_alone() {
    let (here, there) = cable();
    let mut carriers = here.run(|| {
        ip("link add name other type veth peer name b");
        ip("address add 172.16.3.1/24 dev other");
        command("sysctl", "-qw net.ipv4.neigh.other.retrans_time_ms=3600000");
        ip("link set other up");
        send("172.16.3.2:9");
        ip("neighbour add 172.16.1.9 lladdr 02:00:00:00:00:09 dev x nud permanent");
        Carriers::open().expect("sockets")
    });
    there.run(|| drop(ip("link set y up")));
    here.run(move || {
        assert_eq!(carriers.follow().expect("working sockets").asked, 0);
        assert!(ip("neighbour show dev other").contains("INCOMPLETE"));
        assert!(ip("neighbour show dev x").contains("172.16.1.9 lladdr 02:00:00:00:00:09 PERMANENT"));
    });
}
