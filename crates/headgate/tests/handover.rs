//! One program of the daemon takes over from another, under load. Needs root; fails without.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::namespace::{Daemon, Namespace};

const TIMES: usize = 20;
/// Between probes of a backend.
const INTERVAL: u32 = 30;
const FARM: &str = "\
[api]
listen = \"127.0.0.1:8443\"
[farms.web]
listen = \"172.16.1.1:80\"
health = { type = \"tcp\", port = 9090, interval = \"30s\", timeout = \"5s\", rise = 1, fall = 1 }
backends.b1.address = \"172.16.2.11:8080\"
backends.b2.address = \"172.16.2.12:8080\"
";

/// The box with its backends; of these only the first answers checks.
fn space() -> Namespace {
    let ns = Namespace::new(FARM);
    ns.run("ip", &["link", "set", "lo", "up"]).exits(0);
    ns.far_address("cl", "172.16.1.50/24");
    ns.far_address("be", "172.16.2.11/24");
    ns.far_address("be", "172.16.2.12/24");
    ns
}

/// The daemon, from a file of its own.
fn start(ns: &Namespace) -> Daemon<'_> {
    let run = "cp \"$0\" \"$1\"/headgated.new && mv \"$1\"/headgated.new \"$1\"/headgated && \
               exec \"$1\"/headgated --root \"$1\" --log-format text";
    ns.start_after(run, ns.tree.root())
}

/// How often a word is in the log.
fn said(ns: &Namespace, word: &str) -> usize {
    ns.tree.read("log").matches(word).count()
}

fn hand_over(ns: &Namespace, daemon: &Daemon<'_>) {
    let (before, listening) = (said(ns, "takes over"), said(ns, "api: listening"));
    daemon.signal(Signal::SIGUSR2);
    ns.wait_for("program that takes over", || {
        said(ns, "takes over") > before
            && said(ns, "api: listening") > listening
            && ns.headgate(&["history"]).code == Some(0)
    });
}

