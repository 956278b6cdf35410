//! Mode `stateless`: addresses and ports are rewritten in both directions, packet by packet, without connection tracking.
//!
//! A packet from a client is given its backend before connection tracking sees it. A packet from a backend is known by its source
//! alone (that is why `check` wants it to be unique) and gets the virtual address back behind routing: rewritten earlier, the
//! box would take its own address for a forged one, or need `accept_local`.
//!
//! The packet mark carries the slot, then the backend, from rule to rule, and is 0 again at the end: nothing of ours is
//! left on the packet when routes are looked up.

use std::sync::Arc;

use headgate_config::model::{Backend, Farm, TrafficCount};
use headgate_config::types::{Endpoint, Listen, Ports};
use headgate_nft::{Bytes, Chain, Data, Element, Field, Operator, Rule, Statement, Target, Value, Verdict};

use super::contents::Contents;
use super::farm::{Ground, add_listeners, listener, versions};
use super::guard::{self, Post};
use super::hooks::{base, key, lookups};
use super::refuse;
use super::schedule;
use super::terms::{
    SCTP, TCP, UDP, UNTRACKED, address_bytes, address_fields, equal, exactly, in_state, is, mark_bytes, nfproto, rule,
    yields,
};
use crate::maps::{Door, Map, Place, Reach};
use crate::names::{self, IpVersion};

/// Adds all that one farm needs.
pub(super) fn add(contents: &mut Contents, farm: &Farm, ground: Ground<'_>) {
    for backend in farm.backends.values() {
        add_backend(contents, farm, backend, ground);
    }
    let able: Vec<&Backend> = farm.backends.values().collect();
    for version in versions(farm) {
        let chain = names::farm_chain(version, &farm.name);
        let post = Post { place: Place::Inet, version, ground };
        // Policies: each packet meets them.
        let entrance = guard::entrance(contents, farm, post, &chain);
        add_listeners(contents, farm, Door::Raw, version, &entrance);
        let slots = schedule::slot(contents, farm, version, &able, ground);
        let rules = match slots.is_empty() {
            false => slots.into_iter().map(|value| rule([Statement::Set { target: Target::Mark, value }])).collect(),
            true => refuse::empty(contents, farm, post),
        };
        contents.add_chain(Place::Inet, chain, rules);
        add_answers(contents, farm, version, ground);
    }
}

/// Whatever its state: what it still sends finds its way back.
fn add_backend(contents: &mut Contents, farm: &Farm, backend: &Backend, ground: Ground<'_>) {
    let Some(mark) = ground.ids.mark(&farm.name, &backend.name) else { return };
    let key = || exactly(mark_bytes(mark));
    let Endpoint { address, port } = backend.address;
    let comment = Some(names::backend_comment(&farm.name, &backend.name));
    if schedule::is_out(farm, backend, ground.ids) {
        contents.add(Map::Down(Place::Inet), key(), Element { comment: comment.clone(), ..Element::default() });
    }
    if ground.traffic == TrafficCount::Bytes {
        contents.add(Map::Traffic(Place::Inet), key(), Element { comment: comment.clone(), ..Element::default() });
    }
    let data = Some(Data::Value(address_bytes(address)));
    contents.add(Map::Rewrites(IpVersion::of(address)), key(), Element { data, comment, ..Element::default() });
    if let Some(port) = port {
        contents.add(Map::RewritePorts, key(), yields(Bytes::from_slice(&port.to_be_bytes())));
    }
}

