//! `log`: what the daemon says of real flows and refusals, and what is left of it in the kernel.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use headgate_tests::lab::{Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, ask_udp};
use headgate_tests::wire::{self, Wire};
use nix::sys::signal::Signal;

const V4: &str = "172.16.1.1:80";
const V6: &str = "[2001:db8:1::1]:80";
const REFUSED: [&str; 2] = ["172.16.1.20", "2001:db8:1::20"];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn farm(lines: &str) -> String {
    format!(
        "[policies.out]\naction = \"deny\"\nelements = [\"{}\", \"{}\"]\n\
         [farms.web]\nlisten = [\"{V4}\", \"{V4}/udp\", \"{V6}\", \"{V6}/udp\"]\npolicies = [\"out\"]\n\
         backends.b1.address = \"{}\"\nbackends.b6.address = \"{}\"\n{lines}\n",
        REFUSED[0],
        REFUSED[1],
        backend(11, 8080),
        backend6(11, 8080)
    )
}

fn lab(label: &str, lines: &str) -> (Lab, [Server; 2]) {
    let mut lab = Lab::new(label).unwrap();
    for address in REFUSED {
        let net = format!("{address}/{}", if address.contains(':') { 64 } else { 24 });
        lab.client.ip(&["address", "add", &net, "dev", "eth0", "nodad"]).unwrap();
    }
    let servers = [backend(11, 8080), backend6(11, 8080)];
    let servers = servers.map(|address| Server::start(&lab.backends, "b", address).unwrap());
    lab.configure(&farm(lines)).unwrap();
    lab.start().unwrap();
    (lab, servers)
}

/// From now on the client talks to the farm from …`number`.
fn become_client(lab: &Lab, number: u8) {
    for (to, from) in [("172.16.1.1", "172.16.1."), ("2001:db8:1::1", "2001:db8:1::")] {
        lab.client.ip(&["route", "replace", to, "dev", "eth0", "src", &format!("{from}{number}")]).unwrap();
    }
}

/// The lines of the daemon's log that have all these words, once there are `count`; whatever there is when time is up.
fn lines(lab: &Lab, count: usize, words: &[&str]) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let log = std::fs::read_to_string(lab.log()).unwrap();
        let found = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        let found: Vec<String> = found.map(str::to_owned).collect();
        if found.len() >= count || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The groups of the packet log that somebody listens to in the box.
