//! The machine kept as it should be: comparison, repair, and giving it back.

use std::collections::{BTreeMap, BTreeSet};

use headgate_host::knob::{originals, read};
use headgate_plan::compile::Desired;
use headgate_plan::ethtool::of_path;
use headgate_plan::flows::Lost;
use headgate_plan::hardware::{HardwareReport, Sources};
use headgate_plan::knob;
use headgate_plan::state::State;
use headgate_plan::step::{Detail, Outcome, Step};

use super::load::profiles;
use super::look::Looked;
use super::memory::release_memory;
use super::{Engine, EngineError};
use crate::api::{Applied, StepLine};
use crate::daemon::feed::Event;
use crate::reconcile::{Knobs, Reconciled, Until, Wanted, cut_lost, planned, reconcile};

/// What became of a look that another thread took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// What was to be done is done.
    Settled,
    /// The engine has changed things meanwhile: what was found may be only that.
    Overtaken,
}

impl Engine {
    /// The hardware and its knobs, read now.
    ///
    /// # Errors
    /// The machine cannot be looked at.
    pub fn hardware(&mut self) -> Result<HardwareReport, EngineError> {
        let looked = self.look()?.ok_or(EngineError::NothingRuns)?;
        let originals = originals(&self.root).map(|originals| originals.knobs).unwrap_or_default();
        let originals = originals.into_iter().map(|(path, original)| (path, original.was)).collect();
        Ok(HardwareReport::new(Sources {
            facts: &looked.facts,
            profile: looked.desired.profile.as_deref(),
            knobs: &looked.desired.knobs,
            found: &looked.observed.knobs,
            outcomes: &self.knob_outcomes(),
            originals: &originals,
        }))
    }

    /// What became of the knobs, by path; those that are left to somebody else count as refused.
    pub(super) fn knob_outcomes(&self) -> BTreeMap<String, Outcome> {
        let mut outcomes = self.running.as_ref().map(|running| running.knobs.clone()).unwrap_or_default();
        let disputed = self.repairs.disputed().map(|(path, why)| (path.to_owned(), Outcome::Refused(why.to_owned())));
        outcomes.extend(disputed);
        outcomes
    }

    /// Compares the kernel with what it should be, and repairs it; takes what is still owed. For who cannot go on before:
    /// everybody else has [another thread look](super::Handle::watch).
    pub fn watch(&mut self) {
        let found = self.look();
        self.conclude(found);
        release_memory();
    }

    /// The same with a look that was taken meanwhile.
    pub fn end_watch(&mut self, looked: Looked) -> Seen {
        let is_current = looked.moment == self.moment();
        if is_current && looked.found.is_ok() {
            self.host.has_seen(looked.generation);
        } else if !is_current && looked.found.as_ref().is_ok_and(|found| found.plan.is_empty()) {
            // Whatever was done meanwhile has looked where it wrote.
        } else if !is_current {
            return Seen::Overtaken;
        }
        self.conclude(looked.found.map(Some));
        Seen::Settled
    }

