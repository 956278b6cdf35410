//! Who takes new flows, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use headgate_config::model::{Backend, BackendState, Farm, FarmState, Mode, Scheduler};
use headgate_config::types::BackendName;
use headgate_nft::{Numgen, Value};

use super::cap;
use super::contents::Contents;
use super::farm::{Ground, place};
use super::hash;
use super::nat::has_source;
use super::routing::Routing;
use super::slots;
use super::terms::{exactly, mark_bytes, yields};
use super::wire::egress;
use crate::ids::Ids;
use crate::maps::Map;
use crate::names::{self, IpVersion};
use crate::steering::{self, Lane};

/// Whether a backend takes flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Takes new flows.
    Serving,
    /// Would, if those with a lower priority number could not.
    Spare,
    /// Drained or of weight 0: takes no new flows, keeps its own.
    Draining,
    /// Its checks fail.
    Unhealthy,
    /// Taken out by the operator.
    Down,
    /// No route, so no source address for `snat`, or no interface or tunnel for `dsr`.
    Unroutable,
    /// Its farm takes no new flows.
    Idle,
}

impl Standing {
    /// It takes new flows, or would.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Serving | Self::Spare | Self::Idle)
    }

    /// In one word, or two.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Serving => "serving",
            Standing::Spare => "spare",
            Standing::Draining => "draining",
            Standing::Unhealthy => "unhealthy",
            Standing::Down => "down",
            Standing::Unroutable => "no route",
            Standing::Idle => "idle",
        }
    }
}

/// The standing of each backend, in the order of their names.
pub(super) fn standings(farm: &Farm, routing: &Routing, ids: &Ids) -> Vec<Standing> {
    let able = able(farm, routing);
    let serving = IpVersion::ALL.into_iter().flat_map(|version| serving(farm, version, &able, ids));
    let serving: BTreeSet<&BackendName> = serving.map(|backend| &backend.name).collect();
    let able: BTreeSet<&BackendName> = able.iter().map(|backend| &backend.name).collect();
    let standing = |backend: &Backend| match backend.state {
        BackendState::Down => Standing::Down,
        BackendState::Drain => Standing::Draining,
        BackendState::Up if backend.weight == 0 => Standing::Draining,
        BackendState::Up if ids.is_failed(&farm.name, &backend.name) => Standing::Unhealthy,
        BackendState::Up if !able.contains(&backend.name) => Standing::Unroutable,
        BackendState::Up if farm.state != FarmState::Up => Standing::Idle,
        BackendState::Up if serving.contains(&backend.name) => Standing::Serving,
        BackendState::Up => Standing::Spare,
    };
    farm.backends.values().map(standing).collect()
}

/// Those to which flows can be sent.
fn able<'a>(farm: &'a Farm, routing: &Routing) -> Vec<&'a Backend> {
    let is_able = |backend: &&Backend| match farm.mode {
        Mode::Snat => has_source(farm, backend, routing),
        Mode::Dsr => egress(farm, backend, routing).is_ok(),
        Mode::Dnat | Mode::Stateless | Mode::Local => true,
    };
    farm.backends.values().filter(is_able).collect()
}

/// Adds the slots of a farm in one family; what picks one, the last that can. Nothing when nobody can serve.
pub(super) fn slot(
    contents: &mut Contents,
    farm: &Farm,
    version: IpVersion,
    able: &[&Backend],
    ground: Ground<'_>,
) -> Vec<Value> {
    let serving = open(farm, serving(farm, version, able, ground.ids), ground.ids);
    let Some(id) = ground.ids.farm(&farm.name).filter(|_| !serving.is_empty()) else { return Vec::new() };
    let table = table(farm, version, &serving, ground);
    warn_of_starved(contents, farm, &serving, &table);
    cap::add_ring(contents, farm, &serving, ground.ids);
    let (marks, mut modulus) = (ground.ids.within(&farm.name), 0);
    for (slot, &index) in (0u32..).zip(&table) {
        let Some(mark) = marks.of(&serving[index as usize].name) else { return Vec::new() };
        let key = exactly(mark_bytes(names::slot(id, version, slot)));
        contents.add(Map::Slots(place(farm)), key, yields(mark_bytes(mark)));
        modulus = slot + 1;
    }
    let offset = names::slot(id, version, 0);
    match &farm.scheduler {
        Scheduler::Hash { fields, .. } | Scheduler::Maglev { fields, .. } => {
            let seed = ground.site.seed(farm.name.as_str());
            let jhash = |key| Value::Jhash { key: Box::new(key), modulus, seed, offset };
            hash::keys(fields, version).into_iter().map(jhash).collect()
        }
        scheduler => vec![Value::Numgen(Numgen { random: *scheduler == Scheduler::Random, modulus, offset })],
    }
}

/// What picks a slot that yields nobody, in place of those of [`slot`].
pub(super) fn nobody(farm: &Farm, version: IpVersion, ids: &Ids) -> Option<Value> {
    let offset = names::slot(ids.farm(&farm.name)?, version, 0);
    Some(Value::Numgen(Numgen { random: false, modulus: 1, offset }))
}

