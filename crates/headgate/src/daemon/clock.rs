//! `[system] ntp-servers`: the clock is kept by what servers say (SNTP, RFC 5905).
//!
//! A task asks all of them at once, the majority is believed ([`headgate_plan::clock`]), and the engine, which alone may, tells the
//! kernel. Nothing else waits for it, and nothing else goes by this clock: checks, pauses and trials count from the boot.

mod ask;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headgate_config::model::System;
use headgate_host::{Root, clock};
use headgate_plan::clock::{Correction, Discipline, Doubt, Sample, agreed};
use headgate_plan::status;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::ask::Refusal;
use super::engine::Handle;

/// Says that the clock was set in this boot. A boot empties `/run`.
const WAS_SET: &str = "run/headgate/clock-was-set";
/// From one question to the next, seconds: while nobody has said what time it is, and what it grows to.
const SEEKING: (u64, u64) = (2, 64);
/// The same later. RFC 5905, 7.3: not more often than every 16 s for long, and every 1024 s is enough.
const KEEPING: (u64, u64) = (16, 1024);
/// A clock that was off by less is asked about less often; by more, more often. Nanoseconds.
const CALM: i64 = 5_000_000;
const RESTLESS: i64 = 50_000_000;
/// After so long without an answer the clock is nobody's any more: a quartz may be a second off by then.
const STALE: Duration = Duration::from_secs(2 * 3600);

/// How it goes, for `status` and the metrics.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    servers: BTreeSet<IpAddr>,
    /// What each said last, or why not.
    said: BTreeMap<IpAddr, Result<Sample, String>>,
    /// What was believed last, and when.
    best: Option<(Sample, Instant)>,
    /// Since when the clock is right.
    since: Option<Instant>,
    /// Why it is not kept now.
    error: Option<String>,
}

