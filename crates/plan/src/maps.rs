//! The sets and maps that all farms share: their names, keys and data, in one table.
//!
//! A farm adds elements to them. What only one farm needs (its remembered clients, its banned addresses) is a set of its own.

use std::sync::Arc;
use std::time::Duration;

use headgate_nft::{Datatype, Family, ObjectKind, SetData, TableId};

use crate::names::{self, IpVersion};

/// Our tables, the guard apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `inet headgate`: whatever has connection tracking or the network layer's hooks.
    Inet,
    /// `netdev headgate`: what is forwarded before both.
    Netdev,
    /// `netdev headgate-tunnels`: the same through tunnels. Apart, since nft(8) before 1.1.4 aborts when it lists a table
    /// with tunnel objects.
    Tunnels,
}

impl Place {
    /// All.
    pub const ALL: [Self; 3] = [Self::Inet, Self::Netdev, Self::Tunnels];
    /// Where packets are taken at ingress of interfaces.
    pub const INGRESS: [Self; 2] = [Self::Netdev, Self::Tunnels];

    /// What names the table.
    pub fn table(self) -> TableId {
        match self {
            Self::Inet => TableId::inet(names::TABLE),
            Self::Netdev => TableId { family: Family::Netdev, name: names::TABLE.into() },
            Self::Tunnels => TableId { family: Family::Netdev, name: names::TUNNELS_TABLE.into() },
        }
    }
}

/// All our tables. They are dumped by name, so that a ruleset of others costs nothing.
pub fn tables() -> [TableId; 5] {
    let [guard, protect] = [names::GUARD_TABLE, names::PROTECT_TABLE].map(TableId::inet);
    [Place::Inet.table(), Place::Netdev.table(), Place::Tunnels.table(), guard, protect]
}

/// A place on a packet's way where it is asked which farm it is for. Each has listeners' maps of its own, so that a packet
/// passes only the places that some farm needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// Behind the route of an incoming packet to the box itself: `local`, and what answers for a backend.
    Input,
    /// What opens a TCP connection, before connection tracking: farms with a SYN proxy.
    Syn,
    /// Every packet that comes in by an interface, before the network layer: `dsr`.
    Wire,
    /// The same for `dsr` through tunnels.
    Tunnel,
    /// Every incoming packet, before connection tracking: `stateless`.
    Raw,
    /// TCP resets, before connection tracking.
    Resets,
    /// New flows, before the nat hooks: farms that hand them to a program first.
    Queue,
    /// Every incoming packet, behind connection tracking: what has to be looked at packet by packet.
    Inspect,
    /// The nat hooks: the first packet of a flow.
    Nat,
}

impl Door {
    /// All, in the order in which a packet comes to them.
    pub const ALL: [Self; 9] = [
        Self::Wire,
        Self::Tunnel,
        Self::Syn,
        Self::Resets,
        Self::Raw,
        Self::Inspect,
        Self::Queue,
        Self::Nat,
        Self::Input,
    ];

    /// The table that it is in.
    pub fn place(self) -> Place {
        match self {
            Self::Wire => Place::Netdev,
            Self::Tunnel => Place::Tunnels,
            Self::Syn | Self::Resets | Self::Raw | Self::Inspect | Self::Queue | Self::Nat | Self::Input => Place::Inet,
        }
    }

    /// What the names of its maps begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Input => "input-",
            Self::Syn => "syn-",
            Self::Resets => "resets-",
            Self::Queue => "queue-",
            Self::Raw => "raw-",
            Self::Inspect => "inspect-",
            Self::Wire | Self::Tunnel | Self::Nat => "",
        }
    }
}

/// How much of an address a listener takes. Exact ports go before ranges, ranges before all ports, these before all protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Address, protocol, port.
    Port,
    /// Address, protocol, range of ports. The address first: a pipapo set with the protocol first was 23 times slower.
    Range,
    /// Address, protocol: `*`.
    AllPorts,
    /// Address: `*/any`.
    AllProtocols,
}

impl Reach {
    /// The narrower before the wider, as they are asked.
    pub const ALL: [Self; 4] = [Self::Port, Self::Range, Self::AllPorts, Self::AllProtocols];
}