/// Whether a flow's packets all find the same slot by themselves.
pub(super) fn is_hashed(farm: &Farm) -> bool {
    matches!(farm.scheduler, Scheduler::Hash { .. } | Scheduler::Maglev { .. })
}

/// Slot → index of the backend.
fn table(farm: &Farm, version: IpVersion, serving: &[&Backend], ground: Ground<'_>) -> Vec<u32> {
    let weights = || serving.iter().map(|backend| backend.weight).collect::<Vec<u16>>();
    match farm.scheduler {
        Scheduler::Hash { slots, .. } => hash::even(&weights(), slots as usize),
        Scheduler::Maglev { slots, .. } => {
            let site = ground.site;
            let key = |backend: &&Backend| site.backend_key(farm.name.as_str(), backend.name.as_str());
            let backends: Vec<(u64, u16)> = serving.iter().map(|backend| (key(backend), backend.weight)).collect();
            hash::consistent(&backends, slots as usize)
        }
        Scheduler::LeastConnections => steering::order(&shares(farm, version, serving, ground.ids)),
        Scheduler::RoundRobin | Scheduler::Random => slots::order(&weights()),
    }
}

/// The slots of each backend of a steered farm. While nobody steers it: by weight.
fn shares(farm: &Farm, version: IpVersion, serving: &[&Backend], ids: &Ids) -> Vec<u32> {
    let weights: Vec<u16> = serving.iter().map(|backend| backend.weight).collect();
    let share = |backend: &&Backend| ids.share(ids.mark(&farm.name, &backend.name)?);
    let known: Vec<Option<u32>> = serving.iter().map(share).collect();
    let all = farm.backends.values().filter(|backend| IpVersion::of(backend.address.address) == version).count();
    steering::settle(&weights, &known, steering::slot_count(all))
}

/// The slots that the backends of a steered farm get next, by ct mark; `flows` are those that they have.
pub(super) fn steered(farm: &Farm, ground: Ground<'_>, flows: &BTreeMap<u32, u64>) -> BTreeMap<u32, u32> {
    let able = able(farm, ground.routing);
    let mut next = BTreeMap::new();
    for version in IpVersion::ALL {
        let serving = open(farm, serving(farm, version, &able, ground.ids), ground.ids);
        let marks = serving.iter().filter_map(|backend| ground.ids.mark(&farm.name, &backend.name));
        let marks: Vec<u32> = marks.collect();
        if serving.is_empty() || marks.len() < serving.len() {
            continue;
        }
        let now = shares(farm, version, &serving, ground.ids);
        let lanes = serving.iter().zip(&marks).zip(now).map(|((backend, mark), slots)| {
            let flows = flows.get(mark).copied().unwrap_or(0);
            Lane { weight: backend.weight, flows, slots }
        });
        let lanes: Vec<Lane> = lanes.collect();
        next.extend(marks.into_iter().zip(steering::steer(&lanes)));
    }
    next
}

/// The backends that take new flows now: usable, and of the lowest priority number that has any.
fn serving<'a>(farm: &Farm, version: IpVersion, able: &[&'a Backend], ids: &Ids) -> Vec<&'a Backend> {
    if farm.state != FarmState::Up {
        return Vec::new();
    }
    let usable =
        |backend: &&&Backend| IpVersion::of(backend.address.address) == version && is_usable(farm, backend, ids);
    let Some(priority) = able.iter().filter(usable).map(|backend| backend.priority).min() else { return Vec::new() };
    let served = able.iter().filter(usable).filter(|backend| backend.priority == priority);
    served.copied().take(names::SLOTS_MAX).collect()
}

/// Those of them that are not full; all when all are.
fn open<'a>(farm: &Farm, serving: Vec<&'a Backend>, ids: &Ids) -> Vec<&'a Backend> {
    if serving.iter().all(|backend| backend.max_connections.is_none()) {
        return serving;
    }
    let is_open = |backend: &&&Backend| !ids.mark(&farm.name, &backend.name).is_some_and(|mark| ids.is_full(mark));
    let open: Vec<&Backend> = serving.iter().filter(is_open).copied().collect();
    if open.is_empty() { serving } else { open }
}

/// As far as the operator's word and its checks go: up, with a weight.
fn is_usable(farm: &Farm, backend: &Backend, ids: &Ids) -> bool {
    backend.state == BackendState::Up && backend.weight > 0 && !ids.is_failed(&farm.name, &backend.name)
}

/// Out, by the operator's word or by its checks: it keeps no clients, and flows without an end leave it.
pub(super) fn is_out(farm: &Farm, backend: &Backend, ids: &Ids) -> bool {
    backend.state == BackendState::Down || ids.is_failed(&farm.name, &backend.name)
}

/// A weight can be so small beside the others that it deserves no slot.
fn warn_of_starved(contents: &mut Contents, farm: &Farm, serving: &[&Backend], table: &[u32]) {
    let mut has_slot = vec![false; serving.len()];
    for &index in table {
        has_slot[index as usize] = true;
    }
    for (backend, _) in serving.iter().zip(has_slot).filter(|(_, has_slot)| !has_slot) {
        contents.warnings.push(format!(
            "farm {}: backend {} takes no flows: its weight of {} is too small for one of {} slots",
            farm.name,
            backend.name,
            backend.weight,
            table.len()
        ));
    }
}
