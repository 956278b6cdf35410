//! Leases of a real DHCP server become addresses, routes and sources of farms, and go with their time. Needs root and BusyBox.

mod support;

use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::WEB;
use support::namespace::Namespace;
use support::{HEADGATED, Ran, Tree};

const CLIENTS: &str = "[network.interfaces.cl]\naddresses = [\"172.16.1.254/24\"]\n";
const LEASED: &str = "[network.interfaces.be]\naddresses = [\"dhcp\"]\n";
const GOOD: &str = "option subnet 255.255.255.0\noption router 172.16.2.1\noption lease 600";

/// BusyBox's udhcpd at the other end of `be`; ended when dropped.
struct Server(Child);

impl Server {
    /// That has one address to give away.
    fn new(ns: &Namespace, address: &str, options: &str) -> Self {
        let at = |name: &str| ns.tree.path(name).display().to_string();
        ns.tree.write("leases", "");
        let config = format!(
            "start {address}\nend {address}\ninterface be-peer\nmin_lease 10\nauto_time 0\npidfile {}\nlease_file {}\n\
             {options}\n",
            at("udhcpd.pid"),
            at("leases")
        );
        ns.tree.write("udhcpd.conf", config);
        let log = std::fs::File::create(ns.tree.path("udhcpd.log")).expect("a log");
        let mut server = Command::new("busybox");
        server.args(["udhcpd", "-f", "-a", "1", "-I", "172.16.2.1", &at("udhcpd.conf")]);
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A child of a thread is in the namespace of the thread.
        Self(ns.at_far(|| server.spawn()).expect("busybox-static is installed"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn namespace() -> Namespace {
    let one = WEB.split("[farms.web.backends.b2]").next().expect("a first part");
    let ns = Namespace::new(one);
    ns.tree.write("etc/headgate/headgate.toml", format!("{CLIENTS}{LEASED}"));
    ns.far_address("cl", "172.16.1.50/24");
    ns.far_address("be", "172.16.2.1/24");
    ns.far_address("be", "172.16.2.11/24");
    ns
}

/// Whom a backend sees when a client comes to the farm.
fn seen(ns: &Namespace, server: &TcpListener) -> Option<IpAddr> {
    let service = "172.16.1.1:80".parse().expect("an address");
    let _client = ns.at_far(|| TcpStream::connect_timeout(&service, Duration::from_secs(1))).ok()?;
    server.accept().ok().map(|(_, peer)| peer.ip())
}

fn backend(ns: &Namespace) -> TcpListener {
    let server = ns.at_far(|| TcpListener::bind("172.16.2.11:8080")).expect("the address is there");
    server.set_nonblocking(true).expect("a socket option");
    server
}

fn routes(ns: &Namespace) -> String {
    ns.run("ip", &["route", "show", "default"]).exits(0).out
}

fn client(ns: &Namespace) -> Option<Pid> {
    let status = ns.headgate(&["status", "--json"]).out;
    let status: serde_json::Value = serde_json::from_str(&status).ok()?;
    let services = status["services"].as_array()?;
    let one = services.iter().find(|service| service["name"] == "dhcp.be")?;
    Some(Pid::from_raw(i32::try_from(one["pid"].as_i64()?).ok()?))
}

/// Has the client ask again.
fn ask(ns: &Namespace) {
    ns.wait_for("client", || client(ns).is_some_and(|pid| kill(pid, Signal::SIGUSR1).is_ok()));
}

#[test]
fn a_lease_is_an_address_a_route_and_the_source_of_a_farm_and_outlives_those_who_got_it() {
    let ns = namespace();
    let daemon = ns.start();
    let status = ns.headgate(&["status"]).exits(5).out;
    assert!(status.contains("network.interfaces.be: no lease from a DHCP server"), "{status}");
    assert!(ns.addresses().contains("172.16.1.1/32"), "the rest serves");
    let backend = backend(&ns);
    let server = Server::new(&ns, "172.16.2.101", GOOD);
    ns.wait_for("lease", || seen(&ns, &backend) == Some("172.16.2.101".parse().expect("an address")));
    assert!(routes(&ns).contains("default via 172.16.2.1 dev be proto 72 metric 1024"), "{}", routes(&ns));
    ns.headgate(&["status"]).exits(0);
    assert_eq!(ns.headgate(&["plan"]).exits(0).out, "nothing to do\n");

    // The daemon dies, and nobody is there who would lease anything again.
    drop(server);
    let first = client(&ns).expect("it runs");
    daemon.kill();
    let daemon = ns.start();
    ns.wait_for("another client", || client(&ns).is_some_and(|pid| pid != first));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(seen(&ns, &backend), Some("172.16.2.101".parse().expect("an address")), "{}", ns.addresses());
    assert_eq!(ns.headgate(&["plan"]).exits(0).out, "nothing to do\n");

    // The client dies; the next one gets another address.
    let _server = Server::new(&ns, "172.16.2.102", GOOD);
    let second = client(&ns).expect("it runs");
    kill(second, Signal::SIGKILL).expect("it lives");
    ns.wait_for("other address", || seen(&ns, &backend) == Some("172.16.2.102".parse().expect("an address")));
    ns.wait_for("end of the first", || !ns.addresses().contains("172.16.2.101"));
    assert_eq!(routes(&ns).lines().count(), 1, "{}", routes(&ns));

    // It gives the address back.
    kill(client(&ns).expect("it runs"), Signal::SIGUSR2).expect("it lives");
    ns.wait_for("release", || !ns.addresses().contains("172.16.2.102") && routes(&ns).is_empty());
    ns.headgate(&["status"]).exits(5);
    ask(&ns);
    ns.wait_for("lease", || ns.addresses().contains("172.16.2.102/24"));

    // Not asked for any more: it goes, and the client with it.
    ns.tree.write("etc/headgate/headgate.toml", format!("{CLIENTS}[network.interfaces.be]\n"));
    ns.headgate(&["apply"]).exits(0);
    assert!(!ns.addresses().contains("172.16.2.102") && routes(&ns).is_empty());
    ns.wait_for("end of the client", || client(&ns).is_none());
    assert_eq!(daemon.terminate(), Some(0));
}

/// From the moment at which the client says what it was given to the rules in the kernel. The client is at its end with an
/// answer like this, and asks anew; here it is told so by its own words.
#[test]
fn another_address_at_a_renewal_is_soon_the_source_of_the_farm() {
    let ns = namespace();
    let daemon = ns.start();
    let _server = Server::new(&ns, "172.16.2.101", GOOD);
    let is_source = |address: &str| ns.ruleset().contains(address);
    ns.wait_for("lease", || is_source("172.16.2.101"));
    let backend = backend(&ns);
    for last in 102..107 {
        let address = format!("172.16.2.{last}");
        let mut renewed = Command::new(ns.tree.path("run/headgate/headgate-dhcp"));
        renewed.arg("renew").env("interface", "be").env("ip", &address).env("subnet", "255.255.255.0");
        renewed.env("router", "172.16.2.1").env("lease", "600").env("serverid", "172.16.2.1");
        let begin = Instant::now();
        Ran::of(&mut renewed).exits(0);
        ns.wait_for("another source", || is_source(&address));
        println!("from a renewal to the rules of the farm: {:.2} s", begin.elapsed().as_secs_f64());
        assert!(!is_source(&format!("172.16.2.{}", last - 1)), "{}", ns.ruleset());
        assert_eq!(seen(&ns, &backend), Some(address.parse().expect("an address")), "{}", ns.addresses());
        ns.wait_for("end of the one before", || !ns.addresses().contains(&format!("172.16.2.{}/", last - 1)));
    }
    assert_eq!(routes(&ns), "default via 172.16.2.1 dev be proto 72 metric 1024 \n");
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_lease_ends_with_its_time() {
    let ns = namespace();
    let daemon = ns.start();
    let server = Server::new(&ns, "172.16.2.101", "option subnet 255.255.255.0\noption lease 12");
    ns.wait_for("lease", || ns.addresses().contains("172.16.2.101/24"));
    assert_eq!(routes(&ns), "", "no router was named");
    drop(server);
    ns.wait_for("its end", || !ns.addresses().contains("172.16.2.101"));
    let status = ns.headgate(&["status"]).exits(5).out;
    assert!(status.contains("no lease from a DHCP server"), "{status}");
    // Killed, it would leave its client behind.
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_hostile_server_is_refused_with_a_reason() {
    let ns = namespace();
    let routes = "[network.routes.r]\nto = \"10.8.0.0/16\"\nvia = \"172.16.2.1\"\ninterface = \"be\"\n\
                  [network.routes.s]\nto = \"10.7.0.0/16\"\nvia = \"172.16.2.1\"\n";
    ns.tree.write("etc/headgate/conf.d/20-route.toml", routes);
    let daemon = ns.start();
    for (address, options, why) in [
        ("172.16.2.101", "option subnet 128.0.0.0", "the mask 128.0.0.0 is too wide"),
        ("172.16.2.101", "option subnet 255.0.255.0", "the mask 255.0.255.0 has holes"),
        ("172.16.2.101", "option subnet 255.255.255.0\noption router 10.9.9.9", "the router 10.9.9.9 is outside of"),
        ("172.16.2.11", "option subnet 255.255.255.0", "172.16.2.11 is backend b1 of farm web"),
        ("172.16.1.1", "option subnet 255.255.255.255", "172.16.1.1 is an address of farm web"),
        ("172.16.1.77", "option subnet 255.255.255.0", "its subnet 172.16.1.0/24 overlaps 172.16.1.0/24"),
    ] {
        let _server = Server::new(&ns, address, options);
        ask(&ns);
        let said = || ns.headgate(&["status"]).out;
        ns.wait_for(why, || said().contains(&format!("is refused: {why}")));
        assert!(!ns.run("ip", &["address", "show", "dev", "be"]).out.contains("inet "), "{}", ns.addresses());
        for route in ["r", "s"] {
            let waits = format!("network.routes.{route}: waits for a lease that leads to 172.16.2.1");
            assert!(said().contains(&waits), "{}", said());
        }
        kill(client(&ns).expect("it runs"), Signal::SIGUSR2).expect("it lives");
        ns.wait_for("release", || said().contains("no lease from a DHCP server"));
    }
    let _server = Server::new(&ns, "172.16.2.101", GOOD);
    ask(&ns);
    ns.wait_for("good lease", || ns.addresses().contains("172.16.2.101/24"));
    for to in ["10.8.0.0/16", "10.7.0.0/16"] {
        ns.wait_for(to, || ns.run("ip", &["route"]).out.contains(&format!("{to} via 172.16.2.1 dev be")));
    }
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn what_a_server_says_is_written_down_and_never_carried_out() {
    let tree = Tree::new();
    tree.write("run/headgate/leases/.keep", "");
    let hook = tree.path("run/headgate/headgate-dhcp");
    symlink(HEADGATED, &hook).expect("a link");
    let call = |event: &str, interface: &str, ip: &str| {
        let mut command = Command::new(&hook);
        Ran::of(command.arg(event).env("interface", interface).env("ip", ip).env("router", "$(touch pwned)"))
    };
    let garbled = format!("`touch {}`\n;\"{}", tree.path("pwned").display(), "x".repeat(100_000));
    call("bound", "eth0", &garbled).exits(0);
    let lease = tree.read("run/headgate/leases/eth0");
    assert!(lease.len() < 2000 && lease.contains("$(touch pwned)"), "{lease}");
    assert!(!tree.path("pwned").exists());
    for interface in ["", "../../../etc/passwd", ".hidden", "a/b"] {
        call("bound", interface, "10.0.0.1").exits(3);
    }
    // Another client begins: what the one before got stays.
    let by_another = format!("interface=eth0 {} deconfig; true", hook.display());
    Ran::of(Command::new("sh").args(["-c", &by_another])).exits(0);
    assert!(tree.path("run/headgate/leases/eth0").exists());
    call("deconfig", "eth0", "").exits(0);
    assert!(!tree.path("run/headgate/leases/eth0").exists());
    call("no-such-event", "eth0", "").exits(0);
}

/// What it could not do is tried in a unit test.
#[test]
fn the_hook_stands_behind_a_fence_when_it_reads_what_the_server_said() {
    let tree = Tree::new();
    tree.write("run/headgate/leases/.made", "");
    let hook = tree.path("run/headgate/headgate-dhcp");
    symlink(HEADGATED, &hook).expect("a name");
    for error in ["", ":error=ENOSYS"] {
        let calls = "landlock_restrict_self,seccomp,landlock_create_ruleset,openat";
        let mut run = Command::new("strace");
        run.args(["-qq", "-o"]).arg(tree.path("calls")).args(["-e", &format!("trace={calls}")]);
        if !error.is_empty() {
            run.args(["-e", &format!("inject=landlock_create_ruleset,seccomp{error}")]);
        }
        run.arg(&hook).arg("bound").env_clear().env("interface", "eth0").env("ip", "10.0.0.2");
        Ran::of(&mut run).exits(0);
        let calls = tree.read("calls");
        let at = |word: &str| calls.lines().position(|line| line.starts_with(word) && line.ends_with(" = 0"));
        let stored = calls.lines().position(|line| line.contains(".eth0.")).expect("it writes a file");
        let fenced = at("landlock_restrict_self").max(at("seccomp(SECCOMP_SET_MODE_FILTER"));
        assert_eq!(fenced.is_some_and(|fenced| fenced < stored), error.is_empty(), "{calls}");
        std::fs::remove_file(tree.path("run/headgate/leases/eth0")).expect("it is there");
    }
}

/// What passes at the other end of the cable, by counter: renewals to the server, and broadcasts.
const SEEN: &str = "\
table ip seen {
    counter unicast { }
    counter broadcast { }
    chain seen {
        type filter hook prerouting priority 0
        udp dport 67 ip daddr 172.16.2.1 counter name unicast
        udp dport 67 ip daddr 255.255.255.255 counter name broadcast
    }
}
";

/// Nothing is sent to the server alone: whoever tries is told so.
const NONE: &str = "\
table ip none {
    chain out {
        type filter hook output priority 0
        udp dport 67 ip daddr 172.16.2.1 drop
    }
}
";

fn passed(ns: &Namespace, counter: &str) -> u64 {
    let mut list = Command::new("nft");
    list.args(["list", "counter", "ip", "seen", counter]);
    let listed = ns.at_far(|| Ran::of(&mut list)).exits(0).out;
    let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// A client asks the server first, and everybody when that is in vain or too late. The answer to the first comes by a socket of the
/// kernel, through the filter of the box.
#[test]
fn a_box_that_protects_itself_renews_its_lease_by_unicast_and_by_broadcast() {
    let ns = namespace();
    ns.tree.write(
        "etc/headgate/headgate.toml",
        format!("[system]\nprotect = true\n{CLIENTS}allow = []\n{LEASED}allow = []\n"),
    );
    ns.tree.write("seen.nft", SEEN);
    let mut load = Command::new("nft");
    load.arg("-f").arg(ns.tree.path("seen.nft"));
    ns.at_far(|| Ran::of(&mut load)).exits(0);
    let daemon = ns.start();
    let _server = Server::new(&ns, "172.16.2.101", GOOD);
    ns.wait_for("lease", || ns.addresses().contains("172.16.2.101/24"));
    let backend = backend(&ns);
    let is_source = || seen(&ns, &backend) == Some("172.16.2.101".parse().expect("an address"));
    ns.wait_for("source of the farm", is_source);
    let shut = || {
        let own = "172.16.2.101:22".parse().expect("an address");
        let came = ns.at_far(|| TcpStream::connect_timeout(&own, Duration::from_millis(300)));
        assert_eq!(came.expect_err("nobody listens").kind(), std::io::ErrorKind::TimedOut, "the box says nothing");
    };
    shut();
    let when = || {
        let lease: serde_json::Value =
            serde_json::from_str(&ns.tree.read("run/headgate/leases/be")).expect("a lease on file");
        lease["received"].as_u64().expect("a time")
    };

    // By unicast: the lease is long, and the client is told to.
    let (first, unicast) = (when(), passed(&ns, "unicast"));
    std::thread::sleep(Duration::from_secs(1));
    ask(&ns);
    ns.wait_for("renewal by unicast", || passed(&ns, "unicast") > unicast && when() > first);
    assert!(is_source());

    // By broadcast: the server cannot be sent to (networking/udhcp/dhcpc.c goes on to that at once).
    ns.tree.write("none.nft", NONE);
    ns.run("nft", &["-f", &ns.tree.path("none.nft").display().to_string()]).exits(0);
    let (second, unicast, broadcast) = (when(), passed(&ns, "unicast"), passed(&ns, "broadcast"));
    std::thread::sleep(Duration::from_secs(1));
    ask(&ns);
    ns.wait_for("renewal by broadcast", || passed(&ns, "broadcast") > broadcast && when() > second);
    assert_eq!(passed(&ns, "unicast"), unicast);
    assert!(is_source());
    shut();
    assert!(ns.addresses().contains("172.16.2.101/24"), "{}", ns.addresses());
    let log = ns.tree.read("log");
    assert_eq!(log.matches("lease of 172.16.2.101 obtained").count(), 3, "{log}");
    assert_eq!(daemon.terminate(), Some(0));
}
