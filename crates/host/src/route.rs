//! Routes. Ours carry [`ROUTE_PROTOCOL`] as their `rtm_protocol`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use headgate_plan::names::ROUTE_PROTOCOL;
use headgate_plan::state::Route;
use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Netlink, Request};

/// `RT_TABLE_MAIN`.
pub(crate) const MAIN_TABLE: u32 = 254;

/// A unicast route as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) to: IpNet,
    pub(crate) via: Option<IpAddr>,
    /// Index of the outgoing interface.
    pub(crate) index: u32,
    pub(crate) source: Option<IpAddr>,
    pub(crate) metric: u32,
    pub(crate) table: u32,
    pub(crate) ours: bool,
}

/// The metric that a route has when none is said: 0 for IPv4, `IP6_RT_PRIO_USER` for IPv6.
pub(crate) fn default_metric(to: IpNet) -> u32 {
    if to.addr().is_ipv4() { 0 } else { 1024 }
}

/// Every unicast route of the network namespace, of both families and all tables.
pub(crate) fn list(netlink: &mut Netlink) -> io::Result<Vec<Listed>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.kind = RouteType::Unicast;
        let messages = netlink.dump(RouteNetlinkMessage::GetRoute(request))?;
        routes.extend(messages.into_iter().filter_map(|message| match message {
            // A kernel without IPv6 answers for all families that it has.
            RouteNetlinkMessage::NewRoute(route) if route.header.address_family == family => decode(&route),
            _ => None,
        }));
    }
    Ok(routes)
}

pub(crate) fn decode(message: &RouteMessage) -> Option<Listed> {
    let header = &message.header;
    if header.kind != RouteType::Unicast {
        return None;
    }
    let anywhere = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut to = anywhere;
    let mut route = Listed {
        to: IpNet::from(anywhere),
        via: None,
        index: 0,
        source: None,
        metric: 0,
        table: u32::from(header.table),
        ours: header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address)?,
            RouteAttribute::Gateway(address) => route.via = ip(address),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            // Of several next hops the first stands for all.
            RouteAttribute::MultiPath(hops) => {
                let hop = hops.first()?;
                route.index = hop.interface_index;
                route.via = hop.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(address) => ip(address),
                    _ => None,
                });
            }
            RouteAttribute::Oif(index) => route.index = *index,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Table(table) => route.table = *table,
            _ => {}
        }
    }
    route.to = IpNet::new(to, header.destination_prefix_length).ok()?;
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

impl Listed {
    /// As the kernel has it, with what it filled in. `names` is of all interfaces.
    pub(crate) fn state(&self, names: &BTreeMap<u32, &str>) -> Route {
        Route {
            to: self.to,
            via: self.via,
            link: names.get(&self.index).map(|name| (*name).to_owned()),
            source: self.source,
            metric: Some(self.metric),
            table: self.table,
        }
    }
}

/// `index` is that of `route.link`.
fn message(route: &Route, index: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    let to = route.to.trunc();
    message.header.address_family = if to.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = to.prefix_len();
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.kind = RouteType::Unicast;
    // Without a gateway the destination is on the link itself; the kernel refuses a gateway in that scope.
    message.header.scope = if route.via.is_none() { RouteScope::Link } else { RouteScope::Universe };
    message.attributes.push(RouteAttribute::Table(route.table));
    if to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(to.addr().into()));
    }
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    message.attributes.extend(index.map(RouteAttribute::Oif));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.push(RouteAttribute::Priority(route.metric.unwrap_or(default_metric(to))));
    message
}

/// Whether a route may stand beside one with the same destination and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Fail with EEXIST: the other is not ours, and would be hidden.
    Refuse,
    /// Our own, which is removed later in the same plan: the new one goes in front of it, so no packet finds no route.
    Ours,
}

/// A request that adds a route of ours.
pub(crate) fn add(route: &Route, index: Option<u32>, beside: Beside) -> Request {
    let flags = match beside {
        Beside::Refuse => NLM_F_CREATE | NLM_F_EXCL,
        Beside::Ours => NLM_F_CREATE,
    };
    Request { message: RouteNetlinkMessage::NewRoute(message(route, index)), flags }
}

/// A request that removes a route of ours; the kernel compares the protocol, so nobody else's is found by it. Fails with
/// ESRCH when there is none.
pub(crate) fn remove(route: &Route, index: Option<u32>) -> Request {
    Request { message: RouteNetlinkMessage::DelRoute(message(route, index)), flags: 0 }
}
