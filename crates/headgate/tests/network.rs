//! The daemon follows what others do to the network, and gives the operator's way back. Needs root; fails without.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::namespace::Namespace;
use support::{Ran, WEB};

const BACKENDS: &str = "[network.interfaces.be]\naddresses = [\"172.16.2.254/24\"]\n";
const CLIENTS: &str = "[network.interfaces.cl]\naddresses = [\"172.16.1.254/24\"]\n";

/// A server at one backend's address, and clients of the farm `WEB` at the other ends of the cables.
struct Traffic<'a> {
    ns: &'a Namespace,
    server: TcpListener,
    service: SocketAddr,
}

impl<'a> Traffic<'a> {
    fn new(ns: &'a Namespace, server: &str, service: &str) -> Self {
        let server = ns.at_far(|| TcpListener::bind(server)).expect("the address is there");
        server.set_nonblocking(true).expect("a socket option");
        Self { ns, server, service: service.parse().expect("an address") }
    }

    /// Whom the server sees when a client connects; `None` when nobody gets there.
    fn seen(&self) -> Option<IpAddr> {
        let connect = || TcpStream::connect_timeout(&self.service, Duration::from_secs(1));
        let _client = self.ns.at_far(connect).ok()?;
        self.server.accept().ok().map(|(_, peer)| peer.ip())
    }

    /// Waits until the server sees `source`, and prints how long after `since` that was.
    #[track_caller]
    fn becomes(&self, source: &str, what: &str, since: Instant) {
        let source: IpAddr = source.parse().expect("an address");
        self.ns.wait_for(what, || self.seen() == Some(source));
        println!("{what}: after {:.2} s", since.elapsed().as_secs_f64());
    }
}

/// Both ends have addresses, and `web` has one backend.
fn namespace(network: &str) -> Namespace {
    let one = WEB.split("[farms.web.backends.b2]").next().expect("a first part");
    let ns = Namespace::new(one);
    ns.tree.write("etc/headgate/headgate.toml", network);
    ns.far_address("cl", "172.16.1.50/24");
    ns.far_address("be", "172.16.2.11/24");
    ns
}

fn by_hand(ns: &Namespace, arguments: &str) -> Instant {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    ns.run("ip", &arguments).exits(0);
    Instant::now()
}

#[test]
fn another_source_address_is_used_at_once() {
    let ns = namespace(&format!("{CLIENTS}[network.interfaces.be]\n"));
    let _daemon = ns.start();
    let traffic = Traffic::new(&ns, "172.16.2.11:8080", "172.16.1.1:80");
    assert_eq!(traffic.seen(), None, "nothing leads to the backend yet");
    let since = by_hand(&ns, "address add 172.16.2.253/24 dev be");
    traffic.becomes("172.16.2.253", "first address", since);
    by_hand(&ns, "address add 172.16.2.252/24 dev be");
    let since = by_hand(&ns, "address del 172.16.2.253/24 dev be");
    // The second goes with the first, whose secondary it is.
    ns.wait_for("end", || traffic.seen().is_none());
    println!("no address: after {:.2} s", since.elapsed().as_secs_f64());
    let since = by_hand(&ns, "address add 172.16.2.252/24 dev be");
    traffic.becomes("172.16.2.252", "another address", since);
}

#[test]
fn a_virtual_address_follows_its_subnet() {
    let ns = namespace(&format!("[network.interfaces.cl]\n{BACKENDS}"));
    let _daemon = ns.start();
    let status = ns.headgate(&["status"]).exits(5).out;
    assert!(status.contains("172.16.1.1 is on no interface"), "{status}");
    let traffic = Traffic::new(&ns, "172.16.2.11:8080", "172.16.1.1:80");
    let since = by_hand(&ns, "address add 172.16.1.254/24 dev cl");
    traffic.becomes("172.16.2.254", "subnet", since);
    assert!(ns.addresses().contains("172.16.1.1/32"));
    by_hand(&ns, "address del 172.16.1.254/24 dev cl");
    ns.wait_for("removal", || !ns.addresses().contains("172.16.1.1/32"));
    // It moves to another interface.
    by_hand(&ns, "address add 172.16.1.254/24 dev be");
    ns.wait_for("other interface", || {
        ns.addresses().lines().any(|line| line.starts_with("be") && line.contains("172.16.1.1/32"))
    });
}

