//! How often a knob is mended that somebody else turns back.
//!
//! Two programs that each put things right make a machine that is never right, and resets of a link with every round: after a
//! few repairs the knob is left to the other one, and `status` names who that may be. What the kernel refused once is not
//! tried with every comparison either: a ring that cannot be set would reset its link each time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::state::KnobValue;
use crate::step::{Outcome, Plan, Step};

/// A knob is mended so many times within [`WINDOW`].
const REPAIRS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(600);
/// After this long what was left alone is tried again.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What became of knobs when they were mended. Times are since any one moment.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    /// When each was mended lately.
    mended: BTreeMap<String, VecDeque<Duration>>,
    /// What the kernel did not take, and since when.
    settled: BTreeMap<String, (KnobValue, Duration)>,
    /// What somebody else keeps turning, since when, and what is told about it.
    disputed: BTreeMap<String, (Duration, String)>,
}

impl Repairs {
    /// Takes out of a plan what is not to be mended now.
    pub fn withhold(&mut self, plan: &mut Plan, rivals: &BTreeSet<String>, now: Duration) {
        self.settled.retain(|_, (_, since)| now.saturating_sub(*since) < PATIENCE);
        self.disputed.retain(|_, (since, _)| now.saturating_sub(*since) < PATIENCE);
        for times in self.mended.values_mut() {
            times.retain(|time| now.saturating_sub(*time) < WINDOW);
        }
        self.mended.retain(|_, times| !times.is_empty());
        plan.steps.retain(|step| match step {
            Step::Knob { path, want, .. } => self.admits(path, want, rivals, now),
            _ => true,
        });
    }

    /// Whether a knob that should be `want` is mended when it is not: it is not left to somebody else, and the kernel did not
    /// refuse this very value.
    pub fn mends(&self, path: &str, want: &KnobValue) -> bool {
        !self.disputed.contains_key(path) && self.settled.get(path).is_none_or(|(settled, _)| settled != want)
    }

    fn admits(&mut self, path: &str, want: &KnobValue, rivals: &BTreeSet<String>, now: Duration) -> bool {
        if !self.mends(path, want) {
            return false;
        }
        if self.mended.get(path).is_none_or(|times| times.len() < REPAIRS_MAX) {
            return true;
        }
        self.mended.remove(path);
        let owner = match likely_owner(path, rivals) {
            Some(program) => format!("; {program} runs and does such things"),
            None => "; no program that is known for it runs".to_owned(),
        };
        let why = format!(
            "somebody keeps changing it back, and after {REPAIRS_MAX} repairs in {} minutes it is left alone{owner}",
            WINDOW.as_secs() / 60
        );
        self.disputed.insert(path.to_owned(), (now, why));
        false
    }

    /// Remembers what became of the steps of a repair.
    pub fn remember(&mut self, done: &[(Step, Outcome)], now: Duration) {
        for (step, outcome) in done {
            let Step::Knob { path, want, .. } = step else { continue };
            match outcome {
                Outcome::Set => {
                    let times = self.mended.entry(path.clone()).or_default();
                    // Set twice in one repair is one repair.
                    if times.back() != Some(&now) {
                        times.push_back(now);
                    }
                }
                Outcome::Refused(_) | Outcome::Unsupported => {
                    self.settled.insert(path.clone(), (want.clone(), now));
                }
                Outcome::Kept | Outcome::Returned | Outcome::Skipped => {}
            }
        }
    }

    /// Remembers what the kernel did not take of a configuration that was applied; what was mended or disputed before begins
    /// anew.
    pub fn begin(&mut self, done: &[(Step, Outcome)], now: Duration) {
        *self = Self::default();
        self.remember(done, now);
        self.mended.clear();
    }

    /// The knobs that are left to somebody else, with the reason, by path.
    pub fn disputed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.disputed.iter().map(|(path, (_, why))| (path.as_str(), why.as_str()))
    }
}

