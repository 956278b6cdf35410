//! `max-connections` in the ruleset: tokens, and where flows go that get none.

use std::sync::Arc;

use headgate_config::model::{Backend, Farm, LimitAction, OnEmpty};
use headgate_nft::{Change, Element, Field, Key, Limit, Own, Rule, Set, Statement, Target, Value, Verdict};

use super::contents::{Contents, shared_set};
use super::refuse::answer;
use super::terms::{by_mark, exactly, mark_bytes, rule, yields};
use crate::ids::Ids;
use crate::maps::Map;
use crate::names;

/// A token comes back by itself after so long, seconds: the kernel has no bucket that nothing flows into.
const TOKEN_S: u64 = 7 * 86_400;
/// Backends that a new flow is offered to, the first one included. Full ones are not in the ring for long, so only a
/// burst within one period comes to the last.
const OFFERS: usize = 8;

/// What a farm adds whose backends have `max-connections`.
pub(super) fn add(contents: &mut Contents, farm: &Farm, ids: &Ids) {
    let capped = farm.backends.values().filter(|backend| backend.max_connections.is_some());
    let capped: Vec<(&Backend, u32)> =
        capped.filter_map(|backend| Some((backend, ids.mark(&farm.name, &backend.name)?))).collect();
    if capped.is_empty() {
        return;
    }
    for map in [Map::Caps, Map::Capped, Map::Overflow, Map::Silent] {
        contents.declare(map);
    }
    for (backend, mark) in capped {
        let comment = Some(names::backend_comment(&farm.name, &backend.name));
        contents.add(Map::Admitted, exactly(mark_bytes(mark)), Element { comment, ..Element::default() });
    }
    if farm.on_empty == OnEmpty::Drop {
        for mark in ids.marks_of(farm) {
            contents.add(Map::Silent, exactly(mark_bytes(mark)), Element::default());
        }
    }
}

/// Each backend of a farm hands on to the next that serves, in a ring; those that do not serve, to the first.
pub(super) fn add_ring(contents: &mut Contents, farm: &Farm, serving: &[&Backend], ids: &Ids) {
    if farm.backends.values().all(|backend| backend.max_connections.is_none()) {
        return;
    }
    let Some(first) = serving.first() else { return };
    let of_family = |backend: &&Backend| backend.address.address.is_ipv4() == first.address.address.is_ipv4();
    for backend in farm.backends.values().filter(of_family) {
        let place = serving.iter().position(|other| other.name == backend.name);
        let next = place.map_or(0, |place| (place + 1) % serving.len());
        let marks = ids.mark(&farm.name, &backend.name).zip(ids.mark(&farm.name, &serving[next].name));
        if let Some((mark, next)) = marks.filter(|(mark, next)| mark != next) {
            contents.add(Map::Overflow, exactly(mark_bytes(mark)), yields(mark_bytes(next)));
        }
    }
}

/// The chain that a flow passes once its backend is known: a token is taken, or the next backend is asked.
///
/// Nothing is asked of backends that are not in `capped`: they have no maximum, or nobody has counted their flows for long.
pub(super) fn admit() -> Vec<Rule> {
    let has = |map: Map, invert| Statement::InSet { value: Value::Field(Field::CtMark), set: map.name(), invert };
    let leave = || Statement::Verdict(Verdict::Return);
    let mut rules = Vec::new();
    for offer in 0..OFFERS {
        if offer > 0 {
            rules.push(rule([Statement::Set { target: Target::CtMark, value: by_mark(Map::Overflow) }]));
        }
        rules.push(rule([has(Map::Capped, true), leave()]));
        rules.push(rule([has(Map::Caps, false), has(Map::Admitted, false), leave()]));
    }
    rules.push(rule([has(Map::Silent, false), Statement::Verdict(Verdict::Drop)]));
    rules.extend(answer(LimitAction::Reject));
    rules
}

/// One backend's new tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The backend's ct mark.
    pub mark: u32,
    /// What its counter of taken tokens is called.
    pub comment: Option<Arc<str>>,
    /// What it was given last; 0: nothing.
    pub had: u32,
    /// What it gets; 0: nothing.
    pub gets: u32,
}

/// What hands out tokens, and says that the maxima of `capped` backends hold for so long: a supervisor that is gone
/// lifts them, instead of having everybody refused.
pub fn grant(tokens: &[Tokens], capped: &[u32], hold_ms: u64) -> Vec<Change> {
    let element = |mark: u32, credit: u32| {
        let limit = Limit { rate: 1, per_s: TOKEN_S, burst: credit, over: false };
        (
            exactly(mark_bytes(mark)),
            Element { own: Own { limit: Some(limit), ..Own::default() }.boxed(), ..Element::default() },
        )
    };
    let old = tokens.iter().filter(|tokens| tokens.had > 0).map(|tokens| element(tokens.mark, tokens.had));
    let new = tokens.iter().filter(|tokens| tokens.gets > 0).map(|tokens| element(tokens.mark, tokens.gets));
    let hold = |mark: &u32| {
        (
            exactly(mark_bytes(*mark)),
            Element { own: Own { timeout_ms: Some(hold_ms), ..Own::default() }.boxed(), ..Element::default() },
        )
    };
    let held: Vec<(Key, Element)> = capped.iter().map(hold).collect();
    let counter = |tokens: &Tokens| {
        (exactly(mark_bytes(tokens.mark)), Element { comment: tokens.comment.clone(), ..Element::default() })
    };
    let counters: Vec<(Key, Element)> = tokens.iter().map(counter).collect();
    let changes = [
        change(Map::Admitted, counters.clone(), Write::Delete),
        change(Map::Admitted, counters, Write::Add),
        change(Map::Caps, old.collect(), Write::Delete),
        change(Map::Caps, new.collect(), Write::Add),
        // An element that is there keeps its time; added for those that are not, deleted, and added anew.
        change(Map::Capped, held.clone(), Write::Add),
        change(Map::Capped, held.clone(), Write::Delete),
        change(Map::Capped, held, Write::Add),
    ];
    changes.into_iter().flatten().collect()
}

enum Write {
    Add,
    Delete,
}

fn change(map: Map, elements: Vec<(Key, Element)>, write: Write) -> Option<Change> {
    if elements.is_empty() {
        return None;
    }
    let definition: Box<Set> = Box::new(shared_set(map, Vec::new(), None));
    let (table, set) = (map.place().table(), map.name());
    Some(match write {
        Write::Add => Change::AddElements { table, set, definition, elements },
        Write::Delete => Change::DeleteElements { table, set, definition, elements },
    })
}
