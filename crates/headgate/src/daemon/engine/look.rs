//! Looks at the kernel that nobody waits for but who asked for them.
//!
//! To compare 10,000 farms takes half a second, and a backend whose check has failed cannot wait so long. So another thread
//! looks, with sockets of its own and a copy of what it has to know, and the engine goes on. What it did meanwhile may make
//! the comparison wrong: then somebody looks again.

use std::sync::mpsc;
use std::time::Duration;

use headgate_config::Config;
use headgate_host::{Host, Root};
use headgate_plan::health::Failed;
use headgate_plan::ids::Ids;
use tokio::sync::oneshot;

use super::load::profiles;
use super::memory::release_memory;
use super::{Engine, EngineError};
use crate::daemon::fence::{self, Part};
use crate::daemon::steering::cpu_time;
use crate::reconcile::{Knobs, Reconciled, Until, Wanted, reconcile};

/// Looks that wait; more are refused as busy.
const QUEUE: usize = 16;

/// What the engine had done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    writes: u64,
    adopted: u64,
}

/// What one has to know to compare the kernel with what it should be.
#[derive(Debug)]
pub struct Look {
    config: Config,
    ids: Ids,
    failed: Failed,
    knobs: Knobs<'static>,
    moment: Moment,
}

/// A look that was taken.
#[derive(Debug)]
pub struct Looked {
    /// What is to be done; not the states, of which it is the difference.
    pub(super) found: Result<Reconciled, EngineError>,
    /// The generation of nftables that was read.
    pub(super) generation: Option<u32>,
    /// When the engine asked for it.
    pub(super) moment: Moment,
    /// CPU time.
    pub took: Duration,
}

impl Engine {
    pub(super) fn moment(&self) -> Moment {
        Moment { writes: self.host.writes(), adopted: self.adopted }
    }

    /// What a look needs; `None`: nothing runs.
    pub fn begin_look(&mut self) -> Option<Look> {
        let running = self.running.as_ref()?;
        Some(Look {
            config: running.config.clone(),
            ids: running.desired.ids.clone(),
            failed: self.fallen.within(&running.config),
            knobs: if self.untuned { Knobs::Needed } else { Knobs::All },
            moment: self.moment(),
        })
    }
}

/// The thread that looks.
#[derive(Debug, Clone)]
pub(super) struct Looker {
    looks: mpsc::SyncSender<Request>,
}

type Request = (Look, oneshot::Sender<Looked>);

impl Looker {
    /// Starts the thread; it ends with the last of these.
    pub(super) fn spawn(root: Root) -> std::io::Result<Self> {
        let (looks, queue) = mpsc::sync_channel::<Request>(QUEUE);
        let serve = move || {
            fence::enter(Part::Engine);
            let mut host = None;
            for (look, answer) in queue {
                // Who asked may be gone.
                let _ = answer.send(take(&mut host, &root, look));
                release_memory();
            }
        };
        std::thread::Builder::new().name("look".to_owned()).spawn(serve)?;
        Ok(Self { looks })
    }

    /// Has it look.
    pub(super) async fn look(&self, look: Look) -> Option<Looked> {
        let (answer, answered) = oneshot::channel();
        self.looks.try_send((look, answer)).ok()?;
        answered.await.ok()
    }
}

fn take(host: &mut Option<Host>, root: &Root, look: Look) -> Looked {
    tracing::debug!("a comparison with the kernel begins");
    let before = cpu_time();
    let mut found = compare(host, root, &look);
    if let Ok(found) = &mut found {
        // Those of 10,000 farms take longer to free than a backend may take to turn.
        found.desired.state = Default::default();
        found.observed = Default::default();
    }
    let generation = host.as_ref().and_then(Host::generation);
    let took = cpu_time().saturating_sub(before);
    tracing::debug!(cpu_us = took.as_micros(), "the comparison ends");
    Looked { found, generation, moment: look.moment, took }
}

fn compare(host: &mut Option<Host>, root: &Root, look: &Look) -> Result<Reconciled, EngineError> {
    let host = match host {
        Some(host) => host,
        None => host.insert(Host::open(root.clone())?),
    };
    let profiles = profiles(root)?;
    let Look { config, ids, failed, knobs, .. } = look;
    let wanted = Wanted { config, profiles: &profiles, ids: Some(ids), failed, knobs: *knobs };
    Ok(reconcile(host, wanted, Until::Planned)?)
}
