//! SCTP, ping and protocols that nobody knows, with real packets through `snat`, `dnat` and `stateless`.
//!
//! The packets are written by hand: a kernel without SCTP carries them as well as one that has it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use headgate_image::netns::Namespace;
use headgate_tests::lab::{Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, Talk};
use socket2::{Domain, Protocol, Socket, Type};

const SCTP: u8 = 132;
/// For experiments (RFC 3692).
const EXPERIMENTAL: u8 = 253;

/// What a raw socket of a protocol hears and says.
struct Ear {
    socket: Socket,
    v4: bool,
}

impl Ear {
    fn open(space: &Namespace, address: &str, protocol: u8) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = space
            .within(|| {
                let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
                socket.bind(&SocketAddr::new(address, 0).into())?;
                Ok::<_, std::io::Error>(socket)
            })
            .unwrap()
            .unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        Self { socket, v4: address.is_ipv4() }
    }

    fn say(&self, to: IpAddr, payload: &[u8]) {
        self.socket.send_to(payload, &SocketAddr::new(to, 0).into()).unwrap();
    }

    /// The next packet: from whom, and what is behind the IP header.
    fn hear(&self) -> Option<(IpAddr, Vec<u8>)> {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
        // SAFETY: recvfrom has written `length` bytes.
        let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        // A raw socket of IPv4 hears the header too, one of IPv6 does not (ip(7), ipv6(7)).
        let header = if self.v4 { usize::from(bytes[0] & 15) * 4 } else { 0 };
        Some((from.as_socket().unwrap().ip(), bytes[header..].to_vec()))
    }
}

/// CRC32c as SCTP wants it (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))))
}

