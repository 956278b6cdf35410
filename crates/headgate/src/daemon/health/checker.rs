//! The loop: what is due is begun, what has ended is taken, and who turned goes to the engine.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::time::Duration;

use headgate_plan::flows::Lost;
use headgate_plan::health::{Condition, Target};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::Surroundings;
use super::board::Board;
use super::cut::Cutter;
use super::keep::Keeper;
use super::probe::{Makings, Outcome};
use super::quota::Quota;
use super::signs;
use super::subject::{Clock, Subject, asks_the_same};
use crate::daemon::engine::{Busy, Engine, Handle, Name, Targets, Turn};
use crate::daemon::errands::Errands;
use crate::remembered::{Entry, Remembered};

/// The first probes of backends of which nothing is known are spread over a second, and over a second more for each 10,000.
const FIRST_SPREAD: Duration = Duration::from_secs(1);
const FIRST_EACH: Duration = Duration::from_micros(100);
/// Until an engine that has too much to do is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// Between probes of a backend that is suspected, until one passes or it is down.
const SUSPECT_PAUSE: Duration = Duration::from_millis(100);

/// What names a subject for as long as it is probed; a name can come again with another configuration.
type Id = u64;

/// How a probe ended.
#[derive(Debug)]
struct Done {
    id: Id,
    outcome: Outcome,
    took: Duration,
}

/// What the backends that turned must let go of; or they again, when the engine has too much to do.
type Delivery = Pin<Box<dyn Future<Output = Result<Lost, Vec<Turn>>> + Send>>;

/// See the module.
pub(super) struct Checker {
    engine: Handle,
    targets: watch::Receiver<Targets>,
    board: Board,
    errands: Errands,
    keeper: Keeper,
    makings: Makings,
    subjects: BTreeMap<Id, Subject>,
    ids: BTreeMap<Name, Id>,
    last_id: Id,
    due: BinaryHeap<Reverse<(Instant, Id)>>,
    probes: JoinSet<Done>,
    /// Not told to the engine yet. The latest of each backend counts.
    turns: BTreeMap<Name, Turn>,
    delivery: Option<Delivery>,
    /// Not in the log yet.
    untold: Vec<Id>,
    cutter: Cutter,
    quota: Quota,
    dice: Dice,
}

impl Checker {
    pub(super) fn new(around: Surroundings) -> Self {
        let Surroundings { engine, targets, board, root, errands } = around;
        Self {
            cutter: Cutter::new(engine.clone()),
            engine,
            targets,
            board,
            keeper: Keeper::new(root, errands.clone()),
            errands,
            makings: Makings::default(),
            subjects: BTreeMap::new(),
            ids: BTreeMap::new(),
            last_id: 0,
            due: BinaryHeap::new(),
            probes: JoinSet::new(),
            turns: BTreeMap::new(),
            delivery: None,
            untold: Vec::new(),
            quota: Quota::new(std::time::Instant::now()),
            dice: Dice::new(),
        }
    }

