//! What is in the two slots, and the way back to the other one.

use std::fmt;

use serde::Serialize;

use crate::environment::{AccessError, Written};
use crate::grubenv::Slot;
use crate::install::{FLOOR, Machine, floor};

/// How the slots are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Slots {
    /// The slot that runs: `A` or `B`.
    pub running: String,
    /// Its version.
    pub version: String,
    /// What kind of machine it is.
    pub board: String,
    /// The system that should run did not come to good, and GRUB fell back to this one.
    pub fell_back: bool,
    /// Nothing older is installed, unless `--allow-downgrade` says so.
    pub floor: Option<String>,
    /// Both, the one that is tried first at the next boot first.
    pub slots: Vec<SlotStatus>,
}

/// How one slot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SlotStatus {
    /// `A` or `B`.
    pub slot: String,
    /// What is in it, as far as it was noted.
    pub version: Option<String>,
    /// It may be started.
    pub bootable: bool,
    /// Starts since it was good last; three are the most.
    pub tries: u32,
}

/// Why there is no way back.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// The other slot is empty, or an update into it was cut off.
    #[error("slot {0} holds no system that can be started")]
    Nothing(Slot),
    /// GRUB's variables failed.
    #[error(transparent)]
    Environment(#[from] AccessError),
}

impl Machine {
    /// How the slots are.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn slots(&self) -> Result<Slots, AccessError> {
        let block = self.environment.read()?;
        let first = block.first().unwrap_or(Slot::A);
        let status = |slot: Slot| {
            let value = |name: &str| block.get(&format!("{slot}_{name}")).filter(|value| !value.is_empty());
            SlotStatus {
                slot: slot.to_string(),
                version: match slot == self.running {
                    true => Some(self.version.to_string()),
                    false => value("VERSION").map(str::to_owned),
                },
                bootable: value("OK") == Some("1"),
                tries: value("TRY").and_then(|tries| tries.parse().ok()).unwrap_or(0),
            }
        };
        Ok(Slots {
            running: self.running.to_string(),
            version: self.version.to_string(),
            board: self.board.clone(),
            fell_back: first != self.running && status(first).tries > 0,
            floor: floor(&block).map(|floor| floor.to_string()),
            slots: [first, first.other()].map(status).into(),
        })
    }

    /// Clears the tries of the slot that runs, and notes which version has proven itself.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn mark_good(&self) -> Result<Written, AccessError> {
        self.environment.change(|block| {
            block.mark_good(self.running);
            block.set(&format!("{}_VERSION", self.running), &self.version.to_string());
            if floor(block).is_none_or(|floor| floor < self.version) {
                block.set(FLOOR, &self.version.to_string());
            }
        })
    }

    /// Lets the next boot try the other slot. Returns it.
    ///
    /// # Errors
    /// [`RollbackError`].
    pub fn rollback(&self) -> Result<Slot, RollbackError> {
        let other = self.running.other();
        if self.environment.read()?.get(&format!("{other}_OK")) != Some("1") {
            return Err(RollbackError::Nothing(other));
        }
        self.environment.change(|block| block.put_first(other))?;
        Ok(other)
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "slot {} runs, version {} for {}", self.running, self.version, self.board)?;
        for (SlotStatus { slot, version, bootable, tries }, when) in self.slots.iter().zip(["first", "then"]) {
            let what = match (version, bootable) {
                (_, false) => "nothing that can be started".to_owned(),
                (Some(version), true) => format!("version {version}"),
                (None, true) => "a system of unknown version".to_owned(),
            };
            let tries = match tries {
                0 => String::new(),
                1 => ", tried once without coming to good".to_owned(),
                tries => format!(", tried {tries} times without coming to good"),
            };
            writeln!(f, "at the next boot {when} slot {slot}: {what}{tries}")?;
        }
        if self.fell_back {
            writeln!(f, "FELL BACK: the system that was to run did not come to good")?;
        }
        match &self.floor {
            Some(floor) => writeln!(f, "nothing older than {floor} is installed without --allow-downgrade"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::environment::Environment;
    use crate::grubenv::Block;

    fn machine(directory: &tempfile::TempDir, change: impl FnOnce(&mut Block)) -> Machine {
        let environment = Environment { device: directory.path().join("env"), offset: 0 };
        std::fs::write(&environment.device, Block::fresh().to_bytes().unwrap()).unwrap();
        environment.change(change).unwrap();
        let (board, version) = ("x86_64".to_owned(), "1.0.0".parse().unwrap());
        Machine { running: Slot::A, board, version, other: PathBuf::new(), environment }
    }

    #[test]
    fn a_new_disk_has_nothing_to_go_back_to() {
        let directory = tempfile::tempdir().unwrap();
        let machine = machine(&directory, |_| ());
        let slots = machine.slots().unwrap();
        assert!(!slots.fell_back);
        assert_eq!(
            slots.to_string(),
            "slot A runs, version 1.0.0 for x86_64\nat the next boot first slot A: version 1.0.0\n\
             at the next boot then slot B: nothing that can be started\n"
        );
        assert!(matches!(machine.rollback(), Err(RollbackError::Nothing(Slot::B))));
    }

    #[test]
    fn an_update_that_failed_is_told_loudly_and_can_be_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let machine = machine(&directory, |block| {
            block.prefer(Slot::B, "1.1.0");
            block.set("B_TRY", "3");
        });
        let slots = machine.slots().unwrap();
        assert!(slots.fell_back);
        let text = slots.to_string();
        assert!(text.contains("first slot B: version 1.1.0, tried 3 times without coming to good\n"), "{text}");
        assert!(text.contains("FELL BACK"), "{text}");
        assert_eq!(machine.rollback().unwrap(), Slot::B);
        let slots = machine.slots().unwrap();
        assert_eq!((slots.fell_back, slots.slots[0].tries), (false, 0), "it was asked for");
    }

    #[test]
    fn a_good_slot_clears_its_tries_and_raises_the_floor_but_never_lowers_it() {
        let directory = tempfile::tempdir().unwrap();
        let machine = machine(&directory, |block| block.set("A_TRY", "2"));
        let running = |version: &str| Machine { version: version.parse().unwrap(), ..machine.clone() };
        let values = || {
            let block = machine.environment.read().unwrap();
            ["A_OK", "A_TRY", "A_VERSION", FLOOR].map(|name| block.get(name).unwrap_or_default().to_owned())
        };
        assert_eq!(running("1.2.0").mark_good().unwrap(), Written::Changed);
        assert_eq!(running("1.2.0").mark_good().unwrap(), Written::Unchanged);
        assert_eq!(values(), ["1", "0", "1.2.0", "1.2.0"]);
        running("1.1.0").mark_good().unwrap();
        assert_eq!(values(), ["1", "0", "1.1.0", "1.2.0"], "what has run here once is not forgotten");
        running("1.3.0-rc.1").mark_good().unwrap();
        assert_eq!(values()[3], "1.3.0-rc.1");
    }

    #[test]
    fn an_update_that_waits_for_its_boot_has_not_fallen_back() {
        let directory = tempfile::tempdir().unwrap();
        let slots = machine(&directory, |block| block.prefer(Slot::B, "1.1.0")).slots().unwrap();
        assert!(!slots.fell_back);
        assert_eq!((slots.slots[0].slot.as_str(), slots.slots[0].version.as_deref()), ("B", Some("1.1.0")));
    }
}
