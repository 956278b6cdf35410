//! The difference of two rulesets, as an ordered list that one transaction can carry out.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::expr::{ObjectKind, Reference, Verdict};
use crate::model::{BaseChain, Data, Element, Key, Rule, Ruleset, Set, SetData, Table, TableId};
use crate::object::{Flowtable, Object};

mod apply;

pub use apply::ApplyError;

/// One change of a ruleset. A transaction carries out a list of them or none of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Change {
    /// Wakes a dormant table up.
    AddTable(TableId),
    /// With everything in it.
    DeleteTable(TableId),
    AddChain {
        table: TableId,
        chain: Arc<str>,
        base: Option<BaseChain>,
    },
    DeleteChain {
        table: TableId,
        chain: Arc<str>,
    },
    /// All rules of a chain.
    FlushChain {
        table: TableId,
        chain: Arc<str>,
    },
    /// Appended.
    AddRule {
        table: TableId,
        chain: Arc<str>,
        rule: Rule,
    },
    /// Without its elements. Of a set that exists already, size and default time-out are changed.
    AddSet {
        table: TableId,
        set: Arc<str>,
        value: Box<Set>,
    },
    DeleteSet {
        table: TableId,
        set: Arc<str>,
    },
    AddElements {
        table: TableId,
        set: Arc<str>,
        /// The set without its elements: how they are encoded and printed.
        definition: Box<Set>,
        elements: Vec<(Key, Element)>,
    },
    /// With their data, so that people see what goes. From a set whose elements go by themselves, one that has gone is no
    /// error.
    DeleteElements {
        table: TableId,
        set: Arc<str>,
        /// The set without its elements: how they are encoded and printed.
        definition: Box<Set>,
        elements: Vec<(Key, Element)>,
    },
    AddObject {
        table: TableId,
        kind: ObjectKind,
        object: Arc<str>,
        value: Object,
    },
    DeleteObject {
        table: TableId,
        kind: ObjectKind,
        object: Arc<str>,
    },
    /// Of a flowtable that exists already, devices are added and the counting is changed.
    AddFlowtable {
        table: TableId,
        flowtable: Arc<str>,
        value: Flowtable,
    },
    DeleteFlowtable {
        table: TableId,
        flowtable: Arc<str>,
    },
    /// Some devices of a flowtable that stays.
    DeleteDevices {
        table: TableId,
        flowtable: Arc<str>,
        devices: BTreeSet<Arc<str>>,
    },
}

/// The changes that make `new` out of `old`, in an order that the kernel takes in one transaction:
/// rules that go or change are flushed, then elements, sets, chains, objects and flowtables are deleted, then objects,
/// flowtables, sets (empty), chains, rules and at last elements are added, so that whatever something refers to is there
/// when it comes and is not there when it goes.
///
/// A chain whose rules differ is flushed and filled again. An element that differs is deleted and added: within one
/// transaction no packet sees it missing. A set, chain, object or flowtable whose definition differs is deleted and added
/// with all that refers to it, unless it can become the other in place ([`Set::can_become`], [`Flowtable::can_become`]).
/// The elements of dynamic sets are the kernel's and are not looked at.
///
/// Works on fragments too: two rulesets that hold only one farm's elements and chains give only that farm's changes. A
/// table or set that has become empty must still be *named* in the new fragment; what is not named is deleted.
///
/// The way back of `between(a, b)` is `between(b, a)`.
pub fn between(old: &Ruleset, new: &Ruleset) -> Vec<Change> {
    let mut changes = Vec::new();
    let empty = Table::default();
    for id in old.tables.keys().filter(|id| !new.tables.contains_key(*id)) {
        changes.push(Change::DeleteTable(id.clone()));
    }
    for (id, table) in &new.tables {
        let before = old.tables.get(id);
        if before.is_none_or(|before| before.dormant && !table.dormant) {
            changes.push(Change::AddTable(id.clone()));
        }
        Difference::new(id, before.unwrap_or(&empty), table).write(&mut changes);
    }
    changes
}

/// The difference of one table.
struct Difference<'a> {
    id: &'a TableId,
    old: &'a Table,
    new: &'a Table,
    /// Sets that are deleted: gone, or of another kind now.
    sets: BTreeSet<&'a str>,
    /// Chains that are deleted: gone, or with another hook now.
    chains: BTreeSet<&'a str>,
    /// Objects that are deleted: gone, or different now.
    objects: BTreeSet<(ObjectKind, &'a str)>,
    /// Flowtables that are deleted: gone, or of another priority now.
    flowtables: BTreeSet<&'a str>,
    /// Chains that stay but get their rules anew.
    refilled: BTreeSet<&'a str>,
    /// Sets with the same elements in both. They are most of what is compared when nothing has changed, and are so once.
    alike: BTreeSet<&'a str>,
}

