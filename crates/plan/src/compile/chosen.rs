//! What happens to a new flow once its backend is known, for the farms that want it.
//!
//! The nat hooks, and what sends flows of `dsr` farms, look the backend up in the map [`Map::Chosen`], which leads to the farm's chain `chosen4-NAME`. That chain and the
//! backends' elements do not depend on states and weights: a jump is a verdict, and those who change must not have one.

use headgate_config::model::{Farm, LogEvent, Word};
use headgate_config::types::Protocol;
use headgate_nft::{Data, Element, Field, ObjectKind, Rule, Statement, Value, Verdict};

use super::contents::Contents;
use super::farm::{self, Ground};
use super::sticky;
use super::terms::{exactly, is, mark_bytes, rule};
use crate::features::Feature;
use crate::helpers::{Variant, variants};
use crate::logged::Logged;
use crate::maps::{Map, Place};
use crate::names::{self, IpVersion};

/// Adds what one farm wants in one family.
pub(super) fn add(contents: &mut Contents, farm: &Farm, version: IpVersion, ground: Ground<'_>) {
    let mut rules = helpers(contents, farm, version, ground);
    rules.extend(sticky::remember(farm, version));
    rules.extend(new_flows(contents, farm, version, ground));
    lead(contents, farm, version, rules, ground);
}

/// The same for a farm whose flows connection tracking does not know.
pub(super) fn add_untracked(contents: &mut Contents, farm: &Farm, version: IpVersion, ground: Ground<'_>) {
    let rules = new_flows(contents, farm, version, ground).into_iter().collect();
    lead(contents, farm, version, rules, ground);
}

/// Leads flows of every backend to a chain of the farm with these rules.
fn lead(contents: &mut Contents, farm: &Farm, version: IpVersion, rules: Vec<Rule>, ground: Ground<'_>) {
    if rules.is_empty() {
        return;
    }
    let place = farm::place(farm);
    let chain = names::chosen_chain(version, &farm.name);
    let backends = farm.backends.values().filter(|backend| IpVersion::of(backend.address.address) == version);
    for mark in backends.filter_map(|backend| ground.ids.mark(&farm.name, &backend.name)) {
        let element = Element { data: Some(Data::Verdict(Verdict::Jump(chain.clone()))), ..Element::default() };
        contents.add(Map::Chosen(place), exactly(mark_bytes(mark)), element);
    }
    contents.add_chain(place, chain, rules);
}

/// The mark of a flow's backend: that of the flow, or of its packet where there is no connection tracking.
fn mark_at(place: Place) -> Value {
    Value::Field(if place == Place::Inet { Field::CtMark } else { Field::Mark })
}

/// What leads a flow to what [`add`] and [`add_untracked`] have put there.
pub(super) fn by_mark(place: Place) -> Statement {
    Statement::VerdictMap { key: mark_at(place), map: Map::Chosen(place).name() }
}

/// Tells of a new flow. One rule holds the rate of the farm; who the backend is only a chain of its own can say, since a prefix
/// is a constant and the kernel tells no ct mark where it lacks `CONFIG_NETFILTER_NETLINK_GLUE_CT`.
fn new_flows(contents: &mut Contents, farm: &Farm, version: IpVersion, ground: Ground<'_>) -> Option<Rule> {
    if !farm.log.contains(&LogEvent::New) || !ground.has(Feature::Log, contents, farm) {
        return None;
    }
    let place = farm::place(farm);
    for backend in farm.backends.values().filter(|backend| IpVersion::of(backend.address.address) == version) {
        let Some(mark) = ground.ids.mark(&farm.name, &backend.name) else { continue };
        let chain = names::new_chain(&farm.name, &backend.name);
        let element = Element { data: Some(Data::Verdict(Verdict::Jump(chain.clone()))), ..Element::default() };
        contents.add(Map::Logged(place), exactly(mark_bytes(mark)), element);
        let [_, log] = Logged::New(mark).statements();
        contents.add_chain(place, chain, vec![rule([log])]);
    }
    let by_mark = Statement::VerdictMap { key: mark_at(place), map: Map::Logged(place).name() };
    Some(rule([Logged::within(), by_mark]))
}

/// Gives flows the farm's helper, if it is for this family. It has to be there before the translation, which makes room for what
/// the helper changes in payloads.
fn helpers(contents: &mut Contents, farm: &Farm, version: IpVersion, ground: Ground<'_>) -> Vec<Rule> {
    let Some(helper) = farm.helper else { return Vec::new() };
    if ground.lacking.contains(helper.word()) {
        let text = format!(
            "farm {}: this kernel has no helper {}: what its clients say of further connections is not followed",
            farm.name,
            helper.word()
        );
        // Of both families.
        if !contents.warnings.contains(&text) {
            contents.warnings.push(text);
        }
        return Vec::new();
    }
    let listens = |protocol| farm.listen.iter().any(|listen| [protocol, Protocol::Any].contains(&listen.protocol));
    let fits = |variant: &Variant| listens(variant.protocol) && variant.families.contains(&version);
    let mut rules = Vec::new();
    for variant in variants(helper).into_iter().filter(fits) {
        let Some(protocol) = variant.protocol.number() else { continue };
        let object = Statement::Object { kind: ObjectKind::Helper, name: variant.name.clone() };
        contents.needs.helpers.insert(variant.name, variant.object);
        rules.push(rule([is(Field::L4proto, protocol), object]));
    }
    rules
}
