//! Tables, chains, sets and maps as values.
//!
//! `==` means "the same configuration": handles, counters and dynamic elements, which the kernel owns, are not in here.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::expr::{Limit, ObjectKind, Statement, Verdict};
use crate::object::{Flowtable, Object};

/// Address family of a table (`NFPROTO_*`, `include/uapi/linux/netfilter.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// Ingress and egress of a device.
    Netdev = 5,
    /// IPv6.
    Ip6 = 10,
}

/// What names a table in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId {
    /// Family.
    pub family: Family,
    /// Name.
    pub name: Arc<str>,
}

impl TableId {
    /// A table of the `inet` family.
    pub fn inet(name: &str) -> Self {
        Self { family: Family::Inet, name: name.into() }
    }
}

/// Some tables. As "observed" these are exactly the tables that were asked for and exist.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ruleset {
    /// By family and name.
    pub tables: BTreeMap<TableId, Table>,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Table {
    /// `flags dormant`: the kernel calls none of its chains. We never ask for it; somebody may have set it by hand.
    pub dormant: bool,
    /// Sets and maps by name.
    pub sets: BTreeMap<Arc<str>, Set>,
    /// Chains by name.
    pub chains: BTreeMap<Arc<str>, Chain>,
    /// Named objects; each kind has names of its own.
    pub objects: BTreeMap<(ObjectKind, Arc<str>), Object>,
    /// Flowtables by name.
    pub flowtables: BTreeMap<Arc<str>, Flowtable>,
}

/// One chain and its rules in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chain {
    /// Where the kernel calls it; `None` for a chain that only others jump to.
    pub base: Option<BaseChain>,
    /// In order of evaluation.
    pub rules: Vec<Rule>,
}

/// The hook of a base chain. The policy is always accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseChain {
    /// `type`.
    pub kind: ChainKind,
    /// `hook`.
    pub hook: Hook,
    /// `priority`; lower runs earlier.
    pub priority: i32,
    /// `device` or `devices`, in [`Family::Netdev`] only.
    pub devices: BTreeSet<Arc<str>>,
}

/// `type` of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ChainKind {
    Filter,
    Nat,
    Route,
    /// Only observed: a type, hook, policy or flag that this model has no words for. Adding such a chain is left out.
    Foreign,
}

/// Hook of a base chain (`NF_INET_*`; ingress is `NF_NETDEV_INGRESS` in the netdev family).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Ingress,
}

/// One rule: statements from left to right; a match that fails ends the rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rule {
    /// In order.
    pub statements: Vec<Statement>,
    /// Kept by the kernel as user data, shown by nft(8).
    pub comment: Option<Arc<str>>,
}

/// At most so many bytes of a comment reach the kernel: what nft(8) accepts (`NFTNL_UDATA_COMMENT_MAXLEN`).
pub const COMMENT_BYTES: usize = 128;

/// What is kept of a comment: nft(8) knows no escape inside quotes, so a quote or a control character could end the string
/// and start a command. Quotes become `'`, control characters become spaces, and the rest beyond [`COMMENT_BYTES`] is cut.
/// Both the text and the messages use this; whoever compares comments with the kernel's should apply it first.
pub fn comment(text: &str) -> String {
    clean(text, COMMENT_BYTES)
}

/// At most `bytes` of a text that may stand inside quotes.
pub(crate) fn clean(text: &str, bytes: usize) -> String {
    let mut clean: String = text
        .chars()
        .map(|c| {
            if c == '"' {
                '\''
            } else if c.is_control() {
                ' '
            } else {
                c
            }
        })
        .collect();
    clean.truncate(clean.floor_char_boundary(bytes));
    clean
}

/// Up to 64 bytes of key or data, as they lie in the kernel's registers: each field of a concatenation padded to 4 bytes,
/// network order for what comes from packets, host order for marks. Up to 16 of them, all that IPv4 needs, lie in the value itself:
/// of 10,000 farms there are 300,000 such values at a time.
pub type Bytes = SmallVec<[u8; 16]>;

