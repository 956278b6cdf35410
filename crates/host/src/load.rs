//! How busy each CPU is, and what interrupts it.

use std::collections::BTreeMap;

use headgate_plan::load::{CpuLoad, Load, Vector};
use sysinfo::{CpuRefreshKind, MINIMUM_CPU_UPDATE_INTERVAL, RefreshKind, System};

use crate::Root;
use crate::topology::{INTERRUPTS, vectors};

/// What the CPUs do now, and the counters of packets and interrupts. Blocks as [`per_cpu`] does. What the kernel does not say is
/// left out: a virtual interface has no interrupts.
pub fn read(root: &Root) -> Load {
    // The busy time is the machine's own: a recorded one has none.
    let busy = if root.is_real_machine() { per_cpu() } else { BTreeMap::new() };
    let taken = packets(&root.read_machine("proc/net/softnet_stat").unwrap_or_default());
    let cpu =
        |(&cpu, &packets): (&u32, &u64)| CpuLoad { cpu, busy_percent: busy.get(&cpu).copied().unwrap_or(0), packets };
    let table = root.read_machine(INTERRUPTS).unwrap_or_default();
    let names = root.list_machine("sys/class/net").unwrap_or_default();
    let vectors = names.iter().flat_map(|nic| {
        vectors(root, &table, nic).into_iter().map(|irq| Vector {
            nic: nic.clone(),
            irq: irq.number,
            interrupts: counts(&table, irq.number),
            name: irq.name,
            queue: irq.queue,
        })
    });
    Load { cpus: taken.iter().map(cpu).collect(), vectors: vectors.collect() }
}

/// A line for each CPU that is online, hexadecimal: packets first, the CPU's number as the thirteenth (`softnet_seq_show`,
/// net/core/net-procfs.c).
fn packets(text: &str) -> BTreeMap<u32, u64> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let packets = u64::from_str_radix(fields.next()?, 16).ok()?;
        Some((u32::from_str_radix(fields.nth(11)?, 16).ok()?, packets))
    };
    text.lines().filter_map(line).collect()
}

/// How often an interrupt came, by CPU. The head of the table names its columns: CPUs that are offline have none.
fn counts(table: &str, irq: u32) -> BTreeMap<u32, u64> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let cpus = head.split_whitespace().filter_map(|name| name.strip_prefix("CPU")?.parse::<u32>().ok());
    let line = lines.find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        (number.trim().parse() == Ok(irq)).then_some(rest)
    });
    let counts = line.unwrap_or_default().split_whitespace().map_while(|count| count.parse::<u64>().ok());
    cpus.zip(counts).filter(|(_, count)| *count > 0).collect()
}

/// Percent of the time that each CPU does something, of interrupts too, by its number: measured over a fifth of a second, for
/// which this blocks. Empty where the kernel does not say.
pub fn per_cpu() -> BTreeMap<u32, u8> {
    let usage = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing().with_usage());
    let Ok(mut system) = System::new_with_specifics(usage) else { return BTreeMap::new() };
    std::thread::sleep(MINIMUM_CPU_UPDATE_INTERVAL);
    system.refresh_cpu_usage();
    let cpu = |cpu: &sysinfo::Cpu| {
        // 0 to 100, and a fraction that nobody needs.
        let percent = cpu.usage().clamp(0.0, 100.0).round() as u8;
        Some((cpu.name().strip_prefix("cpu")?.parse().ok()?, percent))
    };
    system.cpus().iter().filter_map(cpu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_cpu() {
        let softnet =
            "0000000a 0 0 0 0 0 0 0 0 0 0 0 00000000 0 0\n000000ff 0 0 0 0 0 0 0 0 0 0 0 00000003 0 0\nbroken\n";
        assert_eq!(packets(softnet), [(0, 10), (3, 255)].into());
        let table = "            CPU0       CPU3\n 40:  1  0  IR-PCI-MSIX 0-edge eth4\n 41: 5 6 PCI-MSI 52-edge eth4-TxRx-0\nERR: 0\n";
        assert_eq!(counts(table, 40), [(0, 1)].into());
        assert_eq!(counts(table, 41), [(0, 5), (3, 6)].into());
        assert_eq!(counts(table, 42), [].into());
        assert_eq!(counts("", 42), [].into());
    }

    #[test]
    fn this_machine_says_how_busy_its_cpus_are() {
        let load = read(&Root::new("/"));
        assert!(!load.cpus.is_empty(), "{load:?}");
        assert!(load.cpus.iter().all(|cpu| cpu.busy_percent <= 100));
    }
}
