//! Modes `snat` and `dnat`: connection tracking translates, the nat hooks decide once for each flow.

use std::net::IpAddr;

use headgate_config::model::{Backend, BackendState, Farm, Mode};
use headgate_nft::{Data, Element, Statement, Target};

use super::contents::Contents;
use super::farm::{Ground, add_listeners, refusal, versions};
use super::guard::{self, Post};
use super::routing::Routing;
use super::schedule;
use super::terms::{address_bytes, exactly, mark_bytes, push_field, rule, yields};
use crate::maps::{Door, Map, Place};
use crate::names::{self, IpVersion};

/// Adds all that one farm needs.
pub(super) fn add(contents: &mut Contents, farm: &Farm, ground: Ground<'_>) {
    let able: Vec<&Backend> =
        farm.backends.values().filter(|backend| add_backend(contents, farm, backend, ground)).collect();
    for version in versions(farm) {
        let chain = names::farm_chain(version, &farm.name);
        let entrance = guard::entrance(contents, farm, Post { place: Place::Inet, version }, &chain);
        add_listeners(contents, farm, Door::Nat, version, &entrance);
        let rules = match schedule::slot(contents, farm, version, &able, ground) {
            Some(value) => vec![rule([Statement::Set { target: Target::CtMark, value }])],
            None => refusal(farm.on_empty),
        };
        contents.add_chain(Place::Inet, chain, rules);
    }
}

/// Adds the elements that every backend has whatever its state: drained or down, its flows and its id live on in them.
/// False when no flow can be sent to it.
fn add_backend(contents: &mut Contents, farm: &Farm, backend: &Backend, ground: Ground<'_>) -> bool {
    let Some(mark) = ground.ids.mark(&farm.name, &backend.name) else { return false };
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
    if backend.state == BackendState::Down {
        contents.add(Map::Down, key(), Element { comment: comment.clone(), ..Element::default() });
    }
    contents.add(map, key(), Element { data: Some(Data::Value(data)), comment, ..Element::default() });

    if farm.mode == Mode::Dnat {
        contents.needs.hairpins.extend(ground.routing.subnet_of(address).map(|(_, net)| net));
        return true;
    }
    match source(farm, backend, ground.routing) {
        Some(source) => {
            contents.add(Map::Sources(version), key(), yields(address_bytes(source)));
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
pub(super) fn source(farm: &Farm, backend: &Backend, routing: &Routing) -> Option<IpAddr> {
    let destination = backend.address.address;
    let said = backend.source_address.iter().chain(&farm.source_addresses);
    let mut same_family = said.copied().filter(|source| source.is_ipv4() == destination.is_ipv4());
    same_family.next().or_else(|| routing.source_for(destination))
}
