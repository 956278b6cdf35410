//! What `headgate hw show` shows: the machine, its profile, where the queues of its NICs are served, and every knob.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::ethtool;
use crate::facts::{Core, Facts};
use crate::knob::{list_text, name};
use crate::state::{Knob, KnobValue};
use crate::step::Outcome;

/// The tuning of a machine, wanted and found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HardwareReport {
    /// The CPU's model name.
    pub cpu_model: String,
    /// Physical cores.
    pub cores: Vec<Core>,
    /// Bytes.
    pub memory_bytes: u64,
    /// The product's name in the DMI table.
    pub dmi_product: Option<String>,
    /// `uname -r`.
    pub kernel_release: String,
    /// A hypervisor is below.
    pub virtual_machine: bool,
    /// The hardware profile in use.
    pub profile: Option<String>,
    /// A row for each queue of each NIC.
    pub queues: Vec<QueueRow>,
    /// What ethtool sets, by NIC: setting, found and wanted.
    #[serde(default)]
    pub settings: BTreeMap<String, BTreeMap<String, Setting>>,
    /// Percent of the time that each CPU is busy, by its number; empty when nobody looked.
    #[serde(default)]
    pub load: BTreeMap<u32, u8>,
    /// A row for each knob, in the order in which they are turned.
    pub knobs: Vec<KnobRow>,
}

/// A queue of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueueRow {
    /// Kernel name.
    pub nic: String,
    /// Kernel driver.
    pub driver: Option<String>,
    /// From 0.
    pub queue: u32,
    /// Its interrupts: one, or one for receiving and one for sending.
    pub irqs: Vec<u32>,
    /// The CPU that serves them.
    pub cpu: Cpus,
    /// The CPUs that received packets are steered to.
    pub rps: Cpus,
    /// The CPUs that send through it.
    pub xps: Cpus,
}

/// A setting of a NIC, wanted and found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setting {
    /// As ethtool would be told.
    pub wanted: String,
    /// As the NIC has it; `None`: it does not have it.
    pub found: Option<String>,
}

/// CPUs, wanted and found. `None`: not ours to say, or not there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cpus {
    /// What the profile wants.
    pub wanted: Option<Vec<u32>>,
    /// What the kernel has.
    pub found: Option<Vec<u32>>,
}

/// A knob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KnobRow {
    /// As people call it: a path with its leading slash, or `ethtool eth0 rings`.
    pub path: String,
    /// As it is written into the file.
    pub wanted: String,
    /// As the file has it; `None`: it is not there or cannot be read.
    pub found: Option<String>,
    /// What it had before our first change.
    pub original: Option<String>,
    /// How it stands.
    pub standing: KnobStanding,
    /// One sentence for people.
    pub why: String,
    /// The line that asked for it, `FILE:LINE:COLUMN`.
    pub origin: Option<String>,
}

/// How a knob stands, worst last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnobStanding {
    /// It has its value.
    AsWanted,
    /// This machine does not have it.
    Unsupported,
    /// It has another value, and `apply` would change it.
    Differs,
    /// The kernel refused it, and why.
    Refused(String),
}

/// What is known of the machine now.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The machine.
    pub facts: &'a Facts,
    /// The profile in use.
    pub profile: Option<&'a str>,
    /// The knobs that are wanted, in order.
    pub knobs: &'a [Knob],
    /// What was found, by path.
    pub found: &'a BTreeMap<String, KnobValue>,
    /// What became of knobs when they were written last, by path.
    pub outcomes: &'a BTreeMap<String, Outcome>,
    /// What knobs had before our first change, by path.
    pub originals: &'a BTreeMap<String, String>,
}

impl HardwareReport {
    /// Puts together what is known.
    pub fn new(sources: Sources<'_>) -> Self {
        let facts = sources.facts;
        Self {
            cpu_model: facts.cpu_model.clone(),
            cores: facts.cores.clone(),
            memory_bytes: facts.memory_bytes,
            dmi_product: facts.dmi_product.clone(),
            kernel_release: facts.kernel_release.clone(),
            virtual_machine: facts.virtual_machine,
            profile: sources.profile.map(str::to_owned),
            queues: queue_rows(sources),
            settings: settings(sources),
            load: BTreeMap::new(),
            knobs: sources.knobs.iter().map(|knob| knob_row(knob, sources)).collect(),
        }
    }
}

