//! Changes carried out on values.

use std::sync::Arc;

use super::Change;
use crate::expr::ObjectKind;
use crate::model::{Chain, Ruleset, Set, Table, TableId};
use crate::object::Flowtable;

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
    #[error("table {table} has no {kind} {object}")]
    NoObject { table: TableId, kind: ObjectKind, object: Arc<str> },
    #[error("table {table} has no flowtable {flowtable}")]
    NoFlowtable { table: TableId, flowtable: Arc<str> },
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

    fn flowtable_mut(&mut self, table: &TableId, flowtable: &Arc<str>) -> Result<&mut Flowtable, ApplyError> {
        let found = self.table_mut(table)?.flowtables.get_mut(flowtable);
        found.ok_or_else(|| ApplyError::NoFlowtable { table: table.clone(), flowtable: flowtable.clone() })
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
            Change::AddElements { .. } | Change::DeleteElements { .. } => self.apply_elements(change)?,
            Change::AddObject { .. } | Change::DeleteObject { .. } => self.apply_object(change)?,
            Change::AddFlowtable { .. } | Change::DeleteFlowtable { .. } | Change::DeleteDevices { .. } => {
                self.apply_flowtable(change)?;
            }
        }
        Ok(())
    }

    /// Elements of dynamic sets are the kernel's and never in a value.
    fn apply_elements(&mut self, change: &Change) -> Result<(), ApplyError> {
        match change {
            Change::AddElements { table, set, elements, .. } => {
                let into = self.set_mut(table, set)?;
                for (key, element) in elements.iter().filter(|_| !into.dynamic) {
                    if into.elements.insert(key.clone(), element.clone()).is_some_and(|old| old != *element) {
                        return Err(ApplyError::Exists { table: table.clone(), name: set.clone() });
                    }
                }
            }
            Change::DeleteElements { table, set, elements, .. } => {
                let from = self.set_mut(table, set)?;
                let lasting = !from.dynamic && from.timeout_ms.is_none();
                for (key, _) in elements {
                    if from.elements.remove(key).is_none() && lasting {
                        return Err(ApplyError::NoElement { table: table.clone(), set: set.clone() });
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn apply_object(&mut self, change: &Change) -> Result<(), ApplyError> {
        match change {
            Change::AddObject { table, kind, object, value } => {
                let objects = &mut self.table_mut(table)?.objects;
                if objects.insert((*kind, object.clone()), value.clone()).is_some() {
                    return Err(ApplyError::Exists { table: table.clone(), name: object.clone() });
                }
            }
            Change::DeleteObject { table, kind, object } => {
                let gone = self.table_mut(table)?.objects.remove(&(*kind, object.clone()));
                let (table, object) = (table.clone(), object.clone());
                gone.ok_or(ApplyError::NoObject { table, kind: *kind, object })?;
            }
            _ => {}
        }
        Ok(())
    }

    fn apply_flowtable(&mut self, change: &Change) -> Result<(), ApplyError> {
        match change {
            Change::AddFlowtable { table, flowtable, value } => {
                match self.table_mut(table)?.flowtables.get_mut(flowtable) {
                    Some(old) if old.can_become(value) => {
                        old.devices.extend(value.devices.iter().cloned());
                        old.counters = value.counters;
                    }
                    Some(_) => return Err(ApplyError::Exists { table: table.clone(), name: flowtable.clone() }),
                    None => {
                        self.table_mut(table)?.flowtables.insert(flowtable.clone(), value.clone());
                    }
                }
            }
            Change::DeleteFlowtable { table, flowtable } => {
                self.flowtable_mut(table, flowtable)?;
                self.table_mut(table)?.flowtables.remove(flowtable);
            }
            Change::DeleteDevices { table, flowtable, devices } => {
                self.flowtable_mut(table, flowtable)?.devices.retain(|device| !devices.contains(device));
            }
            _ => {}
        }
        Ok(())
    }
}
