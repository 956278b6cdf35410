//! `queue`: a program (NFQUEUE) sees new flows first, and they pass when no program listens.
//!
//! What a program lets pass goes on at the next hook, never at the next rule: so this stands in chains of its own, behind what
//! refuses by the packet and before the nat hooks, whose limits and schedule it then meets as any other flow.

use std::sync::Arc;

use headgate_config::model::Farm;
use headgate_nft::{Chain, Statement};

use super::contents::Contents;
use super::farm::add_listeners;
use super::guard::Post;
use super::hooks::{base, lookups};
use super::terms::{NEW, in_state, rule};
use crate::features::Feature;
use crate::maps::Door;
use crate::names;

/// The statement of a farm that wants it, if the kernel has it.
pub(super) fn statement(contents: &mut Contents, farm: &Farm, post: Post<'_>) -> Option<Statement> {
    let number = farm.queue?;
    post.ground.has(Feature::Queue, contents, farm).then_some(Statement::Queue { number, bypass: true })
}

/// Adds the chain of a farm in one family; nothing for others.
pub(super) fn add(contents: &mut Contents, farm: &Farm, post: Post<'_>) {
    let Some(statement) = statement(contents, farm, post) else { return };
    let chain = names::queue_chain(post.version, &farm.name);
    add_listeners(contents, farm, Door::Queue, post.version, &chain);
    contents.add_chain(post.place, chain, vec![rule([statement])]);
}

/// The base chains: for what comes in, and for what the box itself sends, a SYN of its proxy among it.
pub(super) fn chains(contents: &Contents) -> Vec<(Arc<str>, Chain)> {
    let rules = || {
        let looked_up = lookups(contents, Door::Queue).into_iter().map(|mut rule| {
            rule.statements.insert(0, in_state(NEW));
            rule
        });
        looked_up.collect()
    };
    [names::QUEUE, names::QUEUE_OUTPUT].map(|name| base(name, rules())).into()
}