    /// Probes until `stop` is dropped.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let root = self.keeper.root().clone();
        let remembered = self.errands.block(move || Remembered::read(&root)).await.unwrap_or_default().backends;
        let mut remembered: BTreeMap<Name, Entry> =
            remembered.into_iter().map(|entry| ((entry.farm.clone(), entry.backend.clone()), entry)).collect();
        self.targets.mark_changed();
        let (sender, mut suspects) = mpsc::channel(1);
        let signs = tokio::spawn(signs::run(self.engine.clone(), self.keeper.root().clone(), sender));
        loop {
            let next = self.due.peek().map(|Reverse((due, _))| *due);
            tokio::select! {
                _ = &mut stop => break,
                Ok(()) = self.targets.changed() => {
                    let targets = self.targets.borrow_and_update().clone();
                    self.prepare(&targets).await;
                    self.adopt(&targets, &mut remembered);
                }
                Some(Ok(done)) = self.probes.join_next(), if !self.probes.is_empty() => self.take(done),
                delivered = Self::delivered(&mut self.delivery) => {
                    self.delivery = None;
                    match delivered {
                        Ok(lost) => self.cutter.add(lost),
                        Err(turns) => self.repeat(turns),
                    }
                }
                () = self.cutter.walked() => {}
                Some(names) = suspects.recv() => self.suspect(&names),
                () = self.keeper.written() => {}
                () = until(next) => self.begin_due(),
            }
            self.deliver();
            self.tell();
            self.keeper.begin(|| entries(&self.subjects));
        }
        signs.abort();
        self.probes.shutdown().await;
        self.cutter.finish().await;
        self.keeper.finish(entries(&self.subjects)).await;
        // Programs that are killed are gone before whoever takes over begins.
        self.errands.done().await;
    }

    /// Has read what files the targets name.
    async fn prepare(&mut self, targets: &Targets) {
        let (root, targets) = (self.keeper.root().clone(), Targets::clone(targets));
        self.makings = self.errands.block(move || Makings::read(&root, &targets)).await.unwrap_or_default();
    }

    /// Makes the targets what is probed: what is known of a backend stays with it as long as its address does.
    fn adopt(&mut self, targets: &[Target], remembered: &mut BTreeMap<Name, Entry>) {
        let now = Instant::now();
        let spread = FIRST_SPREAD + FIRST_EACH * u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let mut before = std::mem::take(&mut self.ids);
        for target in targets {
            let name = (target.farm.clone(), target.backend.clone());
            let old = before.remove(&name);
            let same = old.and_then(|id| self.subjects.get_mut(&id)).filter(|subject| subject.target == *target);
            if let (Some(subject), Some(id)) = (same, old) {
                subject.probe = self.makings.probe(target);
                self.ids.insert(name, id);
                continue;
            }
            let old = old.and_then(|id| self.end(id));
            let interval = target.health.interval;
            let known = remembered.remove(&name).filter(|entry| entry.address == target.address);
            let kept = old.filter(|old| old.target.address == target.address);
            // Who is known keeps the whole interval: a restart is no reason to probe everybody at once.
            let spread = if known.is_some() || kept.is_some() { interval } else { spread };
            let clock = Clock::new(now, interval, spread, self.dice.throw());
            let mut subject = Subject::new(target.clone(), self.makings.probe(target), clock);
            if let Some(old) = kept {
                (subject.record, subject.error) = (old.record, old.error);
                if !asks_the_same(&old.target, target) {
                    subject.record.restart();
                }
            } else if let Some(entry) = known {
                (subject.record, subject.error) = (entry.record, entry.error);
            }
            self.last_id += 1;
            self.due.push(Reverse((subject.clock.due, self.last_id)));
            self.board.write(&name.0, &name.1, subject.entry());
            self.subjects.insert(self.last_id, subject);
            self.ids.insert(name, self.last_id);
        }
        for ((farm, backend), id) in before {
            self.end(id);
            self.board.remove(&farm, &backend);
        }
        let is_meant = |name: &Name, turn: &Turn| {
            let subject = self.ids.get(name).and_then(|id| self.subjects.get(id));
            subject.is_some_and(|subject| {
                subject.target.address == turn.address && subject.record.condition() == turn.condition
            })
        };
        self.turns.retain(|name, turn| is_meant(name, turn));
        remembered.clear();
        self.keeper.touch();
    }

    /// Probes it no more.
    fn end(&mut self, id: Id) -> Option<Subject> {
        let mut subject = self.subjects.remove(&id)?;
        if let Some(running) = subject.running.take() {
            running.abort();
        }
        Some(subject)
    }

    fn begin_due(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((due, id))) = self.due.peek()
            && due <= now
        {
            self.due.pop();
            // Whose subject is gone, or has been given another time.
            let Some(subject) = self.subjects.get_mut(&id).filter(|subject| subject.clock.due == due) else { continue };
            subject.clock.step(now, self.dice.throw());
            self.due.push(Reverse((subject.clock.due, id)));
            match subject.running {
                // A timeout as long as the interval: the next one begins behind it.
                Some(_) => subject.overdue = true,
                None => begin(&mut self.probes, &self.errands, id, subject),
            }
        }
    }

    fn take(&mut self, done: Done) {
        let Some(subject) = self.subjects.get_mut(&done.id) else { return };
        let decided = std::time::Instant::now();
        let turned = subject.take(done.outcome, done.took);
        self.board.write(&subject.target.farm, &subject.target.backend, subject.entry());
        if turned {
            self.keeper.touch();
            self.untold.push(done.id);
            let Target { farm, backend, address, .. } = subject.target.clone();
            let turn = Turn { farm, backend, address, condition: subject.record.condition(), decided };
            self.turns.insert(subject.name(), turn);
        }
        if std::mem::take(&mut subject.overdue) {
            begin(&mut self.probes, &self.errands, done.id, subject);
        } else if subject.record.is_suspected() {
            subject.clock.hasten(Instant::now() + SUSPECT_PAUSE);
            self.due.push(Reverse((subject.clock.due, done.id)));
        }
    }

    /// Probes at once whose flows look bad.
    fn suspect(&mut self, names: &[Name]) {
        let now = Instant::now();
        for id in names.iter().filter_map(|name| self.ids.get(name)) {
            let Some(subject) = self.subjects.get_mut(id).filter(|subject| subject.running.is_none()) else { continue };
            if subject.suspect(now) {
                let Target { farm, backend, .. } = &subject.target;
                tracing::debug!(%farm, %backend, "its new flows find no answer; probing it out of turn");
                subject.clock.hasten(now);
                self.due.push(Reverse((subject.clock.due, *id)));
                self.board.write(farm, backend, subject.entry());
            }
        }
    }

    /// One that turned again meanwhile has its new condition in the queue.
    fn repeat(&mut self, turns: Vec<Turn>) {
        for turn in turns {
            self.turns.entry((turn.farm.clone(), turn.backend.clone())).or_insert(turn);
        }
    }

    /// Tells the engine of all who turned, unless it is being told already: what comes meanwhile goes together.
    fn deliver(&mut self) {
        if self.turns.is_empty() || self.delivery.is_some() {
            return;
        }
        let turns: Vec<Turn> = std::mem::take(&mut self.turns).into_values().collect();
        let told = turns.clone();
        // At once, not when somebody polls: what is written and logged of it comes behind.
        let answer = self.engine.begin(move |engine: &mut Engine| engine.turn(&told));
        self.delivery = Some(Box::pin(async move {
            let lost = match answer {
                Ok(answer) => answer.await.map_err(|_| Busy),
                Err(busy) => Err(busy),
            };
            if lost.is_err() {
                sleep(BUSY_PAUSE).await;
            }
            lost.map_err(|_| turns)
        }));
    }

    /// Into the log, who turned.
    fn tell(&mut self) {
        for id in std::mem::take(&mut self.untold) {
            if let Some(subject) = self.subjects.get(&id) {
                tell(&mut self.quota, subject);
            }
        }
    }

    async fn delivered(delivery: &mut Option<Delivery>) -> Result<Lost, Vec<Turn>> {
        match delivery {
            Some(delivery) => delivery.await,
            None => std::future::pending().await,
        }
    }
}

