//! `headgate apply --confirm`: a configuration that returns to the one before unless somebody confirms it.
//!
//! The trial is on disk before the kernel hears of it, with the boot and the time in it at which it is over. Whatever ends
//! the daemon meanwhile, the next one goes on with the trial, or returns when its time is over or the machine has booted.

use std::time::Duration;

use nix::time::ClockId;
use tokio::sync::watch;

use super::rewrite::Change;
use super::{Cause, Engine, EngineError, Handle, RUNTIME, Reason};
use crate::api::{self, Applied, Confirmed};
use crate::daemon::caller::Caller;
use crate::daemon::feed::Event;
use crate::daemon::operator::Overrides;
use crate::daemon::store::{Origin, Trial, hash};

/// Changes with every boot.
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
/// How long a trial may take.
pub const WINDOW_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The timers of the runtime do not run while the machine sleeps.
const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// After a return that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Since the boot, sleep included.
fn since_boot() -> Duration {
    ClockId::CLOCK_BOOTTIME.now().map(Duration::from).unwrap_or_default()
}

impl Engine {
    /// Loads the files and applies them, until `window` is over or somebody confirms them.
    ///
    /// # Errors
    /// Why what ran before runs on; also that there is nothing to return to.
    pub fn apply_on_trial(&mut self, by: &Caller, window: Duration) -> Result<Applied, EngineError> {
        let cause = Cause { reason: Reason::Apply, by: Some(by) };
        let tried = self.unless_refused(|engine, runtime| {
            let candidate = engine.load(cause)?;
            engine.try_out(candidate.into(), cause, window, runtime.to_owned())
        });
        tried.inspect_err(|error| {
            self.blame_files(error);
        })
    }

    /// Goes back to a generation, or to the one before the running one; until `window` is over, if there is one, unless somebody
    /// confirms it.
    ///
    /// # Errors
    /// Why what ran before runs on.
    pub fn rollback(
        &mut self,
        number: Option<u64>,
        window: Option<Duration>,
        by: &Caller,
    ) -> Result<Applied, EngineError> {
        let generation = self.store.find(number)?;
        let trial = self.store.trial().cloned();
        let cause = Cause { reason: Reason::Rollback, by: Some(by) };
        let applied = self.unless_refused(|engine, runtime| {
            // What a trial returns to by itself is had sooner.
            let sooner = trial.as_ref().filter(|trial| trial.back == generation.number);
            sooner.map_or(Ok(()), |trial| engine.restore_overrides(trial))?;
            let candidate = engine.load_generation(generation)?;
            match window {
                // It would have two to return to.
                Some(_) if trial.is_some() => return Err(EngineError::OnTrial),
                Some(window) => return engine.try_out(candidate.into(), cause, window, runtime.to_owned()),
                None if sooner.is_some() => {}
                None => engine.require_way_back(&candidate, Some(by))?,
            }
            engine.run(candidate, cause)
        });
        self.tell_trial();
        applied
    }

    /// Writes and applies something until `window` is over or somebody confirms it. The files stay as they are then: like those
    /// that somebody edited, they are not loaded again until they change or `apply` asks for them.
    pub(super) fn try_out(
        &mut self,
        change: Change,
        cause: Cause<'_>,
        window: Duration,
        runtime: String,
    ) -> Result<Applied, EngineError> {
        let hash = hash(&change.candidate.files);
        let known = self.store.is_running(&hash).is_some();
        if known && self.store.trial().is_none() && self.store.returned().is_none() {
            let mut applied = self.write_and_run(change, cause)?;
            applied.warnings.push("the files are what runs: there is nothing to confirm".to_owned());
            return Ok(applied);
        }
        let before = self.store.trial().cloned();
        let (back, runtime) = match &before {
            Some(trial) => (trial.back, trial.runtime.clone()),
            None => (self.kept()?, runtime),
        };
        let until = since_boot() + window.min(WINDOW_MAX);
        let trial = Trial {
            back,
            hash,
            boot: self.boot()?,
            until_ms: u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
            runtime,
            returned: match cause.reason {
                Reason::Rollback => Some(self.store.returned_before()),
                _ => None,
            },
        };
        self.store.begin_trial(trial)?;
        let applied = self.write_and_run(change, cause);
        if applied.is_err() {
            let restored = match before {
                Some(before) => self.store.begin_trial(before),
                None => self.store.end_trial(),
            };
            if let Err(error) = restored {
                // It then returns to what runs, which changes nothing.
                tracing::error!(error = %crate::explain(&error), "the trial that was refused cannot be taken back");
            }
        }
        self.tell_trial();
        applied
    }

    /// The generation that a trial can return to.
    fn kept(&mut self) -> Result<u64, EngineError> {
        let running = self.running.as_ref().and_then(|running| running.generation);
        let running = running.filter(|_| self.unkept.is_none()).ok_or(EngineError::NoReturn)?;
        Ok(self.store.find(Some(running))?.number)
    }