/// Of the programs that run, the one that is known to turn such a knob.
fn likely_owner<'a>(path: &str, rivals: &'a BTreeSet<String>) -> Option<&'a str> {
    let suspects: &[&str] = match path.split('/').next() {
        Some("proc") if path.starts_with("proc/irq/") => &["irqbalance", "tuned"],
        Some("ethtool") => &["tuned", "NetworkManager", "systemd-networkd"],
        Some("dev") => &["tuned"],
        Some("sys") if path.contains("/cpufreq/") => &["tuned", "power-profiles-daemon", "tlp"],
        Some("sys") => &["tuned", "irqbalance"],
        _ => &["tuned", "NetworkManager", "systemd-networkd"],
    };
    suspects.iter().find_map(|suspect| rivals.get(*suspect)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Fit;

    const IRQ: &str = "proc/irq/41/smp_affinity_list";

    fn step(path: &str, want: i64) -> Step {
        Step::Knob { path: path.into(), was: Some(KnobValue::Int(0)), want: KnobValue::Int(want), fit: Fit::Exact }
    }

    fn withheld(repairs: &mut Repairs, step: &Step, now: Duration) -> bool {
        let mut plan = Plan { steps: vec![step.clone(), Step::LinkUp { link: "eth0".into(), up: true }] };
        repairs.withhold(&mut plan, &BTreeSet::from(["irqbalance".to_owned()]), now);
        assert!(plan.steps.iter().any(|step| matches!(step, Step::LinkUp { .. })), "only knobs are withheld");
        plan.steps.len() == 1
    }

    #[test]
    fn after_five_repairs_a_knob_is_left_to_whoever_keeps_turning_it() {
        let (mut repairs, start) = (Repairs::default(), Duration::from_secs(100));
        let at = |seconds| start + Duration::from_secs(seconds);
        for round in 0..5 {
            assert!(!withheld(&mut repairs, &step(IRQ, 1), at(round * 10)), "{round}");
            repairs.remember(&[(step(IRQ, 1), Outcome::Set)], at(round * 10));
        }
        assert_eq!(repairs.disputed().count(), 0);
        assert!(withheld(&mut repairs, &step(IRQ, 1), at(50)));
        let (path, why) = repairs.disputed().next().unwrap();
        assert_eq!(path, IRQ);
        assert!(why.contains("irqbalance runs"), "{why}");
        assert!(!withheld(&mut repairs, &step("proc/irq/42/smp_affinity_list", 1), at(50)), "the others are mended");
        assert!(withheld(&mut repairs, &step(IRQ, 2), at(3000)), "whatever is wanted of it");
        assert!(!withheld(&mut repairs, &step(IRQ, 1), at(50 + 3600)), "an hour later");
        assert_eq!(repairs.disputed().count(), 0);
    }

    #[test]
    fn what_is_turned_back_now_and_then_is_mended_for_ever() {
        let (mut repairs, start) = (Repairs::default(), Duration::from_secs(100));
        for round in 0..50 {
            let now = start + Duration::from_secs(round * 150);
            assert!(!withheld(&mut repairs, &step(IRQ, 1), now), "{round}");
            repairs.remember(&[(step(IRQ, 1), Outcome::Set)], now);
        }
    }

    #[test]
    fn what_the_kernel_refused_is_not_tried_again_until_something_else_is_wanted() {
        let (mut repairs, start) = (Repairs::default(), Duration::from_secs(100));
        for outcome in [Outcome::Refused("Invalid argument".into()), Outcome::Unsupported] {
            repairs.begin(&[(step("ethtool/eth0/rings", 1), outcome)], start);
            assert!(withheld(&mut repairs, &step("ethtool/eth0/rings", 1), start));
            assert!(!withheld(&mut repairs, &step("ethtool/eth0/rings", 2), start));
        }
        assert_eq!(repairs.disputed().count(), 0, "nobody else is to blame");
        repairs.begin(&[], start);
        assert!(!withheld(&mut repairs, &step("ethtool/eth0/rings", 1), start), "applied anew");
    }

    #[test]
    fn the_likely_owner_is_one_that_runs() {
        let rivals = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let both = rivals(&["tuned", "NetworkManager"]);
        assert_eq!(likely_owner("proc/irq/1/smp_affinity_list", &both), Some("tuned"));
        assert_eq!(likely_owner("ethtool/eth0/rings", &rivals(&["NetworkManager"])), Some("NetworkManager"));
        assert_eq!(likely_owner("proc/sys/net/ipv4/ip_forward", &rivals(&["irqbalance"])), None);
        assert_eq!(likely_owner("proc/irq/1/smp_affinity_list", &rivals(&["systemd-networkd"])), None);
    }
}
