//! Bytes of keys, data and constants by their datatype.

use std::fmt::{self, Display, Formatter};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Name;
use crate::model::Datatype;

impl Display for Datatype {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::Mark => "mark",
            Self::Number => "integer",
            Self::IfIndex => "iface_index",
            Self::IfName => "ifname",
            Self::EtherAddr => "ether_addr",
            Self::Other { id, .. } => return write!(f, "type-{id}"),
        })
    }
}

/// The fields of a key, each with its own bytes and without padding. Bytes that do not fit the types, which only foreign
/// sets have, come out as one field of an unknown type.
pub(super) fn fields<'a>(types: &[Datatype], bytes: &'a [u8]) -> Vec<(Datatype, &'a [u8])> {
    let whole = || vec![(Datatype::Other { id: 0, len: 0 }, bytes)];
    if crate::model::width(types) != bytes.len() {
        return whole();
    }
    let mut fields = Vec::with_capacity(types.len());
    let mut at = 0;
    for datatype in types {
        let Some(field) = bytes.get(at..at + datatype.bytes()) else { return whole() };
        fields.push((*datatype, field));
        at += datatype.bytes().next_multiple_of(4);
    }
    fields
}

/// Writes one field.
pub(super) fn datum(f: &mut Formatter<'_>, datatype: Datatype, bytes: &[u8]) -> fmt::Result {
    match (datatype, bytes) {
        (Datatype::Ipv4Addr, &[a, b, c, d]) => write!(f, "{}", Ipv4Addr::new(a, b, c, d)),
        (Datatype::Ipv6Addr, _) if bytes.len() == 16 => {
            let octets: [u8; 16] = bytes.try_into().expect("the length was just compared");
            write!(f, "{}", Ipv6Addr::from(octets))
        }
        (Datatype::InetProto, &[proto]) => Protocol(proto).fmt(f),
        (Datatype::InetService, &[high, low]) => write!(f, "{}", u16::from_be_bytes([high, low])),
        (Datatype::Mark, &[a, b, c, d]) => write!(f, "0x{:08x}", u32::from_ne_bytes([a, b, c, d])),
        (Datatype::IfIndex | Datatype::Number, &[a, b, c, d]) => write!(f, "{}", u32::from_ne_bytes([a, b, c, d])),
        (Datatype::IfName, _) => {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            write!(f, "\"{}\"", Name(&String::from_utf8_lossy(&bytes[..end])))
        }
        (Datatype::EtherAddr, &[a, b, c, d, e, g]) => {
            write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
        }
        _ => hexadecimal(f, bytes),
    }
}

/// A protocol by the name that nft(8) prints without asking the machine's files.
pub(super) struct Protocol(pub(super) u8);

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "icmp",
            6 => "tcp",
            17 => "udp",
            33 => "dccp",
            50 => "esp",
            51 => "ah",
            58 => "ipv6-icmp",
            108 => "comp",
            132 => "sctp",
            136 => "udplite",
            number => return write!(f, "{number}"),
        })
    }
}

pub(super) fn hexadecimal(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("0x")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
