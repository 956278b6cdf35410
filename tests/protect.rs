//! `system.protect` with real packets: the box scanned from a client, before and after, both families.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::Output;
use std::sync::Mutex;
use std::time::Duration;

use headgate_image::netns::Namespace;
use headgate_tests::binaries;
use headgate_tests::lab::{Lab, backend, backend6, said};
use headgate_tests::server::{Connection, Server, ask_udp};
use socket2::{Domain, Protocol, Socket, Type};

const ADDRESSES: [&str; 2] = ["172.16.1.254", "[2001:db8:1::fe]"];
const FARMS: &str = r#"
[farms.web]
mode = "snat"
listen = ["172.16.1.1:80", "[2001:db8:1::1]:80"]
[farms.web.backends.b11]
address = "172.16.2.11:8080"
[farms.web.backends.b11-6]
address = "[2001:db8:2::11]:8080"

[farms.guarded]
mode = "snat"
listen = ["172.16.1.1:81", "[2001:db8:1::1]:81"]
limits.syn-proxy = true
[farms.guarded.backends.b11]
address = "172.16.2.11:8080"
[farms.guarded.backends.b11-6]
address = "[2001:db8:2::11]:8080"

[farms.closed]
mode = "snat"
state = "down"
listen = ["172.16.1.1:82", "[2001:db8:1::1]:82"]
[farms.closed.backends.b11]
address = "172.16.2.11:8080"
[farms.closed.backends.b11-6]
address = "[2001:db8:2::11]:8080"
"#;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn protected(service: &str, backend: &str, more: &str) -> String {
    format!(
        "[system]\nprotect = true\n[network.interfaces.service]\nallow = {service}\n[network.interfaces.backend]\n\
         allow = {backend}\n{more}{FARMS}"
    )
}

/// Services of the box itself on these ports, at all its addresses.
fn services(lab: &Lab, ports: &[u16]) -> Vec<Server> {
    lab.gate.run("sysctl -qw net.ipv6.bindv6only=1").unwrap();
    let listeners = ports.iter().flat_map(|port| ["0.0.0.0", "[::]"].map(|any| format!("{any}:{port}")));
    listeners.map(|address| Server::start(&lab.gate, "box", at(&address)).unwrap()).collect()
}

fn backends(lab: &Lab) -> [Server; 2] {
    [backend(11, 8080), backend6(11, 8080)].map(|address| Server::start(&lab.backends, "b11", address).unwrap())
}

/// Which TCP ports say what: open, refused, or nothing at all.
fn scan(from: &Namespace, address: &str, ports: &[u16]) -> BTreeMap<&'static str, BTreeSet<u16>> {
    let (rest, found) = (Mutex::new(ports.to_vec()), Mutex::new(BTreeMap::<_, BTreeSet<u16>>::new()));
    // A guard within `while let` would be held over its body.
    let next = || rest.lock().unwrap().pop();
    let knock = || {
        while let Some(port) = next() {
            let to = at(&format!("{address}:{port}"));
            let said = match TcpStream::connect_timeout(&to, Duration::from_millis(400)).map_err(|error| error.kind()) {
                Ok(_) => "open",
                Err(ErrorKind::ConnectionRefused) => "refused",
                Err(ErrorKind::TimedOut) => "silent",
                Err(other) => panic!("{to}: {other:?}"),
            };
            found.lock().unwrap().entry(said).or_default().insert(port);
        }
    };
    // Threads that are begun within the namespace are in it.
    from.within(|| std::thread::scope(|scope| (0..48).for_each(|_| drop(scope.spawn(knock))))).unwrap();
    found.into_inner().unwrap()
}

fn ping(from: &Namespace, address: &str) -> bool {
    from.run(&format!("ping -c 1 -W 2 {}", address.trim_matches(['[', ']']))).is_ok()
}

fn set<const N: usize>(ports: [u16; N]) -> BTreeSet<u16> {
    ports.into()
}

