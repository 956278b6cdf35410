//! A backend behind a port that has no carrier yet: what happens after the start of a box, before its ports have found their partners.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::UdpSocket;
use std::time::Duration;

use headgate_tests::lab::Lab;

#[test]
fn the_first_packet_passes_as_soon_as_the_carrier_is_there() {
    let mut lab = Lab::new("carrier").unwrap();
    // Without us the kernel would ask for the backend an hour later; it is a second in real life.
    lab.gate.run("sysctl -qw net.ipv4.neigh.backend.retrans_time_ms=3600000").unwrap();
    lab.configure("[farms.log]\nlisten = \"172.16.1.1:514/udp\"\nbackends.b1.address = \"172.16.2.11:514\"\n").unwrap();
    lab.start().unwrap();
    lab.backends.ip(&["link", "set", "eth0", "down"]).unwrap();
    let client = lab.client.within(|| UdpSocket::bind("172.16.1.10:0")).unwrap().unwrap();
    client.send_to(b"waits", "172.16.1.1:514").unwrap();
    let neighbours = || lab.gate.ip(&["neighbour", "show", "dev", "backend"]).unwrap();
    for _ in 0..100 {
        if neighbours().contains("INCOMPLETE") {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(neighbours().contains("172.16.2.11 INCOMPLETE"), "{}", neighbours());

    let server = lab.backends.within(|| UdpSocket::bind("0.0.0.0:514")).unwrap().unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    lab.backends.ip(&["link", "set", "eth0", "up"]).unwrap();
    let mut buffer = [0; 16];
    let length = server.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {}", neighbours()));
    assert_eq!(&buffer[..length], b"waits");
    lab.stop().unwrap();
}
