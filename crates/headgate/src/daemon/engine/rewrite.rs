//! Files that change together with what runs: they are written first, and are as before when it cannot be applied.

use super::load::Candidate;
use super::{Cause, Engine, EngineError, RUNTIME};
use crate::api::Applied;
use crate::daemon::operator::Overrides;

/// What a file is to hold.
#[derive(Debug)]
pub(super) struct Rewrite {
    /// The file, below the root.
    file: String,
    /// `None`: it goes.
    bytes: Option<Vec<u8>>,
}

impl Rewrite {
    pub(super) fn new(file: impl Into<String>, text: Option<&str>) -> Self {
        Self { file: file.into(), bytes: text.map(|text| text.as_bytes().to_owned()) }
    }

    /// An empty file says as much as none.
    fn says(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl From<&Overrides> for Rewrite {
    fn from(overrides: &Overrides) -> Self {
        Self::new(overrides.file(), Some(&overrides.text()))
    }
}

/// A configuration that does not run yet, and the files that do not say so yet.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) candidate: Candidate,
    pub(super) rewrites: Vec<Rewrite>,
}

impl From<Candidate> for Change {
    fn from(candidate: Candidate) -> Self {
        Self { candidate, rewrites: Vec::new() }
    }
}

impl Engine {
    /// Written, and applied; when it cannot be applied, the files are as before.
    pub(super) fn write_and_run(&mut self, change: Change, cause: Cause<'_>) -> Result<Applied, EngineError> {
        let Change { candidate, rewrites } = change;
        let before = rewrites.iter().map(|rewrite| self.as_it_is(&rewrite.file));
        let before = before.collect::<Result<Vec<Rewrite>, EngineError>>()?;
        let stored = rewrites.iter().zip(&before).any(|(new, old)| new.says() != old.says());
        let written = rewrites.iter().try_for_each(|rewrite| self.put_down(rewrite));
        let applied = written.and_then(|()| self.run(candidate, cause)).map(|applied| Applied { stored, ..applied });
        if let Err(error) = &applied {
            before.iter().rev().try_for_each(|old| self.put_down(old)).inspect_err(|_| {
                tracing::error!(error = %crate::explain(error), "refused, and the files cannot be put back");
            })?;
        }
        applied
    }

    /// Does something with files that come to run. What they overtake of `runtime.toml`, whose text `work` gets, comes back
    /// when they do not.
    pub(super) fn unless_refused<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &str) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let before = self.runtime();
        let done = work(self, &before);
        if done.is_err() {
            self.restore_runtime(&before)?;
        }
        done
    }

    /// The text of `runtime.toml`.
    pub(super) fn runtime(&self) -> String {
        self.root.read_file(RUNTIME).unwrap_or_default()
    }

    /// Unless it is no TOML: then it is somebody's who edits it, and nothing was taken out of it.
    pub(super) fn restore_runtime(&mut self, before: &str) -> Result<(), EngineError> {
        let Ok(overrides) = Overrides::parse(RUNTIME, before) else { return Ok(()) };
        self.overrides = overrides;
        if self.runtime() != before {
            self.write_runtime()?;
        }
        Ok(())
    }

    fn as_it_is(&self, file: &str) -> Result<Rewrite, EngineError> {
        let bytes = match self.root.read_file_bytes(file) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Rewrite { file: file.to_owned(), bytes })
    }

    fn put_down(&self, rewrite: &Rewrite) -> Result<(), EngineError> {
        let Rewrite { file, bytes } = rewrite;
        if self.as_it_is(file)?.bytes == *bytes {
            return Ok(());
        }
        match bytes {
            Some(bytes) => self.root.write_file(file, bytes)?,
            None => self.root.remove_file(file)?,
        }
        Ok(())
    }
}
