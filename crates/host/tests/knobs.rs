//! Knobs in the kernel: a network namespace with a veth pair, whose sysctls and queues are real files.

#[allow(dead_code, reason = "what other tests need")]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use headgate_config::Config;
use headgate_config::model::{Profile, Tuning};
use headgate_host::root::Root;
use headgate_host::{knob, topology};
use headgate_plan::compile::hardware;
use headgate_plan::state::{Fit, Knob, KnobValue};
use headgate_plan::step::Outcome;

use support::{Namespace, ip};

const RPS: &str = "sys/class/net/veth0/queues/rx-0/rps_cpus";

fn generic() -> Profile {
    let sysctl = [
        ("net.ipv4.conf.{if}.accept_redirects", "0"),
        ("net.netfilter.nf_conntrack_tcp_timeout_established", "7440"),
        ("net.netfilter.nf_conntrack_helper", "0"),
        ("kernel.panic", "10"),
    ];
    let sysctl = sysctl.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let tuning = Tuning { sysctl, ..Tuning::default() };
    Profile { id: "generic".into(), title: "Any".into(), priority: 0, matches: Vec::new(), tuning }
}

fn write(root: &Root, path: &str, want: &KnobValue) -> Outcome {
    knob::write(root, knob::Turn { path, want, fit: Fit::Exact })
}

fn turn(root: &Root, knobs: &[Knob]) -> BTreeMap<String, Outcome> {
    knobs.iter().map(|knob| (knob.path.clone(), write(root, &knob.path, &knob.want))).collect()
}

fn in_namespace(work: impl FnOnce(&Root) + Send + 'static) {
    let namespace = Namespace::new();
    namespace.run(move || {
        let files = tempfile::tempdir().expect("a directory for state");
        ip("link add veth0 type veth peer name veth1");
        work(&Root::new(files.path()));
    });
}

#[test]
fn a_machine_is_tuned_once_and_given_back() {
    in_namespace(|root| {
        let panic_before = std::fs::read_to_string("/proc/sys/kernel/panic").expect("a sysctl of every kernel");
        let facts = topology::read(root).expect("this machine can be read");
        assert!(!facts.initial_netns, "seen from a namespace");
        assert!(facts.links.contains_key("veth0") && facts.links["veth0"].nic.is_none());
        let managed = BTreeSet::from(["veth0".to_owned()]);
        let tuned = hardware::knobs(&Config::default(), &[generic()], &facts, &managed).expect("no profile is named");

        let first = turn(root, &tuned.knobs);
        let outcome = |path: &str| &first[path];
        assert_eq!(outcome("proc/sys/net/ipv4/ip_forward"), &Outcome::Set);
        assert_eq!(outcome("proc/sys/net/ipv4/conf/veth0/arp_announce"), &Outcome::Set);
        assert_eq!(outcome("proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established"), &Outcome::Set);
        assert_eq!(
            outcome("proc/sys/net/netfilter/nf_conntrack_helper"),
            &Outcome::Unsupported,
            "gone since Linux 6.0"
        );
        assert!(!first.values().any(|outcome| matches!(outcome, Outcome::Refused(_))), "{first:#?}");
        assert!(!first.contains_key("proc/sys/kernel/panic"), "the host's");
        for knob in tuned.knobs.iter().filter(|knob| first[&knob.path] != Outcome::Unsupported) {
            let found = knob::read(root, &knob.path, &knob.want).expect("it was there a moment ago");
            assert!(knob.is_satisfied_by(&found), "{}: {found}", knob.path);
        }
        assert_eq!(read(root, "veth1"), 0, "not ours");

        let second = turn(root, &tuned.knobs);
        let wrote = second.iter().filter(|(_, outcome)| !matches!(outcome, Outcome::Kept | Outcome::Unsupported));
        assert_eq!(wrote.count(), 0, "{second:#?}");

        let restored = knob::restore(root, &BTreeMap::new()).expect("originals can be read");
        assert!(restored.iter().all(|(_, outcome)| matches!(outcome, Outcome::Set | Outcome::Kept)), "{restored:?}");
        assert_eq!(root.read_machine("proc/sys/net/ipv4/ip_forward").expect("there").trim(), "0");
        assert_eq!(read(root, "veth0"), 0);
        let panic_after = std::fs::read_to_string("/proc/sys/kernel/panic").expect("a sysctl of every kernel");
        assert_eq!(panic_after, panic_before);
    });
}

