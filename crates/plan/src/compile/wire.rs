//! Mode `dsr`: packets are sent on as they are, before the network layer sees them; the backend answers the client itself.
//!
//! The box sees one direction only, so connection tracking could not follow these flows. What keeps a flow with its backend
//! is a map that its packets fill ([`Map::Bindings`]); what cannot be remembered goes by a hash, so that a packet whose flow
//! is unknown and the first one that found the map full agree.

use std::sync::Arc;
use std::time::Duration;

use headgate_config::model::{Backend, Farm, OnFail, TrafficCount};
use headgate_nft::{
    Bytes, Chain, Data, Dynset, DynsetOp, Element, Field, Object, ObjectKind, Operator, Rule, Statement, Target,
    Tunnel, Value, Verdict,
};

use super::chosen;
use super::contents::Contents;
use super::farm::{Ground, add_listeners, place, versions};
use super::guard::{self, Post};
use super::inspect;
use super::refuse;
use super::routing::Routing;
use super::schedule;
use super::terms::{TCP, address_bytes, address_fields, exactly, is_tcp, mark_bytes, milliseconds, rule, yields};
use crate::maps::{Door, Map, Place};
use crate::names::{self, IpVersion, Passage};
use crate::tunnel::{self, Device};

/// Bits of `tcp flags`.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Adds all that one farm needs.
pub(super) fn add(contents: &mut Contents, farm: &Farm, ground: Ground<'_>) {
    let place = place(farm);
    let door = if place == Place::Tunnels { Door::Tunnel } else { Door::Wire };
    let able: Vec<&Backend> =
        farm.backends.values().filter(|backend| add_backend(contents, farm, backend, ground)).collect();
    for version in versions(farm) {
        add_listeners(contents, farm, door, version, &names::flow_chain(version, &farm.name));
        contents.declare(Map::Begun(place));
        for map in [Map::Bindings, Map::Recent, Map::Closing] {
            contents.declare(map(place, version));
        }
        let slots = schedule::slot(contents, farm, version, &able, ground);
        add_chains(contents, farm, version, slots, ground);
        chosen::add_untracked(contents, farm, version, ground);
    }
    for listen in &farm.listen {
        let named = farm.address_interface.as_deref().and_then(|name| ground.routing.interface(name));
        let arrivals = named.map_or_else(|| ground.routing.arrivals(listen.address), |(name, _)| vec![name]);
        contents.needs.arrivals.extend(arrivals.into_iter().map(|name| (place, name.into())));
    }
}

/// Adds the elements that every backend has whatever its state. False when nothing leads to it.
fn add_backend(contents: &mut Contents, farm: &Farm, backend: &Backend, ground: Ground<'_>) -> bool {
    let Some(mark) = ground.ids.mark(&farm.name, &backend.name) else { return false };
    let (place, address) = (place(farm), backend.address.address);
    let comment = Some(names::backend_comment(&farm.name, &backend.name));
    let key = || exactly(mark_bytes(mark));
    if schedule::is_out(farm, backend, ground.ids) {
        contents.add(Map::Down(place), key(), Element { comment: comment.clone(), ..Element::default() });
    }
    if farm.on_fail == OnFail::Reset {
        contents.add(Map::Cut(place), key(), Element { comment: comment.clone(), ..Element::default() });
    }
    let version = IpVersion::of(address);
    if place == Place::Netdev {
        let (data, comment) = (Some(Data::Value(address_bytes(address))), comment.clone());
        contents.add(Map::Nexthops(place, version), key(), Element { data, comment, ..Element::default() });
    }
    let egress = match egress(farm, backend, ground.routing) {
        Ok(egress) => egress,
        Err(why) => {
            contents.warnings.push(format!("farm {}: backend {} takes no flows: {why}", farm.name, backend.name));
            if place == Place::Tunnels {
                // Without an outer header nothing else would remember its id.
                contents.add(Map::Down(place), key(), Element { comment, ..Element::default() });
            }
            return false;
        }
    };
    if let Some(tunnel) = egress.tunnel {
        let name = names::backend_comment(&farm.name, &backend.name);
        let data = Some(Data::Object(name.clone()));
        contents.add_object(place, (ObjectKind::Tunnel, name), Object::Tunnel(tunnel));
        contents.add(Map::Tunnels(version), key(), Element { data, comment, ..Element::default() });
    }
    contents.add(Map::Egress(place), key(), yields(mark_bytes(egress.index)));
    contents.add(Map::Begun(place), key(), Element::default());
    if ground.traffic == TrafficCount::Bytes {
        let comment = Some(names::backend_comment(&farm.name, &backend.name));
        contents.add(Map::Traffic(place), key(), Element { comment, ..Element::default() });
    }
    contents.needs.departures.insert((place, egress.index));
    true
}