/// Leads what comes from the backends of a family to the listener that it answers for.
fn add_answers(contents: &mut Contents, farm: &Farm, version: IpVersion, ground: Ground<'_>) {
    let Some(id) = ground.ids.farm(&farm.name) else { return };
    let listens = farm.listen.iter().filter(|listen| IpVersion::of(listen.address) == version);
    let backends = || farm.backends.values().filter(|backend| IpVersion::of(backend.address.address) == version);
    for (number, listen) in (0..).zip(listens) {
        let number = names::slot(id, version, number);
        let identity = || exactly(mark_bytes(number));
        let address = Some(Data::Value(address_bytes(listen.address)));
        // The farm's id must be known again while its chain refuses and names no slot.
        let comment = Some(farm.name.as_str().into());
        contents.add(Map::Virtual(version), identity(), Element { data: address, comment, ..Element::default() });
        for backend in backends() {
            let Endpoint { address, port } = backend.address;
            let ports = port.map_or(listen.ports, Ports::One);
            let (reach, key) = listener(&Listen { address, ports, ..*listen });
            if let (TrafficCount::Bytes, Some(mark)) = (ground.traffic, ground.ids.mark(&farm.name, &backend.name)) {
                contents.add(Map::Senders(version, reach), key.clone(), yields(mark_bytes(mark)));
            }
            contents.add(Map::Answers(version, reach), key, yields(mark_bytes(number)));
        }
        let translates = backends().any(|backend| backend.address.port.is_some());
        if let (Ports::One(port), true) = (listen.ports, translates) {
            contents.add(Map::VirtualPorts, identity(), yields(Bytes::from_slice(&port.to_be_bytes())));
        }
    }
}

/// The chains that all stateless farms share. As in the nat hooks a farm's chain only says which slot, and its end is the end of the
/// jump: no verdict stands where a change of a backend writes.
pub(super) fn chains(contents: &Contents) -> Vec<(Arc<str>, Chain)> {
    let used = |version: &IpVersion| contents.uses(Map::Rewrites(*version));
    let versions: Vec<IpVersion> = IpVersion::ALL.into_iter().filter(used).collect();
    let mut dispatch = lookups(contents, Door::Raw);
    let mut postrouting = Vec::new();
    for (version, reach) in versions.iter().flat_map(|&version| Reach::ALL.map(|reach| (version, reach))) {
        if contents.uses(Map::Answers(version, reach)) {
            dispatch.push(untrack(version, reach));
            if contents.uses(Map::Senders(version, reach)) {
                postrouting.push(count_answer(version, reach));
            }
            postrouting.push(answer(version, reach));
        }
    }
    dispatch.push(rule([Statement::Verdict(Verdict::Accept)]));
    let mut raw = vec![rule([Statement::Verdict(Verdict::Jump(names::RAW_DISPATCH.into()))])];
    raw.extend(versions.iter().map(|&version| {
        let goto = Statement::Verdict(Verdict::Goto(names::rewrite_chain(version)));
        rule([is(Field::Nfproto, nfproto(version)), goto])
    }));
    let mut chains = vec![
        base(names::RAW, raw),
        (names::RAW_DISPATCH.into(), Chain { base: None, rules: dispatch }),
        base(names::RAW_POSTROUTING, postrouting),
    ];
    for version in versions {
        chains.push((names::rewrite_chain(version), Chain { base: None, rules: rewrite(version, contents) }));
        chains.push((names::answer_chain(version), Chain { base: None, rules: give_back(version, contents) }));
    }
    chains
}

fn by_packet_mark(map: Map) -> Value {
    Value::Map { key: Box::new(Value::Field(Field::Mark)), map: map.name() }
}

fn set(target: Target, value: Value) -> Statement {
    Statement::Set { target, value }
}

fn unmark() -> Statement {
    set(Target::Mark, Value::Constant(mark_bytes(0)))
}

/// What a packet's source says: by [`Map::Answers`] the listener that it answers for, by [`Map::Senders`] the backend.
fn by_source(map: Map, version: IpVersion, reach: Reach) -> Statement {
    let (source, _) = address_fields(version);
    set(Target::Mark, Value::Map { key: Box::new(key(reach, source, Field::Sport)), map: map.name() })
}

/// The element counts what looks it up.
fn count() -> Statement {
    Statement::InSet { value: Value::Field(Field::Mark), set: Map::Traffic(Place::Inet).name(), invert: false }
}

