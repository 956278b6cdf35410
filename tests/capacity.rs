//! What runs out is told, with what would help: each is made to run out in the kernel.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headgate_tests::lab::{Lab, said};
use headgate_tests::packets::{datagram, raw_socket, send};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use serde_json::Value;

const SERVICE: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 1);
const PATIENCE: Duration = Duration::from_secs(60);

/// One at a time: each needs a CPU, and the kernel forgets flows without an answer after half a minute.
static TURN: Mutex<()> = Mutex::new(());

/// A box with one farm, whose backends swallow everything.
fn lab(label: &str, mode: &str) -> (Lab, MutexGuard<'static, ()>) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lab = Lab::new(label).unwrap();
    lab.backends
        .run("nft add table ip t; add chain ip t c { type filter hook prerouting priority 0; policy drop; }")
        .unwrap();
    lab.configure(&format!(
        "[farms.dns]\nmode = \"{mode}\"\nlisten = \"{SERVICE}:53/udp\"\nbackends.b1.address = \"172.16.2.11:53\"\n"
    ))
    .unwrap();
    lab.start().unwrap();
    let quiet = status(&lab);
    // Backlogs are the whole machine's, which may be busy with something else.
    for kind in ["source-ports", "connection-table"] {
        assert!(finding(&quiet, kind, "near").is_none() && finding(&quiet, kind, "losing").is_none(), "{quiet}");
    }
    (lab, turn)
}

fn status(lab: &Lab) -> Value {
    serde_json::from_slice(&lab.headgate(&["status", "--json"]).unwrap().stdout).unwrap()
}

/// Datagrams from so many different senders.
fn spray(lab: &Lab, senders: u64) {
    let spray = || {
        let socket = raw_socket(SERVICE.into()).unwrap();
        for number in 0..senders {
            let (host, port) = (number / 60_000, number % 60_000);
            let from = SocketAddrV4::new((0x0a01_0000 + u32::try_from(host).unwrap()).into(), 2000 + port as u16);
            send(&socket, &datagram(from, SocketAddrV4::new(SERVICE, 53)), IpAddr::V4(SERVICE)).unwrap();
        }
    };
    lab.client.within(spray).unwrap();
}

fn finding(status: &Value, kind: &str, severity: &str) -> Option<Value> {
    let findings = status["capacity"]["findings"].as_array().unwrap();
    findings.iter().find(|one| one["kind"] == kind && one["severity"] == severity).cloned()
}