fn read(root: &Root, link: &str) -> i64 {
    let path = format!("proc/sys/net/ipv4/conf/{link}/arp_announce");
    match knob::read(root, &path, &KnobValue::Int(0)) {
        Some(KnobValue::Int(value)) => value,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn steering_of_a_queue_is_written_read_back_and_given_back() {
    in_namespace(|root| {
        let mask = KnobValue::CpuMask(vec![0]);
        assert_eq!(write(root, RPS, &mask), Outcome::Set);
        assert_eq!(write(root, RPS, &mask), Outcome::Kept);
        assert_eq!(knob::read(root, RPS, &mask), Some(mask));
        // The kernel refuses CPUs that this machine cannot have.
        let refused = write(root, RPS, &KnobValue::CpuMask(vec![60_000]));
        assert!(matches!(&refused, Outcome::Refused(reason) if !reason.is_empty()), "{refused:?}");
        assert_eq!(knob::restore(root, &BTreeMap::new()).expect("originals"), [(RPS.to_owned(), Outcome::Set)]);
        assert_eq!(knob::read(root, RPS, &KnobValue::CpuMask(vec![])), Some(KnobValue::CpuMask(vec![])));
    });
}

#[test]
fn the_kernels_refusals_are_told_apart() {
    in_namespace(|root| {
        let one = KnobValue::Int(1);
        let reason = |outcome| match outcome {
            Outcome::Refused(reason) => reason,
            other => panic!("not refused: {other:?}"),
        };
        let entries = write(root, "proc/sys/net/netfilter/nf_conntrack_max", &one);
        assert_eq!(reason(entries), "Permission denied", "only the initial namespace may");
        assert_eq!(write(root, "proc/sys/net/ipv4/conf/gone/rp_filter", &one), Outcome::Unsupported);
        // A device with one queue has the file, and reading it is ENOENT.
        ip("link add single numtxqueues 1 numrxqueues 1 type veth peer name peer");
        let xps = "sys/class/net/single/queues/tx-0/xps_cpus";
        assert!(root.machine(xps).expect("below /sys").exists());
        assert_eq!(write(root, xps, &KnobValue::CpuMask(vec![0])), Outcome::Unsupported);
        let text = write(root, "proc/sys/net/ipv4/ip_forward", &KnobValue::Text("no number".into()));
        assert_eq!(reason(text), "Invalid argument");
        let ttl = write(root, "proc/sys/net/ipv4/ip_default_ttl", &KnobValue::Int(300));
        assert_eq!(reason(ttl), "Invalid argument");
    });
}

#[test]
fn a_value_that_the_kernel_rounds_is_refused_and_given_back() {
    in_namespace(|root| {
        // Kept in jiffies: with HZ=250 a multiple of 4 ms, with HZ=1000 any.
        let path = "proc/sys/net/ipv4/neigh/veth0/retrans_time_ms";
        let value = |root: &Root| root.read_machine(path).expect("a sysctl of every interface").trim().to_owned();
        let before = value(root);
        let outcome = write(root, path, &KnobValue::Int(1001));
        match value(root).as_str() {
            "1001" => assert_eq!(outcome, Outcome::Set),
            kept => assert_eq!(outcome, Outcome::Refused(format!("the kernel kept {kept}"))),
        }
        assert_eq!(knob::restore(root, &BTreeMap::new()).expect("originals"), [(path.to_owned(), Outcome::Set)]);
        assert_eq!(value(root), before);
    });
}
