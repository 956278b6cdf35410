//! Which address the box would use towards another: the default source of `snat`.
//!
//! The kernel is not asked. The answer follows from what is configured and from what the machine had, so that a plan is the
//! same before the addresses are there and after.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use headgate_nft::Tunnel;
use ipnet::IpNet;

use crate::facts::Facts;
use crate::state::{Address, Route};
use crate::tunnel::{self, Device};

/// The routes of the main table, as far as they can be known without asking the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routing {
    /// Connected prefixes and routes; the first that contains a destination serves it.
    routes: Vec<Hop>,
    /// Addresses of each interface: configured first, then what others put there.
    addresses: BTreeMap<String, Vec<IpNet>>,
    /// Index of each interface but loopback.
    indices: BTreeMap<String, u32>,
    /// MTU of each interface, bytes.
    mtus: BTreeMap<String, u32>,
    /// Role → kernel name.
    roles: BTreeMap<String, String>,
    /// The tunnel devices that cannot be had, and why.
    troubles: BTreeMap<Device, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hop {
    to: IpNet,
    metric: u32,
    link: String,
    via: Option<IpAddr>,
    source: Option<IpAddr>,
}

/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;
/// `IP6_RT_PRIO_USER`: the metric of an IPv6 route that is added without one. IPv4 has 0.
pub const METRIC_V6: u32 = 1024;

impl Routing {
    /// From the addresses (in the order in which they are configured) and routes that are wanted and those of others.
    /// Virtual addresses do not belong in here: what they make reachable is the box. The interfaces of `apart` have routing
    /// tables of their own.
    pub fn new(addresses: &[Address], routes: &[Route], facts: &Facts, apart: &BTreeSet<String>) -> Self {
        // Nothing for a farm comes in by our own tunnels, and nothing is found behind them.
        let links = || {
            let others = |name: &String| Device::named(name).is_none() && !apart.contains(name);
            facts.links.iter().filter(move |(name, _)| others(name))
        };
        let wires = links().filter(|(_, link)| !link.loopback);
        let indices = wires.map(|(name, link)| (name.clone(), link.index)).collect();
        let mtus = facts.links.iter().map(|(name, link)| (name.clone(), link.mtu)).collect();
        let troubles = Device::ALL.into_iter().filter_map(|device| Some((device, tunnel::trouble(device, facts)?)));
        let mut routing = Self { indices, mtus, troubles: troubles.collect(), ..Self::default() };
        for address in addresses.iter().filter(|address| !apart.contains(&address.link)) {
            routing.add_address(&address.link, address.net);
        }
        for (name, link) in links() {
            for address in link.addresses.iter().filter(|address| !address.ours) {
                routing.add_address(name, address.net);
            }
        }
        for route in routes.iter().filter(|route| route.table == TABLE_MAIN) {
            let link = route.link.as_deref().or_else(|| routing.link_of(route.via?));
            if let Some(link) = link.map(str::to_owned) {
                let metric = route.metric.unwrap_or(if route.to.addr().is_ipv6() { METRIC_V6 } else { 0 });
                routing.routes.push(Hop { to: route.to, metric, link, via: route.via, source: route.source });
            }
        }
        routing.routes.extend(facts.routes.iter().map(|route| Hop {
            to: route.to,
            metric: route.metric,
            link: route.link.clone(),
            via: route.via,
            source: route.source,
        }));
        routing.routes.sort_by_key(|hop| (std::cmp::Reverse(hop.to.prefix_len()), hop.metric));
        routing
    }

    /// The same, where interfaces are called by their roles as well.
    pub fn with_roles(self, roles: &BTreeMap<String, String>) -> Self {
        Self { roles: roles.clone(), ..self }
    }

    /// Kernel name and index of an interface that is called by its role or its kernel name; never loopback.
    pub fn interface(&self, name: &str) -> Option<(&str, u32)> {
        let name = self.roles.get(name).map_or(name, String::as_str);
        self.indices.get_key_value(name).map(|(name, index)| (name.as_str(), *index))
    }

    /// The interfaces by which packets to an address of ours come in: that of its subnet, or else the one that carries it.
    /// An address that is on none of them (on loopback, or another program's) is routed to us: all that have addresses.
    pub fn arrivals(&self, address: IpAddr) -> Vec<&str> {
        let wire = |name: &str| self.interface(name).map(|(name, _)| name);
        if let Some(name) = self.link_of(address).and_then(wire) {
            return vec![name];
        }
        let carries = |nets: &[IpNet]| nets.iter().any(|net| net.addr() == address);
        let carrying = self.addresses.iter().filter(|(_, nets)| carries(nets));
        let found: Vec<&str> = carrying.filter_map(|(name, _)| wire(name)).collect();
        if found.is_empty() { self.addresses.keys().filter_map(|name| wire(name)).collect() } else { found }
    }

    /// The tunnel device that leads to a backend, and the source of the outer header; or why there is none.
    pub fn tunnel(&self, device: Device, backend: IpAddr) -> Result<Tunnel, String> {
        if let Some(why) = self.troubles.get(&device) {
            return Err(why.clone());
        }
        match self.source_for(backend) {
            Some(source) => Ok(device.object(source, backend)),
            None => Err(format!("there is no route to {backend}")),
        }
    }

    /// Whether a tunnel device can be had.
    pub fn has_tunnel(&self, device: Device) -> bool {
        !self.troubles.contains_key(&device)
    }

    fn add_address(&mut self, link: &str, net: IpNet) {
        self.addresses.entry(link.to_owned()).or_default().push(net);
        if net.prefix_len() < net.max_prefix_len() {
            self.routes.push(Hop { to: net.trunc(), metric: 0, link: link.to_owned(), via: None, source: None });
        }
    }

    /// The interface whose subnet holds an address, the longest prefix first.
    pub fn link_of(&self, address: IpAddr) -> Option<&str> {
        self.subnet_of(address).map(|(link, _)| link)
    }

    /// The interface and the address of ours, with its prefix, whose subnet holds an address.
    pub fn subnet_of(&self, address: IpAddr) -> Option<(&str, IpNet)> {
        let mut best: Option<(&str, IpNet)> = None;
        for (link, nets) in &self.addresses {
            for &net in nets.iter().filter(|net| net.prefix_len() < net.max_prefix_len() && net.contains(&address)) {
                if best.is_none_or(|(_, found)| net.prefix_len() > found.prefix_len()) {
                    best = Some((link, net));
                }
            }
        }
        best
    }

    /// The MTU of the interface towards an address, bytes; `None` without a route.
    pub fn mtu_towards(&self, destination: IpAddr) -> Option<u32> {
        let hop = self.routes.iter().find(|hop| hop.to.contains(&destination))?;
        self.mtus.get(&hop.link).copied()
    }

    /// Whether an address of ours, or of anybody else on this machine, is this one.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.values().flatten().any(|net| net.addr() == address)
    }

    /// The address that a packet to `destination` would be sent from; `None` without a route.
    pub fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        let hop = self.routes.iter().find(|hop| hop.to.contains(&destination))?;
        if hop.source.is_some() {
            return hop.source;
        }
        let next = hop.via.unwrap_or(destination);
        let nets = self.addresses.get(&hop.link)?.iter().filter(|net| net.addr().is_ipv4() == destination.is_ipv4());
        let on_link = nets.clone().find(|net| net.contains(&next)).map(IpNet::addr);
        // A gateway that is outside of all subnets (on-link routes, link-local gateways): any address that answers will do.
        on_link.filter(is_global).or_else(|| nets.map(IpNet::addr).find(is_global)).or(on_link)
    }
}

fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
