//! `headgate trace` against real packets and the real kernel.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use headgate_tests::binaries;
use headgate_tests::following::{Following, stable};
use headgate_tests::lab::{Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, ask_udp};

const V4: &str = "172.16.1.1:80";
const V6: &str = "[2001:db8:1::1]:80";

/// A farm `web`, both families, TCP and UDP, one backend each.
fn farm(extra: &str) -> String {
    format!(
        "[farms.web]\nlisten = [\"{V4}\", \"{V4}/udp\", \"{V6}\", \"{V6}/udp\"]\n\
         backends.b.address = \"172.16.2.11:8080\"\nbackends.b6.address = \"[2001:db8:2::11]:8080\"\n{extra}"
    )
}

fn lab(label: &str, extra: &str) -> (Lab, [Server; 2]) {
    let lab = Lab::new(label).unwrap();
    let servers = [backend(11, 8080), backend6(11, 8080)];
    let servers = servers.map(|address| Server::start(&lab.backends, "b", address).unwrap());
    lab.once(&farm(extra)).unwrap();
    (lab, servers)
}

fn knock(lab: &Lab, to: &str) -> Option<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    lab.client.within(|| TcpStream::connect_timeout(&to, Duration::from_millis(400))).unwrap().ok()
}

/// What is told about one connection and one datagram to each listener.
fn told(lab: &Lab) -> Vec<String> {
    let following = Following::begin(lab, &["--count", "4", "--seconds", "10"]);
    for to in [V4, V6] {
        knock(lab, to);
        let _ = ask_udp(&lab.client, to.parse().unwrap());
    }
    following.end().iter().map(|line| stable(line)).collect()
}

#[test]
fn snat_is_told_from_door_to_door() {
    let (lab, _servers) = lab("trace-s", "");
    assert_eq!(
        told(&lab),
        [
            "client 172.16.1.10:PORT → 172.16.1.1:80/tcp → farm web → scheduler chose b → dnat 172.16.2.11:8080 → \
             snat 172.16.2.1:PORT → out backend",
            "client 172.16.1.10:PORT → 172.16.1.1:80/udp → farm web → scheduler chose b → dnat 172.16.2.11:8080 → \
             snat 172.16.2.1:PORT → out backend",
            "client [2001:db8:1::10]:PORT → [2001:db8:1::1]:80/tcp → farm web → scheduler chose b6 → \
             dnat [2001:db8:2::11]:8080 → snat [2001:db8:2::1]:PORT → out backend",
            "client [2001:db8:1::10]:PORT → [2001:db8:1::1]:80/udp → farm web → scheduler chose b6 → \
             dnat [2001:db8:2::11]:8080 → snat [2001:db8:2::1]:PORT → out backend",
        ]
    );
}

#[test]
fn dnat_is_told_and_who_decided() {
    let (lab, _servers) = lab("trace-d", "mode = \"dnat\"\nscheduler = \"hash\"");
    let told = told(&lab);
    assert_eq!(
        told[0],
        "client 172.16.1.10:PORT → 172.16.1.1:80/tcp → farm web → hash chose b → dnat 172.16.2.11:8080 → out backend"
    );
    assert!(
        told.len() == 4 && told[2].ends_with("hash chose b6 → dnat [2001:db8:2::11]:8080 → out backend"),
        "{told:?}"
    );
}

#[test]
fn stateless_is_told_without_connection_tracking() {
    let (lab, _servers) = lab("trace-l", "mode = \"stateless\"\nscheduler = \"hash\"");
    let told = told(&lab);
    assert!(told.len() == 4, "{told:?}");
    for (line, to) in told.iter().zip(["172.16.2.11", "172.16.2.11", "[2001:db8:2::11]", "[2001:db8:2::11]"]) {
        assert!(line.contains("farm web → hash chose b"), "{line}");
        assert!(line.ends_with(&format!("→ rewritten to {to}:8080 → out backend")), "{line}");
    }
}

