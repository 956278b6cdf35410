//! Modes `snat` and `dnat`: connection tracking translates, the nat hooks decide once for each flow.

use std::collections::BTreeSet;
use std::net::IpAddr;

use headgate_config::model::{Backend, Farm, Mode, OnFail, TrafficCount};
use headgate_nft::{Data, Datatype, Element, Numgen, Rule, Set, SetData, Statement, Target, Value, Verdict};

use super::cap;
use super::chosen;
use super::contents::Contents;
use super::farm::{Ground, add_listeners, versions};
use super::guard::{self, Post};
use super::hooks;
use super::inspect;
use super::queue;
use super::refuse;
use super::routing::Routing;
use super::schedule;
use super::sticky;
use super::synproxy;
use super::terms::{address_bytes, exactly, mark_bytes, push_field, rule, yields};
use crate::features::Feature;
use crate::maps::{self, Door, Map, Place};
use crate::names::{self, IpVersion};

/// Adds all that one farm needs.
pub(super) fn add(contents: &mut Contents, farm: &Farm, ground: Ground<'_>) {
    let marks = ground.ids.within(&farm.name);
    let marked = farm.backends.values().filter_map(|backend| Some((backend, marks.of(&backend.name)?)));
    let able = marked.filter(|marked| add_backend(contents, farm, *marked, ground));
    let able: Vec<&Backend> = able.map(|(backend, _)| backend).collect();
    if farm.offload {
        ground.offload.ask(contents, farm);
    }
    cap::add(contents, farm, ground.ids);
    for version in versions(farm) {
        let chain = names::farm_chain(version, &farm.name);
        let post = Post { place: Place::Inet, version, ground };
        let entrance = guard::entrance(contents, farm, post, &chain);
        add_listeners(contents, farm, Door::Nat, version, &entrance);
        inspect::add(contents, farm, post);
        queue::add(contents, farm, post);
        let mut rules = sticky::rules(contents, farm, version, &able, ground);
        let remembers = !rules.is_empty();
        let slots = schedule::slot(contents, farm, version, &able, ground);
        if ground.has(Feature::SynProxy, contents, farm) {
            let refuses = (slots.is_empty() && !remembers).then(|| refuse::empty(contents, farm, post));
            synproxy::add(contents, farm, post, refuses);
        }
        let otherwise: Vec<Rule> = match slots.is_empty() {
            false => slots.into_iter().map(|value| rule([Statement::Set { target: Target::CtMark, value }])).collect(),
            // A rule that refuses makes the kernel validate all chains (`nft_table_validate`), 4 ms at 10,000 farms, as often as a
            // last backend falls. A slot that yields no backend does not: such a flow comes to the end of the hooks.
            true if refuse::is_left_to_hooks(contents, farm, post) => {
                let value = schedule::nobody(farm, version, ground.ids);
                value.into_iter().map(|value| rule([Statement::Set { target: Target::CtMark, value }])).collect()
            }
            true => refuse::empty(contents, farm, post),
        };
        rules.extend(otherwise.into_iter().map(|mut rule| {
            if remembers {
                rule.statements.insert(0, sticky::undecided());
            }
            rule
        }));
        contents.add_chain(Place::Inet, chain, rules);
        chosen::add(contents, farm, version, ground);
        add_pool(contents, farm, version);
    }
}

