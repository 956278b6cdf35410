//! One run of a service: from its start until nothing of it is left.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use headgate_config::model::Service;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::family::{Among, Family};
use super::output;
use super::policy::Exit;
use super::table;

/// The search path of a service; what else it needs it is told by its own command line.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long the rest of the output may take once all processes are gone.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(500);

/// The first processes of all services. The reaper must leave them: a zombie leader keeps the number of its group from being given to
/// another group before we have signalled it. Children belong to the process, not to a supervisor, hence one set for all.
static LEADERS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Whether `pid` is the first process of a service that is not cleared away yet.
pub(super) fn is_leader(pid: i32) -> bool {
    leaders().contains(&pid)
}

fn leaders() -> std::sync::MutexGuard<'static, BTreeSet<i32>> {
    LEADERS.lock().expect("no code panics while it holds the set of leaders")
}

/// Why a service could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    #[error("the command is empty")]
    Empty,
    #[error("cannot start {program}")]
    Program { program: String, source: io::Error },
    #[error("cannot follow the process of {program}")]
    Follow { program: String, source: io::Error },
}

/// A running service.
#[derive(Debug)]
pub(super) struct Instance {
    child: Child,
    /// Readable once the leader has ended; unlike wait it leaves the zombie in place.
    ended: AsyncFd<OwnedFd>,
    pid: i32,
    /// Clock ticks since boot.
    pub(super) start: u64,
    /// By the real clock, also where a test has paused that of the timers: what runs is a real process.
    began: Instant,
    mark: String,
    output: JoinHandle<()>,
}

impl Instance {
    /// Starts `service` in a group of its own, with an environment of three entries, `mark` (`NAME=value`) among them.
    pub(super) fn spawn(service: &Service, mark: &str) -> Result<Self, SpawnError> {
        let (program, arguments) = service.command.split_first().ok_or(SpawnError::Empty)?;
        let cannot_start = |source| SpawnError::Program { program: program.clone(), source };
        // One pipe for both streams keeps their lines in order.
        let (reader, writer) = io::pipe().map_err(cannot_start)?;
        let (mark_name, mark_value) = mark.split_once('=').expect("the mark is NAME=value");
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/")
            .env(mark_name, mark_value)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(cannot_start)?)
            .stderr(writer)
            .spawn()
            .map_err(cannot_start)?;
        let pid = child.id() as i32;
        leaders().insert(pid);
        match follow(&child, reader.into()) {
            Ok((ended, pipe)) => {
                let output = tokio::spawn(output::capture(pipe, service.name.clone(), pid));
                let start = table::process(pid).map_or(0, |process| process.start);
                Ok(Self { child, ended, pid, start, began: Instant::now(), mark: mark.to_owned(), output })
            }
            Err(source) => {
                // Out of descriptors: a process that we cannot follow must not run.
                let _ = child.kill();
                let _ = child.wait();
                leaders().remove(&pid);
                Err(SpawnError::Follow { program: program.clone(), source })
            }
        }
    }

    /// The first process, which is also the number of its group.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Since the start.
    pub(super) fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until the first process has ended. What it left behind goes with [`Instance::stop`].
    pub(super) async fn ended(&self) {
        // An error here means that the runtime is going down.
        let _ = self.ended.readable().await;
    }

    /// Ends the whole family and tells how the first process ended; `None` when it cannot be killed.
    pub(super) async fn stop(mut self, patience: Duration) -> Option<Exit> {
        let mut family = Family::new(vec![self.pid], self.mark.clone(), Among::Children);
        let left = family.end(patience).await;
        if !left.is_empty() {
            let pids: Vec<i32> = left.iter().map(|process| process.pid).collect();
            tracing::error!(pid = self.pid, ?pids, "processes do not go even after SIGKILL; the kernel holds them");
        }
        // The group is empty; only now may its number be free again.
        let Ok(Some(status)) = self.child.try_wait() else {
            tokio::spawn(async move {
                self.ended().await;
                let _ = self.child.try_wait();
                leaders().remove(&self.pid);
            });
            return None;
        };
        leaders().remove(&self.pid);
        if timeout(OUTPUT_PATIENCE, &mut self.output).await.is_err() {
            self.output.abort();
        }
        Some(match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        })
    }
}

fn follow(child: &Child, reader: OwnedFd) -> io::Result<(AsyncFd<OwnedFd>, pipe::Receiver)> {
    let ended = pidfd_open(rustix::process::Pid::from_child(child), PidfdFlags::NONBLOCK)?;
    // SAFETY: `ended` owns a valid descriptor, and nothing closes or replaces it while the `AsyncFd` has it.
    let ended = unsafe { AsyncFd::register_with_interest(ended, tokio::io::Interest::READABLE)? };
    Ok((ended, pipe::Receiver::from_owned_fd(reader)?))
}
