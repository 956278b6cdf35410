//! `headgate-init mark-good`: the running slot is healthy; GRUB may count from zero again.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use headgate_update::environment::{AccessError, Written};
use headgate_update::install::{Machine, MachineError};
use headgate_update::milestones;

use crate::initramfs::with_cause;
use crate::media;

/// There while the slot is known to be good.
pub const MARKER: &str = "/run/headgate/slot-good";

/// Why the slot was not marked.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// Not an appliance, or booted by hand.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// GRUB's variables cannot be written.
    #[error(transparent)]
    Environment(#[from] AccessError),
    /// The note for this boot cannot be written.
    #[error("cannot write {path}")]
    Marker {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Marks the slot and keeps the media's drop-ins when the configuration is valid.
pub fn run() -> ExitCode {
    let marked = Machine::find(Path::new("/")).map_err(MarkError::from).and_then(|machine| {
        let written = machine.mark_good()?;
        std::fs::write(MARKER, "").map_err(|source| MarkError::Marker { path: MARKER.into(), source })?;
        Ok((machine.running, written))
    });
    milestones::note(
        Path::new(milestones::FILE),
        if marked.is_ok() { "slot marked good" } else { "slot not marked good" },
    );
    match &marked {
        Ok((slot, Written::Changed)) => println!("slot {slot} is marked good"),
        Ok((slot, Written::Unchanged)) => println!("slot {slot} is good already"),
        Err(error) => eprintln!("headgate-init: {}", with_cause(error)),
    }
    match keep_media() {
        Ok(Some(media::Kept::Now)) => milestones::note(Path::new(milestones::FILE), "drop-ins of media kept on data"),
        Ok(_) => {}
        Err(error) => eprintln!("headgate-init: {}", with_cause(&error)),
    }
    if marked.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A configuration that `headgate check` refuses is not kept: the next boot takes the corrected one from the medium.
fn keep_media() -> Result<Option<media::Kept>, media::MediaError> {
    let valid = Command::new("/usr/bin/headgate").arg("check").output().is_ok_and(|output| output.status.success());
    if valid { media::keep().map(Some) } else { Ok(None) }
}
