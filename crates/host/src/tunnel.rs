//! Tunnel devices: which kinds this kernel has, and making and removing ours.

use std::collections::BTreeSet;

use headgate_plan::tunnel::Device;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::link::{
    InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::{IpProtocol, RouteNetlinkMessage};

use crate::netlink::{Refusal, Request};
use crate::{Host, HostError};

/// More than any device can have (`rtnl_create_link`, net/core/rtnetlink.c).
const QUEUES_TOO_MANY: u32 = 4097;

impl Host {
    /// Those of `wanted` that this kernel lacks. What there is gets loaded on the way, and is not asked for again.
    ///
    /// # Errors
    /// [`HostError::Commit`], [`HostError::List`]: the kernel cannot be asked.
    pub fn lacking_tunnels(&mut self, wanted: &BTreeSet<Device>) -> Result<BTreeSet<Device>, HostError> {
        let mut lacking = BTreeSet::new();
        for &device in wanted {
            if self.tunnels.contains(&device) {
                continue;
            }
            if self.has_tunnel(device)? {
                self.tunnels.insert(device);
            } else {
                lacking.insert(device);
            }
        }
        Ok(lacking)
    }

    /// Asks for a device that cannot be, whatever its kind: what the kernel says then tells whether it has the kind, and
    /// nothing is made.
    fn has_tunnel(&mut self, device: Device) -> Result<bool, HostError> {
        let mut message = description(device);
        message.attributes.push(LinkAttribute::NumTxQueues(QUEUES_TOO_MANY));
        let asked = self.netlink.request(vec![create(message)]).map_err(HostError::list("kinds of tunnels"))?;
        // EEXIST: it is there, so its kind is too. The kernel has modules for kinds, which this loads.
        let says_yes = |refusal: &Refusal| matches!(refusal.errno, Errno::EINVAL | Errno::EEXIST);
        let kind = asked.iter().all(|answer| answer.as_ref().is_err_and(says_yes));
        Ok(kind && self.nft.supports_tunnels().map_err(HostError::Commit)?)
    }
}

/// A request that makes a device, set up.
pub(crate) fn add(device: Device) -> Request {
    let mut message = description(device);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    create(message)
}

/// A request that removes a device.
pub(crate) fn remove(device: Device) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = device.index();
    Request { message: RouteNetlinkMessage::DelLink(message), flags: 0 }
}

/// The kind of a device that takes its addresses from packets; `None` for all others. The kernel allows one of each kind.
pub(crate) fn external_kind(info: &[LinkInfo]) -> Option<String> {
    let external = info.iter().any(|info| match info {
        LinkInfo::Data(InfoData::IpTunnel(data)) => data.contains(&InfoIpTunnel::CollectMetadata),
        LinkInfo::Data(InfoData::GreTun(data)) => data.contains(&InfoGre::CollectMetadata),
        LinkInfo::Data(InfoData::GreTun6(data)) => data.contains(&InfoGre6::CollectMetadata),
        _ => false,
    });
    let kind = info.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    });
    kind.filter(|_| external)
}

fn create(message: LinkMessage) -> Request {
    Request { message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

fn description(device: Device) -> LinkMessage {
    let (kind, data) = match device {
        Device::Ipip => (InfoKind::IpIp, InfoData::IpTunnel(vec![InfoIpTunnel::CollectMetadata])),
        Device::Ipip6 => {
            // Whatever is inside.
            let any = InfoIpTunnel::Protocol(IpProtocol::Hopopts);
            (InfoKind::Ip6Tnl, InfoData::IpTunnel(vec![any, InfoIpTunnel::CollectMetadata]))
        }
        Device::Gre => (InfoKind::GreTun, InfoData::GreTun(vec![InfoGre::CollectMetadata])),
        Device::Gre6 => (InfoKind::GreTun6, InfoData::GreTun6(vec![InfoGre6::CollectMetadata])),
    };
    let mut message = LinkMessage::default();
    message.header.index = device.index();
    message.attributes.push(LinkAttribute::IfName(device.name().to_owned()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    message
}
