//! What farms listen on, as connection tracking can be asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use headgate_nft::{Key, Ruleset};

use crate::maps::{Door, Map, Reach};
use crate::names::IpVersion;

/// Addresses, protocols and ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Services(BTreeMap<IpAddr, BTreeSet<Span>>);

/// What is taken of one address; `None`: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    protocol: Option<u8>,
    ports: Option<(u16, u16)>,
}

impl Services {
    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a packet to here, of this IP protocol, is for one of them. The port is 0 where the protocol has none.
    pub fn take(&self, protocol: u8, destination: SocketAddr) -> bool {
        let spans = self.0.get(&destination.ip());
        spans.is_some_and(|spans| spans.iter().any(|span| span.takes(protocol, destination.port())))
    }

    /// And these too.
    pub(super) fn add(&mut self, other: Self) {
        for (address, spans) in other.0 {
            self.0.entry(address).or_default().extend(spans);
        }
    }

    /// What the nat hooks of `after` ask for and those of `before` did not. Only there connection tracking is in the way:
    /// every other door sees each packet, or lets pass what is known because that is what it is for.
    pub(super) fn opened(before: &Ruleset, after: &Ruleset) -> Self {
        let mut opened = Self::default();
        for (version, reach) in IpVersion::ALL.into_iter().flat_map(|version| Reach::ALL.map(|reach| (version, reach)))
        {
            let map = Map::Listeners(Door::Nat, version, reach);
            let [old, new] = [before, after].map(|ruleset| super::set(ruleset, map));
            for key in new.into_iter().flat_map(|set| set.elements.keys()) {
                if old.is_some_and(|set| set.elements.contains_key(key)) {
                    continue;
                }
                if let Some((address, span)) = read(version, reach, key) {
                    opened.0.entry(address).or_default().insert(span);
                }
            }
        }
        opened
    }
}

impl Span {
    fn takes(self, protocol: u8, port: u16) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.ports.is_none_or(|(first, last)| RangeInclusive::new(first, last).contains(&port))
    }
}

/// The key of a listener's map, field by field as [`Map::key`] lists them, each padded to 4 bytes; `None` for what is not ours.
fn read(version: IpVersion, reach: Reach, key: &Key) -> Option<(IpAddr, Span)> {
    let (address, rest) = match version {
        IpVersion::V4 => {
            let (address, rest) = key.start.split_first_chunk::<4>()?;
            (IpAddr::V4(Ipv4Addr::from(*address)), rest)
        }
        IpVersion::V6 => {
            let (address, rest) = key.start.split_first_chunk::<16>()?;
            (IpAddr::V6(Ipv6Addr::from(*address)), rest)
        }
    };
    let port = |fields: &[u8]| Some(u16::from_be_bytes(*fields.get(4..)?.first_chunk()?));
    let protocol = || rest.first().copied();
    let span = match reach {
        Reach::AllProtocols => Span { protocol: None, ports: None },
        Reach::AllPorts => Span { protocol: Some(protocol()?), ports: None },
        Reach::Port | Reach::Range => {
            let first = port(rest)?;
            let last = match &key.end {
                Some(end) => port(end.get(key.start.len() - rest.len()..)?)?,
                None => first,
            };
            Span { protocol: Some(protocol()?), ports: Some((first, last)) }
        }
    };
    Some((address, span))
}
