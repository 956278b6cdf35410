//! Which client goes to which slot, and which slot to which backend, for the schedulers `hash` and `maglev`.
//!
//! All of it is a function of names, weights and the site's secret: it is the same after a restart, and on another box with
//! the same configuration.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use headgate_config::model::HashField;
use headgate_nft::{Field, Value};

use super::slots;
use crate::names::IpVersion;

/// What all keys of a site begin with: its secret, digested. Without a secret, names alone decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Site(u64);

impl Site {
    pub(super) fn new(secret: Option<&str>) -> Self {
        Self(secret.map_or(FNV_OFFSET, |secret| digest(FNV_OFFSET, secret)))
    }

    /// What a farm's clients are hashed with.
    pub(super) fn seed(self, farm: &str) -> u32 {
        (mix(digest(self.0, farm)) >> 32) as u32
    }

    /// What a backend's preferences among slots follow from.
    pub(super) fn backend_key(self, farm: &str, backend: &str) -> u64 {
        mix(digest(digest(self.0, farm), backend))
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new(None)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// 64-bit FNV-1a, continued, with an end mark that no UTF-8 text contains.
fn digest(start: u64, text: &str) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    text.bytes().chain([0xff]).fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// The finalizer of SplitMix64: FNV alone leaves similar names with similar high bits.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// What is hashed; a later one, where a packet has all its fields, goes before an earlier one. What the box itself sends has no
/// MAC addresses yet: it goes by the other fields, or by its source address when there is no other.
pub(super) fn keys(fields: &[HashField], version: IpVersion) -> Vec<Value> {
    let is_mac = |field: &HashField| matches!(field, HashField::SourceMac | HashField::DestinationMac);
    let mut others: Vec<HashField> = fields.iter().copied().filter(|field| !is_mac(field)).collect();
    if others.is_empty() {
        others.push(HashField::SourceAddress);
    }
    let local = fields.iter().any(is_mac).then(|| key(&others, version));
    local.into_iter().chain([key(fields, version)]).flatten().collect()
}

/// The fields as one value; `None` without any.
pub(super) fn key(fields: &[HashField], version: IpVersion) -> Option<Value> {
    let mut values: Vec<Value> = fields.iter().map(|&one| Value::Field(field(one, version))).collect();
    if values.len() > 1 { Some(Value::Concat(values)) } else { values.pop() }
}

/// Where a field is in a packet.
fn field(field: HashField, version: IpVersion) -> Field {
    match (field, version) {
        (HashField::SourceAddress, IpVersion::V4) => Field::Ip4Saddr,
        (HashField::SourceAddress, IpVersion::V6) => Field::Ip6Saddr,
        (HashField::DestinationAddress, IpVersion::V4) => Field::Ip4Daddr,
        (HashField::DestinationAddress, IpVersion::V6) => Field::Ip6Daddr,
        (HashField::SourcePort, _) => Field::Sport,
        (HashField::DestinationPort, _) => Field::Dport,
        (HashField::SourceMac, _) => Field::EtherSaddr,
        (HashField::DestinationMac, _) => Field::EtherDaddr,
    }
}

/// The table of `hash`: the smooth order of turns, repeated until `slots` are full. Any part of that order is less than one
/// slot away from the shares of the weights, so no length needs to be chosen for them.
pub(super) fn even(weights: &[u16], slots: usize) -> Vec<u32> {
    slots::order(weights).into_iter().cycle().take(slots).collect()
}

/// The table of `maglev`: whose each slot is, given the key and the weight of each backend.
///
/// As in Maglev (Eisenbud et al., NSDI 2016, section 3.4) each backend has an order of its own in which it would like to have
/// the slots, and takes them in turns, more often the heavier it is. But a backend whose turn comes to a slot that is taken
/// lets the turn go by, instead of looking for the next free one: looking on shifts the turns of all others, and with 1,021
/// slots moved 3 % of the clients of ten backends on average, 12 % at worst, when one of the ten left. Turns that go by
/// move nobody; what they leave uneven is bounded by [`most`].
///
/// Turns come at random intervals (exponential ones: then shares are proportional to weights, whatever the weights), so the
/// first to come to a slot is known without a walk: this is rendezvous hashing with a bound. Slots ask for backends, earliest
/// first; a backend that has all it may have lets go of the one that it came to last.
pub(super) fn consistent(backends: &[(u64, u16)], slots: usize) -> Vec<u32> {
    let total: u64 = backends.iter().map(|&(_, weight)| u64::from(weight)).sum();
    let mut held: Vec<BinaryHeap<(u64, u32)>> = vec![BinaryHeap::new(); backends.len()];
    let mut asking: Vec<(u32, Reverse<(u64, u32)>)> = (0..slots as u32).map(|slot| (slot, Reverse((0, 0)))).collect();
    let mut table = vec![0; slots];
    while let Some((slot, Reverse(after))) = asking.pop() {
        let turns = (0u32..).zip(backends).map(|(index, &(key, weight))| (turn(key, weight, slot), index));
        // The bounds add up to more than all slots, so nobody is refused by all.
        let Some((time, index)) = turns.filter(|&turn| turn > after).min() else { continue };
        table[slot as usize] = index;
        let holder = &mut held[index as usize];
        holder.push((time, slot));
        if holder.len() > most(backends[index as usize].1, total, slots)
            && let Some((time, slot)) = holder.pop()
        {
            asking.push((slot, Reverse((time, index))));
        }
    }
    table
}

/// Most slots of a backend: a quarter over its share, yet not more than 1/80 of all over it. Less room would be more even and
/// move more of those who stay; more room for a large share would be clients who move with it.
fn most(weight: u16, total: u64, slots: usize) -> usize {
    let share = (slots as u64 * u64::from(weight)).div_ceil(total);
    (share + (share / 4).min(slots as u64 / 80)).max(1) as usize
}

/// When a backend comes to a slot: exponentially distributed, at a rate of its weight. Never 0.
fn turn(key: u64, weight: u16, slot: u32) -> u64 {
    let drawn = mix(key ^ mix(u64::from(slot) + 1));
    (negative_log2(drawn) << 20) / u64::from(weight.max(1)) + 1
}

/// −log₂(`bits` / 2⁶⁴), with 32 binary places. In integers: two boxes must agree to the last bit, which `f64::ln` does not
/// promise.
fn negative_log2(bits: u64) -> u64 {
    let bits = bits.max(1);
    let zeros = bits.leading_zeros();
    let mut mantissa = bits << zeros >> 32;
    let mut fraction = 0u64;
    for _ in 0..24 {
        // 1 ≤ mantissa < 2, with 31 binary places; squaring it doubles its logarithm.
        mantissa = (mantissa * mantissa) >> 31;
        fraction <<= 1;
        if mantissa >> 32 == 1 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    ((u64::from(zeros) + 1) << 32) - (fraction << 8)
}

#[cfg(test)]
mod tests;
