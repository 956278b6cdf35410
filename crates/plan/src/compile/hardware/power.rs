//! Frequency and sleep of CPUs, and power saving of PCI Express: what costs microseconds whenever a box was idle.
//!
//! In a virtual machine none of it is ours: the hypervisor's CPUs sleep as it likes.

use headgate_config::model::{Frequency, Switch, Tuning, WakeUp};

use crate::facts::{Facts, Link};
use crate::knob::CPU_WAKE_UP;
use crate::state::{Fit, Knob, KnobValue};

pub(super) fn knobs(tuning: &Tuning, facts: &Facts, ours: &[(&str, &Link)]) -> Vec<Knob> {
    let mut knobs = pcie(tuning, ours);
    if facts.virtual_machine {
        return knobs;
    }
    if tuning.cpu_frequency == Some(Frequency::Performance) {
        knobs.extend(frequency(tuning, facts));
    }
    if let Some(WakeUp::Micros(micros)) = tuning.cpu_wake_up {
        let why = "deeper sleep takes longer to wake from: C6 85 µs, C8 200 µs (Skylake); held while headgated runs";
        let want = KnobValue::Int(micros.into());
        knobs.push(Knob { fit: Fit::AtMost, ..knob(tuning, CPU_WAKE_UP.into(), want, "cpu-wake-up", why) });
    }
    knobs
}

fn frequency(tuning: &Tuning, facts: &Facts) -> Vec<Knob> {
    let key = "cpu-frequency";
    let mut knobs = Vec::new();
    for policy in &facts.cpufreq_policies {
        let file = |name: &str| format!("sys/devices/system/cpu/cpufreq/policy{policy}/{name}");
        let performance = || KnobValue::Text("performance".into());
        let why = "raising the frequency takes longer than forwarding a packet";
        knobs.push(knob(tuning, file("scaling_governor"), performance(), key, why));
        let why = "the CPU itself must not choose to be slow (Intel HWP)";
        knobs.push(knob(tuning, file("energy_performance_preference"), performance(), key, why));
    }
    knobs
}

fn pcie(tuning: &Tuning, ours: &[(&str, &Link)]) -> Vec<Knob> {
    let on = match tuning.pcie_power_saving {
        None | Some(Switch::Leave) => return Vec::new(),
        Some(Switch::On) => 1,
        Some(Switch::Off) => 0,
    };
    let nics = ours.iter().filter(|(_, link)| link.nic.is_some() && link.pci.is_some());
    let one = |(name, _): &(&str, &Link)| {
        let path = format!("sys/class/net/{name}/device/link/l1_aspm");
        let why = "leaving L1 takes microseconds, and errata of the 82574L and the i210 lose packets in it";
        knob(tuning, path, KnobValue::Int(on), "pcie-power-saving", why)
    };
    nics.map(one).collect()
}

fn knob(tuning: &Tuning, path: String, want: KnobValue, key: &str, why: &str) -> Knob {
    Knob { path, want, fit: Fit::Exact, why: why.to_owned(), origin: tuning.origins.get(key).cloned() }
}
