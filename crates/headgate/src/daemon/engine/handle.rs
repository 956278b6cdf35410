//! How others reach the thread of the engine.

use std::sync::mpsc;

use tokio::sync::oneshot;

use super::Engine;
use crate::daemon::fence::{self, Part};

/// Requests that wait; more than this are refused as busy.
const QUEUE: usize = 256;

type Work = Box<dyn FnOnce(&mut Engine) + Send>;

/// How the API reaches the engine.
#[derive(Debug, Clone)]
pub struct Handle {
    work: mpsc::SyncSender<Work>,
}

/// The engine is gone, or has too much to do.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is busy or going down")]
pub struct Busy;

impl Handle {
    /// Starts the engine's thread; it ends when the last handle is dropped. Threads inherit the network namespace.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn spawn(mut engine: Engine) -> std::io::Result<Self> {
        let (work, queue) = mpsc::sync_channel::<Work>(QUEUE);
        let serve = move || {
            fence::enter(Part::Engine);
            for work in queue {
                work(&mut engine);
            }
        };
        std::thread::Builder::new().name("engine".to_owned()).spawn(serve)?;
        Ok(Self { work })
    }

    /// Has the engine do something and waits for its answer.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn call<T, W>(&self, work: W) -> Result<T, Busy>
    where
        T: Send + 'static,
        W: FnOnce(&mut Engine) -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let work = Box::new(move |engine: &mut Engine| {
            // Who asked may be gone; what was asked for is done all the same.
            let _ = answer.send(work(engine));
        });
        self.work.try_send(work).map_err(|_| Busy)?;
        answered.await.map_err(|_| Busy)
    }
}
