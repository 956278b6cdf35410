//! The base chains and the chains that all farms share. They follow from which maps are used, so that their rules are written
//! in one place, and no farm needs to know of another.

use std::collections::BTreeSet;
use std::sync::Arc;

use headgate_config::model::LimitAction;
use headgate_nft::{Bytes, Chain, Field, Nat, NatKind, Rule, Statement, Target, Value, Verdict};

use super::cap;
use super::contents::Contents;
use super::terms::{
    SCTP, TCP, UDP, address_bytes, address_fields, by_mark, equal, ethertype, is, mark_bytes, nfproto, rule,
};
use super::{chosen, inspect, local, offload, queue, refuse, stateless, synproxy};
use crate::maps::{Door, Map, Place, Reach};
use crate::names::{self, IpVersion};
use crate::tunnel::Device;

/// What a table of ours has beside the farms' own chains.
pub(super) fn chains(contents: &Contents, place: Place) -> Vec<(Arc<str>, Chain)> {
    let doors = Door::ALL.into_iter().filter(|door| door.place() == place && is_open(contents, *door));
    doors
        .flat_map(|door| match door {
            Door::Wire | Door::Tunnel => wire(contents, door),
            Door::Syn => synproxy::chains(contents),
            Door::Resets => vec![inspect::resets(contents)],
            Door::Queue => queue::chains(contents),
            Door::Raw => stateless::chains(contents),
            Door::Inspect => vec![base(names::INSPECT, lookups(contents, door))],
            Door::Nat => nat(contents),
            Door::Input => local::chains(contents),
        })
        .collect()
}

/// Whether some farm listens there.
fn is_open(contents: &Contents, door: Door) -> bool {
    let reaches = IpVersion::ALL.into_iter().flat_map(|version| Reach::ALL.map(|reach| (version, reach)));
    reaches.into_iter().any(|(version, reach)| {
        let anywhere = door == Door::Input && contents.uses(Map::Anywhere(version, reach));
        anywhere || contents.uses(Map::Listeners(door, version, reach))
    })
}

/// The way of a new flow: the hook jumps to `dispatch`, which goes to the chain of a farm; that one only sets the ct
/// mark to a slot, and its end is the end of the jump, so the hook goes on with its own rules ([`assign`]). What is
/// nobody's is accepted at the end of `dispatch`: it never comes to them, whatever mark others have set on it.
///
/// A farm's chain that named what follows would be shorter to read and cost one change of a backend 4 ms instead of
/// 0.07 at 10,000 farms: a rule with a verdict makes the kernel validate all chains (`nft_table_validate`). Both hooks
/// have the rules that follow, instead of a chain that they go to: that would be one more rule for each new flow.
fn nat(contents: &Contents) -> Vec<(Arc<str>, Chain)> {
    let mut dispatch = lookups(contents, Door::Nat);
    dispatch.push(rule([Statement::Verdict(Verdict::Accept)]));
    let assign = assign(contents);
    let hook = |name: &str| {
        let jump = rule([Statement::Verdict(Verdict::Jump(names::DISPATCH.into()))]);
        base(name, [vec![jump], assign.clone()].concat())
    };
    let mut chains = vec![
        hook(names::PREROUTING),
        hook(names::OUTPUT),
        (names::DISPATCH.into(), Chain { base: None, rules: dispatch }),
    ];
    if contents.uses(Map::Marks) {
        chains.extend([names::MARK_PREROUTING, names::MARK_OUTPUT].map(|name| base(name, vec![mark_again()])));
    }
    let forward = forward(contents);
    if !forward.is_empty() {
        chains.push(base(names::FORWARD, forward));
    }
    if contents.uses(Map::Admitted) {
        chains.push((names::ADMIT.into(), Chain { base: None, rules: cap::admit() }));
    }
    let sources = sources(contents);
    if !sources.is_empty() {
        chains.push(base(names::POSTROUTING, sources));
    }
    chains
}

/// Every packet that comes in by the interfaces of virtual addresses of `dsr` farms; what is nobody's goes on.
fn wire(contents: &Contents, door: Door) -> Vec<(Arc<str>, Chain)> {
    let place = door.place();
    let (name, mut ingress) = base(names::INGRESS, lookups(contents, door));
    let devices = contents.needs.arrivals.iter().filter(|(other, _)| *other == place).map(|(_, device)| device.clone());
    if let Some(base) = &mut ingress.base {
        base.devices = devices.collect();
    }
    let used = IpVersion::ALL.into_iter().filter(|&version| contents.uses(Map::Bindings(place, version)));
    let shared = used.flat_map(|version| super::wire::passages(contents, place, version));
    let tunnels = (place == Place::Tunnels).then(|| tunnel_ingress(contents)).flatten();
    [(name, ingress)].into_iter().chain(tunnels).chain(shared).collect()
}