/// What leads to a backend.
pub(super) struct Egress {
    /// Index of the interface.
    index: u32,
    /// The outer header.
    tunnel: Option<Tunnel>,
}

/// What leads to a backend, or why nothing does.
pub(super) fn egress(farm: &Farm, backend: &Backend, routing: &Routing) -> Result<Egress, String> {
    let address = backend.address.address;
    if let Some(device) = Device::to(tunnel::via(farm), address) {
        let tunnel = routing.tunnel(device, address)?;
        return Ok(Egress { index: device.index(), tunnel: Some(tunnel) });
    }
    let named = farm.dsr.as_ref().and_then(|dsr| dsr.interface.as_deref());
    let found = named.or_else(|| routing.link_of(address)).and_then(|name| routing.interface(name));
    let index = found.map(|(_, index)| index).ok_or_else(|| match named {
        Some(name) => format!("dsr.interface = {name:?} is neither a role nor an interface"),
        None => format!("no interface has a subnet that holds {address}; name one with dsr.interface"),
    })?;
    Ok(Egress { index, tunnel: None })
}

/// All verdicts are in the first chain, which stays as it is when backends change, so that no listener has to be written
/// again. Unlike in the nat hooks this spares no validation: `meta mark set` asks for it by itself (`nft_meta_set_validate`,
/// net/netfilter/nft_meta.c), and nothing else of ingress carries a number from rule to rule.
fn add_chains(contents: &mut Contents, farm: &Farm, version: IpVersion, slots: Vec<Value>, ground: Ground<'_>) {
    let (flow, turn) = (names::flow_chain(version, &farm.name), names::farm_chain(version, &farm.name));
    let jump = |chain: Arc<str>| rule([Statement::Verdict(Verdict::Jump(chain))]);
    let post = Post { place: place(farm), version, ground };
    // Resets of known flows too; everything else is asked of what begins a flow.
    let resets = farm.limits.as_ref().and_then(|limits| limits.tcp_resets);
    let resets = resets.map(|rate| inspect::over_resets(contents, farm, post, rate));
    let guard = guard::watch(contents, farm, post).map(jump);
    let mut rules: Vec<Rule> = resets.into_iter().chain([jump(Passage::Known.chain(version))]).chain(guard).collect();
    rules.extend([jump(turn.clone()), jump(Passage::Bind.chain(version))]);
    if !schedule::is_hashed(farm) {
        let again = names::hash_chain(version, &farm.name);
        rules.push(jump(again.clone()));
        let hashed = slots.first().and_then(|slot| hashed(slot, version, ground.site.seed(farm.name.as_str())));
        let set = hashed.map(|value| rule([Statement::Set { target: Target::Mark, value }]));
        contents.add_chain(place(farm), again, set.into_iter().collect());
    }
    rules.push(rule([Statement::Verdict(Verdict::Goto(Passage::Settle.chain(version)))]));
    contents.add_chain(place(farm), flow, rules);
    let turns = match slots.is_empty() {
        false => slots.into_iter().map(|value| rule([Statement::Set { target: Target::Mark, value }])).collect(),
        true => refuse::empty(contents, farm, post),
    };
    contents.add_chain(place(farm), turn, turns);
}

