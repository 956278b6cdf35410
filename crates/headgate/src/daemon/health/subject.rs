//! One backend that is probed: what, when, and what came of it.

use std::time::Duration;

use headgate_config::model::Health;
use headgate_plan::health::{Record, Sign, Target, Thresholds};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::board::Entry;
use super::probe::{Outcome, Probe};
use crate::daemon::engine::Name;
use crate::remembered;

/// A probe may begin up to this part of its interval later than planned, so that no two boxes, and no two farms, beat in time.
const JITTER: u32 = 10;
/// How long a backend is not suspected again.
const SUSPICION_REST: Duration = Duration::from_secs(30);

/// When a backend is probed. What is planned lies on a grid of its own whatever happens, so that nothing drifts; a probe is due
/// there, or a little later.
#[derive(Debug)]
pub(super) struct Clock {
    interval: Duration,
    planned: Instant,
    pub(super) due: Instant,
    /// What is due is no probe of the grid.
    extra: bool,
}

impl Clock {
    /// The first probe is at a random time (`random` from 0 to 1) within `spread`.
    pub(super) fn new(now: Instant, interval: Duration, spread: Duration, random: f64) -> Self {
        let planned = now + spread.min(interval).mul_f64(random);
        Self { interval, planned, due: planned, extra: false }
    }

    /// The next probe, behind one that began `now`. What was missed (the machine slept) is left out.
    pub(super) fn step(&mut self, now: Instant, random: f64) {
        if !std::mem::take(&mut self.extra) {
            self.planned += self.interval;
        }
        if self.planned < now {
            let late = now.duration_since(self.planned).as_nanos();
            let missed = u32::try_from(late / self.interval.as_nanos().max(1)).unwrap_or(u32::MAX);
            self.planned += self.interval.saturating_mul(missed);
        }
        self.due = self.planned + (self.interval / JITTER).mul_f64(random);
    }

    /// One more probe, out of turn; the grid stays.
    pub(super) fn hasten(&mut self, at: Instant) {
        if at < self.due {
            (self.due, self.extra) = (at, true);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) target: Target,
    pub(super) probe: Probe,
    pub(super) record: Record,
    pub(super) clock: Clock,
    pub(super) running: Option<AbortHandle>,
    /// It is to be probed as soon as the probe that runs has ended.
    pub(super) overdue: bool,
    pub(super) error: Option<String>,
    /// When its flows looked bad last.
    suspected: Option<Instant>,
    latency: Option<Duration>,
    probes: u64,
    failures: u64,
}

impl Subject {
    pub(super) fn new(target: Target, probe: Probe, clock: Clock) -> Self {
        Self {
            target,
            probe,
            record: Record::default(),
            clock,
            running: None,
            overdue: false,
            error: None,
            suspected: None,
            latency: None,
            probes: 0,
            failures: 0,
        }
    }

    pub(super) fn name(&self) -> Name {
        (self.target.farm.clone(), self.target.backend.clone())
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds::of(&self.target.health)
    }

    /// Its flows look bad. True when it should be probed for that: not again and again when probes pass.
    pub(super) fn suspect(&mut self, now: Instant) -> bool {
        if self.suspected.is_some_and(|last| now.duration_since(last) < SUSPICION_REST) || !self.record.suspect() {
            return false;
        }
        self.suspected = Some(now);
        true
    }

    /// Takes the end of a probe; true when the backend turned by it.
    pub(super) fn take(&mut self, outcome: Outcome, took: Duration) -> bool {
        self.running = None;
        let sign = match outcome {
            Outcome::Passed => {
                self.error = None;
                Sign::Passed
            }
            Outcome::Failed(why) => {
                self.error = Some(why);
                self.failures += 1;
                Sign::Failed
            }
            // It says nothing about the backend.
            Outcome::Untried(why) => {
                self.error = Some(format!("not probed: {why}"));
                return false;
            }
        };
        self.probes += 1;
        self.latency = Some(took);
        self.record.observe(sign, self.thresholds(), remembered::now()).is_some()
    }

    /// For `status`.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            record: self.record.clone(),
            thresholds: self.thresholds(),
            error: self.error.clone(),
            probes: self.probes,
            failures: self.failures,
            latency: self.latency,
            next: self.clock.due.into_std(),
        }
    }

    /// For the next daemon.
    pub(super) fn remember(&self) -> remembered::Entry {
        remembered::Entry {
            farm: self.target.farm.clone(),
            backend: self.target.backend.clone(),
            address: self.target.address,
            record: self.record.clone(),
            error: self.error.clone(),
        }
    }
}

/// Whether two checks ask the same of a backend; how often they ask may differ.
pub(super) fn asks_the_same(one: &Target, other: &Target) -> bool {
    let what = |health: &Health| (health.check.clone(), health.source_address);
    one.port == other.port && one.mark == other.mark && what(&one.health) == what(&other.health)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn probes_lie_on_a_grid_however_late_each_begins() {
        let start = Instant::now();
        let mut clock = Clock::new(start, SECOND, SECOND, 0.25);
        assert_eq!(clock.due, start + Duration::from_millis(250));
        for (index, random) in (1u32..).zip([0.0, 0.5, 0.999, 0.1, 0.0]) {
            clock.step(clock.due + Duration::from_millis(700), random);
            let planned = start + Duration::from_millis(250) + SECOND * index;
            assert!((planned..planned + SECOND / JITTER).contains(&clock.due), "{index}");
        }
        // Four probes are missed, and the next one is where it would have been.
        clock.step(start + Duration::from_millis(10_500), 0.0);
        assert_eq!(clock.due, start + Duration::from_millis(10_250));
        clock.step(start + Duration::from_millis(10_500), 0.0);
        assert_eq!(clock.due, start + Duration::from_millis(11_250));
    }

    #[test]
    fn a_probe_out_of_turn_moves_none_of_the_others() {
        let start = Instant::now();
        let mut clock = Clock::new(start, SECOND, SECOND, 0.5);
        clock.hasten(start);
        assert_eq!(clock.due, start);
        clock.step(start, 0.0);
        assert_eq!(clock.due, start + SECOND / 2);
        clock.hasten(start + SECOND);
        assert_eq!(clock.due, start + SECOND / 2, "it is due before that");
        clock.step(start + SECOND / 2, 0.0);
        assert_eq!(clock.due, start + SECOND * 3 / 2);
    }

    #[test]
    fn the_first_probes_are_spread() {
        let start = Instant::now();
        let first = |spread, random| Clock::new(start, SECOND, spread, random).due - start;
        assert_eq!(first(SECOND * 9, 0.5), SECOND / 2, "over no more than an interval");
        assert_eq!(first(SECOND / 10, 0.5), SECOND / 20);
    }
}
