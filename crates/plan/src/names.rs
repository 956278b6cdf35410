//! Every name, mark, priority and number that we put into the kernel, in one table.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use headgate_config::types::{BackendName, FarmName, PolicyName};
use headgate_nft::{BaseChain, ChainKind, Hook};

/// Protocol number of the addresses that we add (`IFA_PROTO`, Linux 5.18): how we know them again.
pub const ADDRESS_PROTOCOL: u8 = 0x48;
/// Protocol number of the routes that we add (`RTPROT_*`).
pub const ROUTE_PROTOCOL: u8 = 0x48;
/// Protocol number of the routing rules that we add (`FRA_PROTOCOL`): of the same kind as that of routes.
pub const RULE_PROTOCOL: u8 = ROUTE_PROTOCOL;
/// Protocol number of the neighbours that we add (`NDA_PROTOCOL`, Linux 5.0): of the same kind as that of routes.
pub const NEIGHBOUR_PROTOCOL: u8 = ROUTE_PROTOCOL;

/// Our table: services, slots, backends.
pub const TABLE: &str = "headgate";
/// The table of `dsr` farms whose packets go through tunnels.
pub const TUNNELS_TABLE: &str = "headgate-tunnels";
/// The permanent table whose ct rule keeps connection tracking hooked while [`TABLE`] is replaced: without any ct
/// expression left, the kernel unregisters its hooks and live translated connections are reset.
pub const GUARD_TABLE: &str = "headgate-guard";
/// The chain of [`GUARD_TABLE`] that has the ct rule. It has no hook, so that no packet pays for it.
pub const GUARD_CHAIN: &str = "hold";
/// The empty nat chain of [`GUARD_TABLE`], there while some farm translates: without any nat chain left, the kernel stops to
/// translate live connections too, and the box answers their packets with RST.
pub const GUARD_NAT: &str = "hold-nat";

/// The table that filters what is meant for the box itself.
pub const PROTECT_TABLE: &str = "headgate-protect";
/// Its hook, behind every other chain on input.
pub const PROTECT_INPUT: &str = "protect";
/// Its map: interface → the chain that says what the interface lets in.
pub const PROTECT_INTERFACES: &str = "interfaces";

/// The chain of what of ICMP or ICMPv6 passes everywhere.
pub fn control_chain(version: IpVersion) -> Arc<str> {
    versioned("control", version).into()
}

/// The chain of what an interface lets in: `allow-service`.
pub fn allow_chain(role: &str) -> Arc<str> {
    format!("allow-{role}").into()
}

/// The ct mark of a flow of ours is this tag with the backend's id in the low 20 bits. Flows of others, whose marks we
/// never read as ids, do not carry the tag.
pub const MARK_TAG: u32 = 0x4800_0000;
/// Bits of the ct mark that hold the tag. The four between it and the id are left for flags.
pub const MARK_TAG_MASK: u32 = 0xff00_0000;
/// Bits of the ct mark that hold the backend's id.
pub const MARK_ID_MASK: u32 = 0x000f_ffff;

/// The group of `nfnetlink_log` that our rules log to: nobody's by convention, 0 is everybody's.
pub const LOG_GROUP: u16 = 0x4847;
/// So many times a second a rule that logs does so, and so often at once.
pub const LOG_RATE: u64 = 10;
/// See [`LOG_RATE`].
pub const LOG_BURST: u32 = 20;

/// The chain that finds the farm of a new flow.
pub const DISPATCH: &str = "dispatch";
/// First bit of the slots of IPv6 within the 16 bits that a farm has.
pub const SLOT_V6: u32 = 0x8000;
/// Most slots of one farm in one family: they share 16 bits with [`SLOT_V6`].
pub const SLOTS_MAX: usize = 0x8000;

/// Most flows of all `dsr` farms that are remembered, in each family and map. The memory is taken as flows come: 96 bytes each
/// for IPv4 and 128 for IPv6 (Linux 6.18), and 8 to 16 of the hash table. A flow that finds no room goes by a hash.
pub const BINDINGS_MAX: u32 = 1 << 20;
/// How long a packet of a flow starts its time again for those that follow. Flows stay so much longer than promised, since
/// the last packet may have come at the end of it.
pub const BINDING_RECENT: Duration = Duration::from_secs(60);
/// A `dsr` flow that has only begun: a SYN, one datagram.
pub const BINDING_BEGUN: Duration = Duration::from_secs(30);
/// A `dsr` flow of TCP, since its last packet at least.
pub const BINDING_ESTABLISHED: Duration = Duration::from_secs(3600);
/// A `dsr` flow of TCP behind its FIN or RST, since its last packet: the client may go on reading for long.
pub const BINDING_ENDED: Duration = Duration::from_secs(60);
/// A `dsr` flow of anything else, since its last packet at least.
pub const BINDING_IDLE: Duration = Duration::from_secs(120);