impl Board {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the words of the status; `None` when nobody wants the clock to be kept.
    pub fn told(&self) -> Option<status::Clock> {
        let seen = self.seen();
        if seen.servers.is_empty() {
            return None;
        }
        let fresh = seen.best.filter(|(_, at)| at.elapsed() < STALE);
        let since = seen.since.filter(|_| fresh.is_some());
        let server = |address: &IpAddr| status::TimeServer {
            address: *address,
            said: seen.said.get(address).and_then(|said| said.as_ref().ok()).copied(),
            error: seen.said.get(address).and_then(|said| said.as_ref().err()).cloned(),
        };
        Some(status::Clock {
            synchronised_ms: since.map(milliseconds),
            best: fresh.map(|(sample, _)| sample),
            heard_ms: seen.best.map(|(_, at)| milliseconds(at)),
            error: seen.error.clone(),
            servers: seen.servers.iter().map(server).collect(),
        })
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Keeps the clock by whatever servers the configuration names from now on. They are asked in the thread of `strangers`.
pub async fn run(
    engine: Handle,
    mut system: watch::Receiver<System>,
    root: Root,
    board: Board,
    strangers: runtime::Handle,
) {
    loop {
        let servers: BTreeSet<IpAddr> = system.borrow_and_update().ntp_servers.iter().copied().collect();
        *board.seen() = Seen { servers: servers.clone(), ..Seen::default() };
        let was_set = root.read_file(WAS_SET).is_ok();
        let mut keeper = Keeper {
            engine: engine.clone(),
            root: root.clone(),
            board: board.clone(),
            strangers: strangers.clone(),
            discipline: Discipline::new(was_set),
            silent: BTreeMap::new(),
        };
        let same = |system: &System| system.ntp_servers.iter().copied().collect::<BTreeSet<_>>() == servers;
        tokio::select! {
            () = keeper.keep(&servers) => {}
            other = system.wait_for(|system| !same(system)) => if other.is_err() { return },
        }
    }
}

struct Keeper {
    engine: Handle,
    root: Root,
    board: Board,
    strangers: runtime::Handle,
    discipline: Discipline,
    /// Those that do not want to be asked until then.
    silent: BTreeMap<IpAddr, Instant>,
}

impl Keeper {
    /// For ever.
    async fn keep(&mut self, servers: &BTreeSet<IpAddr>) {
        if servers.is_empty() {
            return std::future::pending().await;
        }
        let mut pause = SEEKING.0;
        loop {
            let samples = self.ask(servers).await;
            pause = match agreed(&samples) {
                Ok(best) => self.follow(best, pause).await,
                Err(doubt) => self.doubt(doubt, pause),
            };
            sleep(Duration::from_secs(pause)).await;
        }
    }

    /// All that may be asked, at once.
    async fn ask(&mut self, servers: &BTreeSet<IpAddr>) -> Vec<Sample> {
        let now = Instant::now();
        self.silent.retain(|_, until| *until > now);
        let mut asked = JoinSet::new();
        for server in servers.iter().copied().filter(|server| !self.silent.contains_key(server)) {
            asked.spawn_on(async move { (server, ask::ask(server).await) }, &self.strangers);
        }
        let mut samples = Vec::new();
        while let Some(answered) = asked.join_next().await {
            let Ok((server, said)) = answered else { continue };
            if let Err(Refusal::Asks { pause, .. }) = &said {
                self.silent.insert(server, now + *pause);
            }
            samples.extend(said.as_ref().ok());
            self.board.seen().said.insert(server, said.map_err(|refusal| crate::explain(&refusal)));
        }
        samples
    }

    /// Has the clock corrected; the pause until the next time.
    async fn follow(&mut self, best: Sample, pause: u64) -> u64 {
        let mut discipline = self.discipline.clone();
        let correction = discipline.correct(best.offset_ns);
        let next = next_pause(correction, pause);
        // Who has too much to do is asked again soon, about what the clock is then.
        let Ok(done) = self.engine.call(move |_| clock::correct(correction, next)).await else { return SEEKING.0 };
        let mut seen = self.board.seen();
        seen.best = Some((best, Instant::now()));
        if let Err(error) = done {
            let why = crate::explain(&error);
            if seen.error.as_ref() != Some(&why) {
                tracing::error!(error = why, "the clock is not kept");
            }
            (seen.error, seen.since) = (Some(why), None);
            return next;
        }
        self.discipline = discipline;
        let stays_off = best.is_far() && matches!(correction, Correction::Slew(_));
        if let Correction::Step(by) = correction {
            tracing::warn!(server = %best.server, seconds = seconds(by), "the clock was set");
        } else if seen.since.is_none() && !stays_off {
            tracing::info!(server = %best.server, seconds = seconds(best.offset_ns), "the clock is kept by time servers");
        }
        seen.error = stays_off.then(|| far_off(best.offset_ns));
        seen.since = if stays_off { None } else { seen.since.or_else(|| Some(Instant::now())) };
        drop(seen);
        self.note_that_it_was_set();
        next
    }

    fn note_that_it_was_set(&self) {
        if self.root.read_file(WAS_SET).is_err()
            && let Err(error) = self.root.write_file(WAS_SET, b"")
        {
            tracing::warn!(error = %crate::explain(&error), "the next start of headgated may set the clock back");
        }
    }

    fn doubt(&mut self, doubt: Doubt, pause: u64) -> u64 {
        let mut seen = self.board.seen();
        let why = doubt.to_string();
        if seen.error.as_ref() != Some(&why) {
            tracing::warn!(reason = why, "the clock runs on by itself");
        }
        seen.error = Some(why);
        (pause * 2).clamp(SEEKING.0, if seen.best.is_some() { KEEPING.1 } else { SEEKING.1 })
    }
}

/// A clock that was just set, or is far off, is looked at again soon.
fn next_pause(correction: Correction, pause: u64) -> u64 {
    let next = match correction {
        Correction::Step(_) => KEEPING.0,
        Correction::Slew(by) if by.abs() < CALM => pause * 2,
        Correction::Slew(by) if by.abs() > RESTLESS => pause / 2,
        Correction::Slew(_) => pause,
    };
    next.clamp(KEEPING.0, KEEPING.1)
}

fn seconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn far_off(offset_ns: i64) -> String {
    match offset_ns < 0 {
        true => format!("it is {:.1} s ahead, and is not set back while the box runs", -seconds(offset_ns)),
        false => format!("it is {:.1} s behind, and jumps when that is said again", seconds(offset_ns)),
    }
}