    fn conclude(&mut self, found: Result<Option<Reconciled>, EngineError>) {
        self.sample();
        match found {
            Ok(Some(mut looked)) => {
                // An interface that came needs its client, whether anything is to be repaired or not.
                if let Some(running) = &self.running {
                    self.keep_running(&running.config, &looked.desired, &looked.facts);
                }
                let disputed: BTreeSet<String> = self.repairs.disputed().map(|(path, _)| path.to_owned()).collect();
                let all: BTreeSet<String> = knob_paths(&looked);
                self.repairs.withhold(&mut looked.plan, &looked.facts.rivals, self.began.elapsed());
                let withheld = &all - &knob_paths(&looked);
                for (path, why) in self.repairs.disputed().filter(|(path, _)| !disputed.contains(*path)) {
                    tracing::error!(knob = knob::name(path), "{why}");
                }
                if !looked.plan.is_empty() {
                    self.repair(&looked, &withheld);
                    self.see_all();
                    release_memory();
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(error = %crate::explain(&error), "the kernel cannot be compared"),
        }
        self.owed.settle(Lost::default(), |lost| cut_lost(&mut self.host, lost));
    }

    /// Whether somebody else has changed nftables.
    pub fn is_overtaken(&mut self) -> bool {
        let overtaken = self.host.is_overtaken();
        let overtaken = overtaken.inspect_err(
            |error| tracing::debug!(error = %crate::explain(error), "the generation of nftables is unknown"),
        );
        overtaken.unwrap_or(false)
    }

    /// Whether a knob that is a file is not as it was left, and is to be mended: no event tells who turns one. Only these are
    /// read, and nothing is compiled for it.
    pub fn is_turned(&mut self) -> bool {
        let Some(running) = &self.running else { return false };
        let turned = running.desired.knobs.iter().find(|knob| {
            let is_ours = !self.untuned || knob.origin.is_none();
            is_ours
                && of_path(&knob.path).is_none()
                && self.repairs.mends(&knob.path, &knob.want)
                && read(&self.root, &knob.path, &knob.want).is_some_and(|found| !knob.is_satisfied_by(&found))
        });
        if let Some(knob) = turned {
            tracing::debug!(knob = knob::name(&knob.path), "not as it was left");
        }
        turned.is_some()
    }

    fn repair(&mut self, looked: &Reconciled, withheld: &BTreeSet<String>) {
        for line in planned(&looked.plan, Detail::Summary) {
            tracing::warn!(step = line.step, "the kernel is not as it was left; repairing");
        }
        let Ok(profiles) = profiles(&self.root) else { return };
        let Some(running) = &mut self.running else { return };
        let failed = self.fallen.within(&running.config);
        let ids = Some(&running.desired.ids);
        let knobs = if self.untuned { Knobs::Needed } else { Knobs::But(withheld) };
        let wanted = Wanted { config: &running.config, profiles: &profiles, ids, failed: &failed, knobs };
        match reconcile(&mut self.host, wanted, Until::Verified) {
            Ok(repaired) => {
                tracing::info!("repaired");
                self.tally.repairs += 1;
                self.events.tell(Event::Drift { repaired: true, steps: looked.plan.steps.len() });
                self.repairs.remember(&repaired.done, self.began.elapsed());
                running.knobs.extend(knob_outcomes(&repaired.done));
                self.owed.add(repaired.owed);
                self.announcements.remember(&repaired.done);
                running.desired = Desired { state: State::default(), ..repaired.desired };
            }
            Err(error) => {
                self.tally.repairs_failed += 1;
                self.events.tell(Event::Drift { repaired: false, steps: looked.plan.steps.len() });
                for line in error.steps() {
                    tracing::warn!(step = line.step, outcome = line.outcome, "tried");
                }
                tracing::error!(error = %crate::explain(&error), "not repaired");
            }
        }
    }

    /// Turns every knob again, those that were given back or left to somebody else as well.
    ///
    /// # Errors
    /// The machine cannot be looked at, or something else than a knob is refused.
    pub fn tune(&mut self) -> Result<Applied, EngineError> {
        let profiles = profiles(&self.root)?;
        let running = self.running.as_mut().ok_or(EngineError::NothingRuns)?;
        let failed = self.fallen.within(&running.config);
        let ids = Some(&running.desired.ids);
        let wanted = Wanted { config: &running.config, profiles: &profiles, ids, failed: &failed, knobs: Knobs::All };
        let tuned = reconcile(&mut self.host, wanted, Until::Verified)?;
        self.untuned = false;
        self.repairs.begin(&tuned.done, self.began.elapsed());
        running.knobs.extend(knob_outcomes(&tuned.done));
        self.owed.add(tuned.owed);
        self.announcements.remember(&tuned.done);
        let applied = Applied {
            generation: running.generation,
            steps: tuned.told,
            warnings: tuned.desired.warnings.clone(),
            ..Applied::default()
        };
        running.desired = Desired { state: State::default(), ..tuned.desired };
        Ok(applied)
    }

    /// Gives the knobs that the profile and the configuration turned back what they had; what forwarding needs stays. Until
    /// [`tune`](Self::tune) or another configuration nothing of it is turned again.
    ///
    /// # Errors
    /// The machine cannot be looked at, or nobody knows what it had.
    pub fn restore(&mut self) -> Result<Applied, EngineError> {
        let looked = self.look()?.ok_or(EngineError::NothingRuns)?;
        let needed = looked.desired.knobs.iter().filter(|knob| knob.origin.is_none());
        let needed = needed.map(|knob| (knob.path.clone(), knob.want.clone())).collect();
        let restored = self.host.restore_knobs(&State { knobs: needed, ..State::default() })?;
        self.untuned = true;
        let generation = self.running.as_ref().and_then(|running| running.generation);
        let line = |(path, outcome): (String, Outcome)| StepLine {
            kind: "knob".to_owned(),
            step: format!("give {} back what it had", knob::name(&path)),
            details: Vec::new(),
            outcome: Some(crate::reconcile::outcome_word(&outcome)),
        };
        Ok(Applied { generation, steps: restored.into_iter().map(line).collect(), ..Applied::default() })
    }
}

fn knob_paths(looked: &Reconciled) -> BTreeSet<String> {
    let paths = looked.plan.steps.iter().filter_map(|step| match step {
        Step::Knob { path, .. } => Some(path.clone()),
        _ => None,
    });
    paths.collect()
}

fn knob_outcomes(done: &[(Step, Outcome)]) -> BTreeMap<String, Outcome> {
    let outcomes = done.iter().filter_map(|(step, outcome)| match step {
        Step::Knob { path, .. } => Some((path.clone(), outcome.clone())),
        _ => None,
    });
    outcomes.collect()
}
