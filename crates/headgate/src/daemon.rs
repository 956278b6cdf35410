//! `headgated`: what it does is in [`crate`]; here are its parts, and how it begins and ends.
//!
//! It begins with the kernel and only then opens its socket and starts services: forwarding must not wait for anything. It
//! ends without touching the kernel: traffic goes on.

pub mod boot;
pub mod caller;
pub mod carriers;
pub mod clock;
pub mod engine;
pub mod errands;
pub mod events;
pub mod feed;
pub mod fence;
pub mod handover;
pub mod health;
pub mod journal;
pub mod metrics;
pub mod notify;
pub mod operator;
pub mod process;
pub mod server;
pub mod steering;
pub mod store;
pub mod supervise;
pub mod syslog;
pub mod tokens;
pub mod watchdog;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headgate_host::lock::LockError;
use headgate_host::root::RootError;
use headgate_host::{Lock, Root};
use headgate_plan::status::Fence;
use headgate_update::milestones;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::engine::{Engine, EngineError, Handle, Services, Started, inherited_lock, keep_little, watch_trials};
use self::errands::Errands;
use self::fence::{Part, Thread};
use self::handover::{Kept, Successor};
use self::health::{Health, Surroundings};
use self::process::Process;
use self::server::{Api, Front, ListenError};
use self::supervise::{Network, SuperviseError, Supervisor};
use self::syslog::Delivery;
use self::watchdog::Watchdog;
use crate::crash;
use crate::dhcp;
use crate::exit::Exit;
use crate::files;
use crate::logging::remote::Records;
use crate::steps::{Listing, told};

/// What marks a slot of the appliance as good.
const MARK_GOOD: [&str; 2] = ["/usr/sbin/headgate-init", "mark-good"];
/// How often the kernel is compared with what it should be, at most.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// How often nftables is asked whether somebody else has changed it.
const RULESET_INTERVAL: Duration = Duration::from_millis(500);
/// A comparison is followed by a pause of this many times its CPU time: watching takes at most 2 % of one CPU. That it waited,
/// for a link that is reset or behind other work, costs nobody anything.
const WATCH_PAUSE: u32 = 50;

/// How often knobs that are files are read, at most and at least: no event tells of them.
const KNOBS_INTERVAL: Duration = Duration::from_secs(1);
const KNOBS_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Between these, reading them is followed by a pause of this many times its CPU time: at most 1 % of one CPU.
const KNOBS_PAUSE: u32 = 100;

/// Descriptors that are enough.
const DESCRIPTORS: u64 = 65_536;

/// How often added addresses are announced again.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DaemonError {
    #[error("headgated runs already, {}", holder(*.0))]
    Running(Option<i32>),
    #[error(transparent)]
    Lock(LockError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("the system has no {0} left")]
    System(&'static str, #[source] io::Error),
}

fn holder(pid: Option<i32>) -> String {
    pid.map_or_else(|| "under a process id that it did not write down".to_owned(), |pid| format!("process {pid}"))
}

fn open(root: &Path) -> Result<Engine, DaemonError> {
    open_after(root, &Kept::default())
}

/// With what the program before has left.
fn open_after(root: &Path, kept: &Kept) -> Result<Engine, DaemonError> {
    let root = Root::new(root);
    let lock = inherited_lock(&root, kept).map_or_else(|| Lock::take(&root), Ok).map_err(|error| match error {
        LockError::Held { pid, .. } => DaemonError::Running(pid),
        other => DaemonError::Lock(other),
    })?;
    let mut engine = Engine::open(root, lock)?;
    engine.inherit(kept);
    Ok(engine)
}

/// What `headgated` was started for.
#[derive(Debug)]
pub enum Task {
    /// Run until SIGTERM, and send these elsewhere when the configuration says so.
    Run(Records),
    /// Apply the configuration and leave nothing behind but the kernel's state.
    Once,
    /// Validate the configuration.
    Check,
    /// Take everything of ours out of the kernel.
    Flush,
}

