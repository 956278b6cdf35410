//! Writes what is remembered, one file at a time, away from the probes: a disk may take its time.

use headgate_host::Root;
use headgate_host::root::RootError;

use crate::daemon::errands::{Errand, Errands};
use crate::remembered::{Entry, Remembered};

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    root: Root,
    errands: Errands,
    writing: Option<Errand<Result<(), RootError>>>,
    /// What is on file is not what is known.
    stale: bool,
    failed: bool,
}

impl Keeper {
    pub(super) fn new(root: Root, errands: Errands) -> Self {
        Self { root, errands, writing: None, stale: false, failed: false }
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
        self.writing = Some(self.write(entries()));
    }

    fn write(&self, entries: Vec<Entry>) -> Errand<Result<(), RootError>> {
        let root = self.root.clone();
        self.errands.block(move || Remembered::write(&root, entries))
    }

    /// Waits for what is being written; for ever when nothing is.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let written = writing.await;
        self.writing = None;
        match written {
            Some(Err(error)) if !self.failed => {
                self.failed = true;
                tracing::warn!(error = %crate::explain(&error), "a restart would not know how the backends are");
            }
            Some(Ok(())) => self.failed = false,
            _ => {}
        }
    }

    /// What is written behind the last probe.
    pub(super) async fn finish(mut self, entries: Vec<Entry>) {
        if self.writing.is_some() {
            self.written().await;
        }
        if let Some(Err(error)) = self.write(entries).await {
            tracing::warn!(error = %crate::explain(&error), "the next start does not know how the backends are");
        }
    }
}
