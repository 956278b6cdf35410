//! `[hardware]` and the hardware profiles of `hwprofiles/*.toml`.

use std::collections::BTreeMap;

use super::Origin;

/// `[hardware]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hardware {
    /// Which profile.
    pub profile: ProfileChoice,
    /// `[hardware.overrides]`: the same keys as a profile; each replaces the profile's.
    pub overrides: Tuning,
}

/// `hardware.profile`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ProfileChoice {
    /// The best match wins.
    #[default]
    Auto,
    /// A file of `hwprofiles/`, without `.toml`.
    Named(String),
    /// Nothing is tuned but what forwarding needs.
    None,
}

/// One hardware profile: which machines it is for, and how they are tuned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The file's name without `.toml`.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// Among the profiles that match, the highest wins.
    pub priority: u32,
    /// Alternatives; none: matches every machine.
    pub matches: Vec<ProfileMatch>,
    /// The settings.
    pub tuning: Tuning,
}

/// All fields that are present must match; texts are globs with `*`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProfileMatch {
    /// Any of these against `/sys/class/dmi/id/product_name`.
    pub dmi_product: Vec<String>,
    /// Against the CPU's model name.
    pub cpu_model: Option<String>,
    /// Physical cores.
    pub cpu_cores: Option<u32>,
    /// At least one NIC has one of these drivers.
    pub nic_drivers: Vec<String>,
    /// At least as many NICs (of those drivers, when given).
    pub nic_count_min: Option<u32>,
}

/// What can be tuned. `None`: left to the profile below it, at last to the built-in default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tuning {
    /// IRQ affinity of NIC queues.
    pub irq: Option<IrqPolicy>,
    /// Receive packet steering.
    pub rps: Option<RpsPolicy>,
    /// Transmit packet steering.
    pub xps: Option<XpsPolicy>,
    /// What ethtool(8) sets, on every NIC.
    pub nic: NicTuning,
    /// `[drivers.NAME]`: laid over [`Self::nic`] for the NICs of one kernel driver.
    pub drivers: BTreeMap<String, NicTuning>,
    /// How the frequency of CPUs is chosen.
    pub cpu_frequency: Option<Frequency>,
    /// The deepest sleep of CPUs, by the time that it takes to wake up.
    pub cpu_wake_up: Option<WakeUp>,
    /// Power saving of a NIC's PCI Express link.
    pub pcie_power_saving: Option<Switch>,
    /// `conntrack.max`: entries, or `auto` from memory.
    pub conntrack_max: Option<ConntrackMax>,
    /// `[sysctl]` by dotted name; `{if}` stands for `all`, `default` and each managed interface.
    pub sysctl: BTreeMap<String, String>,
    /// Where each key was written, by its dotted path within the profile (`irq`, `conntrack.max`, `sysctl.net.ipv4.ip_forward`).
    pub origins: BTreeMap<String, Origin>,
}

/// What ethtool(8) sets on a NIC. `None`: left to the tuning below, at last alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NicTuning {
    /// How many queues.
    pub queues: Option<QueueCount>,
    /// Descriptors of each receive queue.
    pub rx_ring: Option<RingSize>,
    /// Descriptors of each transmit queue.
    pub tx_ring: Option<RingSize>,
    /// How long a NIC waits for more packets before it interrupts.
    pub coalesce: Option<Coalesce>,
    /// The same in microseconds, as the driver understands it; goes before [`Self::coalesce`].
    pub rx_usecs: Option<u32>,
    /// What of a UDP packet chooses its receive queue.
    pub udp_hash: Option<UdpHash>,
    /// Ethernet flow control.
    pub pause: Option<Switch>,
    /// Energy-efficient Ethernet.
    pub eee: Option<Switch>,
    /// Features by the kernel's names: `rx-gro`, `tx-tcp-segmentation`.
    pub features: BTreeMap<String, bool>,
}

/// `queues`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueCount {
    /// As many as there are physical cores, at most as many as the NIC has.
    PerCore,
    /// As many as there are hardware threads.
    PerThread,
    /// As many as the NIC has.
    Max,
    /// Not touched.
    Leave,
    /// So many, at most as many as the NIC has.
    Count(u32),
}

/// `rx-ring`, `tx-ring`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RingSize {
    /// Not touched.
    Leave,
    /// Descriptors, at most as many as the NIC takes.
    Entries(u32),
}

/// `coalesce`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coalesce {
    /// The driver goes by the load.
    Adaptive,
    /// 10 µs.
    LowLatency,
    /// 50 µs.
    LowCpu,
    /// Not touched.
    Leave,
}

/// `udp-hash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UdpHash {
    /// Addresses and ports.
    Ports,
    /// Addresses alone.
    Addresses,
    /// Not touched.
    Leave,
}

/// Something that is on, off or left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Switch {
    On,
    Off,
    Leave,
}

/// `cpu-frequency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frequency {
    /// Always the highest.
    Performance,
    /// Not touched.
    Leave,
}

/// `cpu-wake-up`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WakeUp {
    /// Microseconds at most.
    Micros(u32),
    /// Not touched.
    Leave,
}

/// `irq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IrqPolicy {
    /// A queue on each physical core, by the algorithm of the reference.
    OnePerCore,
    /// Over all hardware threads.
    SpreadSmt,
    /// Not touched.
    Leave,
}

/// `rps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RpsPolicy {
    /// Only where a NIC has fewer queues than there are cores.
    Auto,
    /// Written as 0.
    Off,
    /// Not touched.
    Leave,
}

/// `xps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum XpsPolicy {
    /// The queue whose interrupt is on the same core.
    SameCore,
    /// Written as 0.
    Off,
    /// Not touched.
    Leave,
}

/// `conntrack.max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConntrackMax {
    /// By memory: `clamp(floor_pow2(MemTotal/8 / 400), 262144, 8388608)`.
    Auto,
    /// Entries.
    Entries(u32),
}