#[test]
fn a_backend_takes_flows_once_a_route_leads_to_it() {
    let ns = namespace(&format!("{CLIENTS}{BACKENDS}"));
    let farm = "[farms.web]\nlisten = \"172.16.1.1:80\"\nbackends.b1.address = \"10.9.0.11:8080\"\n";
    ns.tree.write("etc/headgate/conf.d/10-farms.toml", farm);
    ns.far_address("be", "10.9.0.11/32");
    let _daemon = ns.start();
    let traffic = Traffic::new(&ns, "10.9.0.11:8080", "172.16.1.1:80");
    assert_eq!(traffic.seen(), None, "no route leads there");
    ns.headgate(&["status"]).exits(5);
    let since = by_hand(&ns, "route add 10.9.0.0/24 via 172.16.2.11");
    traffic.becomes("172.16.2.254", "route", since);
    ns.headgate(&["status"]).exits(0);
    let since = by_hand(&ns, "route replace 10.9.0.0/24 via 172.16.2.11 src 172.16.1.254");
    traffic.becomes("172.16.1.254", "route with a source", since);
    by_hand(&ns, "route del 10.9.0.0/24");
    ns.wait_for("word of it", || ns.headgate(&["status"]).code == Some(5));
}

#[test]
fn what_the_daemon_writes_itself_is_looked_at_once() {
    let ns = namespace(&format!("{CLIENTS}{BACKENDS}"));
    let _daemon = ns.start_after("export HEADGATE_LOG=debug", ns.tree.root());
    let looks = || ns.tree.read("log").matches("the machine changed; looking").count();
    let repairs = || ns.tree.read("log").matches("repairing").count();
    let before = looks();
    let listen: Vec<String> = (0..10_000).map(|n| format!("\"10.1.{}.{}:80\"", n / 250, n % 250 + 1)).collect();
    let many = format!(
        "[network.interfaces.cl]\naddresses = [\"172.16.1.254/24\", \"10.1.255.1/16\"]\n[farms.many]\nlisten = [{}]\n\
         backends.b.address = \"172.16.2.11\"\n",
        listen.join(", ")
    );
    ns.tree.write("etc/headgate/conf.d/50-many.toml", many);
    ns.headgate(&["apply"]).exits(0);
    assert_eq!(ns.addresses().matches("10.1.").count(), 10_001);
    // While nothing happens nobody looks: three times the pause that the daemon makes behind a look of a second.
    std::thread::sleep(Duration::from_secs(3));
    let after = looks();
    assert!(after - before <= 3, "{} looks at 10,001 addresses", after - before);
    assert_eq!(repairs(), 0, "{}", ns.tree.read("log"));
    // And among them the one that somebody takes away comes back.
    by_hand(&ns, "address del 10.1.7.7/32 dev cl");
    ns.wait_for("repair", || ns.addresses().contains("10.1.7.7/32"));
}