/// Does it, and says what to print.
pub fn perform(task: Task, root: &Path, listing: Listing) -> (Exit, String) {
    let done = match task {
        Task::Check => {
            let read = files::read(root);
            return read.map_or_else(|error| (Exit::ConfigInvalid, error.full()), |_| (Exit::Good, String::new()));
        }
        Task::Run(records) => run(root, records).map(|()| (Exit::Good, String::new())),
        Task::Once => once(root, listing),
        Task::Flush => flush(root, listing).map(|text| (Exit::Good, text)),
    };
    done.unwrap_or_else(|error| {
        let text = match &error {
            DaemonError::Engine(error) => error.full(listing),
            other => format!("error: {}\n", crate::explain(other)),
        };
        (Exit::KernelRefused, text)
    })
}

fn once(root: &Path, listing: Listing) -> Result<(Exit, String), DaemonError> {
    let mut engine = open(root)?;
    let Started { error, .. } = engine.start();
    if engine.steered().is_some() {
        tracing::warn!(
            "least-connections and max-connections need headgated to run: until it does, new flows follow the weights alone"
        );
    }
    if engine.is_checked() {
        let out = engine.left_out();
        tracing::warn!(out, "health checks need headgated to run: until it does, backends stay as they are known");
    }
    // Taking 10,000 farms apart piece by piece is nothing that the end of the process does not do at once; its lock goes with it.
    std::mem::forget(engine);
    Ok(match error {
        // The files were returned from: they are not what should run.
        None | Some(EngineError::NotAgain) => (Exit::Good, String::new()),
        Some(error) => (error.code().exit(), error.full(listing)),
    })
}

fn flush(root: &Path, listing: Listing) -> Result<String, DaemonError> {
    let steps = open(root)?.flush()?;
    Ok(told(&steps, listing))
}

/// A configuration that cannot be applied is no error: the daemon says so in `status`, and waits for a better one.
fn run(root: &Path, records: Records) -> Result<(), DaemonError> {
    let kept = Kept::inherited();
    let successor = Successor::note().map_err(|error| DaemonError::System("name of this program", error))?;
    keep_little();
    fence::begin();
    let mut engine = open_after(root, &kept)?;
    crash::report_panics(Root::new(root)).map_err(|error| DaemonError::System("thread", error))?;
    if let Some(note) = crash::told(&Root::new(root)) {
        engine.note(note);
    }
    let process = Process::begin(&Root::new(root), kept, successor);
    let list = root.join(milestones::FILE.trim_start_matches('/'));
    for note in boot::told(&list, root) {
        engine.note(note);
    }
    milestones::note(&list, "headgated begins");
    carriers::begin(list.clone());
    let started = engine.start();
    if let Some((set_up, served)) = engine.first_commit() {
        milestones::note_since(&list, set_up.elapsed(), "network set up");
        milestones::note_since(&list, served.elapsed(), "farms in the kernel");
    }
    milestones::note(&list, if started.applied { "network and farms stand" } else { "network and farms do not stand" });
    engine.settle_memory();
    let state = Root::new(root).file("run/headgate")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.map_err(|error| DaemonError::System("event queue", error))?;
    let served = served.block_on(serve((engine, started), records, (root, state), &process));
    process.end();
    served
}

