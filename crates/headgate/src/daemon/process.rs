//! The daemon as a process: the mark that it runs, and what of it goes on when another program takes over.

use std::path::Path;

use headgate_host::Root;

use super::engine::{Engine, Handle};
use super::handover::{HandoverError, Kept, Successor, WATCHDOG};
use super::health::{Health, Surroundings};
use super::server::Front;
use super::watchdog::{self, Watchdog};
use crate::crash::Running;

/// See the module.
#[derive(Debug)]
pub struct Process {
    /// The mark of a daemon that has not ended.
    pub running: Option<Running>,
    /// What outlives the program.
    pub kept: Kept,
    /// Who takes over.
    pub successor: Successor,
}

impl Process {
    /// Sets the mark; a full /run must not keep the daemon from starting.
    pub fn begin(root: &Root, kept: Kept, successor: Successor) -> Self {
        let running = Running::begin(root).inspect_err(|error| tracing::warn!(%error, "a crash will not be noticed"));
        Self { running: running.ok(), kept, successor }
    }

    /// Takes the mark away.
    pub fn end(&self) {
        if let Some(running) = &self.running {
            running.end();
        }
    }

    /// Has the program that lies in place of this one take over. Returns when it does not, with why: everything goes on then.
    ///
    /// # Errors
    /// It cannot go on: the system has no thread or event queue left.
    pub async fn hand_over(
        &self,
        engine: &Handle,
        front: &mut Front,
        health: &mut Option<Health>,
        around: &Surroundings,
    ) -> std::io::Result<HandoverError> {
        if let Err(error) = self.successor.check().await {
            return Ok(error);
        }
        front.close().await;
        // It writes what it knows of the backends.
        if let Some(health) = health.take() {
            health.end().await;
        }
        self.end();
        let (successor, kept) = (self.successor.clone(), self.kept.clone());
        let answer = engine.call(move |engine: &mut Engine| engine.hand_over(&successor, &kept)).await;
        if let Some(Err(error)) = self.running.as_ref().map(Running::again) {
            tracing::warn!(%error, "a crash will not be noticed");
        }
        front.reopen()?;
        *health = Some(Health::begin(around.clone())?);
        Ok(answer.unwrap_or(HandoverError::Busy))
    }

    /// The watchdog that the program before has left, or the machine's.
    pub fn watchdog(&self) -> Option<Watchdog> {
        let left = self.kept.take(WATCHDOG).map(Watchdog::inherit);
        let watchdog = left.or_else(|| Watchdog::open(Path::new(watchdog::DEVICE)))?;
        if let Err(error) = self.kept.keep(WATCHDOG, &watchdog) {
            tracing::warn!(%error, "the next program opens the watchdog anew");
        }
        Some(watchdog)
    }
}