impl<'a> Difference<'a> {
    fn new(id: &'a TableId, old: &'a Table, new: &'a Table) -> Self {
        let sets = old.sets.iter().filter(|(name, set)| !new.sets.get(*name).is_some_and(|new| set.can_become(new)));
        let chains =
            old.chains.iter().filter(|(name, chain)| !new.chains.get(*name).is_some_and(|new| new.base == chain.base));
        let objects = old.objects.iter().filter(|(name, object)| new.objects.get(*name) != Some(*object));
        let flowtables = old
            .flowtables
            .iter()
            .filter(|(name, one)| !new.flowtables.get(*name).is_some_and(|new| one.can_become(new)));
        let mut difference = Self {
            id,
            old,
            new,
            sets: sets.map(|(name, _)| &**name).collect(),
            chains: chains.map(|(name, _)| &**name).collect(),
            objects: objects.map(|((kind, name), _)| (*kind, &**name)).collect(),
            flowtables: flowtables.map(|(name, _)| &**name).collect(),
            refilled: BTreeSet::new(),
            alike: BTreeSet::new(),
        };
        // What points to what is deleted has to be looked at.
        if difference.chains.is_empty() && difference.objects.is_empty() {
            let is_alike = |(name, set): &(&Arc<str>, &Set)| {
                new.sets.get(*name).is_some_and(|new| !set.dynamic && new.elements == set.elements)
            };
            difference.alike = old.sets.iter().filter(is_alike).map(|(name, _)| &**name).collect();
        }
        let refilled = old.chains.iter().filter(|(name, chain)| {
            !difference.chains.contains(&***name)
                && (difference.new.chains[*name].rules != chain.rules || difference.refers(&chain.rules))
        });
        difference.refilled = refilled.map(|(name, _)| &**name).collect();
        difference
    }

    /// Whether one of these rules holds something that is deleted.
    fn refers(&self, rules: &[Rule]) -> bool {
        if self.sets.is_empty() && self.chains.is_empty() && self.objects.is_empty() && self.flowtables.is_empty() {
            return false;
        }
        rules.iter().flat_map(|rule| &rule.statements).any(|statement| {
            let mut found = false;
            statement.references(&mut |reference| {
                found |= match reference {
                    Reference::Set(name) => self.sets.contains(name),
                    Reference::Chain(name) => self.chains.contains(name),
                    Reference::Object(kind, name) => self.objects.contains(&(kind, name)),
                    Reference::Flowtable(name) => self.flowtables.contains(name),
                };
            });
            found
        })
    }

    fn write(&self, changes: &mut Vec<Change>) {
        let (table, name) = (|| self.id.clone(), |name: &str| Arc::from(name));
        for (chain, old) in &self.old.chains {
            let flushed =
                self.refilled.contains(&**chain) || (self.chains.contains(&**chain) && self.refers(&old.rules));
            if flushed && !old.rules.is_empty() {
                changes.push(Change::FlushChain { table: table(), chain: chain.clone() });
            }
        }
        self.delete_elements(changes);
        changes.extend(self.sets.iter().map(|set| Change::DeleteSet { table: table(), set: name(set) }));
        changes.extend(self.chains.iter().map(|chain| Change::DeleteChain { table: table(), chain: name(chain) }));
        self.write_objects(changes);
        self.write_flowtables(changes);
        for (set, new) in &self.new.sets {
            let kept = self.old.sets.get(set).filter(|_| !self.sets.contains(&**set));
            if kept.is_none_or(|old| old.size != new.size || old.timeout_ms != new.timeout_ms) {
                let value = Box::new(new.without_elements());
                changes.push(Change::AddSet { table: table(), set: set.clone(), value });
            }
        }
        let is_new = |chain: &Arc<str>| !self.old.chains.contains_key(chain) || self.chains.contains(&**chain);
        for (chain, new) in self.new.chains.iter().filter(|(chain, _)| is_new(chain)) {
            changes.push(Change::AddChain { table: table(), chain: chain.clone(), base: new.base.clone() });
        }
        for (chain, new) in &self.new.chains {
            if is_new(chain) || self.refilled.contains(&**chain) {
                let add = |rule: &Rule| Change::AddRule { table: table(), chain: chain.clone(), rule: rule.clone() };
                changes.extend(new.rules.iter().map(add));
            }
        }
        self.add_elements(changes);
    }

