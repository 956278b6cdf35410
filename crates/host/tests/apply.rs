//! Whole plans on a real kernel: knobs, addresses, routes and the ruleset together. Needs root, iproute2 and nft.

use std::collections::BTreeMap;
use std::path::Path;

use headgate_host::lock::LockError;
use headgate_host::{Host, Lock, Root};
use headgate_nft::{
    BaseChain, Chain, ChainKind, Data, Datatype, Element, Field, Hook, Key, Rule, Ruleset, Set, SetData, Statement,
    Table, TableId, Value, Verdict,
};
use headgate_plan::compile::Desired;
use headgate_plan::names::{GUARD_TABLE, TABLE};
use headgate_plan::state::{Address, Fit, Knob, KnobValue, LinkState, Route, State};
use headgate_plan::step::{Outcome, Plan, Step};
use support::{Namespace, ip, nft};

#[allow(dead_code)]
mod support;

const ARP_IGNORE: &str = "proc/sys/net/ipv4/conf/x/arp_ignore";

/// Interface `x`, a foreign address and route on it, and a foreign table.
fn machine() -> (Namespace, tempfile::TempDir) {
    let namespace = Namespace::new();
    namespace.run(|| {
        ip("link add x type veth peer name y");
        ip("link set x addrgenmode none up");
        ip("link set y addrgenmode none up");
        ip("address add 172.16.1.1/24 dev x");
        ip("route add 10.99.0.0/16 via 172.16.1.254");
        nft("add table inet foreign; add chain inet foreign c; add rule inet foreign c counter accept");
    });
    (namespace, tempfile::tempdir().expect("a temporary directory"))
}

/// Everything that a plan can change, in the namespace of this thread.
fn seen() -> String {
    let knob = std::fs::read_to_string(Path::new("/").join(ARP_IGNORE)).expect("a sysctl");
    ip("-details address show dev x") + &ip("route show table all") + &nft("list ruleset") + &knob
}

fn table(name: &str, table: Table) -> (TableId, Table) {
    (TableId::inet(name), table)
}

/// A guard and a table with a map from address to verdict, and a chain for each address.
fn ruleset(addresses: &[[u8; 4]]) -> Ruleset {
    let guard = Statement::Match {
        value: Value::Field(Field::CtMark),
        operator: headgate_nft::Operator::Equal,
        constant: 0u32.to_ne_bytes().as_slice().into(),
    };
    let guard = Chain { base: None, rules: vec![Rule { statements: vec![guard], comment: None }] };
    let verdict = |number: usize| Element {
        data: Some(Data::Verdict(Verdict::Goto(format!("farm-{number}").into()))),
        ..Element::default()
    };
    let elements = addresses.iter().enumerate();
    let services = Set {
        key: vec![Datatype::Ipv4Addr],
        data: Some(SetData::Verdict),
        size: Some(1024),
        elements: elements.map(|(n, ip)| (Key { start: ip.as_slice().into(), end: None }, verdict(n))).collect(),
        ..Set::default()
    };
    let base = BaseChain { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -100, devices: Default::default() };
    let family = Statement::Match {
        value: Value::Field(Field::Nfproto),
        operator: headgate_nft::Operator::Equal,
        constant: [2].as_slice().into(),
    };
    let lookup = Statement::VerdictMap { key: Value::Field(Field::Ip4Daddr), map: "services4".into() };
    let prerouting = Chain { base: Some(base), rules: vec![Rule { statements: vec![family, lookup], comment: None }] };
    let mut chains = BTreeMap::from([("prerouting".into(), prerouting)]);
    for number in 0..addresses.len() {
        let rule = Rule { statements: vec![Statement::Counter], comment: Some(format!("farm {number}").into()) };
        chains.insert(format!("farm-{number}").into(), Chain { base: None, rules: vec![rule] });
    }
    let ours = Table { sets: [("services4".into(), services)].into(), chains, ..Table::default() };
    let guard = Table { sets: BTreeMap::new(), chains: [("ct".into(), guard)].into(), ..Table::default() };
    Ruleset { tables: [table(TABLE, ours), table(GUARD_TABLE, guard)].into() }
}

fn address(net: &str) -> Address {
    Address { link: "x".to_owned(), net: net.parse().expect("an address with its length") }
}

