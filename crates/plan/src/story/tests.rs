//! Steps as the kernel tells them, and what is made of them. The real ones are in `tests/trace.rs`.

use headgate_nft::{Numgen, Reject};

use super::*;
use crate::compile::compile;
use crate::samples::{config, facts, web};

const TABLE: &str = "headgate-trace-1";

fn headers(source: &str, destination: &str, links: (u32, u32)) -> Headers {
    let (source, destination): (SocketAddr, SocketAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let index = |index: u32| (index != 0).then_some(index);
    Headers {
        source: source.ip(),
        destination: destination.ip(),
        protocol: 6,
        ports: Some((source.port(), destination.port())),
        iif: index(links.0),
        oif: index(links.1),
    }
}

fn event(table: &str, chain: &str, step: Step, headers: Option<Headers>) -> Event {
    Event { packet: 7, table: TableId::inet(table), chain: chain.into(), step, headers, mark: 0 }
}

fn rule(handle: u64, ruling: Ruling) -> Step {
    Step::Rule { handle, ruling }
}

/// The first step of a packet from the client to the farm.
fn arrived() -> Event {
    let headers = headers("172.16.1.10:4711", "172.16.1.1:80", (2, 0));
    event(TABLE, "arrived", rule(1, Ruling::Jump("mark".into())), Some(headers))
}

fn dispatched(to: &str) -> Event {
    event("headgate", "dispatch", rule(3, Ruling::Goto(to.into())), None)
}

fn told(events: &[Event], rules: &[(u64, Rule)]) -> Story {
    let desired = compile(&config(vec![web()]), &[], &facts(), &Ids::default()).unwrap();
    let rules = rules.iter().map(|(handle, rule)| ((TableId::inet("headgate"), *handle), ("c".into(), rule.clone())));
    let scene = Scene {
        farm: &web(),
        ids: &desired.ids,
        rules: &rules.collect(),
        links: &[(2, "eth0".to_owned()), (3, "eth1".to_owned())].into(),
        table: TABLE,
    };
    tell(events, &scene).unwrap()
}

fn statements(statements: Vec<Statement>) -> Rule {
    Rule { statements, comment: None }
}

#[test]
fn a_new_flow_is_told_from_door_to_door() {
    let turn = Value::Numgen(Numgen { random: false, modulus: 2, offset: 1 << 16 });
    let rules = [(9, statements(vec![Statement::Set { target: Target::CtMark, value: turn }]))];
    let after = headers("172.16.2.1:4711", "172.16.2.12:8080", (2, 3));
    let story = told(
        &[
            arrived(),
            dispatched("farm4-web"),
            event("headgate", "farm4-web", rule(9, Ruling::Continue), None),
            event("headgate", "assign", rule(5, Ruling::Accept), None),
            event(TABLE, follow::OUT, rule(2, Ruling::Continue), Some(after)),
        ],
        &rules,
    );
    assert_eq!(
        story.to_string(),
        "client 172.16.1.10:4711 → 172.16.1.1:80/tcp → farm web → scheduler chose b2 → dnat 172.16.2.12:8080 → \
         snat 172.16.2.1:4711 → out eth1"
    );
    assert_eq!((story.end, story.backend.as_deref()), (End::Sent, Some("b2")));
}

#[test]
fn who_refuses_says_why() {
    let refuse = |chain: &str| event("headgate", chain, rule(9, Ruling::Drop), None);
    let rejects = [(9, statements(vec![Statement::Reject(Reject::TcpReset)]))];
    for (chain, rules, expected) in [
        ("refuse4-web/new-connections", &[][..], "dropped: over limit new-connections"),
        ("refuse4-web/ban", &rejects, "rejected: the client is banned for a while (limits.ban)"),
        ("total-web", &rejects, "rejected: over limit new-connections-total"),
        ("farm4-web", &rejects, "rejected: no backend can serve (on-empty)"),
        ("farm4-other", &[], "dropped: farm other does not take it"),
    ] {
        let story = told(&[arrived(), dispatched(chain), refuse(chain)], rules);
        assert_eq!(story.steps.last().unwrap(), expected);
        assert_eq!(story.end, End::Refused);
    }
}

#[test]
fn who_comes_to_the_end_of_the_hooks_was_given_to_nobody() {
    let rejects = [(9, statements(vec![Statement::Reject(Reject::TcpReset)]))];
    let refused = event("headgate", names::PREROUTING, rule(9, Ruling::Drop), None);
    for (chain, expected) in [
        ("farm4-web", "rejected: no backend can serve (on-empty)"),
        ("farm4-other", "rejected: farm other does not take it"),
    ] {
        let story = told(&[arrived(), dispatched(chain), refused.clone()], &rejects);
        assert_eq!(story.steps.last().unwrap(), expected);
        assert_eq!(story.end, End::Refused);
    }
}

#[test]
fn others_and_nobody_are_named() {
    let dropped = |step| event("firewall", "input", step, None);
    let story = told(&[arrived(), dropped(rule(4, Ruling::Drop))], &[]);
    assert!(
        story
            .to_string()
            .ends_with("no farm took it → dropped by another table, inet firewall: rule with handle 4 of chain input")
    );
    let story = told(&[arrived(), dropped(Step::Policy(Ruling::Drop))], &[]);
    assert!(story.to_string().ends_with("inet firewall: the policy of chain input"), "{story}");
    assert_eq!(story.end, End::Dropped);
    let story = told(&[arrived()], &[]);
    assert!(story.to_string().contains("no farm took it → not seen any more"), "{story}");
    assert_eq!(story.end, End::Lost);
}

#[test]
fn a_known_flow_needs_no_farm() {
    let after = headers("172.16.1.10:4711", "172.16.2.11:8080", (2, 3));
    let story = told(&[arrived(), event(TABLE, follow::OUT, rule(2, Ruling::Continue), Some(after))], &[]);
    assert!(story.to_string().ends_with("known flow of web/b1 → dnat 172.16.2.11:8080 → out eth1"), "{story}");
}

#[test]
fn packets_are_sorted_and_end() {
    let (mut packets, now) = (Packets::default(), Duration::ZERO);
    let of = |packet, event| Event { packet, ..event };
    let end = || event(TABLE, follow::OUT, rule(2, Ruling::Continue), None);
    let policy = event(TABLE, follow::OUT, Step::Policy(Ruling::Accept), None);
    assert_eq!(packets.push(policy, TABLE, now), None, "a packet that has ended");
    assert_eq!(packets.push(of(1, dispatched("farm4-web")), TABLE, now), None, "somebody else traces it");
    assert_eq!(packets.push(of(2, arrived()), TABLE, now), None);
    assert_eq!(packets.push(of(3, arrived()), TABLE, now), None);
    assert_eq!(packets.push(of(2, end()), TABLE, now).map(|events| events.len()), Some(2));
    assert!(packets.lost(now).is_empty());
    assert_eq!(packets.lost(now + QUIET).len(), 1);
    for packet in 0..=OPEN_MAX as u32 {
        let full = packet as usize == OPEN_MAX;
        assert_eq!(packets.push(of(packet, arrived()), TABLE, now).is_some(), full, "{packet}");
    }
}
