//! Which CPU does what for which queue of a NIC. Pure: cores and queues in, CPUs out.
//!
//! Receiving, forwarding and the completion of sending stay on one physical core per queue:
//!
//! * **IRQ**: a NIC with at least as many queues as there are cores puts queue *i* on core *i*, like every other such NIC, so
//!   that what one NIC receives and the other one sends shares a core. NICs with fewer queues take consecutive cores, so that
//!   two of them do not stack on core 0. The first hardware thread of a core is taken; its sibling is left to programs.
//! * **RPS** spreads by software only where queues are fewer than cores, and never to the CPU that runs NAPI: measured, moving
//!   the work off that CPU doubled the packet rate, spreading over all CPUs *including* it gained 11 to 17 % at the price of
//!   seventy times the inter-processor interrupts.
//! * **XPS**: each CPU sends through exactly one queue, the one whose interrupt is on its core.
//!
//! A core is what `thread_siblings_list` says, never a guess from numbers: Skylake numbers siblings (0,4)(1,5)…, QEMU
//! (0,1)(2,3)…. Queues are taken as they are found: how many there should be is another knob
//! (`compile::hardware`), and once it has been turned this is done anew.

use std::collections::{BTreeMap, BTreeSet};

use headgate_config::model::{IrqPolicy, RpsPolicy, XpsPolicy};
use serde::{Deserialize, Serialize};

use crate::facts::Core;

/// The drivers that spread the vectors of several queues themselves, with XPS to match (`virtnet_set_affinity` in
/// `drivers/net/virtio_net.c`). A second opinion would be undone at the next change of queues.
const SPREAD_THEMSELVES: [&str; 1] = ["virtio_net"];

/// Whether a driver spreads its queues itself.
pub(crate) fn spreads_itself(driver: &str) -> bool {
    SPREAD_THEMSELVES.contains(&driver)
}

/// What is wanted of the three mechanisms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// IRQ affinity of queues.
    pub irq: IrqPolicy,
    /// Receive packet steering.
    pub rps: RpsPolicy,
    /// Transmit packet steering.
    pub xps: XpsPolicy,
}

/// A NIC to be spread over the cores.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Queues {
    /// Kernel name.
    pub name: String,
    /// Kernel driver.
    pub driver: String,
    /// Receive queues.
    pub rx: u32,
    /// Transmit queues.
    pub tx: u32,
    /// NUMA node of the device.
    pub numa_node: Option<u32>,
}

/// Where the queues of a NIC go. `None`: not touched.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Spread {
    /// Kernel name.
    pub name: String,
    /// The CPU for the interrupts of queue *i*, receiving and sending alike.
    pub irq: Option<Vec<u32>>,
    /// The CPUs that receive queue *i* is steered to; empty switches steering off.
    pub rps: Option<Vec<Vec<u32>>>,
    /// The CPUs that send through queue *i*. `None` also with a single queue: the kernel has no such file then.
    pub xps: Option<Vec<Vec<u32>>>,
}

/// Spreads NICs, in their given order, over cores.
pub fn spread(cores: &[Core], nics: &[Queues], policy: Policy) -> Vec<Spread> {
    if cores.iter().all(|core| core.threads.is_empty()) {
        return nics.iter().map(|nic| Spread { name: nic.name.clone(), ..Spread::default() }).collect();
    }
    let mut cursors = BTreeMap::new();
    let placed: Vec<Option<Vec<u32>>> = nics.iter().map(|nic| place(cores, nic, policy.irq, &mut cursors)).collect();
    let interrupted: BTreeSet<u32> = placed.iter().flatten().flatten().copied().collect();
    let spread = nics.iter().zip(&placed).map(|(nic, irq)| Spread {
        name: nic.name.clone(),
        rps: match policy.rps {
            RpsPolicy::Leave => None,
            RpsPolicy::Off => Some(vec![Vec::new(); nic.rx as usize]),
            RpsPolicy::Auto => steer(&pool(cores, nic), nic.rx, irq.as_deref(), &interrupted),
        },
        xps: match policy.xps {
            _ if nic.tx < 2 => None,
            XpsPolicy::Leave => None,
            XpsPolicy::Off => Some(vec![Vec::new(); nic.tx as usize]),
            XpsPolicy::SameCore => irq.as_ref().map(|irq| send(cores, &irq[..nic.tx as usize])),
        },
        irq: irq.clone(),
    });
    spread.collect()
}

