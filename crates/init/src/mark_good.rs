//! `headgate-init mark-good`: the running slot is healthy; GRUB may count from zero again.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use headgate_update::environment::{AccessError, Written};
use headgate_update::grubenv::Block;
use headgate_update::install::{FLOOR, Machine, MachineError, floor};

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
        let written = mark(&machine)?;
        std::fs::write(MARKER, "").map_err(|source| MarkError::Marker { path: MARKER.into(), source })?;
        Ok((machine.running, written))
    });
    match &marked {
        Ok((slot, Written::Changed)) => println!("slot {slot} is marked good"),
        Ok((slot, Written::Unchanged)) => println!("slot {slot} is good already"),
        Err(error) => eprintln!("headgate-init: {}", with_cause(error)),
    }
    if let Err(error) = keep_media() {
        eprintln!("headgate-init: {}", with_cause(&error));
    }
    if marked.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Clears the slot's tries, and notes which version has proven itself.
fn mark(machine: &Machine) -> Result<Written, AccessError> {
    let Machine { running, version, .. } = machine;
    machine.environment.change(|block: &mut Block| {
        block.mark_good(*running);
        block.set(&format!("{running}_VERSION"), &version.to_string());
        if floor(block).is_none_or(|floor| floor < *version) {
            block.set(FLOOR, &version.to_string());
        }
    })
}

/// A configuration that `headgate check` refuses is not kept: the next boot takes the corrected one from the medium.
fn keep_media() -> Result<(), media::MediaError> {
    let valid = Command::new("/usr/bin/headgate").arg("check").output().is_ok_and(|output| output.status.success());
    if valid { media::keep() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use headgate_update::environment::Environment;
    use headgate_update::grubenv::Slot;

    use super::*;

    #[test]
    fn a_good_slot_clears_its_tries_and_raises_the_floor_but_never_lowers_it() {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment { device: directory.path().join("env"), offset: 512 };
        let mut block = Block::fresh();
        block.set("B_TRY", "2");
        let disk = [vec![0; 512], block.to_bytes().unwrap().to_vec()].concat();
        std::fs::write(&environment.device, disk).unwrap();
        let running = |version: &str| Machine {
            running: Slot::B,
            board: "x86_64".to_owned(),
            version: version.parse().unwrap(),
            other: PathBuf::new(),
            environment: environment.clone(),
        };
        let values = || {
            let block = environment.read().unwrap();
            ["B_OK", "B_TRY", "B_VERSION", FLOOR].map(|name| block.get(name).unwrap_or_default().to_owned())
        };
        assert_eq!(mark(&running("1.2.0")).unwrap(), Written::Changed);
        assert_eq!(mark(&running("1.2.0")).unwrap(), Written::Unchanged);
        assert_eq!(values(), ["1", "0", "1.2.0", "1.2.0"]);
        mark(&running("1.1.0")).unwrap();
        assert_eq!(values(), ["1", "0", "1.1.0", "1.2.0"], "what has run here once is not forgotten");
        mark(&running("1.3.0-rc.1")).unwrap();
        assert_eq!(values()[3], "1.3.0-rc.1");
    }
}
