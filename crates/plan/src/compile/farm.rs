//! One farm: its listeners, its backends, its schedule.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use headgate_config::model::{Backend, BackendState, Farm, FarmState, Mode, OnEmpty, Scheduler};
use headgate_config::types::{BackendName, Listen, Ports};
use headgate_nft::{Bytes, Chain, Data, Element, Key, Numgen, Reject, Rule, Statement, Target, Value, Verdict};

use super::contents::{Contents, address_bytes, exactly, is_tcp, mark_bytes, push_field, rule, yields};
use super::hash::{self, Site};
use super::routing::Routing;
use super::slots;
use crate::ids::Ids;
use crate::names::{self, IpVersion};

/// What farms are compiled against, besides themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) routing: &'a Routing,
    pub(super) ids: &'a Ids,
    pub(super) site: Site,
}

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
    /// Taken out by the operator.
    Down,
    /// No route, so no source address for `snat`.
    Unroutable,
    /// Its farm takes no new flows.
    Idle,
}

impl Standing {
    /// It takes new flows, or would.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Serving | Self::Spare | Self::Idle)
    }
}

/// The standing of each backend, in the order of their names.
pub(super) fn standings(farm: &Farm, routing: &Routing) -> Vec<Standing> {
    let is_able = |backend: &&Backend| farm.mode != Mode::Snat || source(farm, backend, routing).is_some();
    let able: Vec<&Backend> = farm.backends.values().filter(is_able).collect();
    let serving = IpVersion::ALL.into_iter().flat_map(|version| serving(farm, version, &able));
    let serving: BTreeSet<&BackendName> = serving.map(|backend| &backend.name).collect();
    let able: BTreeSet<&BackendName> = able.iter().map(|backend| &backend.name).collect();
    let standing = |backend: &Backend| match backend.state {
        BackendState::Down => Standing::Down,
        BackendState::Drain => Standing::Draining,
        BackendState::Up if backend.weight == 0 => Standing::Draining,
        BackendState::Up if !able.contains(&backend.name) => Standing::Unroutable,
        BackendState::Up if farm.state != FarmState::Up => Standing::Idle,
        BackendState::Up if serving.contains(&backend.name) => Standing::Serving,
        BackendState::Up => Standing::Spare,
    };
    farm.backends.values().map(standing).collect()
}

/// Adds all that one farm needs. A farm that is off needs nothing.
pub(super) fn add(contents: &mut Contents, farm: &Farm, ground: Ground<'_>) {
    if farm.state == FarmState::Off {
        return;
    }
    let able: Vec<&Backend> =
        farm.backends.values().filter(|backend| add_backend(contents, farm, backend, ground)).collect();
    for version in IpVersion::ALL {
        let mut listens = farm.listen.iter().filter(|listen| IpVersion::of(listen.address) == version).peekable();
        if listens.peek().is_some() {
            let chain = names::farm_chain(version, &farm.name);
            for listen in listens {
                add_listener(contents, listen, &chain);
            }
            let rules = match schedule(contents, farm, version, &able, ground) {
                Some(rule) => vec![rule],
                None => refusal(farm.on_empty),
            };
            contents.chains.push((chain, Chain { base: None, rules }));
        }
    }
}

/// Adds the elements that every backend has whatever its state: drained or down, its flows and its id live on in them.
/// False when no flow can be sent to it.
fn add_backend(contents: &mut Contents, farm: &Farm, backend: &Backend, ground: Ground<'_>) -> bool {
    let Some(mark) = ground.ids.mark(&farm.name, &backend.name) else { return false };
    let address = backend.address.address;
    let family = contents.family(IpVersion::of(address));
    let mut data = address_bytes(address);
    let elements = match backend.address.port {
        Some(port) => {
            push_field(&mut data, &port.to_be_bytes());
            &mut family.targets
        }
        None => &mut family.hosts,
    };
    let comment = Some(names::backend_comment(&farm.name, &backend.name, backend.state));
    elements.push((exactly(mark_bytes(mark)), Element { data: Some(Data::Value(data)), comment }));

    if farm.mode == Mode::Dnat {
        contents.hairpins.extend(ground.routing.subnet_of(address).map(|(_, net)| net));
        return true;
    }
    match source(farm, backend, ground.routing) {
        Some(source) => {
            family.sources.push((exactly(mark_bytes(mark)), yields(address_bytes(source))));
            true
        }
        None => {
            contents.warnings.push(format!(
                "farm {}: backend {} takes no flows: there is no route to {address} that would say from which address to \
                 send; add a route, or give source-address",
                farm.name, backend.name
            ));
            false
        }
    }
}

/// Where a backend sees flows come from: what is said for it, for its farm, or what its route would use.
fn source(farm: &Farm, backend: &Backend, routing: &Routing) -> Option<IpAddr> {
    let destination = backend.address.address;
    let said = backend.source_address.iter().chain(&farm.source_addresses);
    let mut same_family = said.copied().filter(|source| source.is_ipv4() == destination.is_ipv4());
    same_family.next().or_else(|| routing.source_for(destination))
}

