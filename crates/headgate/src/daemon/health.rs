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
use std::thread::JoinHandle;

use headgate_host::Root;
use tokio::sync::{oneshot, watch};

pub use self::board::Board;
use self::checker::Checker;
use super::engine::{Handle, Targets};
use super::fence::{self, Part};

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
}

/// The thread that probes.
#[derive(Debug)]
pub struct Health {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Health {
    /// Begins to probe. Threads inherit the network namespace.
    ///
    /// # Errors
    /// The system has no thread or event queue left.
    pub fn begin(around: Surroundings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            fence::enter(Part::Probes);
            runtime.block_on(Checker::new(around).run(stopped));
        };
        let thread = std::thread::Builder::new().name("health".to_owned()).spawn(work)?;
        Ok(Self { stop, thread })
    }

    /// Ends all probes, the programs of `exec` among them.
    pub fn end(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the health checks has panicked");
        }
    }
}
