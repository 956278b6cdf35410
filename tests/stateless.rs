//! Mode `stateless` with real packets: rewritten in both directions, and no connection is tracked.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use headgate_image::netns::Namespace;
use headgate_tests::lab::{BACKENDS, Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, ask_udp};
use nix::sys::socket::setsockopt;

const V4: &str = "172.16.1.1";
const V6: &str = "[2001:db8:1::1]";

fn at(address: &str, port: u16) -> SocketAddr {
    format!("{address}:{port}").parse().unwrap()
}

fn servers(lab: &Lab, port: u16) -> Vec<Server> {
    BACKENDS
        .into_iter()
        .flat_map(|number| [(number, backend(number, port)), (number, backend6(number, port))])
        .map(|(number, address)| Server::start(&lab.backends, &format!("b{number}"), address).unwrap())
        .collect()
}

/// Two backends in each family; port 80 becomes 8080.
fn farm(scheduler: &str, extra: &str) -> String {
    format!(
        r#"
[farms.web]
mode = "stateless"
listen = ["172.16.1.1:80/tcp", "172.16.1.1:80/udp", "[2001:db8:1::1]:80/tcp", "[2001:db8:1::1]:80/udp"]
{scheduler}
{extra}
[farms.web.backends]
b11.address = "172.16.2.11:8080"
b12.address = "172.16.2.12:8080"
c11.address = "[2001:db8:2::11]:8080"
c12.address = "[2001:db8:2::12]:8080"
"#
    )
}

const MAGLEV: &str = r#"scheduler = "maglev"
hash = ["source-address", "source-port"]"#;

/// Entries of connection tracking that have to do with the farm.
fn tracked(lab: &Lab) -> String {
    let list = |family: &str| lab.gate.run(&format!("conntrack -L -f {family}")).unwrap();
    let listed = [list("ipv4"), list("ipv6")].concat();
    listed.lines().filter(|line| line.contains("port=80 ") || line.contains("8080")).collect()
}

#[test]
fn both_families_and_protocols_go_there_and_back_without_an_entry() {
    let lab = Lab::new("st-both").unwrap();
    let _servers = servers(&lab, 8080);
    lab.once(&farm(MAGLEV, "")).unwrap();
    for address in [V4, V6] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let mut connection = Connection::open(&lab.client, at(address, 80)).unwrap().unwrap();
            connection.echo("still there").unwrap();
            assert_eq!(connection.answer.port, 8080);
            assert!(["172.16.1.10", "2001:db8:1::10"].contains(&&*connection.answer.client.to_string()));
            seen.insert(connection.answer.server.clone());
            seen.insert(ask_udp(&lab.client, at(address, 80)).unwrap().unwrap().server);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["b11", "b12"]);
    }
    assert_eq!(tracked(&lab), "");
    assert_eq!(lab.nft("list chain inet headgate raw-postrouting").unwrap().matches("untracked").count(), 2);
}

/// Sends `size` bytes through a connection and reads as many back; the same bytes, or it fails.
fn upload_and_download(lab: &Lab, listen: SocketAddr, to: SocketAddr, size: usize) {
    let listener = lab.backends.within(|| TcpListener::bind(listen)).unwrap().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut received = vec![0; size];
        stream.read_exact(&mut received).unwrap();
        stream.write_all(&received).unwrap();
    });
    let mut stream = lab.client.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).unwrap().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let sent: Vec<u8> = (0..size).map(|at| ((at * 31) >> 3) as u8).collect();
    stream.write_all(&sent).unwrap();
    let mut back = vec![0; size];
    stream.read_exact(&mut back).unwrap();
    assert!(back == sent, "the bytes are not those that were sent");
    server.join().unwrap();
}

/// Segmentation and checksums left to the device, as they are on real cards, and done by the kernel.
#[test]
fn large_transfers_survive_with_and_without_offloads() {
    let lab = Lab::new("st-gso").unwrap();
    lab.once(
        &farm("scheduler = \"hash\"", "")
            .replace("b12.", "b12.state = \"drain\"\nb12.")
            .replace("c12.", "c12.state = \"drain\"\nc12."),
    )
    .unwrap();
    for offloads in ["on", "off"] {
        let devices: [(&Namespace, &str); 4] =
            [(&lab.client, "eth0"), (&lab.gate, "service"), (&lab.gate, "backend"), (&lab.backends, "eth0")];
        for (space, device) in devices {
            space.run(&format!("ethtool -K {device} tx {offloads} rx {offloads}")).unwrap();
            space.run(&format!("ethtool -K {device} tso {offloads} gso {offloads} gro {offloads}")).unwrap();
        }
        upload_and_download(&lab, backend(11, 8080), at(V4, 80), 8 << 20);
        upload_and_download(&lab, backend6(11, 8080), at(V6, 80), 8 << 20);
    }
    assert_eq!(tracked(&lab), "");
}