/// An INIT or INIT ACK (RFC 9260, 3.3.2).
fn sctp(ports: (u16, u16), tag: u32, chunk: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(ports.0.to_be_bytes());
    packet.extend(ports.1.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(0x1234_5678_u32.to_be_bytes());
    packet.extend(0x0001_0000_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(7_u32.to_be_bytes());
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

fn ports(packet: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([packet[0], packet[1]]), u16::from_be_bytes([packet[2], packet[3]]))
}

fn assert_sum(packet: &[u8]) {
    let mut bare = packet.to_vec();
    bare[8..12].fill(0);
    assert_eq!(crc32c(&bare).to_le_bytes(), packet[8..12], "the checksum is wrong");
}

/// Virtual address, client, backend, and whom a backend sees in mode `snat`.
const FAMILIES: [[&str; 4]; 2] = [
    ["172.16.1.1", "172.16.1.10", "172.16.2.11", "172.16.2.1"],
    ["2001:db8:1::1", "2001:db8:1::10", "2001:db8:2::11", "2001:db8:2::1"],
];

fn lab(label: &str, mode: &str, listen: &str, port: &str) -> Lab {
    let lab = Lab::new(label).unwrap();
    lab.once(&format!(
        r#"
[farms.web]
mode = "{mode}"
scheduler = "hash"
listen = ["172.16.1.1:{listen}", "[2001:db8:1::1]:{listen}"]
backends.a.address = "172.16.2.11{port}"
backends.b.address = "{}"
"#,
        if port.is_empty() { "2001:db8:2::11".to_owned() } else { format!("[2001:db8:2::11]{port}") }
    ))
    .unwrap();
    lab
}

#[test]
fn sctp_goes_there_and_back_with_right_checksums() {
    for mode in ["snat", "dnat", "stateless"] {
        let lab = lab(&format!("sctp-{mode}"), mode, "80/sctp", ":8080");
        for [virtual_address, client, backend, inner] in FAMILIES {
            let [client_ear, backend_ear] =
                [(&lab.client, client), (&lab.backends, backend)].map(|(space, at)| Ear::open(space, at, SCTP));
            client_ear.say(virtual_address.parse().unwrap(), &sctp((4711, 80), 0, 1));
            let (from, init) = backend_ear.hear().unwrap_or_else(|| panic!("{mode} {virtual_address}: no INIT"));
            let seen = if mode == "snat" { inner } else { client };
            assert_eq!(from, seen.parse::<IpAddr>().unwrap(), "{mode}");
            assert_eq!(ports(&init).1, 8080, "{mode}");
            assert_sum(&init);
            backend_ear.say(from, &sctp((8080, ports(&init).0), 0x1234_5678, 2));
            let (from, answer) = client_ear.hear().unwrap_or_else(|| panic!("{mode} {virtual_address}: no INIT ACK"));
            assert_eq!(from, virtual_address.parse::<IpAddr>().unwrap(), "{mode}");
            assert_eq!(ports(&answer), (80, 4711), "{mode}");
            assert_sum(&answer);
        }
    }
}

#[test]
fn any_protocol_goes_there_and_back() {
    for mode in ["snat", "dnat", "stateless"] {
        let lab = lab(&format!("any-{mode}"), mode, "*/any", "");
        // So it is the backend that answers a ping.
        lab.gate.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=1 net.ipv6.icmp.echo_ignore_all=1").unwrap();
        for [virtual_address, client, backend, inner] in FAMILIES {
            let [client_ear, backend_ear] =
                [(&lab.client, client), (&lab.backends, backend)].map(|(space, at)| Ear::open(space, at, EXPERIMENTAL));
            client_ear.say(virtual_address.parse().unwrap(), b"who knows");
            let (from, said) = backend_ear.hear().unwrap_or_else(|| panic!("{mode} {virtual_address}: not there"));
            let seen = if mode == "snat" { inner } else { client };
            assert_eq!((from, &*said), (seen.parse().unwrap(), &b"who knows"[..]), "{mode}");
            backend_ear.say(from, b"who asks");
            let (from, said) = client_ear.hear().unwrap_or_else(|| panic!("{mode} {virtual_address}: not back"));
            assert_eq!((from, &*said), (virtual_address.parse().unwrap(), &b"who asks"[..]), "{mode}");
            let started = Instant::now();
            lab.client.run(&format!("ping -q -c 2 -i 0.2 -W 2 {virtual_address}")).unwrap();
            assert!(started.elapsed() < Duration::from_secs(3));
        }
    }
}

/// One packet of the client's, the same each time, and which of the two backends hears it.
fn heard(client: &Ear, to: &str, packet: &[u8], backends: &[Ear; 2]) -> (usize, IpAddr) {
    client.say(to.parse().unwrap(), packet);
    for _ in 0..100 {
        for (index, backend) in backends.iter().enumerate() {
            if let Some((from, _)) = backend.hear() {
                return (index, from);
            }
        }
    }
    panic!("{to}: neither backend has heard it");
}

#[test]
fn flows_without_an_end_leave_a_backend_that_goes_down_at_once() {
    let mut lab = Lab::new("leave").unwrap();
    lab.gate.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=1 net.ipv6.icmp.echo_ignore_all=1").unwrap();
    let init = sctp((4711, 80), 0, 1);
    let cases = [("80/sctp", ":8080", SCTP, &init[..]), ("*/any", "", EXPERIMENTAL, b"who knows")];
    for (mode, (listen, port, protocol, packet)) in
        ["snat", "dnat"].into_iter().flat_map(|mode| cases.map(|c| (mode, c)))
    {
        let [one6, two6] = ["2001:db8:2::11", "2001:db8:2::12"]
            .map(|address| if port.is_empty() { address.to_owned() } else { format!("[{address}]{port}") });
        lab.configure(&format!(
            "[farms.web]\nmode = {mode:?}\nlisten = [\"172.16.1.1:{listen}\", \"[2001:db8:1::1]:{listen}\"]\n\
             backends.b0.address = \"172.16.2.11{port}\"\nbackends.b1.address = \"172.16.2.12{port}\"\n\
             backends.c0.address = {one6:?}\nbackends.c1.address = {two6:?}\n"
        ))
        .unwrap();
        lab.start().unwrap();
        for [virtual_address, client, first, _] in FAMILIES {
            let what = format!("{mode} {listen} {virtual_address}");
            let ear = Ear::open(&lab.client, client, protocol);
            let second = first.replace("11", "12");
            let backends = [first, &second].map(|at| {
                let ear = Ear::open(&lab.backends, at, protocol);
                ear.socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                ear
            });
            let (at_first, _) = heard(&ear, virtual_address, packet, &backends);
            for _ in 0..4 {
                assert_eq!(heard(&ear, virtual_address, packet, &backends).0, at_first, "{what}: it is one flow");
            }
            let name = format!("{}{at_first}", if virtual_address.contains(':') { 'c' } else { 'b' });
            lab.headgate_ok(&["backend", "drain", "web", &name]).unwrap();
            assert_eq!(heard(&ear, virtual_address, packet, &backends).0, at_first, "{what}: drained");
            lab.headgate_ok(&["backend", "down", "web", &name]).unwrap();
            let flows = lab.headgate_ok(&["connections", "web", &name]).unwrap();
            assert_eq!(flows, "no flows\n", "{what}");
            for _ in 0..4 {
                assert_eq!(heard(&ear, virtual_address, packet, &backends).0, 1 - at_first, "{what}: down");
            }
            lab.headgate_ok(&["backend", "up", "web", &name]).unwrap();
            assert_eq!(heard(&ear, virtual_address, packet, &backends).0, 1 - at_first, "{what}: back");
        }
        lab.stop().unwrap();
        lab.gate.run("conntrack --flush").unwrap();
    }
}

/// A client that has sent before its farm was there, to a box that still started perhaps, has an entry of connection tracking that leads
/// nowhere, and keeps it as long as it sends.
#[test]
fn flows_without_an_end_come_to_a_farm_that_begins_after_them() {
    let mut lab = Lab::new("early").unwrap();
    // It has the address, and connection tracking is at work for it.
    let other = "[farms.other]\nlisten = [\"172.16.1.1:9\", \"[2001:db8:1::1]:9\"]\nbackends.b1.address = \"172.16.2.11:9\"\n\
                 backends.c1.address = \"[2001:db8:2::11]:9\"\n";
    let _backends = [backend(11, 8080), backend6(11, 8080)].map(|at| Server::start(&lab.backends, "b11", at).unwrap());
    lab.configure(other).unwrap();
    lab.start().unwrap();
    // The box's own service at the farm's address, whose connections go on.
    let own: SocketAddr = "172.16.1.1:53".parse().unwrap();
    let _own = Server::start(&lab.gate, "own", own).unwrap();
    let mut open = Connection::open(&lab.client, own).unwrap().unwrap();
    assert_eq!(Talk::open(&lab.client, own).unwrap().ask().unwrap().server, "own");
    let passing = Talk::open(&lab.client, backend(11, 8080)).unwrap();
    passing.ask().unwrap();
    let id = || {
        let entries = lab.gate.run("conntrack -L -p udp -d 172.16.2.11 -o id").unwrap();
        entries.split_whitespace().find(|word| word.starts_with("id=")).unwrap().to_owned()
    };
    let (before, mode_of) = (id(), |round: usize| ["snat", "dnat"][round % 2]);

    for (round, (name, listen)) in
        [("port", "53"), ("range", "50-60"), ("all", "*"), ("everything", "*")].into_iter().enumerate()
    {
        let protocol = if name == "everything" { "any" } else { "udp" };
        let clients =
            ["172.16.1.1:53", "[2001:db8:1::1]:53"].map(|to| Talk::open(&lab.client, to.parse().unwrap()).unwrap());
        for client in &clients {
            assert_ne!(
                client.ask().map(|answer| answer.server).unwrap_or_default(),
                "b11",
                "{name}: it is not there yet"
            );
        }
        // No port where there may be none.
        let ports = if listen == "*" { "" } else { ":8080" };
        let farm = format!(
            "[farms.{name}]\nmode = {:?}\nlisten = [\"172.16.1.1:{listen}/{protocol}\", \"[2001:db8:1::1]:{listen}/{protocol}\"]\n\
             backends.b1.address = \"172.16.2.11{ports}\"\nbackends.c1.address = \"{}\"\n",
            mode_of(round),
            if ports.is_empty() { "2001:db8:2::11".to_owned() } else { format!("[2001:db8:2::11]{ports}") },
        );
        let _dns = ports.is_empty().then(|| {
            ["172.16.2.11:53", "[2001:db8:2::11]:53"]
                .map(|at| Server::start(&lab.backends, "b11", at.parse().unwrap()).unwrap())
        });
        lab.configure(&format!("{other}{farm}")).unwrap();
        lab.headgate_ok(&["apply"]).unwrap();
        for client in &clients {
            assert_eq!(client.ask().unwrap().server, "b11", "{name}");
        }
        assert_eq!(id(), before, "{name}: a flow of others is left alone");
        open.echo("still the box's own").unwrap();
        lab.configure(other).unwrap();
        lab.headgate_ok(&["apply"]).unwrap();
    }
    lab.stop().unwrap();
}