/// A shared set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Map {
    /// What a farm listens on → the chain that the packet goes to.
    Listeners(Door, IpVersion, Reach),
    /// What a `local` farm listens on at all addresses of the box → the chain that the packet goes to.
    Anywhere(IpVersion, Reach),
    /// Slot → ct mark of the backend that serves it: the schedule of all farms.
    Slots(Place),
    /// Marks of backends that the operator or a health check took out. In [`Place::Inet`] no rule needs it to be there: going
    /// down is then a change of the ruleset, which is seen also when nobody remembers the state before ([`crate::flows`]).
    Down(Place),
    /// Marks of backends whose established connections end when they go down or are removed. In [`Place::Inet`] no rule
    /// needs it, as with [`Map::Down`].
    Cut(Place),
    /// ct mark → address and port of the backend.
    Targets(IpVersion),
    /// ct mark → address of a backend that keeps the client's port.
    Hosts(IpVersion),
    /// ct mark → source address, for backends of `snat` farms.
    Sources(IpVersion),
    /// Packet mark → address of the backend, for `stateless` farms.
    Rewrites(IpVersion),
    /// Packet mark → port of the backend, for `stateless` farms.
    RewritePorts,
    /// What a backend of a `stateless` farm sends from → number of the listener that it answers for.
    Answers(IpVersion, Reach),
    /// The same → mark of the backend. Only for who counts packets.
    Senders(IpVersion, Reach),
    /// Number of a listener → its address.
    Virtual(IpVersion),
    /// Number of a listener → its port.
    VirtualPorts,
    /// ct mark → the chain that chooses a source address, for backends of farms that have several.
    Pooled,
    /// Mark → the chain of what else a farm does with a new flow.
    Chosen(Place),
    /// Mark → the chain that tells of a new flow.
    Logged(Place),
    /// ct mark → mark of the packets.
    Marks,
    /// Mark → address of a `dsr` backend.
    Nexthops(Place, IpVersion),
    /// Mark → tunnel object of a `dsr` backend.
    Tunnels(IpVersion),
    /// Mark → index of the interface towards a `dsr` backend.
    Egress(Place),
    /// Client, virtual address, ports, protocol → mark: the flows of `dsr` farms. Filled by the packets themselves.
    Bindings(Place, IpVersion),
    /// Marks of `dsr` backends; counts their new flows.
    Begun(Place),
    /// The same as bindings for flows whose time was started again a moment ago, and is not again yet.
    Recent(Place, IpVersion),
    /// The same for flows whose end was seen.
    Closing(Place, IpVersion),
    /// ct marks whose established flows go by the flowtable.
    Offloaded,
    /// ct marks of backends that may be sent flows, each with as many tokens; the supervisor's, so never compared.
    Caps,
    /// ct marks of backends whose maximum holds; the supervisor's, with a time that it starts again.
    Capped,
    /// ct marks of backends with a maximum; counts the tokens that were taken.
    Admitted,
    /// ct mark → that of the backend to ask next.
    Overflow,
    /// ct marks of backends of farms that refuse in silence.
    Silent,
    /// Marks of backends whose packets and bytes are counted: the ct mark, or the packet's for farms without connection tracking.
    Traffic(Place),
}

impl Map {
    /// Those with an element for each backend, whose comment says whose it is.
    pub const BACKENDS: [Self; 11] = [
        Self::Targets(IpVersion::V4),
        Self::Targets(IpVersion::V6),
        Self::Hosts(IpVersion::V4),
        Self::Hosts(IpVersion::V6),
        Self::Rewrites(IpVersion::V4),
        Self::Rewrites(IpVersion::V6),
        Self::Nexthops(Place::Netdev, IpVersion::V4),
        Self::Nexthops(Place::Netdev, IpVersion::V6),
        Self::Tunnels(IpVersion::V4),
        Self::Tunnels(IpVersion::V6),
        // Those that no tunnel leads to.
        Self::Down(Place::Tunnels),
    ];

