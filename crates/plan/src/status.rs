//! Status: what `headgate status` and `farm list` show, worst first.

mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use headgate_config::Config;
use headgate_config::model::{Farm, FarmState, Mode};
use headgate_config::types::{BackendName, FarmName};
use serde::{Deserialize, Serialize};

pub use self::system::{Clock, Fence, Syslog, TimeServer};
use crate::capacity::{Capacity, PortUse};
use crate::compile::Desired;
pub use crate::compile::Standing;
use crate::fault::Fault;
use crate::names;
use crate::state::State;
use crate::step::{Detail, Outcome, Plan, Step, StepView};

/// How the whole is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// What [`Status::healthy`] says.
    pub healthy: bool,
    /// The generation of the configuration that runs.
    pub generation: Option<u64>,
    /// What went wrong last, and has not gone right since.
    pub last_error: Option<String>,
    /// What needs somebody's attention, worst first, each with what to do.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Worst first, then by name.
    pub farms: Vec<FarmStatus>,
    /// What the kernel has otherwise than it should.
    pub drift: Vec<StepView>,
    /// Worst first, then by name.
    pub services: Vec<ServiceStatus>,
    /// What became of the knobs.
    pub knobs: KnobCounts,
    /// Knobs that the kernel refused, with its reason, by path.
    pub refused: BTreeMap<String, String>,
    /// What cannot be as the configuration says.
    pub warnings: Vec<String>,
    /// The hardware profile in use.
    pub profile: Option<String>,
    /// How flows are counted for the farms that are steered by their numbers; `None` without such farms.
    pub counting: Option<Counting>,
    /// What runs out, or is lost already.
    #[serde(default)]
    pub capacity: Capacity,
    /// How the clock is kept; `None` when no time server is named.
    #[serde(default)]
    pub clock: Option<Clock>,
    /// How sending the log elsewhere goes; `None` when it is not asked for.
    #[serde(default)]
    pub syslog: Option<Syslog>,
    /// What keeps the daemon's threads that read what strangers write from the rest of the machine.
    #[serde(default)]
    pub fence: Fence,
}

/// How flows are counted for least connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counting {
    /// Farms that are steered.
    pub farms: usize,
    /// The flows of their backends when they were counted last.
    pub flows: u64,
    /// CPU time that the last count took, milliseconds.
    pub took_ms: u64,
    /// From one count to the next, milliseconds: long enough for counting to take at most 2 % of one CPU.
    pub every_ms: u64,
}

/// How a farm is. The order is from bad to good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FarmHealth {
    /// New flows are refused: by the operator, or for want of a backend.
    Down,
    /// It serves, but not with all backends, or not on all addresses.
    Degraded,
    /// All is well.
    Serving,
    /// Not in the data plane, as the operator wants.
    Off,
}

impl FarmHealth {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            FarmHealth::Down => "down",
            FarmHealth::Degraded => "degraded",
            FarmHealth::Serving => "serving",
            FarmHealth::Off => "off",
        }
    }
}

/// One farm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FarmStatus {
    /// Its name.
    pub name: FarmName,
    /// How it is.
    pub health: FarmHealth,
    /// For how long, milliseconds, as far as this boot knows.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// `snat`, `dnat`.
    pub mode: String,
    /// As in the configuration.
    pub listen: Vec<String>,
    /// Of its addresses, those that no interface has.
    pub unplaced: Vec<IpAddr>,
    /// Backends that take new flows, or would if those before them could not.
    pub usable: usize,
    /// All its backends.
    pub total: usize,
    /// Active flows of all its backends.
    pub flows: u64,
    /// Flows that its backends were given, since each is there with this address. Modes `snat` and `dnat`.
    #[serde(default)]
    pub new_flows: u64,
    /// Packets and bytes of both directions, when `[metrics] traffic` asks for them.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// Packets that were refused, by the limit or policy that did it.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// By name.
    pub backends: Vec<BackendStatus>,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackendStatus {
    /// Its name.
    pub name: BackendName,
    /// As in the configuration.
    pub address: String,
    /// Whether it takes flows.
    pub standing: Standing,
    /// Its share among those of its priority.
    pub weight: u16,
    /// The lowest number with a usable backend serves.
    pub priority: u32,
    /// Flows that may still carry data; not those that both sides have closed.
    pub flows: u64,
    /// Flows that it was given, since it is there with this address. Modes `snat` and `dnat`.
    #[serde(default)]
    pub new_flows: u64,
    /// Packets and bytes of both directions, when `[metrics] traffic` asks for them.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// What its checks say; `None` without checks.
    #[serde(default)]
    pub health: Option<BackendHealth>,
}

