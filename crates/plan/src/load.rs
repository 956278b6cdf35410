//! How busy each CPU is and what interrupts it: what `headgate top` and the console show of the hardware.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The CPUs and the interrupts of NICs at one moment. Counters begin with the boot; two of these make a rate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Load {
    /// By number.
    pub cpus: Vec<CpuLoad>,
    /// By NIC, then by number.
    pub vectors: Vec<Vector>,
}

/// A CPU that is online.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuLoad {
    /// Its number.
    pub cpu: u32,
    /// Percent of the last fifth of a second that it did something, interrupts included.
    pub busy_percent: u8,
    /// Packets that it took from NICs and from other CPUs, since the boot.
    pub packets: u64,
}

/// An interrupt vector of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vector {
    /// Kernel name of the NIC.
    pub nic: String,
    /// `/proc/irq/N`.
    pub irq: u32,
    /// Its name in `/proc/interrupts`.
    pub name: String,
    /// The queue that it serves; `None` for link changes and configuration.
    pub queue: Option<u32>,
    /// How often it came since the boot, by the CPU that served it; CPUs that never did are left out.
    pub interrupts: BTreeMap<u32, u64>,
}

/// How often something comes in a second.
pub type PerSecond = f64;

/// A vector on a CPU that serves it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Served<'a> {
    /// The vector.
    pub vector: &'a Vector,
    /// `None` when there is nothing to compare with.
    pub rate: Option<PerSecond>,
}

impl Load {
    /// Packets a second that a CPU took, since `before`, so many seconds ago.
    pub fn packet_rate(&self, cpu: u32, before: &Load, seconds: f64) -> Option<PerSecond> {
        let of = |load: &Load| load.cpus.iter().find(|one| one.cpu == cpu).map(|one| one.packets);
        Some(of(self)?.checked_sub(of(before)?)? as f64 / seconds)
    }

    /// The vectors that a CPU has served since `before`; those that nobody has served since, where they came most often.
    pub fn served(&self, cpu: u32, before: Option<(&Load, f64)>) -> Vec<Served<'_>> {
        let mut served = Vec::new();
        for vector in &self.vectors {
            let rates = before.and_then(|(before, seconds)| vector.rates(before, seconds));
            let total = |counts: &BTreeMap<u32, PerSecond>| counts.values().sum::<f64>() > 0.0;
            match rates {
                Some(rates) if total(&rates) => {
                    let rate = rates.get(&cpu).copied().filter(|rate| *rate > 0.0);
                    served.extend(rate.map(|rate| Served { vector, rate: Some(rate) }));
                }
                rates if vector.home() == Some(cpu) => served.push(Served { vector, rate: rates.map(|_| 0.0) }),
                _ => {}
            }
        }
        served
    }
}

impl Vector {
    /// By CPU; `None` when the vector was not there before, or began anew.
    fn rates(&self, before: &Load, seconds: f64) -> Option<BTreeMap<u32, PerSecond>> {
        let before = before.vectors.iter().find(|one| one.irq == self.irq && one.name == self.name)?;
        let rate = |(cpu, now): (&u32, &u64)| {
            let before = before.interrupts.get(cpu).copied().unwrap_or_default();
            Some((*cpu, now.checked_sub(before)? as f64 / seconds))
        };
        self.interrupts.iter().map(rate).collect()
    }

    /// The CPU that has served it most often; the first one when nobody has yet.
    fn home(&self) -> Option<u32> {
        let most = self.interrupts.iter().max_by_key(|(cpu, count)| (**count, std::cmp::Reverse(**cpu)));
        Some(most.map_or(0, |(cpu, _)| *cpu))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(irq: u32, queue: u32, interrupts: &[(u32, u64)]) -> Vector {
        let (nic, name) = ("eth0".to_owned(), format!("eth0-TxRx-{queue}"));
        Vector { nic, irq, name, queue: Some(queue), interrupts: interrupts.iter().copied().collect() }
    }

    fn load(packets: u64, vectors: Vec<Vector>) -> Load {
        let cpus = (0..2).map(|cpu| CpuLoad { cpu, busy_percent: 1, packets: packets * u64::from(cpu) }).collect();
        Load { cpus, vectors }
    }

    fn told(load: &Load, cpu: u32, before: Option<(&Load, f64)>) -> Vec<(u32, Option<f64>)> {
        load.served(cpu, before).iter().map(|served| (served.vector.irq, served.rate)).collect()
    }

    #[test]
    fn a_vector_is_where_it_comes_and_an_idle_one_where_it_came_most() {
        let before = load(100, vec![vector(40, 0, &[(0, 5), (1, 100)]), vector(41, 1, &[(1, 7)]), vector(42, 2, &[])]);
        let now = load(300, vec![vector(40, 0, &[(0, 45), (1, 100)]), vector(41, 1, &[(1, 7)]), vector(42, 2, &[])]);
        assert_eq!(told(&now, 0, None), [(42, None)]);
        assert_eq!(told(&now, 1, None), [(40, None), (41, None)]);
        assert_eq!(told(&now, 0, Some((&before, 2.0))), [(40, Some(20.0)), (42, Some(0.0))]);
        assert_eq!(told(&now, 1, Some((&before, 2.0))), [(41, Some(0.0))]);
        assert_eq!(now.packet_rate(1, &before, 2.0), Some(100.0));
        assert_eq!(before.packet_rate(1, &now, 2.0), None, "it began anew");
        assert_eq!(told(&before, 0, Some((&now, 2.0))), [(42, Some(0.0))]);
        assert_eq!(now.packet_rate(7, &before, 2.0), None);
    }
}
