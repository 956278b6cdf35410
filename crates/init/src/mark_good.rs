//! `headgate-init mark-good`: the running slot is healthy; GRUB may count from zero again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::grubenv::{Block, EnvironmentError, SIZE, Slot};
use crate::initramfs::with_cause;
use crate::{disk, media};

/// What the image builder wrote down about its image: `NAME=VALUE` lines.
pub const IMAGE: &str = "/usr/lib/headgate/image";
/// Its line with the offset of the environment block in the partition `env`, bytes.
pub const ENV_OFFSET: &str = "env-offset";
/// There while the slot is known to be good.
const MARKER: &str = "/run/headgate/slot-good";

/// Why the slot was not marked.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// Not an appliance, or booted by hand.
    #[error("the kernel's command line has no headgate.slot=A or B: this system was not started from a slot")]
    NoSlot,
    /// The image does not say where the block is.
    #[error("{IMAGE} has no line {ENV_OFFSET}=")]
    NoOffset,
    /// The disk has no such partition.
    #[error("the disk of the root file system has no partition named env")]
    NoPartition,
    /// Reading or writing failed.
    #[error("cannot access {path}")]
    Access {
        /// The device or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The variables do not fit.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

/// Marks the slot and keeps the media's drop-ins when the configuration is valid.
pub fn run() -> ExitCode {
    let marked = mark();
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

/// Whether a write was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The block was written.
    Changed,
    /// It said so already.
    Unchanged,
}

fn mark() -> Result<(Slot, Written), MarkError> {
    let access = |path: &str| {
        let path = PathBuf::from(path);
        move |source| MarkError::Access { path, source }
    };
    let command_line = std::fs::read_to_string("/proc/cmdline").map_err(access("/proc/cmdline"))?;
    let slot = disk::parameter(&command_line, "headgate.slot").and_then(Slot::parse).ok_or(MarkError::NoSlot)?;
    let image = std::fs::read_to_string(IMAGE).map_err(access(IMAGE))?;
    let offset = offset(&image).ok_or(MarkError::NoOffset)?;
    let sys = Path::new("/sys");
    let home = disk::disk_of(sys, Path::new("/")).ok_or(MarkError::NoPartition)?;
    let partition = disk::partition(sys, "env", Some(&home)).ok_or(MarkError::NoPartition)?;
    let written = write(&partition.device, offset, slot)?;
    std::fs::write(MARKER, "").map_err(access(MARKER))?;
    Ok((slot, written))
}

/// The value of `env-offset=`.
fn offset(image: &str) -> Option<u64> {
    image.lines().find_map(|line| line.strip_prefix(ENV_OFFSET)?.strip_prefix('=')?.parse().ok())
}

/// Rewrites the block in place: one write of 1 KiB, synchronous. The FAT around it is never touched. A block that a power
/// cut tore (its place is known from the build) is replaced by a fresh one.
pub fn write(device: &Path, offset: u64, slot: Slot) -> Result<Written, MarkError> {
    let access = |source| MarkError::Access { path: device.to_owned(), source };
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_SYNC | nix::libc::O_CLOEXEC)
        .open(device)
        .map_err(access)?;
    let mut bytes = [0; SIZE];
    file.read_exact_at(&mut bytes, offset).map_err(access)?;
    let mut block = Block::parse(&bytes).unwrap_or_else(|error| {
        eprintln!("headgate-init: {error}: writing a fresh one");
        Block::fresh()
    });
    let new = {
        block.mark_good(slot);
        block.to_bytes()?
    };
    if new == bytes {
        return Ok(Written::Unchanged);
    }
    file.write_all_at(&new, offset).map_err(access)?;
    Ok(Written::Changed)
}

/// A configuration that `headgate check` refuses is not kept: the next boot takes the corrected one from the medium.
fn keep_media() -> Result<(), media::MediaError> {
    let valid = Command::new("/usr/bin/headgate").arg("check").output().is_ok_and(|output| output.status.success());
    if valid { media::keep() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_rewritten_in_place_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        let mut disk = vec![0xaa; 64 * 512];
        let mut block = Block::fresh();
        block.set("A_TRY", "2");
        disk[18944..18944 + SIZE].copy_from_slice(&block.to_bytes().unwrap());
        std::fs::write(&path, &disk).unwrap();
        assert_eq!(write(&path, 18944, Slot::A).unwrap(), Written::Changed);
        assert_eq!(write(&path, 18944, Slot::A).unwrap(), Written::Unchanged);
        let after = std::fs::read(&path).unwrap();
        assert_eq!(after.len(), disk.len());
        assert_eq!(Block::parse(&after[18944..]).unwrap().get("A_TRY"), Some("0"));
        assert!(after[..18944].iter().chain(&after[18944 + SIZE..]).all(|&byte| byte == 0xaa));
    }

    #[test]
    fn a_torn_block_is_replaced_and_a_short_device_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        std::fs::write(&path, vec![0; 4096]).unwrap();
        assert_eq!(write(&path, 1024, Slot::B).unwrap(), Written::Changed);
        let block = Block::parse(&std::fs::read(&path).unwrap()[1024..]).unwrap();
        assert_eq!((block.get("B_OK"), block.get("ORDER")), (Some("1"), Some("A B")));
        assert!(matches!(write(&path, 4000, Slot::B), Err(MarkError::Access { .. })));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
    }

    #[test]
    fn the_offset_is_read_from_the_builders_notes() {
        assert_eq!(offset("version=0.1.0\nenv-offset=18944\n"), Some(18944));
        assert_eq!(offset("env-offset=x\n"), None);
        assert_eq!(offset(""), None);
    }
}
