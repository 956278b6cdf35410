//! What can be wanted and observed. Both are this one type; a plan is their difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use headgate_config::Origin;
pub use headgate_config::model::MarkMatch;
use headgate_nft::Ruleset;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::tunnel::Device;
use crate::upper::Upper;

/// A state of the machine, as far as it is ours.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct State {
    /// Our tables only.
    pub ruleset: Ruleset,
    /// The interfaces that the configuration names, by kernel name.
    pub links: BTreeMap<String, LinkState>,
    /// The tunnel devices that we make.
    pub tunnels: BTreeMap<Device, LinkState>,
    /// The VLANs, bonds and VRFs that we make, by kernel name.
    pub uppers: BTreeMap<String, Upper>,
    /// The interfaces that we give to bonds and VRFs, with whose they are, both by kernel name. Observed: the members of ours,
    /// and the masters of those that were asked for.
    pub masters: BTreeMap<String, String>,
    /// The addresses that we add, never anybody else's.
    pub addresses: BTreeSet<Address>,
    /// The routes that we add, never anybody else's.
    pub routes: BTreeSet<Route>,
    /// The routing rules that we add, never anybody else's.
    pub rules: BTreeSet<RoutingRule>,
    /// The neighbours that we add, never anybody else's. No two have one address on one interface.
    pub neighbours: BTreeSet<Neighbour>,
    /// Values of knobs by [`Knob::path`]. Observed: only those that exist and were asked for.
    pub knobs: BTreeMap<String, KnobValue>,
}

/// What we set on an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinkState {
    /// IFF_UP.
    pub up: bool,
    /// Bytes; `None`: not ours to say.
    pub mtu: Option<u32>,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Address {
    /// Kernel name of the interface.
    pub link: String,
    /// With its prefix length: /32 or /128 for virtual addresses.
    pub net: IpNet,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Route {
    /// Destination.
    pub to: IpNet,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Kernel name of the outgoing interface.
    pub link: Option<String>,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Lower wins; 0 for IPv4 and 1024 for IPv6 when not said.
    pub metric: Option<u32>,
    /// 254 is main.
    pub table: u32,
}

/// A rule that says which packets ask which routing table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RoutingRule {
    /// The lowest is asked first.
    pub priority: u32,
    /// Source; its family is that of the rule, and a length of zero fits every packet of it.
    pub from: IpNet,
    /// Destination, of the same family.
    pub to: IpNet,
    /// Of the packet.
    pub mark: Option<MarkMatch>,
    /// Kernel name of the interface by which packets come in.
    pub link: Option<String>,
    /// 254 is main.
    pub table: u32,
}

/// A neighbour whose MAC address is known, and not asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Neighbour {
    /// Kernel name of the interface.
    pub link: String,
    /// Its address.
    pub address: IpAddr,
    /// The octets of its MAC address.
    pub mac: [u8; 6],
}

impl Neighbour {
    /// Whether both say something of one address on one interface: the kernel keeps one entry for it.
    pub fn same_place(&self, other: &Self) -> bool {
        (&self.link, self.address) == (&other.link, other.address)
    }

    /// Lower case, colons.
    pub fn mac_text(&self) -> String {
        self.mac.map(|octet| format!("{octet:02x}")).join(":")
    }
}

/// The value of a knob, typed so that a comparison is by meaning: `0000000e` equals `e`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnobValue {
    /// A number.
    Int(i64),
    /// A mask of CPUs in hexadecimal with commas (`rps_cpus`, `xps_cpus`), as the sorted list of its CPUs.
    CpuMask(Vec<u32>),
    /// A list of CPUs (`smp_affinity_list`), sorted.
    CpuList(Vec<u32>),
    /// Numbers that are set together, by name: `rx=2048 tx=1024`. On is 1, off is 0.
    Fields(BTreeMap<String, i64>),
    /// Anything else, white space folded.
    Text(String),
}

