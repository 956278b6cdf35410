//! What the engine tells without changing anything.

use headgate_host::knob::originals;
use headgate_plan::compile::Desired;
use headgate_plan::flows::Lost;
use headgate_plan::hardware::{self, HardwareReport};
use headgate_plan::state::State;
use headgate_plan::status::{FarmStatus, ServiceStatus, Sources, Status};
use headgate_plan::step::Detail;

use super::{Engine, EngineError, Reason};
use crate::api::{Generation, Planned};
use crate::daemon::feed::Event;
use crate::reconcile::{Reconciled, Until, Wanted, cut_lost, planned, reconcile};
use headgate_config::types::FarmName;

impl Engine {
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
            return Ok(status);
        };
        let counted = self.counted();
        let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
        let mut status = Status::new(Sources {
            config: &running.config,
            desired: &looked.desired,
            observed: &looked.observed,
            counted: &counted,
            knobs: &running.knobs,
            services,
            generation: running.generation,
            last_error: fault.as_deref(),
        });
        status.warnings.extend(self.notes.iter().chain(&self.unkept).chain(self.owed.warnings()).cloned());
        status.warnings.extend(self.differences());
        self.board.show(&mut status.farms);
        status.counting = self.counting;
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
        Ok(farm)
    }

    /// What `apply` would do.
    ///
    /// # Errors
    /// Why `apply` would be refused.
    pub fn plan(&mut self) -> Result<Planned, EngineError> {
        let candidate = self.load_files(Reason::Apply)?;
        let profiles = self.profiles()?;
        let known = self.running.as_ref().map(|running| running.desired.ids.clone());
        let failed = self.fallen.within(&candidate.config);
        let wanted = Wanted { config: &candidate.config, profiles: &profiles, ids: known.as_ref(), failed: &failed };
        let reconciled = reconcile(&mut self.host, wanted, Until::Planned);
        let reconciled = reconciled.map_err(|error| self.placed(error, &candidate))?;
        let warnings = candidate.warnings.iter().chain(&reconciled.desired.warnings).cloned().collect();
        Ok(Planned { steps: planned(&reconciled.plan, Detail::Summary), warnings })
    }

    /// The generations that can be gone back to, oldest first.
    pub fn history(&self) -> Vec<Generation> {
        self.store.history()
    }

    /// The hardware and its knobs, read now.
    ///
    /// # Errors
    /// The machine cannot be looked at.
    pub fn hardware(&mut self) -> Result<HardwareReport, EngineError> {
        let looked = self.look()?.ok_or(EngineError::NothingRuns)?;
        let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
        let originals = originals(&self.root).map(|originals| originals.knobs).unwrap_or_default();
        let originals = originals.into_iter().map(|(path, original)| (path, original.was)).collect();
        Ok(HardwareReport::new(hardware::Sources {
            facts: &looked.facts,
            profile: looked.desired.profile.as_deref(),
            knobs: &looked.desired.knobs,
            found: &looked.observed.knobs,
            outcomes: &running.knobs,
            originals: &originals,
        }))
    }

    /// Compares the kernel with what it should be, and repairs it; takes what is still owed.
    pub fn watch(&mut self) {
        match self.look() {
            Ok(Some(looked)) if !looked.plan.is_empty() => self.repair(&looked),
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %crate::explain(&error), "the kernel cannot be compared"),
        }
        self.owed.settle(Lost::default(), |lost| cut_lost(&mut self.host, lost));
        super::release_memory();
    }

    fn repair(&mut self, looked: &Reconciled) {
        for line in planned(&looked.plan, Detail::Summary) {
            tracing::warn!(step = line.step, "the kernel is not as it was left; repairing");
        }
        let Ok(profiles) = self.profiles() else { return };
        let Some(running) = &mut self.running else { return };
        let failed = self.fallen.within(&running.config);
        let ids = Some(&running.desired.ids);
        let wanted = Wanted { config: &running.config, profiles: &profiles, ids, failed: &failed };
        match reconcile(&mut self.host, wanted, Until::Verified) {
            Ok(repaired) => {
                tracing::info!("repaired");
                self.tally.repairs += 1;
                self.events.tell(Event::Drift { repaired: true, steps: looked.plan.steps.len() });
                self.owed.add(repaired.owed);
                self.announcements.remember(&repaired.done);
                running.desired = Desired { state: State::default(), ..repaired.desired };
            }
            Err(error) => {
                self.tally.repairs_failed += 1;
                self.events.tell(Event::Drift { repaired: false, steps: looked.plan.steps.len() });
                tracing::error!(error = %crate::explain(&error), "not repaired");
            }
        }
    }

    /// The kernel as it is beside what runs.
    fn look(&mut self) -> Result<Option<Reconciled>, EngineError> {
        let profiles = self.profiles()?;
        let Some(running) = &self.running else { return Ok(None) };
        let failed = self.fallen.within(&running.config);
        let ids = Some(&running.desired.ids);
        let wanted = Wanted { config: &running.config, profiles: &profiles, ids, failed: &failed };
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
