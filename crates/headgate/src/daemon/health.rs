//! Health checks: who of the backends answers, and who takes no flows until it does again.
//!
//! One thread of its own probes them all, so that neither a long answer of the API nor a look at the whole kernel delays a probe.
//! `checker` plans and collects; a probe (`probe`) is a task with a deadline, so that a slow backend delays nobody else's. What
//! results mean is decided in [`headgate_plan::health`]; a backend that turns is told to the engine, which commits it, and kept on
//! file, so that the next daemon goes on with it. `status` reads the [`Board`].
//! `signs` looks at the flows that backends have been given, and has those probed at once that seem to answer none.

mod board;
mod checker;
mod cut;
mod keep;
mod probe;
mod quota;
mod signs;
mod subject;

use std::io;

use headgate_host::Root;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

pub use self::board::Board;
use self::checker::Checker;
use super::engine::{Handle, Targets};
use super::errands::Errands;
use super::fence::{Part, Thread};

/// What checks need of the rest.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Takes the turns.
    pub engine: Handle,
    /// What has to be probed.
    pub targets: watch::Receiver<Targets>,
    /// For `status`.
    pub board: Board,
    /// For the files of TLS, and for what is remembered.
    pub root: Root,
    /// For the programs of `exec`, and for files.
    pub errands: Errands,
}

/// The thread that probes.
#[derive(Debug)]
pub struct Health {
    stop: oneshot::Sender<()>,
    checker: JoinHandle<()>,
    thread: Thread,
}

impl Health {
    /// Begins to probe.
    ///
    /// # Errors
    /// The system has no thread or event queue left.
    pub fn begin(around: Surroundings) -> io::Result<Self> {
        let thread = Thread::begin(Part::Probes)?;
        let (stop, stopped) = oneshot::channel();
        let checker = thread.spawn(Checker::new(around).run(stopped));
        Ok(Self { stop, checker, thread })
    }

    /// Ends all probes, the programs of `exec` among them: the caller's thread has to be the one that does errands.
    pub async fn end(self) {
        drop(self.stop);
        if self.checker.await.is_err() {
            tracing::error!("the thread of the health checks has panicked");
        }
        self.thread.end();
    }
}
