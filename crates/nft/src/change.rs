//! The difference of two rulesets, as an ordered list that one transaction can carry out.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::expr::{Reference, Verdict};
use crate::model::{BaseChain, Chain, Data, Element, Key, Rule, Ruleset, Set, Table, TableId};

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
    /// With their data, so that people see what goes.
    DeleteElements {
        table: TableId,
        set: Arc<str>,
        /// The set without its elements: how they are encoded and printed.
        definition: Box<Set>,
        elements: Vec<(Key, Element)>,
    },
}

/// The changes that make `new` out of `old`, in an order that the kernel takes in one transaction:
/// rules that go or change are flushed, then elements, sets and chains are deleted, then sets (empty), chains, rules and at
/// last elements are added, so that whatever something refers to is there when it comes and is not there when it goes.
///
/// A chain whose rules differ is flushed and filled again. An element whose data or comment differs is deleted and added:
/// within one transaction no packet sees it missing. A set or chain whose definition differs is deleted and added with
/// all that refers to it, unless the set can become the other in place ([`Set::can_become`]).
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
    /// Chains that stay but get their rules anew.
    refilled: BTreeSet<&'a str>,
}

impl<'a> Difference<'a> {
    fn new(id: &'a TableId, old: &'a Table, new: &'a Table) -> Self {
        let sets = old.sets.iter().filter(|(name, set)| !new.sets.get(*name).is_some_and(|new| set.can_become(new)));
        let chains =
            old.chains.iter().filter(|(name, chain)| !new.chains.get(*name).is_some_and(|new| new.base == chain.base));
        let mut difference = Self {
            id,
            old,
            new,
            sets: sets.map(|(name, _)| &**name).collect(),
            chains: chains.map(|(name, _)| &**name).collect(),
            refilled: BTreeSet::new(),
        };
        let refilled = old.chains.iter().filter(|(name, chain)| {
            !difference.chains.contains(&***name)
                && (difference.new.chains[*name].rules != chain.rules || difference.refers(&chain.rules))
        });
        difference.refilled = refilled.map(|(name, _)| &**name).collect();
        difference
    }