/// Two virtual addresses, a route, an MTU, a sysctl, and a ruleset.
fn desired() -> Desired {
    let route = Route {
        to: "10.1.0.0/16".parse().expect("a prefix"),
        via: Some("172.16.1.254".parse().expect("an address")),
        link: None,
        source: Some("172.16.1.2".parse().expect("an address")),
        metric: None,
        table: 254,
    };
    let knob = Knob {
        path: ARP_IGNORE.to_owned(),
        want: KnobValue::Int(1),
        fit: Fit::Exact,
        why: "a test".to_owned(),
        origin: None,
    };
    let state = State {
        ruleset: ruleset(&[[172, 16, 1, 2], [172, 16, 1, 3]]),
        links: [("x".to_owned(), LinkState { up: true, mtu: Some(1400) })].into(),
        addresses: [address("172.16.1.2/32"), address("172.16.1.3/32")].into(),
        routes: [route].into(),
        knobs: [(knob.path.clone(), knob.want.clone())].into(),
        ..State::default()
    };
    Desired { state, knobs: vec![knob], ..Desired::default() }
}

fn host(files: &Path) -> Host {
    Host::open(Root::new(files)).expect("root, with netlink and nftables")
}

#[test]
fn a_second_apply_has_no_steps_and_a_flush_leaves_nothing() {
    let (namespace, files) = machine();
    namespace.run(move || {
        let before = seen();
        let mut host = host(files.path());
        let desired = desired();
        let plan = host.verify(&desired).expect("a working kernel");
        assert_eq!(plan.steps.len(), 6, "{plan:?}");
        let report = host.apply(plan);
        assert!(report.steps.iter().all(|(_, outcome)| *outcome == Outcome::Set), "{report:?}");
        assert_eq!(host.verify(&desired).expect("a working kernel"), Plan::default());
        assert!(nft("list table inet headgate").contains("172.16.1.3 : goto farm-1"));
        assert!(nft("list table inet foreign").contains("accept"));

        let report = host.flush().expect("a working kernel");
        assert!(!report.failed() && report.refused().count() == 0, "{report:?}");
        assert_eq!(report.restored, [(ARP_IGNORE.to_owned(), Outcome::Set)]);
        ip("link set x mtu 1500");
        assert_eq!(seen(), before);
        assert_eq!(host.flush().expect("a working kernel").steps, [], "nothing is left to flush");
    });
}

#[test]
fn a_refused_ruleset_takes_everything_back() {
    let (namespace, files) = machine();
    namespace.run(move || {
        let before = seen();
        let mut host = host(files.path());
        let mut desired = desired();
        let ours = desired.state.ruleset.tables.get_mut(&TableId::inet(TABLE)).expect("it is there");
        let missing = Statement::VerdictMap { key: Value::Field(Field::Ip4Daddr), map: "missing".into() };
        let rules = &mut ours.chains.get_mut("prerouting").expect("it is there").rules;
        rules.push(Rule { statements: vec![missing], comment: None });
        let plan = host.verify(&desired).expect("a working kernel");
        let report = host.apply(plan);
        let failure = report.failure.as_ref().expect("there is no such map");
        assert!(failure.reason.contains("rule 2 of chain prerouting"), "{failure:?}");
        assert!(!failure.stale);
        let returned = report.steps.iter().filter(|(_, outcome)| *outcome == Outcome::Returned).count();
        assert_eq!(returned, 5, "{report:?}");
        assert!(report.announcements.is_empty());
        assert_eq!(seen(), before);
    });
}

#[test]
fn a_change_by_others_after_the_observation_is_noticed() {
    let (namespace, files) = machine();
    namespace.run(move || {
        let mut host = host(files.path());
        let desired = desired();
        let plan = host.verify(&desired).expect("a working kernel");
        nft("add chain inet foreign later");
        let report = host.apply(plan);
        assert!(report.failure.as_ref().is_some_and(|failure| failure.stale), "{report:?}");
        let plan = host.verify(&desired).expect("a working kernel");
        let report = host.apply(plan);
        assert!(!report.failed(), "{report:?}");
        assert_eq!(host.verify(&desired).expect("a working kernel"), Plan::default());
    });
}

