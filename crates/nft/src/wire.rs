//! The encoding: netlink messages and attributes, and our values in them, both ways.
//!
//! Numbers come from `rustables::sys`; where that has none (it knows the build machine's headers only) they stand here with
//! their source. Headers and attribute headers are in the machine's byte order, numbers of nf_tables in network order.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustables::sys;

use crate::model::{Rule, Set};

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod fields;
mod replay;

pub use replay::decode_messages;

/// Length of `struct nlmsghdr`.
pub(crate) const MESSAGE_HEADER: usize = 16;
/// Length of `struct nfgenmsg`, behind the message header.
pub(crate) const FAMILY_HEADER: usize = 4;

/// `NFNL_SUBSYS_NFTABLES << 8`: what the type of every nf_tables message begins with.
pub(crate) const SUBSYSTEM: u16 = (sys::NFNL_SUBSYS_NFTABLES as u16) << 8;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
pub(crate) const BATCH_BEGIN: u16 = 0x10;
pub(crate) const BATCH_END: u16 = 0x11;

/// Verdicts, policies and translation flags that rustables does not have (linux/netfilter.h, linux/netfilter/nf_nat.h).
pub(crate) const NF_DROP: i32 = 0;
pub(crate) const NF_ACCEPT: i32 = 1;
pub(crate) const NF_NAT_RANGE_MAP_IPS: u32 = 1;
pub(crate) const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
pub(crate) const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 16;
/// `NFT_BITWISE_MASK_XOR`: `(value & mask) ^ xor`.
pub(crate) const NFT_BITWISE_MASK_XOR: u32 = 0;

/// Set flags (`NFT_SET_*`).
pub(crate) mod set_flag {
    pub(crate) const ANONYMOUS: u32 = 0x1;
    pub(crate) const INTERVAL: u32 = 0x4;
    pub(crate) const MAP: u32 = 0x8;
    pub(crate) const TIMEOUT: u32 = 0x10;
    pub(crate) const EVAL: u32 = 0x20;
    pub(crate) const OBJECT: u32 = 0x40;
    /// Fields have ranges of their own; kernel and nft(8) use it with `INTERVAL` only.
    pub(crate) const CONCAT: u32 = 0x80;
}

/// `NFT_MSG_DESTROYSETELEM` (linux/netfilter/nf_tables.h, 6.3): what is not there is no error.
pub(crate) const NFT_MSG_DESTROYSETELEM: u32 = 30;

/// Element flags (`NFT_SET_ELEM_*`).
pub(crate) mod element_flag {
    pub(crate) const INTERVAL_END: u32 = 1;
    pub(crate) const CATCHALL: u32 = 2;
}

/// Options of a SYN proxy (`NF_SYNPROXY_OPT_*`, linux/netfilter/nf_SYNPROXY.h).
pub(crate) mod synproxy_flag {
    const MSS: u32 = 1;
    const WSCALE: u32 = 2;
    pub(crate) const SACK: u32 = 4;
    pub(crate) const TIMESTAMP: u32 = 8;

    /// Segment size and window scale are always there.
    pub(crate) fn of(timestamp: bool, sack: bool) -> u32 {
        MSS | WSCALE | if timestamp { TIMESTAMP } else { 0 } | if sack { SACK } else { 0 }
    }
}

/// Segment size, window scale, time stamps and selective acknowledgements of a SYN proxy, be it a statement or an object.
pub(crate) fn synproxy_options(data: Attributes<'_>) -> Option<(u16, u8, bool, bool)> {
    let flags = data.number(sys::NFTA_SYNPROXY_FLAGS)?;
    let (timestamp, sack) = (flags & synproxy_flag::TIMESTAMP != 0, flags & synproxy_flag::SACK != 0);
    let &[wscale] = data.get(sys::NFTA_SYNPROXY_WSCALE)? else { return None };
    let mss = data.short(sys::NFTA_SYNPROXY_MSS)?;
    (flags == synproxy_flag::of(timestamp, sack)).then_some((mss, wscale, timestamp, sack))
}

/// User data of nft(8), which the kernel keeps without reading it: type, length, value (libnftnl `udata.h`).
pub(crate) mod user_data {
    /// `NFTNL_UDATA_RULE_COMMENT` and `NFTNL_UDATA_SET_ELEM_COMMENT`: a string that ends with a zero.
    pub(crate) const COMMENT: u8 = 0;
    /// `NFTNL_UDATA_SET_KEYBYTEORDER`, a number in host order: without it nft(8) prints marks with their bytes swapped.
    pub(crate) const KEY_BYTE_ORDER: u8 = 0;
    /// `NFTNL_UDATA_SET_DATABYTEORDER`.
    pub(crate) const DATA_BYTE_ORDER: u8 = 1;
}

/// The type and header fields of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `NLM_F_*`; `NLM_F_REQUEST` is added.
    pub(crate) flags: u16,
    /// `nlmsg_seq`.
    pub(crate) sequence: u32,
    /// `nfgen_family`.
    pub(crate) family: u8,
    /// `res_id`.
    pub(crate) resource: u16,
}

/// Writes messages into one growing buffer; lengths are patched in place, so nothing else is allocated.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) buffer: Vec<u8>,
}

