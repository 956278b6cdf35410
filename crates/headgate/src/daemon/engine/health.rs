//! Backends that turned: out of the data plane, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use headgate_config::model::{FarmState, Mode};
use headgate_config::types::{BackendName, FarmName};
use headgate_plan::flows::Lost;
use headgate_plan::health::Condition;
use tokio::sync::watch;

use super::{Engine, Targets};
use crate::daemon::feed::Event;
use crate::daemon::health::Board;
use crate::reconcile::forget_lost;

/// A backend's place in the configuration.
pub type Name = (FarmName, BackendName);

/// A backend turned.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Its farm.
    pub farm: FarmName,
    /// Its name.
    pub backend: BackendName,
    /// Where it was probed.
    pub address: IpAddr,
    /// What it is now.
    pub condition: Condition,
    /// When the last probe of it ended.
    pub decided: Instant,
}

impl Engine {
    /// What has to be probed, from now on.
    pub fn targets(&self) -> watch::Receiver<Targets> {
        self.targets.subscribe()
    }

    /// Where the checks write what they say.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Whether any backend has a check.
    pub fn is_checked(&self) -> bool {
        !self.targets.borrow().is_empty()
    }

    /// The backends whose flows say something about them: those that are probed, are not down, and are translated, by ct mark.
    pub fn watched(&self) -> BTreeMap<u32, Name> {
        let Some(running) = &self.running else { return BTreeMap::new() };
        let ids = &running.desired.ids;
        let farms = running.config.farms.values().filter(|farm| {
            farm.health.is_some() && farm.state == FarmState::Up && matches!(farm.mode, Mode::Snat | Mode::Dnat)
        });
        let backends = farms.flat_map(|farm| farm.backends.keys().map(move |backend| (&farm.name, backend)));
        let up = backends.filter(|(farm, backend)| !ids.is_failed(farm, backend));
        up.filter_map(|(farm, backend)| Some((ids.mark(farm, backend)?, (farm.clone(), backend.clone())))).collect()
    }

    /// Backends that are down and stay it while nobody probes.
    pub fn left_out(&self) -> usize {
        let Some(running) = &self.running else { return 0 };
        self.fallen.within(&running.config).values().map(BTreeSet::len).sum()
    }

    /// Takes backends out of the data plane, and brings others back, in one commit; what those that are out must let go of then,
    /// for whoever has the time: their clients are forgotten already, their flows are still there. One whose address has changed meanwhile is left alone, and so is one that nobody checks any more.
    ///
    /// A commit that is refused is repeated with a look at everything.
    pub fn turn(&mut self, turns: &[Turn]) -> Lost {
        let Some(running) = &mut self.running else { return Lost::default() };
        let mut farms = BTreeSet::new();
        for turn in turns {
            let Some(farm) = running.config.farms.get(&turn.farm).filter(|farm| farm.health.is_some()) else {
                continue;
            };
            if farm.backends.get(&turn.backend).is_some_and(|backend| backend.address.address == turn.address) {
                self.fallen.set(&turn.farm, &turn.backend, turn.address, turn.condition);
                farms.insert(turn.farm.clone());
            }
        }
        let (mut changes, mut lost, mut whole) = (Vec::new(), Lost::default(), false);
        for farm in farms.iter().filter_map(|name| running.config.farms.get(name)) {
            match running.desired.context.turn(farm, &mut running.desired.ids, self.fallen.of(farm)) {
                Some((of_farm, gone)) => {
                    changes.extend(of_farm);
                    lost.add(gone);
                }
                None => whole = true,
            }
        }
        if !changes.is_empty()
            && let Err(error) = self.host.commit_ruleset(&changes)
        {
            tracing::info!(error = %crate::explain(&error), "backends turned and that was refused; looking at everything");
            whole = true;
        }
        if whole {
            self.watch();
        }
        self.see(&farms);
        for turn in turns {
            let took_us = turn.decided.elapsed().as_micros();
            tracing::debug!(farm = %turn.farm, backend = %turn.backend, took_us, "in the kernel");
            let state = if turn.condition == Condition::Down { "down" } else { "up" };
            let (farm, backend) = (turn.farm.to_string(), turn.backend.to_string());
            self.events.tell(Event::Health { farm, backend, state });
        }
        if let Err(warning) = forget_lost(&mut self.host, &lost) {
            self.owed.owe(lost.clone(), warning);
        }
        lost
    }

    /// What backends that are down could not be made to let go of, and why.
    pub fn owe(&mut self, lost: Lost, warning: String) {
        self.owed.owe(lost, warning);
    }
}
