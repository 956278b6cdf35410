//! What a new flow has to pass before it gets a backend: the policies and the limits of its farm.
//!
//! A chain of its own before the farm's, which changes only with the limits: a change of backends writes no verdict. In the nat
//! hooks it sees the first packet of each flow and no other, so established flows cannot suffer from a limit and pay nothing.
//!
//! Every refusal is a chain, one a reason: it counts, bans, and drops or rejects. It is jumped to, so that a limit that only
//! counts (`action = "log"`) goes on behind it.
//!
//! A client is an element of a set with a time-out. When the set is full, its clients stay limited and others are not: the
//! kernel ends the rule that cannot add an element. Refusing everybody instead would let some thousand forged sources shut a
//! farm. The limit of all clients together holds all the same.

use std::sync::Arc;
use std::time::Duration;

use headgate_config::model::{Farm, LimitAction, Limits};
use headgate_config::types::Rate;
use headgate_nft::{Dynset, DynsetOp, Limit, Operator, Rule, Set, Stateful, Statement, Verdict};

use super::contents::Contents;
use super::farm::Ground;
use super::policy;
use super::refuse;
use super::terms::{ACK, FIN, RST, SYN, client, flags, goto, is_tcp, jump, rule};
use crate::logged::Reason;
use crate::maps::{self, Place};
use crate::names::{self, IpVersion};

/// Where a guard stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Post<'a> {
    pub(super) place: Place,
    pub(super) version: IpVersion,
    pub(super) ground: Ground<'a>,
}

/// The chain that the listeners of a farm go to, so that its flows end in `then`: that one itself where nothing is guarded.
pub(super) fn entrance(contents: &mut Contents, farm: &Farm, post: Post<'_>, then: &Arc<str>) -> Arc<str> {
    let mut rules = checks(contents, farm, post);
    if rules.is_empty() {
        return then.clone();
    }
    rules.push(rule([goto(then)]));
    let chain = names::guard_chain(post.version, &farm.name);
    contents.add_chain(post.place, chain.clone(), rules);
    chain
}

/// The chain to jump to where no hook tells the first packet of a flow from others: it comes back with whatever is let pass, and
/// with all that is the middle of a TCP connection. `None` where nothing is guarded.
pub(super) fn watch(contents: &mut Contents, farm: &Farm, post: Post<'_>) -> Option<Arc<str>> {
    let checks = checks(contents, farm, post);
    if checks.is_empty() {
        return None;
    }
    let middle = flags(FIN | SYN | RST | ACK, Operator::NotEqual, SYN);
    let mut rules = vec![rule([is_tcp(), middle, Statement::Verdict(Verdict::Return)])];
    rules.extend(checks);
    let chain = names::guard_chain(post.version, &farm.name);
    contents.add_chain(post.place, chain.clone(), rules);
    Some(chain)
}

/// All that a new flow is asked.
fn checks(contents: &mut Contents, farm: &Farm, post: Post<'_>) -> Vec<Rule> {
    let mut rules = admission(contents, farm, post);
    if let Some(limits) = &farm.limits {
        rules.extend(connections(contents, farm, limits, post));
        rules.extend(new_connections(contents, farm, limits, post));
        rules.extend(total(contents, farm, limits, post));
    }
    rules
}

/// The rules that ask who the client is, and not how often it came.
pub(super) fn admission(contents: &mut Contents, farm: &Farm, post: Post<'_>) -> Vec<Rule> {
    let banned = farm.limits.as_ref().and_then(|limits| banned(contents, farm, limits, post));
    banned.into_iter().chain(policy::rules(contents, farm, post)).collect()
}

/// How long an offender stays out. Nobody does when offences are only counted.
fn ban(limits: &Limits) -> Option<Duration> {
    limits.ban.filter(|_| limits.action != LimitAction::Log)
}

fn banned(contents: &mut Contents, farm: &Farm, limits: &Limits, post: Post<'_>) -> Option<Rule> {
    let time = ban(limits)?;
    let set = names::ban_set(post.version, &farm.name);
    contents.add_set(post.place, set.clone(), clients(post.version, Some(time)));
    let refuse = refusal(contents, farm, post, Reason::Ban);
    Some(rule([Statement::InSet { value: client(post.version), set, invert: false }, jump(&refuse)]))
}

/// `nf_conncount` walks the connections of the client: it counts those that live, and forgets closed ones by itself.
fn connections(contents: &mut Contents, farm: &Farm, limits: &Limits, post: Post<'_>) -> Option<Rule> {
    let count = limits.connections_per_client?;
    let set = names::clients_set(post.version, &farm.name, &format!("{count}"));
    // Without a time-out: the kernel drops an element when its last connection is gone.
    contents.add_set(post.place, set.clone(), clients(post.version, None));
    let refuse = refusal(contents, farm, post, Reason::ConnectionsPerClient);
    let each = Stateful::Connlimit { count, over: true };
    Some(rule([for_each_client(DynsetOp::Add, set, post.version, each), jump(&refuse)]))
}

