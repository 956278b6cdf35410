//! Addresses on interfaces. Ours carry [`ADDRESS_PROTOCOL`] as their `IFA_PROTO`.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use headgate_plan::names::ADDRESS_PROTOCOL;
use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Netlink, Request};

/// The first kernel that keeps `IFA_PROTO`. An older one accepts and forgets it, so that an address of ours could never
/// be told from somebody else's.
pub(crate) const FIRST_KERNEL: (u32, u32) = (5, 18);

/// An address as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Index of its interface.
    pub(crate) index: u32,
    pub(crate) net: IpNet,
    pub(crate) ours: bool,
}

/// Every address of the network namespace.
pub(crate) fn list(netlink: &mut Netlink) -> io::Result<Vec<Listed>> {
    let messages = netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let addresses = messages.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(address) => decode(&address),
        _ => None,
    });
    Ok(addresses.collect())
}

pub(crate) fn decode(message: &AddressMessage) -> Option<Listed> {
    let mut address = None;
    let mut local = None;
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Protocol(protocol) => ours = *protocol == AddressProtocol::Other(ADDRESS_PROTOCOL),
            _ => {}
        }
    }
    // On a point-to-point interface IFA_ADDRESS is the peer's; IPv6 without a peer has no IFA_LOCAL.
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some(Listed { index: message.header.index, net, ours })
}

fn message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message
}

/// A request that adds an address of ours; fails with EEXIST when the interface has it.
pub(crate) fn add(index: u32, net: IpNet) -> Request {
    let mut message = message(index, net);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL)));
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(Ipv4Addr::from_bits(
                net.addr().to_bits() | net.hostmask().to_bits(),
            )));
        }
        // Duplicate address detection would leave the address unusable for a second: services could not listen on it nor
        // routes name it as their source. And while a virtual address moves from another box, whose old owner may still
        // answer, it would be refused for good.
        IpNet::V6(_) => {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        IpNet::V4(_) => {}
    }
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// A request that removes an address; fails with EADDRNOTAVAIL when the interface does not have it.
pub(crate) fn remove(index: u32, net: IpNet) -> Request {
    Request { message: RouteNetlinkMessage::DelAddress(message(index, net)), flags: 0 }
}

/// Removing this address can make the kernel remove others: the IPv4 addresses of the same subnet that came later are
/// its secondaries (`__inet_del_ifa`, net/ipv4/devinet.c).
pub(crate) fn has_secondaries(net: IpNet) -> bool {
    matches!(net.addr(), IpAddr::V4(_)) && net.prefix_len() < 32
}
