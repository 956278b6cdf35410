//! Ends the flows of backends that are down, beside the engine: the walk through all flows of the machine takes tens of
//! milliseconds, and the next backend that turns does not wait for it.

use headgate_plan::flows::Lost;
use tokio::task::JoinHandle;

use crate::daemon::engine::{Engine, Handle};
use crate::reconcile::cut_flows;

/// See the module. One walk at a time; what is lost meanwhile goes together in the next.
#[derive(Debug)]
pub(super) struct Cutter {
    engine: Handle,
    lost: Lost,
    walk: Option<JoinHandle<(Lost, Option<String>)>>,
}

impl Cutter {
    pub(super) fn new(engine: Handle) -> Self {
        Self { engine, lost: Lost::default(), walk: None }
    }

    /// The ruleset has left these.
    pub(super) fn add(&mut self, lost: Lost) {
        self.lost.add(lost);
        self.begin();
    }

    fn begin(&mut self) {
        if self.walk.is_some() || self.lost.is_empty() {
            return;
        }
        let lost = std::mem::take(&mut self.lost);
        self.walk = Some(tokio::task::spawn_blocking(move || {
            let warning = cut_flows(&lost).err();
            (lost, warning)
        }));
    }

    /// Waits for the walk, for ever when there is none, and begins the next. What it could not end is left to the engine, which tries
    /// again.
    pub(super) async fn walked(&mut self) {
        let Some(walk) = &mut self.walk else { return std::future::pending().await };
        let walked = walk.await;
        self.walk = None;
        if let Ok((lost, Some(warning))) = walked {
            // Whoever waits here may be called away.
            let engine = self.engine.clone();
            tokio::spawn(async move { engine.call(move |engine: &mut Engine| engine.owe(lost, warning)).await });
        }
        self.begin();
    }

    /// Ends what is to be ended, and no more.
    pub(super) async fn finish(mut self) {
        while self.walk.is_some() {
            self.walked().await;
        }
    }
}
