//! The running machine, and an update that goes into its other slot.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, BundleError, digest};
use crate::disk;
use crate::environment::{AccessError, Environment};
use crate::grubenv::{Block, Slot};
use crate::manifest::Manifest;

/// What the image builder wrote down about its image: `NAME=VALUE` lines.
pub const IMAGE: &str = "usr/lib/headgate/image";
/// Its line with the offset of the environment block in the partition `env`, bytes.
pub const ENV_OFFSET: &str = "env-offset";
/// Its line with the version.
pub const VERSION: &str = "version";
/// Its line with the kind of machine that it is for.
pub const BOARD: &str = "board";
/// The variable of the environment with the newest version that was ever good here: nothing older is installed unless the
/// operator insists, whatever slot or data partition is wiped meanwhile.
pub const FLOOR: &str = "FLOOR";

/// The machine that an update is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The slot that runs.
    pub running: Slot,
    /// What kind of machine it is.
    pub board: String,
    /// The version that runs.
    pub version: Version,
    /// The partition of the slot that does not run.
    pub other: PathBuf,
    /// GRUB's variables.
    pub environment: Environment,
}

/// Whether an older version is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Downgrade {
    /// Nothing older than what was good here before.
    #[default]
    Refuse,
    /// The operator insists.
    Allow,
}

