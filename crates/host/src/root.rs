//! Where the files are. Every file that Headgate reads or writes is named relative to a [`Root`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;

/// Longer files of the machine are refused; `/proc/interrupts` of 256 CPUs with a thousand vectors has 3 MB.
const MACHINE_FILE_MAX_BYTES: u64 = 16 << 20;
/// Longer files of state are refused, so that a damaged disk cannot fill the memory.
const STATE_FILE_MAX_BYTES: u64 = 64 << 20;

/// Two prefixes: of the files of configuration and state (`--root`), and of the machine (`/proc`, `/sys`). Only tests point
/// the second at a recorded or made-up tree.
///
/// Paths given to the methods are relative to one of them (`run/headgate/originals.json`, `proc/sys/net/ipv4/ip_forward`);
/// a leading slash is ignored and `..` is refused. Symbolic links are followed: half of `/sys` is made of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    files: PathBuf,
    machine: PathBuf,
}

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The path would leave the root.
    #[error("{0:?} is not a path below the root")]
    Outside(PathBuf),
    /// The system call failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// `read`, `write`, …
        verb: &'static str,
        /// The whole path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More than anybody would write there.
    #[error("{} is larger than {max_bytes} bytes", path.display())]
    TooLarge {
        /// The whole path.
        path: PathBuf,
        /// What is allowed.
        max_bytes: u64,
    },
}

impl RootError {
    /// The error of the system call, as an `errno` value.
    pub fn errno(&self) -> Option<i32> {
        match self {
            RootError::Io { source, .. } => source.raw_os_error(),
            RootError::Outside(_) | RootError::TooLarge { .. } => None,
        }
    }

    /// There is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, RootError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Default for Root {
    fn default() -> Self {
        Self::new("/")
    }
}

impl Root {
    /// Configuration and state below `files`, on the machine we run on.
    pub fn new(files: impl Into<PathBuf>) -> Self {
        Self { files: files.into(), machine: PathBuf::from("/") }
    }

    /// The same with another machine: a tree with `proc` and `sys`.
    pub fn with_machine(files: impl Into<PathBuf>, machine: impl Into<PathBuf>) -> Self {
        Self { files: files.into(), machine: machine.into() }
    }

    /// The machine is the one we run on.
    pub fn is_real_machine(&self) -> bool {
        self.machine == Path::new("/")
    }

    /// Where a file of configuration or state is: `etc/headgate/headgate.toml`, `run/headgate/originals.json`.
    ///
    /// # Errors
    /// [`RootError::Outside`].
    pub fn file(&self, path: impl AsRef<Path>) -> Result<PathBuf, RootError> {
        below(&self.files, path.as_ref())
    }

    /// Where a file of the machine is: `proc/meminfo`, `sys/class/net/eth0/queues`.
    ///
    /// # Errors
    /// [`RootError::Outside`].
    pub fn machine(&self, path: impl AsRef<Path>) -> Result<PathBuf, RootError> {
        below(&self.machine, path.as_ref())
    }

