//! `headgate farm` and `headgate backend`: changes that nobody edits a file for.
//!
//! State and weight of a backend go the short way: no file is parsed and no other farm is compiled, so it takes the same
//! time at one farm and at ten thousand. Everything else goes through the loader and the reconciler like a file would.

use std::sync::Arc;

use headgate_config::Draft;
use headgate_config::model::{Backend, BackendState, Farm};
use headgate_config::types::BackendName;
use headgate_host::Root;
use headgate_plan::step::{Outcome, Step};
use serde_json::Value;

use super::load::Base;
use super::rewrite::{Change, Rewrite};
use super::{Cause, Engine, EngineError, Reason};
use crate::api::{Applied, Keep, Values};
use crate::daemon::caller::Caller;
use crate::daemon::feed::Event;
use crate::daemon::operator::{Overrides, PERSISTENT, RUNTIME, Target, state_word};
use crate::reconcile::{cut_lost, lines};

/// What is to become of a farm or a backend.
#[derive(Debug, Clone)]
pub enum Edit {
    /// It is made.
    Add(Values),
    /// Some keys of it are set.
    Set(Values),
    /// It goes.
    Remove,
}

/// A candidate, and the texts of the two files that it is made of; the second where it changes.
type Rewritten = (super::Candidate, Overrides, Option<Overrides>);

/// A backend's new state and weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Steering {
    state: Option<BackendState>,
    weight: Option<u16>,
}

impl Steering {
    /// `None` when `values` are more, or other, than a state and a weight.
    fn of(values: &Values) -> Option<Self> {
        let mut steering = Self::default();
        for (key, value) in values {
            match (key.as_str(), value) {
                ("state", Value::String(word)) => {
                    let states = [BackendState::Up, BackendState::Drain, BackendState::Down];
                    steering.state = Some(states.into_iter().find(|state| state_word(*state) == word)?);
                }
                ("weight", Value::Number(number)) => steering.weight = Some(number.as_u64()?.try_into().ok()?),
                _ => return None,
            }
        }
        Some(steering)
    }

    fn values(self) -> Values {
        let state = self.state.map(|state| ("state".to_owned(), Value::from(state_word(state))));
        let weight = self.weight.map(|weight| ("weight".to_owned(), Value::from(weight)));
        state.into_iter().chain(weight).collect()
    }

    fn steer(self, backend: &mut Backend) {
        backend.state = self.state.unwrap_or(backend.state);
        backend.weight = self.weight.unwrap_or(backend.weight);
    }
}

