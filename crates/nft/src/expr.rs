//! Rules as statements over values: only what we emit.
//!
//! A [`Value`] is something that ends up in registers (a packet field, a number, the result of a map); a [`Statement`] does
//! something with values. The encoder gives out registers, the decoder tracks them and finds the same statements again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::Bytes;

/// What a rule or an element decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// The hook is done; the packet goes on.
    Accept,
    /// The packet is gone.
    Drop,
    /// Continue in that chain, without coming back.
    Goto(Arc<str>),
    /// Continue in that chain and come back at its end.
    Jump(Arc<str>),
    /// Back to the chain before.
    Return,
}

/// A field that a packet or its connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Field {
    /// `meta nfproto`, 1 byte: 2 is IPv4, 10 is IPv6.
    Nfproto,
    /// `meta l4proto`, 1 byte.
    L4proto,
    /// `meta mark`, 4 bytes, host order.
    Mark,
    /// `meta iif`, 4 bytes, host order.
    Iif,
    /// `ct mark`, 4 bytes, host order.
    CtMark,
    /// `ct state`, 4 bytes, host order, a bit mask: invalid 1, established 2, related 4, new 8, untracked 64.
    CtState,
    /// `ip saddr`.
    Ip4Saddr,
    /// `ip daddr`.
    Ip4Daddr,
    /// `ip6 saddr`.
    Ip6Saddr,
    /// `ip6 daddr`.
    Ip6Daddr,
    /// `th sport`.
    Sport,
    /// `th dport`.
    Dport,
}

/// A number generator (`numgen inc|random mod N offset O`); the result is in host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numgen {
    /// Drawn at random instead of counted up.
    pub random: bool,
    /// Results are `offset..offset + modulus`.
    pub modulus: u32,
    /// Added to the result.
    pub offset: u32,
}

/// Something that yields bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// These bytes.
    Constant(Bytes),
    /// A field.
    Field(Field),
    /// Two values or more, each padded to 4 bytes; none of them a concatenation. A map in here yields at most 4 bytes.
    Concat(Vec<Value>),
    /// A number generator.
    Numgen(Numgen),
    /// `jhash KEY mod N seed S offset O`; the result is in host order.
    Jhash {
        /// What is hashed.
        key: Box<Value>,
        /// Results are `offset..offset + modulus`.
        modulus: u32,
        /// Fixed, or re-adding the rule would move every client.
        seed: u32,
        /// Added to the result.
        offset: u32,
    },
    /// `VALUE & MASK`, for comparisons of flag fields.
    And(Box<Value>, Bytes),
    /// `KEY map @NAME`: a miss ends the rule.
    Map {
        /// What is looked up.
        key: Box<Value>,
        /// The map's name.
        map: Arc<str>,
    },
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Operator {
    Equal,
    NotEqual,
}

/// What a `set` statement writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// `ct mark set`.
    CtMark,
    /// `meta mark set`.
    Mark,
}

/// Source or destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NatKind {
    Source,
    Destination,
}

/// `dnat ip to VALUE`, `snat ip6 to VALUE fully-random`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// snat or dnat.
    pub kind: NatKind,
    /// Whether the address is IPv6.
    pub ipv6: bool,
    /// An address; when `port` is set a map that yields an address and a port, or a concatenation of the two.
    pub to: Value,
    /// `to` yields a port behind the address.
    pub port: bool,
    /// Draw the port at random without first trying to keep it.
    pub fully_random: bool,
}

/// How a flow is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reject {
    /// `reject with tcp reset`; only after a match on TCP.
    TcpReset,
    /// `reject with icmpx port-unreachable`; in inet and netdev tables only.
    PortUnreachable,
}

/// One statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statement {
    /// Go on only when the comparison holds.
    Match {
        /// Left side.
        value: Value,
        /// Comparison.
        operator: Operator,
        /// Right side.
        constant: Bytes,
    },
    /// `VALUE @SET`: go on only when the set has it (or has it not).
    InSet {
        /// What is looked up.
        value: Value,
        /// The set's name.
        set: Arc<str>,
        /// Go on only when it is absent.
        invert: bool,
    },
    /// `VALUE vmap @MAP`: a miss goes on with the next rule.
    VerdictMap {
        /// What is looked up.
        key: Value,
        /// The map's name.
        map: Arc<str>,
    },
    /// `TARGET set VALUE`.
    Set {
        /// What is written.
        target: Target,
        /// The new value.
        value: Value,
    },
    /// Address translation; decides for the whole flow.
    Nat(Nat),
    /// Refuse with an answer.
    Reject(Reject),
    /// Packets and bytes; the kernel's count is not part of the value.
    Counter,
    /// No connection tracking for this packet.
    Notrack,
    /// An immediate verdict.
    Verdict(Verdict),
    /// Only observed: the rule has an expression that this model has no words for, so it equals no rule of ours. It is the
    /// only statement then. Adding such a rule is left out.
    Unknown {
        /// The expression.
        name: Arc<str>,
    },
}

/// Something of the same table that a statement holds on to: the kernel does not delete it as long as the rule is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference<'a> {
    /// A set or map, by name.
    Set(&'a str),
    /// A chain, by name.
    Chain(&'a str),
}

impl Statement {
    /// Calls `visit` with everything that this statement refers to.
    pub fn references<'a>(&'a self, visit: &mut dyn FnMut(Reference<'a>)) {
        match self {
            Self::Match { value, .. } | Self::Set { value, .. } => value.references(visit),
            Self::InSet { value, set, .. } => {
                value.references(visit);
                visit(Reference::Set(set));
            }
            Self::VerdictMap { key, map } => {
                key.references(visit);
                visit(Reference::Set(map));
            }
            Self::Nat(nat) => nat.to.references(visit),
            Self::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) => visit(Reference::Chain(chain)),
            Self::Reject(_) | Self::Counter | Self::Notrack | Self::Verdict(_) | Self::Unknown { .. } => {}
        }
    }
}

impl Value {
    /// Calls `visit` with every map that this value looks into.
    pub fn references<'a>(&'a self, visit: &mut dyn FnMut(Reference<'a>)) {
        match self {
            Self::Constant(_) | Self::Field(_) | Self::Numgen(_) => {}
            Self::Concat(values) => values.iter().for_each(|value| value.references(visit)),
            Self::Jhash { key, .. } => key.references(visit),
            Self::And(value, _) => value.references(visit),
            Self::Map { key, map } => {
                key.references(visit);
                visit(Reference::Set(map));
            }
        }
    }
}