/// The signals that mean something.
struct Signals {
    reload: Signal,
    hand_over: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            hand_over: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

async fn serve(
    (mut engine, started): (Engine, Started),
    records: Records,
    (root, state): (&Path, PathBuf),
    process: &Process,
) -> Result<(), DaemonError> {
    let no = |what| move |error| DaemonError::System(what, error);
    let mut signals = Signals::new().map_err(no("signal handler"))?;
    let (system, time, log) = (engine.system(), engine.clock(), engine.syslog());
    let (mut services, trials, listen) = (engine.services(), engine.trials(), engine.listen());
    let (logs, events, appliance) = (engine.logs(), engine.events(), engine.is_appliance());
    let (targets, board) = (engine.targets(), engine.board());
    let supervisor = Arc::new(Mutex::new(Some(Supervisor::new(&state)?)));
    dhcp::prepare(&Root::new(root)).map_err(no("place for leases"))?;
    server::listen(root, &process.kept)?;
    let engine = Handle::spawn(engine).map_err(no("thread"))?;
    fence::enter(Part::Supervisor);
    let strangers = Thread::begin(Part::Front).map_err(no("thread"))?;
    note_fence(strangers.fence());
    let syslog = Delivery::begin(records, system.clone(), log, strangers.queue());
    let (shown, errands) = (server::Services(Arc::clone(&supervisor)), Errands::here());
    let outlives = (events, process.kept.clone());
    let api = Api::new(Root::new(root), engine.clone(), shown, outlives, (errands, strangers.fence()));
    let mut front = Front::open(api, listen, strangers.queue().clone()).map_err(no("event queue"))?;
    if appliance && is_firmware_good(&started) {
        tokio::spawn(mark_good());
    }
    tokio::spawn(clock::run(engine.clone(), system, Root::new(root), time, strangers.queue().clone()));
    tokio::spawn(steering::run(engine.clone()));
    tokio::spawn(events::run(engine.clone(), Root::new(root)));
    if let Some(watchdog) = appliance.then(|| process.watchdog()).flatten() {
        tokio::spawn(feed(watchdog, engine.clone()));
    }
    tokio::spawn(watch_trials(engine.clone(), trials));
    raise_descriptors();
    let around =
        Surroundings { engine: engine.clone(), targets, board, root: Root::new(root), errands: Errands::here() };
    let mut health = Some(Health::begin(around.clone()).map_err(no("thread"))?);
    strangers.spawn(journal::run(engine.clone(), logs));
    notify::ready(&headline(&started.error));
    services.mark_changed();
    while until_asked(&mut signals, &engine, &mut services, &supervisor).await == Asked::HandOver {
        notify::reloading();
        let went_on = process.hand_over(&engine, &mut front, &mut health, &around).await;
        let error = went_on.map_err(no("thread or event queue"))?;
        tracing::error!(error = %crate::explain(&error), "no other program takes over; this one goes on");
        notify::ready(&format!("no other program takes over: {error}"));
    }
    notify::stopping();
    tracing::info!("going down; the data plane stays as it is");
    drop(front);
    if let Some(health) = health {
        health.end().await;
    }
    let supervisor = supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(supervisor) = supervisor {
        supervisor.shutdown().await;
    }
    syslog.end().await;
    strangers.end();
    Ok(())
}

/// A kernel without is no fault: it is one that was built so.
fn note_fence(fence: Fence) {
    let Fence { landlock, seccomp } = fence;
    if !(landlock && seccomp) {
        tracing::info!(
            landlock,
            seccomp,
            "the kernel has not all that the fence is made of around what strangers write"
        );
    }
}

/// What the daemon is asked for by a signal, and does not do while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Terminate,
    HandOver,
}