/// A slot of the same ones, by client address and port instead of turns.
fn hashed(slot: &Value, version: IpVersion, seed: u32) -> Option<Value> {
    let Value::Numgen(numgen) = slot else { return None };
    let (source, _) = address_fields(version);
    let key = Box::new(Value::Concat(vec![Value::Field(source), Value::Field(Field::Sport)]));
    Some(Value::Jhash { key, modulus: numgen.modulus, seed, offset: numgen.offset })
}

/// The chains that all farms share in one family.
pub(super) fn passages(contents: &Contents, place: Place, version: IpVersion) -> Vec<(Arc<str>, Chain)> {
    let flow = Flow { place, version };
    [
        (Passage::Known, flow.known(contents)),
        (Passage::Fast, flow.fast(contents)),
        (Passage::Refresh, flow.refresh(contents)),
        (Passage::Bind, flow.bind()),
        (Passage::Begin, flow.begin(contents)),
        (Passage::Settle, flow.settle()),
        (Passage::Send, flow.send(contents)),
    ]
    .map(|(passage, rules)| (passage.chain(version), Chain { base: None, rules }))
    .into()
}

/// What the rules of the shared chains are made of. The mark is the packet's own: it ends with it.
#[derive(Debug, Clone, Copy)]
struct Flow {
    place: Place,
    version: IpVersion,
}

impl Flow {
    fn key(self) -> Value {
        let (source, destination) = address_fields(self.version);
        let fields = [source, destination, Field::Sport, Field::Dport, Field::L4proto];
        Value::Concat(fields.map(Value::Field).into())
    }

    fn goto(self, passage: Passage) -> Statement {
        Statement::Verdict(Verdict::Goto(passage.chain(self.version)))
    }

    fn write(self, op: DynsetOp, map: Map, time: Option<Duration>) -> Statement {
        Statement::from(Dynset {
            op,
            set: map.name(),
            key: self.key(),
            data: Some(Value::Field(Field::Mark)),
            timeout_ms: time.map(milliseconds),
            stateful: None,
        })
    }

    fn bindings(self) -> Map {
        Map::Bindings(self.place, self.version)
    }

    fn recent(self) -> Map {
        Map::Recent(self.place, self.version)
    }

    fn closing(self) -> Map {
        Map::Closing(self.place, self.version)
    }

    fn remember(self, time: Duration) -> Statement {
        self.write(DynsetOp::Update, self.bindings(), Some(time))
    }

    fn forget(self, map: Map) -> Statement {
        self.write(DynsetOp::Delete, map, None)
    }

    fn lookup(self, map: Map) -> Statement {
        let value = Value::Map { key: Box::new(self.key()), map: map.name() };
        Statement::Set { target: Target::Mark, value }
    }

    /// A flow that is not known comes back from here. To start a flow's time again is as dear as to look it up, so it is done
    /// once in [`names::BINDING_RECENT`], which the time-out of an element in a second map counts: it is only added when it
    /// is not there, and while it is, the packet needs nothing but it. Flows whose end was seen are asked for last, and not by
    /// a SYN: a client that comes to the same port again begins a new flow.
    fn known(self, contents: &Contents) -> Vec<Rule> {
        let no_syn = || flags(SYN, Operator::Equal, 0);
        let closing = || self.lookup(self.closing());
        let again = self.write(DynsetOp::Update, self.closing(), None);
        let mut rules = vec![
            rule([self.lookup(self.recent()), self.goto(Passage::Fast)]),
            rule([self.lookup(self.bindings()), self.goto(Passage::Refresh)]),
        ];
        if let Some([cut, down]) = self.is_cut(contents) {
            let forget = self.forget(self.closing());
            rules.push(rule([is_tcp(), no_syn(), closing(), cut, down, forget, Statement::Verdict(Verdict::Return)]));
        }
        rules.push(rule([is_tcp(), no_syn(), closing(), again, self.goto(Passage::Send)]));
        rules
    }

