//! Real packets against the limits of farms: each test has its own three namespaces and the real kernel.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use headgate_tests::lab::{Lab, backend, backend6};
use headgate_tests::packets;
use headgate_tests::server::{Connection, Server, ask_udp};

const V4: &str = "172.16.1.1:80";
const V6: &str = "[2001:db8:1::1]:80";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A farm `web` on TCP and UDP, both families, one backend each.
fn farm(extra: &str) -> String {
    format!(
        "[farms.web]\nlisten = [\"{V4}\", \"{V4}/udp\", \"{V6}\", \"{V6}/udp\"]\n\
         backends.b.address = \"172.16.2.11:8080\"\nbackends.b6.address = \"[2001:db8:2::11]:8080\"\n{extra}"
    )
}

/// The lab with the farm and its servers; the client has the addresses …10 and …20 of both families.
fn lab(label: &str, extra: &str) -> (Lab, [Server; 2]) {
    let lab = Lab::new(label).unwrap();
    for address in ["172.16.1.20/24", "2001:db8:1::20/64"] {
        lab.client.ip(&["address", "add", address, "dev", "eth0", "nodad"]).unwrap();
    }
    let servers = [backend(11, 8080), backend6(11, 8080)];
    let servers = servers.map(|address| Server::start(&lab.backends, "b", address).unwrap());
    lab.once(&farm(extra)).unwrap();
    (lab, servers)
}

/// From now on the client talks to the farm from …`number`.
fn become_client(lab: &Lab, number: u8) {
    for (to, from) in [("172.16.1.1", "172.16.1."), ("2001:db8:1::1", "2001:db8:1::")] {
        let from = format!("{from}{number}");
        lab.client.ip(&["route", "replace", to, "dev", "eth0", "src", &from]).unwrap();
    }
}

/// Time for one SYN and its answer; the next would come after a second.
const ONE_SYN: Duration = Duration::from_millis(500);

/// One SYN: what becomes of it.
fn knock(lab: &Lab, to: &str) -> Result<TcpStream, ErrorKind> {
    let connect = || -> io::Result<TcpStream> { TcpStream::connect_timeout(&at(to), ONE_SYN) };
    lab.client.within(connect).unwrap().map_err(|error| error.kind())
}

/// Knocks until it is refused, `most` times at most: how often it was let in.
fn let_in(lab: &Lab, to: &str, most: usize) -> usize {
    (0..most).take_while(|_| knock(lab, to).is_ok()).count()
}

/// How many packets the farm refused for a reason.
fn refused(lab: &Lab, reason: &str) -> u64 {
    let table = headgate_plan::maps::Place::Inet.table();
    let count = || headgate_nft::Socket::open().unwrap().counters(&table).unwrap();
    lab.gate.within(count).unwrap()[&*format!("web/{reason}")].packets
}

fn open(lab: &Lab, to: &str) -> Connection {
    Connection::open(&lab.client, at(to)).unwrap().unwrap_or_else(|error| panic!("{to}: {error}"))
}

