//! What a farm asks of every packet that a client sends: `strict-tcp` and `tcp-resets`.
//!
//! Behind connection tracking and before the nat hooks, so that what is refused never becomes a flow. The chain is there only
//! while some farm asks; packets for other farms, and answers, pay for one lookup that misses.

use headgate_config::model::{Farm, Limits};
use headgate_nft::{Bytes, Field, Operator, Rule, Statement, Value};

use super::contents::Contents;
use super::farm::add_listeners;
use super::guard::{self, Post, Reason};
use super::terms::{is_tcp, jump, mark_bytes, rule};
use crate::maps::Door;
use crate::names;

/// Bits of TCP's flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;

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

/// Adds the chain of a farm that asks for something; nothing for others.
pub(super) fn add(contents: &mut Contents, farm: &Farm, post: Post<'_>) {
    let Some(limits) = farm.limits.as_ref().filter(|limits| limits.strict_tcp || limits.tcp_resets.is_some()) else {
        return;
    };
    let chain = names::inspect_chain(post.version, &farm.name);
    add_listeners(contents, farm, Door::Inspect, post.version, &chain);
    let mut rules = strict(contents, farm, limits, post);
    rules.extend(resets(contents, farm, limits, post));
    contents.add_chain(post.place, chain, rules);
}

fn strict(contents: &mut Contents, farm: &Farm, limits: &Limits, post: Post<'_>) -> Vec<Rule> {
    if !limits.strict_tcp {
        return Vec::new();
    }
    /// Bits of `ct state`.
    const INVALID: u32 = 1;
    const NEW: u32 = 8;
    let refuse = guard::refusal(contents, farm, post, Reason::StrictTcp);
    let state = |bit| Statement::Match {
        value: Value::And(Box::new(Value::Field(Field::CtState)), mark_bytes(bit)),
        operator: Operator::NotEqual,
        constant: mark_bytes(0),
    };
    let flags = |mask: u8, operator, left: u8| Statement::Match {
        value: Value::And(Box::new(Value::Field(Field::TcpFlags)), Bytes::from_slice(&[mask])),
        operator,
        constant: Bytes::from_slice(&[left]),
    };
    let impossible = IMPOSSIBLE.map(|(mask, left)| rule([is_tcp(), flags(mask, Operator::Equal, left), jump(&refuse)]));
    // Connection tracking would take it for the middle of a connection that it did not see begin.
    let begins_in_the_middle =
        rule([is_tcp(), state(NEW), flags(FIN | SYN | RST | ACK, Operator::NotEqual, SYN), jump(&refuse)]);
    let mut rules = vec![rule([is_tcp(), state(INVALID), jump(&refuse)])];
    rules.extend(impossible);
    rules.push(begins_in_the_middle);
    rules
}

fn resets(contents: &mut Contents, farm: &Farm, limits: &Limits, post: Post<'_>) -> Option<Rule> {
    let rate = limits.tcp_resets?;
    let over = guard::over_rate(contents, farm, post, ("resets/", rate));
    let refuse = guard::refusal(contents, farm, post, Reason::TcpResets);
    let is_reset = Statement::Match {
        value: Value::And(Box::new(Value::Field(Field::TcpFlags)), Bytes::from_slice(&[RST])),
        operator: Operator::NotEqual,
        constant: Bytes::from_slice(&[0]),
    };
    Some(rule([is_tcp(), is_reset, over, jump(&refuse)]))
}
