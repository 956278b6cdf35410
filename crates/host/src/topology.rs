//! What the machine is made of: CPUs, memory, network devices with their queues and interrupts.
//!
//! Everything comes from `/proc` and `/sys` below the [`Root`], so that a recorded machine can be read like a real one.
//! A file that is missing means that this machine does not say; only a machine without any CPU is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use headgate_plan::facts::{Core, Facts, Link, Nic, NicIrq, NicLimits};
use headgate_plan::knob::cpu_list;

use crate::ethtool;
use crate::root::{Root, RootError};

/// The machine could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A file that exists could not be read.
    #[error("cannot learn what this machine is")]
    File(#[from] RootError),
    /// Its memory could not be read.
    #[error("cannot learn how much memory this machine has")]
    Memory(#[from] sysinfo::Error),
    /// Neither `/sys/devices/system/cpu/online` nor `/proc/cpuinfo` names a CPU.
    #[error("no CPU is named in /sys/devices/system/cpu/online or /proc/cpuinfo")]
    NoCpu,
}

/// A line for each interrupt, a column for each CPU that is online.
pub(crate) const INTERRUPTS: &str = "proc/interrupts";

/// The device behind a network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Kernel driver: `igb`, `virtio_net`.
    pub driver: Option<String>,
    /// PCI address, of the virtio transport too.
    pub pci: Option<String>,
    /// Queues and interrupts.
    pub nic: Nic,
}

/// The facts of the hardware. In `links` is an entry for each interface of this network namespace with nothing but its device;
/// addresses, routes and the rest come from rtnetlink.
///
/// # Errors
/// [`TopologyError`]; what is merely missing is left at its default.
pub fn read(root: &Root) -> Result<Facts, TopologyError> {
    let cpuinfo = optional(root, "proc/cpuinfo")?.unwrap_or_default();
    let mut facts = Facts {
        memory_bytes: memory_bytes(root)?,
        kernel_release: line(root, "proc/sys/kernel/osrelease")?.unwrap_or_default(),
        virtual_machine: virtual_machine(root, &cpuinfo)?,
        appliance: optional(root, "proc/cmdline")?
            .is_some_and(|text| text.split_whitespace().any(|word| word.starts_with("headgate.slot="))),
        initial_netns: initial_netns(root),
        dmi_product: line(root, "sys/class/dmi/id/product_name")?,
        cpu_model: cpu_field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
        cores: cores(root, &cpuinfo)?,
        cpufreq_policies: cpufreq_policies(root)?,
        rivals: rivals(root)?,
        ..Facts::default()
    };
    for name in root.list_machine("sys/class/net")? {
        // `bonding_masters` is a plain file among the interfaces.
        if !root.machine(format!("sys/class/net/{name}"))?.is_dir() {
            continue;
        }
        let mut link = Link::default();
        if let Some(device) = nic(root, &name) {
            link.driver = device.driver;
            link.pci = device.pci;
            link.nic = Some(device.nic);
        }
        facts.links.insert(name, link);
    }
    Ok(facts)
}

/// The device behind an interface; `None` for a virtual one (bridge, VLAN, veth) and for a name that does not exist.
///
/// `/sys/class/net` shows the network namespace in which `/sys` was mounted.
pub fn nic(root: &Root, name: &str) -> Option<Device> {
    let base = format!("sys/class/net/{name}");
    let device = fs::canonicalize(root.machine(format!("{base}/device")).ok()?).ok()?;
    let driver = fs::read_link(device.join("driver")).ok().and_then(|link| last_component(&link));
    let queues = root.list_machine(format!("{base}/queues")).unwrap_or_default();
    let count = |kind: &str| u32::try_from(queues.iter().filter(|queue| queue.starts_with(kind)).count()).unwrap_or(0);
    let transport = transport(&device);
    let holder = transport.unwrap_or(&device);
    let numa_node = fs::read_to_string(holder.join("numa_node")).ok().and_then(|text| text.trim().parse().ok());
    let (rx_queues, tx_queues) = (count("rx-"), count("tx-"));
    let table = root.read_machine(INTERRUPTS).unwrap_or_default();
    // A recorded machine is files; what its NICs take is in the record itself.
    let limits = if root.is_real_machine() { ethtool::limits(name) } else { NicLimits::default() };
    Some(Device {
        driver,
        pci: transport.and_then(last_component),
        nic: Nic { rx_queues, tx_queues, numa_node, limits, irqs: irqs(&table, name, &device, holder) },
    })
}

