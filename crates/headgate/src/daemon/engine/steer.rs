//! New flows follow the numbers of flows: what of it needs the configuration and the ruleset.

use std::collections::BTreeMap;
use std::time::Duration;

use headgate_config::model::{Farm, Mode, Scheduler};
use headgate_host::conntrack::{Loads, Select};
use headgate_plan::status::Counting;

use super::Engine;

/// A count of flows.
#[derive(Debug)]
pub struct Counted {
    /// Of the backends that [`Engine::steered`] has selected.
    pub loads: Loads,
    /// CPU time that it took.
    pub took: Duration,
    /// When the next one is.
    pub every: Duration,
}

impl Engine {
    /// Whose flows have to be counted; `None`: no farm is steered.
    pub fn steered(&self) -> Option<Select> {
        let running = self.running.as_ref()?;
        let farms = running.config.farms.values().filter(|farm| is_steered(farm));
        Select::covering(farms.flat_map(|farm| running.desired.ids.marks_of(farm)))
    }

    /// Moves the slots of all steered farms, in one commit. A commit that is refused is left to the next comparison with the
    /// kernel, which is against what was wanted here.
    pub fn balance(&mut self, counted: &Counted) {
        let Some(running) = &mut self.running else { return };
        let flows: BTreeMap<u32, u64> = counted.loads.iter().map(|(&mark, load)| (mark, load.active)).collect();
        let desired = &mut running.desired;
        let mut changes = Vec::new();
        let mut farms = 0;
        for farm in running.config.farms.values().filter(|farm| is_steered(farm)) {
            changes.extend(desired.context.steer(farm, &mut desired.ids, &flows));
            farms += 1;
        }
        self.counting = (farms > 0).then(|| Counting {
            farms,
            flows: flows.values().sum(),
            took_ms: milliseconds(counted.took),
            every_ms: milliseconds(counted.every),
        });
        if changes.is_empty() {
            return;
        }
        match self.host.commit_ruleset(&changes) {
            Ok(()) => tracing::debug!(changes = changes.len(), "new flows go where fewer are"),
            Err(error) => {
                tracing::info!(error = %crate::explain(&error), "slots were not moved; looking at everything");
                self.watch();
            }
        }
    }
}

fn is_steered(farm: &Farm) -> bool {
    farm.scheduler == Scheduler::LeastConnections && matches!(farm.mode, Mode::Snat | Mode::Dnat)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
