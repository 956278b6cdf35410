//! What farms put into our tables, and how it becomes the tables.
//!
//! Farms write into flat lists; sets, base chains and their rules ([`hooks`]) follow from which lists are not empty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headgate_config::types::PolicyName;
use headgate_nft::{
    Chain, ChainKind, Element, Field, Key, Object, ObjectKind, Ruleset, Set, Statement, Table, TableId, Value, Verdict,
};
use ipnet::IpNet;

use super::hooks::base;
use super::terms::{equal, mark_bytes, milliseconds, rule};
use super::{hooks, offload};
use crate::ids::Ids;
use crate::maps::{Map, Place};
use crate::names::{self, IpVersion};

/// Elements of one map.
pub(super) type Elements = Vec<(Key, Element)>;

/// What names an object within a table.
pub(super) type ObjectName = (ObjectKind, Arc<str>);

/// What one farm, or all, put into our tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Contents {
    /// Of the sets and maps that farms share.
    elements: BTreeMap<Map, Elements>,
    /// Sets that are one farm's own.
    own: BTreeMap<(Place, Arc<str>), Set>,
    /// Named objects of farms.
    objects: BTreeMap<(Place, ObjectName), Object>,
    /// The chains of farms.
    chains: BTreeMap<(Place, Arc<str>), Chain>,
    /// What farms need of the shared chains, beside the maps that they use.
    pub(super) needs: Needs,
    /// Sentences for people.
    pub(super) warnings: Vec<String>,
}

/// What shared chains do for some farms, and what does not follow from which maps are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Needs {
    /// Subnets of ours with backends of `dnat` farms on them; the address is ours.
    pub(super) hairpins: BTreeSet<IpNet>,
    /// The interfaces by which packets of `dsr` farms come in.
    pub(super) arrivals: BTreeSet<(Place, Arc<str>)>,
    /// The indices of the interfaces by which they leave.
    pub(super) departures: BTreeSet<(Place, u32)>,
    /// Devices at which offloaded flows are looked up; none when no farm offloads.
    pub(super) offload: BTreeSet<Arc<str>>,
    /// Connection tracking helpers.
    pub(super) helpers: BTreeMap<Arc<str>, Object>,
    /// Policies that some farm asks.
    pub(super) policies: BTreeSet<(Place, IpVersion, PolicyName)>,
}

/// What some contents need of the shared chains. Two contents of the same shape differ in elements and in what is a farm's own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape<'a> {
    maps: BTreeSet<Map>,
    needs: &'a Needs,
}

/// What sets look like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sets<'a> {
    /// Those with elements, with the sizes that they have in the kernel.
    Declared(&'a Ids),
    /// With those that may be empty, and all of one size: what is compared with another fragment must differ in elements only,
    /// and what is not named would be taken for something to delete.
    Comparable,
}

impl Contents {
    /// Adds an element to a shared set or map.
    pub(super) fn add(&mut self, map: Map, key: Key, element: Element) {
        self.elements.entry(map).or_default().push((key, element));
    }

    /// Has a set or map that may be empty.
    pub(super) fn declare(&mut self, map: Map) {
        self.elements.entry(map).or_default();
    }

    /// Adds a chain of a farm.
    pub(super) fn add_chain(&mut self, place: Place, name: Arc<str>, rules: Vec<headgate_nft::Rule>) {
        self.chains.insert((place, name), Chain { base: None, rules });
    }

    /// Adds an object of a farm.
    pub(super) fn add_object(&mut self, place: Place, name: ObjectName, object: Object) {
        self.objects.insert((place, name), object);
    }

    /// Adds a set that is a farm's own.
    pub(super) fn add_set(&mut self, place: Place, name: Arc<str>, set: Set) {
        self.own.insert((place, name), set);
    }

    /// Whether some farm has an element in it.
    pub(super) fn uses(&self, map: Map) -> bool {
        self.elements.contains_key(&map)
    }

    /// How many elements farms have in it.
    pub(super) fn count(&self, map: Map) -> usize {
        self.elements.get(&map).map_or(0, Vec::len)
    }

