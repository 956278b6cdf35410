//! How many lines of log turns may take: a switch that dies takes a thousand backends along, and one line for each helps nobody.

use std::time::{Duration, Instant};

/// Lines at once, and what comes back each second.
const BURST: u32 = 50;
const PER_SECOND: u32 = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct Quota {
    left: u32,
    filled: Instant,
    /// Lines that were not written since the last one that was.
    withheld: u64,
}

impl Quota {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, filled: now, withheld: 0 }
    }

    /// Whether a line may be written, and how many were withheld before it.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        let whole = now.saturating_duration_since(self.filled).as_secs();
        let gained = u32::try_from(whole).unwrap_or(u32::MAX).saturating_mul(PER_SECOND);
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(BURST);
            self.filled += Duration::from_secs(whole);
        }
        if self.left == 0 {
            self.withheld += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_with_time_and_say_what_was_withheld() {
        let start = Instant::now();
        let mut quota = Quota::new(start);
        assert_eq!((0..1000).filter(|_| quota.take(start) == Some(0)).count(), BURST as usize);
        let later = start + Duration::from_millis(2500);
        assert_eq!(quota.take(later), Some(1000 - u64::from(BURST)));
        assert_eq!((0..100).filter(|_| quota.take(later).is_some()).count(), 2 * PER_SECOND as usize - 1);
        assert_eq!(
            (0..100).filter(|_| quota.take(later + Duration::from_millis(500)).is_some()).count(),
            PER_SECOND as usize
        );
    }
}