    /// Reads a file of configuration or state.
    ///
    /// # Errors
    /// Any [`RootError`]; a text that is not UTF-8 is `InvalidData`.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<String, RootError> {
        read(self.file(path)?, STATE_FILE_MAX_BYTES)
    }

    /// Reads a file of configuration or state that may not be text.
    ///
    /// # Errors
    /// Any [`RootError`].
    pub fn read_file_bytes(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, RootError> {
        read_bytes(self.file(path)?, STATE_FILE_MAX_BYTES)
    }

    /// Reads a file of configuration or state that is one itself: what is a symbolic link, or no regular file, is refused.
    ///
    /// # Errors
    /// Any [`RootError`]; a link is `ELOOP` (open(2), `O_NOFOLLOW`).
    pub fn read_own_file(&self, path: impl AsRef<Path>) -> Result<String, RootError> {
        let path = self.file(path)?;
        let attempt = || {
            let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
            let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path)?;
            match file.metadata()?.is_file() {
                true => Ok(file),
                false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
            }
        };
        let file = attempt().map_err(|source| RootError::Io { verb: "read", path: path.clone(), source })?;
        text(path.clone(), read_open(file, path, STATE_FILE_MAX_BYTES)?)
    }

    /// Reads a file of the machine, as it is.
    ///
    /// # Errors
    /// Any [`RootError`]; a text that is not UTF-8 is `InvalidData`.
    pub fn read_machine(&self, path: impl AsRef<Path>) -> Result<String, RootError> {
        read(self.machine(path)?, MACHINE_FILE_MAX_BYTES)
    }

    /// Writes a file of the machine: one `write` of the whole text, as sysctl and sysfs files need it. Nothing is created.
    ///
    /// # Errors
    /// Any [`RootError`]; a partial write is `WriteZero`.
    pub fn write_machine(&self, path: impl AsRef<Path>, text: &str) -> Result<(), RootError> {
        let path = self.machine(path)?;
        let attempt = || {
            // O_NONBLOCK: a FIFO in the way is an error, not a hang. sysctl and sysfs files do not know it.
            let flags = OFlag::O_NONBLOCK.bits();
            let mut file = OpenOptions::new().write(true).truncate(true).custom_flags(flags).open(&path)?;
            let written = file.write(text.as_bytes())?;
            if written == text.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
        };
        attempt().map_err(|source| RootError::Io { verb: "write", path: path.clone(), source })
    }

    /// The names in a directory of the machine, sorted; none when it does not exist.
    ///
    /// # Errors
    /// Any [`RootError`] but a missing directory.
    pub fn list_machine(&self, path: impl AsRef<Path>) -> Result<Vec<String>, RootError> {
        let path = self.machine(path)?;
        let attempt = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path)? {
                names.extend(entry?.file_name().into_string());
            }
            names.sort();
            Ok(names)
        };
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|source| RootError::Io { verb: "list", path: path.clone(), source }),
        }
    }

    /// Writes a file of configuration or state so that a reader, and the next boot after a power cut, find either the old
    /// or the new text whole: a temporary file beside it, `fsync`, `rename`, `fsync` of the directory. Missing directories
    /// are made. The file is readable by its owner only.
    ///
    /// # Errors
    /// Any [`RootError`]; the old file is then as it was.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), RootError> {
        let path = self.file(path)?;
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(RootError::Outside(path));
        };
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.new", std::process::id()));
        let temporary = directory.join(temporary);
        let attempt = || {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(directory)?.sync_all()
        };
        attempt().map_err(|source| {
            // What is left of the attempt is of no use, and its absence is no fault.
            let _ = fs::remove_file(&temporary);
            RootError::Io { verb: "write", path: path.clone(), source }
        })
    }

    /// Removes a file of configuration or state for good: `fsync` of the directory. A link goes, not what it leads to.
    ///
    /// # Errors
    /// Any [`RootError`]; also that there is none.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<(), RootError> {
        let path = self.file(path)?;
        let attempt = || {
            fs::remove_file(&path)?;
            path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        };
        attempt().map_err(|source| RootError::Io { verb: "remove", path: path.clone(), source })
    }
}

fn below(prefix: &Path, path: &Path) -> Result<PathBuf, RootError> {
    let mut whole = prefix.to_owned();
    for component in path.components() {
        match component {
            Component::Normal(name) => whole.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(RootError::Outside(path.to_owned())),
        }
    }
    Ok(whole)
}

fn read(path: PathBuf, max_bytes: u64) -> Result<String, RootError> {
    let bytes = read_bytes(path.clone(), max_bytes)?;
    text(path, bytes)
}

fn text(path: PathBuf, bytes: Vec<u8>) -> Result<String, RootError> {
    let not_text = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    String::from_utf8(bytes).map_err(|error| RootError::Io { verb: "read", path, source: not_text(error) })
}

fn read_bytes(path: PathBuf, max_bytes: u64) -> Result<Vec<u8>, RootError> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path);
    match file {
        Ok(file) => read_open(file, path, max_bytes),
        Err(source) => Err(RootError::Io { verb: "read", path, source }),
    }
}

fn read_open(file: File, path: PathBuf, max_bytes: u64) -> Result<Vec<u8>, RootError> {
    let attempt = || {
        let mut bytes = Vec::new();
        // One byte more than allowed tells "exactly full" from "too large"; sizes of /proc files are always 0.
        file.take(max_bytes + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match attempt() {
        Ok(bytes) if bytes.len() as u64 > max_bytes => Err(RootError::TooLarge { path, max_bytes }),
        Ok(bytes) => Ok(bytes),
        Err(source) => Err(RootError::Io { verb: "read", path, source }),
    }
}

#[cfg(test)]
mod tests;
