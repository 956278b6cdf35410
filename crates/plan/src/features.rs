//! What not every kernel has: expressions of nf_tables that a farm can do without.
//!
//! A farm that asks for one works without it where it is lacking, and `status` says so once; a transaction with an expression that
//! the kernel does not know would be refused whole. The host asks the kernel only for what is wanted.

use std::collections::BTreeSet;

use headgate_config::Config;
use headgate_config::model::{Farm, FarmState, LimitAction, Mode, OnEmpty};
use headgate_nft::{Family, Reject, Statement};
use serde::{Deserialize, Serialize};

use crate::names;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// `synproxy` (`CONFIG_NFT_SYNPROXY`, Linux 5.4).
    SynProxy,
    /// `log group` (`CONFIG_NETFILTER_NETLINK_LOG`).
    Log,
    /// `queue` (`CONFIG_NFT_QUEUE`).
    Queue,
    /// `reject` at ingress (`CONFIG_NFT_REJECT_NETDEV`, Linux 5.9): the kernel of Debian 12's security suite has none.
    RejectAtIngress,
}

impl Feature {
    /// All.
    pub const ALL: [Self; 4] = [Self::SynProxy, Self::Log, Self::Queue, Self::RejectAtIngress];

    /// The family whose tables have it.
    pub fn family(self) -> Family {
        match self {
            Self::SynProxy | Self::Log | Self::Queue => Family::Inet,
            Self::RejectAtIngress => Family::Netdev,
        }
    }

    /// A statement that a kernel without it refuses.
    pub fn probe(self) -> Statement {
        match self {
            Self::SynProxy => Statement::Synproxy { mss: 1460, wscale: 7, timestamp: true, sack: true },
            Self::Log => Statement::Log { group: names::LOG_GROUP, prefix: "".into(), snaplen: None },
            Self::Queue => Statement::Queue { number: 0, bypass: true },
            Self::RejectAtIngress => Statement::Reject(Reject::PortUnreachable),
        }
    }

    /// Whether a farm asks for it.
    pub fn is_wanted_by(self, farm: &Farm) -> bool {
        let limits = farm.limits.as_ref();
        farm.state != FarmState::Off
            && match self {
                Self::SynProxy => {
                    matches!(farm.mode, Mode::Snat | Mode::Dnat) && limits.is_some_and(|limits| limits.syn_proxy)
                }
                Self::Log => !farm.log.is_empty() || limits.is_some_and(|limits| limits.action == LimitAction::Log),
                Self::Queue => farm.queue.is_some(),
                Self::RejectAtIngress => {
                    let limited = limits.is_some_and(|limits| limits.action == LimitAction::Reject);
                    farm.mode == Mode::Dsr && (farm.on_empty == OnEmpty::Reject || limited)
                }
            }
    }

    /// Those that some farm asks for.
    pub fn wanted(config: &Config) -> BTreeSet<Self> {
        let asks = |feature: &Self| config.farms.values().any(|farm| feature.is_wanted_by(farm));
        Self::ALL.into_iter().filter(asks).collect()
    }

    /// What a farm is told that has to do without.
    pub fn regret(self) -> &'static str {
        match self {
            Self::SynProxy => {
                "limits.syn-proxy has no effect: this kernel has no SYN proxy for nftables (CONFIG_NFT_SYNPROXY)"
            }
            Self::Log => "nothing is logged: this kernel has no packet log over netlink (CONFIG_NETFILTER_NETLINK_LOG)",
            Self::RejectAtIngress => {
                "what would be rejected is dropped: this kernel cannot reject at ingress (CONFIG_NFT_REJECT_NETDEV)"
            }
            Self::Queue => "queue has no effect: this kernel has no queues for nftables (CONFIG_NFT_QUEUE)",
        }
    }
}

/// Whether some farm sends its established flows past the hooks, for which the kernel needs flowtables.
pub fn offloads(config: &Config) -> bool {
    config.farms.values().any(|farm| farm.offload && farm.state != FarmState::Off)
}
