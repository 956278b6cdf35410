//! The one way from a configuration to the kernel: compile, observe, plan, apply, verify.
//!
//! Start, reload, `headgate apply`, `rollback` and `headgated --once` run it to the end; `headgate plan`, `explain`, `hw
//! show` and the drift of `status` stop before anything is written.

use std::collections::BTreeSet;

use headgate_config::Config;
use headgate_config::model::Profile;
use headgate_host::conntrack::Conntrack;
use headgate_host::{Host, HostError};
use headgate_nft::Ruleset;
use headgate_plan::compile::{Desired, Unsupported, compile};
use headgate_plan::facts::Facts;
use headgate_plan::features::{self, Feature};
use headgate_plan::flows::{self, Lost};
use headgate_plan::health::Failed;
use headgate_plan::ids::Ids;
use headgate_plan::state::State;
use headgate_plan::step::{Detail, Outcome, Plan, Step};
use headgate_plan::tunnel;

use crate::api::StepLine;
use crate::owed::Owed;

/// Rounds that write again what was written: one that finds a ruleset of another program's making, and then some.
const ROUNDS_AGAIN: usize = 3;
/// How often somebody else may commit between our look and our commit before we commit all the same. A program that commits all
/// the time, to tables of its own, must not keep us from ours; whether it did touch them is seen by the round that verifies.
const STALE_MAX: usize = 3;
/// Rounds in all. An interface that comes up gets its interrupts, and with them new knobs: the second round sees them, the third
/// verifies. Whatever somebody changes meanwhile is one more.
const ROUNDS_MAX: usize = 16;

/// How often a knob is set in one go: new queues undo what was set before them.
const KNOB_ATTEMPTS: usize = 2;

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Nothing is written.
    Planned,
    /// The kernel is as wanted, and has been read back.
    Verified,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The hardware profiles to choose from.
    pub profiles: &'a [Profile],
    /// The ids in use, when they are known; `None`: the kernel is asked.
    pub ids: Option<&'a Ids>,
    /// The backends that are down by their checks.
    pub failed: &'a Failed,
    /// Which knobs are turned.
    pub knobs: Knobs<'a>,
}

/// Which knobs are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knobs<'a> {
    /// Every one.
    All,
    /// All but these, by path.
    But(&'a BTreeSet<String>),
    /// Those that forwarding needs: the profile's are given back.
    Needed,
}

impl Knobs<'_> {
    /// Takes out of a plan what is not to be turned.
    fn choose(self, plan: &mut Plan, desired: &Desired) {
        let profiles: BTreeSet<&str> = match self {
            Knobs::All => return,
            Knobs::But(paths) => paths.iter().map(String::as_str).collect(),
            Knobs::Needed => {
                desired.knobs.iter().filter(|knob| knob.origin.is_some()).map(|knob| knob.path.as_str()).collect()
            }
        };
        plan.steps.retain(|step| !matches!(step, Step::Knob { path, .. } if profiles.contains(path.as_str())));
    }
}

/// How it went.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// What the machine is.
    pub facts: Facts,
    /// What the kernel should be; with [`Until::Verified`] without the ruleset, which is as large as all the rest.
    pub desired: Desired,
    /// What it was when it was last looked at; with [`Until::Verified`] nothing.
    pub observed: State,
    /// What is still to be done: with [`Until::Verified`] nothing, or what the kernel does not take.
    pub plan: Plan,
    /// What was done, in order; of a ruleset's changes no more than that there were some.
    pub done: Vec<(Step, Outcome)>,
    /// The same as the API tells it.
    pub told: Vec<StepLine>,
    /// What backends that are down or gone did not let go of.
    pub owed: Owed,
}

/// Why the kernel is not as wanted. It is as before, unless the reason says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// This version cannot do it.
    #[error("the configuration asks for what this version cannot do")]
    Unsupported(Vec<Unsupported>),
    /// The machine cannot be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A step failed; what had been done was taken back.
    #[error("{step}: {reason}")]
    Refused {
        /// The step, as `plan` prints it.
        step: String,
        /// What the kernel said.
        reason: String,
        /// Everything that was tried.
        steps: Vec<StepLine>,
    },
    /// It does not stay as it was written: another program writes the same things.
    #[error("the kernel does not keep what was written; another program changes the same things")]
    Unsettled(Vec<StepLine>),
}

impl ReconcileError {
    /// Everything that was tried, in order.
    pub fn steps(&self) -> &[StepLine] {
        match self {
            Self::Refused { steps, .. } | Self::Unsettled(steps) => steps,
            Self::Unsupported(_) | Self::Host(_) => &[],
        }
    }
}

