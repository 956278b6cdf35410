//! A thread behind the fence, with an event queue of its own.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use headgate_plan::status::Fence;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task;

use super::{Part, enter, wall};

/// See the module. Tasks are given to it from outside; it ends when this is dropped, with all of them.
#[derive(Debug)]
pub struct Thread {
    queue: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    fence: Fence,
}

impl Thread {
    /// Starts one for `part`; its fence stands when this returns. Threads inherit the network namespace.
    ///
    /// # Errors
    /// The system has no thread or event queue left.
    pub fn begin(part: Part) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let queue = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (says, said) = mpsc::channel();
        let work = move || {
            enter(part);
            // Who asked waits for it.
            let _ = says.send(wall::set_up(None));
            // An error is the only answer there is: the other end was dropped.
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name(part.name().to_owned()).spawn(work)?;
        let fence = said.recv().unwrap_or_default();
        Ok(Self { queue, stop, thread, fence })
    }

    /// What of the fence stands.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Where its tasks wait.
    pub fn queue(&self) -> &Handle {
        &self.queue
    }

    /// Runs a task.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> task::JoinHandle<T> {
        self.queue.spawn(work)
    }

    /// Ends it, with all its tasks, and waits for that.
    pub fn end(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("a thread has panicked at its end");
        }
    }
}
