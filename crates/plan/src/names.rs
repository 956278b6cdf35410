//! Every name, mark, priority and number that we put into the kernel, in one table.

use std::net::IpAddr;
use std::sync::Arc;

use headgate_config::model::BackendState;
use headgate_config::types::{BackendName, FarmName};
use headgate_nft::{BaseChain, ChainKind, Hook};

/// Protocol number of the addresses that we add (`IFA_PROTO`, Linux 5.18): how we know them again.
pub const ADDRESS_PROTOCOL: u8 = 0x48;
/// Protocol number of the routes that we add (`RTPROT_*`).
pub const ROUTE_PROTOCOL: u8 = 0x48;

/// Our table: services, slots, backends.
pub const TABLE: &str = "headgate";
/// The permanent table whose ct rule keeps connection tracking hooked while [`TABLE`] is replaced: without any ct
/// expression left, the kernel unregisters its hooks and live translated connections are reset.
pub const GUARD_TABLE: &str = "headgate-guard";
/// The only chain of [`GUARD_TABLE`]. It has no hook, so that no packet pays for it.
pub const GUARD_CHAIN: &str = "hold";

/// The ct mark of a flow of ours is this tag with the backend's id in the low 20 bits. Flows of others, whose marks we
/// never read as ids, do not carry the tag.
pub const MARK_TAG: u32 = 0x4800_0000;
/// Bits of the ct mark that hold the tag. The four between it and the id are left for flags.
pub const MARK_TAG_MASK: u32 = 0xff00_0000;
/// Bits of the ct mark that hold the backend's id.
pub const MARK_ID_MASK: u32 = 0x000f_ffff;

/// Map from a slot to the ct mark of the backend that serves it: the schedule of all farms.
pub const SLOTS: &str = "slots";
/// The chain that finds the farm of a new flow.
pub const DISPATCH: &str = "dispatch";
/// The chain that every flow of a farm comes to: slot → ct mark → destination. One for all farms, since the kernel walks
/// all bindings and elements of a map whenever a chain that looks it up is bound: a lookup per farm is quadratic to load.
pub const ASSIGN: &str = "assign";
/// First bit of the slots of IPv6 within the 16 bits that a farm has.
pub const SLOT_V6: u32 = 0x8000;
/// Most slots of one farm in one family: they share 16 bits with [`SLOT_V6`].
pub const SLOTS_MAX: usize = 0x8000;

/// Destination translation of what comes in.
pub const PREROUTING: &str = "prerouting";
/// Destination translation of what the box itself sends to a virtual address.
pub const OUTPUT: &str = "output";
/// Source translation; there only while a farm needs it: it is one more chain for every new flow of the machine.
pub const POSTROUTING: &str = "postrouting";

/// The hook of a base chain of [`TABLE`]; `None` for any other name. The priorities are `dstnat` and `srcnat`, which are
/// the only ones at which the kernel takes what is already translated for untranslated
/// (`include/uapi/linux/netfilter_ipv4.h`).
pub fn base_chain(name: &str) -> Option<BaseChain> {
    let (hook, priority) = match name {
        PREROUTING => (Hook::Prerouting, -100),
        OUTPUT => (Hook::Output, -100),
        POSTROUTING => (Hook::Postrouting, 100),
        _ => return None,
    };
    Some(BaseChain { kind: ChainKind::Nat, hook, priority, device: None })
}

/// The two families of addresses; each has maps of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Both, in the order in which they appear in chains.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The names of its maps.
    pub fn maps(self) -> &'static Maps {
        match self {
            Self::V4 => &MAPS_V4,
            Self::V6 => &MAPS_V6,
        }
    }
}

/// The maps of one family.
#[derive(Debug)]
pub struct Maps {
    /// Address, protocol, port → farm: listeners with one port.
    pub services: &'static str,
    /// Address, protocol, range of ports → farm. The address first: a pipapo set with the protocol first was 23 times slower.
    pub ranges: &'static str,
    /// Address, protocol → farm: `*`.
    pub wildcards: &'static str,
    /// Address → farm: `*/any`.
    pub protocols: &'static str,
    /// ct mark → address and port of the backend.
    pub targets: &'static str,
    /// ct mark → address of a backend that keeps the client's port.
    pub hosts: &'static str,
    /// ct mark → source address, for backends of `snat` farms.
    pub sources: &'static str,
    /// What the chains of farms begin with.
    farm: &'static str,
}

const MAPS_V4: Maps = Maps {
    services: "services4",
    ranges: "ranges4",
    wildcards: "wildcards4",
    protocols: "protocols4",
    targets: "targets4",
    hosts: "hosts4",
    sources: "sources4",
    farm: "farm4-",
};

const MAPS_V6: Maps = Maps {
    services: "services6",
    ranges: "ranges6",
    wildcards: "wildcards6",
    protocols: "protocols6",
    targets: "targets6",
    hosts: "hosts6",
    sources: "sources6",
    farm: "farm6-",
};

/// The chain of a farm in one family: `farm4-web`. A suffix instead of the digit could be part of another farm's name.
pub fn farm_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    let prefix = version.maps().farm;
    let mut name = String::with_capacity(prefix.len() + farm.as_str().len());
    name.push_str(prefix);
    name.push_str(farm.as_str());
    name.into()
}

/// The farm whose chain this is; `None` for other chains.
pub fn farm_of_chain(chain: &str) -> Option<(IpVersion, FarmName)> {
    IpVersion::ALL.into_iter().find_map(|version| {
        let name = chain.strip_prefix(version.maps().farm)?;
        Some((version, FarmName::new(name).ok()?))
    })
}

/// What the comment on the element of a backend that is down begins with. One byte: with two names of 63 bytes and the
/// slash it fits the 128 bytes that nft(8) takes.
const DOWN: char = '!';

/// The comment on a backend's element, by which its id is known again after a restart: `FARM/BACKEND`, and
/// `!FARM/BACKEND` of one that is down: going down is then a change of the ruleset, which is seen also when nobody
/// remembers the state before ([`crate::flows`]). Neither name can contain a slash or an exclamation mark.
pub fn backend_comment(farm: &FarmName, backend: &BackendName, state: BackendState) -> Arc<str> {
    let (farm, backend) = (farm.as_str(), backend.as_str());
    let mut comment = String::with_capacity(2 + farm.len() + backend.len());
    if state == BackendState::Down {
        comment.push(DOWN);
    }
    comment.push_str(farm);
    comment.push('/');
    comment.push_str(backend);
    comment.into()
}

/// What [`backend_comment`] wrote; `None` for anything else.
pub fn backend_of_comment(comment: &str) -> Option<(FarmName, BackendName)> {
    let (farm, backend) = comment_of_up(comment).split_once('/')?;
    Some((FarmName::new(farm).ok()?, BackendName::new(backend).ok()?))
}

/// Whether [`backend_comment`] wrote this for a backend that is down.
pub fn is_down_comment(comment: &str) -> bool {
    comment.starts_with(DOWN)
}

/// The comment without the word on the state.
pub fn comment_of_up(comment: &str) -> &str {
    comment.strip_prefix(DOWN).unwrap_or(comment)
}

/// The slot of a farm's schedule: what `numgen` yields and the key of [`SLOTS`].
pub fn slot(farm: u16, version: IpVersion, index: u32) -> u32 {
    let base = match version {
        IpVersion::V4 => 0,
        IpVersion::V6 => SLOT_V6,
    };
    u32::from(farm) << 16 | base | index
}