fn entries(subjects: &BTreeMap<Id, Subject>) -> Vec<Entry> {
    subjects.values().map(Subject::remember).collect()
}

fn begin(probes: &mut JoinSet<Done>, errands: &Errands, id: Id, subject: &mut Subject) {
    let (probe, errands) = (subject.probe.clone(), errands.clone());
    subject.running = Some(probes.spawn(async move {
        let begun = Instant::now();
        let outcome = probe.run(errands).await;
        Done { id, outcome, took: begun.elapsed() }
    }));
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn tell(quota: &mut Quota, subject: &Subject) {
    let Some(withheld) = quota.take(std::time::Instant::now()) else { return };
    if withheld > 0 {
        tracing::warn!(backends = withheld, "more backends turned than are listed here; see `headgate status`");
    }
    let Target { farm, backend, address, .. } = &subject.target;
    match subject.record.condition() {
        Condition::Down => {
            let error = subject.error.as_deref().unwrap_or_default();
            tracing::warn!(%farm, %backend, %address, error, "the backend is down: its check fails");
        }
        _ => tracing::info!(%farm, %backend, %address, "the backend is up: its check passes"),
    }
}

/// Numbers that need not be good, only different from box to box.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }

    /// From 0 to 1: xorshift64* (Vigna 2016).
    fn throw(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}