/// An `external` device takes what anybody sends to it out of its tunnel, past the filters of the interface by which it came.
/// Ours are for sending.
fn tunnel_ingress(contents: &Contents) -> Option<(Arc<str>, Chain)> {
    let (name, mut chain) = base(names::TUNNEL_INGRESS, vec![rule([Statement::Verdict(Verdict::Drop)])]);
    let used = |device: &Device| contents.needs.departures.contains(&(Place::Tunnels, device.index()));
    let devices: BTreeSet<Arc<str>> = Device::ALL.into_iter().filter(used).map(|device| device.name().into()).collect();
    if devices.is_empty() {
        return None;
    }
    chain.base.iter_mut().for_each(|base| base.devices.clone_from(&devices));
    Some((name, chain))
}

/// What is asked of every packet that goes through the box the long way: both directions come by here.
fn forward(contents: &Contents) -> Vec<Rule> {
    let is_in = |map: Map| Statement::InSet { value: Value::Field(Field::CtMark), set: map.name(), invert: false };
    let traffic = Map::Traffic(Place::Inet);
    let counts = contents.uses(traffic).then(|| rule([is_in(traffic)]));
    // Packets that begin and end a connection are asked in vain. Where no flow of ours is to stay behind, a comparison does,
    // which is a hundred instructions cheaper than a lookup.
    let offloaded = || if offload::is_for_all(contents) { is_ours() } else { is_in(Map::Offloaded) };
    let offloads = contents.uses(Map::Offloaded).then(|| rule([offloaded(), offload::statement()]));
    counts.into_iter().chain(offloads).collect()
}

pub(super) fn base(name: &str, rules: Vec<Rule>) -> (Arc<str>, Chain) {
    (name.into(), Chain { base: names::base_chain(name), rules })
}

/// The packet is of this family.
fn of_version(place: Place, version: IpVersion) -> Statement {
    match place {
        Place::Inet => is(Field::Nfproto, nfproto(version)),
        Place::Netdev | Place::Tunnels => {
            equal(Value::Field(Field::Protocol), Bytes::from_slice(&ethertype(version).to_be_bytes()))
        }
    }
}

/// Exact ports before ranges before `*` before `any`; a miss goes on with the next rule.
pub(super) fn lookups(contents: &Contents, door: Door) -> Vec<Rule> {
    let versions = IpVersion::ALL.into_iter().flat_map(|version| Reach::ALL.map(|reach| (version, reach)));
    let used = versions.filter(|&(version, reach)| contents.uses(Map::Listeners(door, version, reach)));
    used.map(|(version, reach)| {
        let (_, destination) = address_fields(version);
        let key = key(reach, destination, Field::Dport);
        let map = Map::Listeners(door, version, reach).name();
        rule([of_version(door.place(), version), Statement::VerdictMap { key, map }])
    })
    .collect()
}

/// What is looked up in maps that reach so far.
pub(super) fn key(reach: Reach, address: Field, port: Field) -> Value {
    match reach {
        Reach::Port | Reach::Range => Value::Concat([address, Field::L4proto, port].map(Value::Field).into()),
        Reach::AllPorts => Value::Concat([address, Field::L4proto].map(Value::Field).into()),
        Reach::AllProtocols => Value::Field(address),
    }
}

/// What every flow of a farm comes to: slot → mark → destination. One for all farms, since the kernel walks all bindings
/// and elements of a map whenever a chain that looks it up is bound: a lookup per farm is quadratic to load. A miss ends a
/// rule and the next is tried, so a backend is in exactly one map.
fn assign(contents: &Contents) -> Vec<Rule> {
    let mut rules = vec![rule([Statement::Set { target: Target::CtMark, value: by_mark(Map::Slots(Place::Inet)) }])];
    if contents.uses(Map::Admitted) {
        // Before all that depends on which backend it is.
        rules.push(rule([Statement::Verdict(Verdict::Jump(names::ADMIT.into()))]));
    }
    if contents.uses(Map::Marks) {
        // The first packet: its route is asked for behind this hook.
        rules.push(rule([Statement::Set { target: Target::Mark, value: by_mark(Map::Marks) }]));
    }
    if contents.uses(Map::Chosen(Place::Inet)) {
        // Before the translation, which ends the chain.
        rules.push(rule([chosen::by_mark(Place::Inet)]));
    }
    for version in IpVersion::ALL {
        let to = |map, port| {
            let kind = NatKind::Destination;
            let ipv6 = version == IpVersion::V6;
            Statement::Nat(Nat { kind, ipv6, to: by_mark(map), port, fully_random: false })
        };
        if contents.uses(Map::Targets(version)) {
            // One rule a protocol: a port is only meaningful to these (a port given for ICMP would be taken for its
            // identifier), and nft(8) reads the rule back only behind a comparison with a protocol, not with a set.
            let to_port = |number| rule([is(Field::L4proto, number), to(Map::Targets(version), true)]);
            // UDP first: its flows are the shortest, so that what each rule costs weighs most on them.
            rules.extend([UDP, TCP, SCTP].map(to_port));
        }
        if contents.uses(Map::Hosts(version)) {
            rules.push(rule([to(Map::Hosts(version), false)]));
        }
    }
    // A translation ends the hook: what comes here was given no backend, since its farm has none to give.
    rules.extend(refuse::answer(LimitAction::Reject));
    rules
}

