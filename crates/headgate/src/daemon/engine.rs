//! The one thread that owns the kernel, the configuration and the store.
//!
//! Host calls block until the kernel has answered, so they have a thread of their own; the API sends it work and awaits the
//! answer ([`Handle::call`]). One thing is done at a time, in the order in which it was asked for.

mod announce;
mod capacity;
mod cause;
mod change;
mod clients;
mod compare;
mod drop_ins;
mod error;
mod flows;
mod handle;
mod handover;
mod hardware;
mod health;
mod listen;
mod load;
mod logs;
mod look;
mod memory;
mod readings;
mod rewrite;
mod services;
mod since;
mod steer;
mod trial;
mod view;
mod way;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headgate_config::Config;
use headgate_config::model::{Service, System, Word};
use headgate_config::types::{BackendName, FarmName, ServiceName};
use headgate_host::{Host, Lock, Root};
use headgate_plan::compile::Desired;
use headgate_plan::facts::Facts;
use headgate_plan::flows::Lost;
use headgate_plan::health::{self as plan_health, Fallen, Target};
use headgate_plan::repair::Repairs;
use headgate_plan::state::State;
use headgate_plan::status::Counting;
use headgate_plan::step::{Outcome, Step};
use tokio::sync::watch;

use self::cause::{Cause, Reason};
pub use self::change::Edit;
use self::change::read_overrides;
pub use self::drop_ins::DropIn;
pub use self::error::EngineError;
pub use self::flows::protocol;
pub use self::handle::{Busy, Handle};
pub use self::handover::inherited_lock;
pub use self::health::{Name, Turn};
pub use self::listen::{Listen, ListenApi};
use self::load::{Base, Candidate};
pub(super) use self::memory::keep_little;
use self::memory::release_memory;
pub use self::steer::{Count, Counted};
pub use self::trial::{WINDOW_MAX, watch_trials};
use super::caller::Caller;
use super::clock;
use super::feed::{Event, Events};
use super::health::Board;
use super::metrics::Tally;
use super::operator::{Overrides, RUNTIME};
use super::store::{Origin, Store, StoreError, hash};
use super::syslog;
use crate::api::{Applied, StepLine};
use crate::owed::Owed;
use crate::reconcile::{Reconciled, Until, cut_lost, lines};
use crate::remembered::Remembered;

/// Where `headgate-init` reads whether media are trusted.
const TRUST_MEDIA: &str = "var/lib/headgate/trust-media";

/// What runs, as far as the next request needs it. The texts of the files and the ruleset are not kept: at 10,000 farms
/// they are most of the memory.
#[derive(Debug)]
struct Running {
    config: Config,
    base: Base,
    /// Without its state.
    desired: Desired,
    /// What became of the knobs, by path.
    knobs: BTreeMap<String, Outcome>,
    generation: Option<u64>,
}

/// State and weight that a backend has without `runtime.toml`.
type Untouched = BTreeMap<(FarmName, BackendName), (headgate_config::model::BackendState, u16)>;

/// See the module.
#[derive(Debug)]
pub struct Engine {
    root: Root,
    host: Host,
    lock: Lock,
    store: Store,
    overrides: Overrides,
    untouched: Untouched,
    running: Option<Running>,
    /// Why what runs is not what the files say; for `status`.
    fault: Option<String>,
    /// What of the state could not be read at the beginning.
    notes: Vec<String>,
    /// The secret of this machine, for configurations that name none; see [`crate::secret`].
    secret: Option<String>,
    /// Why there is no generation of what runs.
    unkept: Option<String>,
    owed: Owed,
    announcements: announce::Announcements,
    services: watch::Sender<Services>,
    /// What is to be listened on.
    listen: watch::Sender<Listen>,
    /// What was done, for the metrics.
    tally: Tally,
    events: Events,
    /// When the trial is over, since the boot.
    trials: watch::Sender<Option<Duration>>,
    /// The backends that are down by their checks.
    fallen: Fallen,
    /// What has to be probed.
    targets: watch::Sender<Targets>,
    /// What the checks say, for `status`.
    board: Board,
    /// Whether some farm logs.
    logs: watch::Sender<bool>,
    /// What the box itself should be.
    system: watch::Sender<System>,
    /// How sending the log elsewhere goes.
    syslog: syslog::Board,
    /// How the clock is kept.
    clock: clock::Board,
    /// When this began.
    began: Instant,
    /// How often knobs were mended.
    repairs: Repairs,
    /// `headgate hw restore` gave the profile's knobs back.
    untuned: bool,
    /// How flows were counted last.
    counting: Option<Counting>,
    /// The counters of what runs out, at the last looks.
    samples: capacity::Samples,
    /// Flows were steered so many times.
    round: u64,
    /// Configurations came to run so many times.
    adopted: u64,
    /// Since when farms and faults are as they are.
    kept: since::Kept,
}

