//! What the kernel counts of the work between NICs and processors.

use std::io;

use serde::{Deserialize, Serialize};

/// Of the whole machine, since its start or since an earlier reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets that found a processor's backlog full.
    pub dropped: u64,
    /// Turns that ended with packets left.
    pub squeezed: u64,
    /// Interrupts by which one processor has another do something, as RPS hands packets over.
    pub interrupts: u64,
}

impl Counters {
    /// `softnet_stat`, and the line `CAL` of the interrupts.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn read() -> io::Result<Self> {
        let mut counters = Self::default();
        for line in std::fs::read_to_string("/proc/net/softnet_stat")?.lines() {
            let column = |place| {
                line.split_whitespace().nth(place).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0)
            };
            counters.dropped += column(1);
            counters.squeezed += column(2);
        }
        let text = std::fs::read_to_string("/proc/interrupts")?;
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("CAL:")).unwrap_or_default();
        counters.interrupts = line.split_whitespace().map_while(|word| word.parse::<u64>().ok()).sum();
        Ok(counters)
    }

    /// What came since then.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            dropped: self.dropped.saturating_sub(before.dropped),
            squeezed: self.squeezed.saturating_sub(before.squeezed),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
        }
    }

    /// In each second of so many: interrupts, packets dropped, turns squeezed.
    #[must_use]
    pub fn per_second(self, seconds: f64) -> [f64; 3] {
        [self.interrupts, self.dropped, self.squeezed].map(|count| count as f64 / seconds)
    }
}