fn add_listener(contents: &mut Contents, listen: &Listen, chain: &Arc<str>) {
    let family = contents.family(IpVersion::of(listen.address));
    let address = address_bytes(listen.address);
    let of_protocol = |number: u8| {
        let mut key = address.clone();
        push_field(&mut key, &[number]);
        key
    };
    let with_port = |mut key: Bytes, port: u16| {
        push_field(&mut key, &port.to_be_bytes());
        key
    };
    let (elements, key) = match (listen.protocol.number(), listen.ports) {
        (None, _) => (&mut family.protocols, exactly(address)),
        (Some(number), Ports::All) => (&mut family.wildcards, exactly(of_protocol(number))),
        (Some(number), Ports::One(port)) => (&mut family.services, exactly(with_port(of_protocol(number), port))),
        (Some(number), Ports::Range(first, last)) => {
            let (start, end) = (with_port(of_protocol(number), first), with_port(of_protocol(number), last));
            (&mut family.ranges, Key { start, end: Some(end) })
        }
    };
    elements.push((key, Element { data: Some(Data::Verdict(Verdict::Goto(chain.clone()))), comment: None }));
}

/// Adds the slots of a farm in one family; the rule that picks one. `None` when nobody can serve.
fn schedule(
    contents: &mut Contents,
    farm: &Farm,
    version: IpVersion,
    able: &[&Backend],
    ground: Ground<'_>,
) -> Option<Rule> {
    let serving = serving(farm, version, able);
    let id = ground.ids.farm(&farm.name).filter(|_| !serving.is_empty())?;
    let table = table(farm, &serving, ground.site);
    warn_of_starved(contents, farm, &serving, &table);
    let mut modulus = 0;
    for (slot, &index) in (0u32..).zip(&table) {
        let mark = ground.ids.mark(&farm.name, &serving[index as usize].name)?;
        let key = exactly(mark_bytes(names::slot(id, version, slot)));
        contents.slots.push((key, yields(mark_bytes(mark))));
        modulus = slot + 1;
    }
    let offset = names::slot(id, version, 0);
    let value = match &farm.scheduler {
        Scheduler::Hash { fields, .. } | Scheduler::Maglev { fields, .. } => {
            let key = Box::new(hash::key(fields, version)?);
            Value::Jhash { key, modulus, seed: ground.site.seed(farm.name.as_str()), offset }
        }
        scheduler => Value::Numgen(Numgen { random: *scheduler == Scheduler::Random, modulus, offset }),
    };
    Some(rule([Statement::Set { target: Target::CtMark, value }]))
}

/// Slot → index of the backend.
fn table(farm: &Farm, serving: &[&Backend], site: Site) -> Vec<u32> {
    let weights = || serving.iter().map(|backend| backend.weight).collect::<Vec<u16>>();
    match farm.scheduler {
        Scheduler::Hash { slots, .. } => hash::even(&weights(), slots as usize),
        Scheduler::Maglev { slots, .. } => {
            let key = |backend: &&Backend| site.backend_key(farm.name.as_str(), backend.name.as_str());
            let backends: Vec<(u64, u16)> = serving.iter().map(|backend| (key(backend), backend.weight)).collect();
            hash::consistent(&backends, slots as usize)
        }
        _ => slots::order(&weights()),
    }
}

/// The backends that take new flows now: usable, and of the lowest priority number that has any.
fn serving<'a>(farm: &Farm, version: IpVersion, able: &[&'a Backend]) -> Vec<&'a Backend> {
    if farm.state != FarmState::Up {
        return Vec::new();
    }
    let usable = |backend: &&&Backend| IpVersion::of(backend.address.address) == version && is_usable(backend);
    let Some(priority) = able.iter().filter(usable).map(|backend| backend.priority).min() else { return Vec::new() };
    let served = able.iter().filter(usable).filter(|backend| backend.priority == priority);
    served.copied().take(names::SLOTS_MAX).collect()
}

/// As far as the operator's word goes: up, with a weight.
fn is_usable(backend: &Backend) -> bool {
    backend.state == BackendState::Up && backend.weight > 0
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

/// What new flows meet when nobody can serve. Established ones do not come here: a nat hook sees first packets only, where
/// the kernel takes reject as well (`nft_reject_inet_validate`).
fn refusal(on_empty: OnEmpty) -> Vec<Rule> {
    match on_empty {
        OnEmpty::Reject => vec![
            rule([is_tcp(), Statement::Reject(Reject::TcpReset)]),
            rule([Statement::Reject(Reject::PortUnreachable)]),
        ],
        OnEmpty::Drop => vec![rule([Statement::Verdict(Verdict::Drop)])],
    }
}
