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
    /// `meta protocol`, 2 bytes, network order: 0x0800 is IPv4, 0x86dd is IPv6. In netdev tables, where `meta nfproto` is
    /// neither.
    Protocol,
    /// `meta l4proto`, 1 byte.
    L4proto,
    /// `meta mark`, 4 bytes, host order.
    Mark,
    /// `meta iif`, 4 bytes, host order.
    Iif,
    /// `meta iifname`, 16 bytes, padded with zeroes.
    Iifname,
    /// `meta oif`, 4 bytes, host order; from the forward hook on.
    Oif,
    /// `ct mark`, 4 bytes, host order.
    CtMark,
    /// `ct state`, 4 bytes, host order, a bit mask: invalid 1, established 2, related 4, new 8, untracked 64.
    CtState,
    /// `ct direction`, 1 byte: 0 is original, 1 is reply.
    CtDirection,
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
    /// `tcp flags`, 1 byte: fin 1, syn 2, rst 4, psh 8, ack 16, urg 32, ecn 64, cwr 128.
    TcpFlags,
    /// The first byte of the transport header: the type of ICMP and ICMPv6 (`icmp type`).
    IcmpType,
    /// `udp checksum`, 2 bytes; 0 means that there is none (RFC 768).
    UdpChecksum,
    /// `ether saddr`, 6 bytes.
    EtherSaddr,
    /// `ether daddr`, 6 bytes.
    EtherDaddr,
    /// `fib daddr type`, 4 bytes, host order: unicast 1, local 2, broadcast 3, anycast 4, multicast 5 (`RTN_*`,
    /// linux/rtnetlink.h).
    FibDaddrType,
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

/// What a `set` statement writes. A write into the packet keeps the checksums right: that of the IPv4 header, and those of
/// TCP, UDP and ICMPv6 that cover addresses (`nft_payload_set_eval`, net/netfilter/nft_payload.c); SCTP's does not cover
/// them. A UDP checksum of 0 (none) would not stay 0 when a port is written: write it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// `ct mark set`.
    CtMark,
    /// `meta mark set`.
    Mark,
    /// `meta nftrace set`, 1 byte.
    Nftrace,
    /// `ip saddr set`.
    Ip4Saddr,
    /// `ip daddr set`.
    Ip4Daddr,
    /// `ip6 saddr set`.
    Ip6Saddr,
    /// `ip6 daddr set`.
    Ip6Daddr,
    /// `tcp sport set`; only after a match on TCP, since the checksum's place is the protocol's. So for the next three.
    TcpSport,
    /// `tcp dport set`.
    TcpDport,
    /// `udp sport set`.
    UdpSport,
    /// `udp dport set`.
    UdpDport,
    /// `udp checksum set`.
    UdpChecksum,
    /// `sctp sport set`; the kernel computes the CRC32c anew (Linux 5.10).
    SctpSport,
    /// `sctp dport set`.
    SctpDport,
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

/// What a `dynset` statement does to its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DynsetOp {
    /// Adds the element; of one that is there already the time-out stays as it is.
    Add,
    /// Adds the element, or starts its time-out again.
    Update,
    /// Removes the element.
    Delete,
}

/// `update @SET { KEY timeout 30s : DATA }`: the packet path writes into a set that is `dynamic`.
///
/// A set that is full (or an absent element to be deleted) ends the rule. With a key over 16 bytes nft(8) 1.0.6 aborts when
/// it reads our text; listing what we have sent works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dynset {
    /// What is done.
    pub op: DynsetOp,
    /// The set's or map's name.
    pub set: Arc<str>,
    /// The element's key, up to 64 bytes with `data`. As in a concatenation, a map in here yields at most 4 bytes.
    pub key: Value,
    /// What a map's element yields; in a map always, even to delete (`nft_dynset_init`).
    pub data: Option<Value>,
    /// Milliseconds; without it the set's default.
    pub timeout_ms: Option<u64>,
    /// What each element has for itself; a limit that is exceeded ends the rule. `None` in a set with `counters`: the kernel
    /// gives the counter to the element by itself and does not tell about one here.
    pub stateful: Option<Stateful>,
}

/// A statement that an element has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stateful {
    /// Packets and bytes.
    Counter,
    /// Packets in a time.
    Limit(Limit),
    /// Connections that live; not in sets with time-outs, which would forget them.
    Connlimit {
        /// As many are not over.
        count: u32,
        /// Go on only above the count, not up to it.
        over: bool,
    },
}