/// Adds the elements that every backend has whatever its state: drained or down, its flows and its id live on in them.
/// False when no flow can be sent to it.
fn add_backend(contents: &mut Contents, farm: &Farm, (backend, mark): (&Backend, u32), ground: Ground<'_>) -> bool {
    let address = backend.address.address;
    let version = IpVersion::of(address);
    let mut data = address_bytes(address);
    let map = match backend.address.port {
        Some(port) => {
            push_field(&mut data, &port.to_be_bytes());
            Map::Targets(version)
        }
        None => Map::Hosts(version),
    };
    let comment = Some(names::backend_comment(&farm.name, &backend.name));
    let key = || exactly(mark_bytes(mark));
    if schedule::is_out(farm, backend, ground.ids) {
        contents.add(Map::Down(Place::Inet), key(), Element { comment: comment.clone(), ..Element::default() });
    }
    if farm.on_fail == OnFail::Reset {
        contents.add(Map::Cut(Place::Inet), key(), Element { comment: comment.clone(), ..Element::default() });
    }
    if ground.traffic == TrafficCount::Bytes {
        contents.add(Map::Traffic(Place::Inet), key(), Element { comment: comment.clone(), ..Element::default() });
    }
    if farm.offload && ground.offload.is_possible() {
        contents.add(Map::Offloaded, key(), Element { comment: comment.clone(), ..Element::default() });
    }
    if let Some(mark) = backend.mark.or(farm.mark) {
        contents.add(Map::Marks, key(), yields(mark_bytes(mark)));
    }
    contents.add(map, key(), Element { data: Some(Data::Value(data)), comment, ..Element::default() });

    if farm.mode == Mode::Dnat {
        contents.needs.hairpins.extend(ground.routing.subnet_of(address).map(|(_, net)| net));
        return true;
    }
    let element = match source(farm, backend, ground.routing) {
        Some(Source::One(source)) => (Map::Sources(version), yields(address_bytes(source))),
        Some(Source::Pool) => {
            let chain = names::pool_chain(version, &farm.name);
            (Map::Pooled, Element { data: Some(Data::Verdict(Verdict::Goto(chain))), ..Element::default() })
        }
        None => {
            contents.warnings.push(format!(
                "farm {}: backend {} takes no flows: there is no route to {address} that would say from which address to \
                 send; add a route, or give source-address",
                farm.name, backend.name
            ));
            return false;
        }
    };
    contents.add(element.0, key(), element.1);
    true
}

/// Where a backend of an `snat` farm sees flows come from.
enum Source {
    One(IpAddr),
    /// One of the farm's, flow by flow.
    Pool,
}

/// What is said for the backend, for its farm, or what its route would use.
fn source(farm: &Farm, backend: &Backend, routing: &Routing) -> Option<Source> {
    let destination = backend.address.address;
    if let Some(said) = backend.source_address.filter(|source| source.is_ipv4() == destination.is_ipv4()) {
        return Some(Source::One(said));
    }
    let pool = pool(farm, IpVersion::of(destination));
    match pool.len() {
        0 => routing.source_for(destination).map(Source::One),
        1 => pool.first().copied().map(Source::One),
        _ => Some(Source::Pool),
    }
}

/// Whether it is known from which address a backend of an `snat` farm would see flows come.
pub(super) fn has_source(farm: &Farm, backend: &Backend, routing: &Routing) -> bool {
    source(farm, backend, routing).is_some()
}

/// The source addresses that a farm names in one family.
fn pool(farm: &Farm, version: IpVersion) -> BTreeSet<IpAddr> {
    farm.source_addresses.iter().copied().filter(|address| IpVersion::of(*address) == version).collect()
}

/// The chain that spreads flows evenly over several source addresses. Each has ports of its own: as many flows more to one
/// backend. A counter and not a hash, since clients that come through one gateway would all hash alike.
fn add_pool(contents: &mut Contents, farm: &Farm, version: IpVersion) {
    let pool = pool(farm, version);
    if farm.mode != Mode::Snat || pool.len() < 2 {
        return;
    }
    let modulus = pool.len() as u32;
    let elements =
        (0u32..).zip(pool).map(|(number, address)| (exactly(mark_bytes(number)), yields(address_bytes(address))));
    let set = Set {
        key: vec![Datatype::Number],
        data: Some(SetData::Value(vec![maps::address(version)])),
        size: Some(modulus),
        elements: elements.collect(),
        ..Set::default()
    };
    let map = names::pool_map(version, &farm.name);
    let number = Box::new(Value::Numgen(Numgen { random: false, modulus, offset: 0 }));
    let to = Value::Map { key: number, map: map.clone() };
    contents.add_set(Place::Inet, map, set);
    contents.add_chain(Place::Inet, names::pool_chain(version, &farm.name), hooks::to_source(version, &to).into());
}