/// What comes in by an interface, before the network layer.
pub const INGRESS: &str = "ingress";
/// What opens a connection to a farm with a SYN proxy, before connection tracking sees it.
pub const SYN: &str = "syn";
/// The chain that keeps connection tracking from what comes to it.
pub const UNTRACK: &str = "untrack";
/// What comes in by our tunnel devices, which nobody is to send to.
pub const TUNNEL_INGRESS: &str = "tunnel-ingress";
/// What comes in, before connection tracking sees it.
pub const RAW: &str = "raw";
/// The chain that finds the farm of a packet at [`RAW`].
pub const RAW_DISPATCH: &str = "raw-dispatch";
/// Answers of `stateless` farms on their way out.
pub const RAW_POSTROUTING: &str = "raw-postrouting";
/// The chain that takes a token for a backend with `max-connections`, or asks the next one.
pub const ADMIT: &str = "admit";
/// What comes in, packet by packet, behind connection tracking.
pub const INSPECT: &str = "inspect";
/// Resets, before connection tracking sees them.
pub const RESETS: &str = "resets";
/// New flows that go to a program first. A chain of its own before the translation: what the program lets pass goes on at the next
/// hook.
pub const QUEUE: &str = "queue-prerouting";
/// The same for what the box itself sends.
pub const QUEUE_OUTPUT: &str = "queue-output";
/// What is for the box itself.
pub const INPUT: &str = "input";
/// What goes through the box: established flows of farms that offload leave from here for [`FLOWTABLE`].
pub const FORWARD: &str = "forward";
/// Flows that take the short way, from ingress of one device to the other.
pub const FLOWTABLE: &str = "fast";
/// Destination translation of what comes in.
pub const PREROUTING: &str = "prerouting";
/// Destination translation of what the box itself sends to a virtual address.
pub const OUTPUT: &str = "output";
/// Source translation; there only while a farm needs it: it is one more chain for every new flow of the machine.
pub const POSTROUTING: &str = "postrouting";

/// Marks packets that come in, for policy routing; there only while a farm wants it.
pub const MARK_PREROUTING: &str = "mark-prerouting";
/// Marks what the box itself sends.
pub const MARK_OUTPUT: &str = "mark-output";

/// The hook of a base chain of [`TABLE`]; `None` for any other name. The priorities are nft(8)'s `raw`, `mangle`, `filter`,
/// `dstnat` and `srcnat` (`include/uapi/linux/netfilter_ipv4.h`); a nat chain must have one of the last two, or the kernel
/// takes what is already translated for untranslated.
pub fn base_chain(name: &str) -> Option<BaseChain> {
    let (kind, hook, priority) = match name {
        INGRESS | TUNNEL_INGRESS => (ChainKind::Filter, Hook::Ingress, 0),
        SYN | RESETS | RAW => (ChainKind::Filter, Hook::Prerouting, -300),
        INSPECT => (ChainKind::Filter, Hook::Prerouting, -150),
        // Behind everything that drops, before the translation.
        QUEUE => (ChainKind::Filter, Hook::Prerouting, -110),
        QUEUE_OUTPUT => (ChainKind::Filter, Hook::Output, -110),
        PREROUTING => (ChainKind::Nat, Hook::Prerouting, -100),
        INPUT => (ChainKind::Filter, Hook::Input, 0),
        PROTECT_INPUT => (ChainKind::Filter, Hook::Input, 100),
        FORWARD => (ChainKind::Filter, Hook::Forward, 0),
        OUTPUT | GUARD_NAT => (ChainKind::Nat, Hook::Output, -100),
        RAW_POSTROUTING => (ChainKind::Filter, Hook::Postrouting, -300),
        MARK_PREROUTING => (ChainKind::Filter, Hook::Prerouting, -150),
        // Before the translation, which asks for the route again.
        MARK_OUTPUT => (ChainKind::Filter, Hook::Output, -150),
        POSTROUTING => (ChainKind::Nat, Hook::Postrouting, 100),
        _ => return None,
    };
    Some(BaseChain { kind, hook, priority, devices: Default::default() })
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
}

/// What the chain of a farm begins with.
fn farm_prefix(version: IpVersion) -> &'static str {
    match version {
        IpVersion::V4 => "farm4-",
        IpVersion::V6 => "farm6-",
    }
}

