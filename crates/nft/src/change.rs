//! The difference of two rulesets, as an ordered list that one transaction can carry out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{BaseChain, Element, Key, Rule, Set, TableId};

/// One change of a ruleset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Change {
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
    /// Without its elements.
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
        elements: Vec<(Key, Element)>,
    },
    /// With their data, so that a change can be taken back.
    DeleteElements {
        table: TableId,
        set: Arc<str>,
        elements: Vec<(Key, Element)>,
    },
}
