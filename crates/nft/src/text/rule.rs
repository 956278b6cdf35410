//! Rules, values and constants.

use std::fmt::{self, Display, Formatter};

use super::Name;
use super::datum::{datum, fields, hexadecimal};
use crate::expr::{Field, Target, Value, Verdict};
use crate::model::{Data, Datatype, Rule};

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, statement) in self.statements.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{statement}")?;
        }
        match &self.comment {
            Some(comment) => write!(f, " comment \"{}\"", crate::model::comment(comment)),
            None => Ok(()),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Goto(chain) => write!(f, "goto {}", Name(chain)),
            Self::Jump(chain) => write!(f, "jump {}", Name(chain)),
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nfproto => "meta nfproto",
            Self::Protocol => "meta protocol",
            Self::L4proto => "meta l4proto",
            Self::Mark => "meta mark",
            Self::Iif => "meta iif",
            Self::Iifname => "meta iifname",
            Self::Oif => "meta oif",
            Self::CtMark => "ct mark",
            Self::CtState => "ct state",
            Self::CtDirection => "ct direction",
            Self::Ip4Saddr => "ip saddr",
            Self::Ip4Daddr => "ip daddr",
            Self::Ip6Saddr => "ip6 saddr",
            Self::Ip6Daddr => "ip6 daddr",
            Self::Sport => "th sport",
            Self::Dport => "th dport",
            Self::TcpFlags => "tcp flags",
            // ICMP's and ICMPv6's alike; nft(8) has a word for each.
            Self::IcmpType => "@th,0,8",
            Self::UdpChecksum => "udp checksum",
            Self::EtherSaddr => "ether saddr",
            Self::EtherDaddr => "ether daddr",
            Self::FibDaddrType => "fib daddr type",
        })
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CtMark => "ct mark",
            Self::Mark => "meta mark",
            Self::Nftrace => "meta nftrace",
            Self::Ip4Saddr => "ip saddr",
            Self::Ip4Daddr => "ip daddr",
            Self::Ip6Saddr => "ip6 saddr",
            Self::Ip6Daddr => "ip6 daddr",
            Self::TcpSport => "tcp sport",
            Self::TcpDport => "tcp dport",
            Self::UdpSport => "udp sport",
            Self::UdpDport => "udp dport",
            Self::SctpSport => "sctp sport",
            Self::SctpDport => "sctp dport",
            Self::UdpChecksum => "udp checksum",
        })
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(bytes) => hexadecimal(f, bytes),
            Self::Field(field) => field.fmt(f),
            Self::Concat(values) => {
                for (index, value) in values.iter().enumerate() {
                    let dot = if index == 0 { "" } else { " . " };
                    write!(f, "{dot}{value}")?;
                }
                Ok(())
            }
            Self::Numgen(numgen) => {
                let kind = if numgen.random { "random" } else { "inc" };
                write!(f, "numgen {kind} mod {}", numgen.modulus)?;
                write_offset(f, numgen.offset)
            }
            Self::Jhash { key, modulus, seed, offset } => {
                write!(f, "jhash {key} mod {modulus} seed 0x{seed:x}")?;
                write_offset(f, *offset)
            }
            Self::And(value, mask) => {
                write!(f, "{value} & ")?;
                write_constant(f, value, mask)
            }
            Self::Map { key, map } => write!(f, "{key} map @{}", Name(map)),
        }
    }
}

fn write_offset(f: &mut Formatter<'_>, offset: u32) -> fmt::Result {
    if offset == 0 { Ok(()) } else { write!(f, " offset {offset}") }
}

/// A constant by the type of what it is compared or combined with.
pub(super) fn write_constant(f: &mut Formatter<'_>, with: &Value, bytes: &[u8]) -> fmt::Result {
    match with {
        Value::Field(field) => write_field(f, *field, bytes),
        Value::And(value, _) => write_constant(f, value, bytes),
        Value::Numgen(_) | Value::Jhash { .. } => datum(f, Datatype::Mark, bytes),
        _ => hexadecimal(f, bytes),
    }
}