    /// Keeps what is on trial for good.
    ///
    /// # Errors
    /// Nothing is on trial, or that cannot be written; the trial then goes on.
    pub fn confirm(&mut self, by: &Caller) -> Result<Confirmed, EngineError> {
        let trial = self.store.trial().cloned().ok_or(EngineError::NoTrial)?;
        if self.store.is_running(&trial.hash).is_none() {
            // The disk was full when it was applied.
            let files = self.files_on_disk().filter(|files| hash(files) == trial.hash).ok_or(EngineError::NotKept)?;
            let author = Some(by.name().to_owned());
            self.store.record(files, Origin { reason: Reason::Apply.word(), author, changes: Vec::new() })?;
            self.unkept = None;
            self.renumber();
        }
        self.store.end_trial()?;
        self.tell_trial();
        let generation = self.store.running();
        tracing::info!(generation, by = by.name(), "confirmed");
        self.events.tell(Event::Confirmed { generation, author: by.name().to_owned() });
        Ok(Confirmed { generation })
    }

    fn renumber(&mut self) {
        if let Some(running) = &mut self.running {
            running.generation = self.store.running();
        }
    }

    /// Returns to what ran before the trial, when its time is over.
    ///
    /// # Errors
    /// Why the configuration on trial still runs.
    pub fn lapse(&mut self) -> Result<(), EngineError> {
        let Some(trial) = self.store.trial().cloned() else { return Ok(()) };
        if self.left(&trial).is_some() {
            return Ok(());
        }
        tracing::warn!(generation = trial.back, "nobody confirmed the configuration: the one before returns");
        let returned = self.return_from(&trial);
        if let Err(error) = &returned {
            self.blame(error);
        }
        self.tell_trial();
        returned
    }

    fn return_from(&mut self, trial: &Trial) -> Result<(), EngineError> {
        self.restore_overrides(trial)?;
        let generation = self.store.find(Some(trial.back))?;
        let candidate = self.load_generation(generation)?;
        self.run(candidate, Cause { reason: Reason::Lapse, by: None }).map(|_| ())
    }

    /// A trial that was over before this daemon began: what ran before it is what is loaded now.
    pub(super) fn lapse_at_start(&mut self) {
        let Some(trial) = self.store.trial().cloned() else { return };
        if self.never_began(&trial) {
            if let Err(error) = self.store.end_trial() {
                self.notes.push(format!("the end of a trial cannot be kept: {}", crate::explain(&error)));
            }
            return;
        }
        if self.left(&trial).is_some() {
            return;
        }
        tracing::warn!(generation = trial.back, "nobody confirmed the configuration in time: the one before returns");
        if let Err(error) = self.restore_overrides(&trial) {
            self.notes.push(crate::explain(&error));
        }
        if let Err(error) = self.store.lapse() {
            self.notes.push(format!("the end of a trial cannot be kept: {}", crate::explain(&error)));
        }
    }

    /// The daemon ended between the note of the trial and the file that it is about: there is nothing to return from.
    fn never_began(&self, trial: &Trial) -> bool {
        let on_disk = self.hash_on_disk().and_then(|on_disk| self.store.is_running(&on_disk));
        self.store.running() == Some(trial.back) && on_disk == Some(trial.back)
    }

    /// Changes at run time that the trial overtook. Those of an earlier boot are gone with it.
    fn restore_overrides(&mut self, trial: &Trial) -> Result<(), EngineError> {
        if self.boot().ok().as_ref() != Some(&trial.boot) {
            return Ok(());
        }
        let before = Overrides::parse(RUNTIME, &trial.runtime)?;
        let now = self.overrides.targets();
        for target in before.targets().into_iter().filter(|target| !now.contains(target)) {
            self.overrides.copy(&before, &target)?;
        }
        self.write_runtime()
    }

    fn boot(&self) -> Result<String, EngineError> {
        Ok(self.root.read_machine(BOOT_ID)?.trim().to_owned())
    }

    fn left(&self, trial: &Trial) -> Option<Duration> {
        trial.left(&self.boot().ok()?, since_boot())
    }

    /// What is on trial, and for how long.
    pub fn trial(&self) -> Option<api::Trial> {
        let trial = self.store.trial()?;
        let left = self.left(trial).unwrap_or_default();
        Some(api::Trial {
            generation: self.store.is_running(&trial.hash),
            back: trial.back,
            // Not 0 while it lasts.
            seconds_left: left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
        })
    }

    /// When the trial is over, since the boot.
    pub fn trials(&self) -> watch::Receiver<Option<Duration>> {
        self.trials.subscribe()
    }

    pub(super) fn tell_trial(&self) {
        let until = self.store.trial().map(|trial| Duration::from_millis(trial.until_ms));
        self.trials.send_replace(until);
    }
}

/// Ends trials when their time is over, until the engine is gone.
pub async fn watch_trials(engine: Handle, mut trials: watch::Receiver<Option<Duration>>) {
    loop {
        let until = *trials.borrow_and_update();
        let Some(until) = until else {
            if trials.changed().await.is_err() {
                return;
            }
            continue;
        };
        let left = until.saturating_sub(since_boot());
        if !left.is_zero() {
            tokio::select! {
                changed = trials.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(left.min(CLOCK_CHECK)) => {}
            }
            continue;
        }
        let returned = engine.call(Engine::lapse).await;
        if let Ok(Err(error)) = &returned {
            tracing::error!(error = %crate::explain(error), "the configuration before does not return; trying again");
        }
        if !matches!(returned, Ok(Ok(()))) {
            tokio::time::sleep(RETRY).await;
        }
    }
}