    pub(super) fn shape(&self) -> Shape<'_> {
        let maps = self.elements.keys().copied().filter(|map| !Map::always(map.place()).contains(map)).collect();
        Shape { maps, needs: &self.needs }
    }

    /// Our tables whole: hooks, shared chains, farms.
    pub(super) fn into_ruleset(mut self, ids: &Ids) -> Ruleset {
        self.name_what_is_always_there();
        let hooks = Place::ALL.map(|place| (place, hooks::chains(&self, place)));
        let flowtable = offload::flowtable(&self.needs.offload);
        let mut ruleset = self.into_fragment(Sets::Declared(ids));
        for (place, chains) in hooks {
            if let Some(table) = ruleset.tables.get_mut(&place.table()) {
                table.chains.extend(chains);
            }
        }
        if let (Some(flowtable), Some(table)) = (flowtable, ruleset.tables.get_mut(&Place::Inet.table())) {
            table.flowtables.insert(names::FLOWTABLE.into(), flowtable);
        }
        ruleset
    }

    /// Sets with these elements and the chains of farms, without hooks and shared chains.
    pub(super) fn into_fragment(mut self, which: Sets<'_>) -> Ruleset {
        if let Sets::Comparable = which {
            self.name_what_is_always_there();
        }
        let mut tables: BTreeMap<TableId, Table> = BTreeMap::new();
        let capped = self.elements.get(&Map::Admitted).map_or(0, Vec::len);
        for (map, elements) in self.elements {
            let count = match map {
                // The supervisor fills them.
                Map::Caps | Map::Capped => capped,
                _ => elements.len(),
            };
            let size = match (which, map.learns()) {
                (Sets::Declared(_), Some((_, most))) => Some(most),
                (Sets::Declared(ids), None) => Some(ids.size(map.place(), &map.name(), count)),
                (Sets::Comparable, _) => None,
            };
            let table = tables.entry(map.place().table()).or_default();
            table.sets.insert(map.name(), shared_set(map, elements, size));
        }
        for ((place, name), set) in self.own {
            tables.entry(place.table()).or_default().sets.insert(name, set);
        }
        if !self.needs.helpers.is_empty() {
            let objects = self.needs.helpers.into_iter().map(|(name, object)| ((ObjectKind::Helper, name), object));
            tables.entry(Place::Inet.table()).or_default().objects.extend(objects);
        }
        for ((place, name), object) in self.objects {
            tables.entry(place.table()).or_default().objects.insert(name, object);
        }
        for ((place, name), chain) in self.chains {
            tables.entry(place.table()).or_default().chains.insert(name, chain);
        }
        Ruleset { tables }
    }

    /// The schedule of farms that are all down is empty, and still there to come back to.
    fn name_what_is_always_there(&mut self) {
        let own = self.own.keys().chain(self.chains.keys()).map(|(place, _)| *place);
        let places: BTreeSet<Place> = self.elements.keys().map(|map| map.place()).chain(own).collect();
        for map in places.into_iter().flat_map(Map::always) {
            self.elements.entry(*map).or_default();
        }
    }
}

/// The permanent table. Any ct expression holds connection tracking; this one is never evaluated. One nat chain on any hook
/// holds the translation at all of them (`nf_nat_register_fn`), and at output only new flows of the box itself come by.
pub(super) fn guard(guarded: &Ruleset) -> (TableId, Table) {
    let rules = vec![rule([equal(Value::Field(Field::CtMark), mark_bytes(0)), Statement::Verdict(Verdict::Return)])];
    let mut chains = BTreeMap::from([(names::GUARD_CHAIN.into(), Chain { base: None, rules })]);
    let is_nat = |chain: &Chain| chain.base.as_ref().is_some_and(|base| base.kind == ChainKind::Nat);
    if guarded.tables.values().flat_map(|table| table.chains.values()).any(is_nat) {
        chains.extend([base(names::GUARD_NAT, vec![])]);
    }
    (TableId::inet(names::GUARD_TABLE), Table { chains, ..Table::default() })
}

pub(super) fn shared_set(map: Map, elements: Elements, size: Option<u32>) -> Set {
    // A size chooses the cheaper kind of hash table; ranges are no hash table.
    let interval = map.is_interval();
    let size = size.filter(|_| !interval);
    let elements = elements.into_iter().collect();
    // A time-out of 0: each element says its own.
    let timeout_ms = map.learns().map(|(idle, _)| milliseconds(idle)).or((map == Map::Capped).then_some(0));
    let dynamic = timeout_ms.is_some() || map == Map::Caps;
    let counters = map.is_counted();
    Set { key: map.key(), data: map.data(), interval, dynamic, timeout_ms, size, counters, elements }
}