#[test]
fn a_lost_way_to_the_box_comes_back_unless_somebody_confirms() {
    let ns = namespace(&format!(
        "{CLIENTS}{BACKENDS}[network.routes.office]\nto = \"10.50.0.0/24\"\nvia = \"172.16.1.50\"\n"
    ));
    ns.far_address("cl", "10.50.0.9/32");
    let _daemon = ns.start();
    let listener = ns.within(|| TcpListener::bind("0.0.0.0:2222")).expect("a port");
    // As the operator does who sits behind a router.
    let operator = || {
        ns.at_far(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from(([10, 50, 0, 9], 0)).into())?;
            socket.connect_timeout(&SocketAddr::from(([172, 16, 1, 254], 2222)).into(), Duration::from_secs(1))?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok::<TcpStream, std::io::Error>(socket.into())
        })
    };
    let mut session = operator().expect("there is a way");
    let mut here = listener.accept().expect("the operator").0;
    for lost in
        ["[network.routes.office]\nenabled = false\n", "[network.interfaces.cl]\naddresses = [\"172.16.1.253/24\"]\n"]
    {
        ns.tree.write("etc/headgate/conf.d/60-lost.toml", lost);
        ns.headgate(&["apply", "--confirm", "4s"]).exits(0);
        assert!(operator().is_err(), "the way is lost: {lost}");
        let since = Instant::now();
        ns.wait_for("return", || operator().is_ok());
        println!("back after {:.1} s", since.elapsed().as_secs_f64());
        // Who was logged in still is.
        here.write_all(b"x").and_then(|()| session.read_exact(&mut [0])).expect("the session goes on");
    }
}

/// What a router says of itself and of 2001:db8:5::/64 (RFC 4861, sections 4.2 and 4.6.2), to all nodes at the other end of `cl`.
fn advertise(ns: &Namespace) {
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x07, 0x08, 0, 0, 0, 0]);
    message.extend("2001:db8:5::".parse::<std::net::Ipv6Addr>().expect("a prefix").octets());
    ns.at_far(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(socket2::Protocol::ICMPV6)).expect("root may");
        let link = nix::net::if_::if_nametoindex("cl-peer").expect("it is there");
        socket.set_multicast_if_v6(link).expect("a socket option");
        socket.set_multicast_hops_v6(255).expect("a socket option");
        let all = std::net::SocketAddrV6::new("ff02::1".parse().expect("an address"), 0, 0, link);
        socket.send_to(&message, &SocketAddr::from(all).into()).expect("it is sent");
    });
}

#[test]
fn routers_are_believed_where_it_is_said() {
    let ns = namespace(&format!("{CLIENTS}{BACKENDS}"));
    let _daemon = ns.start();
    let learned = || ns.addresses().contains("2001:db8:5:");
    let knob = |key: &str| ns.run("cat", &[&format!("/proc/sys/net/ipv6/conf/cl/{key}")]).exits(0).out;
    assert_eq!((knob("accept_ra").trim(), knob("autoconf").trim()), ("0", "0"));
    // Somebody's program turns it on: it is turned back.
    ns.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv6/conf/cl/accept_ra"]).exits(0);
    ns.wait_for("repair", || knob("accept_ra").trim() == "0");
    ns.wait_for("link-local addresses", || ns.is_link_local("cl"));
    for _ in 0..5 {
        advertise(&ns);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!learned(), "{}", ns.addresses());
    ns.tree.write("etc/headgate/headgate.toml", format!("{CLIENTS}accept-ra = \"yes\"\n{BACKENDS}"));
    ns.headgate(&["apply"]).exits(0);
    assert_eq!((knob("accept_ra").trim(), knob("autoconf").trim()), ("2", "1"));
    ns.wait_for("address of the prefix", || {
        advertise(&ns);
        learned()
    });
    let routes = || ns.run("ip", &["-6", "route", "show", "default"]).exits(0).out;
    assert!(routes().contains("proto ra"), "{}", routes());
    // What the kernel learned is its own.
    ns.headgate(&["apply"]).exits(0);
    assert!(learned() && routes().contains("proto ra"));
    assert_eq!(ns.headgate(&["plan"]).exits(0).out, "nothing to do\n");
}