fn new_connections(contents: &mut Contents, farm: &Farm, limits: &Limits, post: Post<'_>) -> Option<Rule> {
    let over = over_rate(contents, farm, post, ("", limits.new_connections?));
    let refuse = refusal(contents, farm, post, Reason::NewConnections);
    Some(rule([over, jump(&refuse)]))
}

/// Goes on only for a client that is over its rate. Adds the set of clients; two kinds of events have sets of their own.
pub(super) fn over_rate(contents: &mut Contents, farm: &Farm, post: Post<'_>, (kind, rate): (&str, Rate)) -> Statement {
    let set = rate_set(contents, farm, post, (kind, rate));
    for_each_client(DynsetOp::Update, set, post.version, Stateful::Limit(over(rate)))
}

/// One bucket for both families, so in a chain that both jump to.
fn total(contents: &mut Contents, farm: &Farm, limits: &Limits, post: Post<'_>) -> Option<Rule> {
    let rate = limits.new_connections_total?;
    let chain = names::total_chain(&farm.name);
    let within = Statement::Limit(Limit { over: false, ..over(rate) });
    let mut rules = vec![rule([within, Statement::Verdict(Verdict::Return)])];
    rules.extend(refuse::counted(contents, farm, post, (Reason::NewConnectionsTotal, limits.action)));
    contents.add_chain(post.place, chain.clone(), rules);
    Some(rule([jump(&chain)]))
}

/// Adds the chain that refuses for a reason.
pub(super) fn refusal(contents: &mut Contents, farm: &Farm, post: Post<'_>, reason: Reason) -> Arc<str> {
    let chain = names::refuse_chain(post.version, &farm.name, reason.word());
    let limits = farm.limits.as_ref();
    let mut rules = Vec::new();
    if reason.bans() && limits.and_then(ban).is_some() {
        // Apart from the verdict: when the set is full this rule ends here.
        let set = names::ban_set(post.version, &farm.name);
        rules.push(rule([Statement::from(Dynset {
            op: DynsetOp::Update,
            set,
            key: client(post.version),
            data: None,
            timeout_ms: None,
            stateful: None,
        })]));
    }
    let action = match limits.map(|limits| limits.action) {
        // A policy is an order, no limit that could be tried out first.
        Some(LimitAction::Log) if reason == Reason::Policies => LimitAction::Drop,
        // Nobody answers a reset, nor what nobody sends in earnest.
        Some(LimitAction::Reject) if matches!(reason, Reason::StrictTcp | Reason::TcpResets) => LimitAction::Drop,
        action => action.unwrap_or_default(),
    };
    rules.extend(refuse::counted(contents, farm, post, (reason, action)));
    contents.add_chain(post.place, chain.clone(), rules);
    chain
}

fn for_each_client(op: DynsetOp, set: Arc<str>, version: IpVersion, each: Stateful) -> Statement {
    let (key, stateful) = (client(version), Some(each));
    Dynset { op, set, key, data: None, timeout_ms: None, stateful }.into()
}

/// A set of clients, which the packet path fills.
fn clients(version: IpVersion, timeout: Option<Duration>) -> Set {
    Set {
        key: vec![maps::address(version)],
        data: None,
        interval: false,
        dynamic: true,
        timeout_ms: timeout.map(|timeout| timeout.as_millis() as u64),
        size: Some(names::CLIENTS_MAX),
        counters: false,
        elements: Default::default(),
    }
}

/// Adds the set that has a bucket for each client. One that a client left alone until it is full again is as good as none.
fn rate_set(contents: &mut Contents, farm: &Farm, post: Post<'_>, (kind, rate): (&str, Rate)) -> Arc<str> {
    /// Shorter is not worth the work of removing and adding elements.
    const SHORTEST: Duration = Duration::from_secs(5);
    let Limit { rate, per_s, burst, .. } = over(rate);
    let full = Duration::from_secs((per_s * u64::from(burst)).div_ceil(rate));
    let set = names::clients_set(post.version, &farm.name, &format!("{kind}{rate}/{per_s}s/{burst}"));
    contents.add_set(post.place, set.clone(), clients(post.version, Some(full.max(SHORTEST))));
    set
}

/// Without a burst, as many may come at once as in the whole unit of time: they are within the rate.
fn over(rate: Rate) -> Limit {
    Limit {
        rate: u64::from(rate.count),
        per_s: rate.per.as_secs(),
        burst: rate.burst.unwrap_or(rate.count),
        over: true,
    }
}
