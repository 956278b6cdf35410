//! The words that rulesets of ours are made of.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use headgate_nft::{Bytes, Data, Element, Field, Key, Operator, Rule, Statement, Value, Verdict};

use crate::maps::Map;
use crate::names::IpVersion;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;

pub(super) fn nfproto(version: IpVersion) -> u8 {
    // NFPROTO_IPV4, NFPROTO_IPV6
    match version {
        IpVersion::V4 => 2,
        IpVersion::V6 => 10,
    }
}

pub(super) fn ethertype(version: IpVersion) -> u16 {
    // ETH_P_IP, ETH_P_IPV6
    match version {
        IpVersion::V4 => 0x0800,
        IpVersion::V6 => 0x86dd,
    }
}

pub(super) fn address_fields(version: IpVersion) -> (Field, Field) {
    match version {
        IpVersion::V4 => (Field::Ip4Saddr, Field::Ip4Daddr),
        IpVersion::V6 => (Field::Ip6Saddr, Field::Ip6Daddr),
    }
}

/// The client's address.
pub(super) fn client(version: IpVersion) -> Value {
    Value::Field(address_fields(version).0)
}

/// An immediate jump.
pub(super) fn jump(chain: &Arc<str>) -> Statement {
    Statement::Verdict(Verdict::Jump(chain.clone()))
}

/// An immediate goto.
pub(super) fn goto(chain: &Arc<str>) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.clone()))
}

pub(super) fn rule<const N: usize>(statements: [Statement; N]) -> Rule {
    Rule { statements: statements.into(), comment: None }
}

pub(super) fn equal(value: Value, constant: Bytes) -> Statement {
    Statement::Match { value, operator: Operator::Equal, constant }
}

/// A field of one byte has this value.
pub(super) fn is(field: Field, value: u8) -> Statement {
    equal(Value::Field(field), Bytes::from_slice(&[value]))
}

/// The packet is TCP.
pub(super) fn is_tcp() -> Statement {
    is(Field::L4proto, TCP)
}

/// Bits of `ct state`.
pub(super) const INVALID: u32 = 1;
pub(super) const ESTABLISHED: u32 = 2;
pub(super) const RELATED: u32 = 4;
pub(super) const NEW: u32 = 8;
pub(super) const UNTRACKED: u32 = 64;

/// Connection tracking calls the packet one of these.
pub(super) fn in_state(bits: u32) -> Statement {
    let value = Value::And(Box::new(Value::Field(Field::CtState)), mark_bytes(bits));
    Statement::Match { value, operator: Operator::NotEqual, constant: mark_bytes(0) }
}

/// Bits of `tcp flags`.
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const URG: u8 = 0x20;

/// Some bits of the TCP flags are these, or not.
pub(super) fn flags(mask: u8, operator: Operator, bits: u8) -> Statement {
    let value = Value::And(Box::new(Value::Field(Field::TcpFlags)), Bytes::from_slice(&[mask]));
    Statement::Match { value, operator, constant: Bytes::from_slice(&[bits]) }
}

/// What a map yields for the ct mark.
pub(super) fn by_mark(map: Map) -> Value {
    Value::Map { key: Box::new(Value::Field(Field::CtMark)), map: map.name() }
}

/// A time-out of an element.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An address as it lies in a register.
pub(super) fn address_bytes(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::from_slice(&address.octets()),
    }
}

/// A mark as it lies in a register.
pub(super) fn mark_bytes(mark: u32) -> Bytes {
    Bytes::from_slice(&mark.to_ne_bytes())
}

/// Appends a field of a concatenation, padded to 4 bytes.
pub(super) fn push_field(bytes: &mut Bytes, field: &[u8]) {
    bytes.extend_from_slice(field);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A key without a range.
pub(super) fn exactly(start: Bytes) -> Key {
    Key { start, end: None }
}

/// An element of a map that yields a value.
pub(super) fn yields(value: Bytes) -> Element {
    Element { data: Some(Data::Value(value)), ..Element::default() }
}
