//! Health: from the results of probes to who takes no flows.
//!
//! A [`Record`] is what is known of one backend: results go in, and now and then it turns. [`Failed`] are those that are down by
//! that, for the compiler; [`targets`] says what has to be probed at all. Time is the time since boot, so that a record outlives
//! the daemon and no clock that is set changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use headgate_config::Config;
use headgate_config::model::{Backend, Farm, FarmState, Health};
use headgate_config::types::{BackendName, FarmName};
use serde::{Deserialize, Serialize};

/// A backend that fell again within this time has to pass more probes each time.
pub const FLAP_WINDOW: Duration = Duration::from_secs(600);
/// Falls that are remembered: each doubles what `rise` asks for, the first one apart, so at most 16 times.
pub const FALLS_MAX: usize = 5;

/// What is known of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It takes no flows.
    Down,
    /// Nothing yet; it takes flows, and the first result decides.
    #[default]
    Unknown,
    /// It takes flows.
    Up,
}

/// How one probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// As it should.
    Passed,
    /// Otherwise, or too late.
    Failed,
}

/// Results in a row that turn a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes until up.
    pub rise: u32,
    /// Failures until down.
    pub fall: u32,
}

impl Thresholds {
    /// Those of a check.
    pub fn of(health: &Health) -> Self {
        Self { rise: health.rise, fall: health.fall }
    }
}

/// What is known of one backend, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    condition: Condition,
    /// When it turned.
    since: Option<Duration>,
    /// What the last probes said, all of them the same, and how many.
    streak: Option<(Sign, u32)>,
    /// When it went down, the latest last.
    falls: Vec<Duration>,
    /// Its flows look as if it were down; no probe has said so yet.
    #[serde(skip)]
    suspected: bool,
}

impl Record {
    /// Takes a result; its new condition when it turns by that.
    pub fn observe(&mut self, sign: Sign, thresholds: Thresholds, now: Duration) -> Option<Condition> {
        let count = match self.streak {
            Some((last, count)) if last == sign => count.saturating_add(1),
            _ => 1,
        };
        self.streak = Some((sign, count));
        self.suspected &= sign == Sign::Failed;
        let next = match (self.condition, sign) {
            (Condition::Unknown | Condition::Down, Sign::Passed) => Condition::Up,
            (Condition::Unknown | Condition::Up, Sign::Failed) => Condition::Down,
            (Condition::Up, Sign::Passed) | (Condition::Down, Sign::Failed) => return None,
        };
        let enough = match (self.condition, next) {
            (Condition::Unknown, _) => 1,
            (_, Condition::Up) => self.rise(thresholds, now),
            _ => thresholds.fall,
        };
        if count < enough {
            return None;
        }
        if next == Condition::Down {
            if self.falls.len() == FALLS_MAX {
                self.falls.remove(0);
            }
            self.falls.push(now);
        }
        self.condition = next;
        self.suspected = false;
        self.since = Some(now);
        Some(next)
    }

    /// Successes in a row that bring it back: `rise`, twice as many for each fall but one within [`FLAP_WINDOW`].
    pub fn rise(&self, thresholds: Thresholds, now: Duration) -> u32 {
        let recent = self.falls.iter().filter(|fall| now.saturating_sub(**fall) < FLAP_WINDOW).count();
        let doublings = recent.min(FALLS_MAX).saturating_sub(1);
        thresholds.rise.saturating_mul(1 << doublings)
    }

    /// Its flows look as if it were down. True when that is news: it should be probed at once, and again until a probe passes or
    /// it is down.
    pub fn suspect(&mut self) -> bool {
        let news = self.condition != Condition::Down && !self.suspected;
        self.suspected |= news;
        news
    }

    /// What is known.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Since when, by the time since boot; `None` when nothing is known.
    pub fn since(&self) -> Option<Duration> {
        self.since
    }

    /// What the last probes said, and how many in a row.
    pub fn streak(&self) -> Option<(Sign, u32)> {
        self.streak
    }

    /// Whether its flows look as if it were down.
    pub fn is_suspected(&self) -> bool {
        self.suspected
    }

    /// The check asks for something else now: what it said so far stays, how often does not.
    pub fn restart(&mut self) {
        self.streak = None;
    }
}

/// What the kernel has counted of a backend's flows at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flows {
    /// Those that it was given so far.
    pub given: u64,
    /// Those that connection tracking still knows, and that it has answered.
    pub answered: u64,
}

