//! Policies: lists of addresses that farms allow or deny.
//!
//! A policy is a set, shared by all farms that name it, so a list of 100,000 prefixes is in the kernel once. A list that
//! changed is another set (its digest is part of the name), which is there before the rules that name it are exchanged. To change the elements of the old one would be less to write, but the kernel keeps ranges in one tree with those
//! that come or go: until such a transaction is over a lookup that meets one of them within a range does not find the range
//! (`__nft_rbtree_lookup`), and adding 50,000 beside 50,000 that go took 5 s, for each walks over those that go.

use std::collections::{BTreeMap, BTreeSet};

use headgate_config::Config;
use headgate_config::model::{Farm, PolicyAction, Ranges};
use headgate_config::types::PolicyName;
use headgate_nft::{Bytes, Element, Key, Rule, Set, Statement, Verdict};

use super::contents::Contents;
use super::guard::{self, Post};
use super::terms::{client, jump, rule};
use crate::logged::Reason;
use crate::maps;
use crate::names::{self, IpVersion};

/// All that a farm needs to know of the policies.
pub(super) type Known = BTreeMap<PolicyName, Essence>;

/// What a policy does, and a digest of whom it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Essence {
    action: PolicyAction,
    digest: u64,
}

/// The policies that some farm asks.
pub(super) fn known(config: &Config) -> Known {
    let asked: BTreeSet<&PolicyName> = config.farms.values().flat_map(|farm| &farm.policies).collect();
    let essence = |name: &PolicyName| {
        let policy = config.policies.get(name)?;
        Some((name.clone(), Essence { action: policy.action, digest: digest(&policy.ranges) }))
    };
    asked.into_iter().filter_map(essence).collect()
}

/// 64-bit FNV-1a over 64 bits at a time: the same on every box and after every restart. Two lists of one digest would only be
/// exchanged element by element.
fn digest(ranges: &Ranges) -> u64 {
    let v4 = ranges.v4().map(|(first, last)| u64::from(first.to_bits()) << 32 | u64::from(last.to_bits()));
    let halves = |bits: u128| [(bits >> 64) as u64, bits as u64];
    let v6 = ranges.v6().flat_map(|(first, last)| [halves(first.to_bits()), halves(last.to_bits())]).flatten();
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    v4.chain([ranges.v4().len() as u64]).chain(v6).fold(0xcbf2_9ce4_8422_2325, mix)
}

/// The rules that ask a farm's policies in their order; the first that has the client decides. Whom none of them has meets
/// the opposite of the last: a list that allows shuts out the rest, a list that denies lets it pass.
pub(super) fn rules(contents: &mut Contents, farm: &Farm, post: Post<'_>) -> Vec<Rule> {
    let named = farm.policies.iter().filter_map(|name| Some((name, *post.ground.policies.get(name)?)));
    let named: Vec<(&PolicyName, Essence)> = named.collect();
    let Some((last, before)) = named.split_last() else { return Vec::new() };
    contents.needs.policies.extend(named.iter().map(|(name, _)| (post.place, post.version, (*name).clone())));
    let refuse = guard::refusal(contents, farm, post, Reason::Policies);
    let among = |(name, policy): &(&PolicyName, Essence), invert: bool| {
        let set = names::policy_set(post.version, name, policy.digest);
        Statement::InSet { value: client(post.version), set, invert }
    };
    let mut rules: Vec<Rule> = before
        .iter()
        .map(|policy| match policy.1.action {
            PolicyAction::Allow => rule([among(policy, false), Statement::Verdict(Verdict::Return)]),
            PolicyAction::Deny => rule([among(policy, false), jump(&refuse)]),
        })
        .collect();
    rules.push(rule([among(last, last.1.action == PolicyAction::Allow), jump(&refuse)]));
    if before.iter().all(|(_, policy)| policy.action == PolicyAction::Deny) {
        return rules;
    }
    // Who is allowed early skips the other policies, yet no limit: so they are a chain that can be returned from.
    let chain = names::policies_chain(post.version, &farm.name);
    contents.add_chain(post.place, chain.clone(), rules);
    vec![rule([jump(&chain)])]
}

/// Adds the sets of the policies that some farm asks.
pub(super) fn add_sets(contents: &mut Contents, config: &Config, known: &Known) {
    for (place, version, name) in contents.needs.policies.clone() {
        if let (Some(policy), Some(essence)) = (config.policies.get(&name), known.get(&name)) {
            let set = set(version, &policy.ranges);
            contents.add_set(place, names::policy_set(version, &name, essence.digest), set);
        }
    }
}

fn set(version: IpVersion, ranges: &Ranges) -> Set {
    let element = |first: &[u8], last: &[u8]| {
        let end = (first != last).then(|| Bytes::from_slice(last).into());
        (Key { start: Bytes::from_slice(first), end }, Element::default())
    };
    let elements = match version {
        IpVersion::V4 => ranges.v4().map(|(first, last)| element(&first.octets(), &last.octets())).collect(),
        IpVersion::V6 => ranges.v6().map(|(first, last)| element(&first.octets(), &last.octets())).collect(),
    };
    let key = vec![maps::address(version)];
    Set { key, data: None, interval: true, dynamic: false, timeout_ms: None, size: None, counters: false, elements }
}