/// An answer on its way through the box is not tracked. One to the box itself is: the box asked the backend by its own
/// address, as health checks do.
fn untrack(version: IpVersion, reach: Reach) -> Rule {
    /// `RTN_LOCAL`, linux/rtnetlink.h.
    const LOCAL: u32 = 2;
    let through = Statement::Match {
        value: Value::Field(Field::FibDaddrType),
        operator: Operator::NotEqual,
        constant: mark_bytes(LOCAL),
    };
    let accept = Statement::Verdict(Verdict::Accept);
    // The route is asked for behind the lookup: only what comes from a backend pays for it.
    let whose = by_source(Map::Answers(version, reach), version, reach);
    rule([is(Field::Nfproto, nfproto(version)), whose, unmark(), through, Statement::Notrack, accept])
}

/// A rule of its own: an answer that is not counted still goes its way. Here and not in prerouting, where answers to the box
/// itself, which nobody asked the farm for, come by as well.
fn count_answer(version: IpVersion, reach: Reach) -> Rule {
    let sender = by_source(Map::Senders(version, reach), version, reach);
    rule([is(Field::Nfproto, nfproto(version)), in_state(UNTRACKED), sender, count()])
}

fn answer(version: IpVersion, reach: Reach) -> Rule {
    let whose = by_source(Map::Answers(version, reach), version, reach);
    let goto = Statement::Verdict(Verdict::Goto(names::answer_chain(version)));
    rule([is(Field::Nfproto, nfproto(version)), in_state(UNTRACKED), whose, goto])
}

/// The destination becomes the backend's.
fn rewrite(version: IpVersion, contents: &Contents) -> Vec<Rule> {
    let address = match version {
        IpVersion::V4 => Target::Ip4Daddr,
        IpVersion::V6 => Target::Ip6Daddr,
    };
    let ports = [(TCP, Target::TcpDport), (UDP, Target::UdpDport), (SCTP, Target::SctpDport)];
    let to = Rewrite { version, address, ports, addresses: Map::Rewrites(version), port: Map::RewritePorts };
    let mut rules = vec![rule([Statement::Notrack, set(Target::Mark, by_packet_mark(Map::Slots(Place::Inet)))])];
    if contents.uses(Map::Traffic(Place::Inet)) {
        rules.push(rule([count()]));
    }
    rules.extend(to.rules(contents));
    rules
}

/// The source becomes the virtual address again.
fn give_back(version: IpVersion, contents: &Contents) -> Vec<Rule> {
    let address = match version {
        IpVersion::V4 => Target::Ip4Saddr,
        IpVersion::V6 => Target::Ip6Saddr,
    };
    let ports = [(TCP, Target::TcpSport), (UDP, Target::UdpSport), (SCTP, Target::SctpSport)];
    Rewrite { version, address, ports, addresses: Map::Virtual(version), port: Map::VirtualPorts }.rules(contents)
}

/// One direction.
struct Rewrite {
    version: IpVersion,
    address: Target,
    ports: [(u8, Target); 3],
    addresses: Map,
    port: Map,
}

impl Rewrite {
    /// A rule a protocol, since a checksum's place is the protocol's; the last one for what keeps its port.
    fn rules(&self, contents: &Contents) -> Vec<Rule> {
        let accept = || Statement::Verdict(Verdict::Accept);
        let address = || set(self.address, by_packet_mark(self.addresses));
        let mut rules = Vec::new();
        for &(protocol, target) in self.ports.iter().filter(|_| contents.uses(self.port)) {
            let port = || set(target, by_packet_mark(self.port));
            if protocol == UDP && self.version == IpVersion::V4 {
                // Without a checksum (RFC 768) a write of the port would leave one, and a wrong one. IPv6 has no such datagrams.
                let none = || Bytes::from_slice(&[0, 0]);
                rules.push(rule([
                    is(Field::L4proto, UDP),
                    equal(Value::Field(Field::UdpChecksum), none()),
                    port(),
                    address(),
                    set(Target::UdpChecksum, Value::Constant(none())),
                    unmark(),
                    accept(),
                ]));
            }
            rules.push(rule([is(Field::L4proto, protocol), port(), address(), unmark(), accept()]));
        }
        rules.push(rule([address(), unmark(), accept()]));
        rules
    }
}