/// New flows without an answer that are no accident.
const UNANSWERED_LEAST: u64 = 3;
/// A flow that was answered is known for longer than so many periods, whatever became of it: 10 s after a reset, 120 s after its
/// end (`nf_conntrack_tcp_timeout_close`, `…_time_wait`).
const KNOWN_PERIODS: u64 = 8;

/// Whether a backend seems to have answered none of the flows that it was given between two counts, a second or so apart.
///
/// A flow whose first answer is a reset is forgotten at once (`nf_conntrack_tcp_packet`), so neither it nor one that waits is
/// among those that were answered. These grow by every flow that was, and shrink as old ones are forgotten: where they do not
/// grow, either they are fewer than these flows alone would have left, or half as many as were given have gone without being
/// replaced. That can be wrong when traffic changes quickly; it costs one probe.
pub fn seems_silent(before: Flows, now: Flows) -> bool {
    let given = now.given.saturating_sub(before.given);
    let gone = before.answered.saturating_sub(now.answered);
    given >= UNANSWERED_LEAST
        && now.answered <= before.answered
        && (now.answered < given.saturating_mul(KNOWN_PERIODS) || gone >= given / 2)
}

/// The backends that are down by their checks, by farm.
pub type Failed = BTreeMap<FarmName, BTreeSet<BackendName>>;

/// The backends that are down by their checks, with the addresses that they had then: at another one nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fallen(BTreeMap<FarmName, BTreeMap<BackendName, IpAddr>>);

impl Fallen {
    /// Takes note of a backend at an address.
    pub fn set(&mut self, farm: &FarmName, backend: &BackendName, address: IpAddr, condition: Condition) {
        if condition == Condition::Down {
            self.0.entry(farm.clone()).or_default().insert(backend.clone(), address);
        } else if let Some(backends) = self.0.get_mut(farm) {
            backends.remove(backend);
        }
    }

    /// Those of one farm, as far as it still has and checks them.
    pub fn of(&self, farm: &Farm) -> BTreeSet<BackendName> {
        let fallen = self.0.get(&farm.name).filter(|_| farm.health.is_some()).into_iter().flatten();
        let there = |(name, address): &(&BackendName, &IpAddr)| {
            farm.backends.get(*name).is_some_and(|backend| backend.address.address == **address)
        };
        fallen.filter(there).map(|(name, _)| name.clone()).collect()
    }

    /// Those of all farms.
    pub fn within(&self, config: &Config) -> Failed {
        let farms = self.0.keys().filter_map(|name| config.farms.get(name));
        farms.map(|farm| (farm.name.clone(), self.of(farm))).filter(|(_, failed)| !failed.is_empty()).collect()
    }

    /// Forgets what a configuration does not have.
    pub fn keep(&mut self, config: &Config) {
        let failed = self.within(config);
        self.0.retain(|farm, backends| {
            backends.retain(|backend, _| failed.get(farm).is_some_and(|failed| failed.contains(backend)));
            !backends.is_empty()
        });
    }
}

/// One backend that has to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its farm.
    pub farm: FarmName,
    /// Its name.
    pub backend: BackendName,
    /// Where it is.
    pub address: IpAddr,
    /// The port of the probe: the check's, the backend's, or the one that its farm listens on.
    pub port: Option<u16>,
    /// Mark of the probes, for policy routing.
    pub mark: Option<u32>,
    /// How.
    pub health: Arc<Health>,
}

/// All backends that have to be probed, whatever the operator's state of them: one that is brought back is known then. A farm
/// that is off has none.
pub fn targets(config: &Config) -> Vec<Target> {
    let farms = config.farms.values().filter(|farm| farm.state != FarmState::Off);
    let checked = farms.filter_map(|farm| Some((farm, Arc::new(farm.health.clone()?))));
    checked
        .flat_map(|(farm, health)| farm.backends.values().map(move |backend| target(farm, backend, health.clone())))
        .collect()
}

fn target(farm: &Farm, backend: &Backend, health: Arc<Health>) -> Target {
    Target {
        farm: farm.name.clone(),
        backend: backend.name.clone(),
        address: backend.address.address,
        port: farm.probe_port(backend),
        mark: backend.mark.or(farm.mark),
        health,
    }
}

#[cfg(test)]
mod tests;