/// The type of a field of a key or of map data: decides its length and how it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Datatype {
    /// 4 bytes, network order.
    Ipv4Addr,
    /// 16 bytes.
    Ipv6Addr,
    /// 1 byte.
    InetProto,
    /// 2 bytes, network order.
    InetService,
    /// 4 bytes, host order.
    Mark,
    /// 4 bytes, host order: what a number generator or a hash yields. nft(8) has no word for the type and writes a set of
    /// it by example (`typeof numgen inc mod 1 : ip daddr`), so only as the one field of a key.
    Number,
    /// 4 bytes, host order: an interface index.
    IfIndex,
    /// 16 bytes: an interface name padded with zeroes.
    IfName,
    /// 6 bytes.
    EtherAddr,
    /// Only observed: a type of nft(8) that we do not use, by its number (`enum datatypes`), and its length in bytes.
    Other {
        /// Number, 6 bits.
        id: u8,
        /// Bytes, 1 to 64.
        len: u8,
    },
}

impl Datatype {
    /// Length in bytes; in a concatenation each field is padded to a multiple of 4.
    pub fn bytes(self) -> usize {
        match self {
            Self::InetProto => 1,
            Self::InetService => 2,
            Self::Ipv4Addr | Self::Mark | Self::Number | Self::IfIndex => 4,
            Self::EtherAddr => 6,
            Self::Ipv6Addr | Self::IfName => 16,
            Self::Other { len, .. } => usize::from(len),
        }
    }
}

/// Bytes of a key or of data with these fields: one field as it is, several each padded to 4 bytes.
pub fn width(fields: &[Datatype]) -> usize {
    match fields {
        [one] => one.bytes(),
        many => many.iter().map(|field| field.bytes().next_multiple_of(4)).sum(),
    }
}

impl Set {
    /// Whether its elements are read and compared: not the packet path's, and of a type that we have a word for.
    pub(crate) fn has_own_elements(&self) -> bool {
        !self.dynamic && !self.key.iter().any(|key| matches!(key, Datatype::Other { .. }))
    }

    /// The definition alone.
    pub fn without_elements(&self) -> Self {
        Self { elements: BTreeMap::new(), key: self.key.clone(), data: self.data.clone(), ..*self }
    }

    /// Whether this set can become `new` without being deleted. The kernel changes only size and default time-out of a set
    /// that exists (`nft_set_is_same`, net/netfilter/nf_tables_api.c).
    ///
    /// Nor does a set grow in this way: a hash of a declared size keeps the buckets that it was created with, so a set that
    /// had grown from 1,024 to 131,072 elements would search lists of 50. Sets that the packet path fills are hashes that
    /// resize themselves, and their elements would be lost; they do grow.
    pub fn can_become(&self, new: &Self) -> bool {
        let size_fits = match (self.size, new.size) {
            (Some(old), Some(new)) => new <= old || self.dynamic,
            (old, new) => old == new,
        };
        let kind = |set: &Self| (set.interval, set.dynamic, set.timeout_ms.is_some_and(|timeout| timeout > 0));
        size_fits
            && self.key == new.key
            && self.data == new.data
            && kind(self) == kind(new)
            && self.timeout_ms.is_some() == new.timeout_ms.is_some()
            && self.counters == new.counters
    }
}

impl Ruleset {
    /// Adds the tables, sets, elements, chains, rules, objects and flowtables of `other`. Rules go behind those that a chain
    /// has already; where both define the same other thing, the definition of `other` counts.
    pub fn merge(&mut self, other: Self) {
        for (id, table) in other.tables {
            let mine = self.tables.entry(id).or_default();
            mine.dormant |= table.dormant;
            for (name, mut set) in table.sets {
                if let Some(old) = mine.sets.remove(&name) {
                    let added = std::mem::replace(&mut set.elements, old.elements);
                    set.elements.extend(added);
                }
                mine.sets.insert(name, set);
            }
            for (name, chain) in table.chains {
                let mine = mine.chains.entry(name).or_default();
                mine.base = chain.base.or(mine.base.take());
                mine.rules.extend(chain.rules);
            }
            mine.objects.extend(table.objects);
            mine.flowtables.extend(table.flowtables);
        }
    }
}

