//! Connection tracking: how many flows each backend has, which, and how to end them.
//!
//! Only requests and dumps (nfnetlink subsystem 1). Nothing here listens to events: a permanent listener costs the
//! packet path 6,000 instructions a new flow. The kernel selects by ct mark, so that flows of others are neither sent to us nor
//! touched. A dump walks the whole table whatever it selects (10 ms for 262,144 buckets), and each flow that is selected costs
//! 1.1 µs of CPU and no memory when it is only counted (`examples/flows.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use headgate_plan::names::{MARK_ID_MASK, MARK_TAG};
use serde::{Deserialize, Serialize};

use crate::netlink::Netlink;

/// `NETLINK_NETFILTER`.
const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_CTNETLINK << 8`, with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`
/// (include/uapi/linux/netfilter/nfnetlink_conntrack.h, as all numbers below).
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
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
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
const IPS_ASSURED: u32 = 1 << 2;
const IPS_OFFLOAD: u32 = 1 << 14;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// The bits of a ct mark that tell our flows from others': the tag and none of its flags (bits 20 to 23).
const TAG_MASK: u32 = 0xff00_0000;

/// A request about connection tracking failed.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// There is no such socket, or the kernel has no nf_conntrack_netlink.
    #[error("connection tracking cannot be reached over netlink (is nf_conntrack_netlink there?)")]
    Unavailable(#[source] io::Error),
    /// CAP_NET_ADMIN is missing.
    #[error("connection tracking needs CAP_NET_ADMIN")]
    Permission(#[source] io::Error),
    /// Anything else.
    #[error("cannot {verb} connection tracking entries")]
    Request {
        /// `list`, `count`, `delete`.
        verb: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ConntrackError {
    fn request(verb: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            Some(nix::libc::EPERM) => Self::Permission(source),
            // nfnetlink answers EINVAL to a subsystem that nobody registered (nfnetlink_rcv_msg).
            Some(nix::libc::EINVAL | nix::libc::EOPNOTSUPP) => Self::Unavailable(source),
            _ => Self::Request { verb, source },
        }
    }
}

/// A socket for requests about flows.
#[derive(Debug)]
pub struct Conntrack {
    netlink: Netlink,
}

/// Which flows are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// Of every backend of ours.
    Ours,
    /// Of the backend whose ct mark this is ([`MARK_TAG`] and its id).
    Mark(u32),
    /// Of ours, those whose marks have these bits under this mask; [`Select::covering`] makes it.
    Bits {
        /// What the bits of the mask are.
        value: u32,
        /// Which bits are compared.
        mask: u32,
    },
}

impl Select {
    /// The narrowest selection that the kernel can compare and that misses none of these backends' flows: ids are given
    /// out in a row, so the backends of one farm share most of their bits, and flows of other farms are mostly not
    /// copied. `None` without marks.
    pub fn covering(marks: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut marks = marks.into_iter();
        let first = marks.next()?;
        let same = marks.fold(u32::MAX, |same, mark| same & !(mark ^ first));
        let mask = same & MARK_ID_MASK | TAG_MASK;
        Some(Self::Bits { value: first & mask, mask })
    }

    /// Value and mask, as `CTA_MARK` and `CTA_MARK_MASK` want them.
    fn mark_and_mask(self) -> (u32, u32) {
        match self {
            Select::Ours => (MARK_TAG, TAG_MASK),
            Select::Mark(mark) => (mark, TAG_MASK | MARK_ID_MASK),
            Select::Bits { value, mask } => (value, mask),
        }
    }
}

/// How many flows a backend has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Those that may still carry data: all but the ended.
    pub active: u64,
    /// TCP and SCTP that both sides have closed, or one has reset. The backend has forgotten them; the kernel keeps them for a
    /// while, so that late packets do not begin new flows.
    pub ended: u64,
}

/// The loads of backends, by ct mark without flags ([`MARK_TAG`] and the id). Who has no flow is not in it.
pub type Loads = BTreeMap<u32, Load>;

/// Some flows, and how many there are in all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Flows {
    /// At most as many as were asked for.
    pub flows: Vec<Flow>,
    /// How many the kernel had.
    pub total: u64,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Flow {
    /// IP protocol number: 6 is TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// As the client sent it.
    pub original: Tuple,
    /// As the answer arrives: its source is the backend.
    pub reply: Tuple,
    /// ct mark.
    pub mark: u32,
    /// `established` and so on; TCP and SCTP only.
    pub state: Option<String>,
    /// Both directions were seen, and the entry is not dropped early when the table is full.
    pub assured: bool,
    /// It goes by a flowtable, past the hooks.
    pub offloaded: bool,
    /// What is left until the entry expires.
    pub timeout: Duration,
}

/// One direction of a flow. The port is 0 where the protocol has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tuple {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
}

