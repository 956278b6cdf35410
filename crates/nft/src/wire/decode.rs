//! Attributes into values.
//!
//! The registers are followed symbolically: a load puts a [`Value`](crate::Value) into a register, and whatever reads the register takes
//! it out again. A rule is understood only if every value is taken exactly once; so a rule of somebody else never passes
//! for one of ours. What is not understood becomes [`Statement::Unknown`](crate::Statement::Unknown) or [`Datatype::Other`](crate::Datatype::Other) and never an error.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustables::sys;

use super::{Attributes, NF_ACCEPT, NF_DROP, text, user_data};
use crate::expr::Verdict;
use crate::model::{BaseChain, Chain, ChainKind, Family, Hook};

mod object;
mod rule;
mod set;

pub(crate) use object::{flowtable, named_counts, object};
pub(crate) use rule::rule;
pub(crate) use set::{Elements, element, element_state, set};

/// The comment in user data.
fn comment(mut bytes: &[u8]) -> Option<Arc<str>> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == user_data::COMMENT {
            return text(value).map(Arc::from);
        }
        bytes = &rest[usize::from(*length)..];
    }
    None
}

fn verdict(data: Attributes<'_>) -> Option<Verdict> {
    let chain = || data.string(sys::NFTA_VERDICT_CHAIN).map(Arc::from);
    Some(match data.number(sys::NFTA_VERDICT_CODE)? as i32 {
        NF_ACCEPT => Verdict::Accept,
        NF_DROP => Verdict::Drop,
        sys::NFT_RETURN => Verdict::Return,
        sys::NFT_GOTO => Verdict::Goto(chain()?),
        sys::NFT_JUMP => Verdict::Jump(chain()?),
        _ => return None,
    })
}

/// Table, name and definition of a chain. `None`: without a name, or a nameless chain inside a rule, which goes with it.
pub(crate) fn chain(family: Family, attributes: Attributes<'_>) -> Option<(&str, &str, Chain)> {
    /// `NFT_CHAIN_HW_OFFLOAD` and `NFT_CHAIN_BINDING` (linux/netfilter/nf_tables.h).
    const OFFLOAD: u32 = 2;
    const BINDING: u32 = 4;
    let flags = attributes.number(sys::NFTA_CHAIN_FLAGS).unwrap_or_default();
    if flags & BINDING != 0 {
        return None;
    }
    let base = attributes.nested(sys::NFTA_CHAIN_HOOK).map(|hook| {
        let known = match attributes.string(sys::NFTA_CHAIN_TYPE) {
            Some("filter") => ChainKind::Filter,
            Some("nat") => ChainKind::Nat,
            Some("route") => ChainKind::Route,
            _ => ChainKind::Foreign,
        };
        let accepts = attributes.number(sys::NFTA_CHAIN_POLICY).is_none_or(|policy| policy == NF_ACCEPT as u32);
        let number = hook.number(sys::NFTA_HOOK_HOOKNUM).and_then(|number| hook_of(family, number));
        let ours = accepts && flags & OFFLOAD == 0 && number.is_some();
        BaseChain {
            kind: if ours { known } else { ChainKind::Foreign },
            hook: number.unwrap_or(Hook::Ingress),
            priority: hook.number(sys::NFTA_HOOK_PRIORITY).unwrap_or_default() as i32,
            devices: devices(hook),
        }
    });
    let name = attributes.string(sys::NFTA_CHAIN_NAME)?;
    Some((attributes.string(sys::NFTA_CHAIN_TABLE)?, name, Chain { base, rules: Vec::new() }))
}

/// A single device is said twice.
fn devices(hook: Attributes<'_>) -> BTreeSet<Arc<str>> {
    let single = || hook.string(sys::NFTA_HOOK_DEV).map(Arc::from).into_iter().collect();
    hook.nested(sys::NFTA_HOOK_DEVS).map_or_else(single, object::devices)
}

fn hook_of(family: Family, number: u32) -> Option<Hook> {
    Some(match (family, number) {
        (Family::Netdev, 0) | (_, 5) => Hook::Ingress,
        (Family::Netdev, _) => return None,
        (_, 0) => Hook::Prerouting,
        (_, 1) => Hook::Input,
        (_, 2) => Hook::Forward,
        (_, 3) => Hook::Output,
        (_, 4) => Hook::Postrouting,
        _ => return None,
    })
}