/// The backends that have to be probed.
pub type Targets = Arc<[Target]>;

/// The processes that should run.
pub type Services = BTreeMap<ServiceName, Service>;

/// How the daemon began.
#[derive(Debug)]
pub struct Started {
    /// Something was applied: the files, or else the last good generation.
    pub applied: bool,
    /// Why it was not the files.
    pub error: Option<EngineError>,
}

impl Engine {
    /// Takes the lock of this root and opens the kernel's sockets. Nothing is read or changed yet.
    ///
    /// # Errors
    /// What of the machine cannot be used.
    pub fn open(root: Root, lock: Lock) -> Result<Self, EngineError> {
        let host = Host::open(root.clone())?;
        let store = Store::open(root.clone());
        let mut notes = store.faults().to_vec();
        let overrides = read_overrides(&root, RUNTIME).unwrap_or_else(|error| {
            notes.push(crate::explain(&error));
            Overrides::empty(RUNTIME)
        });
        let fallen = Remembered::read(&root).fallen();
        let kept = since::Kept::read(&root);
        let (services, logs) = (watch::Sender::new(Services::new()), watch::Sender::new(false));
        Ok(Self {
            root,
            host,
            lock,
            store,
            overrides,
            untouched: Untouched::new(),
            running: None,
            fault: None,
            notes,
            secret: None,
            unkept: None,
            owed: Owed::default(),
            announcements: announce::Announcements::default(),
            services,
            listen: watch::Sender::new(Listen::default()),
            tally: Tally::default(),
            events: Events::default(),
            trials: watch::Sender::new(None),
            fallen,
            targets: watch::Sender::new(Targets::default()),
            board: Board::default(),
            logs,
            system: watch::Sender::new(System::default()),
            syslog: syslog::Board::default(),
            clock: clock::Board::default(),
            began: Instant::now(),
            repairs: Repairs::default(),
            untuned: false,
            counting: None,
            samples: capacity::Samples::default(),
            round: 0,
            adopted: 0,
            kept,
        })
    }

    /// Where everything that happens is told.
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// See [`Host::first_commit`].
    pub fn first_commit(&self) -> Option<(Instant, Instant)> {
        self.host.first_commit()
    }

    /// The addresses to listen on, from now on.
    pub fn listen(&self) -> watch::Receiver<Listen> {
        self.listen.subscribe()
    }

    /// What runs is not what the files say, and why.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Loads the files and applies them. When they are invalid, or were returned from, or the kernel refuses them, the
    /// last good generation is applied instead and `status` says why.
    pub fn start(&mut self) -> Started {
        self.lapse_at_start();
        let started = self.start_files();
        self.tell_trial();
        started
    }

    fn start_files(&mut self) -> Started {
        let cause = Cause { reason: Reason::Start, by: None };
        let applied = self.unless_refused(|engine, _| {
            let candidate = engine.load(cause)?;
            engine.run(candidate, cause)
        });
        let error = match applied {
            Ok(_) => return Started { applied: true, error: None },
            Err(error) => error,
        };
        tracing::error!(error = %self.blame(&error), "the files are not applied");
        let Some(good) = self.store.last_good() else { return Started { applied: false, error: Some(error) } };
        let number = good.number;
        let fallback = self.load_generation(good).and_then(|candidate| self.run(candidate, cause));
        match &fallback {
            Ok(_) => tracing::warn!(generation = number, "the last good configuration runs"),
            Err(again) => {
                tracing::error!(generation = number, error = %crate::explain(again), "nor is the last good one");
            }
        }
        // A rollback is no fault: what runs is what was asked for.
        match error {
            EngineError::NotAgain => self.fault = None,
            _ => {
                self.blame(&error);
            }
        }
        Started { applied: fallback.is_ok(), error: Some(error) }
    }

