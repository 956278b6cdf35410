//! Persistence: clients that keep their backend.
//!
//! A farm has three sets of its own in each family: `sticky4-NAME`, which the packet path fills (client → ct mark of its
//! backend, forgotten when the client has opened no flow for the time-out); `static4-NAME`, the operator's assignments; and
//! `kept4-NAME`, the ct marks of those backends that remembered clients may go to. Drained backends are in the last one, those
//! that are down or gone are not: so a memory is wrong for no packet, whether or not somebody has come to delete it.
//!
//! None of these rules has a verdict, and a change of a backend's state changes elements alone.

use headgate_config::model::{Backend, Farm, FarmState, HashField, Persistence};
use headgate_nft::{Datatype, Dynset, DynsetOp, Field, Operator, Rule, Set, SetData, Statement, Target, Value, width};

use super::contents::Contents;
use super::farm::Ground;
use super::hash;
use super::schedule::is_out;
use super::terms::{address_bytes, address_fields, equal, exactly, mark_bytes, rule, yields};
use crate::maps::{self, Place};
use crate::names::{self, IpVersion};

/// The rules of a farm's chain: who is remembered goes to the same backend, everybody else as `otherwise` says.
pub(super) fn rules(
    contents: &mut Contents,
    farm: &Farm,
    version: IpVersion,
    able: &[&Backend],
    ground: Ground<'_>,
) -> Vec<Rule> {
    let Some(persistence) = &farm.persistence else { return Vec::new() };
    let keepers: Vec<&Backend> = able.iter().copied().filter(|backend| keeps(farm, backend, version, ground)).collect();
    // Whether or not a rule uses it now: a farm that was down for a moment has forgotten nobody.
    contents.add_set(Place::Inet, names::sticky_set(version, &farm.name), memory(persistence, version));
    let marks = keepers.iter().filter_map(|backend| ground.ids.mark(&farm.name, &backend.name));
    let marks = marks.map(|mark| (exactly(mark_bytes(mark)), Default::default()));
    let kept = Set { elements: marks.collect(), ..plain_set(vec![Datatype::Mark], None, farm.backends.len()) };
    contents.add_set(Place::Inet, names::kept_set(version, &farm.name), kept);
    let assigned = assigned(contents, farm, version, &keepers, ground);
    let Some(key) = hash::key(&persistence.key, version) else { return Vec::new() };
    if keepers.is_empty() {
        return Vec::new();
    }
    let (source, _) = address_fields(version);
    let sticky = names::sticky_set(version, &farm.name);
    let map = |key, map| Statement::Set { target: Target::CtMark, value: Value::Map { key: Box::new(key), map } };
    let mut rules = Vec::new();
    if assigned {
        rules.push(rule([map(Value::Field(source), names::static_set(version, &farm.name))]));
    }
    rules.push(rule([undecided(), map(key.clone(), sticky.clone())]));
    // An element that is there keeps its data whatever `update` brings (`nft_rhash_update`), so what leads nowhere goes.
    rules.push(rule([
        equal(tag(), mark_bytes(names::MARK_TAG)),
        Statement::InSet {
            value: Value::Field(Field::CtMark),
            set: names::kept_set(version, &farm.name),
            invert: true,
        },
        Statement::Set { target: Target::CtMark, value: Value::Constant(mark_bytes(0)) },
        write(DynsetOp::Delete, sticky, key),
    ]));
    rules
}

/// No backend is chosen yet.
pub(super) fn undecided() -> Statement {
    Statement::Match { value: tag(), operator: Operator::NotEqual, constant: mark_bytes(names::MARK_TAG) }
}

/// What remembers the client of a new flow, once its backend is known. Where the map is full, the rule ends without.
pub(super) fn remember(farm: &Farm, version: IpVersion) -> Option<Rule> {
    let key = hash::key(&farm.persistence.as_ref()?.key, version)?;
    Some(rule([write(DynsetOp::Update, names::sticky_set(version, &farm.name), key)]))
}

fn tag() -> Value {
    Value::And(Box::new(Value::Field(Field::CtMark)), mark_bytes(names::MARK_TAG_MASK))
}

fn write(op: DynsetOp, set: std::sync::Arc<str>, key: Value) -> Statement {
    let data = Some(Value::Field(Field::CtMark));
    Dynset { op, set, key, data, timeout_ms: None, stateful: None }.into()
}

/// Whether remembered clients may go to it: drained, of weight 0 and a spare it keeps them.
fn keeps(farm: &Farm, backend: &Backend, version: IpVersion, ground: Ground<'_>) -> bool {
    farm.state == FarmState::Up
        && !is_out(farm, backend, ground.ids)
        && IpVersion::of(backend.address.address) == version
}

/// Adds the operator's assignments in one family, if there are any; those to backends that keep nobody are left out, and
/// their clients go as everybody else.
fn assigned(
    contents: &mut Contents,
    farm: &Farm,
    version: IpVersion,
    keepers: &[&Backend],
    ground: Ground<'_>,
) -> bool {
    let fixed = farm.persistence.iter().flat_map(|persistence| &persistence.fixed);
    let fixed: Vec<_> = fixed.filter(|(client, _)| IpVersion::of(**client) == version).collect();
    if fixed.is_empty() {
        return false;
    }
    let live = fixed.iter().filter(|(_, name)| keepers.iter().any(|backend| backend.name == **name));
    let elements = live.filter_map(|(client, name)| {
        let mark = ground.ids.mark(&farm.name, name)?;
        Some((exactly(address_bytes(**client)), yields(mark_bytes(mark))))
    });
    let definition = plain_set(vec![maps::address(version)], Some(SetData::Value(vec![Datatype::Mark])), fixed.len());
    let set = Set { elements: elements.collect(), ..definition };
    contents.add_set(Place::Inet, names::static_set(version, &farm.name), set);
    true
}

/// A set of a farm's own with room for `count` elements: the next power of two, so that one more is rarely another set.
fn plain_set(key: Vec<Datatype>, data: Option<SetData>, count: usize) -> Set {
    let size = u32::try_from(count).unwrap_or(u32::MAX / 2).next_power_of_two().max(16);
    Set { key, data, size: Some(size), ..Set::default() }
}

/// The map that the packet path fills.
fn memory(persistence: &Persistence, version: IpVersion) -> Set {
    let mut key: Vec<Datatype> = persistence.key.iter().map(|&field| datatype(field, version)).collect();
    if key.len() > FIELDS_MAX {
        // `TYPE_INTEGER` of nft(8), as wide as all of them.
        key = vec![Datatype::Other { id: 4, len: width(&key) as u8 }];
    }
    let timeout_ms = u64::try_from(persistence.timeout.as_millis()).ok();
    let data = Some(SetData::Value(vec![Datatype::Mark]));
    Set { dynamic: true, timeout_ms, size: Some(persistence.size), ..plain_set(key, data, 0) }
}

/// A set's type has 6 bits for each field, and 32 in all; nft(8) refuses to list one whose type it does not know.
const FIELDS_MAX: usize = 5;

fn datatype(field: HashField, version: IpVersion) -> Datatype {
    match field {
        HashField::SourceAddress | HashField::DestinationAddress => maps::address(version),
        HashField::SourcePort | HashField::DestinationPort => Datatype::InetService,
        HashField::SourceMac | HashField::DestinationMac => Datatype::EtherAddr,
    }
}