#[test]
fn a_scan_finds_what_is_allowed_and_nothing_else() {
    let lab = Lab::new("protect").unwrap();
    let _services = services(&lab, &[22, 179, 200]);
    let _backends = backends(&lab);
    let ports: Vec<u16> = (1..=256).collect();
    lab.once(FARMS).unwrap();
    let mut held = Vec::new();
    for address in ADDRESSES {
        let found = scan(&lab.client, address, &ports);
        assert_eq!(found["open"], set([22, 179, 200]), "{address}");
        assert_eq!(found["refused"].len(), 253, "{address}");
        // The box says that nobody listens.
        let closed = ask_udp(&lab.client, at(&format!("{address}:77"))).unwrap();
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
        held.push(Connection::open(&lab.client, at(&format!("{address}:200"))).unwrap().unwrap());
    }
    let from = r#"{ service = "ssh", from = ["172.16.1.10", "2001:db8:1::10"] }"#;
    lab.once(&protected(&format!(r#"["ping", "bgp", {from}]"#), "[]", "")).unwrap();
    for address in ADDRESSES {
        let found = scan(&lab.client, address, &ports);
        assert_eq!(found["open"], set([22, 179]), "{address}");
        assert_eq!(found["silent"].len(), 254, "{address}");
        let closed = ask_udp(&lab.client, at(&format!("{address}:77"))).unwrap();
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::WouldBlock, "{address}");
        // Neighbours find each other, and a client of the list alone comes in.
        lab.client.run("ip neigh flush dev eth0").unwrap();
        assert!(ping(&lab.client, address), "{address}");
    }
    for connection in &mut held {
        connection.echo("what was open stays").unwrap();
    }
    for (own, to) in [("172.16.1.77/24", "172.16.1.254"), ("2001:db8:1::77/64", "[2001:db8:1::fe]")] {
        lab.client.ip(&["address", "add", own, "dev", "eth0", "nodad"]).unwrap();
        lab.client
            .ip(&[
                "route",
                "replace",
                to.trim_matches(['[', ']']),
                "dev",
                "eth0",
                "src",
                own.split_once('/').unwrap().0,
            ])
            .unwrap();
        assert_eq!(scan(&lab.client, to, &[22, 179])["silent"], set([22]), "{own} is not on the list");
    }
    for address in ["172.16.2.1", "[2001:db8:2::1]"] {
        assert!(!ping(&lab.backends, address), "{address}");
        assert_eq!(scan(&lab.backends, address, &[22, 179, 200])["silent"], set([22, 179, 200]), "{address}");
    }
}

/// VRRP (RFC 9568): IP protocol 112, to this group, with a TTL of 255.
const VRRP: i32 = 112;
const VRRP_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

fn vrrp_socket(space: &Namespace, own: Ipv4Addr) -> Socket {
    let open = || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(VRRP)))?;
        socket.join_multicast_v4(&VRRP_GROUP, &own)?;
        socket.set_multicast_if_v4(&own)?;
        socket.set_multicast_ttl_v4(255)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    };
    space.within(open).unwrap().unwrap()
}

/// Whether one of some advertisements of the other router arrives.
fn hears_vrrp(lab: &Lab) -> bool {
    let other = vrrp_socket(&lab.client, Ipv4Addr::new(172, 16, 1, 10));
    let own = vrrp_socket(&lab.gate, Ipv4Addr::new(172, 16, 1, 254));
    let group = SocketAddrV4::new(VRRP_GROUP, 0).into();
    (0..4).any(|_| {
        other.send_to(b"\x31\x01\x64\x01\x00\x64\x00\x00\xac\x10\x01\x01", &group).unwrap();
        (&own).read(&mut [0; 128]).is_ok_and(|length| length == 32)
    })
}