    /// The most frequent packet first.
    fn fast(self, contents: &Contents) -> Vec<Rule> {
        let cut = self.is_cut(contents).map(|[cut, down]| rule([cut, down, self.goto(Passage::Refresh)]));
        let rules = [
            rule([is_tcp(), flags(FIN | SYN | RST, Operator::Equal, 0), self.goto(Passage::Send)]),
            rule([is_not_tcp(), self.is_not_down(), self.goto(Passage::Send)]),
            rule([self.goto(Passage::Refresh)]),
        ];
        cut.into_iter().chain(rules).collect()
    }

    /// A SYN, which may be a connection's repeated first one, or a client that has come to the same port again, leaves the
    /// time as it is; it and whatever is not TCP leave a backend that is down. A FIN or RST that somebody has forged must not
    /// end a connection: its packets still find the flow among those that close. One without room in a map is sent all the same.
    fn refresh(self, contents: &Contents) -> Vec<Rule> {
        let send = || self.goto(Passage::Send);
        let ending = || flags(FIN | RST, Operator::NotEqual, 0);
        let recently = || self.write(DynsetOp::Update, self.recent(), None);
        let close = self.write(DynsetOp::Update, self.closing(), None);
        let forget = [self.recent(), self.bindings()].map(|map| self.forget(map));
        let cut = self.is_cut(contents).map(|[cut, down]| {
            let [recent, binding] = forget;
            let back = Statement::Verdict(Verdict::Return);
            [rule([cut.clone(), down.clone(), recent]), rule([cut, down, binding, back])]
        });
        let rules = [
            rule([
                is_tcp(),
                flags(FIN | SYN | RST, Operator::Equal, 0),
                self.remember(names::BINDING_ESTABLISHED + names::BINDING_RECENT),
                recently(),
                send(),
            ]),
            rule([is_tcp(), ending(), self.forget(self.recent())]),
            rule([is_tcp(), ending(), self.forget(self.bindings())]),
            rule([is_tcp(), ending(), close, send()]),
            rule([self.is_down(), self.forget(self.recent())]),
            rule([self.is_down(), self.forget(self.bindings()), Statement::Verdict(Verdict::Return)]),
            rule([is_tcp(), send()]),
            rule([self.remember(names::BINDING_IDLE + names::BINDING_RECENT), recently(), send()]),
            rule([send()]),
        ];
        cut.into_iter().flatten().chain(rules).collect()
    }

    /// The mark is that of a backend that is down and whose connections end then: another backend resets what it does not
    /// know. Only while some farm wants that, since it is asked for each packet.
    fn is_cut(self, contents: &Contents) -> Option<[Statement; 2]> {
        let cut = Map::Cut(self.place);
        contents.uses(cut).then(|| [is_in(cut), self.is_down()])
    }

    /// The mark is that of a backend that is down.
    fn is_down(self) -> Statement {
        is_in(Map::Down(self.place))
    }

    fn is_not_down(self) -> Statement {
        Statement::InSet { value: Value::Field(Field::Mark), set: Map::Down(self.place).name(), invert: true }
    }

    /// Here come a flow's first packet, and packets of TCP flows that are not known, which are not remembered: whoever sends
    /// these at will would fill the map for an hour each. Without room a rule ends at its `update`, and the packet goes
    /// back, as those do.
    fn bind(self) -> Vec<Rule> {
        let begun = || self.remember(names::BINDING_BEGUN);
        let begins = flags(FIN | SYN | RST | ACK, Operator::Equal, SYN);
        vec![
            rule([self.slot_to_mark()]),
            rule([is_tcp(), begins, begun(), self.goto(Passage::Begin)]),
            rule([is_not_tcp(), begun(), self.goto(Passage::Begin)]),
        ]
    }

