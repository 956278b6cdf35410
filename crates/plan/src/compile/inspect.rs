//! What a farm asks of every packet that a client sends: `strict-tcp` and `tcp-resets`.
//!
//! `strict-tcp` stands behind connection tracking and before the nat hooks, so that what is refused never becomes a flow. Packets
//! for other farms, and answers, pay for one lookup that misses. `tcp-resets` stands before connection tracking, which would take
//! a connection for ended by a reset that its backend never hears of; what is no reset pays for a look at its flags. Both are
//! there only while some farm asks.

use std::sync::Arc;

use headgate_config::model::{Farm, Limits};
use headgate_config::types::Rate;
use headgate_nft::{Chain, Operator, Rule};

use super::contents::Contents;
use super::farm::add_listeners;
use super::guard::{self, Post};
use super::hooks::{base, lookups};
use super::terms::{ACK, FIN, INVALID, NEW, PSH, RST, SYN, URG, flags, in_state, is_tcp, jump, rule};
use crate::logged::Reason;
use crate::maps::Door;
use crate::names;

/// Flags that no implementation sends together, as a mask and what is left of it: nmap's scans, and attempts to slip past
/// filters that look at SYN alone. RFC 9293 has no segment without any of them.
const IMPOSSIBLE: [(u8, u8); 6] = [
    (FIN | SYN, FIN | SYN),
    (SYN | RST, SYN | RST),
    (FIN | RST, FIN | RST),
    (FIN | ACK, FIN),
    (PSH | ACK, PSH),
    (FIN | SYN | RST | PSH | ACK | URG, 0),
];

/// Adds the chains of a farm that asks for something; nothing for others.
pub(super) fn add(contents: &mut Contents, farm: &Farm, post: Post<'_>) {
    let Some(limits) = &farm.limits else { return };
    let strict = strict(contents, farm, limits, post);
    let resets = limits.tcp_resets.map(|rate| over_resets(contents, farm, post, rate));
    let inspect = (Door::Inspect, names::inspect_chain(post.version, &farm.name), strict);
    let resets = (Door::Resets, names::resets_chain(post.version, &farm.name), resets.into_iter().collect());
    for (door, chain, rules) in [inspect, resets] {
        if !rules.is_empty() {
            add_listeners(contents, farm, door, post.version, &chain);
            contents.add_chain(post.place, chain, rules);
        }
    }
}

/// The base chain of what is asked of resets.
pub(super) fn resets(contents: &Contents) -> (Arc<str>, Chain) {
    let rules = lookups(contents, Door::Resets).into_iter().map(|mut rule| {
        rule.statements.splice(1..1, [is_tcp(), flags(RST, Operator::NotEqual, 0)]);
        rule
    });
    base(names::RESETS, rules.collect())
}

fn strict(contents: &mut Contents, farm: &Farm, limits: &Limits, post: Post<'_>) -> Vec<Rule> {
    if !limits.strict_tcp {
        return Vec::new();
    }
    let refuse = guard::refusal(contents, farm, post, Reason::StrictTcp);
    let impossible = IMPOSSIBLE.map(|(mask, left)| rule([is_tcp(), flags(mask, Operator::Equal, left), jump(&refuse)]));
    // Connection tracking would take it for the middle of a connection that it did not see begin.
    let begins_in_the_middle =
        rule([is_tcp(), in_state(NEW), flags(FIN | SYN | RST | ACK, Operator::NotEqual, SYN), jump(&refuse)]);
    let mut invalid = rule([is_tcp(), in_state(INVALID), jump(&refuse)]);
    if limits.syn_proxy {
        // The third packet of a handshake with the proxy looks like the middle of nothing: the proxy knows better.
        invalid.statements.insert(2, flags(FIN | SYN | RST | ACK, Operator::NotEqual, ACK));
    }
    let mut rules = vec![invalid];
    rules.extend(impossible);
    rules.push(begins_in_the_middle);
    rules
}

/// Refuses what comes too often; of resets only.
pub(super) fn over_resets(contents: &mut Contents, farm: &Farm, post: Post<'_>, rate: Rate) -> Rule {
    let over = guard::over_rate(contents, farm, post, ("resets/", rate));
    let refuse = guard::refusal(contents, farm, post, Reason::TcpResets);
    rule([is_tcp(), flags(RST, Operator::NotEqual, 0), over, jump(&refuse)])
}