/// The chain of a farm in one family: `farm4-web`. A suffix instead of the digit could be part of another farm's name.
pub fn farm_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    format!("{}{farm}", farm_prefix(version)).into()
}

/// The chain that sends packets of `stateless` farms to their backends.
pub fn rewrite_chain(version: IpVersion) -> Arc<str> {
    versioned("rewrite", version).into()
}

/// The chain that gives the answers of `stateless` farms their virtual address back.
pub fn answer_chain(version: IpVersion) -> Arc<str> {
    versioned("answer", version).into()
}

fn versioned(stem: &str, version: IpVersion) -> String {
    match version {
        IpVersion::V4 => format!("{stem}4"),
        IpVersion::V6 => format!("{stem}6"),
    }
}

/// Where all packets of a `dsr` farm begin: `flow4-web`. It does not change with the farm's backends.
pub fn flow_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    format!("{}-{farm}", versioned("flow", version)).into()
}

/// What picks a slot of a `dsr` farm for a packet that must find the same one again: `hash4-web`.
pub fn hash_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    format!("{}-{farm}", versioned("hash", version)).into()
}

/// A chain that the flows of all `dsr` farms come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Looks the flow up.
    Known,
    /// Sends on what needs no thought.
    Fast,
    /// Keeps a flow that is known.
    Refresh,
    /// Remembers a flow that begins.
    Bind,
    /// Counts and sends its first packet.
    Begin,
    /// Turns a slot into a backend's mark.
    Settle,
    /// Sends the packet to the backend whose mark it has.
    Send,
}

impl Passage {
    /// The name of the chain.
    pub fn chain(self, version: IpVersion) -> Arc<str> {
        let stem = match self {
            Self::Known => "known",
            Self::Fast => "fast",
            Self::Refresh => "refresh",
            Self::Bind => "bind",
            Self::Begin => "begin",
            Self::Settle => "settle",
            Self::Send => "send",
        };
        versioned(stem, version).into()
    }
}

/// What a farm does when the backend of a flow is known: `chosen4-web`.
pub fn chosen_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    own("chosen", version, farm)
}

/// The chain that gives a flow one of several source addresses: `pool4-web`.
pub fn pool_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    own("pool", version, farm)
}

/// The map of a farm's source addresses: number → address. Chains and sets have names of their own kind.
pub fn pool_map(version: IpVersion, farm: &FarmName) -> Arc<str> {
    own("pool", version, farm)
}

/// The map of a farm's clients and their backends: `sticky4-web`.
pub fn sticky_set(version: IpVersion, farm: &FarmName) -> Arc<str> {
    own("sticky", version, farm)
}

/// The map of a farm's fixed assignments: `static4-web`.
pub fn static_set(version: IpVersion, farm: &FarmName) -> Arc<str> {
    own("static", version, farm)
}

/// The set of a farm's backends that clients may be kept at: `kept4-web`.
pub fn kept_set(version: IpVersion, farm: &FarmName) -> Arc<str> {
    own("kept", version, farm)
}

fn own(what: &str, version: IpVersion, farm: &FarmName) -> Arc<str> {
    format!("{what}{}-{farm}", digit(version)).into()
}

/// The farm whose chain this is; `None` for other chains.
pub fn farm_of_chain(chain: &str) -> Option<(IpVersion, FarmName)> {
    IpVersion::ALL.into_iter().find_map(|version| {
        let name = chain.strip_prefix(farm_prefix(version))?;
        Some((version, FarmName::new(name).ok()?))
    })
}

/// A chain that is one farm's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner<'a> {
    /// What it is for.
    pub part: Part,
    /// Whose it is.
    pub farm: FarmName,
    /// What [`refuse_chain`] was given.
    pub reason: Option<&'a str>,
}

/// What a chain of a farm is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Part {
    Guard,
    /// Where every packet is looked at.
    Inspect,
    /// Where new flows go to a program.
    Queue,
    /// Where a new flow of one backend is told.
    New,
    /// Where handshakes are answered in the place of the backends.
    Proxy,
    Policies,
    Total,
    Refuse,
    /// Where the backend is chosen.
    Farm,
    Chosen,
    Pool,
    Flow,
    Hash,
}

