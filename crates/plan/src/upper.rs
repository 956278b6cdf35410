//! VLANs, bonds and VRFs: the interfaces that we make on top of others, which the kernel calls upper devices.
//!
//! They have the names of the configuration. Ours are known again by their group ([`LINK_GROUP`]), which the kernel sets in the
//! same message that makes them: there is no moment in which one is there and nobody's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use headgate_config::model::{self, BondMode, Word};
use serde::{Deserialize, Serialize};

/// The group (`IFLA_GROUP`) of the interfaces that we make: how we know them again. `ip link show group 18535` lists them.
pub const LINK_GROUP: u32 = 0x4867;

/// What an interface of ours is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upper {
    /// 802.1Q.
    Vlan {
        /// Kernel name of the interface that carries it.
        parent: String,
        /// 1 to 4094.
        id: u16,
    },
    /// Several interfaces as one.
    Bond(Bond),
    /// Interfaces with a routing table of their own.
    Vrf {
        /// Its number.
        table: u32,
    },
}

/// What is said of a bond, in the kernel's words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Bond {
    /// `802.3ad`, `active-backup`, …
    pub mode: String,
    /// Between two looks at the carriers; 0: never.
    pub miimon_ms: u32,
    /// `slow` or `fast`; only of `802.3ad`.
    pub lacp_rate: Option<String>,
    /// `layer3+4`, …; only of the modes that hash.
    pub xmit_hash_policy: Option<String>,
}

impl Bond {
    /// What a mode does not use is not said: the kernel has a value for it all the same.
    pub fn new(mode: &str, miimon_ms: u32, lacp_rate: &str, xmit_hash_policy: &str) -> Self {
        let of = |modes: &[BondMode]| modes.iter().any(|other| other.word() == mode);
        let hashes = of(&[BondMode::Lacp, BondMode::BalanceXor, BondMode::BalanceTlb]);
        Self {
            mode: mode.to_owned(),
            miimon_ms,
            lacp_rate: of(&[BondMode::Lacp]).then(|| lacp_rate.to_owned()),
            xmit_hash_policy: hashes.then(|| xmit_hash_policy.to_owned()),
        }
    }

    pub(crate) fn wanted(bond: &model::Bond) -> Self {
        let miimon_ms = bond.miimon.as_millis().try_into().unwrap_or(u32::MAX);
        Self::new(bond.mode.word(), miimon_ms, bond.lacp_rate.word(), bond.xmit_hash_policy.word())
    }
}

impl Upper {
    /// The interface without which it cannot be made.
    pub fn parent(&self) -> Option<&str> {
        match self {
            Self::Vlan { parent, .. } => Some(parent),
            Self::Bond(_) | Self::Vrf { .. } => None,
        }
    }
}

impl fmt::Display for Upper {
    /// As ip-link(8) would have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vlan { parent, id } => write!(f, "VLAN {id} of {parent}"),
            Self::Vrf { table } => write!(f, "VRF with table {table}"),
            Self::Bond(Bond { mode, miimon_ms, lacp_rate, xmit_hash_policy }) => {
                write!(f, "bond, mode {mode}, miimon {miimon_ms} ms")?;
                for (name, value) in [("lacp-rate", lacp_rate), ("xmit-hash-policy", xmit_hash_policy)] {
                    if let Some(value) = value {
                        write!(f, ", {name} {value}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Those of `missing` in an order in which each finds its parent: made before it, or there already.
pub(crate) fn in_order<'a>(missing: &BTreeMap<&'a str, &'a Upper>) -> Vec<(&'a str, &'a Upper)> {
    let mut waiting = missing.clone();
    let mut order = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let names: BTreeSet<&str> = waiting.keys().copied().collect();
        let ready = |upper: &Upper| !upper.parent().is_some_and(|parent| names.contains(parent));
        let (now, later): (BTreeMap<_, _>, _) = waiting.into_iter().partition(|(_, upper)| ready(upper));
        if now.is_empty() {
            // They carry each other, which a configuration cannot say; the kernel refuses the first.
            order.extend(later);
            return order;
        }
        order.extend(now);
        waiting = later;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first() {
        let vlan = |parent: &str| Upper::Vlan { parent: parent.to_owned(), id: 7 };
        let all = [("a", vlan("b")), ("b", vlan("c")), ("c", vlan("eth0")), ("d", Upper::Vrf { table: 10 })];
        let missing = all.iter().map(|(name, upper)| (*name, upper)).collect();
        let names: Vec<&str> = in_order(&missing).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["c", "d", "b", "a"]);
        let circle = [("a", vlan("b")), ("b", vlan("a"))];
        assert_eq!(in_order(&circle.iter().map(|(name, upper)| (*name, upper)).collect()).len(), 2);
    }

    #[test]
    fn a_mode_says_only_what_it_uses() {
        let bond = |mode| Upper::Bond(Bond::new(mode, 100, "fast", "layer2+3")).to_string();
        assert_eq!(bond("802.3ad"), "bond, mode 802.3ad, miimon 100 ms, lacp-rate fast, xmit-hash-policy layer2+3");
        assert_eq!(bond("balance-xor"), "bond, mode balance-xor, miimon 100 ms, xmit-hash-policy layer2+3");
        assert_eq!(bond("active-backup"), "bond, mode active-backup, miimon 100 ms");
    }
}
