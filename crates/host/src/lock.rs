//! One writer at a time: the daemon and `apply` hold a lock while they change the kernel.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::root::{Root, RootError};

/// Where the lock is, below the root's files.
pub const PATH: &str = "run/headgate/lock";

/// A lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("{} is held by {}", path.display(), holder(*pid))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who has it, when he wrote it down.
        pid: Option<i32>,
    },
    /// The file could not be made or opened.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a path.
    #[error("the lock file has no place")]
    Path(#[from] RootError),
}

fn holder(pid: Option<i32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The lock, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    // The file stays: removing it would let two processes lock two files of the same name.
    file: Flock<File>,
}

impl Lock {
    /// Takes the lock, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] with the holder's process id; or why the file cannot be opened.
    pub fn take(root: &Root) -> Result<Self, LockError> {
        let path = root.file(PATH)?;
        let failed = |source| LockError::Io { path: path.clone(), source };
        let file = open(&path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // The lock holds without it; a full /run must not keep the daemon from starting.
                if let Err(error) = write_pid(&mut file) {
                    tracing::warn!(%error, path = %path.display(), "cannot write down who holds the lock");
                }
                Ok(Self { file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => Err(LockError::Held { pid: read_pid(&mut file), path }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

impl Lock {
    /// Goes on with a lock that the program before has left in this descriptor: locks belong to what is open, not to programs.
    /// `None`: it is not this root's, or somebody else has taken it.
    pub fn inherit(root: &Root, left: OwnedFd) -> Option<Self> {
        let file = File::from(left);
        let (ours, named) = (file.metadata().ok()?, root.file(PATH).ok()?.metadata().ok()?);
        if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
            return None;
        }
        // Who has it already gets it again.
        Flock::lock(file, FlockArg::LockExclusiveNonblock).ok().map(|file| Self { file })
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        File::as_fd(&self.file)
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    // O_NOFOLLOW: a link in the way would have us write a process id into somebody else's file.
    let flags = OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits();
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(flags).open(path)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_learns_who_has_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = Root::new(directory.path());
        let first = Lock::take(&root).expect("nobody has it");
        let refused = Lock::take(&root).expect_err("the first still has it");
        assert!(refused.to_string().ends_with(&format!("is held by process {}", std::process::id())), "{refused}");
        drop(first);
        Lock::take(&root).expect("it was given back");
    }

    #[test]
    fn a_lock_outlives_who_took_it_in_a_copy_of_its_descriptor() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = Root::new(directory.path());
        let first = Lock::take(&root).expect("nobody has it");
        let [copy, other] = [0; 2].map(|_| first.as_fd().try_clone_to_owned().expect("a descriptor"));
        // What the end of a program does: flock(2) ends with the last copy.
        std::mem::forget(first);
        let again = Lock::inherit(&root, copy).expect("it is ours");
        Lock::take(&root).expect_err("and nobody else's");
        drop(again);
        let elsewhere = tempfile::tempdir().expect("a temporary directory");
        assert!(Lock::inherit(&Root::new(elsewhere.path()), other).is_none());
    }

    #[test]
    fn the_pid_of_a_dead_holder_is_replaced() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = Root::new(directory.path());
        let path = directory.path().join(PATH);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("mkdir");
        std::fs::write(&path, "4194999999 and more text than a pid has\n").expect("write");
        let _lock = Lock::take(&root).expect("a file without a lock is nobody's");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_link_in_place_of_the_file_is_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(PATH);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("mkdir");
        let target = directory.path().join("target");
        std::fs::write(&target, "precious").expect("write");
        std::os::unix::fs::symlink(&target, &path).expect("symlink");
        let refused = Lock::take(&Root::new(directory.path())).expect_err("a link");
        assert!(matches!(refused, LockError::Io { .. }), "{refused}");
        assert_eq!(std::fs::read_to_string(&target).expect("read"), "precious");
    }
}
