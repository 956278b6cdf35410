//! `[system]`, `[network]`, `[sysctl]`, `[api]`, `[metrics]` and `[services]`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Origin;
use crate::types::{NeighbourName, Role, RouteName, RuleName, ServiceName};

/// A resolver asks no more name servers than these (MAXNS, resolv.conf(5)).
pub const RESOLVERS_MAX: usize = 3;

/// `[system]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct System {
    pub hostname: Option<String>,
    /// Filter traffic to the box itself; `None`: true on the appliance, false elsewhere.
    pub protect: Option<bool>,
    pub ntp_servers: Vec<IpAddr>,
    /// [`RESOLVERS_MAX`] at most.
    pub dns_servers: Vec<IpAddr>,
    /// Where the log goes as well.
    pub syslog: Option<Syslog>,
    pub authorized_keys: Vec<String>,
    pub trust_media: TrustMedia,
}

/// A receiver of the log: `udp://ADDR:PORT` or `tcp://ADDR:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syslog {
    /// How records get there.
    pub transport: Transport,
    /// Where it listens.
    pub address: SocketAddr,
}

/// How records of the log get to their receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram each (RFC 5426).
    Udp,
    /// One stream, each record behind its length (RFC 6587).
    Tcp,
}

impl fmt::Display for Syslog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        write!(out, "{scheme}://{}", self.address)
    }
}

/// When drop-ins from ESP, stick and fw_cfg are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[allow(missing_docs)]
pub enum TrustMedia {
    #[default]
    FirstBoot,
    Always,
    Never,
}

/// `[network]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// By role.
    pub interfaces: BTreeMap<Role, Interface>,
    /// By role.
    pub vlans: BTreeMap<Role, Vlan>,
    /// By role.
    pub bonds: BTreeMap<Role, Bond>,
    /// By kernel name.
    pub vrfs: BTreeMap<Role, Vrf>,
    /// By name.
    pub routes: BTreeMap<RouteName, Route>,
    /// By name.
    pub rules: BTreeMap<RuleName, RoutingRule>,
    /// By name.
    pub neighbours: BTreeMap<NeighbourName, Neighbour>,
}

/// How a role finds its kernel interface: all fields that are present must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceMatch {
    /// Kernel name.
    pub name: Option<String>,
    /// Permanent MAC address, lower case, colons.
    pub mac: Option<String>,
    /// Kernel driver.
    pub driver: Option<String>,
    /// PCI address, `0000:01:00.0`.
    pub pci: Option<String>,
    /// Position among those that match the rest, in the order of PCI address, then kernel index; from 0.
    pub index: Option<u32>,
}

/// An entry of `addresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterfaceAddress {
    /// An address with its prefix length.
    Static(IpNet),
    /// DHCPv4.
    Dhcp,
}

/// IPv6 router advertisements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[allow(missing_docs)]
pub enum AcceptRa {
    #[default]
    No,
    Yes,
}

/// What of the box itself answers on an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allow {
    /// `ping`, `ssh`, `api`, `metrics`, `bgp`, `vrrp`, `all`, or `tcp/PORT`, `udp/PORT`.
    pub service: String,
    /// From anywhere when empty.
    pub from: Vec<IpNet>,
}

/// `[network.interfaces.ROLE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Interface {
    pub role: Role,
    pub origin: Origin,
    /// `None`: the role is the kernel name.
    pub matching: Option<InterfaceMatch>,
    pub addresses: Vec<InterfaceAddress>,
    /// Bytes.
    pub mtu: Option<u32>,
    pub accept_ra: AcceptRa,
    /// The one of `[network.vrfs]` that it belongs to.
    pub vrf: Option<Role>,
    /// `None`: not written, which means `ping`.
    pub allow: Option<Vec<Allow>>,
}

/// `[network.vlans.ROLE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Vlan {
    pub role: Role,
    pub origin: Origin,
    /// Role or kernel name.
    pub parent: String,
    /// 1 to 4094.
    pub id: u16,
    pub addresses: Vec<InterfaceAddress>,
    pub mtu: Option<u32>,
    pub accept_ra: AcceptRa,
    pub vrf: Option<Role>,
    pub allow: Option<Vec<Allow>>,
}