/// What the checks of a backend say. Times are of now: they do not depend on a clock that is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackendHealth {
    /// In one word.
    pub state: HealthState,
    /// For how long, milliseconds; `None` while it is unknown.
    pub since_ms: Option<u64>,
    /// Why the last probe failed, or could not be made.
    pub error: Option<String>,
    /// How many probes in a row ended like the last one.
    pub streak: u32,
    /// Whether they passed.
    pub passes: bool,
    /// Successes in a row that bring it back when it is down: more than `rise` for one that comes and goes.
    pub rise: u32,
    /// Probes since the daemon began.
    pub probes: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// How long the last probe took, microseconds.
    pub latency_us: Option<u64>,
    /// Until the next one, milliseconds.
    pub next_ms: Option<u64>,
}

/// The health of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// It takes no flows.
    Down,
    /// Its flows look as if it were down; it takes flows until a probe has said so.
    Suspected,
    /// Not probed yet; it takes flows.
    Unknown,
    /// It takes flows.
    Up,
}

/// Packets and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// What the kernel counts: by ct mark, and what was refused by the name of its counter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// Flows that may still carry data.
    pub active: BTreeMap<u32, u64>,
    /// Flows that were translated.
    pub new: BTreeMap<u32, u64>,
    /// Packets and bytes of both directions.
    pub traffic: BTreeMap<u32, Traffic>,
    /// Packets.
    pub refused: BTreeMap<Arc<str>, u64>,
    /// The source ports that flows need.
    pub ports: Vec<PortUse>,
}

/// One supervised process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// As it should be.
    pub healthy: bool,
    /// One line: `running`, `waits for network`, `exited with 1, starts again in 3 s`.
    pub state: String,
    /// Its process.
    pub pid: Option<i32>,
}

/// How many knobs came out how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KnobCounts {
    /// They have the value that is wanted.
    pub kept: usize,
    /// They have another.
    pub different: usize,
    /// This machine does not have them.
    pub unsupported: usize,
}

/// What a status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The configuration that runs.
    pub config: &'a Config,
    /// What it means.
    pub desired: &'a Desired,
    /// What the kernel has.
    pub observed: &'a State,
    /// What the kernel counts.
    pub counted: &'a Counted,
    /// What became of the knobs when they were written last, by path.
    pub knobs: &'a BTreeMap<String, Outcome>,
    /// The supervised processes.
    pub services: &'a [ServiceStatus],
    /// The generation of the configuration.
    pub generation: Option<u64>,
    /// What went wrong last.
    pub last_error: Option<&'a str>,
}

impl Status {
    /// How things are.
    pub fn new(sources: Sources<'_>) -> Self {
        let Sources { config, desired, observed, .. } = sources;
        let mut farms: Vec<FarmStatus> =
            config.farms.values().map(|farm| FarmStatus::new(farm, desired, sources.counted)).collect();
        farms.sort_by(|a, b| a.health.cmp(&b.health).then_with(|| a.name.cmp(&b.name)));
        let mut services = sources.services.to_vec();
        services.sort_by(|a, b| a.healthy.cmp(&b.healthy).then_with(|| a.name.cmp(&b.name)));
        let (knobs, refused) = knobs(desired, observed, sources.knobs);
        let mut drift = Plan::between(desired, observed);
        // A knob that the kernel refused is told with its reason, and not once more as drift.
        drift.steps.retain(|step| !matches!(step, Step::Knob { path, .. } if refused.contains_key(path)));
        let mut status = Self {
            healthy: false,
            generation: sources.generation,
            last_error: sources.last_error.map(str::to_owned),
            faults: Vec::new(),
            farms,
            drift: drift.view(Detail::Summary),
            services,
            knobs,
            refused,
            warnings: desired.warnings.clone(),
            profile: desired.profile.clone(),
            counting: None,
            capacity: Capacity::default(),
            clock: None,
            syslog: None,
            fence: Fence::default(),
        };
        status.healthy = status.is_healthy();
        status
    }

    /// Whether nothing needs anybody's attention: all farms serve with all their backends, or are off; the kernel has what
    /// it should; no knob was refused; all services run; and the last configuration that was tried is the one that runs.
    /// Warnings alone do not count.
    pub fn healthy(&self) -> bool {
        self.healthy
    }

    fn is_healthy(&self) -> bool {
        let farms = self.farms.iter().all(|farm| farm.health >= FarmHealth::Serving);
        let services = self.services.iter().all(|service| service.healthy);
        farms && services && self.last_error.is_none() && self.drift.is_empty() && self.refused.is_empty()
    }
}

