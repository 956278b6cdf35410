//! Mode `dsr`: packets are sent on as they are, before the network layer sees them; the backend answers the client itself.
//!
//! The box sees one direction only, so connection tracking could not follow these flows. What keeps a flow with its backend
//! is a map that its packets fill ([`Map::Bindings`]); what cannot be remembered goes by a hash, so that a packet whose flow
//! is unknown and the first one that found the map full agree.

use std::sync::Arc;
use std::time::Duration;

use headgate_config::model::{Backend, Farm, OnFail};
use headgate_nft::{
    Bytes, Chain, Data, Dynset, DynsetOp, Element, Field, Operator, Rule, Statement, Target, Value, Verdict,
};

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

/// Bits of `tcp flags`.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Adds all that one farm needs.
pub(super) fn add(contents: &mut Contents, farm: &Farm, ground: Ground<'_>) {
    let place = place(farm);
    let able: Vec<&Backend> =
        farm.backends.values().filter(|backend| add_backend(contents, farm, backend, ground)).collect();
    for version in versions(farm) {
        add_listeners(contents, farm, Door::Wire, version, &names::flow_chain(version, &farm.name));
        contents.declare(Map::Bindings(place, version));
        let slots = schedule::slot(contents, farm, version, &able, ground);
        add_chains(contents, farm, version, slots, ground);
    }
    for listen in &farm.listen {
        let named = farm.address_interface.as_deref().and_then(|name| ground.routing.interface(name));
        let arrivals = named.map_or_else(|| ground.routing.arrivals(listen.address), |(name, _)| vec![name]);
        contents.needs.arrivals.extend(arrivals.into_iter().map(|name| (place, name.into())));
    }
}

/// Adds the elements that every backend has whatever its state. False when no interface leads to it.
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
    let data = Some(Data::Value(address_bytes(address)));
    contents.add(Map::Nexthops(place, IpVersion::of(address)), key(), Element { data, comment, ..Element::default() });
    let Some(index) = egress(farm, backend, ground.routing) else {
        let why = match farm.dsr.as_ref().and_then(|dsr| dsr.interface.as_deref()) {
            Some(name) => format!("dsr.interface = {name:?} is neither a role nor an interface"),
            None => format!("no interface has a subnet that holds {address}; name one with dsr.interface"),
        };
        contents.warnings.push(format!("farm {}: backend {} takes no flows: {why}", farm.name, backend.name));
        return false;
    };
    contents.add(Map::Egress(place), key(), yields(mark_bytes(index)));
    contents.needs.departures.insert((place, index));
    true
}

/// The index of the interface that leads to a backend.
pub(super) fn egress(farm: &Farm, backend: &Backend, routing: &Routing) -> Option<u32> {
    let named = farm.dsr.as_ref().and_then(|dsr| dsr.interface.as_deref());
    let name = named.or_else(|| routing.link_of(backend.address.address))?;
    routing.interface(name).map(|(_, index)| index)
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
        (Passage::Known, flow.known()),
        (Passage::Refresh, flow.refresh(contents)),
        (Passage::Bind, flow.bind()),
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

    fn write(self, op: DynsetOp, time: Option<Duration>) -> Statement {
        Statement::from(Dynset {
            op,
            set: Map::Bindings(self.place, self.version).name(),
            key: self.key(),
            data: Some(Value::Field(Field::Mark)),
            timeout_ms: time.map(milliseconds),
            stateful: None,
        })
    }

    fn remember(self, time: Duration) -> Statement {
        self.write(DynsetOp::Update, Some(time))
    }

    /// A flow that is not known comes back from here.
    fn known(self) -> Vec<Rule> {
        let map = Map::Bindings(self.place, self.version).name();
        let value = Value::Map { key: Box::new(self.key()), map };
        vec![rule([Statement::Set { target: Target::Mark, value }, self.goto(Passage::Refresh)])]
    }

    /// The most frequent packet first. A SYN, which may be a connection's repeated first one, or a client that has come to
    /// the same port again, leaves the time as it is; it and whatever is not TCP leave a backend that is down.
    fn refresh(self, contents: &Contents) -> Vec<Rule> {
        let send = || self.goto(Passage::Send);
        let is_in = |map: Map| Statement::InSet { value: Value::Field(Field::Mark), set: map.name(), invert: false };
        let down = || is_in(Map::Down(self.place));
        let forget = || self.write(DynsetOp::Delete, None);
        let ending = flags(FIN | RST, Operator::NotEqual, 0);
        let cut = Map::Cut(self.place);
        // Another backend resets what it does not know. Only while some farm wants that: it is asked for each packet.
        let cut = contents.uses(cut).then(|| rule([is_in(cut), down(), forget(), Statement::Verdict(Verdict::Return)]));
        let rules = [
            rule([
                is_tcp(),
                flags(FIN | SYN | RST, Operator::Equal, 0),
                self.remember(names::BINDING_ESTABLISHED),
                send(),
            ]),
            rule([is_tcp(), ending, self.remember(names::BINDING_ENDED), send()]),
            rule([down(), forget(), Statement::Verdict(Verdict::Return)]),
            rule([is_tcp(), send()]),
            rule([self.remember(names::BINDING_IDLE)]),
            rule([send()]),
        ];
        cut.into_iter().chain(rules).collect()
    }

    /// Here come a flow's first packet, and packets of TCP flows that are not known, which are not remembered: whoever sends
    /// these at will would fill the map for an hour each. Without room a rule ends at its `update`, and the packet goes
    /// back, as those do.
    fn bind(self) -> Vec<Rule> {
        let begun = || self.remember(names::BINDING_BEGUN);
        let not_tcp = Statement::Match {
            value: Value::Field(Field::L4proto),
            operator: Operator::NotEqual,
            constant: Bytes::from_slice(&[TCP]),
        };
        let begins = flags(FIN | SYN | RST | ACK, Operator::Equal, SYN);
        vec![
            rule([self.slot_to_mark()]),
            rule([is_tcp(), begins, begun(), self.goto(Passage::Send)]),
            rule([not_tcp, begun(), self.goto(Passage::Send)]),
        ]
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
        let nexthops = Map::Nexthops(self.place, self.version);
        let mut rules = Vec::new();
        if contents.uses(nexthops) && contents.uses(Map::Egress(self.place)) {
            rules.push(rule([Statement::Fwd { ipv6, device: Box::new(device), address: by_mark(nexthops) }]));
        }
        rules.push(rule([self.write(DynsetOp::Delete, None)]));
        rules
    }
}

/// Some bits of the TCP flags.
fn flags(mask: u8, operator: Operator, bits: u8) -> Statement {
    let value = Value::And(Box::new(Value::Field(Field::TcpFlags)), Bytes::from_slice(&[mask]));
    Statement::Match { value, operator, constant: Bytes::from_slice(&[bits]) }
}