/// Why this is no machine that can be updated.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Not an appliance, or booted by hand.
    #[error("the kernel's command line has no headgate.slot=A or B: this system was not started from a slot")]
    NoSlot,
    /// The image does not say what it must.
    #[error("/{IMAGE} has no line {0}= with a value that can be used")]
    Image(&'static str),
    /// The disk lacks a partition.
    #[error("the disk of the root file system has no partition named {0}")]
    NoPartition(&'static str),
    /// Reading failed.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why an update was not installed. The running slot is as it was; the other one may be empty now.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Made for another kind of machine.
    #[error("the update is for {theirs}, this machine is {ours}")]
    Board {
        /// Whose it is.
        theirs: String,
        /// What we are.
        ours: String,
    },
    /// This version cannot be updated with it.
    #[error("the update needs version {needed} or later to be installed, {running} is running")]
    TooOld {
        /// The oldest that could.
        needed: Version,
        /// What runs.
        running: Version,
    },
    /// Older than what was good here.
    #[error(
        "the update is version {offered}, older than {floor}, which has run here: --allow-downgrade takes it all the same"
    )]
    Downgrade {
        /// What it is.
        offered: Version,
        /// The newest that was good.
        floor: Version,
    },
    /// The slot is too small.
    #[error("the image has {size} bytes, {} has room for {capacity}", device.display())]
    NoRoom {
        /// Of the image.
        size: u64,
        /// Of the partition.
        capacity: u64,
        /// The partition.
        device: PathBuf,
    },
    /// The file is not what it should be, or the slot cannot be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The partition failed.
    #[error("cannot access {}", path.display())]
    Device {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was written is not what is read.
    #[error("{} does not give back what was written to it: the disk is failing", device.display())]
    ReadBack {
        /// The partition.
        device: PathBuf,
    },
    /// GRUB's variables failed.
    #[error(transparent)]
    Environment(#[from] AccessError),
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The image goes to its partition.
    Writing,
    /// It is read back.
    Verifying,
}

/// How far an installation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes that have been.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Machine {
    /// The machine that this process runs on; `root` is `/`.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn find(root: &Path) -> Result<Self, MachineError> {
        let read = |path: PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(source) => Err(MachineError::Read { path, source }),
        };
        let line = read(root.join("proc/cmdline"))?;
        let running = disk::parameter(&line, "headgate.slot").and_then(Slot::parse).ok_or(MachineError::NoSlot)?;
        let image = read(root.join(IMAGE))?;
        let value = |name| note(&image, name).ok_or(MachineError::Image(name));
        let offset = value(ENV_OFFSET)?.parse().map_err(|_| MachineError::Image(ENV_OFFSET))?;
        let version = value(VERSION)?.parse().map_err(|_| MachineError::Image(VERSION))?;
        let board = value(BOARD)?.to_owned();
        let sys = root.join("sys");
        let home = disk::disk_of(&sys, root).ok_or(MachineError::NoPartition("env"))?;
        let partition = |name| match disk::partition(&sys, name, Some(&home)) {
            Some(partition) => Ok(partition.device),
            None => Err(MachineError::NoPartition(name)),
        };
        let environment = Environment { device: partition("env")?, offset };
        Ok(Self { running, board, version, other: partition(running.other().partition())?, environment })
    }

    /// Refuses what is not for this machine, before anything is changed.
    ///
    /// # Errors
    /// [`InstallError::Board`], [`InstallError::TooOld`], [`InstallError::Downgrade`], [`InstallError::NoRoom`], …
    pub fn check(&self, manifest: &Manifest, downgrade: Downgrade) -> Result<(), InstallError> {
        if manifest.board != self.board {
            return Err(InstallError::Board { theirs: manifest.board.clone(), ours: self.board.clone() });
        }
        if let Some(needed) = manifest.minimum_version.as_ref().filter(|needed| self.version < **needed) {
            return Err(InstallError::TooOld { needed: needed.clone(), running: self.version.clone() });
        }
        let floor = floor(&self.environment.read()?).max(Some(self.version.clone()));
        if let Some(floor) = floor.filter(|floor| manifest.version < *floor && downgrade == Downgrade::Refuse) {
            return Err(InstallError::Downgrade { offered: manifest.version.clone(), floor });
        }
        let size = manifest.slot.size;
        let end = File::open(&self.other).and_then(|mut device| device.seek(SeekFrom::End(0)));
        let capacity = end.map_err(|source| self.device(source))?;
        if size > capacity {
            return Err(InstallError::NoRoom { size, capacity, device: self.other.clone() });
        }
        Ok(())
    }

    /// Puts an update that was [checked](Self::check) into the other slot, which is tried at the next boot.
    ///
    /// # Errors
    /// [`InstallError`]. The other slot does not count then.
    pub fn install(
        &self,
        bundle: Bundle<'_, impl Read>,
        mut progress: impl FnMut(Progress),
    ) -> Result<Manifest, InstallError> {
        let target = self.running.other();
        let manifest = bundle.manifest.clone();
        let total = manifest.slot.size;
        // First of all: from here on the slot holds nothing that may be started.
        self.environment.change(|block| block.forbid(target))?;
        let mut device = OpenOptions::new()
            .write(true)
            // Of a block device O_EXCL refuses a second one who writes it (open(2)).
            .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_EXCL)
            .open(&self.other)
            .map_err(|source| self.device(source))?;
        bundle.copy_slot(&mut device, |done| progress(Progress { stage: Stage::Writing, done, total }))?;
        device.sync_all().map_err(|source| self.device(source))?;
        drop(device);
        progress(Progress { stage: Stage::Verifying, done: 0, total });
        if self.read_back(total)? != manifest.slot.sha256 {
            return Err(InstallError::ReadBack { device: self.other.clone() });
        }
        progress(Progress { stage: Stage::Verifying, done: total, total });
        self.environment.change(|block| block.prefer(target, &manifest.version.to_string()))?;
        Ok(manifest)
    }

    /// The digest of what the disk has, not of what the page cache remembers.
    fn read_back(&self, size: u64) -> Result<String, InstallError> {
        let device = File::open(&self.other).map_err(|source| self.device(source))?;
        // Clean pages are dropped at once (`invalidate_mapping_pages`, mm/fadvise.c), and all are clean behind fsync.
        posix_fadvise(&device, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|errno| self.device(errno.into()))?;
        let (found, _) = digest(device.take(size)).map_err(|source| self.device(source))?;
        Ok(found)
    }

    fn device(&self, source: io::Error) -> InstallError {
        InstallError::Device { path: self.other.clone(), source }
    }
}

/// The newest version that was good on this disk.
#[must_use]
pub fn floor(block: &Block) -> Option<Version> {
    block.get(FLOOR)?.parse().ok()
}

/// The value of a line of [`IMAGE`].
#[must_use]
pub fn note<'a>(image: &'a str, name: &str) -> Option<&'a str> {
    image.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests;