/// virtio: the device is a child of the PCI device, and that one has the interrupts and the NUMA node.
fn transport(device: &Path) -> Option<&Path> {
    device.ancestors().find(|path| path.file_name().is_some_and(|name| is_pci_address(&name.to_string_lossy())))
}

/// The interrupt vectors of an interface that `table`, the text of [`INTERRUPTS`], has; none of a virtual one.
pub(crate) fn vectors(root: &Root, table: &str, name: &str) -> Vec<NicIrq> {
    let path = root.machine(format!("sys/class/net/{name}/device")).ok();
    let Some(device) = path.and_then(|path| fs::canonicalize(path).ok()) else { return Vec::new() };
    irqs(table, name, &device, transport(&device).unwrap_or(&device))
}

/// The vectors of a device: those that it lists in `msi_irqs`, else those whose name begins with the interface's or the
/// virtio device's.
fn irqs(table: &str, name: &str, device: &Path, holder: &Path) -> Vec<NicIrq> {
    let listed: Option<BTreeSet<u32>> = fs::read_dir(holder.join("msi_irqs"))
        .ok()
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect());
    let virtio = last_component(device).unwrap_or_default();
    let mut irqs: Vec<NicIrq> = interrupts(table)
        .filter(|(number, action)| match &listed {
            Some(listed) => listed.contains(number),
            None => begins_with_name(action, name) || begins_with_name(action, &virtio),
        })
        .map(|(number, action)| NicIrq { number, name: action.to_owned(), queue: queue_of(action) })
        .collect();
    // One vector for everything (e1000e with MSI: i219): it is the queue's. With several, the one with the bare name is for
    // link changes only.
    if let [only] = irqs.as_mut_slice()
        && only.queue.is_none()
    {
        only.queue = Some(0);
    }
    irqs.sort();
    irqs
}

fn begins_with_name(action: &str, name: &str) -> bool {
    action.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// The lines of `/proc/interrupts` that have a number, as (number, action): the action is the last word, because columns
/// between the counters and it differ by interrupt controller. Of a shared interrupt the last user is taken.
fn interrupts(table: &str) -> impl Iterator<Item = (u32, &str)> {
    table.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        Some((number.trim().parse().ok()?, rest.split_whitespace().next_back()?))
    })
}

/// The queue in the name of a vector: `X-TxRx-3`, `X-rx-3`, `X-tx-3`, `virtioK-input.3`, `virtioK-output.3`.
///
/// Only the end is looked at: a NIC that was renamed while it was up keeps the old name here.
fn queue_of(action: &str) -> Option<u32> {
    let (rest, digits) = action.rsplit_once(['-', '.'])?;
    let kind = rest.rsplit_once('-').map(|(_, kind)| kind)?;
    ["TxRx", "rx", "tx", "input", "output"].contains(&kind).then(|| digits.parse().ok()).flatten()
}

fn is_pci_address(name: &str) -> bool {
    let parts: Vec<&str> = name.split([':', '.']).collect();
    let hex = |text: &str, digits| text.len() >= digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(parts[..], [domain, bus, slot, function] if name.matches(':').count() == 2
        && hex(domain, 4) && hex(bus, 2) && hex(slot, 2) && hex(function, 1))
}

fn last_component(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// Physical cores with their online threads, without isolated CPUs (`isolcpus=`), in the order of their first thread.
fn cores(root: &Root, cpuinfo: &str) -> Result<Vec<Core>, TopologyError> {
    let online = match line(root, "sys/devices/system/cpu/online")? {
        Some(text) => cpu_list(&text).unwrap_or_default(),
        None => cpuinfo.lines().filter_map(|line| field(line, "processor")?.parse().ok()).collect(),
    };
    let isolated = line(root, "sys/devices/system/cpu/isolated")?.and_then(|text| cpu_list(&text)).unwrap_or_default();
    let usable: BTreeSet<u32> = online.difference(&isolated).copied().collect();
    let usable = if usable.is_empty() { online } else { usable };
    let nodes = numa_nodes(root)?;
    let mut cores: BTreeMap<u32, Core> = BTreeMap::new();
    for &cpu in &usable {
        let siblings = line(root, &format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))?;
        let siblings = siblings.and_then(|text| cpu_list(&text)).unwrap_or_default();
        let mut threads: Vec<u32> = siblings.intersection(&usable).copied().collect();
        if !threads.contains(&cpu) {
            threads = vec![cpu];
        }
        let numa_node = nodes.iter().find(|(_, cpus)| cpus.contains(&cpu)).map_or(0, |(node, _)| *node);
        cores.entry(threads[0]).or_insert(Core { threads, numa_node });
    }
    if cores.is_empty() { Err(TopologyError::NoCpu) } else { Ok(cores.into_values().collect()) }
}

