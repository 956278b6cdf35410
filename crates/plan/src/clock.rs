//! What becomes of the clock when time servers have answered.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The kernel slews no more at once (`MAXPHASE`, include/linux/timex.h), nanoseconds. What is further off at the first time is stepped.
pub const SLEW_MAX: i64 = 500_000_000;
/// How far servers may be apart, beyond what their delays explain, and still mean the same time; nanoseconds. A server on the Internet
/// that is disciplined by others is some milliseconds off.
const SLACK: i64 = 50_000_000;
/// So often in a row the clock must be behind before it jumps forwards in operation.
const JUMP_AFTER: u32 = 3;

/// What one server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sample {
    /// Who said it.
    pub server: IpAddr,
    /// What must be added to the clock, nanoseconds.
    pub offset_ns: i64,
    /// How long question and answer were on their way together, nanoseconds.
    pub delay_ns: i64,
    /// How far it is from a reference clock.
    pub stratum: u8,
}

impl Sample {
    /// Whether the kernel cannot slew it at once.
    pub fn is_far(&self) -> bool {
        self.offset_ns.saturating_abs() > SLEW_MAX
    }

    /// Whether two can mean the same time: what delays hide is at most half of each.
    fn agrees_with(&self, other: &Sample) -> bool {
        let hidden = self.delay_ns.max(0) / 2 + other.delay_ns.max(0) / 2;
        self.offset_ns.saturating_sub(other.offset_ns).saturating_abs() <= hidden.saturating_add(SLACK)
    }
}

/// Why the answers do not say what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Doubt {
    #[error("no server has answered")]
    Silence,
    #[error("{agreed} of {answered} servers agree, and that is no majority")]
    NoMajority { agreed: usize, answered: usize },
}

/// The best answer of those that the majority agrees with: the one with the shortest way, which hides least. A server that is
/// off, whether broken or lying, is outvoted when there are two others.
///
/// # Errors
/// Nobody answered, or there is no majority.
pub fn agreed(samples: &[Sample]) -> Result<Sample, Doubt> {
    let supporters = |one: &Sample| samples.iter().filter(|other| one.agrees_with(other)).count();
    let best = samples.iter().max_by_key(|one| (supporters(one), std::cmp::Reverse(one.delay_ns)));
    let best = best.ok_or(Doubt::Silence)?;
    let (agreed, answered) = (supporters(best), samples.len());
    if agreed * 2 > answered { Ok(*best) } else { Err(Doubt::NoMajority { agreed, answered }) }
}

/// What is done to the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// It jumps by so many nanoseconds.
    Step(i64),
    /// It runs faster or slower until it has made up for so many nanoseconds, [`SLEW_MAX`] at most.
    Slew(i64),
}

/// How the clock is kept, from one answer to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discipline {
    /// Nobody has set it since the boot.
    is_first: bool,
    /// Far behind so many times in a row.
    behind: u32,
}

impl Discipline {
    /// `was_set`: since the boot, by whoever ran before.
    pub fn new(was_set: bool) -> Self {
        Self { is_first: !was_set, behind: 0 }
    }

    /// The first time it is stepped, whichever way. Later it never goes back: what is ahead is made slower, and what is far
    /// behind (a guest that slept) jumps forwards once that was said three times.
    pub fn correct(&mut self, offset_ns: i64) -> Correction {
        let is_far = offset_ns.saturating_abs() > SLEW_MAX;
        self.behind = if is_far && offset_ns > 0 { self.behind + 1 } else { 0 };
        if std::mem::take(&mut self.is_first) && is_far {
            self.behind = 0;
            return Correction::Step(offset_ns);
        }
        if self.behind >= JUMP_AFTER {
            self.behind = 0;
            return Correction::Step(offset_ns);
        }
        Correction::Slew(offset_ns.clamp(-SLEW_MAX, SLEW_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn sample(last: u8, offset_ms: i64, delay_ms: i64) -> Sample {
        let server = IpAddr::from([192, 0, 2, last]);
        Sample { server, offset_ns: offset_ms * MS, delay_ns: delay_ms * MS, stratum: 2 }
    }

    #[test]
    fn the_majority_says_what_time_it_is() {
        assert_eq!(agreed(&[]), Err(Doubt::Silence));
        let one = sample(1, 5_000_000, 10);
        assert_eq!(agreed(&[one]), Ok(one), "whom else should it believe");
        let two = [sample(1, 0, 10), sample(2, 2_000, 10)];
        assert_eq!(agreed(&two), Err(Doubt::NoMajority { agreed: 1, answered: 2 }));
        // A false one is outvoted wherever it stands, and however near it is.
        for place in 0..3 {
            let mut three = vec![sample(1, 10, 30), sample(2, 12, 20)];
            three.insert(place, sample(3, -86_400_000, 1));
            assert_eq!(
                agreed(&three).map(|best| best.server),
                Ok(three.iter().find(|one| one.delay_ns == 20 * MS).unwrap().server)
            );
        }
        let apart = [sample(1, 0, 1), sample(2, 1_000, 1), sample(3, 2_000, 1)];
        assert_eq!(agreed(&apart), Err(Doubt::NoMajority { agreed: 1, answered: 3 }));
        let halves = [sample(1, 0, 1), sample(2, 1, 1), sample(3, 2_000, 1), sample(4, 2_001, 1)];
        assert!(agreed(&halves).is_err());
        // A long way hides much.
        assert!(agreed(&[sample(1, 0, 2_000), sample(2, 900, 10)]).is_ok());
        let extreme = Sample { offset_ns: i64::MIN, delay_ns: i64::MAX, ..one };
        assert!(agreed(&[extreme, Sample { offset_ns: i64::MAX, delay_ns: -1, ..one }]).is_err());
    }

    #[test]
    fn the_first_time_it_jumps_and_later_never_back() {
        for offset in [-40 * 365 * 86_400_000 * MS, 600 * MS] {
            assert_eq!(Discipline::new(false).correct(offset), Correction::Step(offset));
        }
        let mut running = Discipline::new(false);
        assert_eq!(running.correct(3 * MS), Correction::Slew(3 * MS));
        for _ in 0..10 {
            assert_eq!(running.correct(-3_600_000 * MS), Correction::Slew(-SLEW_MAX));
        }
        let mut restarted = Discipline::new(true);
        assert_eq!(restarted.correct(-3_600_000 * MS), Correction::Slew(-SLEW_MAX));
        let mut woken = Discipline::new(true);
        for _ in 0..2 {
            assert_eq!(woken.correct(3_600_000 * MS), Correction::Slew(SLEW_MAX));
        }
        assert_eq!(woken.correct(3_600_000 * MS), Correction::Step(3_600_000 * MS));
        assert_eq!(woken.correct(MS), Correction::Slew(MS));
        // One that lies once moves it little.
        let mut teased = Discipline::new(true);
        for offset in [3_600_000 * MS, 3_600_000 * MS, 0, 3_600_000 * MS] {
            assert!(matches!(teased.correct(offset), Correction::Slew(_)));
        }
        assert_eq!(Discipline::new(true).correct(i64::MIN), Correction::Slew(-SLEW_MAX));
    }
}