    /// What counts a flow must not be what sends it: between two changes a backend may be in one map and not in the other.
    fn begin(self, contents: &Contents) -> Vec<Rule> {
        let chosen = contents.uses(Map::Chosen(self.place)).then(|| rule([chosen::by_mark(self.place)]));
        let counted = rule([is_in(Map::Begun(self.place))]);
        [counted].into_iter().chain(chosen).chain([rule([self.goto(Passage::Send)])]).collect()
    }

    /// A mark is no slot, so it stays what it is.
    fn settle(self) -> Vec<Rule> {
        vec![rule([self.slot_to_mark()]), rule([self.goto(Passage::Send)])]
    }

    fn slot_to_mark(self) -> Statement {
        let map = Map::Slots(self.place).name();
        let value = Value::Map { key: Box::new(Value::Field(Field::Mark)), map };
        Statement::Set { target: Target::Mark, value }
    }

    /// A rule that sends does not come back. The backend of a flow may be gone: then the flow is forgotten, and its packet
    /// goes back to where it is scheduled anew.
    fn send(self, contents: &Contents) -> Vec<Rule> {
        let by_mark = |map: Map| Value::Map { key: Box::new(Value::Field(Field::Mark)), map: map.name() };
        let mut departures = contents.needs.departures.iter().filter(|(place, _)| *place == self.place);
        let device = match (departures.next(), departures.next()) {
            (Some((_, only)), None) => Value::Constant(mark_bytes(*only)),
            _ => by_mark(Map::Egress(self.place)),
        };
        let ipv6 = self.version == IpVersion::V6;
        let (nexthops, tunnels) = (Map::Nexthops(self.place, self.version), Map::Tunnels(self.version));
        let device = Box::new(device);
        // By a rule of its own: what is not counted is sent all the same.
        let traffic = Map::Traffic(self.place);
        let mut rules: Vec<Rule> = contents.uses(traffic).then(|| rule([is_in(traffic)])).into_iter().collect();
        if self.place == Place::Tunnels && contents.uses(tunnels) {
            let (kind, key) = (ObjectKind::Tunnel, Value::Field(Field::Mark));
            let outer = Statement::ObjectMap { kind, key, map: tunnels.name() };
            // The device asks for the route of the outer header; a next hop of its own it does not have. One that is always
            // the same is one entry of the kernel's neighbour table.
            let address = Value::Constant(if ipv6 { Bytes::from_slice(&[0; 16]) } else { Bytes::from_slice(&[0; 4]) });
            // In one rule: without an outer header nothing may come to the device.
            rules.push(rule([outer, Statement::Fwd { ipv6, device, address }]));
        } else if contents.uses(nexthops) && contents.uses(Map::Egress(self.place)) {
            rules.push(rule([Statement::Fwd { ipv6, device, address: by_mark(nexthops) }]));
        }
        rules.extend([self.bindings(), self.recent(), self.closing()].map(|map| rule([self.forget(map)])));
        rules
    }
}

/// The packet has the mark of a backend in this set, whose element counts it if it counts.
fn is_in(map: Map) -> Statement {
    Statement::InSet { value: Value::Field(Field::Mark), set: map.name(), invert: false }
}

fn is_not_tcp() -> Statement {
    let constant = Bytes::from_slice(&[TCP]);
    Statement::Match { value: Value::Field(Field::L4proto), operator: Operator::NotEqual, constant }
}

/// Some bits of the TCP flags.
fn flags(mask: u8, operator: Operator, bits: u8) -> Statement {
    let value = Value::And(Box::new(Value::Field(Field::TcpFlags)), Bytes::from_slice(&[mask]));
    Statement::Match { value, operator, constant: Bytes::from_slice(&[bits]) }
}