#[test]
fn dsr_is_told_from_ingress() {
    let lab = Lab::new("trace-w").unwrap();
    let farm = format!(
        "[farms.web]\nmode = \"dsr\"\nlisten = [\"{V4}\", \"{V6}\"]\n\
         backends.b.address = \"172.16.2.11\"\nbackends.b6.address = \"2001:db8:2::11\"\n"
    );
    lab.once(&farm).unwrap();
    let following = Following::begin(&lab, &["--count", "2", "--seconds", "20"]);
    // Nobody answers: the backend does not have the virtual address here.
    knock(&lab, V4);
    knock(&lab, V6);
    let told: Vec<String> = following.end().iter().map(|line| stable(line)).collect();
    assert_eq!(
        told,
        [
            "client 172.16.1.10:PORT → 172.16.1.1:80/tcp → farm web → scheduler chose b → \
             sent on as it is to 172.16.2.11 → out backend",
            "client [2001:db8:1::10]:PORT → [2001:db8:1::1]:80/tcp → farm web → scheduler chose b6 → \
             sent on as it is to 2001:db8:2::11 → out backend",
        ]
    );
    let explained = lab.headgate_ok(&["explain", "web"]).unwrap();
    for expected in ["netdev headgate, chain ingress", "goto flow4-web  # ", "headgate.toml:4:22 address"] {
        assert!(explained.contains(expected), "{expected} is not in\n{explained}");
    }
}

#[test]
fn a_refusal_names_its_limit() {
    let (lab, _servers) = lab("trace-r", "[farms.web.limits]\nnew-connections = \"1/hour\"\naction = \"reject\"");
    let following = Following::begin(&lab, &["--count", "4", "--seconds", "10"]);
    let _open: Vec<_> = [V4, V4, V6, V6].map(|to| knock(&lab, to)).into();
    let told = following.end();
    assert!(told[0].ends_with("out backend") && told[2].ends_with("out backend"), "{told:?}");
    for line in [&told[1], &told[3]] {
        assert!(line.ends_with("/tcp → farm web → rejected: over limit new-connections"), "{line}");
    }
}

#[test]
fn a_farm_that_has_nobody_is_told() {
    let (lab, _servers) = lab("trace-e", "");
    for (state, expected) in [
        ("state = \"down\"", "rejected: the farm is down (state)"),
        ("backends.b.weight = 0", "rejected: no backend can serve (on-empty)"),
        ("backends.b.weight = 0\non-empty = \"drop\"", "dropped: no backend can serve (on-empty)"),
    ] {
        lab.once(&farm(state)).unwrap();
        let following = Following::begin(&lab, &["--count", "1", "--seconds", "10"]);
        assert!(knock(&lab, V4).is_none());
        let told = following.end();
        assert!(told[0].ends_with(&format!("farm web → {expected}")), "{told:?}");
    }
}