fn write_field(f: &mut Formatter<'_>, field: Field, bytes: &[u8]) -> fmt::Result {
    let datatype = match field {
        Field::Nfproto => return word(f, &[(2, "ipv4"), (10, "ipv6")], bytes),
        Field::CtDirection => return word(f, &[(0, "original"), (1, "reply")], bytes),
        Field::CtState => return write_flags(f, &STATES, bytes, "|"),
        Field::TcpFlags => return write_flags(f, &TCP_FLAGS, bytes, "|"),
        Field::FibDaddrType => return word(f, &ADDRESS_TYPES, bytes),
        Field::Protocol => return word(f, &[(0x0800, "ip"), (0x86dd, "ip6")], bytes),
        Field::L4proto => Datatype::InetProto,
        Field::IcmpType => return hexadecimal(f, bytes),
        Field::Iifname => Datatype::IfName,
        Field::Mark | Field::CtMark => Datatype::Mark,
        Field::Iif | Field::Oif => Datatype::IfIndex,
        Field::Ip4Saddr | Field::Ip4Daddr => Datatype::Ipv4Addr,
        Field::Ip6Saddr | Field::Ip6Daddr => Datatype::Ipv6Addr,
        Field::Sport | Field::Dport | Field::UdpChecksum => Datatype::InetService,
        Field::EtherSaddr | Field::EtherDaddr => Datatype::EtherAddr,
    };
    datum(f, datatype, bytes)
}

/// A new value of a target.
pub(super) fn write_new(f: &mut Formatter<'_>, target: Target, bytes: &[u8]) -> fmt::Result {
    let like = match target {
        Target::CtMark | Target::Mark => Field::Mark,
        Target::Ip4Saddr | Target::Ip4Daddr => Field::Ip4Saddr,
        Target::Ip6Saddr | Target::Ip6Daddr => Field::Ip6Saddr,
        Target::TcpSport
        | Target::TcpDport
        | Target::UdpSport
        | Target::UdpDport
        | Target::SctpSport
        | Target::SctpDport => Field::Sport,
        Target::UdpChecksum => Field::UdpChecksum,
        Target::Nftrace => return bytes.first().map_or(Ok(()), |on| write!(f, "{on}")),
    };
    write_field(f, like, bytes)
}

pub(super) const STATES: [(u32, &str); 5] =
    [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
const TCP_FLAGS: [(u32, &str); 8] =
    [(1, "fin"), (2, "syn"), (4, "rst"), (8, "psh"), (16, "ack"), (32, "urg"), (64, "ecn"), (128, "cwr")];
const ADDRESS_TYPES: [(u32, &str); 5] =
    [(1, "unicast"), (2, "local"), (3, "broadcast"), (4, "anycast"), (5, "multicast")];

/// A number of 1 byte, of 2 in network order, or of 4 in host order.
fn number(bytes: &[u8]) -> Option<u32> {
    match bytes {
        [one] => Some(u32::from(*one)),
        &[high, low] => Some(u32::from(u16::from_be_bytes([high, low]))),
        bytes => bytes.try_into().ok().map(u32::from_ne_bytes),
    }
}

fn word(f: &mut Formatter<'_>, names: &[(u32, &str)], bytes: &[u8]) -> fmt::Result {
    match names.iter().find(|(value, _)| number(bytes) == Some(*value)) {
        Some((_, name)) => f.write_str(name),
        None => hexadecimal(f, bytes),
    }
}

/// Flags, by name when all bits have one.
pub(super) fn write_flags(f: &mut Formatter<'_>, known: &[(u32, &str)], bytes: &[u8], between: &str) -> fmt::Result {
    let Some(bits) = number(bytes) else { return hexadecimal(f, bytes) };
    let names: Vec<&str> = known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    let named: u32 = known.iter().map(|(bit, _)| bits & bit).sum();
    if bits == 0 || named != bits {
        return write!(f, "0x{bits:x}");
    }
    match names.as_slice() {
        [one] => f.write_str(one),
        many if between == "|" => write!(f, "({})", many.join("|")),
        many => f.write_str(&many.join(between)),
    }
}

/// ` : DATA` of an element.
pub(super) fn write_data(f: &mut Formatter<'_>, types: &[Datatype], data: Option<&Data>) -> fmt::Result {
    match data {
        None => Ok(()),
        Some(Data::Verdict(verdict)) => write!(f, " : {verdict}"),
        Some(Data::Object(name)) => write!(f, " : \"{}\"", Name(name)),
        Some(Data::Value(bytes)) => {
            for (index, (datatype, field)) in fields(types, bytes).iter().enumerate() {
                f.write_str(if index == 0 { " : " } else { " . " })?;
                datum(f, *datatype, field)?;
            }
            Ok(())
        }
    }
}