/// `limit rate over 10/second burst 5 packets`: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Limit {
    /// Packets, at least 1.
    pub rate: u64,
    /// In so many seconds. nft(8) has words for 1, 60, 3,600, 86,400 and 604,800 only.
    pub per_s: u64,
    /// Packets that may come at once when nothing came before; the kernel takes 0 for 5.
    pub burst: u32,
    /// Go on only above the rate, not up to it.
    pub over: bool,
}

/// The kind of a named object (`NFT_OBJECT_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKind {
    /// Packets and bytes.
    Counter,
    /// `ct helper`: reads the application's protocol for further flows.
    Helper,
    /// Where a tunnel device sends a packet. nft(8) 1.0.6 aborts when it lists one.
    Tunnel,
    /// Options of a SYN proxy.
    Synproxy,
    /// Only observed: a kind that we do not use, by its number.
    Other(u32),
}

/// At most so many bytes of a log's prefix reach the kernel (`NF_LOG_PREFIXLEN` less the zero).
pub const LOG_PREFIX_BYTES: usize = 127;

/// What is kept of a log's prefix: cleaned like a comment ([`crate::model::comment`]).
pub fn log_prefix(text: &str) -> String {
    crate::model::clean(text, LOG_PREFIX_BYTES)
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
    /// Adds, updates or deletes an element of a set. Boxed, since it is twice as large as all others and rare.
    Dynset(Box<Dynset>),
    /// Go on only up to the limit, or above it.
    Limit(Limit),
    /// `ct count over 20`: connections that passed here and live.
    Connlimit {
        /// As many are not over.
        count: u32,
        /// Go on only above the count, not up to it.
        over: bool,
    },
    /// `log group G prefix "…"`: to who listens to the group (`nfnetlink_log`); nothing happens when nobody does.
    Log {
        /// Netlink group.
        group: u16,
        /// Cleaned by [`log_prefix`] on its way out; whoever compares with the kernel's should apply that first.
        prefix: Arc<str>,
        /// So many bytes of the packet go along; without it all.
        snaplen: Option<u32>,
    },
    /// `queue to N`: to the program that listens to the queue (`nfnetlink_queue`).
    Queue {
        /// The queue.
        number: u16,
        /// Accept when nobody listens; without it such packets are dropped.
        bypass: bool,
    },
    /// `fwd ip to ADDRESS device DEVICE`: sends the packet there through the neighbour layer; in netdev tables only.
    Fwd {
        /// Whether the address is IPv6.
        ipv6: bool,
        /// Index of the interface, 4 bytes, host order.
        device: Box<Value>,
        /// The next hop.
        address: Value,
    },
    /// `flow add @FLOWTABLE`: the rest of this flow takes the fast path.
    FlowAdd {
        /// The flowtable's name.
        flowtable: Arc<str>,
    },
    /// `synproxy mss M wscale W timestamp sack-perm`.
    Synproxy {
        /// Largest segment that is told to the client, bytes.
        mss: u16,
        /// Window scale that is told to the client, 0 to 14.
        wscale: u8,
        /// Offer time stamps, which carry the client's options through the cookie.
        timestamp: bool,
        /// Offer selective acknowledgements.
        sack: bool,
    },
    /// `counter name "N"`, `ct helper set "N"`, `synproxy name "N"`.
    Object {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        name: Arc<str>,
    },
    /// `counter name KEY map @MAP`: the object that the map yields; a miss ends the rule.
    ObjectMap {
        /// The map's kind.
        kind: ObjectKind,
        /// What is looked up.
        key: Value,
        /// The map's name.
        map: Arc<str>,
    },
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
    /// An object, by kind and name.
    Object(ObjectKind, &'a str),
    /// A flowtable, by name.
    Flowtable(&'a str),
}

impl From<Dynset> for Statement {
    fn from(dynset: Dynset) -> Self {
        Self::Dynset(Box::new(dynset))
    }
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
            Self::Dynset(dynset) => {
                dynset.key.references(visit);
                dynset.data.iter().for_each(|data| data.references(visit));
                visit(Reference::Set(&dynset.set));
            }
            Self::Fwd { device, address, .. } => {
                device.references(visit);
                address.references(visit);
            }
            Self::FlowAdd { flowtable } => visit(Reference::Flowtable(flowtable)),
            Self::Object { kind, name } => visit(Reference::Object(*kind, name)),
            Self::ObjectMap { key, map, .. } => {
                key.references(visit);
                visit(Reference::Set(map));
            }
            Self::Reject(_) | Self::Counter | Self::Notrack | Self::Verdict(_) | Self::Unknown { .. } => {}
            Self::Limit(_) | Self::Connlimit { .. } | Self::Log { .. } | Self::Queue { .. } | Self::Synproxy { .. } => {
            }
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
