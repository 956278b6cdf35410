//! Tables, chains, sets and maps as values.
//!
//! `==` means "the same configuration": handles, counters and dynamic elements, which the kernel owns, are not in here.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::expr::{Statement, Verdict};

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
    /// Sets and maps by name.
    pub sets: BTreeMap<Arc<str>, Set>,
    /// Chains by name.
    pub chains: BTreeMap<Arc<str>, Chain>,
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
    /// `device`, in [`Family::Netdev`] only.
    pub device: Option<Arc<str>>,
}

/// `type` of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ChainKind {
    Filter,
    Nat,
    Route,
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

/// Up to 64 bytes of key or data, as they lie in the kernel's registers: each field of a concatenation padded to 4 bytes,
/// network order for what comes from packets, host order for marks.
pub type Bytes = SmallVec<[u8; 24]>;

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
    /// 4 bytes, host order: an interface index.
    IfIndex,
    /// 16 bytes: an interface name padded with zeroes.
    IfName,
    /// 6 bytes.
    EtherAddr,
}

/// A set, or a map when `data` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Most elements. A hash set of a declared size is the cheaper kind (no resizing).
    pub size: Option<u32>,
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
}

/// The key of an element: a value, or a range with both ends included when `end` is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The value, or the lowest of the range, field by field.
    pub start: Bytes,
    /// The highest of the range, field by field; only in interval sets.
    pub end: Option<Bytes>,
}

/// What belongs to a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Element {
    /// In maps only.
    pub data: Option<Data>,
    /// Kept by the kernel as user data, shown by nft(8).
    pub comment: Option<Arc<str>>,
}

/// The data of a map's element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// For [`SetData::Verdict`].
    Verdict(Verdict),
    /// For [`SetData::Value`].
    Value(Bytes),
}