fn numa_nodes(root: &Root) -> Result<BTreeMap<u32, BTreeSet<u32>>, TopologyError> {
    let mut nodes = BTreeMap::new();
    for name in root.list_machine("sys/devices/system/node")? {
        let Some(number) = name.strip_prefix("node").and_then(|digits| digits.parse().ok()) else { continue };
        let cpus = line(root, &format!("sys/devices/system/node/{name}/cpulist"))?;
        nodes.insert(number, cpus.and_then(|text| cpu_list(&text)).unwrap_or_default());
    }
    Ok(nodes)
}

fn cpufreq_policies(root: &Root) -> Result<Vec<u32>, RootError> {
    let names = root.list_machine("sys/devices/system/cpu/cpufreq")?;
    let mut policies: Vec<u32> = names.iter().filter_map(|name| name.strip_prefix("policy")?.parse().ok()).collect();
    policies.sort_unstable();
    Ok(policies)
}

/// Programs that turn the same knobs, by the names of their processes.
const RIVALS: [&str; 6] = ["irqbalance", "tuned", "NetworkManager", "systemd-networkd", "power-profiles-", "tlp"];

/// Those of [`RIVALS`] that run. A recorded machine has no processes.
fn rivals(root: &Root) -> Result<BTreeSet<String>, TopologyError> {
    if !root.is_real_machine() {
        return Ok(BTreeSet::new());
    }
    let processes = sysinfo::RefreshKind::nothing().with_processes(sysinfo::ProcessRefreshKind::nothing());
    let system = sysinfo::System::new_with_specifics(processes)?;
    let names = system.processes().values().map(|process| process.name().to_string_lossy());
    let known = |name: &str| RIVALS.iter().find(|rival| name == **rival || name.starts_with(&format!("{rival}-")));
    Ok(names.filter_map(|name| known(&name).map(|rival| (*rival).to_owned())).collect())
}

/// `MemTotal`. On the machine itself by sysinfo, which `status` and metrics read the rest from: the same figure everywhere.
fn memory_bytes(root: &Root) -> Result<u64, TopologyError> {
    if root.is_real_machine() {
        let memory = sysinfo::MemoryRefreshKind::nothing().with_ram();
        let kind = sysinfo::RefreshKind::nothing().with_memory(memory);
        return Ok(sysinfo::System::new_with_specifics(kind)?.total_memory());
    }
    let meminfo = optional(root, "proc/meminfo")?.unwrap_or_default();
    let kibibytes =
        meminfo.lines().find_map(|line| field(line, "MemTotal")?.strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kibibytes.unwrap_or(0) * 1024)
}

/// A hypervisor shows itself in the CPU's flags (x86), in `/sys/hypervisor` (Xen) or in the name of the machine's maker.
fn virtual_machine(root: &Root, cpuinfo: &str) -> Result<bool, TopologyError> {
    const MAKERS: [&str; 6] = ["QEMU", "KVM", "VMware", "innotek", "Xen", "Amazon EC2"];
    let flags = cpu_field(cpuinfo, "flags").unwrap_or_default();
    let maker = line(root, "sys/class/dmi/id/sys_vendor")?.unwrap_or_default();
    Ok(flags.split_whitespace().any(|flag| flag == "hypervisor")
        || optional(root, "sys/hypervisor/type")?.is_some()
        || MAKERS.iter().any(|name| maker.contains(name)))
}

/// The table of `net/core/sysctl_net_core.c` that holds this sysctl is registered for the initial network namespace only.
/// Comparing with `/proc/1/ns/net` says nothing: process 1 of a container is in its namespace too.
fn initial_netns(root: &Root) -> bool {
    root.machine("proc/sys/net/core/netdev_max_backlog").is_ok_and(|path| path.exists())
}

fn cpu_field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| field(line, name))
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = line.split_once(':')?;
    (key.trim() == name).then(|| value.trim())
}

fn optional(root: &Root, path: &str) -> Result<Option<String>, RootError> {
    match root.read_machine(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn line(root: &Root, path: &str) -> Result<Option<String>, RootError> {
    Ok(optional(root, path)?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests;
