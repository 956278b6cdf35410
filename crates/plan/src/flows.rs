//! Which flows a change of the ruleset takes away from their backends.
//!
//! Connection tracking sends a flow where its first packet went, whatever the ruleset says later. TCP ends by itself; a
//! client that keeps sending UDP from one port would stay for ever with a backend that is down or gone. So these entries
//! are deleted behind the commit, and the next datagram is a new flow.
//!
//! The decision needs nothing but the two rulesets, since an element says whose it is, where it leads, and whether the
//! backend is down. So it is the same for a daemon that remembers what ran and for one that has just begun, and an
//! unchanged ruleset loses nothing. What it cannot see is a supervisor that was killed between its commit and the
//! deletion: the next one finds the ruleset as it should be.

use std::collections::{BTreeMap, BTreeSet};

use headgate_nft::{Data, Key, Ruleset, Set};

use crate::ids::id_of_mark;
use crate::maps::{Map, Place};
use crate::names::IpVersion;

/// Where flows with one ct mark go.
#[derive(Debug, PartialEq, Eq)]
struct Destination<'a> {
    map: Map,
    /// Address, and port where the map has one.
    address: &'a Data,
    /// Farm and backend.
    owner: &'a str,
}

/// The ct marks whose flows, TCP apart, are to be deleted once `before` has become `after`: those of backends that went,
/// got another address, or went down. Draining changes no element of a backend, and a farm that is down neither.
pub fn lost(before: &Ruleset, after: &Ruleset) -> BTreeSet<u32> {
    let (was_down, is_down) = (down(before), down(after));
    let after = destinations(after);
    let is_lost = |mark: &u32, old: &Destination<'_>| {
        after.get(mark) != Some(old) || (is_down.contains(mark) && !was_down.contains(mark))
    };
    let before = destinations(before).into_iter();
    before.filter(|(mark, old)| is_lost(mark, old)).map(|(mark, _)| mark).collect()
}

fn set(ruleset: &Ruleset, map: Map) -> Option<&Set> {
    ruleset.tables.get(&Place::Inet.table())?.sets.get(&map.name())
}

/// The ct mark that is a key; `None` for what is not ours.
fn mark(key: &Key) -> Option<u32> {
    let mark = <[u8; 4]>::try_from(key.start.as_slice()).map(u32::from_ne_bytes).ok()?;
    id_of_mark(mark).map(|_| mark)
}

/// The ct marks of backends that are down.
fn down(ruleset: &Ruleset) -> BTreeSet<u32> {
    set(ruleset, Map::Down).into_iter().flat_map(|set| set.elements.keys()).filter_map(mark).collect()
}

/// By ct mark. What is not ours is passed over.
fn destinations(ruleset: &Ruleset) -> BTreeMap<u32, Destination<'_>> {
    let maps = IpVersion::ALL.into_iter().flat_map(|version| [Map::Targets(version), Map::Hosts(version)]);
    let elements = maps.filter_map(|map| Some((map, &set(ruleset, map)?.elements)));
    let elements = elements.flat_map(|(map, elements)| elements.iter().map(move |(key, element)| (map, key, element)));
    elements
        .filter_map(|(map, key, element)| {
            let (address, owner) = (element.data.as_ref()?, element.comment.as_deref()?);
            Some((mark(key)?, Destination { map, address, owner }))
        })
        .collect()
}

#[cfg(test)]
mod tests;
