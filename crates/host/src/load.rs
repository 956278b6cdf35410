//! How busy each CPU is.

use std::collections::BTreeMap;

use sysinfo::{CpuRefreshKind, MINIMUM_CPU_UPDATE_INTERVAL, RefreshKind, System};

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
