//! The running system onto another disk: from the stick that a box was started from onto the disk inside.
//!
//! Loader, variables, both slots and the EFI system partition with its drop-ins go over as they are; data begins as the image
//! came with it. The first MiB, with the partition table and the first stage of the loader, is written last: until then the
//! target starts nothing, and a power cut only means to begin again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;

use crate::bundle::digest;
use crate::disk::{self, Partition};
use crate::gpt::{self, GptError};
use crate::install::{Progress, Stage};
use crate::reset;

/// Table and first stage, bytes.
const HEAD: u64 = 1 << 20;
const PIECE: usize = 1 << 20;

/// Why the target does not hold the system. It starts nothing then.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The running system does not say where it lies.
    #[error("the disk of the root file system has no partition named data")]
    NoData,
    /// A disk or the template fails.
    #[error("cannot access {}", path.display())]
    Access {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else has it open.
    #[error("{} is in use", .0.display())]
    Busy(PathBuf),
    /// The table of partitions cannot be made to fit.
    #[error(transparent)]
    Table(#[from] GptError),
    /// What was written is not what is read.
    #[error("{} does not give back what was written to it: the disk is failing", .0.display())]
    ReadBack(PathBuf),
}

/// The running system's disk, as far as it is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    disk: PathBuf,
    template: PathBuf,
    /// Where data begins, bytes.
    data: u64,
    /// Of data as an image has it, bytes.
    data_size: u64,
}

fn access(path: &Path) -> impl FnOnce(io::Error) -> TransferError {
    let path = path.to_owned();
    move |source| TransferError::Access { path, source }
}

impl Origin {
    /// The disk that this system runs from; `root` is `/`.
    ///
    /// # Errors
    /// [`TransferError::NoData`], [`TransferError::Access`].
    pub fn find(root: &Path) -> Result<Self, TransferError> {
        let sys = root.join("sys");
        let home = disk::disk_of(&sys, root).ok_or(TransferError::NoData)?;
        let Partition { device, disk } = disk::partition(&sys, "data", Some(&home)).ok_or(TransferError::NoData)?;
        let start = sys.join("class/block").join(device.file_name().unwrap_or_default()).join("start");
        let sectors = std::fs::read_to_string(&start).map_err(access(&start))?;
        let sectors: u64 = sectors.trim().parse().map_err(|_| TransferError::NoData)?;
        let template = root.join(reset::TEMPLATE);
        let data_size = std::fs::metadata(&template).map_err(access(&template))?.len();
        Ok(Self { disk: Path::new("/dev").join(disk), template, data: sectors * gpt::SECTOR, data_size })
    }

    /// What a target needs at least, bytes: the second table lies behind data.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.data + self.data_size + HEAD
    }

    /// Writes the system to `device`, whose contents are gone, and reads it back.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn write(&self, device: &Path, mut progress: impl FnMut(Progress)) -> Result<(), TransferError> {
        // Of a block device O_EXCL refuses what is mounted or held, whatever was seen before (open(2)).
        let exclusive = libc::O_EXCL | libc::O_SYNC | libc::O_CLOEXEC;
        let opened = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(device);
        let mut to = match opened {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(TransferError::Busy(device.to_owned()));
            }
            to => to.map_err(access(device))?,
        };
        let size = to.seek(SeekFrom::End(0)).map_err(access(device))?;
        let from = File::open(&self.disk).map_err(access(&self.disk))?;
        let template = File::open(&self.template).map_err(access(&self.template))?;
        let total = self.data + self.data_size;
        to.write_all_at(&vec![0; HEAD as usize], 0).map_err(access(device))?;
        to.seek(SeekFrom::Start(HEAD)).map_err(access(device))?;
        let mut middle = &from;
        middle.seek(SeekFrom::Start(HEAD)).map_err(access(&self.disk))?;
        let mut done = HEAD;
        let mut piece = vec![0; PIECE];
        for (path, mut source) in [
            (&self.disk, Box::new(middle.take(self.data - HEAD)) as Box<dyn Read>),
            (&self.template, Box::new(&template)),
        ] {
            loop {
                let count = source.read(&mut piece).map_err(access(path))?;
                if count == 0 {
                    break;
                }
                to.write_all(&piece[..count]).map_err(access(device))?;
                done += count as u64;
                progress(Progress { stage: Stage::Writing, done, total });
            }
        }
        progress(Progress { stage: Stage::Verifying, done: 0, total });
        self.read_back(device, &from)?;
        let mut head = vec![0; HEAD as usize];
        from.read_exact_at(&mut head, 0).map_err(access(&self.disk))?;
        to.write_all_at(&head, 0).map_err(access(device))?;
        gpt::fit_last(&to, size)?;
        progress(Progress { stage: Stage::Verifying, done: total, total });
        Ok(())
    }

    fn read_back(&self, device: &Path, from: &File) -> Result<(), TransferError> {
        let part = |mut file: &File, path: &Path, start: u64, length: u64| {
            // What the page cache remembers proves nothing.
            let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
            file.seek(SeekFrom::Start(start)).map_err(access(path))?;
            digest(file.take(length)).map_err(access(path))
        };
        let written = File::open(device).map_err(access(device))?;
        let template = File::open(&self.template).map_err(access(&self.template))?;
        let middle = self.data - HEAD;
        let same = part(&written, device, HEAD, middle)? == part(from, &self.disk, HEAD, middle)?
            && part(&written, device, self.data, self.data_size)?
                == part(&template, &self.template, 0, self.data_size)?;
        if same { Ok(()) } else { Err(TransferError::ReadBack(device.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(directory: &Path) -> Origin {
        let (disk, template) = (directory.join("disk"), directory.join("template"));
        std::fs::write(&template, vec![7; 2 << 20]).unwrap();
        Origin { disk, template, data: 4 << 20, data_size: 2 << 20 }
    }

    #[test]
    fn what_cannot_hold_the_system_starts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let origin = origin(directory.path());
        assert_eq!(origin.needed(), 7 << 20);
        let target = directory.path().join("target");
        std::fs::write(&target, vec![1; 8 << 20]).unwrap();
        // No table on the disk that is copied: the head that was written last is no table either.
        std::fs::write(&origin.disk, vec![3; 6 << 20]).unwrap();
        assert!(matches!(origin.write(&target, |_| ()), Err(TransferError::Table(_))));
        let written = std::fs::read(&target).unwrap();
        assert!(written[HEAD as usize..4 << 20].iter().all(|&byte| byte == 3));
        assert!(written[4 << 20..6 << 20].iter().all(|&byte| byte == 7));
        assert!(written[6 << 20..].iter().all(|&byte| byte == 1));
        assert!(matches!(origin.write(Path::new("/dev/full"), |_| ()), Err(TransferError::Access { .. })));
        std::fs::remove_file(&origin.disk).unwrap();
        assert!(origin.write(&target, |_| ()).unwrap_err().to_string().contains("disk"));
    }
}
