//! What happens to a new flow once its backend is known, for the farms that want it.
//!
//! `assign` looks the backend up in the map [`Map::Chosen`], which leads to the farm's chain `chosen4-NAME`. That chain and the
//! backends' elements do not depend on states and weights: a jump is a verdict, and those who change must not have one.

use headgate_config::model::Farm;
use headgate_nft::{Data, Element, Rule, Verdict};

use super::contents::Contents;
use super::farm::Ground;
use super::sticky;
use super::terms::{exactly, mark_bytes};
use crate::maps::{Map, Place};
use crate::names::{self, IpVersion};

/// Adds what one farm wants in one family.
pub(super) fn add(contents: &mut Contents, farm: &Farm, version: IpVersion, ground: Ground<'_>) {
    let rules: Vec<Rule> = sticky::remember(farm, version).into_iter().collect();
    if rules.is_empty() {
        return;
    }
    let chain = names::chosen_chain(version, &farm.name);
    let backends = farm.backends.values().filter(|backend| IpVersion::of(backend.address.address) == version);
    for mark in backends.filter_map(|backend| ground.ids.mark(&farm.name, &backend.name)) {
        let element = Element { data: Some(Data::Verdict(Verdict::Jump(chain.clone()))), ..Element::default() };
        contents.add(Map::Chosen, exactly(mark_bytes(mark)), element);
    }
    contents.add_chain(Place::Inet, chain, rules);
}