#[test]
fn local_is_told_up_to_the_door_of_the_box() {
    let lab = Lab::new("trace-b").unwrap();
    let doors = ["172.16.1.254:22", "[2001:db8:1::fe]:22"];
    let _services = doors.map(|door| Server::start(&lab.gate, "box", door.parse().unwrap()).unwrap());
    let farm = "[policies.foes]\naction = \"deny\"\nelements = [\"172.16.1.66\"]\n\
                [farms.web]\nmode = \"local\"\nlisten = [\"0.0.0.0:22\", \"[::]:22\"]\n";
    let limits = "policies = [\"foes\"]\nlimits.new-connections = \"1/hour\"\nlimits.action = \"reject\"\n";
    lab.once(&format!("{farm}{limits}")).unwrap();
    let following = Following::begin(&lab, &["--count", "5", "--seconds", "10"]);
    for door in doors {
        knock(&lab, door);
        knock(&lab, door);
    }
    lab.client.ip(&["address", "add", "172.16.1.66/24", "dev", "eth0"]).unwrap();
    let foe = lab.client.run("curl -sS -m 2 --interface 172.16.1.66 http://172.16.1.254:22/");
    assert!(foe.is_err(), "{foe:?}");
    let told: Vec<String> = following.end().iter().map(|line| stable(line)).collect();
    assert_eq!(
        told,
        [
            "client 172.16.1.10:PORT → 172.16.1.254:22/tcp → farm web → to the box itself, by service",
            "client 172.16.1.10:PORT → 172.16.1.254:22/tcp → farm web → rejected: over limit new-connections",
            "client [2001:db8:1::10]:PORT → [2001:db8:1::fe]:22/tcp → farm web → to the box itself, by service",
            "client [2001:db8:1::10]:PORT → [2001:db8:1::fe]:22/tcp → farm web → rejected: over limit new-connections",
            "client 172.16.1.66:PORT → 172.16.1.254:22/tcp → farm web → rejected: policy foes",
        ]
    );
    // A connection that is there is not asked whose it is.
    lab.once(farm).unwrap();
    let mut connection = Connection::open(&lab.client, doors[0].parse().unwrap()).unwrap().unwrap();
    let following = Following::begin(&lab, &["--all", "--count", "1", "--seconds", "10"]);
    connection.echo("still here").unwrap();
    let told: Vec<String> = following.end().iter().map(|line| stable(line)).collect();
    assert_eq!(told, ["client 172.16.1.10:PORT → 172.16.1.254:22/tcp → known flow → to the box itself, by service"]);
    lab.once(&farm.replace("mode", "state = \"down\"\nmode")).unwrap();
    let following = Following::begin(&lab, &["--count", "1", "--seconds", "10"]);
    knock(&lab, doors[0]);
    let told = following.end();
    assert!(told.len() == 1 && told[0].ends_with("→ farm web → rejected: the farm is down (state)"), "{told:?}");
}

#[test]
fn packets_of_nobody_and_of_others_are_named() {
    let (lab, _servers) = lab("trace-n", "");
    lab.gate.run("nft add table inet firewall").unwrap();
    lab.gate.run("nft add chain inet firewall pass { type filter hook forward priority 0; policy drop; }").unwrap();
    let following = Following::begin(&lab, &["--count", "1", "--seconds", "10"]);
    knock(&lab, V4);
    let told = following.end();
    let end = "→ dnat 172.16.2.11:8080 → dropped by another table, inet firewall: the policy of chain pass";
    assert!(told.len() == 1 && told[0].ends_with(end), "{told:?}");
    lab.gate.run("nft delete table inet firewall").unwrap();
    lab.gate.run("nft flush table inet headgate").unwrap();
    let following = Following::begin(&lab, &["--count", "1", "--seconds", "10"]);
    knock(&lab, V4);
    let told = following.end();
    assert!(told.len() == 1 && told[0].contains("→ no farm took it →"), "{told:?}");
}

#[test]
fn only_the_client_that_is_asked_for_is_followed_and_known_flows_are_said() {
    let (lab, _servers) = lab("trace-c", "");
    let following = Following::begin(&lab, &["--client", "172.16.1.77", "--seconds", "2"]);
    knock(&lab, V4);
    assert_eq!(following.end(), Vec::<String>::new());
    let following = Following::begin(&lab, &["--client", "172.16.1.10", "--all", "--count", "2", "--seconds", "10"]);
    knock(&lab, V4);
    let told = following.end();
    assert!(told.len() == 2 && told[1].contains("→ known flow of web/b → dnat 172.16.2.11:8080 →"), "{told:?}");
}

#[test]
fn nothing_stays_behind_a_trace_that_is_killed() {
    let (lab, _servers) = lab("trace-k", "");
    let following = Following::begin(&lab, &[]);
    let tables = || lab.nft("list tables").unwrap();
    assert!(tables().contains("headgate-trace-"), "{}", tables());
    following.kill();
    assert_eq!(tables().matches("headgate-trace-").count(), 0);
    let mut json = lab.gate.command(binaries::directory().join("headgate"));
    json.arg("--root").arg(lab.root()).args(["trace", "web", "--json", "--seconds", "1"]);
    assert!(json.output().unwrap().status.success());
    assert_eq!(tables().matches("headgate-trace-").count(), 0);
}
