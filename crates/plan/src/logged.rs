//! What rules of ours tell of packets (`log`): the words between a ruleset and the daemon that hears them.
//!
//! A rule's words are its prefix, which the kernel hands on unread. They are words of ours and numbers: no name that somebody
//! chose gets there. Anybody may log to our group, so what comes back is read strictly.

use std::sync::Arc;

use headgate_nft::{Limit, Statement};

use crate::names::{self, MARK_ID_MASK, MARK_TAG};

/// Why a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Reason {
    /// An offender that has not been out long enough.
    Ban,
    Policies,
    ConnectionsPerClient,
    NewConnections,
    NewConnectionsTotal,
    /// A packet that no TCP handshake could produce.
    StrictTcp,
    TcpResets,
    /// Nobody serves: no backend is usable, or the farm is down.
    Empty,
}

impl Reason {
    const ALL: [Self; 8] = [
        Self::Ban,
        Self::Policies,
        Self::ConnectionsPerClient,
        Self::NewConnections,
        Self::NewConnectionsTotal,
        Self::StrictTcp,
        Self::TcpResets,
        Self::Empty,
    ];

    /// The key of the configuration that asks for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ban => "ban",
            Self::Policies => "policies",
            Self::ConnectionsPerClient => "connections-per-client",
            Self::NewConnections => "new-connections",
            Self::NewConnectionsTotal => "new-connections-total",
            Self::StrictTcp => "strict-tcp",
            Self::TcpResets => "tcp-resets",
            Self::Empty => "on-empty",
        }
    }

    /// Whether it makes a client an offender. One that comes when all together are too many is none.
    pub(crate) fn bans(self) -> bool {
        matches!(self, Self::ConnectionsPerClient | Self::NewConnections | Self::TcpResets)
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// A new flow goes to the backend with this ct mark.
    New(u32),
    /// A new flow of a service of the box itself, by the id of its farm.
    Local(u16),
    /// The farm with this id refused it.
    Denied(u16, Reason),
    /// It would have been refused if `limits.action` were not `log`.
    Over(u16, Reason),
}

/// The first word of every prefix.
const OURS: &str = "headgate";

impl Logged {
    /// What the rule says.
    pub fn prefix(self) -> Arc<str> {
        match self {
            Self::New(mark) => format!("{OURS} new {}", mark & MARK_ID_MASK),
            Self::Local(farm) => format!("{OURS} local {farm}"),
            Self::Denied(farm, reason) => format!("{OURS} denied {farm} {}", reason.word()),
            Self::Over(farm, reason) => format!("{OURS} over {farm} {}", reason.word()),
        }
        .into()
    }

    /// What a rule said; `None` when it is not one of ours.
    pub fn parse(prefix: &str) -> Option<Self> {
        let words: Vec<&str> = prefix.split(' ').collect();
        let reason = |word: &str| Reason::ALL.into_iter().find(|reason| reason.word() == word);
        let read = match *words.as_slice() {
            [OURS, "new", id] => Self::New(MARK_TAG | id.parse::<u32>().ok().filter(|id| *id <= MARK_ID_MASK)?),
            [OURS, "local", farm] => Self::Local(farm.parse().ok()?),
            [OURS, "denied", farm, why] => Self::Denied(farm.parse().ok()?, reason(why)?),
            [OURS, "over", farm, why] => Self::Over(farm.parse().ok()?, reason(why)?),
            _ => return None,
        };
        // One way to say it: `+5` and `05` are not ours.
        (*read.prefix() == *prefix).then_some(read)
    }

    /// The id of the farm whose rule it is, where the rule says it.
    pub(crate) fn farm(self) -> Option<u16> {
        match self {
            Self::New(_) => None,
            Self::Local(farm) | Self::Denied(farm, _) | Self::Over(farm, _) => Some(farm),
        }
    }

    /// The statements that tell it, so many times a second at most: the kernel builds no message beyond that.
    pub(crate) fn statements(self) -> [Statement; 2] {
        let group = names::LOG_GROUP;
        [Self::within(), Statement::Log { group, prefix: self.prefix(), snaplen: None }]
    }

    /// Goes on only while there is not too much to tell.
    pub(crate) fn within() -> Statement {
        Statement::Limit(Limit { rate: names::LOG_RATE, per_s: 1, burst: names::LOG_BURST, over: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood_and_nothing_else() {
        let mut said = vec![Logged::New(MARK_TAG | 7), Logged::New(MARK_TAG | MARK_ID_MASK), Logged::Local(65_535)];
        said.extend(Reason::ALL.map(|reason| Logged::Denied(3, reason)));
        said.extend(Reason::ALL.map(|reason| Logged::Over(1, reason)));
        for logged in said {
            let prefix = logged.prefix();
            assert_eq!(Logged::parse(&prefix), Some(logged));
            assert_eq!(headgate_nft::expr::log_prefix(&prefix), *prefix, "as it is in the kernel");
            for end in 0..prefix.len() {
                assert!(Logged::parse(&prefix[..end]).is_none_or(|other| other != logged), "{}", &prefix[..end]);
            }
        }
        for foreign in [
            "",
            "headgate",
            "headgate new",
            "headgate new x",
            "headgate new 1048576",
            "headgate new +7",
            "headgate new 07",
            "headgate denied 3",
            "headgate denied 3 everything",
            "headgate denied 65536 ban",
            "headgate  denied 3 ban",
            "headgate denied 3 ban ",
            "Headgate denied 3 ban",
            "IN= OUT=",
            "headgate local -1",
        ] {
            assert_eq!(Logged::parse(foreign), None, "{foreign:?}");
        }
    }
}
