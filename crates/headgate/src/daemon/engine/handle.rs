//! How others reach the thread of the engine.

use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Engine;
use super::hardware::Seen;
use super::look::Looker;
use crate::daemon::fence::{self, Part};
use crate::daemon::steering::cpu_time;

/// Requests that wait; more than this are refused as busy.
const QUEUE: usize = 256;

/// Looks that the engine may overtake before it looks itself.
const LOOKS_MAX: usize = 3;

type Work = Box<dyn FnOnce(&mut Engine) + Send>;

/// How the API reaches the engine.
#[derive(Debug, Clone)]
pub struct Handle {
    work: mpsc::SyncSender<Work>,
    looker: Looker,
}

/// The engine is gone, or has too much to do.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is busy or going down")]
pub struct Busy;

impl Handle {
    /// Starts the engine's thread, and the one that looks; they end when the last handle is dropped. Threads inherit the network namespace.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn spawn(mut engine: Engine) -> std::io::Result<Self> {
        let looker = Looker::spawn(engine.root.clone())?;
        let (work, queue) = mpsc::sync_channel::<Work>(QUEUE);
        let serve = move || {
            fence::enter(Part::Engine);
            for work in queue {
                work(&mut engine);
            }
        };
        std::thread::Builder::new().name("engine".to_owned()).spawn(serve)?;
        Ok(Self { work, looker })
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
        self.begin(work)?.await.map_err(|_| Busy)
    }

    /// The same, for who has no time to wait: the engine has it when this returns.
    ///
    /// # Errors
    /// [`Busy`]; the answer fails when the engine goes down before it comes.
    pub fn begin<T, W>(&self, work: W) -> Result<oneshot::Receiver<T>, Busy>
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
        Ok(answered)
    }

    /// Has the kernel compared with what it should be, and repaired; the engine does other work meanwhile. The CPU time that the
    /// comparison took.
    ///
    /// # Errors
    /// [`Busy`]: whoever is busy changing the kernel needs no watching.
    pub async fn watch(&self) -> Result<Duration, Busy> {
        let mut took = Duration::ZERO;
        for _ in 0..LOOKS_MAX {
            let Some(look) = self.call(Engine::begin_look).await? else { break };
            let looked = self.looker.look(look).await.ok_or(Busy)?;
            took += looked.took;
            if self.call(move |engine| engine.end_watch(looked)).await? == Seen::Settled {
                return Ok(took);
            }
        }
        let before_and_after = |engine: &mut Engine| {
            let before = cpu_time();
            engine.watch();
            cpu_time().saturating_sub(before)
        };
        Ok(took + self.call(before_and_after).await?)
    }
}