#[test]
fn fragments_and_datagrams_without_checksum_arrive() {
    let lab = Lab::new("st-udp").unwrap();
    lab.once(&farm("", "").replace("\"172.16.1.1:80/tcp\", ", "").replace("\"[2001:db8:1::1]:80/tcp\", ", "")).unwrap();
    for (address, backends) in
        [(V4, [backend(11, 8080), backend(12, 8080)]), (V6, [backend6(11, 8080), backend6(12, 8080)])]
    {
        let sockets = backends.map(|backend| {
            let socket = lab.backends.within(|| UdpSocket::bind(backend)).unwrap().unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            socket
        });
        let any = if address == V4 { "0.0.0.0:0" } else { "[::]:0" };
        let client = lab.client.within(|| UdpSocket::bind(any)).unwrap().unwrap();
        client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        client.connect(at(address, 80)).unwrap();
        for round in 0..4 {
            // RFC 6935: without a checksum only where it was agreed upon, so IPv6 sockets of everybody keep it.
            if address == V4 && round >= 2 {
                setsockopt(&client, NoChecksum, &true).unwrap();
                for socket in &sockets {
                    setsockopt(socket, NoChecksum, &true).unwrap();
                }
            }
            for size in [20, 3000] {
                let sent = vec![round as u8; size];
                client.send(&sent).unwrap();
                let mut buffer = [0; 4096];
                let from = sockets.iter().find_map(|socket| {
                    let (length, from) = socket.recv_from(&mut buffer).ok()?;
                    assert_eq!(&buffer[..length], &sent);
                    Some((socket, from))
                });
                let (socket, from) = from.unwrap_or_else(|| panic!("{address}: {size} bytes, round {round}: lost"));
                socket.send_to(&sent, from).unwrap();
                assert_eq!(client.recv(&mut buffer).unwrap(), size);
            }
        }
    }
    assert_eq!(tracked(&lab), "");
}

/// `SO_NO_CHECK`, socket(7) does not say it: UDP over IPv4 goes out with a checksum of 0.
#[derive(Debug, Clone, Copy)]
struct NoChecksum;

impl nix::sys::socket::SetSockOpt for NoChecksum {
    type Val = bool;

    fn set<F: std::os::fd::AsFd>(&self, fd: &F, value: &bool) -> nix::Result<()> {
        let value = i32::from(*value);
        // SAFETY: the pointer and the length are those of a live integer.
        let result = unsafe {
            nix::libc::setsockopt(
                std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()),
                nix::libc::SOL_SOCKET,
                nix::libc::SO_NO_CHECK,
                (&raw const value).cast(),
                size_of::<i32>() as nix::libc::socklen_t,
            )
        };
        nix::errno::Errno::result(result).map(drop)
    }
}

#[test]
fn ranges_and_wildcards_keep_the_port() {
    let lab = Lab::new("st-range").unwrap();
    let _servers = [
        Server::start(&lab.backends, "range", backend(11, 8005)).unwrap(),
        Server::start(&lab.backends, "star", backend(12, 9000)).unwrap(),
        Server::start(&lab.backends, "star6", backend6(12, 9000)).unwrap(),
    ];
    lab.once(
        r#"
[defaults.farm]
mode = "stateless"
scheduler = "hash"
[farms.range]
listen = "172.16.1.1:8000-8010"
backends.r.address = "172.16.2.11"
[farms.star]
listen = ["172.16.1.1:*", "[2001:db8:1::1]:*"]
backends.s.address = "172.16.2.12"
backends.t.address = "[2001:db8:2::12]"
"#,
    )
    .unwrap();
    for (to, server) in [("172.16.1.1:8005", "range"), ("172.16.1.1:9000", "star"), ("[2001:db8:1::1]:9000", "star6")] {
        let mut connection = Connection::open(&lab.client, to.parse().unwrap()).unwrap().unwrap();
        connection.echo("x").unwrap();
        assert_eq!(connection.answer.server, server);
    }
}

#[test]
fn the_box_itself_reaches_backends_as_before() {
    let lab = Lab::new("st-probe").unwrap();
    let _servers = servers(&lab, 8080);
    lab.once(&farm(MAGLEV, "")).unwrap();
    for to in [backend(11, 8080), backend6(12, 8080)] {
        let mut connection = Connection::open(&lab.gate, to).unwrap().unwrap();
        connection.echo("a probe of the box").unwrap();
    }
    assert!(tracked(&lab).contains("8080"), "what the box itself asks is tracked, and this is how it would be seen");
}

#[test]
fn a_drained_backend_gets_nothing_more_and_nobody_left_is_said() {
    let mut lab = Lab::new("st-state").unwrap();
    let _servers = servers(&lab, 8080);
    lab.configure(&farm(MAGLEV, "")).unwrap();
    lab.start().unwrap();
    lab.headgate_ok(&["backend", "drain", "web", "b11"]).unwrap();
    lab.headgate_ok(&["backend", "down", "web", "c11"]).unwrap();
    for _ in 0..20 {
        for address in [V4, V6] {
            assert_eq!(Connection::open(&lab.client, at(address, 80)).unwrap().unwrap().answer.server, "b12");
        }
    }
    for name in ["b12", "c12"] {
        lab.headgate_ok(&["backend", "down", "web", name]).unwrap();
    }
    for address in [V4, V6] {
        let refused = Connection::open(&lab.client, at(address, 80)).unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}");
        assert_eq!(ask_udp(&lab.client, at(address, 80)).unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    lab.headgate_ok(&["backend", "up", "web", "b12"]).unwrap();
    let mut living = Connection::open(&lab.client, at(V4, 80)).unwrap().unwrap();
    // Nothing is remembered, so a daemon that dies and comes back has nothing to lose.
    lab.crash().unwrap();
    living.echo("without a daemon").unwrap();
    lab.start().unwrap();
    living.echo("with the next one").unwrap();
}
