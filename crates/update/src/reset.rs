//! The factory reset: the data partition becomes what the image came with. It is asked for in GRUB's variables, which lie
//! outside of data, and carried out by the next start before data is mounted; a power cut in between only means that it is
//! carried out once more.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::grubenv::Block;

/// The variable: the next start resets.
const WANTED: &str = "RESET";
/// The variable: the word of the stick that asked for the last reset. It may stay plugged in.
const WORD: &str = "RESET_BY";
/// The data partition as the image came with it, in the slot.
pub const TEMPLATE: &str = "usr/lib/headgate/data.ext4";
/// The file on a stick that asks for a reset, below [`crate::stick::DIRECTORY`].
pub const FILE: &str = "factory-reset";

/// Why data is not reset.
#[derive(Debug, thiserror::Error)]
#[error("cannot reset data: {}", path.display())]
pub struct ResetError {
    path: PathBuf,
    source: io::Error,
}

/// Asks for a reset at the next start.
pub fn ask(block: &mut Block) {
    block.set(WANTED, "1");
}

/// Whether GRUB's menu was asked for a reset (`image/grub.cfg`).
#[must_use]
pub fn is_wanted_by_menu(block: &Block) -> bool {
    block.get(WANTED) == Some("menu")
}

/// Asks for the reset that a stick wants, unless it was this stick's file that wanted the last one. Whether it was asked for.
pub fn ask_for(block: &mut Block, file: &[u8]) -> bool {
    let word: String = Sha256::digest(file).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    if block.get(WORD) == Some(&word) {
        return false;
    }
    block.set(WORD, &word);
    ask(block);
    true
}

/// Whether this start has to reset.
#[must_use]
pub fn is_wanted(block: &Block) -> bool {
    block.get(WANTED) == Some("1")
}

/// Notes that it is done, or refused.
pub fn done(block: &mut Block) {
    block.set(WANTED, "0");
}

nix::ioctl_write_ptr_bad!(
    /// `BLKDISCARD`, `_IO(0x12, 119)` (`include/uapi/linux/fs.h`): start and length, bytes.
    discard,
    nix::request_code_none!(0x12, 119),
    [u64; 2]
);

/// Writes the template over the data partition. What lay behind its end is discarded where the disk can do that; where it
/// cannot, those bytes stay on the disk, but nothing leads to them.
///
/// # Errors
/// [`ResetError`].
pub fn carry_out(template: &Path, device: &Path) -> Result<(), ResetError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ResetError { path, source }
    };
    let mut from = File::open(template).map_err(failed(template))?;
    let mut to = OpenOptions::new().write(true).open(device).map_err(failed(device))?;
    let size = to.seek(SeekFrom::End(0)).map_err(failed(device))?;
    // SAFETY: the device is open and the array lives over the call. Best effort: many disks cannot.
    let _ = unsafe { discard(to.as_raw_fd(), &[0, size]) };
    to.seek(SeekFrom::Start(0)).map_err(failed(device))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer).map_err(failed(template))?;
        if count == 0 {
            break;
        }
        to.write_all(&buffer[..count]).map_err(failed(device))?;
    }
    to.sync_all().map_err(failed(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stick_that_stays_asks_only_once() {
        let mut block = Block::fresh();
        assert!(!is_wanted(&block));
        assert!(ask_for(&mut block, b"today"));
        assert!(is_wanted(&block));
        done(&mut block);
        assert!(!ask_for(&mut block, b"today") && !is_wanted(&block));
        assert!(ask_for(&mut block, b"tomorrow") && is_wanted(&block));
        done(&mut block);
        ask(&mut block);
        assert!(is_wanted(&block));
        block.set(WANTED, "menu");
        assert!(is_wanted_by_menu(&block) && !is_wanted(&block), "who asks has to be trusted first");
        block.to_bytes().unwrap();
    }

    #[test]
    fn the_template_lies_over_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let (template, device) = (directory.path().join("template"), directory.path().join("device"));
        std::fs::write(&template, vec![7; 3 << 20]).unwrap();
        std::fs::write(&device, vec![1; 5 << 20]).unwrap();
        carry_out(&template, &device).unwrap();
        let after = std::fs::read(&device).unwrap();
        assert!(after[..3 << 20].iter().all(|&byte| byte == 7) && after.len() == 5 << 20);
        assert!(carry_out(&directory.path().join("none"), &device).unwrap_err().to_string().contains("none"));
    }
}