#[test]
fn a_mark_leads_flows_by_a_rule_into_another_table() {
    let ns = namespace(&format!("{CLIENTS}{BACKENDS}"));
    let farm = "[farms.web]\nlisten = \"172.16.1.1:80\"\nbackends.b1 = { address = \"10.9.0.11:8080\", mark = 0x11 }\n";
    ns.tree.write("etc/headgate/conf.d/10-farms.toml", farm);
    // Nobody is where the main table leads.
    let routes = "[network.routes.main]\nto = \"10.9.0.0/24\"\nvia = \"172.16.2.99\"\n\
                  [network.routes.other]\nto = \"10.9.0.0/24\"\nvia = \"172.16.2.11\"\ntable = 100\n";
    ns.tree.write("etc/headgate/conf.d/20-routes.toml", routes);
    ns.far_address("be", "10.9.0.11/32");
    // Another program's, at the same place.
    by_hand(&ns, "rule add priority 500 fwmark 0x10/0xf0 lookup 100 suppress_prefixlength 0");
    let daemon = ns.start();
    let traffic = Traffic::new(&ns, "10.9.0.11:8080", "172.16.1.1:80");
    by_hand(&ns, "rule del priority 500");
    assert_eq!(traffic.seen(), None, "nobody is there");
    by_hand(&ns, "rule add priority 500 fwmark 0x99 lookup 100 protocol static");

    let rule = "[network.rules.marked]\npriority = 500\nmark = 0x10\nmask = 0xf0\ninterface = \"cl\"\ntable = 100\n";
    ns.tree.write("etc/headgate/conf.d/30-rules.toml", rule);
    let applied = ns.headgate(&["apply"]).exits(0).out;
    assert!(applied.contains("add routing rule 500: from all fwmark 0x10/0xf0 iif cl lookup 100"), "{applied}");
    traffic.becomes("172.16.2.254", "rule", Instant::now());
    let six = || ns.run("ip", &["-6", "rule"]).exits(0).out;
    assert!(six().contains("fwmark 0x10/0xf0 iif cl lookup 100 proto 72"), "{}", six());
    assert_eq!(ns.headgate(&["plan"]).exits(0).out, "nothing to do\n");

    let since = by_hand(&ns, "rule del priority 500 protocol 72");
    traffic.becomes("172.16.2.254", "rule that somebody removed", since);
    let ours = || ns.run("ip", &["rule", "show"]).exits(0).out.matches("proto 72").count();
    ns.wait_for("repair", || ours() == 1);

    // With other bits it is another rule.
    ns.tree.write("etc/headgate/conf.d/30-rules.toml", rule.replace("0xf0", "0xff").replace("0x10", "0x12"));
    ns.headgate(&["apply"]).exits(0);
    assert_eq!((ours(), traffic.seen()), (1, None));
    ns.tree.write("etc/headgate/conf.d/30-rules.toml", rule);
    ns.headgate(&["apply"]).exits(0);
    daemon.kill();
    let _daemon = ns.start();
    assert_eq!(ours(), 1, "a daemon that begins anew knows its own");
    traffic.becomes("172.16.2.254", "rule after a restart", Instant::now());

    ns.tree.write("etc/headgate/conf.d/30-rules.toml", "");
    ns.headgate(&["apply"]).exits(0);
    let left = ns.run("ip", &["rule", "show"]).exits(0).out;
    assert!(left.contains("fwmark 0x99 lookup 100 proto static") && ours() == 0, "{left}");
    assert!(!six().contains("proto 72"), "{}", six());
}

#[test]
fn a_rule_of_an_interface_that_is_not_there_waits_and_a_flush_takes_ours_alone() {
    let ns = namespace(&format!("{CLIENTS}{BACKENDS}"));
    let rules = "[network.rules.late]\npriority = 600\ninterface = \"late0\"\ntable = 100\n\
                 [network.rules.six]\npriority = 601\nfrom = \"2001:db8::/32\"\ntable = 100\n";
    ns.tree.write("etc/headgate/conf.d/30-rules.toml", rules);
    by_hand(&ns, "rule add priority 601 from 10.0.0.0/8 lookup 100");
    let daemon = ns.start();
    let shown = |family: &str| ns.run("ip", &[family, "rule", "show"]).exits(0).out;
    let status = ns.headgate(&["status"]).out;
    assert!(status.contains("network.rules.late: there is no interface late0"), "{status}");
    assert!(shown("-6").contains("from 2001:db8::/32 lookup 100 proto 72") && !shown("-4").contains("late0"));
    by_hand(&ns, "link add late0 type veth peer late1");
    ns.wait_for("rule of the interface", || shown("-4").contains("iif late0 lookup 100 proto 72"));
    assert_eq!(daemon.terminate(), Some(0));
    assert!(shown("-6").contains("proto 72"), "what carries traffic stays");
    ns.headgated(&["--flush"]).exits(0);
    assert!(!shown("-4").contains("proto 72") && !shown("-6").contains("proto 72"));
    assert!(shown("-4").contains("from 10.0.0.0/8 lookup 100"), "{}", shown("-4"));
}

