//! Interfaces: what there is, up and down, MTU.

use std::collections::BTreeMap;
use std::io;

use headgate_plan::upper::LINK_GROUP;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use crate::netlink::{Netlink, Request};
use crate::{tunnel, upper};

/// `IFLA_EXT_MASK` with `RTEXT_FILTER_SKIP_STATS`: the statistics are most of a link's message and nobody reads them.
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Kernel index.
    pub(crate) index: u32,
    /// Kernel name.
    pub(crate) name: String,
    /// Its MAC address when it is an Ethernet device.
    pub(crate) mac: Option<[u8; 6]>,
    /// IFF_UP.
    pub(crate) up: bool,
    /// IFF_LOWER_UP: there is a carrier.
    pub(crate) carrier: bool,
    /// IFF_LOOPBACK.
    pub(crate) loopback: bool,
    /// It resolves neighbours (no IFF_NOARP).
    pub(crate) arp: bool,
    /// Bytes.
    pub(crate) mtu: u32,
    /// Its permanent MAC address: a bond gives its members its own.
    pub(crate) permanent: Option<[u8; 6]>,
    /// It is in the group of those that we make.
    pub(crate) ours: bool,
    /// Index of the bond, VRF or bridge that it belongs to.
    pub(crate) master: Option<u32>,
    /// Index of the interface that carries it.
    pub(crate) parent: Option<u32>,
    /// It is a VLAN, bond or VRF.
    pub(crate) upper: Option<upper::Listed>,
    /// Its kind, when it takes the addresses of its tunnels from packets.
    pub(crate) external: Option<String>,
}

impl Interface {
    /// The MAC address, permanent where it has one, in lower case with colons; empty without one.
    pub(crate) fn mac_text(&self) -> String {
        let octets = self.permanent.or(self.mac).into_iter().flatten().map(|octet| format!("{octet:02x}"));
        octets.collect::<Vec<_>>().join(":")
    }
}

/// Every interface of the network namespace, by name.
pub(crate) fn list(netlink: &mut Netlink) -> io::Result<BTreeMap<String, Interface>> {
    let mut request = LinkMessage::default();
    let mask = DefaultNla::new(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS.to_ne_bytes().to_vec());
    request.attributes.push(LinkAttribute::Other(mask));
    let messages = netlink.dump(RouteNetlinkMessage::GetLink(request))?;
    let interfaces = messages.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => decode(link),
        _ => None,
    });
    Ok(interfaces.map(|interface| (interface.name.clone(), interface)).collect())
}

/// `None` for a message without a name, which no kernel sends.
pub(crate) fn decode(message: LinkMessage) -> Option<Interface> {
    let flags = message.header.flags;
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut interface = Interface {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        arp: !flags.contains(LinkFlags::Noarp),
        mtu: 0,
        permanent: None,
        ours: false,
        master: None,
        parent: None,
        upper: None,
        external: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Address(octets) if ethernet => interface.mac = octets.try_into().ok(),
            LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
            LinkAttribute::PermAddress(octets) if ethernet => interface.permanent = octets.try_into().ok(),
            LinkAttribute::Group(group) => interface.ours = group == LINK_GROUP,
            LinkAttribute::Controller(index) => interface.master = Some(index),
            LinkAttribute::Link(index) => interface.parent = Some(index),
            LinkAttribute::LinkInfo(info) => {
                interface.external = tunnel::external_kind(&info);
                interface.upper = upper::decode(&info);
            }
            _ => {}
        }
    }
    (!interface.name.is_empty()).then_some(interface)
}

/// A request that sets an interface up.
pub(crate) fn set_up(index: u32) -> Request {
    change_up(index, LinkFlags::Up)
}

/// A request that sets an interface down.
pub(crate) fn set_down(index: u32) -> Request {
    change_up(index, LinkFlags::empty())
}

fn change_up(index: u32, flags: LinkFlags) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = flags;
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// A request that sets an interface's MTU, bytes.
pub(crate) fn set_mtu(index: u32, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Mtu(mtu));
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}
