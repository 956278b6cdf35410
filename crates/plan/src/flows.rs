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

use headgate_nft::{Data, Ruleset, TableId};

use crate::ids::id_of_mark;
use crate::names::{self, IpVersion};

/// Where flows with one ct mark go.
#[derive(Debug, PartialEq, Eq)]
struct Destination<'a> {
    map: &'static str,
    /// Address, and port where the map has one.
    address: &'a Data,
    /// Farm and backend.
    owner: &'a str,
}

/// The ct marks whose flows, TCP apart, are to be deleted once `before` has become `after`: those of backends that went,
/// got another address, or went down. Draining changes no element of a backend, and a farm that is down neither.
pub fn lost(before: &Ruleset, after: &Ruleset) -> BTreeSet<u32> {
    let after = destinations(after);
    let is_lost = |mark: &u32, old: &Destination<'_>, was_down: bool| match after.get(mark) {
        None => true,
        Some((new, is_down)) => new != old || (*is_down && !was_down),
    };
    let before = destinations(before).into_iter();
    before.filter(|(mark, (old, was_down))| is_lost(mark, old, *was_down)).map(|(mark, _)| mark).collect()
}

/// By ct mark, and whether the backend is down. What is not ours is passed over.
fn destinations(ruleset: &Ruleset) -> BTreeMap<u32, (Destination<'_>, bool)> {
    let Some(table) = ruleset.tables.get(&TableId::inet(names::TABLE)) else { return BTreeMap::new() };
    let maps = IpVersion::ALL.into_iter().flat_map(|version| [version.maps().targets, version.maps().hosts]);
    let elements = maps.filter_map(|map| Some((map, &table.sets.get(map)?.elements)));
    let elements = elements.flat_map(|(map, elements)| elements.iter().map(move |(key, element)| (map, key, element)));
    elements
        .filter_map(|(map, key, element)| {
            let mark = <[u8; 4]>::try_from(key.start.as_slice()).map(u32::from_ne_bytes).ok()?;
            id_of_mark(mark)?;
            let (address, comment) = (element.data.as_ref()?, element.comment.as_deref()?);
            let destination = Destination { map, address, owner: names::comment_of_up(comment) };
            Some((mark, (destination, names::is_down_comment(comment))))
        })
        .collect()
}

#[cfg(test)]
mod tests;
