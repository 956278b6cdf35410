//! The messages of connection tracking (ctnetlink): what is asked, and what is read of the answers.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use headgate_plan::flows::Services;
use headgate_plan::names::{MARK_ID_MASK, MARK_TAG};

use super::{Flow, Select, TAG_MASK, Tuple};

/// `NFNL_SUBSYS_CTNETLINK << 8`, with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`
/// (include/uapi/linux/netfilter/nfnetlink_conntrack.h, as all numbers below).
pub(super) const GET: u16 = 0x0101;
pub(super) const DELETE: u16 = 0x0102;
/// `IPCTNL_MSG_CT_GET_STATS_CPU`: a message for each CPU.
const GET_STATISTICS: u16 = 0x0104;
/// `IPCTNL_MSG_CT_GET_STATS`: one message.
const GET_COUNT: u16 = 0x0105;
/// Length of `struct nfgenmsg`, which precedes the attributes.
const NFGENMSG_BYTES: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_PROTO_NUM` (net/netfilter/nf_internals.h): compare the protocol of the tuple.
const FILTER_PROTO_NUM: u32 = 1 << 3;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// `CTA_STATS_INSERT_FAILED`, `_DROP`, `_EARLY_DROP`, `_CHAIN_TOOLONG`.
const STATISTICS: [u16; 4] = [9, 10, 11, 15];
/// `CTA_STATS_GLOBAL_ENTRIES`.
const STATS_GLOBAL_ENTRIES: u16 = 1;
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_ASSURED: u32 = 1 << 2;
/// Address or port of the sender was changed (`nf_nat_setup_info`).
const IPS_SRC_NAT: u32 = 1 << 4;
const IPS_DST_NAT: u32 = 1 << 5;
const IPS_OFFLOAD: u32 = 1 << 14;

/// `IPPROTO_TCP`, `IPPROTO_DCCP`, `IPPROTO_SCTP`: those whose connections have an end.
const TCP: u8 = 6;
const DCCP: u8 = 33;
const SCTP: u8 = 132;

/// The header of a message and of what precedes its attributes; [`finish`] fills in the length.
fn begin(kind: u16) -> Vec<u8> {
    let mut message = vec![0; 16 + NFGENMSG_BYTES];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message
}

fn finish(mut message: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a request has less than 300 bytes");
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// What decides whether an entry is deleted.
pub(crate) struct Entry {
    /// Without flags.
    mark: u32,
    protocol: u8,
    /// `None` where there are no IP addresses.
    original: Option<Tuple>,
    status: u32,
}

impl Entry {
    /// Of a backend that has to let go of it.
    pub(crate) fn is_lost(&self, marks: &BTreeSet<u32>, cut: &BTreeSet<u32>) -> bool {
        if self.protocol == TCP { cut } else { marks }.contains(&self.mark)
    }

    /// Of nobody, to a service that is one by now.
    pub(super) fn is_early(&self, services: &Services) -> bool {
        // Where a packet of an opened connection would be taken nobody knows of it.
        let has_begun = matches!(self.protocol, TCP | DCCP | SCTP) && self.status & IPS_SEEN_REPLY != 0;
        !has_begun
            && self.mark & TAG_MASK != MARK_TAG
            && self.status & (IPS_SRC_NAT | IPS_DST_NAT) == 0
            && self.original.is_some_and(|original| services.take(self.protocol, original.destination))
    }
}

/// The deletion of the entry that `body`, an answer to a dump, describes, if that is wanted. Its tuple goes back as it came, so
/// that this holds for every protocol.
pub(crate) fn deletion(body: &[u8], wanted: impl FnOnce(&Entry) -> bool) -> io::Result<Option<Vec<u8>>> {
    let mut message = begin(DELETE);
    let mut entry = Entry { mark: 0, protocol: 0, original: None, status: 0 };
    let mut has_tuple = false;
    for (kind, value) in Attributes::of(body)? {
        match kind {
            CTA_MARK => entry.mark = be32(value)? & (TAG_MASK | MARK_ID_MASK),
            CTA_STATUS => entry.status = be32(value)?,
            CTA_TUPLE_ORIG => {
                (entry.protocol, entry.original) = decode_tuple(value)?;
                has_tuple = true;
                put(&mut message, CTA_TUPLE_ORIG | NLA_F_NESTED, value);
            }
            // The id is of this very entry: one that took its place meanwhile stays.
            CTA_ZONE | CTA_ID => put(&mut message, kind, value),
            _ => {}
        }
    }
    message[16] = *body.first().ok_or_else(truncated)?;
    Ok((has_tuple && wanted(&entry)).then(|| finish(message)))
}

/// A message with a ct mark to compare, and a family and protocol when they are given.
pub(super) fn request(kind: u16, select: Select, protocol: Option<(u8, u8)>) -> Vec<u8> {
    let mut message = begin(kind);
    let (mark, mask) = select.mark_and_mask();
    put(&mut message, CTA_MARK, &mark.to_be_bytes());
    put(&mut message, CTA_MARK_MASK, &mask.to_be_bytes());
    if let Some((family, protocol)) = protocol {
        // A deletion heeds the family only of messages that do not say version 0, whose senders never meant it
        // (ctnetlink_del_conntrack).
        message[16..18].copy_from_slice(&[family, 1]);
        let mut number = Vec::new();
        put(&mut number, CTA_PROTO_NUM, &[protocol]);
        let mut tuple = Vec::new();
        put(&mut tuple, CTA_TUPLE_PROTO | NLA_F_NESTED, &number);
        put(&mut message, CTA_TUPLE_ORIG | NLA_F_NESTED, &tuple);
        let mut filter = Vec::new();
        put(&mut filter, CTA_FILTER_ORIG_FLAGS, &FILTER_PROTO_NUM.to_ne_bytes());
        put(&mut filter, CTA_FILTER_REPLY_FLAGS, &0u32.to_ne_bytes());
        put(&mut message, CTA_FILTER | NLA_F_NESTED, &filter);
    }
    finish(message)
}

/// Appends an attribute and pads it to 4 bytes.
fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("an attribute of a request has less than 100 bytes");
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The attributes of a message or a nest, checked once, in order.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Those behind the `nfgenmsg` of a message's body.
    pub(crate) fn of(body: &'a [u8]) -> io::Result<Self> {
        Self::nested(body.get(NFGENMSG_BYTES..).ok_or_else(truncated)?)
    }

    fn nested(bytes: &'a [u8]) -> io::Result<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = attribute_length(rest).ok_or_else(truncated)?;
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(Self(bytes))
    }
}

fn attribute_length(bytes: &[u8]) -> Option<usize> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    (4..=bytes.len()).contains(&length).then_some(length)
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = attribute_length(self.0)?;
        let (attribute, _) = self.0.split_at(length);
        self.0 = &self.0[length.next_multiple_of(4).min(self.0.len())..];
        let kind = u16::from_ne_bytes([attribute[2], attribute[3]]) & NLA_TYPE_MASK;
        Some((kind, &attribute[4..]))
    }
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a truncated conntrack message")
}

fn be32(value: &[u8]) -> io::Result<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(truncated)
}

fn be16(value: &[u8]) -> io::Result<u16> {
    value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)).ok_or_else(truncated)
}

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stage {
    /// The ct mark without flags.
    pub(super) mark: u32,
    /// Nothing comes any more.
    pub(super) ended: bool,
    /// Its backend has answered.
    pub(super) answered: bool,
}

/// How far a flow is; nothing else is looked at.
pub(super) fn stage(attributes: Attributes<'_>) -> io::Result<Stage> {
    let mut stage = Stage { mark: 0, ended: false, answered: true };
    for (kind, value) in attributes {
        match kind {
            CTA_MARK => stage.mark = be32(value)? & (TAG_MASK | MARK_ID_MASK),
            CTA_PROTOINFO => stage.ended = has_ended(value)?,
            CTA_STATUS => stage.answered = be32(value)? & IPS_SEEN_REPLY != 0,
            _ => {}
        }
    }
    Ok(stage)
}

/// Where a flow's backend sees it come from, the backend, and the protocol; `None` for a flow whose source is its client's.
pub(super) fn translated(attributes: Attributes<'_>) -> io::Result<Option<(u8, Tuple)>> {
    let (mut is_translated, mut reply) = (false, None);
    for (kind, value) in attributes {
        match kind {
            CTA_STATUS => is_translated = be32(value)? & IPS_SRC_NAT != 0,
            CTA_TUPLE_REPLY => reply = Some(value),
            _ => {}
        }
    }
    let Some(reply) = reply.filter(|_| is_translated) else { return Ok(None) };
    let (protocol, tuple) = decode_tuple(reply)?;
    Ok(tuple.map(|tuple| (protocol, tuple)))
}

/// Asks for what connection tracking has counted.
pub(super) fn statistics_request() -> Vec<u8> {
    finish(begin(GET_STATISTICS))
}

/// `insert_failed`, `drop`, `early_drop` and `chaintoolong` of one CPU.
pub(super) fn statistics(attributes: Attributes<'_>) -> io::Result<[u64; 4]> {
    let mut counts = [0; 4];
    for (kind, value) in attributes {
        if let Some(place) = STATISTICS.iter().position(|known| *known == kind) {
            counts[place] = u64::from(be32(value)?);
        }
    }
    Ok(counts)
}

/// Asks how many entries there are.
pub(super) fn count_request() -> Vec<u8> {
    finish(begin(GET_COUNT))
}

/// How many there are (`CTA_STATS_GLOBAL_ENTRIES`); `None` for a message that does not say it.
pub(super) fn entries(attributes: Attributes<'_>) -> io::Result<Option<u32>> {
    attributes.into_iter().find(|(kind, _)| *kind == STATS_GLOBAL_ENTRIES).map(|(_, value)| be32(value)).transpose()
}

/// `None` for an entry without a tuple of IP addresses.
pub(crate) fn decode(attributes: Attributes<'_>) -> io::Result<Option<Flow>> {
    let (mut original, mut reply) = (None, None);
    let (mut mark, mut status, mut seconds, mut state) = (0, 0, 0, None);
    let mut protocol = 0;
    for (kind, value) in attributes {
        match kind {
            CTA_TUPLE_ORIG => (protocol, original) = decode_tuple(value)?,
            CTA_TUPLE_REPLY => (_, reply) = decode_tuple(value)?,
            CTA_STATUS => status = be32(value)?,
            CTA_TIMEOUT => seconds = be32(value)?,
            CTA_MARK => mark = be32(value)?,
            CTA_PROTOINFO => state = decode_state(value)?,
            _ => {}
        }
    }
    let (Some(original), Some(reply)) = (original, reply) else { return Ok(None) };
    let (assured, offloaded) = (status & IPS_ASSURED != 0, status & IPS_OFFLOAD != 0);
    let timeout = Duration::from_secs(u64::from(seconds));
    Ok(Some(Flow { protocol, original, reply, mark, state, assured, offloaded, timeout }))
}

/// Protocol number and both ends.
fn decode_tuple(value: &[u8]) -> io::Result<(u8, Option<Tuple>)> {
    let (mut protocol, mut ports) = (0, [0; 2]);
    let mut ends: [Option<IpAddr>; 2] = [None; 2];
    for (kind, value) in Attributes::nested(value)? {
        for (inner, value) in Attributes::nested(value)? {
            match (kind, inner) {
                (CTA_TUPLE_IP, 1 | 2) => {
                    let octets: [u8; 4] = value.try_into().map_err(|_| truncated())?;
                    ends[usize::from(inner) - 1] = Some(IpAddr::V4(Ipv4Addr::from(octets)));
                }
                (CTA_TUPLE_IP, 3 | 4) => {
                    let octets: [u8; 16] = value.try_into().map_err(|_| truncated())?;
                    ends[usize::from(inner) - 3] = Some(IpAddr::V6(Ipv6Addr::from(octets)));
                }
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = *value.first().ok_or_else(truncated)?,
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => ports[0] = be16(value)?,
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => ports[1] = be16(value)?,
                _ => {}
            }
        }
    }
    let tuple = ends[0].zip(ends[1]).map(|(source, destination)| Tuple {
        source: SocketAddr::new(source, ports[0]),
        destination: SocketAddr::new(destination, ports[1]),
    });
    Ok((protocol, tuple))
}

/// `CTA_PROTOINFO_TCP`; the state is attribute 1 of the nest, as in the next.
const PROTOINFO_TCP: u16 = 1;
/// `CTA_PROTOINFO_SCTP`.
const PROTOINFO_SCTP: u16 = 3;

/// The state of a flow: which protocol's, and its number.
fn state(value: &[u8]) -> io::Result<Option<(u16, u8)>> {
    for (kind, value) in Attributes::nested(value)? {
        if !matches!(kind, PROTOINFO_TCP | PROTOINFO_SCTP) {
            continue;
        }
        for (inner, value) in Attributes::nested(value)? {
            if let (1, [state, ..]) = (inner, value) {
                return Ok(Some((kind, *state)));
            }
        }
    }
    Ok(None)
}

/// `TCP_CONNTRACK_TIME_WAIT`, `TCP_CONNTRACK_CLOSE` (nf_conntrack_tcp.h), `SCTP_CONNTRACK_CLOSED` (nf_conntrack_sctp.h).
fn has_ended(value: &[u8]) -> io::Result<bool> {
    Ok(matches!(state(value)?, Some((PROTOINFO_TCP, 7 | 8) | (PROTOINFO_SCTP, 1))))
}

fn decode_state(value: &[u8]) -> io::Result<Option<String>> {
    const TCP: [&str; 10] = [
        "none",
        "syn-sent",
        "syn-recv",
        "established",
        "fin-wait",
        "close-wait",
        "last-ack",
        "time-wait",
        "close",
        "syn-sent2",
    ];
    const SCTP: [&str; 9] = [
        "none",
        "closed",
        "cookie-wait",
        "cookie-echoed",
        "established",
        "shutdown-sent",
        "shutdown-recd",
        "shutdown-ack-sent",
        "heartbeat-sent",
    ];
    let Some((protocol, state)) = state(value)? else { return Ok(None) };
    let names: &[&str] = match protocol {
        PROTOINFO_TCP => &TCP,
        _ => &SCTP,
    };
    Ok(names.get(usize::from(state)).map(|name| (*name).to_owned()))
}

#[cfg(test)]
mod tests;