#[test]
fn a_refused_knob_stops_nothing() {
    let (namespace, files) = machine();
    namespace.run(move || {
        let mut host = host(files.path());
        let absurd = Step::Knob {
            path: "proc/sys/net/ipv4/conf/x/forwarding".to_owned(),
            was: None,
            want: KnobValue::Text("much".to_owned()),
            fit: Fit::Exact,
        };
        let missing =
            Step::Knob { path: "proc/sys/net/no/such".to_owned(), was: None, want: KnobValue::Int(1), fit: Fit::Exact };
        let report = host.apply(Plan { steps: vec![absurd, missing, Step::AddAddress(address("172.16.1.2/32"))] });
        assert!(!report.failed());
        assert!(matches!(report.steps[0].1, Outcome::Refused(_)), "{report:?}");
        assert_eq!(report.steps[1].1, Outcome::Unsupported);
        assert_eq!(report.steps[2].1, Outcome::Set);
    });
}

#[test]
fn one_backend_is_changed_by_a_few_elements() {
    let (namespace, files) = machine();
    namespace.run(move || {
        let mut host = host(files.path());
        let mut desired = desired();
        let plan = host.verify(&desired).expect("a working kernel");
        assert!(!host.apply(plan).failed());
        let wanted = ruleset(&[[172, 16, 1, 2], [172, 16, 1, 4]]);
        let changes = headgate_nft::between(&desired.state.ruleset, &wanted);
        assert_eq!(changes.len(), 2, "{changes:?}");
        nft("add chain inet foreign later");
        host.commit_ruleset(&changes).expect("others' changes do not matter to elements of ours");
        desired.state.ruleset = wanted;
        assert_eq!(host.verify(&desired).expect("a working kernel"), Plan::default());

        let error = host.commit_ruleset(&changes).expect_err("the first of them is gone");
        assert!(!error.is_stale());
        assert_eq!(host.verify(&desired).expect("a working kernel"), Plan::default(), "nothing of it happened");
    });
}

#[test]
fn without_the_privilege_it_says_so() {
    let (namespace, files) = machine();
    namespace.run(move || {
        // Dropping it in this thread only: the other tests run in others.
        let header = [0x2008_0522_u32, 0];
        let none = [0_u32; 6];
        // SAFETY: both pointers are to arrays of the lengths that version 3 of capset(2) reads.
        let result = unsafe { nix::libc::syscall(nix::libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
        assert_eq!(result, 0, "a thread may give up its capabilities");
        let error = Host::open(Root::new(files.path())).expect_err("nftables is for administrators");
        let cause = std::error::Error::source(&error).expect("it has a cause").to_string();
        assert!(cause.contains("CAP_NET_ADMIN"), "{error}: {cause}");
    });
}

#[test]
fn foreign_tables_with_our_prefix_are_not_ours() {
    let (namespace, files) = machine();
    namespace.run(move || {
        nft("add table ip headgate; add table inet headgate2; add chain ip headgate c");
        let mut host = host(files.path());
        assert_eq!(host.observe(&State::default()).expect("a working kernel"), State::default());
        assert_eq!(host.flush().expect("nothing to do").steps, []);
        assert!(nft("list tables").contains("table ip headgate\n"));
    });
}

#[test]
fn a_full_disk_keeps_nobody_from_the_lock() {
    let (namespace, files) = machine();
    namespace.run(move || {
        let run = files.path().join("run/headgate");
        std::fs::create_dir_all(&run).expect("a directory");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &run, Some("tmpfs"), flags, Some("size=4096")).expect("a small tmpfs");
        std::fs::write(run.join("ballast"), [0; 4096]).expect("all of it");
        assert!(std::fs::write(run.join("more"), "x").is_err(), "it is full");
        let root = Root::new(files.path());
        let _lock = Lock::take(&root).expect("a lock needs no space");
        let held = Lock::take(&root).expect_err("it is taken");
        assert!(matches!(held, LockError::Held { pid: None, .. }), "{held}");
    });
}

#[test]
fn an_interface_without_ipv6_takes_the_plan_back() {
    let (namespace, files) = machine();
    namespace.run(move || {
        std::fs::write("/proc/sys/net/ipv6/conf/x/disable_ipv6", "1").expect("a sysctl of this namespace");
        let before = seen();
        let steps = vec![Step::AddAddress(address("172.16.1.2/32")), Step::AddAddress(address("2001:db8::1/128"))];
        let report = host(files.path()).apply(Plan { steps });
        let failure = report.failure.as_ref().expect("the kernel has no IPv6 there");
        assert!(failure.reason.contains("IPv6 is disabled on this device"), "{failure:?}");
        assert_eq!(report.steps[0].1, Outcome::Returned);
        assert_eq!(seen(), before);
    });
}