/// `[network.bonds.ROLE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Bond {
    pub role: Role,
    pub origin: Origin,
    /// Roles or kernel names.
    pub members: Vec<String>,
    pub mode: BondMode,
    /// Between two looks at the members' carriers; whole milliseconds, 0: never.
    pub miimon: Duration,
    pub lacp_rate: LacpRate,
    pub xmit_hash_policy: XmitHashPolicy,
    pub addresses: Vec<InterfaceAddress>,
    pub mtu: Option<u32>,
    pub accept_ra: AcceptRa,
    pub vrf: Option<Role>,
    pub allow: Option<Vec<Allow>>,
}

/// The modes of a bond, as the kernel names them (`drivers/net/bonding/bond_main.c`, `bond_mode_tbl`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum BondMode {
    ActiveBackup,
    BalanceRr,
    BalanceXor,
    Broadcast,
    Lacp,
    BalanceTlb,
    BalanceAlb,
}

/// How often the other side of an `802.3ad` bond is asked to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum LacpRate {
    Slow,
    Fast,
}

/// What decides which member of a bond a packet leaves by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum XmitHashPolicy {
    Layer2,
    Layer23,
    Layer34,
    Encap23,
    Encap34,
    VlanSrcMac,
}

/// `[network.vrfs.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Vrf {
    pub name: Role,
    pub origin: Origin,
    /// Its routing table.
    pub table: u32,
}

/// `[network.routes.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Route {
    pub name: RouteName,
    pub origin: Origin,
    /// `default` is the zero prefix of the family of `via`.
    pub to: IpNet,
    pub via: Option<IpAddr>,
    /// Role or kernel name.
    pub interface: Option<String>,
    pub metric: Option<u32>,
    pub table: Option<u32>,
    pub source: Option<IpAddr>,
}

/// `[network.rules.NAME]`. All that is given must fit a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RoutingRule {
    pub name: RuleName,
    pub origin: Origin,
    /// The lowest comes first.
    pub priority: u32,
    /// The routing table that answers.
    pub table: u32,
    /// Of the source; of the same family as `to`. Without both the rule is for both families.
    pub from: Option<IpNet>,
    /// Of the destination.
    pub to: Option<IpNet>,
    /// Of the packet's mark.
    pub mark: Option<MarkMatch>,
    /// Role or kernel name of the one by which packets come in.
    pub interface: Option<String>,
}

/// Which marks of packets fit: those that have `value` in the bits of `mask`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct MarkMatch {
    pub value: u32,
    pub mask: u32,
}

/// `[network.neighbours.NAME]`. Nobody is asked for its MAC address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Neighbour {
    pub name: NeighbourName,
    pub origin: Origin,
    /// Role or kernel name.
    pub interface: String,
    pub address: IpAddr,
    pub mac: [u8; 6],
}

/// A value of `[sysctl]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SysctlValue {
    /// Written as it stands; numbers in decimal.
    Set(String),
    /// `"unset"`: back to what the machine had.
    Unset,
}

/// `[api]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Api {
    pub origin: Origin,
    pub listen: Option<SocketAddr>,
    pub certificate: Option<String>,
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Metrics {
    pub origin: Origin,
    pub listen: Option<SocketAddr>,
    pub traffic: TrafficCount,
}

/// What is counted per backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[allow(missing_docs)]
pub enum TrafficCount {
    #[default]
    Flows,
    Bytes,
}

/// When a service is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[allow(missing_docs)]
pub enum Restart {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// Time between restarts: doubles from `initial` to `max`, starts again at `initial` after a run of `max` or longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Default 100 ms.
    pub initial: Duration,
    /// Default 30 s.
    pub max: Duration,
}

/// What must answer before a service counts as up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ready {
    /// A TCP connection succeeds.
    Tcp(SocketAddr),
}

/// `[services.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Service {
    pub name: ServiceName,
    pub origin: Origin,
    /// Program (absolute) and arguments, no shell.
    pub command: Vec<String>,
    pub restart: Restart,
    pub backoff: Backoff,
    /// Names of services; `network` means: once the network is configured.
    pub after: Vec<String>,
    pub ready: Option<Ready>,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout: Duration,
}
