//! Figures for Prometheus and its kin: `GET /metrics`.
//!
//! A page is read from the kernel at most once a second, whoever asks how often: one dump of our counters and one walk of
//! connection tracking. What runs is not compiled or compared for it. It is put together beside the engine.

mod capacity;
mod page;
mod system;
mod text;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use headgate_plan::capacity::{PortUse, Usage};
use headgate_plan::status::{Clock, FarmStatus, Syslog};
use tokio::sync::Mutex;

use super::engine::{Busy, Engine, EngineError, Handle};
use super::server::Services;

/// What the page is (OpenMetrics 1.0, "Overall Structure").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long a page is shown.
const FRESH: Duration = Duration::from_secs(1);

/// What the engine has done since it began.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Configurations that were applied.
    pub applied: u64,
    /// Configurations that were refused, by us or by the kernel.
    pub refused: u64,
    /// How long the applied ones took.
    pub durations: Durations,
    /// The kernel was not as it should be, and is again.
    pub repairs: u64,
    /// The same, and is not.
    pub repairs_failed: u64,
}

/// Upper bounds of a histogram, seconds.
pub const BOUNDS: [f64; 7] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// How often something took how long.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// By [`BOUNDS`]; what took longer is only in `count`.
    within: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Durations {
    /// One more.
    pub fn add(&mut self, took: Duration) {
        for (bound, count) in BOUNDS.iter().zip(&mut self.within) {
            *count += u64::from(took.as_secs_f64() <= *bound);
        }
        self.count += 1;
        self.sum += took;
    }
}

/// How many knobs came out how, when they were written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Knobs {
    pub kept: u64,
    pub set: u64,
    pub unsupported: u64,
    pub refused: u64,
}

/// Of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process {
    /// User and system.
    pub cpu: Duration,
    /// Bytes.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// When it began, seconds since 1970.
    pub started: f64,
}

/// Everything that a page is made of.
#[derive(Debug, Default)]
pub struct Readings {
    /// Those of the configuration that runs.
    pub farms: Vec<FarmStatus>,
    /// See [`Knobs`].
    pub knobs: Knobs,
    /// See [`Tally`].
    pub tally: Tally,
    /// The generation that runs.
    pub generation: Option<u64>,
    /// What runs is not what the files say, through a fault of theirs or of the kernel.
    pub fault: bool,
    /// What runs returns unless it is confirmed.
    pub on_trial: bool,
    /// The files were returned from.
    pub returned: bool,
    /// See [`Usage`].
    pub usage: Usage,
    /// The source ports that flows need.
    pub ports: Vec<PortUse>,
    /// How the clock is kept.
    pub clock: Option<Clock>,
    /// How sending the log elsewhere goes.
    pub syslog: Option<Syslog>,
    /// See [`Process`].
    pub process: Process,
    /// How long reading all this took.
    pub took: Duration,
}

/// The page, shared by all who ask.
#[derive(Debug, Clone)]
pub struct Metrics {
    engine: Handle,
    services: Services,
    page: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl Metrics {
    /// From these.
    pub fn new(engine: Handle, services: Services) -> Self {
        Self { engine, services, page: Arc::default() }
    }

    /// The page of this second. Who asks while it is being made waits for the same one.
    ///
    /// # Errors
    /// The engine has too much to do.
    pub async fn page(&self) -> Result<Bytes, Busy> {
        let mut kept = self.page.lock().await;
        if let Some((made, page)) = &*kept
            && made.elapsed() < FRESH
        {
            return Ok(page.clone());
        }
        let readings = self.engine.call(Engine::readings).await?;
        let services = self.services.list();
        let page = tokio::task::spawn_blocking(move || page::page(&readings, &services)).await.map_err(|_| Busy)?;
        let page = Bytes::from(page);
        *kept = Some((Instant::now(), page.clone()));
        // At 10,000 farms it is some megabytes.
        let kept = Arc::clone(&self.page);
        tokio::spawn(async move {
            tokio::time::sleep(FRESH).await;
            let mut kept = kept.lock().await;
            if kept.as_ref().is_some_and(|(made, _)| made.elapsed() >= FRESH) {
                *kept = None;
            }
        });
        Ok(page)
    }
}

impl Tally {
    /// A configuration was applied, or not.
    pub fn count<T>(&mut self, applied: &Result<T, EngineError>, took: Duration) {
        match applied {
            Ok(_) => {
                self.applied += 1;
                self.durations.add(took);
            }
            Err(_) => self.refused += 1,
        }
    }
}