/// Which values that are found will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// This value alone.
    #[default]
    Exact,
    /// A larger number is left alone (`vm.min_free_kbytes`).
    AtLeast,
    /// A smaller number is left alone (`/dev/cpu_dma_latency`).
    AtMost,
    /// A number up to a tenth away: hardware has steps (e1000e makes 8333 of 8191 µs).
    Near,
}

/// One value of the machine that should be so, and why: a file under `/proc` or `/sys`, a setting of a NIC
/// ([`crate::ethtool`]), or the latency that CPUs may sleep with ([`crate::knob::CPU_WAKE_UP`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Knob {
    /// Without the leading slash: `proc/sys/net/ipv4/ip_forward`, `proc/irq/41/smp_affinity_list`, `ethtool/eth0/rings`.
    pub path: String,
    /// What it should be.
    pub want: KnobValue,
    /// Which values will do.
    pub fit: Fit,
    /// One sentence for people.
    pub why: String,
    /// The line that asked for it; `None` for what forwarding itself needs.
    pub origin: Option<Origin>,
}

impl fmt::Display for Route {
    /// As ip-route(8) would print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to.prefix_len() {
            0 if self.to.addr().is_ipv6() => write!(f, "default (IPv6)")?,
            0 => write!(f, "default")?,
            _ => write!(f, "{}", self.to)?,
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(link) = &self.link {
            write!(f, " dev {link}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if self.table != crate::compile::routing::TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

impl fmt::Display for RoutingRule {
    /// As ip-rule(8) would print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: from ", self.priority)?;
        match self.from.prefix_len() {
            0 if self.from.addr().is_ipv6() => write!(f, "all (IPv6)")?,
            0 => write!(f, "all")?,
            _ => write!(f, "{}", self.from)?,
        }
        if self.to.prefix_len() > 0 {
            write!(f, " to {}", self.to)?;
        }
        match self.mark {
            Some(MarkMatch { value, mask: u32::MAX }) => write!(f, " fwmark {value:#x}")?,
            Some(MarkMatch { value, mask }) => write!(f, " fwmark {value:#x}/{mask:#x}")?,
            None => {}
        }
        if let Some(link) = &self.link {
            write!(f, " iif {link}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}

impl fmt::Display for Neighbour {
    /// As ip-neighbour(8) would print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {} lladdr {}", self.address, self.link, self.mac_text())
    }
}

impl fmt::Display for KnobValue {
    /// CPUs as a list: `0,2,4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::Fields(fields) => {
                let fields: Vec<String> = fields.iter().map(|(name, number)| format!("{name} {number}")).collect();
                f.write_str(&fields.join(", "))
            }
            Self::CpuMask(cpus) | Self::CpuList(cpus) if cpus.is_empty() => f.write_str("no CPU"),
            Self::CpuMask(cpus) | Self::CpuList(cpus) => {
                let cpus: Vec<String> = cpus.iter().map(u32::to_string).collect();
                write!(f, "CPU {}", cpus.join(","))
            }
        }
    }
}

impl Knob {
    /// Whether a value that was found will do.
    pub fn is_satisfied_by(&self, found: &KnobValue) -> bool {
        self.fit.takes(&self.want, found)
    }
}

impl Fit {
    /// Whether `found` will do where `want` is wanted.
    pub fn takes(self, want: &KnobValue, found: &KnobValue) -> bool {
        match (want, found) {
            (KnobValue::Int(want), KnobValue::Int(found)) => self.takes_number(*want, *found),
            (KnobValue::Fields(want), KnobValue::Fields(found)) => {
                want.iter().all(|(name, want)| found.get(name).is_some_and(|found| self.takes_number(*want, *found)))
            }
            (want, found) => want == found,
        }
    }

    fn takes_number(self, want: i64, found: i64) -> bool {
        match self {
            Fit::Exact => found == want,
            Fit::AtLeast => found >= want,
            Fit::AtMost => found <= want,
            // Of small numbers a tenth is nothing: 3 is another mode of the driver than 1.
            Fit::Near => found.abs_diff(want) <= want.unsigned_abs() / 10,
        }
    }
}
