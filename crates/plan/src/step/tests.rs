use std::collections::BTreeMap;

use super::*;
use crate::compile::compile;
use crate::ids::Ids;
use crate::samples::{address, config, facts, net, web};
use crate::state::MarkMatch;

fn address_on(link: &str, text: &str) -> Address {
    Address { link: link.to_owned(), net: net(text) }
}

fn route(to: &str, via: &str, metric: Option<u32>) -> Route {
    Route { to: net(to), via: Some(address(via)), link: None, source: None, metric, table: 254 }
}

fn knob(path: &str, want: KnobValue) -> Knob {
    Knob { path: path.to_owned(), want, fit: Fit::Exact, why: String::new(), origin: None }
}

/// Everything at once: what is wanted and what is there differ in each way that a step exists for.
fn both() -> (Desired, State) {
    let mut desired = compile(&config(vec![web()]), &[], &facts(), &Ids::default()).unwrap();
    desired.knobs = vec![
        knob("proc/sys/net/ipv4/ip_forward", KnobValue::Int(1)),
        knob("proc/sys/not/there", KnobValue::Int(1)),
        Knob { fit: Fit::AtLeast, ..knob("proc/sys/vm/min_free_kbytes", KnobValue::Int(10)) },
    ];
    let link = |up, mtu| LinkState { up, mtu: Some(mtu) };
    desired.state.links = [("eth0".to_owned(), link(true, 9000)), ("gone".to_owned(), link(true, 1500))].into();
    desired.state.routes = [route("0.0.0.0/0", "172.16.1.254", None)].into();
    let rule = |priority, (from, to), (value, mask)| RoutingRule {
        priority,
        from: net(from),
        to: net(to),
        mark: Some(MarkMatch { value, mask }),
        link: None,
        table: 254,
    };
    let marked = rule(100, ("0.0.0.0/0", "0.0.0.0/0"), (0x10, 0xf0));
    desired.state.rules = [RoutingRule { link: Some("eth0".to_owned()), table: 7, ..marked }].into();
    let neighbour = |last, octet| Neighbour {
        link: "eth0".to_owned(),
        address: address(&format!("172.16.1.{last}")),
        mac: [0x52, 0x54, 0, 0, 0, octet],
    };
    desired.state.neighbours = [neighbour(11, 0x0b), neighbour(12, 0x0c), neighbour(13, 0x0d)].into();
    let observed = State {
        neighbours: [neighbour(11, 0x0b), neighbour(12, 0xfc), neighbour(14, 0x0e)].into(),
        rules: [rule(101, ("10.0.0.0/8", "10.9.0.0/16"), (1, u32::MAX))].into(),
        links: [("eth0".to_owned(), link(false, 1500))].into(),
        addresses: [address_on("eth0", "172.16.1.9/32")].into(),
        routes: [Route { link: Some("eth0".to_owned()), ..route("10.0.0.0/8", "172.16.1.253", Some(0)) }].into(),
        knobs: BTreeMap::from([
            ("proc/sys/net/ipv4/ip_forward".to_owned(), KnobValue::Int(0)),
            ("proc/sys/vm/min_free_kbytes".to_owned(), KnobValue::Int(11)),
        ]),
        ..State::default()
    };
    (desired, observed)
}

#[test]
fn steps_are_in_order_and_readable() {
    let (desired, observed) = both();
    let lines: Vec<String> = Plan::between(&desired, &observed).steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "set /proc/sys/net/ipv4/ip_forward to 1 (was 0)",
            "set the MTU of eth0 to 9000 (was 1500)",
            "set eth0 up",
            "add address 172.16.1.1/32 to eth0 and announce it",
            "add route default via 172.16.1.254",
            "add routing rule 100: from all fwmark 0x10/0xf0 iif eth0 lookup 7",
            "change neighbour 172.16.1.12 dev eth0 lladdr 52:54:00:00:00:0c (was 52:54:00:00:00:fc)",
            "add neighbour 172.16.1.13 dev eth0 lladdr 52:54:00:00:00:0d",
            "change the ruleset: 2 tables, 5 maps, 7 chains, 20 rules, 7 elements",
            "remove neighbour 172.16.1.14 dev eth0 lladdr 52:54:00:00:00:0e",
            "remove routing rule 101: from 10.0.0.0/8 to 10.9.0.0/16 fwmark 0x1 lookup 254",
            "remove route 10.0.0.0/8 via 172.16.1.253 dev eth0 metric 0",
            "remove address 172.16.1.9/32 from eth0",
        ]
    );
}