/// Makes the kernel what `wanted` means.
///
/// # Errors
/// Any [`ReconcileError`].
pub fn reconcile(host: &mut Host, wanted: Wanted<'_>, until: Until) -> Result<Reconciled, ReconcileError> {
    let mut so_far = Reconciled::default();
    let mut ids = wanted.ids.cloned();
    let (mut again, mut stale) = (0, 0);
    for _ in 0..ROUNDS_MAX {
        let ruleset = host.observe_ruleset()?;
        let mut known = ids.take().unwrap_or_else(|| Ids::observe(&ruleset));
        known.set_failed(wanted.failed.clone());
        so_far.facts = host.facts()?;
        let helpers = wanted.config.farms.values().filter_map(|farm| farm.helper).collect();
        so_far.facts.lacking_helpers = host.lacking_helpers(&helpers)?;
        so_far.facts.flowtable = features::offloads(wanted.config) && host.has_flowtables()?;
        so_far.facts.lacking_features = host.lacking_features(&Feature::wanted(wanted.config))?;
        so_far.facts.lacking_tunnels = host.lacking_tunnels(&tunnel::wanted(wanted.config))?;
        so_far.desired =
            compile(wanted.config, wanted.profiles, &so_far.facts, &known).map_err(ReconcileError::Unsupported)?;
        so_far.observed = host.observe_beside(ruleset, &so_far.desired.state)?;
        so_far.plan = Plan::between(&so_far.desired, &so_far.observed);
        so_far.plan.steps.retain(|step| !is_settled(step, &so_far.done));
        wanted.knobs.choose(&mut so_far.plan, &so_far.desired);
        so_far.plan.defer_undone();
        if until == Until::Planned {
            return Ok(so_far);
        }
        if so_far.plan.is_empty() {
            // They are the same now, and whoever goes on needs the memory.
            so_far.observed = State::default();
            so_far.desired.state.ruleset = Ruleset::default();
            return Ok(so_far);
        }
        again += usize::from(so_far.plan.steps.iter().any(|step| is_again(step, &so_far.done)));
        if again > ROUNDS_AGAIN {
            break;
        }
        let lost = lost(&so_far);
        if stale == STALE_MAX {
            host.ignore_generation();
        }
        // At 10,000 farms these are most of the memory: the plan says it all, and the next round makes its own.
        ids = Some(std::mem::take(&mut so_far.desired).ids);
        so_far.observed = State::default();
        let report = host.apply(std::mem::take(&mut so_far.plan));
        match report.failure {
            None => {
                so_far.told.extend(lines(&report.steps));
                so_far.done.extend(report.steps.into_iter().map(without_changes));
                so_far.owed.settle(lost, |lost| cut_lost(host, lost));
            }
            Some(failure) if failure.stale => {
                tracing::info!("nftables changed meanwhile; looking again");
                stale += 1;
            }
            Some(failure) => {
                let steps = lines(&report.steps);
                let step = steps.get(failure.step).map(|line| line.step.clone()).unwrap_or_default();
                return Err(ReconcileError::Refused { step, reason: failure.reason, steps });
            }
        }
    }
    Err(ReconcileError::Unsettled(so_far.told))
}

/// The changes of a ruleset are as large as the ruleset, and the next round has two of those to compare.
fn without_changes((step, outcome): (Step, Outcome)) -> (Step, Outcome) {
    match step {
        Step::Ruleset(_) => (Step::Ruleset(Vec::new()), outcome),
        step => (step, outcome),
    }
}

/// What backends lose once the plan is carried out.
fn lost(so_far: &Reconciled) -> Lost {
    let changes = so_far.plan.steps.iter().any(|step| matches!(step, Step::Ruleset(_)));
    match changes {
        true => flows::lost(&so_far.observed.ruleset, &so_far.desired.state.ruleset),
        false => Lost::default(),
    }
}

/// Ends the flows, TCP mostly apart, and the memories of clients of backends that are down or gone; a warning for what fails. Only
/// behind the commit of the ruleset: before, the next packets would find the same backends again.
pub fn cut_lost(host: &mut Host, lost: &Lost) -> Vec<String> {
    [forget_lost(host, lost), cut_flows(lost), give_up_early(lost)].into_iter().filter_map(Result::err).collect()
}

/// The memories alone: before the flows, whose next packets would find the same backends by them.
///
/// # Errors
/// What to warn of.
pub fn forget_lost(host: &mut Host, lost: &Lost) -> Result<(), String> {
    if lost.memories.is_empty() {
        return Ok(());
    }
    match host.forget(&lost.memories, Some(&lost.marks)) {
        Ok(0) => {}
        Ok(clients) => {
            let backends = lost.marks.len();
            tracing::info!(backends, clients, "clients of backends that are down or gone were forgotten");
        }
        Err(error) => {
            let why = crate::explain(&error);
            return Err(format!(
                "clients of backends that are down or gone come back to them when these come back: {why}"
            ));
        }
    }
    Ok(())
}

