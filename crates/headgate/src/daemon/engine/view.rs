//! What the engine tells without changing anything.

use headgate_plan::state::State;
use headgate_plan::status::{FarmStatus, ServiceStatus, Sources, Status};
use headgate_plan::step::Detail;

use super::load::profiles;
use super::{Engine, EngineError, Reason};
use crate::api::{Generation, Planned};
use crate::daemon::caller::Caller;
use crate::reconcile::{Knobs, Reconciled, Until, Wanted, planned, reconcile};
use headgate_config::types::FarmName;

/// What `status` says after `headgate hw restore`.
const UNTUNED: &str =
    "the machine is as it was before the hardware profile, since `headgate hw restore`; `headgate hw apply` tunes it";

impl Engine {
    /// Has the status say this from now on.
    pub fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    /// How everything is, read from the kernel now.
    ///
    /// # Errors
    /// The machine cannot be looked at.
    pub fn status(&mut self, services: &[ServiceStatus]) -> Result<Status, EngineError> {
        let fault = self.fault.clone();
        let Some(looked) = self.look()? else {
            let mut status = Status::new(Sources {
                config: &headgate_config::Config::default(),
                desired: &headgate_plan::compile::Desired::default(),
                observed: &State::default(),
                counted: &Default::default(),
                knobs: &Default::default(),
                services,
                generation: None,
                last_error: Some(fault.as_deref().unwrap_or("no configuration runs yet")),
            });
            status.warnings.extend(self.notes.iter().chain(&self.unkept).chain(self.owed.warnings()).cloned());
            (status.clock, status.syslog) = (self.clock.told(), self.syslog.told());
            self.date(&mut status);
            return Ok(status);
        };
        let counted = self.counted();
        let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
        let mut status = Status::new(Sources {
            config: &running.config,
            desired: &looked.desired,
            observed: &looked.observed,
            counted: &counted,
            knobs: &self.knob_outcomes(),
            services,
            generation: running.generation,
            last_error: fault.as_deref(),
        });
        status.warnings.extend(self.notes.iter().chain(&self.unkept).chain(self.owed.warnings()).cloned());
        status.warnings.extend(self.differences());
        self.board.show(&mut status.farms);
        status.warnings.extend(self.untuned.then(|| UNTUNED.to_owned()));
        status.counting = self.counting;
        (status.clock, status.syslog) = (self.clock.told(), self.syslog.told());
        status.capacity = self.capacity(counted.ports);
        self.date(&mut status);
        super::release_memory();
        Ok(status)
    }

    /// The farms of the status, worst first.
    ///
    /// # Errors
    /// As [`Engine::status`].
    pub fn farms(&mut self) -> Result<Vec<FarmStatus>, EngineError> {
        let counted = self.counted();
        let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
        let farms = running.config.farms.values();
        let mut farms: Vec<FarmStatus> = farms.map(|farm| FarmStatus::new(farm, &running.desired, &counted)).collect();
        self.board.show(&mut farms);
        self.date_farms(&mut farms);
        farms.sort_by(|a, b| a.health.cmp(&b.health).then_with(|| a.name.cmp(&b.name)));
        Ok(farms)
    }

    /// One farm of the status.
    ///
    /// # Errors
    /// No such farm.
    pub fn farm(&mut self, name: &FarmName) -> Result<FarmStatus, EngineError> {
        let counted = self.counted();
        let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
        let farm = running.config.farms.get(name).ok_or_else(|| EngineError::NotFound(format!("farm {name}")))?;
        let mut farm = FarmStatus::new(farm, &running.desired, &counted);
        self.board.show(std::slice::from_mut(&mut farm));
        self.date_farms(std::slice::from_mut(&mut farm));
        Ok(farm)
    }

    /// What `apply` would do, and what it would mean to who asks.
    ///
    /// # Errors
    /// Why `apply` would be refused.
    pub fn plan(&mut self, by: &Caller) -> Result<Planned, EngineError> {
        let runtime = self.runtime();
        let planned = self.plan_files(by);
        // Whoever looks takes nothing out of it.
        self.restore_runtime(&runtime)?;
        planned
    }

    fn plan_files(&mut self, by: &Caller) -> Result<Planned, EngineError> {
        let candidate = self.load_files(Reason::Apply)?;
        let reconciled = self.go(&candidate, Until::Planned)?;
        let closes = by.way().and_then(|way| self.closes(&candidate, &reconciled, way));
        let warnings = candidate.warnings.iter().chain(&reconciled.desired.warnings).cloned().chain(closes).collect();
        Ok(Planned { steps: planned(&reconciled.plan, Detail::Summary), warnings })
    }

    /// The generations that can be gone back to, oldest first.
    pub fn history(&self) -> Vec<Generation> {
        self.store.history()
    }

    /// The kernel as it is beside what runs.
    pub(super) fn look(&mut self) -> Result<Option<Reconciled>, EngineError> {
        let profiles = profiles(&self.root)?;
        let Some(running) = &self.running else { return Ok(None) };
        let knobs = if self.untuned { Knobs::Needed } else { Knobs::All };
        let failed = self.fallen.within(&running.config);
        let ids = Some(&running.desired.ids);
        let wanted = Wanted { config: &running.config, profiles: &profiles, ids, failed: &failed, knobs };
        Ok(Some(reconcile(&mut self.host, wanted, Until::Planned)?))
    }

    /// Where what runs is not what the files under `/etc` say.
    fn differences(&self) -> Vec<String> {
        let trial = self.trial().map(|trial| {
            format!(
                "what runs is on trial: generation {} returns in {} s unless `headgate confirm` keeps it",
                trial.back, trial.seconds_left
            )
        });
        let since = if self.store.lapsed() { "since nobody confirmed them" } else { "since a rollback" };
        let returned = self
            .store
            .returned()
            .map(|_| format!("the files under /etc are not what runs, {since}; `headgate apply` loads them"));
        let changed =
            self.overrides.targets().into_iter().map(|target| {
                format!("{target}, until the next boot: {}", self.overrides.describe(&target).join(", "))
            });
        trial.into_iter().chain(returned).chain(changed).collect()
    }
}