impl Engine {
    /// Makes a change and keeps it.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn change(&mut self, target: &Target, edit: &Edit, keep: Keep, by: &Caller) -> Result<Applied, EngineError> {
        self.require(target, edit)?;
        if let (Edit::Set(values), Some(backend), Keep::UntilReboot) = (edit, &target.backend, keep)
            && let Some(steering) = Steering::of(values)
            && let Some(applied) = self.steer(target, backend, steering)?
        {
            self.tell_steered(target, backend, by);
            return Ok(applied);
        }
        let (candidate, runtime, persistent) = self.rewrite(target, edit, keep)?;
        let rewrites = persistent.iter().chain([&runtime]).map(Rewrite::from).collect();
        let before = std::mem::replace(&mut self.overrides, runtime);
        let cause = Cause { reason: Reason::Operator, by: Some(by) };
        let applied = self.write_and_run(Change { candidate, rewrites }, cause);
        if applied.is_err() {
            self.overrides = before;
        }
        applied
    }

    fn tell_steered(&self, target: &Target, name: &BackendName, by: &Caller) {
        let farm = self.running.as_ref().and_then(|running| running.config.farms.get(&target.farm));
        let Some(backend) = farm.and_then(|farm| farm.backends.get(name)) else { return };
        self.events.tell(Event::Backend {
            farm: target.farm.to_string(),
            backend: name.to_string(),
            state: state_word(backend.state),
            weight: backend.weight,
            author: by.name().to_owned(),
        });
    }

    fn exists(&self, target: &Target) -> Result<bool, EngineError> {
        let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
        let farm = running.config.farms.get(&target.farm);
        Ok(match &target.backend {
            None => farm.is_some(),
            Some(backend) => farm.is_some_and(|farm| farm.backends.contains_key(backend)),
        })
    }

    fn require(&self, target: &Target, edit: &Edit) -> Result<(), EngineError> {
        let farm = Target { farm: target.farm.clone(), backend: None };
        if target.backend.is_some() && !self.exists(&farm)? {
            return Err(EngineError::NotFound(farm.to_string()));
        }
        match (edit, self.exists(target)?) {
            (Edit::Add(_), true) => Err(EngineError::Exists(target.clone())),
            (Edit::Set(_) | Edit::Remove, false) => Err(EngineError::NotFound(target.to_string())),
            _ => Ok(()),
        }
    }

    /// The short way. `None`: this change is not only the farm's own, the long way has to be taken.
    fn steer(
        &mut self,
        target: &Target,
        name: &BackendName,
        steering: Steering,
    ) -> Result<Option<Applied>, EngineError> {
        let running = self.running.as_mut().ok_or(EngineError::NothingRuns)?;
        let old = Arc::clone(&running.config.farms[&target.farm]);
        let mut new = Farm::clone(&old);
        let backend = new.backends.get_mut(name).expect("require() has found the backend");
        let plain =
            *self.untouched.get(&(target.farm.clone(), name.clone())).unwrap_or(&(backend.state, backend.weight));
        let before = (backend.state, backend.weight);
        steering.steer(backend);
        let stored = before != (backend.state, backend.weight);
        let (state, weight) = (backend.state, backend.weight);
        let Some(changes) = running.desired.context.farm_change(&old, &new, &running.desired.ids) else {
            return Ok(None);
        };
        let lost = running.desired.context.flows_lost(&old, &new, &running.desired.ids);
        let mut overrides = self.overrides.clone();
        overrides.set(target, &steering.values())?;
        overrides.drop_same(target, plain);
        // First the file: a disk that is full leaves the kernel alone.
        let before = std::mem::replace(&mut self.overrides, overrides);
        if let Err(error) = self.write_runtime() {
            self.overrides = before;
            return Err(error);
        }
        if !changes.is_empty()
            && let Err(error) = self.host.commit_ruleset(&changes)
        {
            // Somebody has changed our table, or a map is full: the long way looks at the kernel first.
            tracing::info!(error = %crate::explain(&error), "one farm's change was refused; looking at everything");
            self.overrides = before;
            self.write_runtime()?;
            return Ok(None);
        }
        self.untouched.insert((target.farm.clone(), name.clone()), plain);
        let running = self.running.as_mut().expect("it ran at the beginning of this function");
        running.config.farms.insert(target.farm.clone(), Arc::new(new));
        tracing::info!(farm = %target.farm, backend = %name, state = state_word(state), weight, "backend changed");
        self.see([&target.farm]);
        self.owed.settle(lost, |lost| cut_lost(&mut self.host, lost));
        let warnings = self.owed.warnings().to_vec();
        let done: Vec<(Step, Outcome)> = match changes.is_empty() {
            true => Vec::new(),
            false => vec![(Step::Ruleset(changes), Outcome::Set)],
        };
        let generation = self.running.as_ref().and_then(|running| running.generation);
        Ok(Some(Applied { generation, trial: self.trial(), steps: lines(&done), stored, warnings }))
    }

    fn persistent(&self) -> Result<Overrides, EngineError> {
        read_overrides(&self.root, PERSISTENT)
    }

    pub(super) fn write_runtime(&self) -> Result<(), EngineError> {
        Ok(self.root.write_file(RUNTIME, self.overrides.text().as_bytes())?)
    }

    /// The long way: the new text of a file is checked with all the others.
    fn rewrite(&mut self, target: &Target, edit: &Edit, keep: Keep) -> Result<Rewritten, EngineError> {
        let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
        let generation = match running.base {
            Base::Generation(number) => Some(number),
            Base::Files => None,
        };
        let (mut runtime, mut persistent) = (self.overrides.clone(), None);
        match (keep, generation) {
            (Keep::Persist, Some(number)) => return Err(EngineError::Returned(number)),
            (Keep::Persist, None) => {
                let mut document = self.persistent()?;
                // runtime.toml comes last: what it says of the same keys would hide the change.
                hide(&mut runtime, target, edit);
                draft(&mut document, target, edit)?;
                persistent = Some(document);
            }
            (Keep::UntilReboot, _) => draft(&mut runtime, target, edit)?,
        }
        let mut candidate = self.load_changed(&self.drafts(&runtime, persistent.as_ref())?);
        let found = |candidate: &super::Candidate| found(candidate, target);
        let insists = match (edit, &candidate) {
            // Another file has it too.
            (Edit::Remove, Ok(candidate)) => found(candidate),
            // Another file has switched it off.
            (Edit::Add(_), Ok(candidate)) => !found(candidate),
            // What is left of it elsewhere is not valid without what was taken out.
            (Edit::Remove, Err(EngineError::Config(_))) => true,
            _ => false,
        };
        if insists {
            let enabled = Values::from_iter([("enabled".to_owned(), Value::Bool(!matches!(edit, Edit::Remove)))]);
            persistent.as_mut().unwrap_or(&mut runtime).set(target, &enabled)?;
            candidate = self.load_changed(&self.drafts(&runtime, persistent.as_ref())?);
        }
        let candidate = candidate?;
        self.require_no_other_trial(&candidate)?;
        Ok((candidate, runtime, persistent))
    }

    fn drafts(&self, runtime: &Overrides, persistent: Option<&Overrides>) -> Result<Vec<Draft>, EngineError> {
        let documents = persistent.into_iter().chain([runtime]);
        documents.map(|document| Ok((self.root.file(document.file())?, Some(document.text())))).collect()
    }
}