/// Asks, as one who has no patience with whom is not there; what went wrong.
fn ask(socket: &Path) -> Result<(), String> {
    let attempt = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET /v1/history HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    match attempt() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
        Ok(answer) => Err(format!("answered {answer:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Ends the threads of a test, also of one that fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does something again and again until it fails or `end` is set; how often it was done.
fn again(end: &AtomicBool, what: &str, mut work: impl FnMut() -> Result<(), String>) -> usize {
    let mut done = 0;
    while !end.load(Ordering::Relaxed) {
        work().unwrap_or_else(|error| panic!("{what}, after {done} times: {error}"));
        done += 1;
    }
    done
}

fn connect(to: SocketAddr) -> Result<(), String> {
    TcpStream::connect_timeout(&to, Duration::from_secs(20)).map(drop).map_err(|error| error.to_string())
}

/// Takes every connection, and counts them.
fn count(listener: &TcpListener, end: &AtomicBool, counted: &AtomicUsize) {
    listener.set_nonblocking(true).expect("a socket option");
    while !end.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok(_) => drop(counted.fetch_add(1, Ordering::Relaxed)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The states of both backends.
fn health(ns: &Namespace) -> [String; 2] {
    let farms: serde_json::Value =
        serde_json::from_str(&ns.headgate(&["farm", "list", "--json"]).exits(0).out).expect("JSON");
    [0, 1].map(|backend| farms[0]["backends"][backend]["health"]["state"].as_str().unwrap_or_default().to_owned())
}

fn seconds_left(ns: &Namespace) -> u64 {
    let status = ns.headgate(&["status"]).out;
    let rest = status.split(" returns in ").nth(1).unwrap_or_else(|| panic!("no trial: {status}"));
    rest.split(' ').next().and_then(|seconds| seconds.parse().ok()).expect("seconds")
}

fn descriptors(daemon: &Daemon<'_>) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it lives").count()
}

/// Twenty times; then what each of them must not lose is still there.
fn hand_over_many_times(ns: &Namespace, daemon: &Daemon<'_>) {
    hand_over(ns, daemon);
    let first = descriptors(daemon);
    for _ in 1..TIMES {
        hand_over(ns, daemon);
    }
    ns.wait_for("as many descriptors as before", || descriptors(daemon) <= first + 1);
    assert_eq!(ns.tree.read("run/headgate/lock").trim(), daemon.pid().to_string());
    assert_eq!(said(ns, "ended without a word"), 0);
}

#[test]
fn another_program_takes_over_and_nobody_is_refused() {
    let ns = space();
    let listen = |address: &'static str| ns.at_far(move || TcpListener::bind(address)).unwrap();
    let (checks, servers) = (listen("172.16.2.11:9090"), [listen("172.16.2.11:8080"), listen("172.16.2.12:8080")]);
    let (end, probes, flows) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let daemon = start(&ns);
    let socket = ns.tree.path("run/headgate/api.sock");
    std::thread::scope(|scope| {
        let ends = End(&end);
        scope.spawn(|| count(&checks, &end, &probes));
        servers.iter().for_each(|server| drop(scope.spawn(|| count(server, &end, &flows))));
        ns.wait_for("states", || health(&ns) == ["up", "down"]);
        ns.tree.write("etc/headgate/conf.d/20-weight.toml", "[farms.web.backends.b1]\nweight = 5\n");
        ns.headgate(&["apply", "--confirm", "10m"]).exits(0);
        let (left, begin, turned) = (seconds_left(&ns), Instant::now(), said(&ns, "the backend is"));
        let mut events = UnixStream::connect(&socket).unwrap();
        events.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let asked = scope.spawn(|| again(&end, "the API", || ask(&socket)));
        let tls = scope.spawn(|| ns.within(|| again(&end, "TLS", || connect("127.0.0.1:8443".parse().unwrap()))));
        let farm = scope.spawn(|| ns.at_far(|| again(&end, "the farm", || connect("172.16.1.1:80".parse().unwrap()))));
        hand_over_many_times(&ns, &daemon);
        let mut told = String::new();
        events.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        events.read_to_string(&mut told).expect("the stream has an end");
        assert!(told.contains("event: closing") && told.contains("retry: 200"), "{told}");
        assert_eq!(health(&ns), ["up", "down"]);
        assert_eq!(said(&ns, "the backend is"), turned, "{}", ns.tree.read("log"));
        // The time of the trial goes on, and does not begin anew.
        let (now, passed) = (seconds_left(&ns), begin.elapsed().as_secs());
        assert!(left.saturating_sub(now) >= passed / 2, "{left} s were left, and {now} s are {passed} s later");
        drop(ends);
        for (what, thread) in [("API", asked), ("TLS", tls), ("farm", farm)] {
            assert!(thread.join().expect("nothing failed") > TIMES, "{what} was hardly asked");
        }
        let intervals = begin.elapsed().as_secs() as usize / INTERVAL as usize + 1;
        let probes = probes.load(Ordering::Relaxed);
        assert!(probes <= 2 + 2 * intervals, "{probes} probes");
    });
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_program_that_does_not_run_takes_nothing_over() {
    let ns = space();
    let daemon = start(&ns);
    ns.wait_for("socket", || said(&ns, "api: listening") == 1);
    let program = ns.tree.path("headgated");
    let good = ns.tree.path("headgated.good");
    std::fs::rename(&program, &good).unwrap();
    let whole = std::fs::read(&good).unwrap();
    for (number, broken) in [&b"#!/bin/false\n"[..], b"", &whole[..whole.len() / 8]].into_iter().enumerate() {
        ns.tree.write("headgated.new", broken);
        std::fs::set_permissions(ns.tree.path("headgated.new"), std::fs::metadata(&good).unwrap().permissions())
            .unwrap();
        std::fs::rename(ns.tree.path("headgated.new"), &program).unwrap();
        daemon.signal(Signal::SIGUSR2);
        ns.wait_for("word of it", || said(&ns, "no other program takes over; this one goes on") > number);
        ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    }
    assert_eq!(said(&ns, "api: listening"), 1, "nothing was closed for it");
    std::fs::rename(&good, &program).unwrap();
    hand_over(&ns, &daemon);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_daemon_that_is_killed_while_it_hands_over_starts_again() {
    let ns = space();
    for pause in [0, 30, 100, 300] {
        let daemon = start(&ns);
        daemon.signal(Signal::SIGUSR2);
        std::thread::sleep(Duration::from_millis(pause));
        daemon.kill();
        let daemon = start(&ns);
        ns.headgate(&["plan"]).exits(0);
        assert_eq!(daemon.terminate(), Some(0));
    }
}
