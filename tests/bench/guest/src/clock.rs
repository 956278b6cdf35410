//! The instruction counter.

use std::arch::x86_64::{_mm_lfence, _rdtsc};

/// Instructions that the guest has executed since it started.
#[must_use]
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has both instructions, and the kernel leaves the counter readable for user space.
    unsafe {
        _mm_lfence();
        let count = _rdtsc();
        _mm_lfence();
        count
    }
}

/// What two readings count when nothing lies between them.
#[must_use]
pub fn overhead() -> u64 {
    let mut readings: Vec<u64> = (0..101)
        .map(|_| {
            let before = now();
            now() - before
        })
        .collect();
    readings.sort_unstable();
    readings[readings.len() / 2]
}

/// Counts of some batches with as many operations each.
#[derive(Debug, Default)]
pub struct Batches {
    counts: Vec<u64>,
}

impl Batches {
    /// Room for this many: growing would happen between batches, but needs pages that the kernel has to clear.
    #[must_use]
    pub fn with_capacity(batches: usize) -> Self {
        Self { counts: Vec::with_capacity(batches) }
    }

    /// Counts what `action` takes, less the reading of the counter.
    pub fn count(&mut self, overhead: u64, action: impl FnOnce()) {
        let before = now();
        action();
        self.counts.push((now() - before).saturating_sub(overhead));
    }

    /// Median and mean of one operation, of `size` in each batch. Nothing was counted: not a number.
    #[must_use]
    pub fn summary(mut self, size: usize) -> (f64, f64) {
        self.counts.sort_unstable();
        let Some(&median) = self.counts.get(self.counts.len() / 2) else { return (f64::NAN, f64::NAN) };
        let mean = self.counts.iter().sum::<u64>() as f64 / self.counts.len() as f64;
        (median as f64 / size as f64, mean / size as f64)
    }
}
