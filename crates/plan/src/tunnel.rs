//! The tunnel devices of `dsr` farms: one of each kind for all backends, which are told apart by objects of nftables.
//!
//! Such a device is `external`: it has no addresses of its own and takes them from what comes with the packet. Its number is
//! fixed, so that rules can name it before it is there, and so that it is known again after a restart: a device is ours
//! when it has both our name and our number, which nobody gets by chance.

use std::collections::BTreeSet;
use std::net::IpAddr;

use headgate_config::Config;
use headgate_config::model::{DsrVia, Farm, FarmState, Mode};
use headgate_nft::Tunnel;
use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::names::IpVersion;

/// A tunnel device of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// IPv4 in IPv4.
    Ipip,
    /// IPv6 in IPv6.
    Ipip6,
    /// GRE over IPv4.
    Gre,
    /// GRE over IPv6.
    Gre6,
}

/// The indices of the devices begin behind this one. The kernel counts up from 1 and never gets here by itself.
const INDEX_BASE: u32 = 0x4867_0000;
/// The key of all GRE tunnels: the kernel sends one whatever is wanted (`nft_tunnel_obj_init`), so backends must know it.
pub const GRE_KEY: u32 = 72;
/// Time to live of the outer header.
const TTL: u8 = 64;

impl Device {
    /// All.
    pub const ALL: [Self; 4] = [Self::Ipip, Self::Ipip6, Self::Gre, Self::Gre6];

    /// The device that leads to a backend; `None` without a tunnel.
    pub fn to(via: DsrVia, backend: IpAddr) -> Option<Self> {
        match (via, IpVersion::of(backend)) {
            (DsrVia::L2, _) => None,
            (DsrVia::Ipip, IpVersion::V4) => Some(Self::Ipip),
            (DsrVia::Ipip, IpVersion::V6) => Some(Self::Ipip6),
            (DsrVia::Gre, IpVersion::V4) => Some(Self::Gre),
            (DsrVia::Gre, IpVersion::V6) => Some(Self::Gre6),
        }
    }

    /// Its name, on the box and on backends that follow `backend-setup`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipip => "headgate-ipip",
            Self::Ipip6 => "headgate-ipip6",
            Self::Gre => "headgate-gre",
            Self::Gre6 => "headgate-gre6",
        }
    }

    /// Its kernel index on the box.
    pub fn index(self) -> u32 {
        INDEX_BASE + self as u32 + 1
    }

    /// `IFLA_INFO_KIND`, which is also the word of ip-link(8).
    pub fn kind(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Ipip6 => "ip6tnl",
            Self::Gre => "gre",
            Self::Gre6 => "ip6gre",
        }
    }

    /// The largest segment that fits through it over an MTU of 1500, bytes: less the outer header, GRE with its key, and
    /// the encapsulation limit that IPv6 tunnels send (RFC 2473), and less the inner headers.
    pub fn segment_bytes(self) -> u16 {
        match self {
            Self::Ipip => 1500 - 20 - 40,
            Self::Gre => 1500 - 20 - 8 - 40,
            Self::Ipip6 => 1500 - 40 - 8 - 60,
            Self::Gre6 => 1500 - 40 - 8 - 8 - 60,
        }
    }

    /// The device with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|device| device.name() == name)
    }

    /// Whether an interface is this device of ours.
    pub fn is(self, name: &str, index: u32) -> bool {
        self.name() == name && self.index() == index
    }

    /// What a tunnel object for a backend says.
    pub fn object(self, source: IpAddr, destination: IpAddr) -> Tunnel {
        // A checksum would cost every packet a pass over it, and backends without `csum` drop what has one.
        let zero_checksum = matches!(self, Self::Gre | Self::Gre6);
        Tunnel { id: GRE_KEY, source, destination, ttl: TTL, zero_checksum }
    }
}

/// How packets of a farm get to its backends.
pub fn via(farm: &Farm) -> DsrVia {
    farm.dsr.as_ref().map_or(DsrVia::L2, |dsr| dsr.via)
}

/// The devices that the farms of a configuration want.
pub fn wanted(config: &Config) -> BTreeSet<Device> {
    let farms = config.farms.values().filter(|farm| farm.mode == Mode::Dsr && farm.state != FarmState::Off);
    let devices = farms.flat_map(|farm| {
        let via = via(farm);
        farm.backends.values().filter_map(move |backend| Device::to(via, backend.address.address))
    });
    devices.collect()
}

/// Why a device cannot be had on this machine.
pub(crate) fn trouble(device: Device, facts: &Facts) -> Option<String> {
    if facts.lacking_tunnels.contains(&device) {
        return Some(format!("this kernel has no tunnels of kind {} for nftables", device.kind()));
    }
    let (name, index) = (device.name(), device.index());
    let mut strangers = facts.links.iter().filter(|(other, link)| !device.is(other, link.index));
    strangers.find_map(|(other, link)| {
        if *other == name || link.index == index {
            return Some(format!("interface {other} has the name or the index ({index}) of our tunnel device"));
        }
        let same = link.external.as_deref() == Some(device.kind());
        same.then(|| format!("interface {other} is external and of kind {}, and there can be only one", device.kind()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Link;

    #[test]
    fn a_stranger_with_our_name_or_number_is_never_taken_for_ours() {
        let with = |name: &str, index| {
            let link = Link { index, ..Link::default() };
            Facts { links: [(name.to_owned(), link)].into(), ..Facts::default() }
        };
        assert_eq!(trouble(Device::Gre, &with("headgate-gre", Device::Gre.index())), None);
        assert_eq!(trouble(Device::Gre, &with("eth0", 7)), None);
        assert!(trouble(Device::Gre, &with("headgate-gre", 7)).is_some());
        assert!(trouble(Device::Gre, &with("gre7", Device::Gre.index())).is_some());
        let external = Link { index: 7, external: Some("gre".to_owned()), ..Link::default() };
        let external = Facts { links: [("gre7".to_owned(), external)].into(), ..Facts::default() };
        assert!(trouble(Device::Gre, &external).is_some_and(|why| why.contains("only one")));
        assert_eq!(trouble(Device::Ipip, &external), None);
        let lacking = Facts { lacking_tunnels: [Device::Gre].into(), ..Facts::default() };
        assert!(trouble(Device::Gre, &lacking).is_some_and(|why| why.contains("no tunnels of kind gre")));
        assert_eq!(trouble(Device::Ipip, &lacking), None);
    }

    #[test]
    fn names_fit_the_kernel_and_numbers_differ() {
        let numbers: BTreeSet<u32> = Device::ALL.into_iter().map(Device::index).collect();
        assert_eq!(numbers.len(), Device::ALL.len());
        // IFNAMSIZ, and an index is a positive int.
        assert!(Device::ALL.into_iter().all(|device| device.name().len() < 16 && device.index() < 1 << 31));
    }
}