    fn write_objects(&self, changes: &mut Vec<Change>) {
        for (kind, object) in &self.objects {
            changes.push(Change::DeleteObject { table: self.id.clone(), kind: *kind, object: Arc::from(*object) });
        }
        for ((kind, object), value) in &self.new.objects {
            let key = (*kind, object.clone());
            if !self.old.objects.contains_key(&key) || self.objects.contains(&(*kind, &**object)) {
                let (object, value) = (object.clone(), value.clone());
                changes.push(Change::AddObject { table: self.id.clone(), kind: *kind, object, value });
            }
        }
    }

    fn write_flowtables(&self, changes: &mut Vec<Change>) {
        let table = || self.id.clone();
        for flowtable in &self.flowtables {
            changes.push(Change::DeleteFlowtable { table: table(), flowtable: Arc::from(*flowtable) });
        }
        for (flowtable, new) in &self.new.flowtables {
            let kept = self.old.flowtables.get(flowtable).filter(|_| !self.flowtables.contains(&**flowtable));
            let gone: BTreeSet<_> =
                kept.into_iter().flat_map(|old| old.devices.difference(&new.devices)).cloned().collect();
            if !gone.is_empty() {
                changes.push(Change::DeleteDevices { table: table(), flowtable: flowtable.clone(), devices: gone });
            }
            if kept.is_none_or(|old| !new.devices.is_subset(&old.devices) || old.counters != new.counters) {
                changes.push(Change::AddFlowtable { table: table(), flowtable: flowtable.clone(), value: new.clone() });
            }
        }
    }

    fn delete_elements(&self, changes: &mut Vec<Change>) {
        let stays = |name: &str| !self.sets.contains(name) && !self.alike.contains(name);
        for (name, set) in self.old.sets.iter().filter(|(name, old)| !old.dynamic && stays(name)) {
            let gone = side_by_side(&set.elements, &self.new.sets[name].elements).filter_map(|(key, old, new)| {
                old.filter(|old| self.moves(set, old, new)).map(|old| (key.clone(), old.clone()))
            });
            let elements: Vec<_> = gone.collect();
            if !elements.is_empty() {
                let definition = Box::new(set.without_elements());
                changes.push(Change::DeleteElements {
                    table: self.id.clone(),
                    set: name.clone(),
                    definition,
                    elements,
                });
            }
        }
    }

    fn add_elements(&self, changes: &mut Vec<Change>) {
        let none = BTreeMap::new();
        // One that is made anew gets its elements again, the same ones too.
        let is_filled = |name: &str| self.alike.contains(name) && !self.sets.contains(name);
        for (name, set) in self.new.sets.iter().filter(|(name, set)| !set.dynamic && !is_filled(name)) {
            let old = self.old.sets.get(name).filter(|_| !self.sets.contains(&**name));
            let old = old.map_or(&none, |old| &old.elements);
            let fresh = side_by_side(old, &set.elements).filter_map(|(key, old, new)| {
                let new = new.filter(|new| old.is_none_or(|old| self.moves(set, old, Some(new))))?;
                Some((key.clone(), new.clone()))
            });
            let elements: Vec<_> = fresh.collect();
            if !elements.is_empty() {
                let definition = Box::new(set.without_elements());
                changes.push(Change::AddElements { table: self.id.clone(), set: name.clone(), definition, elements });
            }
        }
    }

    /// Whether the old element of `set` must go, be it only to come back: an element that points to a chain or an object that
    /// is deleted would hold it.
    fn moves(&self, set: &Set, old: &Element, new: Option<&Element>) -> bool {
        let points_to_deleted = match (&old.data, &set.data) {
            (Some(Data::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain))), _) => self.chains.contains(&**chain),
            (Some(Data::Object(name)), Some(SetData::Objects(kind))) => self.objects.contains(&(*kind, &**name)),
            _ => false,
        };
        points_to_deleted || new != Some(old)
    }
}

/// An element's key, and what it is in each of two sets.
type Pair<'a> = (&'a Key, Option<&'a Element>, Option<&'a Element>);

/// The elements of two sets by key, in one pass: a search for each of 100,000 keys would cost several times as much.
fn side_by_side<'a>(
    old: &'a BTreeMap<Key, Element>,
    new: &'a BTreeMap<Key, Element>,
) -> impl Iterator<Item = Pair<'a>> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (Some((left, _)), Some((right, _))) => left.cmp(right),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let left = if order.is_le() { old.next() } else { None };
        let right = if order.is_ge() { new.next() } else { None };
        let key = left.or(right)?.0;
        Some((key, left.map(|(_, element)| element), right.map(|(_, element)| element)))
    })
}