pub(super) fn read_overrides(root: &Root, file: &'static str) -> Result<Overrides, EngineError> {
    let text = match root.read_file(file) {
        Ok(text) => text,
        Err(error) if error.is_missing() => String::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(Overrides::parse(file, &text)?)
}

fn draft(document: &mut Overrides, target: &Target, edit: &Edit) -> Result<(), EngineError> {
    match edit {
        Edit::Add(values) => {
            // It may say that the target is off.
            document.unset(target, &[]);
            document.set(target, values)?;
        }
        Edit::Set(values) => document.set(target, values)?,
        Edit::Remove => document.unset(target, &[]),
    }
    Ok(())
}

fn hide(runtime: &mut Overrides, target: &Target, edit: &Edit) {
    match edit {
        Edit::Set(values) => {
            let keys: Vec<&str> = values.keys().map(String::as_str).collect();
            runtime.unset(target, &keys);
        }
        Edit::Add(_) | Edit::Remove => runtime.unset(target, &[]),
    }
}

fn found(candidate: &super::Candidate, target: &Target) -> bool {
    let farm = candidate.config.farms.get(&target.farm);
    match &target.backend {
        None => farm.is_some(),
        Some(backend) => farm.is_some_and(|farm| farm.backends.contains_key(backend)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn steering(value: Value) -> Option<Steering> {
        Steering::of(value.as_object().unwrap())
    }

    #[test]
    fn only_valid_states_and_weights_go_the_short_way() {
        let drain = Steering { state: Some(BackendState::Drain), weight: None };
        assert_eq!(steering(json!({"state": "drain"})), Some(drain));
        assert_eq!(steering(json!({"weight": 65535})).unwrap().weight, Some(u16::MAX));
        for other in [
            json!({"state": "gone"}),
            json!({"state": 1}),
            json!({"weight": 65536}),
            json!({"weight": -1}),
            json!({"weight": "5"}),
            json!({"weight": 5, "priority": 1}),
        ] {
            assert_eq!(steering(other), None);
        }
    }
}