/// Whose chain this is, and for what; `None` for chains that farms share.
pub fn owner_of_chain(chain: &str) -> Option<Owner<'_>> {
    const PARTS: [(&str, Part); 14] = [
        ("inspect", Part::Inspect),
        ("resets", Part::Inspect),
        ("queue", Part::Queue),
        ("new", Part::New),
        ("guard", Part::Guard),
        ("proxy", Part::Proxy),
        ("policies", Part::Policies),
        ("total", Part::Total),
        ("refuse", Part::Refuse),
        ("farm", Part::Farm),
        ("chosen", Part::Chosen),
        ("pool", Part::Pool),
        ("flow", Part::Flow),
        ("hash", Part::Hash),
    ];
    let (stem, rest) = chain.split_once('-')?;
    let stem = stem.strip_suffix(['4', '6']).unwrap_or(stem);
    let (_, part) = PARTS.into_iter().find(|(word, _)| *word == stem)?;
    let (farm, reason) = rest.split_once('/').map_or((rest, None), |(farm, reason)| (farm, Some(reason)));
    Some(Owner { part, farm: FarmName::new(farm).ok()?, reason })
}

/// The digit by which names of the two families differ.
pub(crate) fn digit(version: IpVersion) -> char {
    match version {
        IpVersion::V4 => '4',
        IpVersion::V6 => '6',
    }
}

/// The chain of a farm that new flows pass before the one that schedules them.
pub fn guard_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    format!("guard{}-{farm}", digit(version)).into()
}

/// The chain that answers handshakes in the place of a farm's backends: `proxy4-web`.
pub fn proxy_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    own("proxy", version, farm)
}

/// The chain in which both families of a farm share one limit.
pub fn total_chain(farm: &FarmName) -> Arc<str> {
    format!("total-{farm}").into()
}

/// The chain that refuses a packet of a farm for a reason. The slash keeps a farm's name that ends in a reason from being
/// taken for another farm's chain.
pub fn refuse_chain(version: IpVersion, farm: &FarmName, reason: &str) -> Arc<str> {
    format!("refuse{}-{farm}/{reason}", digit(version)).into()
}

/// The chain that asks the policies of a farm one after the other.
pub fn policies_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    format!("policies{}-{farm}", digit(version)).into()
}

/// The set of the addresses of a policy, which all farms share; `digest` is of what is in it.
pub fn policy_set(version: IpVersion, policy: &PolicyName, digest: u64) -> Arc<str> {
    format!("policy{}-{policy}/{digest:016x}", digit(version)).into()
}

/// The chain that looks at every packet for a farm.
pub fn inspect_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    format!("inspect{}-{farm}", digit(version)).into()
}

/// The chain that counts the resets of a farm's clients.
pub fn resets_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    own("resets", version, farm)
}

/// The chain that hands new flows of a farm to a program.
pub fn queue_chain(version: IpVersion, farm: &FarmName) -> Arc<str> {
    own("queue", version, farm)
}

/// The chain that tells of a new flow of one backend: `new-web/b1`.
pub fn new_chain(farm: &FarmName, backend: &BackendName) -> Arc<str> {
    format!("new-{farm}/{backend}").into()
}

/// The counter object of what a farm refuses for a reason: `web/new-connections`.
pub fn refused_counter(farm: &FarmName, reason: &str) -> Arc<str> {
    format!("{farm}/{reason}").into()
}

/// The set of the clients of a farm that are banned.
pub fn ban_set(version: IpVersion, farm: &FarmName) -> Arc<str> {
    format!("ban{}-{farm}", digit(version)).into()
}

/// The set that has a limit for each client of a farm. `limit` says which: elements keep the limit that they were made with
/// (`nft_dynset_eval` only looks at it), so another limit must be another set.
pub fn clients_set(version: IpVersion, farm: &FarmName, limit: &str) -> Arc<str> {
    format!("clients{}-{farm}/{limit}", digit(version)).into()
}

/// Most clients that a farm's own sets hold: the limits of one farm take at most some 16 MiB.
pub const CLIENTS_MAX: u32 = 65536;

/// The comment on a backend's element, by which its id is known again after a restart: `FARM/BACKEND`. Neither name can
/// contain a slash, and with two names of 63 bytes it fits the 128 bytes that nft(8) takes.
pub fn backend_comment(farm: &FarmName, backend: &BackendName) -> Arc<str> {
    format!("{farm}/{backend}").into()
}

/// What [`backend_comment`] wrote; `None` for anything else.
pub fn backend_of_comment(comment: &str) -> Option<(FarmName, BackendName)> {
    let (farm, backend) = comment.split_once('/')?;
    Some((FarmName::new(farm).ok()?, BackendName::new(backend).ok()?))
}

/// The slot of a farm's schedule: what `numgen` yields and the key of [`crate::maps::Map::Slots`].
pub fn slot(farm: u16, version: IpVersion, index: u32) -> u32 {
    let base = match version {
        IpVersion::V4 => 0,
        IpVersion::V6 => SLOT_V6,
    };
    u32::from(farm) << 16 | base | index
}