/// Marks the packets behind the first one on their way to the backend, as the first was. Answers follow the box's own routes.
fn mark_again() -> Rule {
    const ORIGINAL: u8 = 0;
    rule([
        // A comparison is cheaper than a lookup, for all packets that are not ours.
        is_ours(),
        is(Field::CtDirection, ORIGINAL),
        Statement::Set { target: Target::Mark, value: by_mark(Map::Marks) },
    ])
}

/// The packet's flow was given a backend by us.
fn is_ours() -> Statement {
    let tag = Value::And(Box::new(Value::Field(Field::CtMark)), mark_bytes(names::MARK_TAG_MASK));
    equal(tag, mark_bytes(names::MARK_TAG))
}

/// Which source ports a translation takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// The client's own while nobody else has it towards the backend, else a random one.
    Kept,
    /// Random ones (`fully-random`).
    Random,
}

fn snat(version: IpVersion, to: Value, ports: Ports) -> Statement {
    let ipv6 = version == IpVersion::V6;
    Statement::Nat(Nat { kind: NatKind::Source, ipv6, to, port: false, fully_random: ports == Ports::Random })
}

/// The rules that make flows come from `to`.
///
/// UDP takes random ports: no search for an earlier mapping of the same client, and none is lost while clients' own ports,
/// which lie side by side, are mostly taken (measured: none up to 78 % of all ports, instead of the first at 46 %).
///
/// TCP keeps the client's. A backend that closed a connection remembers its four addresses and ports for a minute
/// (`TIME-WAIT`), and takes a new one with the same only when its timestamps or sequence numbers go on where the old one's
/// stopped (RFC 6191, `tcp_timewait_state_process`). A client's do when it comes again from its own port; those of two
/// clients that were given the same port in turn do not, every second time, and the second waits for a retransmission.
/// Measured, one client with a connection a request: random ports reach a quarter of the requests that kept ones do.
pub(super) fn to_source(version: IpVersion, to: &Value) -> [Rule; 2] {
    [
        rule([is(Field::L4proto, UDP), snat(version, to.clone(), Ports::Random)]),
        rule([snat(version, to.clone(), Ports::Kept)]),
    ]
}

fn by_mark_to_chain(map: Map) -> Statement {
    Statement::VerdictMap { key: Value::Field(Field::CtMark), map: map.name() }
}

/// Source translation.
///
/// By explicit addresses: 256 instead of 384 bytes a connection against `masquerade`. Which port: [`to_source`].
///
/// Hairpin: a client on the subnet of the backend that was chosen would get the backend's answer directly, from an
/// address it never spoke to. It is mostly another backend of the farm. Such a flow, and only such a flow, is sent from
/// our address on that subnet. It costs every new flow of the machine this chain (about 210 instructions) and the
/// comparison of the mark; a rule a subnet, none a backend.
fn sources(contents: &Contents) -> Vec<Rule> {
    let mut rules = Vec::new();
    for version in IpVersion::ALL.into_iter().filter(|&version| contents.uses(Map::Sources(version))) {
        rules.extend(to_source(version, &by_mark(Map::Sources(version))));
    }
    if contents.uses(Map::Pooled) {
        rules.push(rule([by_mark_to_chain(Map::Pooled)]));
    }
    for net in &contents.needs.hairpins {
        let version = IpVersion::of(net.addr());
        let (source, destination) = address_fields(version);
        let within = |field| {
            let masked = Value::And(Box::new(Value::Field(field)), address_bytes(net.netmask()));
            equal(masked, address_bytes(net.network()))
        };
        rules.push(rule([
            is(Field::Nfproto, nfproto(version)),
            // The addresses first: they are cheaper to read than the mark, and mostly say no (89 instructions).
            within(source),
            within(destination),
            is_ours(),
            snat(version, Value::Constant(address_bytes(net.addr())), Ports::Kept),
        ]));
    }
    rules
}