impl FarmStatus {
    /// How one farm is.
    pub fn new(farm: &Farm, desired: &Desired, counted: &Counted) -> Self {
        let standings = desired.context.standings(farm, &desired.ids);
        let backends: Vec<BackendStatus> = farm
            .backends
            .values()
            .zip(standings)
            .map(|(backend, standing)| {
                let mark = desired.ids.mark(&farm.name, &backend.name).unwrap_or_default();
                BackendStatus {
                    name: backend.name.clone(),
                    address: backend.address.to_string(),
                    standing,
                    weight: backend.weight,
                    priority: backend.priority,
                    flows: counted.active.get(&mark).copied().unwrap_or(0),
                    new_flows: counted.new.get(&mark).copied().unwrap_or(0),
                    traffic: counted.traffic.get(&mark).copied(),
                    health: None,
                }
            })
            .collect();
        let addresses: BTreeSet<IpAddr> = farm.listen.iter().map(|listen| listen.address).collect();
        let unplaced: Vec<IpAddr> = addresses.intersection(&desired.unplaced).copied().collect();
        let usable = backends.iter().filter(|backend| backend.standing.is_usable()).count();
        let mut status = Self {
            name: farm.name.clone(),
            health: FarmHealth::Serving,
            since_ms: None,
            mode: mode_name(farm.mode).to_owned(),
            listen: farm.listen.iter().map(ToString::to_string).collect(),
            unplaced,
            usable,
            total: backends.len(),
            flows: backends.iter().map(|backend| backend.flows).sum(),
            new_flows: backends.iter().map(|backend| backend.new_flows).sum(),
            traffic: traffic(&backends),
            refused: refused(farm, counted),
            backends,
        };
        status.health = status.judge(farm);
        status
    }

    fn judge(&self, farm: &Farm) -> FarmHealth {
        let serves = |ipv4: bool| {
            farm.backends.values().zip(&self.backends).any(|(backend, status)| {
                backend.address.address.is_ipv4() == ipv4 && status.standing == Standing::Serving
            })
        };
        let families: BTreeSet<bool> = farm.listen.iter().map(|listen| listen.address.is_ipv4()).collect();
        let served = families.iter().filter(|&&ipv4| serves(ipv4)).count();
        match farm.state {
            FarmState::Off => FarmHealth::Off,
            FarmState::Down => FarmHealth::Down,
            // The box itself serves, or not: that is not seen from here.
            FarmState::Up if farm.mode == Mode::Local && self.unplaced.is_empty() => FarmHealth::Serving,
            FarmState::Up if farm.mode == Mode::Local => FarmHealth::Degraded,
            FarmState::Up if served == 0 => FarmHealth::Down,
            FarmState::Up if served < families.len() => FarmHealth::Degraded,
            FarmState::Up if self.usable < self.total || !self.unplaced.is_empty() => FarmHealth::Degraded,
            FarmState::Up => FarmHealth::Serving,
        }
    }
}

/// Of all together; `None` when nothing of it is counted.
fn traffic(backends: &[BackendStatus]) -> Option<Traffic> {
    backends
        .iter()
        .filter_map(|backend| backend.traffic)
        .reduce(|sum, one| Traffic { packets: sum.packets + one.packets, bytes: sum.bytes + one.bytes })
}

/// By reason; nothing for a farm without limits and policies.
fn refused(farm: &Farm, counted: &Counted) -> BTreeMap<String, u64> {
    let of_farm = names::refused_counter(&farm.name, "");
    let after = counted.refused.range(of_farm.clone()..);
    let mine = after.take_while(|(name, _)| name.starts_with(&*of_farm));
    mine.map(|(name, count)| (name[of_farm.len()..].to_owned(), *count)).collect()
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Snat => "snat",
        Mode::Dnat => "dnat",
        Mode::Dsr => "dsr",
        Mode::Stateless => "stateless",
        Mode::Local => "local",
    }
}

/// By what is observed now; the outcome of the last write says why a value is not what it should be.
fn knobs(
    desired: &Desired,
    observed: &State,
    outcomes: &BTreeMap<String, Outcome>,
) -> (KnobCounts, BTreeMap<String, String>) {
    let mut counts = KnobCounts::default();
    let mut refused = BTreeMap::new();
    for knob in &desired.knobs {
        let outcome = outcomes.get(&knob.path);
        match observed.knobs.get(&knob.path) {
            Some(found) if knob.is_satisfied_by(found) => counts.kept += 1,
            None => counts.unsupported += 1,
            Some(_) if outcome == Some(&Outcome::Unsupported) => counts.unsupported += 1,
            Some(found) => {
                counts.different += 1;
                if let Some(Outcome::Refused(why)) = outcome {
                    refused.insert(knob.path.clone(), format!("{why} (is {found}, should be {})", knob.want));
                }
            }
        }
    }
    (counts, refused)
}

#[cfg(test)]
mod tests;
