//! Not the branch that one sits on: who asks must be able to come back, unless the configuration returns by itself.

use headgate_plan::compile::{self, Desired};

use super::load::Candidate;
use super::{Engine, EngineError};
use crate::daemon::caller::Caller;
use crate::reconcile::{Reconciled, Until};
use crate::way::Way;

impl Engine {
    /// Refuses what would close the way behind who asks.
    pub(super) fn require_way_back(&mut self, candidate: &Candidate, by: Option<&Caller>) -> Result<(), EngineError> {
        let Some(way) = by.and_then(Caller::way) else { return Ok(()) };
        let planned = self.go(candidate, Until::Planned)?;
        self.closes(candidate, &planned, way).map_or(Ok(()), |why| Err(EngineError::ShutsOut(why)))
    }

    /// Why what was planned would close it.
    pub(super) fn closes(&self, candidate: &Candidate, planned: &Reconciled, way: Way) -> Option<String> {
        self.stops_listening(candidate, way).or_else(|| self.shuts_out(candidate, planned, way))
    }

    fn stops_listening(&self, candidate: &Candidate, way: Way) -> Option<String> {
        let running = &self.running.as_ref()?.config;
        compile::stops_listening(running, &candidate.config, (way.client, way.server))
    }

    /// What was shut before is no worse.
    fn shuts_out(&self, candidate: &Candidate, planned: &Reconciled, way: Way) -> Option<String> {
        let shut = |config, desired: &Desired| desired.shuts_out(config, &planned.facts, (way.client, way.server));
        let was_shut = self.running.as_ref().and_then(|running| shut(&running.config, &running.desired)).is_some();
        shut(&candidate.config, &planned.desired).filter(|_| !was_shut)
    }

    /// Whether this machine runs our image.
    pub fn is_appliance(&mut self) -> bool {
        self.host.facts().is_ok_and(|facts| facts.appliance)
    }
}
