//! Passive signs: a backend that leaves its new flows without an answer is suspected before its next probe.
//!
//! Nobody captures packets. The kernel counts the flows that each backend is given anyway, and connection tracking knows which of
//! them were answered; both are dumped now and then, on a thread that nobody waits for. What it means is decided in
//! [`headgate_plan::health::seems_silent`].

use std::collections::BTreeMap;
use std::time::Duration;

use headgate_host::conntrack::{Conntrack, ConntrackError, Select};
use headgate_host::{Host, HostError, Root};
use headgate_plan::health::{Flows, seems_silent};
use nix::time::ClockId;
use tokio::sync::mpsc;

use crate::daemon::engine::{Engine, Handle, Name};

/// Between two looks, at least.
const PERIOD_LEAST: Duration = Duration::from_secs(1);
/// After a look that failed.
const PERIOD_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// A look is followed by a pause of this many times its CPU time: looking takes at most 1 % of one CPU.
const PAUSE: u32 = 100;

/// Why there was nothing to see.
#[derive(Debug, thiserror::Error)]
enum SignsError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
}

/// Looks until nobody takes what it sees.
pub(super) async fn run(engine: Handle, root: Root, suspects: mpsc::Sender<Vec<Name>>) {
    let mut before = BTreeMap::new();
    let mut every = PERIOD_LEAST;
    loop {
        tokio::time::sleep(every).await;
        let watched = engine.call(|engine: &mut Engine| engine.watched()).await.unwrap_or_default();
        every = PERIOD_LEAST;
        let Some(select) = Select::covering(watched.keys().copied()) else {
            before.clear();
            continue;
        };
        let root = root.clone();
        let Ok(looked) = tokio::task::spawn_blocking(move || look(root, select)).await else { return };
        let (now, took) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                every = PERIOD_AFTER_FAILURE;
                tracing::debug!(error = %crate::explain(&error), "flows say nothing about their backends");
                continue;
            }
        };
        every = PERIOD_LEAST.max(took * PAUSE);
        let silent = |mark: &u32| {
            let both = before.get(mark).zip(now.get(mark));
            both.is_some_and(|(before, now)| seems_silent(*before, *now))
        };
        let names: Vec<Name> = watched.into_iter().filter(|(mark, _)| silent(mark)).map(|(_, name)| name).collect();
        before = now;
        if !names.is_empty() && suspects.send(names).await.is_err() {
            return;
        }
    }
}

/// What the kernel has counted, by ct mark, and the CPU time that it took.
fn look(root: Root, select: Select) -> Result<(BTreeMap<u32, Flows>, Duration), SignsError> {
    let begun = cpu_time();
    let given = Host::open(root)?.new_flows()?;
    let loads = Conntrack::open()?.loads(select)?;
    let answered = |mark: &u32| loads.get(mark).map_or(0, |load| load.active + load.ended - load.unanswered);
    let flows = given.into_iter().map(|(mark, given)| (mark, Flows { given, answered: answered(&mark) })).collect();
    Ok((flows, cpu_time().saturating_sub(begun)))
}

/// Of this thread. A dump is the kernel's work, in the name of who reads it.
fn cpu_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).unwrap_or_default()
}