fn settings(sources: Sources<'_>) -> BTreeMap<String, BTreeMap<String, Setting>> {
    let mut nics: BTreeMap<String, BTreeMap<String, Setting>> = BTreeMap::new();
    for knob in sources.knobs {
        let Some((link, setting)) = ethtool::of_path(&knob.path) else { continue };
        let has = sources.outcomes.get(&knob.path) != Some(&Outcome::Unsupported);
        let found = sources.found.get(&knob.path).filter(|found| has || knob.is_satisfied_by(found));
        let found = found.map(ToString::to_string);
        let row = Setting { wanted: knob.want.to_string(), found };
        nics.entry(link.to_owned()).or_default().insert(setting.to_string(), row);
    }
    nics
}

fn queue_rows(sources: Sources<'_>) -> Vec<QueueRow> {
    let wanted: BTreeMap<&str, &KnobValue> =
        sources.knobs.iter().map(|knob| (knob.path.as_str(), &knob.want)).collect();
    let cpus = |path: &str| Cpus {
        wanted: wanted.get(path).and_then(|value| cpus_of(value)),
        found: sources.found.get(path).and_then(cpus_of),
    };
    let mut rows = Vec::new();
    for (name, link) in &sources.facts.links {
        let Some(nic) = &link.nic else { continue };
        for queue in 0..nic.rx_queues.max(nic.tx_queues) {
            let irqs = nic.irqs.iter().filter(|irq| irq.queue == Some(queue)).map(|irq| irq.number);
            let irqs: Vec<u32> = irqs.collect();
            let irq_path = irqs.first().map(|irq| format!("proc/irq/{irq}/smp_affinity_list")).unwrap_or_default();
            rows.push(QueueRow {
                nic: name.clone(),
                driver: link.driver.clone(),
                queue,
                irqs,
                cpu: cpus(&irq_path),
                rps: cpus(&format!("sys/class/net/{name}/queues/rx-{queue}/rps_cpus")),
                xps: cpus(&format!("sys/class/net/{name}/queues/tx-{queue}/xps_cpus")),
            });
        }
    }
    rows
}

fn cpus_of(value: &KnobValue) -> Option<Vec<u32>> {
    match value {
        KnobValue::CpuList(cpus) | KnobValue::CpuMask(cpus) => Some(cpus.clone()),
        KnobValue::Int(_) | KnobValue::Fields(_) | KnobValue::Text(_) => None,
    }
}

fn knob_row(knob: &Knob, sources: Sources<'_>) -> KnobRow {
    let found = sources.found.get(&knob.path);
    let standing = match (found, sources.outcomes.get(&knob.path)) {
        (Some(found), _) if knob.is_satisfied_by(found) => KnobStanding::AsWanted,
        (_, Some(Outcome::Refused(reason))) => KnobStanding::Refused(reason.clone()),
        (None, _) | (_, Some(Outcome::Unsupported)) => KnobStanding::Unsupported,
        (Some(_), _) => KnobStanding::Differs,
    };
    KnobRow {
        path: name(&knob.path),
        wanted: knob.want.file_text(),
        found: found.map(KnobValue::file_text),
        original: sources.originals.get(&knob.path).cloned(),
        standing,
        why: knob.why.clone(),
        origin: knob.origin.as_ref().map(ToString::to_string),
    }
}

/// The machine, a table of queues, and the knobs that are not as wanted; with `{:#}` all knobs, each with its reason.
impl Display for HardwareReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_machine(f)?;
        self.write_queues(f)?;
        self.write_settings(f)?;
        self.write_counts(f)?;
        for knob in &self.knobs {
            if f.alternate() {
                write!(f, "{knob:#}")?;
            } else if !matches!(knob.standing, KnobStanding::AsWanted | KnobStanding::Unsupported) {
                write!(f, "{knob}")?;
            }
        }
        Ok(())
    }
}

impl HardwareReport {
    /// Adds how busy each CPU is, percent by its number.
    pub fn set_load(&mut self, load: &BTreeMap<u32, u8>) {
        self.load.clone_from(load);
    }

    /// What each NIC has of what ethtool sets; `256>2048` where it should be otherwise.
    fn write_settings(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (nic, settings) in &self.settings {
            let texts = settings.iter().filter_map(|(name, Setting { wanted, found })| match found {
                Some(found) if found == wanted => Some(format!("{name}: {found}")),
                Some(found) => Some(format!("{name}: {found} > {wanted}")),
                None => None,
            });
            let texts: Vec<String> = texts.collect();
            if !texts.is_empty() {
                writeln!(f, "\n{nic}")?;
                texts.iter().try_for_each(|text| writeln!(f, "  {text}"))?;
            }
        }
        Ok(())
    }

