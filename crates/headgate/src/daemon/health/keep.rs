//! Writes what is remembered, one file at a time, away from the probes: a disk may take its time.

use headgate_host::Root;
use headgate_host::root::RootError;
use tokio::task::JoinHandle;

use crate::remembered::{Entry, Remembered};

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    root: Root,
    writing: Option<JoinHandle<Result<(), RootError>>>,
    /// What is on file is not what is known.
    stale: bool,
    failed: bool,
}

impl Keeper {
    pub(super) fn new(root: Root) -> Self {
        Self { root, writing: None, stale: false, failed: false }
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Something has changed.
    pub(super) fn touch(&mut self) {
        self.stale = true;
    }

    /// Begins to write when there is something to write and nothing is being written.
    pub(super) fn begin(&mut self, entries: impl FnOnce() -> Vec<Entry>) {
        if !self.stale || self.writing.is_some() {
            return;
        }
        self.stale = false;
        let (root, entries) = (self.root.clone(), entries());
        self.writing = Some(tokio::task::spawn_blocking(move || Remembered::write(&root, entries)));
    }

    /// Waits for what is being written; for ever when nothing is.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let written = writing.await;
        self.writing = None;
        match written {
            Ok(Err(error)) if !self.failed => {
                self.failed = true;
                tracing::warn!(error = %crate::explain(&error), "a restart would not know how the backends are");
            }
            Ok(Ok(())) => self.failed = false,
            _ => {}
        }
    }

    /// What is written behind the last probe.
    pub(super) async fn finish(mut self, entries: Vec<Entry>) {
        if self.writing.is_some() {
            self.written().await;
        }
        if let Err(error) = Remembered::write(&self.root, entries) {
            tracing::warn!(error = %crate::explain(&error), "the next start does not know how the backends are");
        }
    }
}
