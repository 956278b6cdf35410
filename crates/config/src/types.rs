//! The small checked values that configuration is made of: names, listeners, rates.
//!
//! A value of one of these types is valid by construction; nothing downstream checks it again.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod parse;

pub(crate) use parse::address as parse_address;
pub use parse::{duration, duration_text};

/// Why a text is not the value it should be. `help` is what the diagnostic shows under `= help:`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// What is wrong, as the first line of the diagnostic.
    pub message: String,
    /// What would be right, when there is something to say.
    pub help: Option<String>,
}

impl Invalid {
    /// A refusal with a word about what would be right.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: Some(help.into()) }
    }
}

/// The longest name of a farm, backend, policy, interface role, route, rule, neighbour or service, bytes.
pub const NAME_MAX: usize = 63;

pub(crate) fn checked_name(what: &str, text: &str) -> Result<Arc<str>, Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(allowed) {
        return Err(Invalid::new(
            format!("{what} name {text:?} is not valid"),
            format!("1 to {NAME_MAX} characters of A-Z, a-z, 0-9, '_', '.' and '-'"),
        ));
    }
    Ok(text.into())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `[A-Za-z0-9_.-]{1,63}`.
            pub fn new(text: &str) -> Result<Self, Invalid> {
                checked_name($what, text).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same in memory of its own; a clone shares it.
            #[must_use]
            pub fn copied(&self) -> Self {
                Self(Arc::from(self.as_str()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type!(
    /// The name of a farm: a key of `[farms]`.
    FarmName,
    "farm"
);
name_type!(
    /// The name of a backend within its farm.
    BackendName,
    "backend"
);
name_type!(
    /// The name of a policy: a key of `[policies]`.
    PolicyName,
    "policy"
);
name_type!(
    /// The role of an interface (`service`, `backend`): a key of `[network.interfaces]`, `[network.vlans]` or `[network.bonds]`.
    Role,
    "interface"
);
name_type!(
    /// The name of a route: a key of `[network.routes]`.
    RouteName,
    "route"
);
name_type!(
    /// The name of a routing rule: a key of `[network.rules]`.
    RuleName,
    "rule"
);
name_type!(
    /// The name of a neighbour: a key of `[network.neighbours]`.
    NeighbourName,
    "neighbour"
);
name_type!(
    /// The name of a supervised process: a key of `[services]`.
    ServiceName,
    "service"
);

/// The transport protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// Every protocol; only with `*` as the port.
    Any,
}

impl Protocol {
    /// The IANA protocol number, or `None` for `any`.
    pub fn number(self) -> Option<u8> {
        match self {
            Protocol::Tcp => Some(6),
            Protocol::Udp => Some(17),
            Protocol::Sctp => Some(132),
            Protocol::Any => None,
        }
    }
}

/// The ports of a listener, narrowest first: exact ports win over ranges, ranges over `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ports {
    /// One port, 1 to 65535.
    One(u16),
    /// From the first to the last, both included, first < last.
    Range(u16, u16),
    /// `*`: every port of the protocol, or every protocol with `/any`.
    All,
}

/// One address, its ports and protocol that a farm answers on: `ADDR:PORT/tcp`, `[ADDR]:LO-HI/udp`, `ADDR:*/any`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listen {
    /// The virtual address (VIP).
    pub address: IpAddr,
    /// Its ports.
    pub ports: Ports,
    /// Its protocol.
    pub protocol: Protocol,
}

/// An address with an optional port: `172.16.2.11:8080`, `172.16.2.11`, `[2001:db8::1]:80`, `2001:db8::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port; `None` keeps the client's.
    pub port: Option<u16>,
}

/// A rate such as `"200/second burst 400"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Events in one `per`, at least 1.
    pub count: u32,
    /// The unit of time: one second, minute, hour or day.
    pub per: Duration,
    /// Events let through at once beyond the rate.
    pub burst: Option<u32>,
}

/// A size such as `"64MiB"`, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteSize(pub u64);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
            Protocol::Any => "any",
        })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ports::One(port) => write!(f, "{port}"),
            Ports::Range(first, last) => write!(f, "{first}-{last}"),
            Ports::All => f.write_str("*"),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:{}/{}", self.ports, self.protocol),
            IpAddr::V6(address) => write!(f, "[{address}]:{}/{}", self.ports, self.protocol),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
            (address, None) => write!(f, "{address}"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            60 => "minute",
            3600 => "hour",
            86400 => "day",
            _ => "second",
        };
        write!(f, "{}/{unit}", self.count)?;
        match self.burst {
            Some(burst) => write!(f, " burst {burst}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
