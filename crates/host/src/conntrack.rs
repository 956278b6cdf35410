//! Connection tracking: how many flows each backend has, which, and how to end them.
//!
//! Only requests and dumps (nfnetlink subsystem 1). Nothing here listens to events: a permanent listener costs the
//! packet path 6,000 instructions a new flow. The kernel selects by ct mark, so that flows of others are neither sent to us nor
//! touched. A dump walks the whole table whatever it selects (10 ms for 262,144 buckets), and each flow that is selected costs
//! 1.1 µs of CPU and no memory when it is only counted (`examples/flows.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use headgate_plan::flows::Services;
use headgate_plan::names::{MARK_ID_MASK, MARK_TAG};
use serde::{Deserialize, Serialize};

use crate::netlink::Netlink;

pub(crate) mod messages;

use self::messages::{
    AF_INET, AF_INET6, Attributes, DELETE, GET, Stage, count_request, decode, deletion, entries, request, stage,
    statistics, statistics_request, translated,
};

/// `NETLINK_NETFILTER`.
const NETLINK_NETFILTER: isize = 12;
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
    /// Nobody's, as far as the tag goes: ours are not among them.
    Untagged,
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
            Select::Untagged => (0, TAG_MASK),
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
    /// Those of the active whose backend has not answered yet.
    pub unanswered: u64,
}

/// The loads of backends, by ct mark without flags ([`MARK_TAG`] and the id). Who has no flow is not in it.
pub type Loads = BTreeMap<u32, Load>;

/// Loads, and the source ports that the same flows need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// See [`Loads`].
    pub loads: Loads,
    /// Ended flows included: until the kernel forgets them nobody else gets their port.
    pub ports: HashMap<Ports, u64>,
}

/// The ports that one source address has towards one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Where the backend sees flows come from.
    pub source: IpAddr,
    /// Where they go.
    pub backend: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
}

/// What connection tracking has counted in this network namespace, all CPUs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// First packets of flows that were dropped.
    pub dropped: u64,
    /// Those of them whose tuple was taken.
    pub insert_failed: u64,
    /// Flows that made room for others in a full table.
    pub early_dropped: u64,
    /// Flows that a chain of the table had no place for.
    pub chain_too_long: u64,
}

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
        let counted =
            self.netlink.dump_raw(&request, Loads::new, |loads, message| count(loads, Attributes::of(message.body())?));
        counted.map_err(ConntrackError::request("count"))
    }

    /// The same with the source ports that these flows need: a tenth of a microsecond more for each.
    ///
    /// # Errors
    /// Any [`ConntrackError`].
    pub fn usage(&mut self, select: Select) -> Result<Usage, ConntrackError> {
        let request = request(GET, select, None);
        let counted = self.netlink.dump_raw(&request, Usage::default, |usage, message| {
            let attributes = Attributes::of(message.body())?;
            count(&mut usage.loads, attributes)?;
            if let Some((protocol, reply)) = translated(attributes)?
                && reply.destination.port() != 0
            {
                let ports = Ports { source: reply.destination.ip(), backend: reply.source, protocol };
                *usage.ports.entry(ports).or_default() += 1;
            }
            Ok(())
        });
        counted.map_err(ConntrackError::request("count"))
    }

    /// How many flows there are in this network namespace, whoever's; `None` when the kernel does not say.
    fn count(&mut self) -> Result<Option<u32>, ConntrackError> {
        let mut found = Ok(None);
        let asked = self.netlink.query(&count_request(), |message| {
            found = Attributes::of(message.body()).and_then(entries);
        });
        asked.and(found).map_err(ConntrackError::request("count"))
    }

    /// What was counted since the network namespace was made.
    ///
    /// # Errors
    /// Any [`ConntrackError`].
    pub fn statistics(&mut self) -> Result<Statistics, ConntrackError> {
        let read = self.netlink.dump_raw(&statistics_request(), Statistics::default, |sum, message| {
            let [insert_failed, dropped, early_dropped, chain_too_long] = statistics(Attributes::of(message.body())?)?;
            sum.insert_failed += insert_failed;
            sum.dropped += dropped;
            sum.early_dropped += early_dropped;
            sum.chain_too_long += chain_too_long;
            Ok(())
        });
        read.map_err(ConntrackError::request("count"))
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
        self.delete_those(select, |body| deletion(body, |entry| entry.is_lost(marks, cut)))
    }

    /// Ends the flows to these services that are not ours and whose addresses nobody has translated: they began before the
    /// farm listened there. What has been answered of TCP, SCTP and DCCP stays, for it ends by itself; says how many went.
    ///
    /// # Errors
    /// Any [`ConntrackError`].
    pub fn delete_early(&mut self, services: &Services) -> Result<usize, ConntrackError> {
        // Most boxes that get their farms have no flow yet, and a look at an empty table is 10 ms too.
        if self.count()? == Some(0) {
            return Ok(0);
        }
        self.delete_those(Select::Untagged, |body| deletion(body, |entry| entry.is_early(services)))
    }

    /// One walk through the table; `deletion` makes of an entry the request that ends it.
    fn delete_those(
        &mut self,
        select: Select,
        deletion: impl Fn(&[u8]) -> io::Result<Option<Vec<u8>>>,
    ) -> Result<usize, ConntrackError> {
        let found = self.netlink.dump_raw(&request(GET, select, None), Vec::new, |found, message| {
            found.extend(deletion(message.body())?);
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

fn count(loads: &mut Loads, attributes: Attributes<'_>) -> io::Result<()> {
    let Stage { mark, ended, answered } = stage(attributes)?;
    let load = loads.entry(mark).or_default();
    match ended {
        true => load.ended += 1,
        false => load.active += 1,
    }
    load.unanswered += u64::from(!ended && !answered);
    Ok(())
}

#[cfg(test)]
mod tests;