    /// Loads the files again, after SIGHUP.
    ///
    /// # Errors
    /// Why what ran before runs on.
    pub fn reload(&mut self) -> Result<Applied, EngineError> {
        self.files(Cause { reason: Reason::Reload, by: None })
    }

    /// Loads the files because somebody asked for it, even if they were returned from.
    ///
    /// # Errors
    /// Why what ran before runs on.
    pub fn apply(&mut self, by: &Caller) -> Result<Applied, EngineError> {
        self.files(Cause { reason: Reason::Apply, by: Some(by) })
    }

    fn files(&mut self, cause: Cause<'_>) -> Result<Applied, EngineError> {
        let applied = self.unless_refused(|engine, _| {
            let candidate = engine.load(cause)?;
            engine.require_way_back(&candidate, cause.by)?;
            engine.run(candidate, cause)
        });
        applied.inspect_err(|error| {
            self.blame_files(error);
        })
    }

    /// Unless it is no fault of the files.
    fn blame_files(&mut self, error: &EngineError) {
        let faultless = [EngineError::NotAgain, EngineError::OnTrial, EngineError::NoReturn];
        if !faultless.iter().any(|other| std::mem::discriminant(other) == std::mem::discriminant(error)) {
            self.blame(error);
        }
    }

    /// Takes everything of ours out of the kernel.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn flush(&mut self) -> Result<Vec<StepLine>, EngineError> {
        let report = self.host.flush()?;
        let steps = lines(&report.steps);
        match report.failure {
            None => Ok(steps),
            Some(failure) => Err(EngineError::Refused { reason: failure.reason, steps }),
        }
    }

    /// Makes the kernel follow a configuration, and remembers it.
    fn run(&mut self, candidate: Candidate, cause: Cause<'_>) -> Result<Applied, EngineError> {
        let (begin, is_first) = (Instant::now(), self.running.is_none());
        let applied = self.carry_out(candidate, cause);
        // Behind the first one whoever goes on does it: `headgated --once` does not go on.
        if !is_first {
            self.settle_memory();
        }
        self.tally.count(&applied, begin.elapsed());
        let (reason, author) = (cause.reason.word(), cause.author());
        self.events.tell(match &applied {
            Ok(applied) => Event::Applied {
                generation: applied.generation,
                reason,
                author,
                steps: applied.steps.len(),
                trial_seconds: applied.trial.as_ref().map(|trial| trial.seconds_left),
            },
            Err(error) => Event::refused(reason, author, error),
        });
        applied
    }

    fn carry_out(&mut self, candidate: Candidate, cause: Cause<'_>) -> Result<Applied, EngineError> {
        self.require_no_other_trial(&candidate)?;
        self.untuned = false;
        let mut reconciled = self.go(&candidate, Until::Verified)?;
        self.owed.add(std::mem::take(&mut reconciled.owed));
        self.owed.settle(Lost::default(), |lost| cut_lost(&mut self.host, lost));
        let mut applied = Applied {
            generation: None,
            trial: None,
            stored: false,
            steps: std::mem::take(&mut reconciled.told),
            warnings: [&candidate.warnings, &reconciled.desired.warnings]
                .into_iter()
                .flatten()
                .chain(self.owed.warnings())
                .cloned()
                .collect(),
        };
        self.unkept = self.record(&candidate, cause).err().map(|error| {
            let note = format!("this configuration runs, but is not kept: {}", crate::explain(&error));
            tracing::error!("{note}");
            applied.warnings.push(note.clone());
            note
        });
        applied.generation = self.store.running();
        applied.trial = self.trial();
        self.restore_knobs(&reconciled);
        self.repairs.begin(&reconciled.done, self.began.elapsed());
        self.announcements.remember(&reconciled.done);
        self.leave_trust(&candidate.config, &reconciled.facts);
        self.adopt(candidate, reconciled, cause.reason);
        self.steer_now();
        self.see_all();
        log_applied(&applied);
        Ok(applied)
    }

    /// While a configuration is on trial no other one gets in by a signal, a restart or a change that is kept.
    fn require_no_other_trial(&self, candidate: &Candidate) -> Result<(), EngineError> {
        match self.store.trial() {
            Some(trial) if candidate.base == Base::Files && trial.hash != hash(&candidate.files) => {
                Err(EngineError::OnTrial)
            }
            _ => Ok(()),
        }
    }

    fn record(&mut self, candidate: &Candidate, cause: Cause<'_>) -> Result<(), StoreError> {
        let reason = cause.reason;
        match (candidate.base, reason) {
            (Base::Files, _) => {
                let changes = match self.store.is_running(&hash(&candidate.files)) {
                    Some(_) => Vec::new(),
                    None => self.changes(&candidate.files),
                };
                let origin = Origin { reason: reason.word(), author: cause.author(), changes };
                self.store.record(candidate.files.clone(), origin).map(|_| ())
            }
            (Base::Generation(_), Reason::Lapse) => self.store.lapse(),
            (Base::Generation(number), Reason::Rollback) => {
                // Going back to what the files say is no return from them.
                let on_disk = self.hash_on_disk().filter(|on_disk| *on_disk != hash(&candidate.files));
                self.store.returned_to(number, on_disk)
            }
            (Base::Generation(_), _) => Ok(()),
        }
    }

    /// Leaves the word of `[system] trust-media` where the next boot of the appliance reads it, before any configuration.
    fn leave_trust(&mut self, config: &Config, facts: &Facts) {
        let word = config.system.trust_media.word();
        if !facts.appliance || self.root.read_file(TRUST_MEDIA).is_ok_and(|found| found.trim() == word) {
            return;
        }
        if let Err(error) = self.root.write_file(TRUST_MEDIA, word.as_bytes()) {
            tracing::error!(error = %crate::explain(&error), "the next boot takes drop-ins as it did this time");
        }
    }

    /// Knobs that this configuration no longer names get the value back that the machine had.
    fn restore_knobs(&mut self, reconciled: &Reconciled) {
        match self.host.restore_knobs(&reconciled.desired.state) {
            Ok(restored) => {
                for (path, outcome) in restored {
                    tracing::info!(path, ?outcome, "no longer asked for: set back");
                }
            }
            Err(error) => tracing::warn!(error = %crate::explain(&error), "knobs cannot be set back"),
        }
    }

    fn adopt(&mut self, candidate: Candidate, reconciled: Reconciled, reason: Reason) {
        self.adopted += 1;
        let mut desired = reconciled.desired;
        desired.state = State::default();
        let knobs = reconciled.done.into_iter().filter_map(|(step, outcome)| match step {
            Step::Knob { path, .. } => Some((path, outcome)),
            _ => None,
        });
        let mut knobs: BTreeMap<String, Outcome> = knobs.collect();
        if let Some(before) = self.running.take() {
            // What was settled earlier and not tried again still holds.
            for (path, outcome) in before.knobs {
                knobs.entry(path).or_insert(outcome);
            }
        }
        self.keep_running(&candidate.config, &desired, &reconciled.facts);
        let listen = Listen::of(&candidate.config);
        self.listen.send_if_modified(|before| std::mem::replace(before, listen.clone()) != listen);
        self.fallen.keep(&candidate.config);
        self.targets.send_replace(plan_health::targets(&candidate.config).into());
        self.listen_to_logs(&candidate.config, &reconciled.facts);
        self.untouched = candidate.untouched;
        // A generation that stands in for files that are wrong does not make them right.
        if candidate.base == Base::Files || matches!(reason, Reason::Rollback | Reason::Lapse) {
            self.fault = None;
        }
        let generation = self.store.running();
        self.running = Some(Running { config: candidate.config, base: candidate.base, desired, knobs, generation });
    }

    fn blame(&mut self, error: &EngineError) -> String {
        let text = error.in_one_line();
        self.fault = Some(text.clone());
        text
    }
}

fn log_applied(applied: &Applied) {
    tracing::info!(generation = applied.generation, steps = applied.steps.len(), "applied");
    for line in &applied.steps {
        tracing::debug!(outcome = line.outcome, "{}", line.step);
    }
    for warning in &applied.warnings {
        tracing::warn!("{warning}");
    }
}
