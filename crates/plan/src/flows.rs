//! Which flows and which remembered clients a change of the ruleset takes away from their backends.
//!
//! Connection tracking sends a flow where its first packet went, whatever the ruleset says later. TCP ends by itself; a
//! client that keeps sending UDP from one port would stay for ever with a backend that is down or gone. So these entries
//! are deleted behind the commit, and the next datagram is a new flow. With `on-fail = "reset"` those of TCP are too: the next
//! segment is taken to another backend, which knows of no such connection and resets it.
//!
//! The other way round it is the same: a client that has sent UDP to an address before a farm listened there, to a box that was
//! still starting perhaps, has an entry that leads to no backend, and the nat hooks never see it again while it keeps sending.
//! So what a farm begins to listen on loses the flows that are nobody's.
//!
//! The decision needs nothing but the two rulesets, since an element says whose it is, where it leads, and whether the
//! backend is down. So it is the same for a daemon that remembers what ran and for one that has just begun, and an
//! unchanged ruleset loses nothing. What it cannot see is a supervisor that was killed between its commit and the
//! deletion: the next one finds the ruleset as it should be.

mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headgate_nft::{Data, Key, Ruleset, Set};

use crate::ids::id_of_mark;
use crate::maps::{Map, Place};
use crate::names::{self, IpVersion};

pub use self::services::Services;

/// Where flows with one ct mark go.
#[derive(Debug, PartialEq, Eq)]
struct Destination<'a> {
    version: IpVersion,
    map: Map,
    /// Address, and port where the map has one.
    address: &'a Data,
    /// Farm and backend.
    owner: &'a str,
}

/// What some backends, and nobody, have to let go of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lost {
    /// Their ct marks: flows with them, TCP apart, are to be deleted.
    pub marks: BTreeSet<u32>,
    /// Those of them whose TCP flows are to be deleted too.
    pub cut: BTreeSet<u32>,
    /// The maps, in [`Place::Inet`], in which clients may be remembered for one of them.
    pub memories: BTreeSet<Arc<str>>,
    /// What farms have begun to listen on: flows to there that are not ours are to be deleted.
    pub opened: Services,
}

impl Lost {
    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.opened.is_empty()
    }

    /// And this too.
    pub fn add(&mut self, other: Lost) {
        self.marks.extend(other.marks);
        self.cut.extend(other.cut);
        self.memories.extend(other.memories);
        self.opened.add(other.opened);
    }
}

/// What is lost once `before` has become `after`: by backends that went, got another address, or went down. Draining changes
/// no element of a backend, and a farm that is down neither. And by nobody, where a farm begins.
pub fn lost(before: &Ruleset, after: &Ruleset) -> Lost {
    let [was_down, is_down] = [before, after].map(|ruleset| marks(ruleset, Map::Down(Place::Inet)));
    let [was_cut, is_cut] = [before, after].map(|ruleset| marks(ruleset, Map::Cut(Place::Inet)));
    let sets = after.tables.get(&Place::Inet.table()).map(|table| &table.sets);
    let mut lost = Lost { opened: Services::opened(before, after), ..Lost::default() };
    let after = destinations(after);
    for (mark, old) in destinations(before) {
        if after.get(&mark) == Some(&old) && (!is_down.contains(&mark) || was_down.contains(&mark)) {
            continue;
        }
        lost.marks.insert(mark);
        // What is wanted of a backend that is gone only the ruleset before can say.
        if if after.contains_key(&mark) { &is_cut } else { &was_cut }.contains(&mark) {
            lost.cut.insert(mark);
        }
        let owner = names::backend_of_comment(old.owner);
        let memory = owner.map(|(farm, _)| names::sticky_set(old.version, &farm));
        lost.memories.extend(memory.filter(|name| sets.is_some_and(|sets| sets.contains_key(name))));
    }
    lost
}

fn set(ruleset: &Ruleset, map: Map) -> Option<&Set> {
    ruleset.tables.get(&Place::Inet.table())?.sets.get(&map.name())
}

/// The ct mark that is a key; `None` for what is not ours.
fn mark(key: &Key) -> Option<u32> {
    let mark = <[u8; 4]>::try_from(key.start.as_slice()).map(u32::from_ne_bytes).ok()?;
    id_of_mark(mark).map(|_| mark)
}

/// The ct marks that are in a set.
fn marks(ruleset: &Ruleset, map: Map) -> BTreeSet<u32> {
    set(ruleset, map).into_iter().flat_map(|set| set.elements.keys()).filter_map(mark).collect()
}

/// By ct mark. What is not ours is passed over.
fn destinations(ruleset: &Ruleset) -> BTreeMap<u32, Destination<'_>> {
    let maps = IpVersion::ALL
        .into_iter()
        .flat_map(|version| [Map::Targets(version), Map::Hosts(version)].map(|map| (version, map)));
    let mut destinations = BTreeMap::new();
    for (version, map) in maps {
        for (key, element) in set(ruleset, map).into_iter().flat_map(|set| &set.elements) {
            if let (Some(mark), Some(address), Some(owner)) = (mark(key), &element.data, element.comment.as_deref()) {
                destinations.insert(mark, Destination { version, map, address, owner });
            }
        }
    }
    destinations
}

#[cfg(test)]
mod tests;