    /// Those that a table of ours has even while they are empty: what fills and empties them must not be more than elements.
    pub fn always(place: Place) -> &'static [Self] {
        match place {
            Place::Inet => &[Self::Slots(Place::Inet), Self::Down(Place::Inet)],
            Place::Netdev => &[Self::Slots(Place::Netdev), Self::Down(Place::Netdev)],
            Place::Tunnels => &[Self::Slots(Place::Tunnels), Self::Down(Place::Tunnels)],
        }
    }

    /// The table that it is in.
    pub fn place(self) -> Place {
        match self {
            Self::Listeners(door, ..) => door.place(),
            Self::Anywhere(..) => Door::Input.place(),
            Self::Slots(place) | Self::Down(place) | Self::Cut(place) => place,
            Self::Egress(place) | Self::Begun(place) | Self::Traffic(place) => place,
            Self::Chosen(place) | Self::Logged(place) => place,
            Self::Nexthops(place, _) | Self::Bindings(place, _) => place,
            Self::Recent(place, _) | Self::Closing(place, _) => place,
            Self::Tunnels(_) => Place::Tunnels,
            Self::Targets(_)
            | Self::Hosts(_)
            | Self::Sources(_)
            | Self::Pooled
            | Self::Marks
            | Self::Rewrites(_)
            | Self::RewritePorts
            | Self::Answers(..)
            | Self::Senders(..)
            | Self::Virtual(_)
            | Self::VirtualPorts
            | Self::Offloaded
            | Self::Caps
            | Self::Capped
            | Self::Admitted
            | Self::Overflow
            | Self::Silent => Place::Inet,
        }
    }

    /// Its name in the kernel.
    pub fn name(self) -> Arc<str> {
        let digit = names::digit;
        let listeners = |reach| match reach {
            Reach::Port => "services",
            Reach::Range => "ranges",
            Reach::AllPorts => "wildcards",
            Reach::AllProtocols => "protocols",
        };
        match self {
            Self::Listeners(door, version, reach) => {
                format!("{}{}{}", door.prefix(), listeners(reach), digit(version)).into()
            }
            Self::Anywhere(version, reach) => format!("anywhere-{}{}", listeners(reach), digit(version)).into(),
            Self::Slots(_) => "slots".into(),
            Self::Down(_) => "down".into(),
            Self::Cut(_) => "cut".into(),
            Self::Pooled => "pooled".into(),
            Self::Chosen(_) => "chosen".into(),
            Self::Logged(_) => "logged".into(),
            Self::Marks => "marks".into(),
            Self::Offloaded => "offloaded".into(),
            Self::Traffic(_) => "traffic".into(),
            Self::Targets(version) => format!("targets{}", digit(version)).into(),
            Self::Hosts(version) => format!("hosts{}", digit(version)).into(),
            Self::Sources(version) => format!("sources{}", digit(version)).into(),
            Self::Rewrites(version) => format!("rewrites{}", digit(version)).into(),
            Self::RewritePorts => "rewrite-ports".into(),
            Self::Answers(version, reach) => {
                let stem = match reach {
                    Reach::Port => "answers",
                    Reach::Range => "answer-ranges",
                    Reach::AllPorts => "answer-wildcards",
                    Reach::AllProtocols => "answer-protocols",
                };
                format!("{stem}{}", digit(version)).into()
            }
            Self::Senders(version, reach) => {
                let stem = match reach {
                    Reach::Port => "senders",
                    Reach::Range => "sender-ranges",
                    Reach::AllPorts => "sender-wildcards",
                    Reach::AllProtocols => "sender-protocols",
                };
                format!("{stem}{}", digit(version)).into()
            }
            Self::Virtual(version) => format!("virtual{}", digit(version)).into(),
            Self::VirtualPorts => "virtual-ports".into(),
            Self::Nexthops(_, version) => format!("nexthops{}", digit(version)).into(),
            Self::Tunnels(version) => format!("tunnels{}", digit(version)).into(),
            Self::Egress(_) => "egress".into(),
            Self::Bindings(_, version) => format!("bindings{}", digit(version)).into(),
            Self::Begun(_) => "begun".into(),
            Self::Recent(_, version) => format!("recent{}", digit(version)).into(),
            Self::Closing(_, version) => format!("closing{}", digit(version)).into(),
            Self::Caps => "caps".into(),
            Self::Capped => "capped".into(),
            Self::Admitted => "admitted".into(),
            Self::Overflow => "overflow".into(),
            Self::Silent => "silent".into(),
        }
    }

    /// The fields of its key.
    pub fn key(self) -> Vec<Datatype> {
        use Datatype::{InetProto, InetService, Mark};
        match self {
            Self::Listeners(_, version, reach) | Self::Answers(version, reach) | Self::Senders(version, reach) => {
                match reach {
                    Reach::Port | Reach::Range => vec![address(version), InetProto, InetService],
                    Reach::AllPorts => vec![address(version), InetProto],
                    Reach::AllProtocols => vec![address(version)],
                }
            }
            Self::Anywhere(_, Reach::Port | Reach::Range) => vec![InetProto, InetService],
            Self::Anywhere(_, Reach::AllPorts | Reach::AllProtocols) => vec![InetProto],
            Self::Bindings(_, version) | Self::Recent(_, version) | Self::Closing(_, version) => {
                vec![address(version), address(version), InetService, InetService, InetProto]
            }
            _ => vec![Mark],
        }
    }

    /// What it yields; nothing for a set.
    pub fn data(self) -> Option<SetData> {
        match self {
            Self::Listeners(..) | Self::Anywhere(..) | Self::Pooled | Self::Chosen(_) | Self::Logged(_) => {
                Some(SetData::Verdict)
            }
            Self::Bindings(..) | Self::Recent(..) | Self::Closing(..) => Some(SetData::Value(vec![Datatype::Mark])),
            Self::Slots(_) | Self::Marks | Self::Overflow => Some(SetData::Value(vec![Datatype::Mark])),
            Self::Answers(..) | Self::Senders(..) => Some(SetData::Value(vec![Datatype::Mark])),
            Self::Down(_)
            | Self::Cut(_)
            | Self::Begun(_)
            | Self::Offloaded
            | Self::Caps
            | Self::Capped
            | Self::Admitted
            | Self::Silent
            | Self::Traffic(_) => None,
            Self::Egress(_) => Some(SetData::Value(vec![Datatype::IfIndex])),
            Self::Nexthops(_, version) => Some(SetData::Value(vec![address(version)])),
            Self::Tunnels(_) => Some(SetData::Objects(ObjectKind::Tunnel)),
            Self::Targets(version) => Some(SetData::Value(vec![address(version), Datatype::InetService])),
            Self::Hosts(version) | Self::Sources(version) | Self::Rewrites(version) | Self::Virtual(version) => {
                Some(SetData::Value(vec![address(version)]))
            }
            Self::RewritePorts | Self::VirtualPorts => Some(SetData::Value(vec![Datatype::InetService])),
        }
    }

    /// The packets fill it: the time after which an element goes that was made without one, and the most elements.
    pub fn learns(self) -> Option<(Duration, u32)> {
        let idle = match self {
            Self::Bindings(..) => names::BINDING_IDLE,
            Self::Recent(..) => names::BINDING_RECENT,
            Self::Closing(..) => names::BINDING_ENDED,
            _ => return None,
        };
        Some((idle, names::BINDINGS_MAX))
    }

    /// Every element counts its lookups: those of a translation are the new flows of a backend, since only the first packet
    /// of a flow asks for it.
    pub fn is_counted(self) -> bool {
        matches!(self, Self::Targets(_) | Self::Hosts(_) | Self::Traffic(_) | Self::Admitted | Self::Begun(_))
    }

    /// Its keys are ranges.
    pub fn is_interval(self) -> bool {
        match self {
            Self::Listeners(_, _, reach) | Self::Answers(_, reach) | Self::Senders(_, reach) => reach == Reach::Range,
            Self::Anywhere(_, reach) => matches!(reach, Reach::Range | Reach::AllProtocols),
            _ => false,
        }
    }
}

/// The datatype of an address.
pub fn address(version: IpVersion) -> Datatype {
    match version {
        IpVersion::V4 => Datatype::Ipv4Addr,
        IpVersion::V6 => Datatype::Ipv6Addr,
    }
}