#[test]
fn new_connections_of_each_client_are_limited_to_the_packet() {
    let (lab, _servers) = lab("rate", "[farms.web.limits]\nnew-connections = \"3/hour\"\naction = \"reject\"");
    for to in [V4, V6] {
        become_client(&lab, 10);
        let mut old = open(&lab, to);
        assert_eq!(let_in(&lab, to, 9), 2, "{to}: three of an hour, one of them is taken");
        assert_eq!(knock(&lab, to).unwrap_err(), ErrorKind::ConnectionRefused);
        assert_eq!(ask_udp(&lab.client, at(to)).unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        become_client(&lab, 20);
        assert_eq!(let_in(&lab, to, 9), 3, "{to}: another client has its own");
        for _ in 0..20 {
            old.echo("an established connection does not meet the limit").unwrap();
        }
    }
    assert_eq!(
        refused(&lab, "new-connections"),
        8,
        "in each family one knock too many of each client, one more, and a datagram"
    );
    // The set keeps a limit with each client: another limit must reach them at once.
    lab.once(&farm("[farms.web.limits]\nnew-connections = \"3/hour burst 5\"\naction = \"drop\"")).unwrap();
    assert_eq!(let_in(&lab, V4, 9), 5);
    assert_eq!(knock(&lab, V4).unwrap_err(), ErrorKind::TimedOut, "dropped in silence");
    lab.once(&farm("[farms.web.limits]\nnew-connections = \"3/hour burst 4\"\naction = \"log\"")).unwrap();
    assert_eq!(let_in(&lab, V4, 9), 9, "only counted");
    assert_eq!(refused(&lab, "new-connections"), 8 + 2 + 5, "a reload does not reset what was counted");
}

#[test]
fn both_families_share_what_all_clients_may_open_together() {
    let (lab, _servers) = lab("total", "[farms.web.limits]\nnew-connections-total = \"6/hour\"\naction = \"reject\"");
    for (to, number) in [(V4, 10), (V6, 10), (V4, 20), (V6, 20), (V4, 10), (V6, 20)] {
        become_client(&lab, number);
        knock(&lab, to).unwrap();
    }
    for to in [V4, V6] {
        assert_eq!(knock(&lab, to).unwrap_err(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_client_has_so_many_connections_and_gets_another_when_one_is_closed() {
    let (lab, _servers) = lab("conns", "[farms.web.limits]\nconnections-per-client = 3\naction = \"reject\"");
    for to in [V4, V6] {
        become_client(&lab, 10);
        let mut held: Vec<Connection> = (0..3).map(|_| open(&lab, to)).collect();
        for _ in 0..5 {
            assert_eq!(knock(&lab, to).unwrap_err(), ErrorKind::ConnectionRefused, "{to}");
        }
        become_client(&lab, 20);
        drop(open(&lab, to));
        become_client(&lab, 10);
        held.pop();
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = knock(&lab, to) {
            assert!(Instant::now() < deadline, "{to}: {error}, although one was closed");
            std::thread::sleep(Duration::from_millis(50));
        }
        for connection in &mut held {
            connection.echo("still here").unwrap();
        }
    }
}

#[test]
fn an_offender_stays_out_for_its_time_and_nobody_else() {
    let limits = "[farms.web.limits]\nnew-connections = \"10/second burst 2\"\nban = \"2s\"\naction = \"reject\"";
    let (lab, _servers) = lab("ban", limits);
    for to in [V4, V6] {
        become_client(&lab, 10);
        let mut old = open(&lab, to);
        let banned = loop {
            if knock(&lab, to).is_err() {
                break Instant::now();
            }
        };
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(knock(&lab, to).unwrap_err(), ErrorKind::ConnectionRefused, "{to}: its bucket is full again");
        become_client(&lab, 20);
        knock(&lab, to).unwrap();
        become_client(&lab, 10);
        old.echo("a ban is for new connections").unwrap();
        let back = loop {
            if knock(&lab, to).is_ok() {
                break banned.elapsed();
            }
            assert!(banned.elapsed() < Duration::from_secs(6), "{to}: banned for ever");
            std::thread::sleep(Duration::from_millis(50));
        };
        // The kernel keeps time in jiffies of 4 ms or 10 ms.
        assert!(back > Duration::from_millis(1900), "{to}: banned for {back:?} only");
    }
}

/// The farm with policies; `lists/big.txt` is the file of policy `big`.
fn with_policies(names: &str, policies: &str) -> String {
    format!("{}\n{policies}", farm(&format!("policies = [{names}]")))
}

#[test]
fn the_first_policy_that_matches_decides_and_nobody_is_the_opposite_of_the_last() {
    let (lab, _servers) = lab("policies", "");
    let policies = "[policies.me]\naction = \"allow\"\nelements = [\"172.16.1.10\", \"2001:db8:1::10\"]\n\
                    [policies.net]\naction = \"deny\"\nelements = [\"172.16.1.0/24\", \"2001:db8:1::/64\"]\n\
                    [policies.else]\naction = \"deny\"\nelements = [\"198.51.100.0/24\"]\n";
    // Names in order; whether …10 and …20 are let in.
    let table = [
        ("'me', 'net'", [true, false]),
        ("'net', 'me'", [false, false]),
        ("'me'", [true, false]),
        ("'else', 'me'", [true, false]),
        ("'net'", [false, false]),
        ("'else'", [true, true]),
        ("'me', 'else'", [true, true]),
    ];
    for (names, expected) in table {
        lab.once(&with_policies(names, policies)).unwrap();
        for (number, expected) in [10, 20].into_iter().zip(expected) {
            become_client(&lab, number);
            for to in [V4, V6] {
                assert_eq!(knock(&lab, to).is_ok(), expected, "policies {names}: {number} to {to}");
            }
        }
    }
    // Whom a policy allows still meets the limits.
    let limit = "[farms.web.limits]\nnew-connections = \"2/hour\"\naction = \"reject\"\n";
    lab.once(&with_policies("'me', 'net'", &[limit, policies].concat())).unwrap();
    become_client(&lab, 10);
    assert_eq!(let_in(&lab, V4, 9), 2);
    become_client(&lab, 20);
    assert_eq!(knock(&lab, V4).unwrap_err(), ErrorKind::ConnectionRefused, "rejected, as the limits say");
}

/// So many prefixes of /32 and /128, no two of which touch, and what else is given.
fn long_list(count: u32, begin: u32, more: &[&str]) -> String {
    let mut text = String::from("# made up\n");
    for number in 0..count / 2 {
        let bits = begin + number * 2;
        text += &format!("{}\n2001:db8:f::{:x}:{:x}\n", std::net::Ipv4Addr::from(bits), bits >> 16, bits & 0xffff);
    }
    for line in more {
        text += line;
        text.push('\n');
    }
    text
}

#[test]
fn a_hundred_thousand_prefixes_change_under_traffic_without_a_lost_flow() {
    let (mut lab, _servers) = lab("lists", "");
    let big = "[policies.big]\naction = \"allow\"\nfile = \"lists/big.txt\"\n";
    let directory = lab.root().join("etc/headgate/lists");
    std::fs::create_dir(&directory).unwrap();
    // The client is in both, in ranges that begin elsewhere: the elements of one lie within a range of the other.
    let wide = ["172.16.1.0/28", "2001:db8:1::/123"];
    let narrow = ["172.16.1.0/29", "172.16.1.9", "172.16.1.10/31", "2001:db8:1::/125", "2001:db8:1::10"];
    let lists: [&[&str]; 2] = [&wide, &narrow];
    let write = |begin: u32, more: &[&str]| {
        std::fs::write(directory.join("big.txt"), long_list(100_000, begin, more)).unwrap();
    };
    write(0x0a00_0000, &wide);
    lab.configure(&with_policies("'big'", big)).unwrap();
    lab.start().unwrap();
    become_client(&lab, 20);
    assert!(knock(&lab, V4).is_err() && knock(&lab, V6).is_err(), "nobody has let it in");
    become_client(&lab, 10);
    let refused = refused(&lab, "policies");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut opened = 0_u32;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for to in [V4, V6] {
                    // With patience: while other tests run, a SYN can wait for longer than one that nobody answers.
                    drop(open(&lab, to));
                    opened += 1;
                }
            }
            opened
        });
        for round in 1..=4 {
            // Half of the list stays, half is another.
            write(0x0a00_0000 + round * 50_000, lists[round as usize % 2]);
            let start = Instant::now();
            lab.headgate_ok(&["apply"]).unwrap();
            println!("100,000 prefixes, 50,000 of them other ones: applied in {:?}", start.elapsed());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let opened = traffic.join().unwrap();
        println!("{opened} flows meanwhile");
        assert!(opened > 50, "{opened} flows say little");
    });
    assert_eq!(self::refused(&lab, "policies"), refused, "one was refused, and let in when it came again");
    // A signal reads the list too, and a list that is broken changes nothing.
    write(0x0a00_0000, &["172.16.1.20", "2001:db8:1::20"]);
    lab.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    become_client(&lab, 20);
    let deadline = Instant::now() + Duration::from_secs(30);
    while knock(&lab, V4).is_err() || knock(&lab, V6).is_err() {
        assert!(Instant::now() < deadline, "the list was not read again");
    }
    write(0x0a00_0000, &["172.16.1.300"]);
    let said = headgate_tests::lab::said(&lab.headgate(&["apply"]).unwrap());
    assert!(said.contains("lists/big.txt:100002:1"), "{said}");
    drop(open(&lab, V4));
    // Back to a generation is back to its list, which is not on the disk any more.
    std::fs::remove_file(directory.join("big.txt")).unwrap();
    lab.headgate_ok(&["rollback"]).unwrap();
    assert!(knock(&lab, V4).is_err());
    become_client(&lab, 10);
    drop(open(&lab, V4));
}

/// A full set limits those whom it knows, and lets others pass: stated so in docs/dataplane.md.
#[test]
fn a_flood_of_forged_sources_cannot_shut_a_farm() {
    let extra = "state = \"down\"\non-empty = \"reject\"\n[farms.web.limits]\nnew-connections = \"1/hour\"";
    let (lab, _servers) = lab("full", extra);
    become_client(&lab, 10);
    assert_eq!(knock(&lab, V4).unwrap_err(), ErrorKind::ConnectionRefused, "past the guard: nobody serves");
    assert_eq!(knock(&lab, V4).unwrap_err(), ErrorKind::TimedOut, "limited");
    lab.client.within(|| flood(V4.parse().unwrap(), 70_000)).unwrap().unwrap();
    assert_eq!(knock(&lab, V4).unwrap_err(), ErrorKind::TimedOut, "whom the set knows stays limited");
    become_client(&lab, 20);
    for _ in 0..3 {
        assert_eq!(knock(&lab, V4).unwrap_err(), ErrorKind::ConnectionRefused, "whom it does not know passes");
    }
}

/// Sends one UDP datagram from each of so many addresses above 10.1.0.0.
fn flood(to: SocketAddr, count: u32) -> io::Result<()> {
    use nix::libc;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let IpAddr::V4(target) = to.ip() else { return Err(ErrorKind::Unsupported.into()) };
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    nix::errno::Errno::result(socket)?;
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let address = nix::sys::socket::SockaddrIn::from(std::net::SocketAddrV4::new(target, 0));
    for number in 0..count {
        let source = (0x0a01_0000 + number).to_be_bytes();
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(source);
        packet.extend(target.octets());
        packet.extend([0x10, 0x00]);
        packet.extend(to.port().to_be_bytes());
        packet.extend([0, 8, 0, 0]);
        loop {
            let flags = nix::sys::socket::MsgFlags::empty();
            match nix::sys::socket::sendto(socket.as_raw_fd(), &packet, &address, flags) {
                Ok(_) => break,
                Err(nix::errno::Errno::ENOBUFS) => std::thread::sleep(Duration::from_millis(1)),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// What a farm refused, by reason.
fn shown_refused(lab: &Lab) -> serde_json::Value {
    let shown = lab.headgate_ok(&["farm", "show", "web", "--json"]).unwrap();
    serde_json::from_str::<serde_json::Value>(&shown).unwrap()["refused"].clone()
}

#[test]
fn what_no_handshake_could_produce_is_dropped() {
    use socket2::{Domain, Protocol, Socket, Type};
    let (mut lab, _servers) = lab("strict", "[farms.web.limits]\nstrict-tcp = true\naction = \"reject\"\n");
    lab.start().unwrap();
    let mut living = [V4, V6].map(|to| open(&lab, to));
    // NULL, FIN, PSH, Xmas, SYN FIN, SYN RST, FIN RST, and the middle of connections that nobody opened.
    let flags = [0, 0x01, 0x08, 0x29, 0x03, 0x06, 0x05, 0x10, 0x18, 0x11];
    let mut sent = 0;
    for (to, from) in [(V4, "172.16.1.10"), (V6, "2001:db8:1::10")] {
        let (to, from) = (at(to), from.parse::<IpAddr>().unwrap());
        let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = lab.client.within(|| Socket::new(domain, Type::RAW, Some(Protocol::TCP))).unwrap().unwrap();
        for (port, flags) in (20_000..).zip(flags) {
            let segment = packets::segment(from, to.ip(), (port, 80), flags);
            socket.send_to(&segment, &SocketAddr::new(to.ip(), 0).into()).unwrap();
            sent += 1;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    while shown_refused(&lab)["strict-tcp"] != sent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(shown_refused(&lab), serde_json::json!({ "strict-tcp": sent }));
    for family in ["ipv4", "ipv6"] {
        let listed = lab.gate.run(&format!("conntrack -L -f {family}")).unwrap();
        assert!(listed.contains("dport=80 ") && !listed.contains("sport=200"), "a flow was made of it: {listed}");
    }
    for connection in &mut living {
        connection.echo("an honest connection").unwrap();
    }
}

#[test]
fn resets_are_limited_per_client() {
    let (mut lab, _servers) = lab("resets", "[farms.web.limits]\ntcp-resets = \"2/hour\"\n");
    lab.start().unwrap();
    // Connection tracking forgets a flow that was reset after 10 s.
    lab.gate.run("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_close=120").unwrap();
    let reset = |to: &str| {
        let mut stream = knock(&lab, to).unwrap();
        // Its greeting first: one that came behind the reset would be answered with another.
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        assert!(stream.read(&mut [0; 64]).unwrap() > 0);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
    };
    let entries = |state: &str| lab.gate.run(&format!("conntrack -L -p tcp --state {state}")).unwrap().lines().count();
    let told = || shown_refused(&lab)["tcp-resets"].as_u64().unwrap();
    for to in [V4, V6] {
        become_client(&lab, 10);
        let before = told();
        let mut bystander = open(&lab, to);
        (0..2).for_each(|_| reset(to));
        // Two are within the rate: connection tracking hears of both, so their flows end.
        let deadline = Instant::now() + Duration::from_secs(3);
        while entries("CLOSE") < 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!((told(), entries("CLOSE")), (before, 2), "{to}: within the rate");
        let established = entries("ESTABLISHED");
        (0..3).for_each(|_| reset(to));
        let deadline = Instant::now() + Duration::from_secs(3);
        while told() < before + 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(told(), before + 3, "{to}");
        // What is refused connection tracking has not seen: the flows live on.
        assert_eq!((entries("CLOSE"), entries("ESTABLISHED")), (2, established + 3), "{to}");
        bystander.echo("nobody else is touched").unwrap();
        become_client(&lab, 20);
        open(&lab, to).echo("another client").unwrap();
        lab.gate.run("conntrack -F").unwrap();
    }
}

#[test]
fn a_policy_holds_for_each_packet_of_a_stateless_farm() {
    let (lab, _servers) = lab("policy-s", "");
    let text = "[policies.out]\naction = \"deny\"\nelements = [\"172.16.1.20\", \"2001:db8:1::20\"]\n\
                [farms.web]\nmode = \"stateless\"\npolicies = [\"out\"]\n\
                listen = [\"172.16.1.1:80/udp\", \"[2001:db8:1::1]:80/udp\"]\n\
                backends.b.address = \"172.16.2.11:8080\"\nbackends.b6.address = \"[2001:db8:2::11]:8080\"\n";
    lab.once(text).unwrap();
    for to in [V4, V6] {
        become_client(&lab, 10);
        ask_udp(&lab.client, at(to)).unwrap().unwrap();
        become_client(&lab, 20);
        let kind = ask_udp(&lab.client, at(to)).unwrap().unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{to}: {kind}");
        become_client(&lab, 10);
        ask_udp(&lab.client, at(to)).unwrap().unwrap();
    }
    assert_eq!(refused(&lab, "policies"), 2);
}

#[test]
fn a_service_of_the_box_itself_can_be_strict() {
    use socket2::{Domain, Protocol, Socket, Type};
    let lab = Lab::new("strict-l").unwrap();
    let (four, six) = ("172.16.1.254:7000", "[2001:db8:1::fe]:7000");
    let listens = [four, six].map(|to| lab.gate.within(|| std::net::TcpListener::bind(at(to)).unwrap()).unwrap());
    lab.once(&format!(
        "[farms.web]\nmode = \"local\"\nlisten = [\"{four}\", \"{six}\"]\n\
         [farms.web.limits]\nstrict-tcp = true\ntcp-resets = \"1/hour\"\n"
    ))
    .unwrap();
    for (listener, to, from) in [(&listens[0], four, "172.16.1.10"), (&listens[1], six, "2001:db8:1::10")] {
        let (to, from) = (at(to), from.parse::<IpAddr>().unwrap());
        let mut living = knock(&lab, &to.to_string()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = lab.client.within(|| Socket::new(domain, Type::RAW, Some(Protocol::TCP))).unwrap().unwrap();
        let (strict, resets) = (refused(&lab, "strict-tcp"), refused(&lab, "tcp-resets"));
        // NULL, Xmas, SYN with FIN, the middle of nothing; then resets of nothing.
        for (port, flags) in (20_000..).zip([0, 0x29, 0x03, 0x10]) {
            let segment = packets::segment(from, to.ip(), (port, 7000), flags);
            socket.send_to(&segment, &SocketAddr::new(to.ip(), 0).into()).unwrap();
        }
        for port in 21_000..21_003 {
            let segment = packets::segment(from, to.ip(), (port, 7000), 0x04);
            socket.send_to(&segment, &SocketAddr::new(to.ip(), 0).into()).unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        let told = || (refused(&lab, "strict-tcp") - strict, refused(&lab, "tcp-resets") - resets);
        // One reset is within the rate, and the middle of nothing.
        while told() != (5, 2) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(told(), (5, 2), "{to}");
        std::io::Write::write_all(&mut living, b"on").unwrap();
        other.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        assert_eq!(other.read(&mut [0; 2]).unwrap(), 2, "{to}: an honest connection");
    }
}
