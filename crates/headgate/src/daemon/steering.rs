//! The clock of least connections: count, steer, wait.
//!
//! Flows are counted on a thread that nobody waits for: a million of them take a second, in which the engine answers
//! everybody else.

use std::time::Duration;

use headgate_host::conntrack::{ConntrackError, Loads};
use nix::time::ClockId;

use super::engine::{Count, Counted, Engine, Handle};

/// Between two counts, at least; and between two looks whether there is anything to count.
const PERIOD_LEAST: Duration = Duration::from_secs(1);
/// After a count that failed.
const PERIOD_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// A count is followed by a pause of this many times its CPU time: counting takes at most 2 % of one CPU.
const PAUSE: u32 = 50;

/// Steers until the engine is gone.
pub async fn run(engine: Handle) {
    let mut every = PERIOD_LEAST;
    loop {
        tokio::time::sleep(every).await;
        let Ok(wanted) = engine.call(Engine::steered).await else { return };
        every = PERIOD_LEAST;
        let Some(wanted) = wanted else { continue };
        let counted = tokio::task::spawn_blocking(move || count(wanted)).await;
        match counted {
            Ok(Ok((count, loads, took))) => {
                every = PERIOD_LEAST.max(took * PAUSE);
                let counted = Counted { count, loads, took, every };
                if engine.call(move |engine: &mut Engine| engine.balance(&counted)).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) => {
                every = PERIOD_AFTER_FAILURE;
                tracing::warn!(error = %crate::explain(&error), "flows are not counted; least connections stays as it is");
            }
            // The runtime goes down.
            Err(_) => return,
        }
    }
}

/// Flows, and the CPU time that it took to count them.
fn count(wanted: Count) -> Result<(Count, Loads, Duration), ConntrackError> {
    let before = cpu_time();
    let loads = wanted.loads()?;
    Ok((wanted, loads, cpu_time().saturating_sub(before)))
}

/// Of this thread. A dump is the kernel's work, in the name of who reads it.
pub(super) fn cpu_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).unwrap_or_default()
}