fn groups(lab: &Lab) -> Vec<String> {
    let listed = lab.gate.run("cat /proc/net/netfilter/nfnetlink_log").unwrap();
    listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Waits until our group is listened to, or is not.
fn wait_for_groups(lab: &Lab, expected: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while groups(lab) != expected {
        assert!(Instant::now() < deadline, "{:?}, not {expected:?}", groups(lab));
        std::thread::sleep(Duration::from_millis(20));
    }
}

const OURS: &str = "18503";

#[test]
fn new_flows_and_refusals_are_lines_with_fields() {
    let limits = "log = [\"new\", \"denied\"]\n[farms.web.limits]\nnew-connections = \"3/hour\"\naction = \"reject\"";
    let (lab, _servers) = lab("log", limits);
    wait_for_groups(&lab, &[OURS]);
    for (to, name, own, out) in [(V4, "b1", "172.16.1.10", REFUSED[0]), (V6, "b6", "2001:db8:1::10", REFUSED[1])] {
        become_client(&lab, 10);
        drop(Connection::open(&lab.client, at(to)).unwrap().unwrap());
        ask_udp(&lab.client, at(to)).unwrap().unwrap();
        let destination = format!("destination={to}");
        let backend = format!("backend={name}");
        for protocol in ["protocol=tcp", "protocol=udp"] {
            let found = lines(&lab, 1, &["new flow", "farm=web", &backend, &destination, protocol, own]);
            assert_eq!(found.len(), 1, "{to} {protocol}: {found:?}");
        }
        become_client(&lab, 20);
        drop(Connection::open(&lab.client, at(to)).unwrap().unwrap_err());
        let found = lines(&lab, 1, &["denied", "farm=web", "reason=policies", &destination, "protocol=tcp", out]);
        assert_eq!(found.len(), 1, "{to}: {found:?}");
        become_client(&lab, 10);
        drop(Connection::open(&lab.client, at(to)).unwrap().unwrap());
        drop(Connection::open(&lab.client, at(to)).unwrap().unwrap_err());
        let found = lines(&lab, 1, &["denied", "farm=web", "reason=new-connections", &destination, own]);
        assert_eq!(found.len(), 1, "{to}: {found:?}");
    }
    // What others log to the same group is not ours to say, whatever it says.
    let rules = lab.root().join("foreign.nft");
    let text = format!(
        "table inet foreign {{\nchain l {{\nlog group {OURS} prefix \"headgate new \"\n\
         log group {OURS} prefix \"farm=other \"\n}}\n\
         chain c {{\ntype filter hook prerouting priority -400\nudp dport 9 jump l\n}}\n}}\n"
    );
    std::fs::write(&rules, text).unwrap();
    lab.nft(&format!("-f {}", rules.display())).unwrap();
    let _ = ask_udp(&lab.client, at("172.16.1.254:9")).unwrap();
    drop(Connection::open(&lab.client, at(V4)).unwrap().unwrap_err());
    assert!(lines(&lab, 2, &["denied", "reason=new-connections", V4]).len() >= 2);
    assert!(lines(&lab, 0, &["farm=other"]).is_empty() && lines(&lab, 0, &["254:9"]).is_empty());
}

#[test]
fn a_flood_is_a_few_lines_and_serves_on() {
    let (lab, _servers) = lab("logf", "log = [\"denied\"]\nstate = \"down\"");
    wait_for_groups(&lab, &[OURS]);
    let begin = Instant::now();
    for _ in 0..400 {
        drop(Connection::open(&lab.client, at(V4)).unwrap().unwrap_err());
    }
    let seconds = begin.elapsed().as_secs() as usize + 2;
    std::thread::sleep(Duration::from_millis(1500));
    let found = lines(&lab, 1, &["denied", "farm=web", "reason=on-empty"]).len();
    assert!((10..=20 + 10 * seconds).contains(&found), "{found} lines in {seconds} seconds");
}

/// A daemon that is not scheduled for a while, and somebody who logs to its group without a rate: more than its buffer holds.
#[test]
fn messages_that_the_kernel_threw_away_are_said_once_and_others_are_heard_on() {
    let (lab, _servers) = lab("loge", "log = [\"denied\"]");
    wait_for_groups(&lab, &[OURS]);
    let rule = format!("udp dport 9 log group {OURS} queue-threshold 1 prefix \"foreign\" drop");
    lab.nft("add table inet foreign").unwrap();
    lab.nft("add chain inet foreign c { type filter hook prerouting priority -400; }").unwrap();
    lab.nft(&format!("add rule inet foreign c {rule}")).unwrap();
    lab.signal(Signal::SIGSTOP).unwrap();
    let socket = lab.client.within(|| UdpSocket::bind("172.16.1.10:0").unwrap()).unwrap();
    // Each message takes some hundred bytes of a buffer of two MiB at the least.
    for _ in 0..8_000 {
        let _ = socket.send_to(b"more", "172.16.1.254:9");
    }
    lab.signal(Signal::SIGCONT).unwrap();
    let words = ["the kernel had more to tell of flows and refusals than was read", "times="];
    assert_eq!(lines(&lab, 1, &words).len(), 1);
    become_client(&lab, 20);
    drop(Connection::open(&lab.client, at(V4)).unwrap().unwrap_err());
    assert!(!lines(&lab, 1, &["denied", "farm=web", "reason=policies", V4]).is_empty(), "it hears nothing any more");
    assert!(lines(&lab, 0, &["foreign"]).is_empty());
    // What was lost is told every ten seconds, when there is something new.
    assert_eq!(lines(&lab, 2, &words).len(), 1);
    lab.headgate_ok(&["status"]).unwrap();
}

#[test]
fn the_group_is_held_only_while_some_farm_logs() {
    let (mut lab, _servers) = lab("logg", "log = [\"denied\"]");
    wait_for_groups(&lab, &[OURS]);
    lab.crash().unwrap();
    assert!(groups(&lab).is_empty(), "a killed daemon listens");
    // The rules are there, and nobody listens: the flow is refused and served as before.
    drop(Connection::open(&lab.client, at(V4)).unwrap().unwrap());
    lab.start().unwrap();
    wait_for_groups(&lab, &[OURS]);
    lab.configure(&farm("")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    wait_for_groups(&lab, &[]);
    assert!(!lab.nft("list table inet headgate").unwrap().contains("log "));
    // A limit that only counts tells of what it counts.
    lab.configure(&farm("[farms.web.limits]\nnew-connections = \"1/hour\"\naction = \"log\"")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    wait_for_groups(&lab, &[OURS]);
    for _ in 0..2 {
        drop(Connection::open(&lab.client, at(V4)).unwrap().unwrap());
    }
    let found = lines(&lab, 1, &["over its limit", "farm=web", "reason=new-connections", "172.16.1.10:"]);
    assert_eq!(found.len(), 1, "{found:?}");
    lab.stop().unwrap();
    assert!(groups(&lab).is_empty());
    lab.once(&farm("log = [\"new\"]")).unwrap();
    assert!(groups(&lab).is_empty(), "nobody stays to listen");
    drop(Connection::open(&lab.client, at(V4)).unwrap().unwrap());
}

#[test]
fn a_group_that_somebody_else_has_is_said() {
    let mut lab = Lab::new("logt").unwrap();
    let taken = lab.gate.within(|| headgate_host::packet_log::PacketLog::open(18503).unwrap()).unwrap();
    let _server = Server::start(&lab.backends, "b", backend(11, 8080)).unwrap();
    lab.configure(&farm("log = [\"new\"]")).unwrap();
    lab.start().unwrap();
    assert_eq!(lines(&lab, 1, &["another program listens to group 18503"]).len(), 1);
    drop(Connection::open(&lab.client, at(V4)).unwrap().unwrap());
    drop(taken);
    // It is tried again.
    let deadline = Instant::now() + Duration::from_secs(40);
    while groups(&lab) != [OURS] {
        assert!(Instant::now() < deadline, "the group was free and nobody took it");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_service_of_the_box_itself_is_told_of_too() {
    let mut lab = Lab::new("logl").unwrap();
    let text = "[farms.own]\nmode = \"local\"\nlisten = [\"172.16.1.254:7000\", \"[2001:db8:1::fe]:7000\"]\n\
                log = [\"new\", \"denied\"]\n";
    lab.configure(text).unwrap();
    lab.start().unwrap();
    wait_for_groups(&lab, &[OURS]);
    for to in ["172.16.1.254:7000", "[2001:db8:1::fe]:7000"] {
        let _listener = lab.gate.within(|| TcpListener::bind(at(to)).unwrap()).unwrap();
        Connection::probe(&lab.client, at(to)).unwrap();
        let found = lines(&lab, 1, &["new flow", "farm=own", &format!("destination={to}")]);
        assert_eq!(found.len(), 1, "{to}: {found:?}");
    }
    lab.configure(&format!("{text}state = \"down\"\n")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    drop(Connection::open(&lab.client, at("172.16.1.254:7000")).unwrap().unwrap_err());
    assert_eq!(lines(&lab, 1, &["denied", "farm=own", "reason=on-empty"]).len(), 1);
}

#[test]
fn new_flows_of_dsr_farms_are_told_once_each() {
    let mut wire = Wire::new("logw");
    wire.lab.configure(&wire::farm("log = [\"new\"]")).unwrap();
    wire.lab.start().unwrap();
    wait_for_groups(&wire.lab, &[OURS]);
    for (to, letter, own) in [(wire::VIP, 'b', "client=172.16.1.10:"), (wire::VIP_6, 'c', "client=[2001:db8:1::10]:")] {
        let mut connections = wire.connect(to, 3);
        ask_udp(&wire.lab.client, at(to)).unwrap().unwrap();
        wire::alive(to, &mut connections);
        let destination = format!("destination={to}");
        for number in [11, 12, 13] {
            let backend = format!("backend={letter}{number}");
            let found = lines(&wire.lab, 1, &["new flow", "farm=web", &backend, &destination, "protocol=tcp", own]);
            assert_eq!(found.len(), 1, "{to} {backend}: {found:?}");
        }
        assert_eq!(lines(&wire.lab, 1, &["new flow", &destination, "protocol=udp", own]).len(), 1, "{to}");
        assert_eq!(lines(&wire.lab, 4, &["new flow", &destination]).len(), 4, "{to}: packets of flows that are known");
    }
}