/// The cores for a NIC: those of its NUMA node when they are enough for its queues, else all, its node's first.
fn pool<'a>(cores: &'a [Core], nic: &Queues) -> Vec<&'a Core> {
    let mut pool: Vec<&Core> = cores.iter().filter(|core| !core.threads.is_empty()).collect();
    let is_local = |core: &&Core| nic.numa_node.is_none_or(|node| core.numa_node == node);
    pool.sort_by_key(|core| !is_local(core));
    let local = pool.iter().filter(|core| is_local(core)).count();
    if local >= nic.rx.max(nic.tx) as usize && local > 0 {
        pool.truncate(local);
    }
    pool
}

/// The CPU of each queue; `None` when the interrupts are left alone. `cursors` is the next core by NUMA node.
fn place(cores: &[Core], nic: &Queues, irq: IrqPolicy, cursors: &mut BTreeMap<Option<u32>, usize>) -> Option<Vec<u32>> {
    let queues = nic.rx.max(nic.tx) as usize;
    let spreads_itself = queues > 1 && spreads_itself(&nic.driver);
    if irq == IrqPolicy::Leave || spreads_itself {
        return None;
    }
    let pool = pool(cores, nic);
    let start = if queues >= pool.len() {
        0
    } else {
        let cursor = cursors.entry(nic.numa_node).or_default();
        std::mem::replace(cursor, (*cursor + queues) % pool.len()) % pool.len()
    };
    let cpu = |queue: usize| {
        let threads = &pool[(start + queue) % pool.len()].threads;
        match irq {
            IrqPolicy::SpreadSmt => threads[queue / pool.len() % threads.len()],
            IrqPolicy::OnePerCore | IrqPolicy::Leave => threads[0],
        }
    };
    Some((0..queues).map(cpu).collect())
}

/// The RPS mask of each receive queue. Without knowing where NAPI runs only "off" can be said.
fn steer(pool: &[&Core], rx: u32, irq: Option<&[u32]>, interrupted: &BTreeSet<u32>) -> Option<Vec<Vec<u32>>> {
    let rx = rx as usize;
    if rx >= pool.len() {
        return Some(vec![Vec::new(); rx]);
    }
    let irq = &irq?[..rx];
    let threads = || pool.iter().flat_map(|core| &core.threads).copied();
    if let [own] = irq {
        let free: BTreeSet<u32> = threads().filter(|cpu| !interrupted.contains(cpu)).collect();
        let others: BTreeSet<u32> = threads().filter(|cpu| cpu != own).collect();
        return Some(vec![if free.is_empty() { others } else { free }.into_iter().collect()]);
    }
    let idle = pool.iter().filter(|core| core.threads.iter().all(|cpu| !interrupted.contains(cpu)));
    let idle: Vec<u32> = idle.map(|core| core.threads[0]).collect();
    let mask = |(queue, own): (usize, &u32)| {
        let core = pool.iter().find(|core| core.threads.contains(own));
        let siblings = core.into_iter().flat_map(|core| &core.threads).copied().filter(|cpu| cpu != own);
        let dealt = idle.iter().copied().skip(queue).step_by(rx);
        siblings.chain(dealt).collect::<BTreeSet<u32>>().into_iter().collect()
    };
    Some(irq.iter().enumerate().map(mask).collect())
}

/// The XPS mask of each transmit queue: the threads of a core go to the queues whose interrupt is on it, in turn when there
/// are several; those of a core without a queue go to queue (core modulo queues).
fn send(cores: &[Core], irq: &[u32]) -> Vec<Vec<u32>> {
    let mut masks = vec![BTreeSet::new(); irq.len()];
    for (index, core) in cores.iter().enumerate() {
        let here = |queue: &usize| core.threads.contains(&irq[*queue]);
        let queues: Vec<usize> = (0..irq.len()).filter(here).collect();
        for (turn, &cpu) in core.threads.iter().enumerate() {
            let queue = if queues.is_empty() { index % irq.len() } else { queues[turn % queues.len()] };
            masks[queue].insert(cpu);
        }
    }
    masks.into_iter().map(|mask| mask.into_iter().collect()).collect()
}

#[cfg(test)]
mod tests;