impl Conntrack {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`ConntrackError::Unavailable`].
    pub fn open() -> Result<Self, ConntrackError> {
        let netlink = Netlink::open(NETLINK_NETFILTER).map_err(ConntrackError::Unavailable)?;
        Ok(Self { netlink })
    }

    /// How many of the selected flows each backend has. Nothing is kept of a flow but its place in the count.
    ///
    /// # Errors
    /// Any [`ConntrackError`].
    pub fn loads(&mut self, select: Select) -> Result<Loads, ConntrackError> {
        let request = request(GET, select, None);
        let counted = self.netlink.dump_raw(&request, Loads::new, |loads, message| {
            let (mut mark, mut ended) = (0, false);
            for (kind, value) in Attributes::of(message.body())? {
                match kind {
                    CTA_MARK => mark = be32(value)? & (TAG_MASK | MARK_ID_MASK),
                    CTA_PROTOINFO => ended = has_ended(value)?,
                    _ => {}
                }
            }
            let load = loads.entry(mark).or_default();
            match ended {
                true => load.ended += 1,
                false => load.active += 1,
            }
            Ok(())
        });
        counted.map_err(ConntrackError::request("count"))
    }

    /// The flows that are selected, at most `limit` of them.
    ///
    /// # Errors
    /// Any [`ConntrackError`].
    pub fn flows(&mut self, select: Select, limit: usize) -> Result<Flows, ConntrackError> {
        let request = request(GET, select, None);
        let listed = self.netlink.dump_raw(&request, Flows::default, |found, message| {
            found.total += 1;
            if found.flows.len() < limit {
                found.flows.extend(decode(Attributes::of(message.body())?)?);
            }
            Ok(())
        });
        listed.map_err(ConntrackError::request("list"))
    }

    /// Ends flows: those of one IP protocol, or all. That none is left is no error.
    ///
    /// # Errors
    /// Any [`ConntrackError`].
    pub fn delete(&mut self, select: Select, protocol: Option<u8>) -> Result<(), ConntrackError> {
        let requests = match protocol {
            None => vec![request(DELETE, select, None)],
            // A filter on the tuple is one on the family too (ctnetlink_parse_tuple_filter).
            Some(protocol) => {
                [AF_INET, AF_INET6].map(|family| request(DELETE, select, Some((family, protocol)))).to_vec()
            }
        };
        for request in requests {
            self.delete_by(&request)?;
        }
        Ok(())
    }

    /// Ends the flows with these ct marks that are not TCP, and of those in `cut` the TCP flows too; says how many there were.
    /// Their next packet finds a backend like a new flow's.
    ///
    /// One walk through the table however many marks: [`Self::delete`] walks it twice for each mark and protocol, and
    /// cannot say "not TCP".
    ///
    /// # Errors
    /// Any [`ConntrackError`].
    pub fn delete_lost(&mut self, marks: &BTreeSet<u32>, cut: &BTreeSet<u32>) -> Result<usize, ConntrackError> {
        let Some(select) = Select::covering(marks.union(cut).copied()) else { return Ok(0) };
        let found = self.netlink.dump_raw(&request(GET, select, None), Vec::new, |found, message| {
            found.extend(deletion(message.body(), marks, cut)?);
            Ok(())
        });
        let found = found.map_err(ConntrackError::request("list"))?;
        for request in &found {
            self.delete_by(request)?;
        }
        Ok(found.len())
    }

    fn delete_by(&mut self, request: &[u8]) -> Result<(), ConntrackError> {
        match self.netlink.request_raw(request) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(()),
            other => other.map_err(ConntrackError::request("delete")),
        }
    }
}

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

/// The deletion of the entry that `body`, an answer to a dump, describes, when its mark is in `cut` if it is TCP, and in
/// `marks` if not. Its tuple goes back as it came, so that this holds for every protocol.
pub(crate) fn deletion(body: &[u8], marks: &BTreeSet<u32>, cut: &BTreeSet<u32>) -> io::Result<Option<Vec<u8>>> {
    let mut message = begin(DELETE);
    let (mut mark, mut is_tcp, mut has_tuple) = (0, false, false);
    for (kind, value) in Attributes::of(body)? {
        match kind {
            CTA_MARK => mark = be32(value)? & (TAG_MASK | MARK_ID_MASK),
            CTA_TUPLE_ORIG => {
                (is_tcp, has_tuple) = (decode_tuple(value)?.0 == TCP, true);
                put(&mut message, CTA_TUPLE_ORIG | NLA_F_NESTED, value);
            }
            // The id is of this very entry: one that took its place meanwhile stays.
            CTA_ZONE | CTA_ID => put(&mut message, kind, value),
            _ => {}
        }
    }
    message[16] = *body.first().ok_or_else(truncated)?;
    Ok((has_tuple && if is_tcp { cut } else { marks }.contains(&mark)).then(|| finish(message)))
}

/// A message with a ct mark to compare, and a family and protocol when they are given.
fn request(kind: u16, select: Select, protocol: Option<(u8, u8)>) -> Vec<u8> {
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