impl Writer {
    pub(crate) fn message(&mut self, header: Header, body: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&header.kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(header.flags | sys::NLM_F_REQUEST as u16).to_ne_bytes());
        self.buffer.extend_from_slice(&header.sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&[header.family, sys::NFNETLINK_V0 as u8]);
        self.buffer.extend_from_slice(&header.resource.to_be_bytes());
        body(self);
        let length = u32::try_from(self.buffer.len() - start).expect("a message holds at most one list of elements");
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Takes a message of somebody else over, with another sequence number and without the wish for an acknowledgement.
    pub(crate) fn splice(&mut self, message: &Message<'_>, sequence: u32) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(message.whole);
        self.pad();
        let flags = message.flags & !(sys::NLM_F_ACK as u16);
        self.buffer[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        self.buffer[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    fn attribute_header(&mut self, attribute: u32, length: usize) {
        let length = u16::try_from(length + 4).expect("values are short and lists are split below 64 KiB");
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&(attribute as u16).to_ne_bytes());
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, attribute: impl Into<u32>, body: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.attribute_header(attribute.into() | sys::NLA_F_NESTED, 0);
        body(self);
        let length = u16::try_from(self.buffer.len() - start).expect("lists are split below 64 KiB");
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn bytes(&mut self, attribute: impl Into<u32>, value: &[u8]) {
        self.attribute_header(attribute.into(), value.len());
        self.buffer.extend_from_slice(value);
        self.pad();
    }

    /// With the zero at its end that the kernel wants.
    pub(crate) fn string(&mut self, attribute: impl Into<u32>, value: &str) {
        self.attribute_header(attribute.into(), value.len() + 1);
        self.buffer.extend_from_slice(value.as_bytes());
        self.buffer.push(0);
        self.pad();
    }

    pub(crate) fn short(&mut self, attribute: impl Into<u32>, value: u16) {
        self.bytes(attribute, &value.to_be_bytes());
    }

    pub(crate) fn number(&mut self, attribute: impl Into<u32>, value: u32) {
        self.bytes(attribute, &value.to_be_bytes());
    }

    pub(crate) fn long(&mut self, attribute: impl Into<u32>, value: u64) {
        self.bytes(attribute, &value.to_be_bytes());
    }
}

/// One message that was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Behind the message header.
    pub(crate) body: &'a [u8],
    pub(crate) whole: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind `struct nfgenmsg`.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(FAMILY_HEADER..).unwrap_or_default())
    }
}

/// The messages of a buffer. Ends at the first that is cut off or says a length that cannot be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = number_at(self.0, 0)? as usize;
        let whole = self.0.get(..length).filter(|_| length >= MESSAGE_HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let short = |at: usize| u16::from_ne_bytes([whole[at], whole[at + 1]]);
        Some(Message {
            kind: short(4),
            flags: short(6),
            sequence: number_at(whole, 8)?,
            body: &whole[MESSAGE_HEADER..],
            whole,
        })
    }
}

/// A number in host order.
pub(crate) fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The attributes of a message or of a nested attribute. Ends at the first that is cut off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<(u32, &'a [u8])> {
        let &[low, high, kind_low, kind_high, ..] = self.0 else { return None };
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u32::from(u16::from_ne_bytes([kind_low, kind_high]));
        Some((kind & sys::NLA_TYPE_MASK as u32, value))
    }
}

impl<'a> Attributes<'a> {
    /// The first attribute of this kind.
    pub(crate) fn get(self, attribute: impl Into<u32>) -> Option<&'a [u8]> {
        let attribute = attribute.into();
        self.into_iter().find(|(kind, _)| *kind == attribute).map(|(_, value)| value)
    }

    pub(crate) fn nested(self, attribute: impl Into<u32>) -> Option<Attributes<'a>> {
        self.get(attribute).map(Attributes)
    }

    pub(crate) fn short(self, attribute: impl Into<u32>) -> Option<u16> {
        self.get(attribute)?.try_into().ok().map(u16::from_be_bytes)
    }

    pub(crate) fn number(self, attribute: impl Into<u32>) -> Option<u32> {
        self.get(attribute)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn long(self, attribute: impl Into<u32>) -> Option<u64> {
        self.get(attribute)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(crate) fn string(self, attribute: impl Into<u32>) -> Option<&'a str> {
        text(self.get(attribute)?)
    }
}

/// A string up to its first zero.
pub(crate) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

/// The attributes of a rule as `NEWRULE` carries them behind table and chain: expressions and user data.
pub fn encode_rule(rule: &Rule) -> Vec<u8> {
    let mut writer = Writer::default();
    encode::rule(&mut writer, rule);
    writer.buffer
}

/// The rule in the attributes of a `NEWRULE` message. `sets` are those of its table: they tell how wide a key is.
/// A rule with anything that we have no words for comes back as [`crate::Statement::Unknown`]; nothing fails.
pub fn decode_rule(attributes: &[u8], sets: &BTreeMap<Arc<str>, Set>) -> Rule {
    decode::rule(Attributes(attributes), sets)
}

#[cfg(test)]
mod tests;
