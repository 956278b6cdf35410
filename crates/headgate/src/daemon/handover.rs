//! Another program takes over in the same process: what an upgrade does, on SIGUSR2.
//!
//! Its process id, its lock and its listening sockets stay, so nobody is refused meanwhile: who connects waits in the queue of
//! the socket. All else is on file already, for a daemon that was killed has to find it too. The descriptors go along by
//! number, in a variable that names the process, as systemd's LISTEN_PID does: to a child that inherits it, it says nothing.

use std::collections::BTreeMap;
use std::ffi::{CString, NulError, OsString};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// `PID NAME=NUMBER …`.
const VARIABLE: &str = "HEADGATE_HANDOVER";
/// The daemon's lock.
pub const LOCK: &str = "lock";
/// The Unix socket of the API.
pub const API: &str = "api";
/// The hardware watchdog: to close and open it again would be a moment without.
pub const WATCHDOG: &str = "watchdog";
/// The limit on the sleep of CPUs, which holds while it is open.
pub const WAKE_UP: &str = "wake-up";
/// How long the new program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// Descriptors that outlive the program, by name.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<BTreeMap<String, OwnedFd>>>);

impl Kept {
    /// What the program before has left open. Before there are other threads, and once.
    pub fn inherited() -> Self {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let kept = numbers(&text, std::process::id()).into_iter().filter_map(|(name, number)| {
            // Whatever is not open is nobody's.
            // SAFETY: the descriptor is only asked for its flags, and borrowed for no longer.
            let flags = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_GETFD).ok()?;
            // What is closed by execve(2) did not come from there.
            if FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC) {
                return None;
            }
            // SAFETY: the program before left it open for us and nobody else in this process knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
            Some((name, fd))
        });
        Self(Arc::new(Mutex::new(kept.collect())))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a copy of this outlive the program, too.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn keep(&self, name: &str, fd: impl AsFd) -> io::Result<()> {
        let copy = fd.as_fd().try_clone_to_owned()?;
        self.lock().insert(name.to_owned(), copy);
        Ok(())
    }

    /// A copy of what has this name.
    pub fn get(&self, name: &str) -> Option<OwnedFd> {
        self.lock().get(name)?.try_clone().ok()
    }

    /// It outlives nothing any more.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        self.lock().remove(name)
    }

    /// Of the sockets that listen on addresses only these stay.
    pub fn retain(&self, addresses: &[SocketAddr]) {
        let wanted: Vec<String> = addresses.iter().map(named).collect();
        self.lock().retain(|name, _| name.parse::<SocketAddr>().is_err() || wanted.contains(name));
    }

    fn all(&self) -> Vec<(String, OwnedFd)> {
        self.lock().iter().filter_map(|(name, fd)| Some((name.clone(), fd.try_clone().ok()?))).collect()
    }
}

/// What a socket that listens on this address is called.
pub fn named(address: &SocketAddr) -> String {
    address.to_string()
}

/// The numbers of descriptors in the variable, when it is meant for this process.
fn numbers(text: &str, pid: u32) -> Vec<(String, RawFd)> {
    let mut words = text.split(' ');
    if words.next().and_then(|word| word.parse().ok()) != Some(pid) {
        return Vec::new();
    }
    let number = |text: &str| text.parse().ok().filter(|number| *number > 2);
    words
        .filter_map(|word| word.rsplit_once('=').and_then(|(name, text)| Some((name.to_owned(), number(text)?))))
        .collect()
}

