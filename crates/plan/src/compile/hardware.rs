//! Hardware tuning: from profiles, overrides and `[sysctl]` to knobs, each with its reason and the line that asked for it.
//!
//! Later ones replace earlier ones of the same path: what forwarding itself needs (`needs`), then the hardware profile with
//! the profiles below it and `[hardware.overrides]` above it (`choose`), at last `[sysctl]`, literally. Only interfaces of
//! ours are touched: those that the configuration names, those that carry virtual addresses and, on the appliance, every NIC.
//! Loopback and the interfaces of others (containers) never are.

mod choose;
mod needs;
mod nic;
mod power;
mod sysctl;

use std::collections::{BTreeMap, BTreeSet};

use headgate_config::model::{
    Config, ConntrackMax, IrqPolicy, Origin, Profile, RpsPolicy, SysctlValue, Tuning, XpsPolicy,
};

pub use self::choose::UnknownProfile;
use crate::affinity::{self, Policy, Queues, Spread};
use crate::facts::{Facts, Link, NicIrq};
use crate::state::{Fit, Knob, KnobValue};

/// Per entry of the connection table: 384 bytes of the entry and its first extension, measured, and two heads of hash chains.
const CONNTRACK_ENTRY_BYTES: u64 = 400;
const CONNTRACK_MAX: &str = "proc/sys/net/netfilter/nf_conntrack_max";
const CONNTRACK_BUCKETS: &str = "proc/sys/net/netfilter/nf_conntrack_buckets";
/// The kernel rounds buckets up to whole pages of them (`nf_ct_alloc_hashtable`); any other number would never be
/// read back.
const BUCKETS_PER_PAGE: i64 = 512;
/// `net.core.netdev_max_backlog` where RPS is used: only then packets wait there, and 1000 is less than a burst of one ring.
const RPS_BACKLOG: i64 = 4096;

/// The knobs of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tuned {
    /// The profile in use.
    pub profile: Option<String>,
    /// In the order in which they are to be turned: forwarding first, because the kernel changes others with it.
    pub knobs: Vec<Knob>,
    /// Where the queues of each NIC of ours go.
    pub spread: Vec<Spread>,
    /// Sentences for people about what is not done here.
    pub notes: Vec<String>,
}

/// Decides every knob. `managed` holds the kernel names of the interfaces that the configuration names and of those that
/// virtual addresses are added to; what else belongs to us is found in `facts`.
///
/// # Errors
/// [`UnknownProfile`] when `hardware.profile` names one that is not there.
pub fn knobs(
    config: &Config,
    profiles: &[Profile],
    facts: &Facts,
    managed: &BTreeSet<String>,
) -> Result<Tuned, UnknownProfile> {
    let chosen = choose::choose(&config.hardware, profiles, facts)?;
    let ours = interfaces(config, facts, managed);
    let mut compiler = Compiler { facts, tuning: &chosen.tuning, knobs: Knobs::default(), notes: Vec::new() };
    for knob in needs::knobs(config, facts, &ours) {
        compiler.knobs.put(knob);
    }
    // Before interrupts and steering, which new queues undo.
    for (name, link) in &ours {
        nic::knobs(&chosen.tuning, &facts.cores, name, link).into_iter().for_each(|knob| compiler.knobs.put(knob));
    }
    power::knobs(&chosen.tuning, facts, &ours).into_iter().for_each(|knob| compiler.knobs.put(knob));
    let spread = compiler.spread(&ours);
    compiler.conntrack();
    compiler.profile_sysctls(&ours);
    compiler.literal_sysctls(config);
    Ok(Tuned { profile: chosen.profile, knobs: compiler.knobs.in_order(), spread, notes: compiler.notes })
}

/// What keepalived calls the interfaces that it makes for virtual MAC addresses; it sets their sysctls itself
/// (`vrrp_if_config.c`), and would be fought.
const KEEPALIVED: &str = "vrrp.";

/// The interfaces of ours, by PCI address and kernel index: the order of ports on the case, which names (`eth10` before
/// `eth2`) are not.
fn interfaces<'a>(config: &Config, facts: &'a Facts, managed: &BTreeSet<String>) -> Vec<(&'a str, &'a Link)> {
    let virtual_addresses: BTreeSet<_> =
        config.farms.values().flat_map(|farm| &farm.listen).map(|listen| listen.address).collect();
    let is_ours = |name: &str, link: &Link| {
        !link.loopback
            && name != "lo"
            && !name.starts_with(KEEPALIVED)
            && (managed.contains(name)
                || facts.appliance && link.nic.is_some()
                || link.addresses.iter().any(|address| virtual_addresses.contains(&address.net.addr())))
    };
    let links = facts.links.iter().map(|(name, link)| (name.as_str(), link));
    let mut ours: Vec<(&str, &Link)> = links.filter(|(name, link)| is_ours(name, link)).collect();
    ours.sort_by_key(|(name, link)| (link.pci.clone(), link.index, *name));
    ours
}

