//! One farm: what it listens on, and which of the modes carries it.

use std::collections::BTreeSet;
use std::sync::Arc;

use headgate_config::model::{DsrVia, Farm, FarmState, Mode, TrafficCount};
use headgate_config::types::{Listen, Ports};
use headgate_nft::{Bytes, Data, Element, Key, Verdict};

use super::contents::Contents;
use super::hash::Site;
use super::offload::Offload;
use super::policy::Known;
use super::routing::Routing;
use super::terms::{address_bytes, exactly, push_field};
use super::{local, nat, stateless, wire};
use crate::features::Feature;
use crate::ids::Ids;
use crate::maps::{Door, Map, Place, Reach};
use crate::names::IpVersion;
use crate::tunnel;

/// What farms are compiled against, besides themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) routing: &'a Routing,
    pub(super) ids: &'a Ids,
    pub(super) site: Site,
    pub(super) offload: &'a Offload,
    /// Helpers that the kernel does not have.
    pub(super) lacking: &'a BTreeSet<String>,
    /// Features that the kernel does not have.
    pub(super) without: &'a BTreeSet<Feature>,
    pub(super) policies: &'a Known,
    pub(super) traffic: TrafficCount,
}

impl Ground<'_> {
    /// Whether a farm gets a feature: it asks for it, and the kernel has it. Where it has not, the farm is told once.
    pub(super) fn has(self, feature: Feature, contents: &mut Contents, farm: &Farm) -> bool {
        if !feature.is_wanted_by(farm) {
            return false;
        }
        let lacks = self.without.contains(&feature);
        let text = format!("farm {}: {}", farm.name, feature.regret());
        // Of both families.
        if lacks && !contents.warnings.contains(&text) {
            contents.warnings.push(text);
        }
        !lacks
    }
}

/// Adds all that one farm needs. A farm that is off needs nothing.
pub(super) fn add(contents: &mut Contents, farm: &Farm, ground: Ground<'_>) {
    if farm.state == FarmState::Off {
        return;
    }
    match farm.mode {
        Mode::Snat | Mode::Dnat => nat::add(contents, farm, ground),
        Mode::Dsr => wire::add(contents, farm, ground),
        Mode::Stateless => stateless::add(contents, farm, ground),
        Mode::Local => local::add(contents, farm, ground),
    }
}

/// The table that has a farm's schedule.
pub(super) fn place(farm: &Farm) -> Place {
    match farm.mode {
        Mode::Snat | Mode::Dnat | Mode::Stateless | Mode::Local => Place::Inet,
        Mode::Dsr if tunnel::via(farm) != DsrVia::L2 => Place::Tunnels,
        Mode::Dsr => Place::Netdev,
    }
}

/// The families that a farm listens in.
pub(super) fn versions(farm: &Farm) -> impl Iterator<Item = IpVersion> {
    let listens = |version: &IpVersion| farm.listen.iter().any(|listen| IpVersion::of(listen.address) == *version);
    IpVersion::ALL.into_iter().filter(listens)
}

/// Leads what a farm listens on in one family to a chain.
pub(super) fn add_listeners(contents: &mut Contents, farm: &Farm, door: Door, version: IpVersion, chain: &Arc<str>) {
    for listen in farm.listen.iter().filter(|listen| IpVersion::of(listen.address) == version) {
        add_listener(contents, listen, door, chain);
    }
}

/// Leads what comes to one listener to a chain.
pub(super) fn add_listener(contents: &mut Contents, listen: &Listen, door: Door, chain: &Arc<str>) {
    let (reach, key) = listener(listen);
    let element = Element { data: Some(Data::Verdict(Verdict::Goto(chain.clone()))), ..Element::default() };
    contents.add(Map::Listeners(door, IpVersion::of(listen.address), reach), key, element);
}

/// It listens on every address that the box has, in mode `local`.
pub(super) fn is_anywhere(listen: &Listen) -> bool {
    listen.address.is_unspecified()
}

/// How far a listener reaches, and its key.
pub(super) fn listener(listen: &Listen) -> (Reach, Key) {
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
    match (listen.protocol.number(), listen.ports) {
        (None, _) => (Reach::AllProtocols, exactly(address)),
        (Some(number), Ports::All) => (Reach::AllPorts, exactly(of_protocol(number))),
        (Some(number), Ports::One(port)) => (Reach::Port, exactly(with_port(of_protocol(number), port))),
        (Some(number), Ports::Range(first, last)) => {
            let (start, end) = (with_port(of_protocol(number), first), with_port(of_protocol(number), last));
            (Reach::Range, Key { start, end: Some(end.into()) })
        }
    }
}