fn metric(lab: &Lab, start: &str) -> u64 {
    let socket = lab.root().join("run/headgate/api.sock");
    let page = lab.gate.run(&format!("curl -s --unix-socket {} http://headgated/metrics", socket.display())).unwrap();
    let line = page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn source_ports_that_are_used_up_are_told_by_source_and_backend() {
    let (lab, _turn) = lab("ports", "snat");
    // Nearly used up, and so few that the kernel's random search (`nf_nat_l4proto_unique_tuple`) finds one for each.
    spray(&lab, 48_000);
    let near = status(&lab);
    let told = finding(&near, "source-ports", "near").unwrap_or_else(|| panic!("{near}"));
    assert_eq!(told["subject"], "172.16.2.1 172.16.2.11:53 udp");
    let used = near["capacity"]["ports"][0]["used"].as_u64().unwrap();
    assert!((47_900..=48_000).contains(&used), "{near}");
    assert!(metric(&lab, "headgate_snat_ports_used{source=\"172.16.2.1\",backend=\"172.16.2.11:53\"") > 47_000);

    spray(&lab, 70_000);
    let losing = status(&lab);
    let told = finding(&losing, "source-ports", "losing").unwrap_or_else(|| panic!("{losing}"));
    assert_eq!(losing["capacity"]["findings"][0], told, "the worst comes first");
    assert!(told["count"].as_u64().unwrap() >= 70_000 - 64_512, "{losing}");
    let text = said(&lab.headgate(&["status"]).unwrap());
    assert!(text.contains("losing: ") && text.contains("what helps: more `source-addresses`"), "{text}");
    assert!(metric(&lab, "headgate_conntrack_lost_flows_total{reason=\"insert-failed\"}") >= 70_000 - 64_512);

    let cut = lab.headgate_ok(&["connections", "dns", "--flush"]).unwrap();
    let after = status(&lab);
    assert_eq!(after["capacity"]["ports"].as_array().map(Vec::len), Some(0), "{cut}{after}");
    assert!(finding(&after, "source-ports", "near").is_none(), "{after}");
}

#[test]
fn a_full_connection_table_is_told() {
    let (lab, _turn) = lab("table", "dnat");
    let limit = status(&lab)["capacity"]["limit"].as_u64().unwrap();
    spray(&lab, limit * 85 / 100);
    let near = status(&lab);
    assert!(finding(&near, "connection-table", "near").is_some(), "{}", near["capacity"]);
    spray(&lab, limit + 2000);
    let losing = status(&lab);
    let told = finding(&losing, "connection-table", "losing").unwrap_or_else(|| panic!("{}", losing["capacity"]));
    assert!(told["count"].as_u64().unwrap() >= 1000, "{told}");
    assert!(told["help"].as_str().unwrap().contains("hardware.overrides.conntrack"), "{told}");
    let lost = metric(&lab, "headgate_conntrack_lost_flows_total{reason=\"drop\"}")
        + metric(&lab, "headgate_conntrack_lost_flows_total{reason=\"early-drop\"}");
    assert!(lost >= 1000);
}

/// The CPU that steering sends packets to looks at some thousand rules for each, and the other sends much faster.
#[test]
fn a_backlog_that_overflows_is_told() {
    let (lab, _turn) = lab("backlog", "dnat");
    let rules: String =
        (0..8000u32).map(|rule| format!("add rule ip slow c ip saddr 192.0.2.1 udp dport {}\n", rule + 1)).collect();
    let file = lab.root().join("slow.nft");
    let chain = "add table ip slow\nadd chain ip slow c { type filter hook prerouting priority -400; }\n";
    std::fs::write(&file, format!("{chain}{rules}")).unwrap();
    lab.gate.run(&format!("nft -f {}", file.display())).unwrap();
    let mask = lab.root().join("mask");
    std::fs::write(&mask, "2\n").unwrap();
    lab.gate
        .run(&format!("dd if={} of=/sys/class/net/service/queues/rx-0/rps_cpus status=none", mask.display()))
        .unwrap();
    let backlog: u64 =
        std::fs::read_to_string("/proc/sys/net/core/netdev_max_backlog").unwrap().trim().parse().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let told = loop {
        let flood = || {
            let mut first = CpuSet::new();
            first.set(0).unwrap();
            sched_setaffinity(Pid::from_raw(0), &first).unwrap();
            let socket = raw_socket(SERVICE.into()).unwrap();
            // What waits in the backlog still counts as this socket's.
            setsockopt(&socket, sockopt::SndBufForce, &(64 << 20)).unwrap();
            let packet = datagram(SocketAddrV4::new([10, 1, 0, 1].into(), 4711), SocketAddrV4::new(SERVICE, 53));
            for _ in 0..backlog * 4 {
                send(&socket, &packet, IpAddr::V4(SERVICE)).unwrap();
            }
        };
        lab.client.within(flood).unwrap();
        let status = status(&lab);
        if let Some(told) = finding(&status, "backlog", "losing") {
            break told;
        }
        assert!(Instant::now() < deadline, "{}", status["capacity"]);
    };
    assert!(told["help"].as_str().unwrap().contains("netdev_max_backlog"), "{told}");
    assert!(metric(&lab, "headgate_softnet_dropped_packets_total") >= told["count"].as_u64().unwrap());
}