/// Knobs in the order of their first mention; the last mention of a path counts.
#[derive(Debug, Default)]
struct Knobs {
    order: Vec<String>,
    by_path: BTreeMap<String, Knob>,
}

impl Knobs {
    fn put(&mut self, knob: Knob) {
        let path = knob.path.clone();
        if self.by_path.insert(path.clone(), knob).is_none() {
            self.order.push(path);
        }
    }

    fn in_order(mut self) -> Vec<Knob> {
        self.order.iter().filter_map(|path| self.by_path.remove(path)).collect()
    }
}

struct Compiler<'a> {
    facts: &'a Facts,
    tuning: &'a Tuning,
    knobs: Knobs,
    notes: Vec<String>,
}

impl Compiler<'_> {
    fn origin(&self, key: &str) -> Option<Origin> {
        self.tuning.origins.get(key).cloned()
    }

    fn spread(&mut self, ours: &[(&str, &Link)]) -> Vec<Spread> {
        let policy = Policy {
            irq: self.tuning.irq.unwrap_or(IrqPolicy::Leave),
            rps: self.tuning.rps.unwrap_or(RpsPolicy::Leave),
            xps: self.tuning.xps.unwrap_or(XpsPolicy::Leave),
        };
        let nics = ours.iter().filter_map(|(name, link)| Some((*name, *link, link.nic.as_ref()?)));
        let queues: Vec<Queues> = nics
            .clone()
            .map(|(name, link, nic)| Queues {
                name: name.to_owned(),
                driver: link.driver.clone().unwrap_or_default(),
                rx: nic.rx_queues,
                tx: nic.tx_queues,
                numa_node: nic.numa_node,
            })
            .collect();
        let spread = affinity::spread(&self.facts.cores, &queues, policy);
        for ((_, _, nic), spread) in nics.zip(&spread) {
            self.interrupts(spread, &nic.irqs);
            self.steering(spread);
        }
        let steered: BTreeSet<u32> =
            spread.iter().flat_map(|spread| spread.rps.iter().flatten().flatten()).copied().collect();
        if !steered.is_empty() {
            self.backlog(steered.into_iter().collect());
        }
        self.name_rivals(&spread);
        spread
    }

    fn interrupts(&mut self, spread: &Spread, irqs: &[NicIrq]) {
        let Some(cpus) = &spread.irq else { return };
        if !irqs.iter().any(|irq| irq.queue.is_some()) {
            self.notes.push(format!("{}: no interrupts of queues are known; a NIC that is down has none", spread.name));
        }
        for irq in irqs {
            let Some((queue, cpu)) = irq.queue.and_then(|queue| Some((queue, cpus.get(queue as usize)?))) else {
                continue;
            };
            let name = &spread.name;
            self.knobs.put(Knob {
                path: format!("proc/irq/{}/smp_affinity_list", irq.number),
                want: KnobValue::CpuList(vec![*cpu]),
                fit: Fit::Exact,
                why: format!("queue {queue} of {name} is received, forwarded and sent on CPU {cpu} alone"),
                origin: self.origin("irq"),
            });
        }
    }

    fn steering(&mut self, spread: &Spread) {
        let name = &spread.name;
        for (queue, cpus) in spread.rps.iter().flatten().enumerate() {
            let why = if cpus.is_empty() {
                format!("the hardware spreads {name} well enough: steering would only add interrupts between CPUs")
            } else {
                format!("{name} has fewer queues than there are cores: the CPUs beside that of queue {queue} take over")
            };
            let path = format!("sys/class/net/{name}/queues/rx-{queue}/rps_cpus");
            let (want, origin) = (KnobValue::CpuMask(cpus.clone()), self.origin("rps"));
            self.knobs.put(Knob { path, want, fit: Fit::Exact, why, origin });
        }
        for (queue, cpus) in spread.xps.iter().flatten().enumerate() {
            let path = format!("sys/class/net/{name}/queues/tx-{queue}/xps_cpus");
            let why = format!("these CPUs send through queue {queue} of {name}, whose interrupt is nearest to them");
            let (want, origin) = (KnobValue::CpuMask(cpus.clone()), self.origin("xps"));
            self.knobs.put(Knob { path, want, fit: Fit::Exact, why, origin });
        }
    }

    /// What packets meet that are steered to another CPU.
    fn backlog(&mut self, steered: Vec<u32>) {
        if !self.facts.initial_netns {
            return;
        }
        let knobs = [
            (
                "netdev_max_backlog",
                KnobValue::Int(RPS_BACKLOG),
                Fit::AtLeast,
                "packets that are steered to another CPU wait in its backlog",
            ),
            (
                "flow_limit_cpu_bitmap",
                KnobValue::CpuMask(steered),
                Fit::Exact,
                "when the backlog of a CPU is half full, the largest flow loses packets before the others do",
            ),
            ("netdev_tstamp_prequeue", KnobValue::Int(0), Fit::Exact, "the CPU that is steered to takes the time"),
        ];
        for (name, want, fit, why) in knobs {
            let path = format!("proc/sys/net/core/{name}");
            self.knobs.put(Knob { path, want, fit, why: why.to_owned(), origin: self.origin("rps") });
        }
    }

    /// Programs that will undo what is set here.
    fn name_rivals(&mut self, spread: &[Spread]) {
        let places = spread.iter().any(|spread| spread.irq.is_some());
        if places && self.facts.rivals.contains("irqbalance") {
            let note = "irqbalance runs and moves interrupts: stop it, or set irq = \"leave\" in [hardware.overrides]";
            self.notes.push(note.to_owned());
        }
    }

    fn conntrack(&mut self) {
        let Some(max) = self.tuning.conntrack_max else { return };
        if !self.facts.initial_netns {
            self.notes.push("the size of the connection table is the host's: this is not its network namespace".into());
            return;
        }
        let (entries, fit) = match max {
            ConntrackMax::Auto => (conntrack_entries(self.facts.memory_bytes), Fit::AtLeast),
            ConntrackMax::Entries(entries) => (i64::from(entries), Fit::Exact),
        };
        let buckets = (entries / 2 / BUCKETS_PER_PAGE).max(1) * BUCKETS_PER_PAGE;
        let knob = |path: &str, want, why: &str| Knob {
            path: path.to_owned(),
            want: KnobValue::Int(want),
            fit,
            why: why.to_owned(),
            origin: self.tuning.origins.get("conntrack.max").cloned(),
        };
        // Buckets first: for a moment a small table in many buckets, never a large one in few.
        let buckets = knob(CONNTRACK_BUCKETS, buckets, "two entries in a bucket when the table is full: short chains");
        let max = knob(CONNTRACK_MAX, entries, "connections that fit into an eighth of the memory");
        self.knobs.put(buckets);
        self.knobs.put(max);
    }

    fn profile_sysctls(&mut self, ours: &[(&str, &Link)]) {
        for (name, value) in &self.tuning.sysctl {
            if !self.facts.initial_netns && sysctl::is_of_the_host(name) {
                self.notes.push(format!("{name} is the host's: this is not its network namespace"));
                continue;
            }
            let why = sysctl::reason(name).unwrap_or("the hardware profile asks for it").to_owned();
            for path in sysctl::paths(name, ours.iter().map(|(name, _)| *name)) {
                let (want, fit) = sysctl::value(&path, value);
                let origin = self.origin(&format!("sysctl.{name}"));
                self.knobs.put(Knob { path, want, fit, why: why.clone(), origin });
            }
        }
    }

    fn literal_sysctls(&mut self, config: &Config) {
        for (name, value) in &config.sysctl {
            let path = sysctl::path(name);
            match value {
                SysctlValue::Unset => {
                    self.knobs.by_path.remove(&path);
                }
                SysctlValue::Set(value) => {
                    let (want, _) = sysctl::value(&path, value);
                    let why = "[sysctl] of the configuration".to_owned();
                    let origin = config.sysctl_origins.get(name).cloned();
                    self.knobs.put(Knob { path, want, fit: Fit::Exact, why, origin });
                }
            }
        }
    }
}

/// The largest power of two whose entries fit into an eighth of the memory, between 2^18 and 2^23.
fn conntrack_entries(memory_bytes: u64) -> i64 {
    let fit = memory_bytes / 8 / CONNTRACK_ENTRY_BYTES;
    1 << fit.checked_ilog2().unwrap_or(0).clamp(18, 23)
}

#[cfg(test)]
mod tests;
