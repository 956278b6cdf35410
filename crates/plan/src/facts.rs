//! What the machine is, as far as decisions need it. Read by `crates/host`; a value here, so that tests can record one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::features::Feature;
use crate::lease::Offer;
use crate::state::KnobValue;
use crate::tunnel::Device;

/// The facts of one machine, seen from one network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Facts {
    /// `MemTotal`, bytes.
    pub memory_bytes: u64,
    /// `uname -r`.
    pub kernel_release: String,
    /// A hypervisor is below us.
    pub virtual_machine: bool,
    /// We are on our own image (`headgate.slot=` on the kernel command line).
    pub appliance: bool,
    /// We are in the initial network namespace; some sysctls are only writable there.
    pub initial_netns: bool,
    /// The kernel has flowtables (`CONFIG_NF_FLOW_TABLE_INET`, `CONFIG_NFT_FLOW_OFFLOAD`); asked only if some farm offloads.
    pub flowtable: bool,
    /// `/sys/class/dmi/id/product_name`.
    pub dmi_product: Option<String>,
    /// `model name` of `/proc/cpuinfo`.
    pub cpu_model: String,
    /// Physical cores that are online, in the order of their first thread.
    pub cores: Vec<Core>,
    /// Network interfaces by kernel name.
    pub links: BTreeMap<String, Link>,
    /// Routes that are not ours, main table, both families.
    pub routes: Vec<RouteFact>,
    /// What DHCP servers said, by kernel name of the interface; those whose time is over are left out.
    pub leases: BTreeMap<String, Offer>,
    /// Scaling policies of CPU frequency: the numbers of `/sys/devices/system/cpu/cpufreq/policy*`.
    pub cpufreq_policies: Vec<u32>,
    /// Programs that run and are known to turn knobs too: `irqbalance`, `tuned`.
    pub rivals: BTreeSet<String>,
    /// Connection tracking helpers that are wanted and that the kernel does not have, by their words.
    pub lacking_helpers: BTreeSet<String>,
    /// Features that are wanted and that the kernel does not have.
    pub lacking_features: BTreeSet<Feature>,
    /// Tunnel devices that are wanted and that the kernel, or nftables in it, does not have.
    pub lacking_tunnels: BTreeSet<Device>,
}

/// A machine as it is kept in a file for tests: its facts, and how its knobs stood.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recording {
    /// Without what is nobody's business: addresses, routes, leases, MAC addresses.
    #[serde(flatten)]
    pub facts: Facts,
    /// As text, by path.
    #[serde(default)]
    pub found: BTreeMap<String, String>,
}

impl Recording {
    /// What may be shown of a machine and its knobs.
    pub fn new(mut facts: Facts, found: &BTreeMap<String, KnobValue>) -> Self {
        facts.routes.clear();
        facts.leases.clear();
        for link in facts.links.values_mut() {
            link.addresses.clear();
            link.mac.clear();
        }
        let found = found.iter().map(|(path, value)| (path.clone(), value.file_text()));
        Self { facts, found: found.collect() }
    }
}

/// A physical core.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Core {
    /// Its hardware threads, ascending. Numbering differs: Skylake has (0,4)(1,5)…, QEMU (0,1)(2,3)….
    pub threads: Vec<u32>,
    /// Its NUMA node.
    pub numa_node: u32,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Permanent or current MAC address, lower case, colons; empty without one.
    pub mac: String,
    /// IFF_UP.
    pub up: bool,
    /// IFF_LOOPBACK.
    pub loopback: bool,
    /// Bytes.
    pub mtu: u32,
    /// Kernel driver of the device behind it.
    pub driver: Option<String>,
    /// PCI address of the device behind it.
    pub pci: Option<String>,
    /// Its kind (`ipip`, `gre`…), when it takes the addresses of its tunnels from packets: a kernel has one of each at most.
    pub external: Option<String>,
    /// We made it: it is a VLAN, bond or VRF of ours.
    pub ours: bool,
    /// Kernel name of the bond, VRF or bridge that it belongs to.
    pub master: Option<String>,
    /// Every address on it.
    pub addresses: Vec<LinkAddress>,
    /// Queues and interrupts, when a device is behind it.
    pub nic: Option<Nic>,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinkAddress {
    /// With its prefix length.
    pub net: IpNet,
    /// We added it (its IFA_PROTO is [`crate::names::ADDRESS_PROTOCOL`]).
    pub ours: bool,
}

/// Queues and interrupts of a network device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Nic {
    /// `/sys/class/net/X/queues/rx-*`.
    pub rx_queues: u32,
    /// `/sys/class/net/X/queues/tx-*`.
    pub tx_queues: u32,
    /// NUMA node of the device.
    pub numa_node: Option<u32>,
    /// The most that ethtool may set.
    pub limits: NicLimits,
    /// Its interrupt vectors; none before the interface is up (igb requests them in open()).
    pub irqs: Vec<NicIrq>,
}

/// The most that a NIC takes; 0: it cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NicLimits {
    /// Queues that receive and send.
    pub combined: u32,
    /// Receive queues, of drivers that count them apart.
    pub rx_queues: u32,
    /// Transmit queues, of drivers that count them apart.
    pub tx_queues: u32,
    /// Descriptors of a receive queue.
    pub rx_ring: u32,
    /// Descriptors of a transmit queue.
    pub tx_ring: u32,
}

/// An interrupt vector of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NicIrq {
    /// `/proc/irq/N`.
    pub number: u32,
    /// Its name in `/proc/interrupts`.
    pub name: String,
    /// The queue it serves; `None` for link and configuration vectors.
    pub queue: Option<u32>,
}

/// A route as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteFact {
    /// Destination.
    pub to: IpNet,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Kernel name of the outgoing interface.
    pub link: String,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
}
