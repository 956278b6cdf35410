//! What runs out, as far as one has to look twice to see it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use headgate_host::capacity;
use headgate_plan::capacity::{Capacity, PortUse, Usage};

use super::Engine;

/// `status` speaks of so long at least, once the daemon runs as long.
const WINDOW: Duration = Duration::from_secs(60);
/// Whoever has the engine look more often (links that come and go) makes no more samples.
const APART: Duration = Duration::from_secs(5);

/// What was read at the last looks, oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<(Instant, Usage)>);

impl Samples {
    /// Takes one more, unless the last is too fresh. One that is older than the window stays: what is read next is compared
    /// with it.
    fn add(&mut self, now: Instant, read: impl FnOnce() -> Usage) {
        if self.0.back().is_some_and(|(taken, _)| now.duration_since(*taken) < APART) {
            return;
        }
        self.0.push_back((now, read()));
        while self.0.get(1).is_some_and(|(taken, _)| now.duration_since(*taken) >= WINDOW) {
            self.0.pop_front();
        }
    }

    /// What to compare with, and how long ago it was.
    fn before(&self, now: Instant) -> Option<(&Usage, Duration)> {
        self.0.front().map(|(taken, usage)| (usage, now.duration_since(*taken)))
    }
}

impl Engine {
    /// Reads the counters, so that a later look has something to compare them with.
    pub(super) fn sample(&mut self) {
        let root = &self.root;
        self.samples.add(Instant::now(), || capacity::read(root));
    }

    /// What runs out, or is lost already.
    pub(super) fn capacity(&self, ports: Vec<PortUse>) -> Capacity {
        Capacity::new(&capacity::read(&self.root), self.samples.before(Instant::now()), ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_sample_is_a_window_old() {
        let (mut samples, start) = (Samples::default(), Instant::now());
        assert_eq!(samples.before(start), None);
        for second in (0..300).step_by(10) {
            let mut usage = Usage::default();
            usage.softnet.dropped = second;
            let now = start + Duration::from_secs(second);
            samples.add(now, || usage);
            samples.add(now + APART / 2, || panic!("the last is too fresh"));
            let (before, ago) = samples.before(now).unwrap();
            let expected = second.saturating_sub(60);
            assert_eq!((before.softnet.dropped, ago.as_secs()), (expected, second - expected));
        }
        assert_eq!(samples.0.len(), 7);
    }
}