    fn write_machine(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let threads: usize = self.cores.iter().map(|core| core.threads.len()).sum();
        let or_unknown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        let virtual_machine = if self.virtual_machine { " (virtual)" } else { "" };
        writeln!(f, "Machine  {}{virtual_machine}", or_unknown(self.dmi_product.as_deref().unwrap_or_default()))?;
        writeln!(f, "CPU      {}", or_unknown(&self.cpu_model))?;
        let siblings: Vec<String> = self.cores.iter().map(|core| list_text(&core.threads)).collect();
        writeln!(f, "Cores    {}, {threads} threads: {}", self.cores.len(), siblings.join(" "))?;
        if !self.load.is_empty() {
            let load: Vec<String> = self.load.iter().map(|(cpu, percent)| format!("{cpu}: {percent} %")).collect();
            writeln!(f, "Load     {}", load.join("  "))?;
        }
        // One decimal is enough for people, and division by 2^30 is exact in f64 far beyond any memory.
        writeln!(f, "Memory   {:.1} GiB", self.memory_bytes as f64 / f64::from(1 << 30))?;
        writeln!(f, "Kernel   {}", or_unknown(&self.kernel_release))?;
        writeln!(f, "Profile  {}", self.profile.as_deref().unwrap_or("none"))
    }

    fn write_queues(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.queues.is_empty() {
            return writeln!(f, "\nNo NIC with queues.");
        }
        writeln!(f, "\n{:<15} {:>5}  {:<9} {:<10} {:<5} {:<16} XPS", "NIC", "QUEUE", "IRQ", "CPU", "LOAD", "RPS")?;
        for row in &self.queues {
            let irqs: Vec<String> = row.irqs.iter().map(u32::to_string).collect();
            let irqs = if irqs.is_empty() { "-".to_owned() } else { irqs.join(",") };
            let QueueRow { nic, queue, cpu, rps, xps, .. } = row;
            let served = cpu.found.as_deref().filter(|cpus| cpus.len() == 1).and_then(|cpus| self.load.get(&cpus[0]));
            let load = served.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"));
            writeln!(f, "{nic:<15} {queue:>5}  {irqs:<9} {cpu:<10} {load:<5} {rps:<16} {xps}")?;
        }
        Ok(())
    }

    fn write_counts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let count = |wanted: fn(&KnobStanding) -> bool| self.knobs.iter().filter(|row| wanted(&row.standing)).count();
        writeln!(
            f,
            "\n{} knobs: {} as wanted, {} differ, {} refused, {} not on this machine",
            self.knobs.len(),
            count(|standing| *standing == KnobStanding::AsWanted),
            count(|standing| *standing == KnobStanding::Differs),
            count(|standing| matches!(standing, KnobStanding::Refused(_))),
            count(|standing| *standing == KnobStanding::Unsupported),
        )
    }
}

/// `-`: not ours to say; `off`: no CPU; `0-7>1`: found and wanted, where they are different.
impl Display for Cpus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = |cpus: &Vec<u32>| if cpus.is_empty() { "off".to_owned() } else { list_text(cpus) };
        f.pad(&match (&self.wanted, &self.found) {
            (Some(wanted), Some(found)) if wanted != found => format!("{}>{}", text(found), text(wanted)),
            (Some(cpus), _) | (None, Some(cpus)) => text(cpus),
            (None, None) => "-".to_owned(),
        })
    }
}

/// A line, `STANDING PATH = WANTED (found …)`; with `{:#}` the reason and the line that asked for it below.
impl Display for KnobRow {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let standing = match &self.standing {
            KnobStanding::AsWanted => "as wanted",
            KnobStanding::Unsupported => "not here",
            KnobStanding::Differs => "differs",
            KnobStanding::Refused(_) => "refused",
        };
        write!(f, "{standing:<9} {} = {}", self.path, self.wanted)?;
        match (&self.standing, &self.found) {
            (KnobStanding::AsWanted | KnobStanding::Unsupported, _) => {}
            (KnobStanding::Refused(reason), Some(found)) => write!(f, " (found {found}: {reason})")?,
            (KnobStanding::Refused(reason), None) => write!(f, " ({reason})")?,
            (KnobStanding::Differs, found) => write!(f, " (found {})", found.as_deref().unwrap_or("nothing"))?,
        }
        writeln!(f)?;
        if f.alternate() {
            let original = self.original.as_ref().map(|was| format!("; it was {was}")).unwrap_or_default();
            writeln!(f, "          {}{original}", self.why)?;
            if let Some(origin) = &self.origin {
                writeln!(f, "          --> {origin}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