    /// Whether one of these rules holds something that is deleted.
    fn refers(&self, rules: &[Rule]) -> bool {
        if self.sets.is_empty() && self.chains.is_empty() {
            return false;
        }
        rules.iter().flat_map(|rule| &rule.statements).any(|statement| {
            let mut found = false;
            statement.references(&mut |reference| {
                found |= match reference {
                    Reference::Set(name) => self.sets.contains(name),
                    Reference::Chain(name) => self.chains.contains(name),
                    Reference::Object(..) | Reference::Flowtable(_) => false,
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

    fn delete_elements(&self, changes: &mut Vec<Change>) {
        for (set, old) in self.old.sets.iter().filter(|(set, _)| !self.sets.contains(&***set)) {
            let new = &self.new.sets[set];
            let gone = side_by_side(&old.elements, &new.elements).filter_map(|(key, old, new)| {
                old.filter(|old| self.moves(old, new)).map(|old| (key.clone(), old.clone()))
            });
            let elements: Vec<_> = gone.collect();
            if !elements.is_empty() {
                let definition = Box::new(old.without_elements());
                changes.push(Change::DeleteElements { table: self.id.clone(), set: set.clone(), definition, elements });
            }
        }
    }

    fn add_elements(&self, changes: &mut Vec<Change>) {
        let none = BTreeMap::new();
        for (set, new) in &self.new.sets {
            let old = self.old.sets.get(set).filter(|_| !self.sets.contains(&**set));
            let old = old.map_or(&none, |old| &old.elements);
            let fresh = side_by_side(old, &new.elements).filter_map(|(key, old, new)| {
                let new = new.filter(|new| old.is_none_or(|old| self.moves(old, Some(new))))?;
                Some((key.clone(), new.clone()))
            });
            let elements: Vec<_> = fresh.collect();
            if !elements.is_empty() {
                let definition = Box::new(new.without_elements());
                changes.push(Change::AddElements { table: self.id.clone(), set: set.clone(), definition, elements });
            }
        }
    }

    /// Whether the old element must go, be it only to come back: an element that points to a chain that is deleted would
    /// hold that chain.
    fn moves(&self, old: &Element, new: Option<&Element>) -> bool {
        let points_to_deleted = match &old.data {
            Some(Data::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain))) => self.chains.contains(&**chain),
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

/// Why a change does not fit a ruleset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ApplyError {
    #[error("there is no table {0}")]
    NoTable(TableId),
    #[error("table {table} has no chain {chain}")]
    NoChain { table: TableId, chain: Arc<str> },
    #[error("table {table} has no set {set}")]
    NoSet { table: TableId, set: Arc<str> },
    #[error("table {table} has something else named {name} already")]
    Exists { table: TableId, name: Arc<str> },
    #[error("an element to delete is not in set {set} of table {table}")]
    NoElement { table: TableId, set: Arc<str> },
}

impl Ruleset {
    /// Does to this value what the kernel would do to its ruleset, except that what refers to what is not checked.
    ///
    /// # Errors
    /// The first change that does not fit; those before it have been applied.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        changes.iter().try_for_each(|change| self.apply_one(change))
    }

    fn table_mut(&mut self, id: &TableId) -> Result<&mut Table, ApplyError> {
        self.tables.get_mut(id).ok_or_else(|| ApplyError::NoTable(id.clone()))
    }

    fn chain_mut(&mut self, table: &TableId, chain: &Arc<str>) -> Result<&mut Chain, ApplyError> {
        let found = self.table_mut(table)?.chains.get_mut(chain);
        found.ok_or_else(|| ApplyError::NoChain { table: table.clone(), chain: chain.clone() })
    }

    fn set_mut(&mut self, table: &TableId, set: &Arc<str>) -> Result<&mut Set, ApplyError> {
        let found = self.table_mut(table)?.sets.get_mut(set);
        found.ok_or_else(|| ApplyError::NoSet { table: table.clone(), set: set.clone() })
    }

    fn apply_one(&mut self, change: &Change) -> Result<(), ApplyError> {
        match change {
            Change::AddTable(id) => self.tables.entry(id.clone()).or_default().dormant = false,
            Change::DeleteTable(id) => {
                self.tables.remove(id).ok_or_else(|| ApplyError::NoTable(id.clone()))?;
            }
            Change::AddChain { table, chain, base } => {
                let added = Chain { base: base.clone(), rules: Vec::new() };
                if self.table_mut(table)?.chains.insert(chain.clone(), added).is_some() {
                    return Err(ApplyError::Exists { table: table.clone(), name: chain.clone() });
                }
            }
            Change::DeleteChain { table, chain } => {
                self.chain_mut(table, chain)?;
                self.table_mut(table)?.chains.remove(chain);
            }
            Change::FlushChain { table, chain } => self.chain_mut(table, chain)?.rules.clear(),
            Change::AddRule { table, chain, rule } => self.chain_mut(table, chain)?.rules.push(rule.clone()),
            Change::AddSet { table, set, value } => match self.table_mut(table)?.sets.get_mut(set) {
                Some(old) if old.can_become(value) => (old.size, old.timeout_ms) = (value.size, value.timeout_ms),
                Some(_) => return Err(ApplyError::Exists { table: table.clone(), name: set.clone() }),
                None => {
                    self.table_mut(table)?.sets.insert(set.clone(), value.without_elements());
                }
            },
            Change::DeleteSet { table, set } => {
                self.set_mut(table, set)?;
                self.table_mut(table)?.sets.remove(set);
            }
            Change::AddElements { table, set, elements, .. } => {
                let into = &mut self.set_mut(table, set)?.elements;
                for (key, element) in elements {
                    if into.insert(key.clone(), element.clone()).is_some_and(|old| old != *element) {
                        return Err(ApplyError::Exists { table: table.clone(), name: set.clone() });
                    }
                }
            }
            Change::DeleteElements { table, set, elements, .. } => {
                let from = &mut self.set_mut(table, set)?.elements;
                if elements.iter().any(|(key, _)| from.remove(key).is_none()) {
                    return Err(ApplyError::NoElement { table: table.clone(), set: set.clone() });
                }
            }
        }
        Ok(())
    }
}