const BOTH_FAMILIES: &str = "[network.interfaces.cl]\naddresses = [\"172.16.1.254/24\", \"2001:db8:1::254/64\"]\n\
                             [network.interfaces.be]\naddresses = [\"172.16.2.254/24\", \"2001:db8:2::254/64\"]\n";
const MUTE: &str = "[farms.web]\nlisten = [\"172.16.1.1:80\", \"[2001:db8:1::1]:80\"]\n\
                    backends.b1.address = \"172.16.2.11:8080\"\nbackends.b6.address = \"[2001:db8:2::11]:8080\"\n";

/// A shell's line at the other ends of the cables; what it printed.
fn at_far(ns: &Namespace, line: &str) -> String {
    ns.at_far(|| Ran::of(Command::new("sh").args(["-ec", line]))).exits(0).out
}

/// The backend tells nobody its MAC address, and asks nobody either: who is asked learns who asks.
fn mute(ns: &Namespace) -> String {
    ns.far_address("cl", "2001:db8:1::50/64");
    ns.far_address("be", "2001:db8:2::11/64");
    let own = ns.run("cat", &["/sys/class/net/be/address"]).exits(0).out;
    for address in ["172.16.2.254", "2001:db8:2::254"] {
        at_far(ns, &format!("ip neighbour replace {address} lladdr {} dev be-peer nud permanent", own.trim()));
    }
    at_far(ns, "echo 8 > /proc/sys/net/ipv4/conf/be-peer/arp_ignore");
    at_far(
        ns,
        "nft 'table ip6 mute { chain input { type filter hook input priority 0; iifname be-peer icmpv6 type nd-neighbor-solicit drop; }; }'",
    );
    let line = at_far(ns, "ip -br link show dev be-peer");
    line.split_whitespace().nth(2).expect("state, then MAC address").to_owned()
}

