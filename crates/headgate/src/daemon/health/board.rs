//! What the checks say, for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headgate_config::types::{BackendName, FarmName};
use headgate_plan::health::{Condition, Record, Sign, Thresholds};
use headgate_plan::status::{BackendHealth, FarmStatus, HealthState};

use crate::remembered;

type Seen = BTreeMap<FarmName, BTreeMap<BackendName, Entry>>;

/// Shared by the checks, which write it, and the engine, which reads it.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Seen>>);

/// What is known of one backend.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) thresholds: Thresholds,
    pub(super) error: Option<String>,
    pub(super) probes: u64,
    pub(super) failures: u64,
    pub(super) latency: Option<Duration>,
    pub(super) next: Instant,
}

impl Board {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self, farm: &FarmName, backend: &BackendName, entry: Entry) {
        let mut seen = self.seen();
        match seen.get_mut(farm) {
            Some(backends) => backends.insert(backend.clone(), entry),
            None => seen.entry(farm.clone()).or_default().insert(backend.clone(), entry),
        };
    }

    pub(super) fn remove(&self, farm: &FarmName, backend: &BackendName) {
        let mut seen = self.seen();
        if let Some(backends) = seen.get_mut(farm) {
            backends.remove(backend);
            if backends.is_empty() {
                seen.remove(farm);
            }
        }
    }

    /// Writes into the status of farms what their checks say.
    pub fn show(&self, farms: &mut [FarmStatus]) {
        let (seen, now) = (self.seen(), remembered::now());
        for farm in farms {
            let Some(backends) = seen.get(&farm.name) else { continue };
            for backend in &mut farm.backends {
                backend.health = backends.get(&backend.name).map(|entry| entry.told(now));
            }
        }
    }
}

impl Entry {
    fn told(&self, now: Duration) -> BackendHealth {
        let record = &self.record;
        let state = match record.condition() {
            Condition::Down => HealthState::Down,
            _ if record.is_suspected() => HealthState::Suspected,
            Condition::Unknown => HealthState::Unknown,
            Condition::Up => HealthState::Up,
        };
        BackendHealth {
            state,
            since_ms: record.since().map(|since| milliseconds(now.saturating_sub(since))),
            error: self.error.clone(),
            streak: record.streak().map_or(0, |(_, count)| count),
            passes: matches!(record.streak(), Some((Sign::Passed, _))),
            rise: record.rise(self.thresholds, now),
            probes: self.probes,
            failures: self.failures,
            latency_us: self.latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            next_ms: Some(milliseconds(self.next.saturating_duration_since(Instant::now()))),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
