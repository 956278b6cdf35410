//! What a farm does to its flows beside choosing a backend, with real packets: helpers, packet marks, source addresses, hashes over
//! MAC addresses.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use headgate_image::netns::{Namespace, veth};
use headgate_tests::lab::{BACKENDS, Lab, backend, backend6, said};
use headgate_tests::server::{Connection, PATIENCE, Server, Tftp, ask_udp};
use socket2::{Domain, Socket, Type};

const VIP: [&str; 2] = ["172.16.1.1:80", "[2001:db8:1::1]:80"];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn servers(lab: &Lab) -> Vec<Server> {
    let both = |number| [(number, backend(number, 8080)), (number, backend6(number, 8080))];
    let start = |(number, address)| Server::start(&lab.backends, &format!("b{number}"), address).unwrap();
    BACKENDS.into_iter().flat_map(both).map(start).collect()
}

/// vsftpd in a namespace; it ends when dropped.
struct Ftp(Child);

impl Ftp {
    fn start(space: &Namespace, directory: &Path) -> Self {
        let configuration = directory.join("vsftpd.conf");
        let files = directory.join("files");
        std::fs::create_dir(&files).unwrap();
        std::fs::write(files.join("hello"), "hello from the backend\n").unwrap();
        let text = format!(
            "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nno_anon_password=YES\n\
             anon_root={}\nseccomp_sandbox=NO\none_process_model=NO\nconnect_from_port_20=YES\npasv_enable=YES\n\
             port_enable=YES\nsecure_chroot_dir=/var/run/vsftpd/empty\nrun_as_launching_user=NO\n",
            files.display()
        );
        std::fs::write(&configuration, text).unwrap();
        std::fs::create_dir_all("/var/run/vsftpd/empty").unwrap();
        let child = space.command("/usr/sbin/vsftpd").arg(&configuration).spawn().unwrap();
        let server = Self(child);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Connection::probe(space, at("127.0.0.1:21")).is_err() {
            assert!(Instant::now() < deadline, "vsftpd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for Ftp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fetches the file with curl, and what it said.
fn fetch(lab: &Lab, url: &str, options: &[&str]) -> (bool, String) {
    let mut curl = lab.client.command("curl");
    curl.args(["--silent", "--show-error", "--max-time", "5"]).args(options).arg(url);
    let output = curl.output().unwrap();
    (output.status.success() && output.stdout == b"hello from the backend\n", said(&output))
}

#[test]
fn ftp_opens_its_data_connections_in_both_ways() {
    let mut lab = Lab::new("ftp").unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let _server = Ftp::start(&lab.backends, directory.path());
    // A client that opens no port by itself: what comes from elsewhere than the farm is refused.
    let farm = |mode: &str, lines: &str| {
        format!(
            "[farms.files]\nmode = {mode:?}\nlisten = [\"172.16.1.1:2121\", \"[2001:db8:1::1]:2121\"]\n{lines}\n\
             backends.b11.address = \"172.16.2.11:21\"\nbackends.c11.address = \"[2001:db8:2::11]:21\"\n"
        )
    };
    let urls = ["ftp://172.16.1.1:2121/hello", "ftp://[2001:db8:1::1]:2121/hello"];
    let ways: [&[&str]; 4] = [
        &["--ftp-pasv", "--disable-epsv", "--no-ftp-skip-pasv-ip"],
        &["--ftp-pasv"],
        &["--ftp-port", "-", "--disable-eprt"],
        &["--ftp-port", "-"],
    ];
    for mode in ["snat", "dnat"] {
        lab.configure(&farm(mode, "helper = \"ftp\"")).unwrap();
        lab.start().unwrap();
        for (url, way) in urls.into_iter().flat_map(|url| ways.map(|way| (url, way))) {
            if url.contains('[') && (way.contains(&"--disable-epsv") || way.contains(&"--disable-eprt")) {
                continue; // PASV and PORT have no words for IPv6 (RFC 2428).
            }
            lab.gate.run("conntrack --flush").unwrap();
            let (good, what) = fetch(&lab, url, way);
            assert!(good, "{mode} {url} {way:?}: {what}\n{}", lab.gate.run("conntrack -L").unwrap());
            // The data connection is the backend's as well.
            let flows = lab.headgate_ok(&["connections", "files"]).unwrap();
            assert_eq!(flows.matches("tcp").count(), 2, "{mode} {url} {way:?}:\n{flows}");
        }
        let plan = lab.headgate(&["plan"]).unwrap();
        assert_eq!(plan.status.code(), Some(0), "the helper is not read back as it was written: {}", said(&plan));
        lab.stop().unwrap();
    }
    lab.once(&farm("snat", "")).unwrap();
    lab.gate.run("conntrack --flush").unwrap();
    assert!(!fetch(&lab, urls[0], ways[0]).0, "without the helper the client is told an address behind the box");
}

/// A TFTP server answers from a port that nobody has asked (RFC 1350, 4).
#[test]
fn tftp_is_answered_from_another_port() {
    let mut lab = Lab::new("tftp").unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(directory.path().join("hello"), "hello from the backend\n").unwrap();
    let _servers =
        ["172.16.2.11:69", "[2001:db8:2::11]:69"].map(|at| Tftp::start(&lab.backends, at, directory.path()).unwrap());
    let farm = |mode: &str, lines: &str| {
        format!(
            "[farms.files]\nmode = {mode:?}\nlisten = [\"172.16.1.1:6969/udp\", \"[2001:db8:1::1]:6969/udp\"]\n{lines}\n\
             backends.b11.address = \"172.16.2.11:69\"\nbackends.c11.address = \"[2001:db8:2::11]:69\"\n"
        )
    };
    let urls = ["tftp://172.16.1.1:6969/hello", "tftp://[2001:db8:1::1]:6969/hello"];
    for mode in ["snat", "dnat"] {
        lab.configure(&farm(mode, "helper = \"tftp\"")).unwrap();
        lab.start().unwrap();
        for url in urls {
            lab.gate.run("conntrack --flush").unwrap();
            let (good, what) = fetch(&lab, url, &["--tftp-no-options"]);
            assert!(good, "{mode} {url}: {what}\n{}", lab.gate.run("conntrack -L").unwrap());
            // What carries the file is the backend's as well, and the client has it from the farm's address.
            let flows = lab.headgate_ok(&["connections", "files"]).unwrap();
            assert_eq!(flows.matches("udp").count(), 2, "{mode} {url}:\n{flows}");
        }
        lab.stop().unwrap();
    }
    lab.once(&farm("snat", "")).unwrap();
    for url in urls {
        lab.gate.run("conntrack --flush").unwrap();
        assert!(!fetch(&lab, url, &[]).0, "without the helper nobody knows whose answer it is");
    }
}

/// Each helper that the kernel has is given to the flows of its farm, and the flows are served as before.
#[test]
fn every_helper_is_given_to_the_flows_of_its_farm() {
    let lab = Lab::new("helpers").unwrap();
    let _servers = servers(&lab);
    for (helper, protocols, families) in [
        ("sip", &["tcp", "udp"][..], 2),
        ("snmp", &["udp"], 1),
        ("pptp", &["tcp"], 1),
        ("ftp", &["tcp"], 2),
        ("tftp", &["udp"], 2),
    ] {
        let listen: Vec<String> = VIP[..families]
            .iter()
            .flat_map(|to| protocols.iter().map(move |protocol| format!("{to}/{protocol}")))
            .collect();
        let mut text = format!("[farms.web]\nlisten = {listen:?}\nhelper = {helper:?}\n");
        for (name, address) in [("b11", backend(11, 8080)), ("c11", backend6(11, 8080))].into_iter().take(families) {
            text += &format!("backends.{name}.address = \"{address}\"\n");
        }
        lab.configure(&text).unwrap();
        let applied = lab.headgated(&["--once"]).unwrap();
        assert!(applied.status.success() && !said(&applied).contains("no helper"), "{helper}: {}", said(&applied));
        lab.gate.run("conntrack --flush").unwrap();
        let mut kept = Vec::new();
        for to in &VIP[..families] {
            for protocol in protocols {
                match (*protocol, helper) {
                    ("tcp", _) => kept.push(Connection::open(&lab.client, at(to)).unwrap().unwrap()),
                    // It drops what is no SNMP, our server's answer among it.
                    (_, "snmp") => assert!(get(&lab, to).is_err()),
                    _ => drop(ask_udp(&lab.client, at(to)).unwrap().unwrap()),
                }
                let family = if to.contains('[') { "ipv6" } else { "ipv4" };
                let flows = lab.gate.run(&format!("conntrack -L -f {family} -p {protocol}")).unwrap();
                assert_eq!(
                    flows.matches(&format!(" helper={helper} ")).count(),
                    1,
                    "{helper} {to} {protocol}: {flows}"
                );
                assert_eq!(flows.matches("helper=").count(), 1, "{helper} {to} {protocol}: {flows}");
            }
        }
        for connection in &mut kept {
            connection.echo("as before").unwrap();
        }
    }
}

/// Asks a farm by a GetRequest of SNMPv1 (RFC 1157) for nothing in particular.
fn get(lab: &Lab, to: &str) -> std::io::Result<usize> {
    let socket = lab.client.within(|| UdpSocket::bind("172.16.1.10:0")).unwrap()?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    let community = b"\x30\x26\x02\x01\x00\x04\x06public";
    let request =
        b"\xa0\x19\x02\x04\x00\x00\x00\x01\x02\x01\x00\x02\x01\x00\x30\x0b\x30\x09\x06\x05\x2b\x06\x01\x02\x01\x05\x00";
    socket.send_to(&[&community[..], request].concat(), to)?;
    socket.recv(&mut [0; 64])
}

/// A call: what the client says of its own address and port is translated, and the sound that the backend sends there comes to it.
#[test]
fn sip_brings_the_sound_of_a_call_to_its_client() {
    let lab = Lab::new("sip").unwrap();
    let callee = lab.backends.within(|| UdpSocket::bind("172.16.2.11:5060").unwrap()).unwrap();
    let caller = lab.client.within(|| UdpSocket::bind("172.16.1.10:5060").unwrap()).unwrap();
    let sound = lab.client.within(|| UdpSocket::bind("172.16.1.10:4000").unwrap()).unwrap();
    for socket in [&callee, &caller, &sound] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let session =
        "v=0\r\no=alice 1 1 IN IP4 172.16.1.10\r\ns=-\r\nc=IN IP4 172.16.1.10\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
    let invitation = format!(
        "INVITE sip:bob@172.16.1.1 SIP/2.0\r\nVia: SIP/2.0/UDP 172.16.1.10:5060;branch=z9hG4bK1\r\n\
         From: <sip:alice@172.16.1.10>;tag=1\r\nTo: <sip:bob@172.16.1.1>\r\nCall-ID: 1@172.16.1.10\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:alice@172.16.1.10:5060>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{session}",
        session.len()
    );
    let farm = |lines: &str| {
        format!(
            "[farms.calls]\nlisten = \"172.16.1.1:5060/udp\"\n{lines}\nbackends.b11.address = \"172.16.2.11:5060\"\n"
        )
    };
    // What the callee is told of the address for the sound.
    let told = |farm: &str| {
        lab.once(farm).unwrap();
        lab.gate.run("conntrack --flush").unwrap();
        caller.send_to(invitation.as_bytes(), "172.16.1.1:5060").unwrap();
        let mut buffer = [0; 2048];
        let (length, _) = callee.recv_from(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let address = text.lines().find_map(|line| line.strip_prefix("c=IN IP4 ")).unwrap().to_owned();
        let port = text.lines().find_map(|line| line.strip_prefix("m=audio ")?.split(' ').next()).unwrap().to_owned();
        (address, port)
    };
    assert_eq!(told(&farm("")), ("172.16.1.10".to_owned(), "4000".to_owned()), "without the helper");
    let (address, port) = told(&farm("helper = \"sip\""));
    assert_eq!(address, "172.16.2.1", "the callee would send to an address that is not the box's");
    let voice = lab.backends.within(|| UdpSocket::bind("172.16.2.11:0").unwrap()).unwrap();
    voice.send_to(b"hello", format!("{address}:{port}")).unwrap();
    let mut buffer = [0; 64];
    let (length, _) = sound.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"hello");
}

/// A second way from the box to the backends, and an address behind both: 10.9.9.9 and 2001:db8:9::9.
fn two_ways(lab: &Lab) -> Vec<Server> {
    veth((&lab.gate, "second"), (&lab.backends, "eth1")).unwrap();
    for (space, device, addresses) in [
        (&lab.gate, "second", ["172.16.3.1/24", "2001:db8:3::1/64"]),
        (&lab.backends, "eth1", ["172.16.3.11/24", "2001:db8:3::11/64"]),
    ] {
        for address in addresses {
            space.ip(&["address", "add", address, "dev", device, "nodad"]).unwrap();
        }
    }
    for address in ["10.9.9.9/32", "2001:db8:9::9/128"] {
        lab.backends.ip(&["address", "add", address, "dev", "lo", "nodad"]).unwrap();
    }
    for (family, to, main, second) in
        [("-4", "10.9.9.9", "172.16.2.11", "172.16.3.11"), ("-6", "2001:db8:9::9", "2001:db8:2::11", "2001:db8:3::11")]
    {
        lab.gate.ip(&[family, "route", "add", to, "via", main]).unwrap();
        lab.gate.ip(&[family, "route", "add", to, "via", second, "table", "100"]).unwrap();
        lab.gate.ip(&[family, "rule", "add", "fwmark", "0x11", "table", "100"]).unwrap();
    }
    lab.backends.run("nft add table inet seen").unwrap();
    lab.backends.run("nft add chain inet seen in { type filter hook prerouting priority 0; }").unwrap();
    for device in ["eth0", "eth1"] {
        lab.backends.run(&format!("nft add rule inet seen in iifname {device} tcp dport 8080 counter")).unwrap();
    }
    ["10.9.9.9:8080", "[2001:db8:9::9]:8080"]
        .map(|address| Server::start(&lab.backends, "far", at(address)).unwrap())
        .into()
}

/// Packets to port 8080 that came by each way.
fn seen(lab: &Lab) -> [usize; 2] {
    let text = lab.backends.run("nft list chain inet seen in").unwrap();
    ["eth0", "eth1"].map(|device| {
        let line = text.lines().find(|line| line.contains(device)).unwrap();
        line.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    })
}

#[test]
fn marked_packets_take_another_route_from_the_first_to_the_last() {
    let lab = Lab::new("mark").unwrap();
    let _far = two_ways(&lab);
    let farm = |mode: &str, farm_mark: &str, backend_mark: &str| {
        let mut text = format!(
            "[farms.web]\nmode = {mode:?}\nlisten = [\"172.16.1.1:80\", \"[2001:db8:1::1]:80\"]\n{farm_mark}\n\
             backends.b.address = \"10.9.9.9:8080\"\nbackends.c.address = \"[2001:db8:9::9]:8080\"\n"
        );
        if !backend_mark.is_empty() {
            text += &format!("backends.b.{backend_mark}\nbackends.c.{backend_mark}\n");
        }
        text
    };
    let cases = [
        ("snat", "", "", false),
        ("snat", "mark = 0x11", "", true),
        ("dnat", "mark = 0x11", "", true),
        ("snat", "mark = 0x10", "mark = 0x11", true),
        ("snat", "mark = 0x11", "mark = 0x10", false),
    ];
    for (mode, of_farm, of_backend, marked) in cases {
        lab.once(&farm(mode, of_farm, of_backend)).unwrap();
        for (space, to) in [(&lab.client, VIP[0]), (&lab.client, VIP[1]), (&lab.gate, VIP[0]), (&lab.gate, VIP[1])] {
            let before = seen(&lab);
            let mut connection =
                Connection::open(space, at(to)).unwrap().unwrap_or_else(|e| panic!("{mode} {of_farm} {to}: {e}"));
            for _ in 0..5 {
                connection.echo("along the same way").unwrap();
            }
            let after = seen(&lab);
            let by = [after[0] - before[0], after[1] - before[1]];
            let (way, other) = if marked { (by[1], by[0]) } else { (by[0], by[1]) };
            assert!(way >= 7 && other == 0, "{mode} farm {of_farm:?} backend {of_backend:?} {to}: {by:?}");
        }
    }
    // A connection of somebody else keeps its mark, and its packets theirs.
    lab.once(&farm("snat", "mark = 0x11", "")).unwrap();
    lab.gate.run("nft add table inet foreign").unwrap();
    lab.gate.run("nft add chain inet foreign early { type filter hook prerouting priority -160; }").unwrap();
    lab.gate.run("nft add rule inet foreign early tcp dport 8080 ct mark set 0x1234 meta mark set 0x77").unwrap();
    lab.gate.run("nft add chain inet foreign late { type filter hook forward priority 0; }").unwrap();
    lab.gate.run("nft add rule inet foreign late tcp dport 8080 ct mark 0x1234 meta mark 0x77 counter").unwrap();
    let _own = Server::start(&lab.backends, "own", backend(11, 8080)).unwrap();
    Connection::open(&lab.client, backend(11, 8080)).unwrap().unwrap().echo("not a farm's").unwrap();
    let counted = lab.gate.run("nft list chain inet foreign late").unwrap();
    assert!(!counted.contains("packets 0"), "{counted}");
}

#[test]
fn a_pool_of_sources_is_used_evenly_and_comes_back() {
    let lab = Lab::new("pool").unwrap();
    let _servers = servers(&lab);
    let pool = ["172.16.2.101", "172.16.2.102", "172.16.2.103", "2001:db8:2::101", "2001:db8:2::102"];
    let text = format!(
        "[farms.web]\nlisten = [\"172.16.1.1:80/tcp\", \"172.16.1.1:80/udp\", \"[2001:db8:1::1]:80/tcp\", \"[2001:db8:1::1]:80/udp\"]\n\
         source-addresses = {pool:?}\nbackends.b11.address = \"172.16.2.11:8080\"\nbackends.c11.address = \"[2001:db8:2::11]:8080\"\n\
         backends.b12.address = \"172.16.2.12:8080\"\nbackends.b12.source-address = \"172.16.2.104\"\n"
    );
    let carried = |lab: &Lab| {
        let addresses = lab.gate.ip(&["-br", "address", "show", "dev", "backend"]).unwrap();
        pool.iter().chain(&["172.16.2.104"]).all(|address| addresses.contains(&format!("{address}/")))
    };
    lab.once(&text).unwrap();
    assert!(carried(&lab));
    let sources = |lab: &Lab, to: &str, flows: usize| {
        let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
        for _ in 0..flows {
            let tcp = Connection::open(&lab.client, at(to)).unwrap().unwrap().answer;
            let udp = ask_udp(&lab.client, at(to)).unwrap().unwrap();
            for answer in [tcp, udp] {
                *seen.entry((answer.server, answer.client.to_string())).or_default() += 1;
            }
        }
        seen
    };
    let v4 = sources(&lab, VIP[0], 12);
    let expected = [
        ("b11", "172.16.2.101", 4),
        ("b11", "172.16.2.102", 4),
        ("b11", "172.16.2.103", 4),
        ("b12", "172.16.2.104", 12),
    ];
    let expected = expected.map(|(server, source, count)| ((server.to_owned(), source.to_owned()), count));
    assert_eq!(v4, expected.into());
    let v6 = sources(&lab, VIP[1], 6);
    assert_eq!(v6.values().copied().collect::<Vec<_>>(), [6, 6], "{v6:?}");
    lab.gate.ip(&["address", "del", "172.16.2.102/32", "dev", "backend"]).unwrap();
    lab.once(&text).unwrap();
    assert!(carried(&lab), "somebody took one away");
    let far = text.replace("172.16.2.103", "198.51.100.7");
    lab.configure(&far).unwrap();
    let output = lab.headgated(&["--once"]).unwrap();
    assert!(said(&output).contains("198.51.100.7 is on no interface"), "{}", said(&output));
    assert!(lab.headgated(&["--flush"]).unwrap().status.success());
    assert!(!carried(&lab), "they go with the farm");
}

/// Connects from this address and port, and says whom `server` sees.
fn seen_from(lab: &Lab, server: &TcpListener, source: &str, to: &str) -> (TcpStream, TcpStream, SocketAddr) {
    let connect = || {
        let socket = Socket::new(Domain::for_address(at(to)), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&at(source).into()).unwrap();
        socket.connect_timeout(&at(to).into(), PATIENCE).unwrap();
        TcpStream::from(socket)
    };
    let client = lab.client.within(connect).unwrap();
    let (stream, seen) = server.accept().unwrap();
    (client, stream, seen)
}

#[test]
fn tcp_keeps_its_source_port_while_it_is_free_and_udp_does_not() {
    let lab = Lab::new("ports").unwrap();
    let text = "[farms.web]\nlisten = [\"172.16.1.1:80/tcp\", \"172.16.1.1:80/udp\", \"[2001:db8:1::1]:80/tcp\", \"[2001:db8:1::1]:80/udp\"]\n\
        backends.b11.address = \"172.16.2.11:8080\"\nbackends.c11.address = \"[2001:db8:2::11]:8080\"\n";
    lab.once(text).unwrap();
    for (to, address, clients) in [
        (VIP[0], backend(11, 8080), ["172.16.1.10", "172.16.1.77"]),
        (VIP[1], backend6(11, 8080), ["[2001:db8:1::10]", "[2001:db8:1::77]"]),
    ] {
        let other = clients[1].trim_matches(['[', ']']);
        let prefix = if address.is_ipv4() { "24" } else { "64" };
        lab.client.ip(&["address", "add", &format!("{other}/{prefix}"), "dev", "eth0", "nodad"]).unwrap();
        let (tcp, udp) = lab.backends.within(|| (TcpListener::bind(address), UdpSocket::bind(address))).unwrap();
        let (tcp, udp) = (tcp.unwrap(), udp.unwrap());
        let [first, second] = clients.map(|client| format!("{client}:4711"));
        let (client, stream, seen) = seen_from(&lab, &tcp, &first, to);
        assert_eq!(seen.port(), 4711);
        let (_other, _stream, seen) = seen_from(&lab, &tcp, &second, to);
        assert!(seen.port() >= 1024 && seen.port() != 4711, "{seen}: two clients, one port");
        // The backend closes first and remembers the connection: its client comes again from the same port.
        drop(stream);
        let mut nothing = Vec::new();
        (&client).read_to_end(&mut nothing).unwrap();
        drop(client);
        let (_client, _stream, seen) = seen_from(&lab, &tcp, &first, to);
        assert_eq!(seen.port(), 4711);
        let drawn = (0..4_u16).map(|number| {
            let source = at(&format!("{}:{}", clients[0], 4811 + number));
            let socket = lab.client.within(|| UdpSocket::bind(source)).unwrap().unwrap();
            socket.send_to(b"hello", at(to)).unwrap();
            let seen = udp.recv_from(&mut [0; 16]).unwrap().1;
            seen.port() == source.port()
        });
        assert!(drawn.filter(|kept| *kept).count() < 2, "each port is kept once in 64,512 times");
    }
}

#[test]
fn a_hash_reads_mac_addresses_where_there_are_any() {
    let lab = Lab::new("mac").unwrap();
    let _servers = servers(&lab);
    let text = |fields: &[&str]| {
        let mut text = format!(
            "[farms.web]\nlisten = [\"172.16.1.1:80/udp\", \"[2001:db8:1::1]:80/udp\"]\nscheduler = \"maglev\"\nhash = {fields:?}\n"
        );
        for number in BACKENDS {
            text += &format!(
                "backends.b{number}.address = \"{}\"\nbackends.c{number}.address = \"{}\"\n",
                backend(number, 8080),
                backend6(number, 8080)
            );
        }
        text
    };
    let asked = |space: &Namespace, to: &str, times: usize| -> BTreeSet<String> {
        (0..times).map(|_| ask_udp(space, at(to)).unwrap().unwrap().server).collect()
    };
    lab.once(&text(&["source-mac"])).unwrap();
    for to in VIP {
        let mut reached = BTreeSet::new();
        for last in 1..=12 {
            lab.client.ip(&["link", "set", "eth0", "address", &format!("02:00:00:00:01:{last:02x}")]).unwrap();
            lab.client.ip(&["neigh", "flush", "all"]).unwrap();
            lab.gate.ip(&["neigh", "flush", "dev", "service"]).unwrap();
            // A port that comes again within two minutes would be an old card's flow still.
            lab.gate.run("conntrack --flush").unwrap();
            let one = asked(&lab.client, to, 4);
            assert_eq!(one.len(), 1, "one card, several backends: {one:?}");
            reached.extend(one);
        }
        assert!(reached.len() > 1, "twelve cards, one backend");
        // The box has no card towards itself: all it sends has one source address.
        assert_eq!(asked(&lab.gate, to, 6).len(), 1);
    }
    lab.once(&text(&["source-mac", "destination-mac", "source-port"])).unwrap();
    for to in VIP {
        assert!(asked(&lab.client, to, 20).len() > 1, "ports differ");
        assert!(asked(&lab.gate, to, 20).len() > 1, "the box goes by the ports");
    }
}