#[test]
fn nothing_to_do_is_nothing() {
    let (desired, _) = both();
    let mut observed = desired.state.clone();
    observed.knobs.insert("proc/sys/net/ipv4/ip_forward".to_owned(), KnobValue::Int(1));
    assert_eq!(Plan::between(&desired, &observed), Plan::default());
    assert!(Plan::between(&desired, &observed).is_empty());
}

#[test]
fn what_the_kernel_fills_in_is_no_difference() {
    let (mut desired, _) = both();
    let mut observed = desired.state.clone();
    let six = Route { metric: None, ..route("::/0", "fe80::1", None) };
    desired.state.routes.insert(six.clone());
    let eth0 = Some("eth0".to_owned());
    observed.routes = [
        Route { link: eth0.clone(), ..route("0.0.0.0/0", "172.16.1.254", Some(0)) },
        Route { link: eth0.clone(), metric: Some(1024), ..six },
    ]
    .into();
    observed.knobs.insert("proc/sys/net/ipv4/ip_forward".to_owned(), KnobValue::Int(1));
    assert_eq!(Plan::between(&desired, &observed), Plan::default());
    let elsewhere = Route { link: Some("eth1".to_owned()), ..route("0.0.0.0/0", "172.16.1.254", None) };
    desired.state.routes = [elsewhere].into();
    assert_eq!(Plan::between(&desired, &observed).steps.len(), 3, "one to add, two to remove");
}

#[test]
fn every_step_but_the_ruleset_can_be_taken_back() {
    let (desired, observed) = both();
    for step in Plan::between(&desired, &observed).steps {
        match step.inverse() {
            Some(inverse) => {
                assert_ne!(inverse, step);
                assert_eq!(inverse.inverse(), Some(step));
            }
            None => assert!(matches!(step, Step::Ruleset(_))),
        }
    }
    let unknown = Step::Knob { path: "proc/x".to_owned(), was: None, want: KnobValue::Int(1), fit: Fit::Exact };
    assert_eq!(unknown.inverse(), None);
}

#[test]
fn many_changes_are_counted_and_few_are_shown() {
    let (desired, observed) = both();
    let plan = Plan::between(&desired, &observed);
    let summary = plan.view(Detail::Summary).into_iter().find(|step| step.kind == "ruleset").unwrap();
    assert!(summary.details.contains(&"add rules to table inet headgate: 19".to_owned()), "{:#?}", summary.details);
    let services = "add element inet headgate services4 { 172.16.1.1 . tcp . 80 : goto farm4-web }";
    assert!(summary.details.contains(&services.to_owned()), "{:#?}", summary.details);
    let full = plan.view(Detail::Full).into_iter().find(|step| step.kind == "ruleset").unwrap();
    assert!(full.details.len() > summary.details.len());
}

#[test]
fn values_of_cpus_are_readable() {
    let texts = [KnobValue::CpuMask(vec![]), KnobValue::CpuList(vec![0, 4]), KnobValue::Text("fq".to_owned())];
    assert_eq!(texts.map(|value| value.to_string()), ["no CPU", "CPU 0,4", "fq"]);
}

#[test]
fn what_new_queues_undo_waits_for_the_next_plan() {
    let step = |path: &str| Step::Knob {
        path: path.to_owned(),
        was: Some(KnobValue::Int(0)),
        want: KnobValue::Int(1),
        fit: Fit::Exact,
    };
    let paths = [
        "ethtool/eth0/rings",
        "proc/irq/41/smp_affinity_list",
        "sys/class/net/eth0/queues/rx-0/rps_cpus",
        "sys/class/net/eth01/queues/rx-0/rps_cpus",
        "proc/sys/net/ipv4/ip_forward",
    ];
    let mut plan = Plan { steps: paths.map(step).into() };
    let whole = plan.clone();
    plan.defer_undone();
    assert_eq!(plan, whole, "rings leave queues as they are");
    plan.steps.push(step("ethtool/eth0/channels"));
    plan.defer_undone();
    let expected = [paths[0], paths[3], paths[4], "ethtool/eth0/channels"];
    assert_eq!(plan.steps, expected.map(step));
}