/// The program that takes over: what lies where this one was started from.
#[derive(Debug, Clone)]
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// Why no other program takes over.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum HandoverError {
    #[error("{} cannot be started", .0.display())]
    Start(PathBuf, #[source] io::Error),
    #[error("{} is no headgated that runs here: asked for its version, it says {said:?}", program.display())]
    Unfit { program: PathBuf, said: String },
    #[error("{} does not say its version within {PATIENCE:?}", .0.display())]
    Silent(PathBuf),
    #[error("an argument or a variable has a NUL in it")]
    Nul(#[from] NulError),
    #[error("the daemon is busy")]
    Busy,
}

impl Successor {
    /// At the beginning: once its file is replaced, this program is said to be "(deleted)".
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn note() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, arguments: std::env::args_os().collect() })
    }

    /// Has it say its version: a file that is cut off or made for another machine ends here, with the old one still at work.
    ///
    /// # Errors
    /// Any but [`HandoverError::Nul`].
    pub async fn check(&self) -> Result<(), HandoverError> {
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.map_err(|_| HandoverError::Silent(self.program.clone()))?;
        let output = output.map_err(|error| HandoverError::Start(self.program.clone(), error))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || !said.starts_with("headgated ") {
            return Err(HandoverError::Unfit { program: self.program.clone(), said });
        }
        tracing::info!("{said} takes over");
        Ok(())
    }

    /// Becomes it. Whoever calls keeps the capabilities of user 0 only if no filter is on its thread: what it has of seccomp or
    /// landlock is the new program's, for good.
    ///
    /// # Errors
    /// [`HandoverError::Start`], [`HandoverError::Nul`]; everything is as before.
    pub fn become_it(&self, kept: &Kept) -> Result<std::convert::Infallible, HandoverError> {
        let kept = kept.all();
        let words: Vec<String> = kept.iter().map(|(name, fd)| format!("{name}={}", fd.as_raw_fd())).collect();
        let word = format!("{VARIABLE}={} {}", std::process::id(), words.join(" "));
        let variables = std::env::vars_os().filter(|(name, _)| name != VARIABLE).map(|(name, value)| {
            let bytes = [name.as_bytes(), b"=", value.as_bytes()].concat();
            CString::new(bytes)
        });
        let environment = variables.chain([CString::new(word)]).collect::<Result<Vec<_>, _>>()?;
        let arguments = self.arguments.iter().map(|word| CString::new(word.clone().into_vec()));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let program = CString::new(self.program.as_os_str().as_bytes())?;
        // Until the new program has handlers of its own these would end it. Who ignores a signal ignores it beyond execve(2).
        let _ignored = [Signal::SIGHUP, Signal::SIGUSR2].map(Ignored::new);
        for (_, fd) in &kept {
            // One that cannot be kept is opened anew.
            let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()));
        }
        let Err(errno) = nix::unistd::execve(&program, &arguments, &environment);
        // The copies that could be inherited are closed here.
        Err(HandoverError::Start(self.program.clone(), errno.into()))
    }
}

/// A signal that means nothing until this is dropped.
struct Ignored(Signal, Option<SigAction>);

impl Ignored {
    fn new(signal: Signal) -> Self {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler is installed.
        Self(signal, unsafe { sigaction(signal, &ignore) }.ok())
    }
}

impl Drop for Ignored {
    fn drop(&mut self) {
        if let Some(before) = &self.1 {
            // SAFETY: it was this process's own before.
            let _ = unsafe { sigaction(self.0, before) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_meant_takes_descriptors() {
        let lock = |number| vec![("lock".to_owned(), number)];
        assert_eq!(numbers("7 lock=5 127.0.0.1:80=6", 7)[1], ("127.0.0.1:80".to_owned(), 6));
        assert_eq!(numbers("7 lock=5", 7), lock(5));
        for other in ["", "8 lock=5", "lock=5", "7", "7 lock", "7 lock=", "7 lock=-1", "7 lock=0", "7 lock=x"] {
            assert_eq!(numbers(other, 7), [], "{other}");
        }
    }

    #[test]
    fn sockets_of_other_addresses_are_closed() {
        let kept = Kept::default();
        let null = std::fs::File::open("/dev/null").unwrap();
        for name in ["lock", "127.0.0.1:80", "[::1]:80"] {
            kept.keep(name, &null).unwrap();
        }
        kept.retain(&["[::1]:80".parse().unwrap()]);
        assert!(kept.get("127.0.0.1:80").is_none() && kept.get("[::1]:80").is_some() && kept.take("lock").is_some());
        assert!(kept.get("lock").is_none());
    }

    #[tokio::test]
    async fn what_is_no_headgated_does_not_take_over() {
        for program in ["/nonexistent", "/bin/false", "/bin/echo", "/dev/null"] {
            let successor = Successor { program: program.into(), arguments: Vec::new() };
            successor.check().await.unwrap_err();
        }
    }
}