async fn until_asked(
    signals: &mut Signals,
    engine: &Handle,
    services: &mut watch::Receiver<Services>,
    supervisor: &Mutex<Option<Supervisor>>,
) -> Asked {
    let mut watch = tokio::time::interval(WATCH_INTERVAL);
    let mut ruleset = tokio::time::interval(RULESET_INTERVAL);
    let mut knobs = tokio::time::interval(KNOBS_INTERVAL);
    let mut announce = tokio::time::interval(ANNOUNCE_INTERVAL);
    let mut watchdog = notify::watchdog_interval().map(tokio::time::interval);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Asked::Terminate,
            _ = signals.interrupt.recv() => return Asked::Terminate,
            _ = signals.hand_over.recv() => return Asked::HandOver,
            _ = signals.reload.recv() => reload(engine).await,
            Ok(()) = services.changed() => {
                let wanted = services.borrow_and_update().clone();
                if let Some(supervisor) = supervisor.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    supervisor.apply(&wanted, Network::Configured);
                }
            }
            _ = watch.tick() => {
                // Whoever is busy changing the kernel needs no watching.
                let cost = engine.watch().await.unwrap_or_default();
                watch.reset_after(WATCH_INTERVAL.max(cost * WATCH_PAUSE));
            }
            _ = ruleset.tick() => {
                let overtaken = engine.call(Engine::is_overtaken).await.unwrap_or(false);
                let cost = if overtaken { engine.watch().await.unwrap_or_default() } else { Duration::ZERO };
                ruleset.reset_after(RULESET_INTERVAL.max(cost * WATCH_PAUSE));
            }
            _ = knobs.tick() => {
                let (cost, is_turned) = cost(engine, Engine::is_turned).await;
                // Not counted: a knob that is turned again and again is soon left alone.
                if is_turned {
                    let _ = engine.watch().await;
                }
                knobs.reset_after((cost * KNOBS_PAUSE).clamp(KNOBS_INTERVAL, KNOBS_INTERVAL_MAX));
            }
            _ = announce.tick() => {
                let _ = engine.call(Engine::announce_again).await;
            }
            () = tick(watchdog.as_mut()) => {
                // The engine answers: the watchdog is fed by what it watches.
                if engine.call(|_| ()).await.is_ok() {
                    notify::watchdog();
                }
            }
        }
    }
}

/// Has the engine do something; the CPU time that it took, and its answer. Nothing of both when it has too much to do.
async fn cost<T: Default + Send + 'static>(engine: &Handle, work: fn(&mut Engine) -> T) -> (Duration, T) {
    let timed = move |engine: &mut Engine| {
        let before = steering::cpu_time();
        let answer = work(engine);
        (steering::cpu_time().saturating_sub(before), answer)
    };
    engine.call(timed).await.unwrap_or_default()
}

/// The engine answers: the watchdog is fed by what it watches.
async fn feed(mut watchdog: Watchdog, engine: Handle) {
    let mut interval = tokio::time::interval(watchdog::INTERVAL);
    loop {
        interval.tick().await;
        if engine.call(|_| ()).await.is_ok() {
            watchdog.feed();
        }
    }
}

/// A probe has a descriptor of its own, and thousands may run at once. The usual soft limit of 1024 is for programs that use
/// select(2).
fn raise_descriptors() {
    let raise = || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let wanted = hard.min(DESCRIPTORS);
        if soft < wanted { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) } else { Ok(()) }
    };
    if let Err(error) = raise() {
        tracing::warn!(%error, "few descriptors for health checks");
    }
}

async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn reload(engine: &Handle) {
    notify::reloading();
    let error = match engine.call(Engine::reload).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => {
            tracing::error!(error = %error.full(Listing::Short).trim_end(), "not reloaded; what ran before runs on");
            Some(error)
        }
        Err(_) => None,
    };
    notify::ready(&headline(&error));
}

/// One line for `systemctl status`.
fn headline(error: &Option<EngineError>) -> String {
    match error {
        None => "the configuration runs".to_owned(),
        Some(EngineError::NotAgain) => "an earlier configuration runs: what the files say was returned from".to_owned(),
        Some(error) => format!("the files are not what runs: {error}"),
    }
}

/// The slot works when the kernel did what it was told. A configuration that is invalid, or asks for a link that is not
/// there, says nothing against the firmware; the fallback of the next boot would meet it again.
fn is_firmware_good(started: &Started) -> bool {
    started.applied || started.error.as_ref().is_none_or(|error| error.code().exit() == Exit::ConfigInvalid)
}

async fn mark_good() {
    let [program, argument] = MARK_GOOD;
    match tokio::process::Command::new(program).arg(argument).status().await {
        Ok(status) if status.success() => tracing::info!("this slot is marked good"),
        Ok(status) => tracing::warn!(%status, program, "this slot could not be marked good"),
        Err(error) => tracing::warn!(%error, program, "this slot could not be marked good"),
    }
}
