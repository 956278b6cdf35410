//! Offload: established flows of a farm go from ingress of one device to the other, past routing and the hooks between.
//!
//! The kernel takes a flow when it is established, is translated as it is, and has both its devices in the flowtable
//! (`nft_flow_offload_eval`, net/netfilter/nft_flow_offload.c); whatever it does not take goes the long way as before.

use std::collections::BTreeSet;
use std::sync::Arc;

use headgate_config::model::Farm;
use headgate_nft::{Flowtable, Statement};

use super::contents::Contents;
use crate::facts::Facts;
use crate::maps::Map;
use crate::names::{self, IpVersion};
use crate::tunnel::Device;

/// What this machine can offload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Offload {
    supported: bool,
    devices: BTreeSet<Arc<str>>,
}

impl Offload {
    /// Every interface that is up, but for loopback and our tunnels: a client may come in by any of them. One that none of these flows
    /// uses pays for a lookup in an empty table.
    pub(super) fn new(facts: &Facts) -> Self {
        let ours = |name: &str| Device::named(name).is_some();
        let links = facts.links.iter().filter(|(name, link)| link.up && !link.loopback && !ours(name));
        Self { supported: facts.flowtable, devices: links.map(|(name, _)| name.as_str().into()).collect() }
    }

    pub(super) fn is_possible(&self) -> bool {
        self.supported && !self.devices.is_empty()
    }

    /// Notes what a farm that offloads needs, or says why it has it not.
    pub(super) fn ask(&self, contents: &mut Contents, farm: &Farm) {
        match self.is_possible() {
            true => contents.needs.offload.extend(self.devices.iter().cloned()),
            false => {
                let why = if self.supported { "no interface is up" } else { "this kernel has no flowtables" };
                contents.warnings.push(format!("farm {}: offload has no effect: {why}", farm.name));
            }
        }
    }
}

/// Whether every backend that connection tracking translates to is one of a farm that offloads. It changes with whole farms only,
/// and a farm's marks are in the same maps as long as it is.
pub(super) fn is_for_all(contents: &Contents) -> bool {
    let translated = IpVersion::ALL.into_iter().flat_map(|version| [Map::Targets(version), Map::Hosts(version)]);
    translated.map(|map| contents.count(map)).sum::<usize>() == contents.count(Map::Offloaded)
}

/// The flowtable over these devices.
pub(super) fn flowtable(devices: &BTreeSet<Arc<str>>) -> Option<Flowtable> {
    // Counted in the conntrack entries, so that an offloaded flow is seen to live; it is free while accounting is off.
    let flowtable = Flowtable { priority: 0, devices: devices.clone(), counters: true, hardware: false };
    (!devices.is_empty()).then_some(flowtable)
}

/// Takes the flow over from here on.
pub(super) fn statement() -> Statement {
    Statement::FlowAdd { flowtable: names::FLOWTABLE.into() }
}

#[cfg(test)]
mod tests;
