//! `exec`: a program without a shell, in a process group of its own. However its run ends, nothing of the group is left behind.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use headgate_config::types::duration_text;
use headgate_plan::health::Target;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;
use tokio::time::timeout_at;

use super::{Attempt, Fault, Passed, reason};
use crate::steps::printable;

/// The search path; whatever else a program needs it is told by its own command line.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So much of the last line is kept, bytes.
const LINE_MAX: usize = 200;

pub(super) async fn ask(attempt: &Attempt, command: &[String], target: &Target) -> Passed {
    let program = command.first().map_or("", String::as_str);
    // That a program cannot be started says nothing about the backend.
    let mut run = Run::begin(command, target, attempt)
        .map_err(|error| Fault::Ours(format!("exec {program}: cannot start: {}", reason(&error))))?;
    let mut said = LastLine::default();
    let ended = timeout_at(attempt.deadline, run.follow(&mut said)).await;
    let said = match said.text() {
        text if text.is_empty() => String::new(),
        text => format!(": {text}"),
    };
    match ended {
        Err(_) => {
            Err(Fault::Theirs(format!("exec {program}: not done within {}{said}", duration_text(attempt.timeout))))
        }
        Ok(Err(error)) => Err(Fault::Ours(format!("exec {program}: {}", reason(&error)))),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(Fault::Theirs(format!("exec {program}: {}{said}", how(status)))),
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("ended by signal {}", signal.unwrap_or(0)),
    }
}

/// A program that runs; dropped, it and its group are killed.
#[derive(Debug)]
struct Run {
    /// Taken once there is nothing to kill any more.
    child: Option<Child>,
    /// Readable once the program has ended; unlike wait(2) it leaves the zombie, which keeps the number of its group from
    /// being given to another one.
    ended: Option<AsyncFd<OwnedFd>>,
    output: pipe::Receiver,
}

impl Run {
    fn begin(command: &[String], target: &Target, attempt: &Attempt) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", PATH).env("HOME", "/");
        command.env("HEADGATE_FARM", target.farm.as_str()).env("HEADGATE_BACKEND", target.backend.as_str());
        command.env("HEADGATE_ADDRESS", target.address.to_string());
        command.env("HEADGATE_TIMEOUT_MS", attempt.timeout.as_millis().to_string());
        if let Some(port) = target.port {
            command.env("HEADGATE_PORT", port.to_string());
        }
        command.current_dir("/").process_group(0).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let output = pipe::Receiver::from_owned_fd(reader.into())?;
        let child = command.spawn()?;
        let ended = pidfd_open(rustix::process::Pid::from_child(&child), PidfdFlags::NONBLOCK);
        let mut run = Self { child: Some(child), ended: None, output };
        // From here on it is killed whatever happens.
        // SAFETY: `ended` owns a valid descriptor, and nothing closes or replaces it while the `AsyncFd` has it.
        run.ended = Some(unsafe { AsyncFd::register_with_interest(ended?, Interest::READABLE) }?);
        Ok(run)
    }

    /// Takes what it writes until it has ended, or for ever: who has inherited the pipe may live on.
    async fn follow(&mut self, said: &mut LastLine) -> io::Result<ExitStatus> {
        let mut piece = [0; 4096];
        let ended = self.ended.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let mut open = true;
        loop {
            tokio::select! {
                read = self.output.read(&mut piece), if open => {
                    let length = read?;
                    open = length > 0;
                    said.feed(&piece[..length]);
                }
                ready = ended.readable() => {
                    let _ = ready?;
                    break;
                }
            }
        }
        // What was written before the end is there; what somebody else goes on writing has its bounds.
        for _ in 0..16 {
            match self.output.try_read(&mut piece) {
                Ok(length) if length > 0 => said.feed(&piece[..length]),
                _ => break,
            }
        }
        let mut child = self.child.take().ok_or(io::ErrorKind::InvalidInput)?;
        kill_group(&child);
        child.wait()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        kill_group(&child);
        match (self.ended.take(), tokio::runtime::Handle::try_current()) {
            (Some(ended), Ok(runtime)) => {
                runtime.spawn(async move {
                    let _ = ended.readable().await;
                    let _ = child.try_wait();
                });
            }
            _ => {
                let _ = child.try_wait();
            }
        }
    }
}

/// The child is not waited for yet, so the group is still its own.
fn kill_group(child: &Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

/// The last line that is not empty.
#[derive(Debug, Default)]
struct LastLine {
    last: Vec<u8>,
    current: Vec<u8>,
}

impl LastLine {
    fn feed(&mut self, piece: &[u8]) {
        for &byte in piece {
            if byte == b'\n' {
                if !self.current.trim_ascii().is_empty() {
                    std::mem::swap(&mut self.last, &mut self.current);
                }
                self.current.clear();
            } else if self.current.len() < LINE_MAX {
                self.current.push(byte);
            }
        }
    }

    fn text(&self) -> String {
        let line = if self.current.trim_ascii().is_empty() { &self.last } else { &self.current };
        printable(String::from_utf8_lossy(line).trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_kept_and_no_more() {
        for (pieces, text) in [
            (&["one\ntwo\n"][..], "two"),
            (&["one\nt", "wo"], "two"),
            (&["one\n\n  \n"], "one"),
            (&[], ""),
            (&["a\u{1b}[2Jb\r\n"], "a\u{fffd}[2Jb"),
        ] {
            let mut line = LastLine::default();
            pieces.iter().for_each(|piece| line.feed(piece.as_bytes()));
            assert_eq!(line.text(), text, "{pieces:?}");
        }
        let mut line = LastLine::default();
        (0..10_000).for_each(|_| line.feed(&[b'x'; 4096]));
        assert_eq!(line.text(), "x".repeat(LINE_MAX));
        assert!(line.current.capacity() <= 2 * LINE_MAX);
    }
}