#[test]
fn vrrp_and_the_api_come_in_where_they_are_allowed() {
    let mut lab = Lab::new("protect-vrrp").unwrap();
    let api = "[api]\nlisten = \"172.16.1.254:8443\"\n";
    let text = |allow: &str| protected(allow, "[]", api);
    lab.configure(&format!("{api}{FARMS}")).unwrap();
    lab.start().unwrap();
    assert!(hears_vrrp(&lab), "before");
    let asked = |lab: &Lab| {
        let ask = "curl -sk -m 3 -o /dev/null -w %{http_code} https://172.16.1.254:8443/v1/status";
        lab.client.run(ask).unwrap_or_default()
    };
    for (allow, vrrp, code) in [
        ("[]", false, ""),
        (r#"["vrrp"]"#, true, ""),
        (r#"["api"]"#, false, "401"),
        (r#"["vrrp", "api"]"#, true, "401"),
    ] {
        lab.configure(&text(allow)).unwrap();
        lab.headgate_ok(&["apply"]).unwrap();
        assert_eq!(hears_vrrp(&lab), vrrp, "{allow}");
        assert_eq!(asked(&lab).trim(), code, "{allow}: without a token TLS alone gets through");
    }
}

#[test]
fn farms_and_the_box_itself_go_on() {
    let lab = Lab::new("protect-farms").unwrap();
    let _services = services(&lab, &[22, 53]);
    let _backends = backends(&lab);
    let outside = ["172.16.1.10:7", "[2001:db8:1::10]:7"].map(|to| Server::start(&lab.client, "out", at(to)).unwrap());
    let local =
        "[farms.dns]\nmode = \"local\"\nlisten = [\"0.0.0.0:53\", \"[::]:53\"]\nlimits.connections-per-client = 9\n";
    lab.once(&protected("[]", "[]", local)).unwrap();
    for (address, own) in [("172.16.1.1", "172.16.1.254"), ("[2001:db8:1::1]", "[2001:db8:1::fe]")] {
        let found = scan(&lab.client, address, &[22, 53, 79, 80, 81, 82, 83]);
        // 81 stands behind a SYN proxy, 82 refuses, 53 is a farm of the box itself.
        assert_eq!(found["open"], set([53, 80, 81]), "{address}");
        assert_eq!(found["refused"], set([82]), "{address}");
        assert_eq!(found["silent"], set([22, 79, 83]), "{address}");
        let mut through = Connection::open(&lab.client, at(&format!("{address}:80"))).unwrap().unwrap();
        assert_eq!(through.answer.server, "b11");
        through.echo("hello").unwrap();
        // The box to itself, and through itself.
        assert_eq!(scan(&lab.gate, own, &[22])["open"], set([22]));
        assert_eq!(scan(&lab.gate, address, &[80])["open"], set([80]));
        assert!(!ping(&lab.client, own));
    }
    for to in ["172.16.1.10:7", "[2001:db8:1::10]:7"] {
        Connection::open(&lab.gate, at(to)).unwrap().unwrap().echo("from the box").unwrap();
    }
    drop(outside);
}

#[test]
fn foreign_firewalls_stay_and_a_second_apply_writes_nothing() {
    let lab = Lab::new("protect-foreign").unwrap();
    let _services = services(&lab, &[22, 179]);
    lab.gate.run("nft add table inet site").unwrap();
    lab.gate.run("nft add chain inet site early { type filter hook input priority 0 ; policy accept ; }").unwrap();
    lab.gate.run("nft add rule inet site early tcp dport 179 drop").unwrap();
    let foreign = lab.nft("list table inet site").unwrap();
    let text = protected(r#"["ssh", "bgp"]"#, "[]", "");
    lab.once(&text).unwrap();
    let generation = || lab.gate.within(|| headgate_nft::Socket::open().unwrap().generation().unwrap()).unwrap();
    let before = generation();
    lab.once(&text).unwrap();
    assert_eq!(generation(), before);
    let found = scan(&lab.client, "172.16.1.254", &[22, 179]);
    assert_eq!((&found["open"], &found["silent"]), (&set([22]), &set([179])));
    // A hand that opens it is seen, and taken back.
    lab.gate.run("nft flush chain inet headgate-protect allow-service").unwrap();
    assert_eq!(lab.headgate(&["plan"]).unwrap().status.code(), Some(10));
    lab.once(&text).unwrap();
    assert_eq!(scan(&lab.client, "172.16.1.254", &[22])["open"], set([22]));
    let listed = lab.nft("list table inet headgate-protect").unwrap();
    assert!(listed.contains("hook input priority 100"), "{listed}");
    assert!(lab.headgated(&["--flush"]).unwrap().status.success());
    assert_eq!(lab.nft("list tables").unwrap().trim(), "table inet site");
    assert_eq!(lab.nft("list table inet site").unwrap(), foreign);
}

/// `headgate` as somebody would run it who came by ssh.
fn by_ssh(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = lab.gate.command(binaries::directory().join("headgate"));
    command.env("SSH_CONNECTION", "172.16.1.10 40000 172.16.1.254 22").arg("--root").arg(lab.root());
    command.args(arguments).output().unwrap()
}

#[test]
fn nobody_locks_themselves_out_unasked() {
    let mut lab = Lab::new("protect-way").unwrap();
    let _services = services(&lab, &[22]);
    lab.configure(FARMS).unwrap();
    lab.start().unwrap();
    lab.configure(&protected(r#"["ping"]"#, "[]", "")).unwrap();
    let why = "system.protect would not let 172.16.1.10 come back to port 22 by service: allow of service does not";
    let planned = by_ssh(&lab, &["plan"]);
    assert!(said(&planned).contains(why), "{}", said(&planned));
    let refused = by_ssh(&lab, &["apply"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains(why) && said(&refused).contains("--confirm"), "{}", said(&refused));
    assert_eq!(scan(&lab.client, "172.16.1.254", &[22])["open"], set([22]), "nothing was changed");
    // On trial it may be tried: it returns by itself.
    let tried = by_ssh(&lab, &["apply", "--confirm", "60s"]);
    assert!(tried.status.success(), "{}", said(&tried));
    assert_eq!(scan(&lab.client, "172.16.1.254", &[22])["silent"], set([22]));
    lab.headgate_ok(&["rollback"]).unwrap();
    assert_eq!(scan(&lab.client, "172.16.1.254", &[22])["open"], set([22]));
    lab.configure(&protected(r#"["ping", "ssh"]"#, "[]", "")).unwrap();
    let allowed = by_ssh(&lab, &["apply"]);
    assert!(allowed.status.success(), "{}", said(&allowed));
    // At the console nobody is cut off.
    lab.configure(&protected("[]", "[]", "")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    assert_eq!(scan(&lab.client, "172.16.1.254", &[22])["silent"], set([22]));
    // Nor does anybody go back to what would.
    lab.configure(&protected(r#"["ping", "ssh"]"#, "[]", "")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    let refused = by_ssh(&lab, &["rollback"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("would not let") && said(&refused).contains("--confirm"), "{}", said(&refused));
    assert_eq!(scan(&lab.client, "172.16.1.254", &[22])["open"], set([22]), "nothing was changed");
    let tried = by_ssh(&lab, &["rollback", "--confirm", "60s"]);
    assert!(tried.status.success() && said(&tried).contains("on trial"), "{}", said(&tried));
    assert_eq!(scan(&lab.client, "172.16.1.254", &[22])["silent"], set([22]));
    // What returns by itself may be had sooner.
    let back = by_ssh(&lab, &["rollback"]);
    assert!(back.status.success(), "{}", said(&back));
    assert_eq!(scan(&lab.client, "172.16.1.254", &[22])["open"], set([22]));
}

/// What the API answers over TLS to who comes from the client: its status, and what it says.
fn by_tls(lab: &Lab, token: &str, method: &str, path: &str, body: &str) -> (String, String) {
    let mut command = lab.client.command("curl");
    command.args([
        "-sk",
        "--connect-timeout",
        "1",
        "-m",
        "20",
        "-w",
        "\n%{http_code}",
        "-H",
        &format!("authorization: Bearer {token}"),
    ]);
    command.args(["-X", method, "-d", body, &format!("https://172.16.1.254:8443{path}")]);
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

#[test]
fn nobody_closes_the_api_behind_themselves_unasked() {
    let mut lab = Lab::new("protect-api").unwrap();
    // Both families: a client of IPv4 is one all the same.
    let api = "[api]\nlisten = \"[::]:8443\"\n";
    let guarded = |allow: &str| protected(allow, "[]", api);
    lab.configure(&format!("{api}{FARMS}")).unwrap();
    lab.start().unwrap();
    let token = lab.headgate_ok(&["token", "add", "away", "--scope", "root"]).unwrap().trim().to_owned();
    let ask = |lab: &Lab, method: &str, path: &str, body: &str| by_tls(lab, &token, method, path, body);
    for (closed, why) in [
        (
            guarded(r#"["ping", "ssh"]"#),
            "system.protect would not let 172.16.1.10 come back to port 8443 by service: allow of service does not",
        ),
        (FARMS.to_owned(), "api.listen would not take 172.16.1.10 at 172.16.1.254:8443 any more"),
        (
            format!("[api]\nlisten = \"127.0.0.1:8443\"\n{FARMS}"),
            "api.listen would not take 172.16.1.10 at 172.16.1.254:8443 any more",
        ),
    ] {
        lab.configure(&closed).unwrap();
        let (status, planned) = ask(&lab, "GET", "/v1/plan", "");
        assert!(status == "200" && planned.contains(why), "{status}: {planned}");
        let (status, refused) = ask(&lab, "POST", "/v1/apply", "");
        assert!(status == "409" && refused.contains(why) && refused.contains("--confirm"), "{status}: {refused}");
        // Nothing was changed; who sits elsewhere is told nothing.
        let here = lab.headgate(&["plan"]).unwrap();
        assert!(!said(&here).contains(why), "{}", said(&here));
        assert_eq!(ask(&lab, "GET", "/v1/history", "").0, "200");
        // On trial it may be tried, and returns by itself: nobody can confirm it from there.
        let (status, tried) = ask(&lab, "POST", "/v1/apply", "{\"confirm-seconds\": 2}");
        assert!(status == "200" || status == "000", "{status}: {tried}");
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while ask(&lab, "GET", "/v1/history", "").0 != "200" {
            assert!(std::time::Instant::now() < deadline, "it does not return");
        }
    }
    lab.configure(&guarded(r#"["ping", "api"]"#)).unwrap();
    let (status, planned) = ask(&lab, "GET", "/v1/plan", "");
    assert!(status == "200" && !planned.contains("would not"), "{status}: {planned}");
    let (status, applied) = ask(&lab, "POST", "/v1/apply", "");
    assert_eq!(status, "200", "{applied}");
    assert_eq!(ask(&lab, "GET", "/v1/history", "").0, "200");
    // A drop-in is no other way, nor is to take one away.
    let shut = "[network.interfaces.service]\nallow = [\"ping\"]\n";
    let (status, refused) = ask(&lab, "PUT", "/v1/drop-ins/60-shut", shut);
    assert!(
        status == "409" && refused.contains("would not let") && refused.contains("--confirm"),
        "{status}: {refused}"
    );
    let (status, none) = ask(&lab, "GET", "/v1/drop-ins/60-shut", "");
    assert_eq!(status, "404", "{none}");
    let open = shut.replace("\"ping\"", "\"ping\", \"api\"");
    assert_eq!(ask(&lab, "PUT", "/v1/drop-ins/60-open", &open).0, "200");
    lab.configure(&guarded(r#"["ping"]"#)).unwrap();
    let (status, refused) = ask(&lab, "DELETE", "/v1/drop-ins/60-open", "");
    assert!(status == "409" && refused.contains("would not let"), "{status}: {refused}");
    assert_eq!(ask(&lab, "GET", "/v1/drop-ins/60-open", "").1, open);
    lab.headgate_ok(&["config", "remove", "60-open"]).unwrap();
    lab.configure(&guarded(r#"["ping", "api"]"#)).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    let (status, refused) = ask(&lab, "POST", "/v1/rollback", "");
    assert!(
        status == "409" && refused.contains("would not let") && refused.contains("--confirm"),
        "{status}: {refused}"
    );
}
