//! The environment block on its disk: where it is, and how it is rewritten.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::grubenv::{Block, EnvironmentError, SIZE};

/// The place of the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The partition `env`.
    pub device: PathBuf,
    /// Within it, bytes; known from the build.
    pub offset: u64,
}

/// Why the block cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The device failed.
    #[error("cannot access {path}")]
    Device {
        /// The device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The variables do not fit.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

/// Whether a write was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The block was written.
    Changed,
    /// It said so already.
    Unchanged,
}

impl Environment {
    /// The block; the fresh one in place of a block that a power cut tore.
    ///
    /// # Errors
    /// [`AccessError::Device`].
    pub fn read(&self) -> Result<Block, AccessError> {
        let (_, bytes) = self.open(OpenOptions::new().read(true))?;
        Ok(Block::parse(&bytes).unwrap_or_else(|_| Block::fresh()))
    }

    /// Rewrites the block in place: one write of 1 KiB, synchronous. The FAT around it is never touched.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn change(&self, change: impl FnOnce(&mut Block)) -> Result<Written, AccessError> {
        let synchronous = nix::libc::O_SYNC | nix::libc::O_CLOEXEC;
        let (file, bytes) = self.open(OpenOptions::new().read(true).write(true).custom_flags(synchronous))?;
        let mut block = Block::parse(&bytes).unwrap_or_else(|_| Block::fresh());
        change(&mut block);
        let new = block.to_bytes()?;
        if new == bytes {
            return Ok(Written::Unchanged);
        }
        file.write_all_at(&new, self.offset).map_err(self.access())?;
        Ok(Written::Changed)
    }

    fn open(&self, options: &OpenOptions) -> Result<(File, [u8; SIZE]), AccessError> {
        let file = options.open(&self.device).map_err(self.access())?;
        let mut bytes = [0; SIZE];
        file.read_exact_at(&mut bytes, self.offset).map_err(self.access())?;
        Ok((file, bytes))
    }

    fn access(&self) -> impl FnOnce(io::Error) -> AccessError {
        let path = self.device.clone();
        move |source| AccessError::Device { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grubenv::Slot;

    #[test]
    fn the_block_is_rewritten_in_place_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment { device: directory.path().join("env"), offset: 18944 };
        let mut disk = vec![0xaa; 64 * 512];
        let mut block = Block::fresh();
        block.set("A_TRY", "2");
        disk[18944..18944 + SIZE].copy_from_slice(&block.to_bytes().unwrap());
        std::fs::write(&environment.device, &disk).unwrap();
        assert_eq!(environment.change(|block| block.mark_good(Slot::A)).unwrap(), Written::Changed);
        assert_eq!(environment.change(|block| block.mark_good(Slot::A)).unwrap(), Written::Unchanged);
        let after = std::fs::read(&environment.device).unwrap();
        assert_eq!(after.len(), disk.len());
        assert_eq!(environment.read().unwrap().get("A_TRY"), Some("0"));
        assert!(after[..18944].iter().chain(&after[18944 + SIZE..]).all(|&byte| byte == 0xaa));
    }

    #[test]
    fn a_torn_block_is_replaced_and_a_short_device_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment { device: directory.path().join("env"), offset: 1024 };
        std::fs::write(&environment.device, vec![0; 4096]).unwrap();
        assert_eq!(environment.change(|block| block.mark_good(Slot::B)).unwrap(), Written::Changed);
        let block = environment.read().unwrap();
        assert_eq!((block.get("B_OK"), block.get("ORDER")), (Some("1"), Some("A B")));
        let behind = Environment { offset: 4000, ..environment.clone() };
        assert!(matches!(behind.change(|_| ()), Err(AccessError::Device { .. })));
        assert_eq!(std::fs::metadata(&environment.device).unwrap().len(), 4096);
    }
}