/// The flows alone: one walk through all flows of the machine, which takes tens of milliseconds even when there is none.
///
/// # Errors
/// What to warn of.
pub fn cut_flows(lost: &Lost) -> Result<(), String> {
    if lost.marks.is_empty() {
        return Ok(());
    }
    let flows = Conntrack::open().and_then(|mut conntrack| conntrack.delete_lost(&lost.marks, &lost.cut));
    let flows = flows.map_err(|error| {
        let why = crate::explain(&error);
        format!("flows that should leave backends that are down or gone stay until they are idle: {why}")
    })?;
    let (backends, cut) = (lost.marks.len(), lost.cut.len());
    tracing::info!(backends, cut, flows, "flows left backends that are down or gone");
    Ok(())
}

/// Ends the flows to farms that began before these farms did. Behind the commit, as the others.
fn give_up_early(lost: &Lost) -> Result<(), String> {
    if lost.opened.is_empty() {
        return Ok(());
    }
    let flows = Conntrack::open().and_then(|mut conntrack| conntrack.delete_early(&lost.opened));
    match flows {
        Ok(0) => {}
        Ok(flows) => tracing::info!(flows, "flows that began before their farm did begin anew"),
        Err(error) => {
            let why = crate::explain(&error);
            return Err(format!(
                "clients that sent before their farm was there are not served until they pause: {why}"
            ));
        }
    }
    Ok(())
}

/// The kernel has said its word about this step: trying again would say the same. So it would be with a knob that was set and read
/// back twice, and is otherwise once more: another program turns it faster than we look, and nothing else may wait for that.
fn is_settled(step: &Step, done: &[(Step, Outcome)]) -> bool {
    let refused = |outcome: &Outcome| matches!(outcome, Outcome::Refused(_) | Outcome::Unsupported | Outcome::Kept);
    let is_knob = matches!(step, Step::Knob { .. });
    let set =
        done.iter().filter(|(other, outcome)| is_knob && *outcome == Outcome::Set && is_same(step, other)).count();
    set >= KNOB_ATTEMPTS || done.iter().any(|(other, outcome)| refused(outcome) && is_same(step, other))
}

/// The same was done before, and did not last.
fn is_again(step: &Step, done: &[(Step, Outcome)]) -> bool {
    let is_ruleset = |step: &Step| matches!(step, Step::Ruleset(_));
    done.iter().any(|(other, _)| is_same(step, other) || is_ruleset(step) && is_ruleset(other))
}

/// What a knob had is no part of it.
fn is_same(step: &Step, other: &Step) -> bool {
    match (step, other) {
        (Step::Knob { path, want, .. }, Step::Knob { path: other, want: tried, .. }) => path == other && want == tried,
        _ => step == other,
    }
}

/// Steps and their outcomes as the API tells them.
pub fn lines(steps: &[(Step, Outcome)]) -> Vec<StepLine> {
    let line = |(step, outcome): &(Step, Outcome)| {
        let view = step.view(Detail::Summary);
        StepLine { kind: view.kind, step: view.text, details: view.details, outcome: Some(outcome_word(outcome)) }
    };
    steps.iter().map(line).collect()
}

/// A plan as the API tells it.
pub fn planned(plan: &Plan, detail: Detail) -> Vec<StepLine> {
    let views = plan.view(detail);
    views
        .into_iter()
        .map(|view| StepLine { kind: view.kind, step: view.text, details: view.details, outcome: None })
        .collect()
}

/// An outcome as the API tells it.
pub fn outcome_word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Kept => "kept".to_owned(),
        Outcome::Set => "set".to_owned(),
        Outcome::Unsupported => "unsupported".to_owned(),
        Outcome::Refused(reason) => format!("refused: {reason}"),
        Outcome::Returned => "returned".to_owned(),
        Outcome::Skipped => "skipped".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use headgate_plan::state::{Fit, KnobValue};

    use super::*;

    fn knob(path: &str, was: i64) -> Step {
        Step::Knob { path: path.into(), was: Some(KnobValue::Int(was)), want: KnobValue::Int(1), fit: Fit::Exact }
    }

    #[test]
    fn what_somebody_changes_beside_a_repair_is_nothing_that_did_not_last() {
        let done = [(knob("ethtool/eth0/rings", 512), Outcome::Set), (Step::Ruleset(Vec::new()), Outcome::Set)];
        assert!(!is_again(&knob("ethtool/eth0/coalesce", 512), &done));
        assert!(is_again(&knob("ethtool/eth0/rings", 256), &done));
        assert!(is_again(&Step::Ruleset(vec![]), &done));
        assert!(!is_settled(&knob("ethtool/eth0/rings", 256), &done), "once more");
    }
}