#[test]
fn a_backend_that_answers_no_arp_is_a_neighbour_of_the_configuration() {
    let ns = namespace(BOTH_FAMILIES);
    ns.tree.write("etc/headgate/conf.d/10-farms.toml", MUTE);
    let mac = mute(&ns);
    let daemon = ns.start();
    let four = Traffic::new(&ns, "172.16.2.11:8080", "172.16.1.1:80");
    ns.wait_for("address", || at_far(&ns, "ip -6 address show tentative").is_empty());
    let six = Traffic::new(&ns, "[2001:db8:2::11]:8080", "[2001:db8:1::1]:80");
    assert_eq!((four.seen(), six.seen()), (None, None), "nobody says where it is");

    let neighbours = |mac: &str| {
        format!(
            "[network.neighbours.b1]\ninterface = \"be\"\naddress = \"172.16.2.11\"\nmac = {mac:?}\n\
             [network.neighbours.b6]\ninterface = \"be\"\naddress = \"2001:db8:2::11\"\nmac = {mac:?}\n"
        )
    };
    let write = |text: &str| ns.tree.write("etc/headgate/conf.d/30-neighbours.toml", text);
    write(&neighbours(&mac));
    let applied = ns.headgate(&["apply"]).exits(0).out;
    assert!(applied.contains(&format!("add neighbour 172.16.2.11 dev be lladdr {mac}")), "{applied}");
    let both = |what: &str| {
        four.becomes("172.16.2.254", &format!("{what}, IPv4"), Instant::now());
        six.becomes("2001:db8:2::254", &format!("{what}, IPv6"), Instant::now());
    };
    both("neighbour");
    let shown = || ns.run("ip", &["neighbour", "show", "dev", "be"]).exits(0).out;
    let ours = || shown().matches("PERMANENT proto 72").count();
    assert_eq!((ours(), ns.headgate(&["plan"]).exits(0).out.as_str()), (2, "nothing to do\n"), "{}", shown());

    // Told by no event: found by the next look.
    let since = by_hand(&ns, "neighbour del 172.16.2.11 dev be");
    four.becomes("172.16.2.254", "neighbour that somebody removed", since);
    by_hand(&ns, "link set be down");
    by_hand(&ns, "link set be up");
    both("interface that went down and up");
    assert_eq!(ours(), 2, "{}", shown());

    write(&neighbours("02:00:00:00:00:99"));
    let applied = ns.headgate(&["apply"]).exits(0).out;
    assert!(applied.contains(&format!("change neighbour 172.16.2.11 dev be lladdr 02:00:00:00:00:99 (was {mac})")));
    assert_eq!((four.seen(), six.seen(), ours()), (None, None, 2), "packets go to nobody");
    write(&neighbours(&mac));
    ns.headgate(&["apply"]).exits(0);
    daemon.kill();
    let daemon = ns.start();
    assert_eq!((ours(), ns.headgate(&["plan"]).exits(0).out.as_str()), (2, "nothing to do\n"), "it knows its own");
    both("restart");

    // What another has said stays, and stays his.
    by_hand(&ns, "neighbour add 172.16.2.77 lladdr 02:00:00:00:00:77 dev be nud permanent");
    write(&neighbours(&mac).replace("2.11", "2.77"));
    let refused = ns.headgate(&["apply"]).exits(3).err;
    assert!(refused.contains("another program says what its MAC address is"), "{refused}");
    assert!(shown().contains("172.16.2.77 lladdr 02:00:00:00:00:77 PERMANENT") && ours() == 2, "{}", shown());
    write("");
    ns.headgate(&["apply"]).exits(0);
    assert!(!shown().contains("proto 72") && shown().contains("02:00:00:00:00:77"), "{}", shown());
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_neighbour_waits_for_its_interface_and_goes_with_a_flush() {
    let ns = namespace(&format!("{CLIENTS}{BACKENDS}"));
    let of = |name: &str, link: &str| {
        format!(
            "[network.neighbours.{name}]\ninterface = {link:?}\naddress = \"10.9.0.9\"\nmac = \"02:00:00:00:00:09\"\n"
        )
    };
    let neighbours = [of("late", "late0"), of("here", "be"), of("local", "lo")].concat();
    ns.tree.write("etc/headgate/conf.d/30-neighbours.toml", neighbours);
    let daemon = ns.start();
    let shown = |link: &str| ns.run("ip", &["neighbour", "show", "dev", link]).out;
    let status = ns.headgate(&["status"]).out;
    assert!(status.contains("network.neighbours.late: there is no interface late0"), "{status}");
    assert!(status.contains("network.neighbours.local: lo has no neighbours with MAC addresses"), "{status}");
    assert!(shown("be").contains("10.9.0.9 lladdr 02:00:00:00:00:09 PERMANENT proto 72"), "{}", shown("be"));
    by_hand(&ns, "link add late0 type veth peer late1");
    ns.wait_for("neighbour of the interface", || shown("late0").contains("proto 72"));
    assert_eq!(daemon.terminate(), Some(0));
    assert!(shown("be").contains("proto 72"), "what carries traffic stays");
    ns.headgated(&["--flush"]).exits(0);
    assert!(!shown("be").contains("proto 72") && !shown("late0").contains("proto 72"));
}