/// A set, or a map when `data` is there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Set {
    /// One field, or several for a concatenation.
    pub key: Vec<Datatype>,
    /// What a map yields.
    pub data: Option<SetData>,
    /// `flags interval`: keys are ranges.
    pub interval: bool,
    /// `flags dynamic`: the packet path adds elements; those are the kernel's and never in `elements`.
    pub dynamic: bool,
    /// `flags timeout` and the default, milliseconds.
    pub timeout_ms: Option<u64>,
    /// Most elements. A hash set of a declared size is the cheaper kind (no resizing). A `dynamic` set should have one: the
    /// kernel gives 65,535 to one without as soon as a rule writes into it, and tells so (`nft_dynset_init`).
    pub size: Option<u32>,
    /// `counter`: each element counts the packets that found it; the counts are the kernel's ([`crate::Socket::elements`]).
    pub counters: bool,
    /// By key.
    pub elements: BTreeMap<Key, Element>,
}

/// What a map yields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetData {
    /// A verdict map.
    Verdict,
    /// Values, one field or a concatenation.
    Value(Vec<Datatype>),
    /// Named objects of one kind.
    Objects(ObjectKind),
}

/// The key of an element: a value, or a range with both ends included when `end` is there. A range of a single value has
/// no `end`: so it is read back. No bytes at all are the catch-all element `*`, which is only observed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The value, or the lowest of the range, field by field.
    pub start: Bytes,
    /// The highest of the range, field by field; only in interval sets. Boxed, since every key of every other set would pay for it.
    pub end: Option<Box<Bytes>>,
}

/// By the bytes of `start`, then by `end`.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        // Most keys are marks, and sorting them is most of the work with 100,000 elements: a call of memcmp(3) for four bytes
        // takes several times as long as the comparison of two numbers.
        let number = |key: &Self| <[u8; 4]>::try_from(key.start.as_slice()).map(u32::from_be_bytes);
        let start = match (number(self), number(other)) {
            (Ok(one), Ok(another)) => one.cmp(&another),
            _ => self.start.cmp(&other.start),
        };
        start.then_with(|| self.end.cmp(&other.end))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What belongs to a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Element {
    /// In maps only.
    pub data: Option<Data>,
    /// Kept by the kernel as user data, shown by nft(8).
    pub comment: Option<Arc<str>>,
    /// What few elements have. Boxed, since of 100,000 elements hardly one has it, and all of them pay for their size.
    pub own: Option<Box<Own>>,
}

/// What an element has for itself. An element that has nothing of it has no `Own`: so it is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Own {
    /// Milliseconds, in sets with time-outs; the set's default is not said again.
    pub timeout_ms: Option<u64>,
    /// A limit: a lookup that exceeds it (or does not, see [`Limit::over`]) ends the rule. Not in sets with `counters`.
    /// nft(8) 1.0.6 lists it but does not read it.
    pub limit: Option<Limit>,
}

impl Own {
    /// As an element has it.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// The data of a map's element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// For [`SetData::Verdict`].
    Verdict(Verdict),
    /// For [`SetData::Value`].
    Value(Bytes),
    /// For [`SetData::Objects`]: the object's name.
    Object(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_their_bytes() {
        let starts: [&[u8]; 8] =
            [&[], &[0, 0, 0], &[0, 0, 0, 1], &[0, 0, 0, 1, 0], &[0, 0, 1, 0], &[1, 0, 0, 0], &[1, 0, 0, 0, 0], &[2]];
        let ends = [None, Some(Box::new(Bytes::from_slice(&[1, 0]))), Some(Box::new(Bytes::from_slice(&[2])))];
        let keys = starts
            .iter()
            .flat_map(|start| ends.iter().map(|end| Key { start: Bytes::from_slice(start), end: end.clone() }));
        let keys: Vec<Key> = keys.collect();
        for (at, one) in keys.iter().enumerate() {
            for (other_at, other) in keys.iter().enumerate() {
                assert_eq!(one.cmp(other), at.cmp(&other_at), "{one:?} {other:?}");
            }
        }
    }
}
