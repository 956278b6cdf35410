//! Interfaces, addresses, routes and neighbours: from roles to what is wanted of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use headgate_config::Config;
use headgate_config::model::{
    AcceptRa, Farm, FarmState, Interface, InterfaceAddress, InterfaceMatch, ManageAddress, Mode,
};
use ipnet::IpNet;

use super::farm::is_anywhere;
use super::routing::Routing;
use crate::facts::{Facts, Link};
use crate::state::{Address, Fit, Knob, KnobValue, LinkState, Neighbour, Route, RoutingRule};
use crate::upper::Upper;

mod leases;
mod neighbours;
mod routes;
mod rules;
mod uppers;

/// What the network part of a configuration means on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Layout {
    /// Role → kernel name, of those that were found.
    pub(super) roles: BTreeMap<String, String>,
    pub(super) links: BTreeMap<String, LinkState>,
    /// What we make on top of others.
    pub(super) uppers: BTreeMap<String, Upper>,
    /// Who belongs to whom.
    pub(super) masters: BTreeMap<String, String>,
    /// Whether router advertisements are believed.
    accept_ra: BTreeMap<String, AcceptRa>,
    /// Those that belong to a VRF: nothing of farms comes or goes there.
    apart: BTreeSet<String>,
    /// The interfaces whose addresses come by DHCP, by kernel name.
    pub(super) clients: BTreeSet<String>,
    /// Whether any interface asks for an address, be it there or not.
    asks: bool,
    /// Who resolves names, as the leases say.
    pub(super) resolvers: Vec<IpAddr>,
    /// The configured addresses of interfaces, in the order in which they are written, then those of leases; those that others
    /// carry as well.
    pub(super) configured: Vec<Address>,
    pub(super) routes: Vec<Route>,
    pub(super) rules: BTreeSet<RoutingRule>,
    pub(super) neighbours: BTreeSet<Neighbour>,
    /// Virtual addresses that no interface has and none gets.
    pub(super) unplaced: BTreeSet<IpAddr>,
    pub(super) warnings: Vec<String>,
}

impl Layout {
    pub(super) fn new(config: &Config, facts: &Facts) -> Self {
        let mut layout = Self::default();
        for interface in config.network.interfaces.values() {
            match find(interface, facts) {
                Ok(name) => layout.add_interface(interface, name),
                Err(why) => layout.warnings.push(format!("network.interfaces.{}: {why}", interface.role)),
            }
        }
        layout.add_uppers(&config.network, facts);
        layout.add_leases(config, facts);
        layout.add_routes(&config.network, facts);
        layout.add_rules(&config.network, facts);
        layout.add_neighbours(&config.network, facts);
        layout
    }

    fn add_interface(&mut self, interface: &Interface, link: &str) {
        if let Some((role, _)) = self.roles.iter().find(|(_, other)| *other == link) {
            self.warnings.push(format!("network.interfaces: {role} and {} are both {link}", interface.role));
        }
        self.roles.insert(interface.role.to_string(), link.to_owned());
        self.add_link(link, interface.mtu, &interface.addresses);
        self.accept_ra.insert(link.to_owned(), interface.accept_ra);
    }

    fn add_link(&mut self, link: &str, mtu: Option<u32>, addresses: &[InterfaceAddress]) {
        self.links.insert(link.to_owned(), LinkState { up: true, mtu });
        for address in addresses {
            if let InterfaceAddress::Static(net) = address {
                self.configured.push(Address { link: link.to_owned(), net: *net });
            }
        }
    }

    /// The kernel name behind a role or a kernel name.
    fn kernel_name(&self, name: &str, facts: &Facts) -> Option<String> {
        // What we made and is not asked for any more is about to go.
        let stays = facts.links.get(name).is_some_and(|link| !link.ours);
        self.roles.get(name).cloned().or_else(|| stays.then(|| name.to_owned()))
    }

    /// The same for an entry that can do nothing without it.
    fn needed(&self, name: &str, facts: &Facts) -> Result<String, String> {
        self.kernel_name(name, facts).ok_or_else(|| format!("there is no interface {name}"))
    }

    /// Whether each interface believes router advertisements: no is the default here, and not the kernel's.
    pub(super) fn knobs(&self) -> impl Iterator<Item = Knob> {
        self.accept_ra.iter().flat_map(|(link, accept)| {
            let (accept, autoconf, why) = match accept {
                AcceptRa::No => (0, 0, "accept-ra = \"no\": anybody on the wire could make himself our router"),
                // 1 is off while we forward.
                AcceptRa::Yes => (2, 1, "accept-ra = \"yes\": addresses and routes from router advertisements"),
            };
            [("accept_ra", accept), ("autoconf", autoconf)].map(|(key, want)| Knob {
                path: format!("proc/sys/net/ipv6/conf/{link}/{key}"),
                want: KnobValue::Int(want),
                fit: Fit::Exact,
                why: why.to_owned(),
                origin: None,
            })
        })
    }

    pub(super) fn routing(&self, facts: &Facts) -> Routing {
        Routing::new(&self.configured, &self.routes, facts, &self.apart).with_roles(&self.roles)
    }

    /// The addresses that we add: those of interfaces and the virtual ones of farms, but none that others put there.
    pub(super) fn addresses(&mut self, config: &Config, facts: &Facts, routing: &Routing) -> BTreeSet<Address> {
        let foreign: BTreeSet<IpAddr> = facts
            .links
            .values()
            .flat_map(|link| &link.addresses)
            .filter(|address| !address.ours)
            .map(|address| address.net.addr())
            .collect();
        let configured: BTreeSet<IpAddr> = self.configured.iter().map(|address| address.net.addr()).collect();
        let mut wanted: BTreeSet<Address> =
            self.configured.iter().filter(|address| !foreign.contains(&address.net.addr())).cloned().collect();
        let mut placed = BTreeSet::new();
        for farm in config.farms.values() {
            if farm.state == FarmState::Off || farm.address_manage == ManageAddress::Never {
                continue;
            }
            for address in farm.listen.iter().filter(|listen| !is_anywhere(listen)).map(|listen| listen.address) {
                if foreign.contains(&address) || configured.contains(&address) || !placed.insert(address) {
                    continue;
                }
                match self.place(farm, address, facts, routing) {
                    Ok(link) => {
                        wanted.insert(Address { link, net: IpNet::from(address) });
                    }
                    Err(why) => {
                        self.unplaced.insert(address);
                        self.warnings.push(format!("farm {}: {why}", farm.name));
                    }
                }
            }
            for address in sources(farm) {
                if foreign.contains(&address) || configured.contains(&address) || !placed.insert(address) {
                    continue;
                }
                match routing.link_of(address) {
                    Some(link) => {
                        wanted.insert(Address { link: link.to_owned(), net: IpNet::from(address) });
                    }
                    // Who routes a whole prefix to this box means it.
                    None => self.warnings.push(format!(
                        "farm {}: source address {address} is on no interface and in the subnet of none: answers come back \
                         only where a route leads them here",
                        farm.name
                    )),
                }
            }
        }
        wanted
    }

    /// The interface that gets a virtual address.
    fn place(&self, farm: &Farm, address: IpAddr, facts: &Facts, routing: &Routing) -> Result<String, String> {
        match &farm.address_interface {
            Some(name) => self.kernel_name(name, facts).ok_or_else(|| {
                format!("{address} is on no interface: address.interface = {name:?} is neither a role nor an interface")
            }),
            None => routing.link_of(address).map(str::to_owned).ok_or_else(|| {
                format!(
                    "{address} is on no interface: none has a subnet that holds it; name one with address.interface, or \
                     say address.manage = \"never\" if another program adds it"
                )
            }),
        }
    }
}

/// Where flows of a farm come from, as far as somebody has said so.
fn sources(farm: &Farm) -> impl Iterator<Item = IpAddr> {
    let of_backends = farm.backends.values().filter_map(|backend| backend.source_address);
    farm.source_addresses.iter().copied().chain(of_backends).filter(|_| farm.mode == Mode::Snat)
}

/// The kernel name of an interface.
fn find<'a>(interface: &'a Interface, facts: &'a Facts) -> Result<&'a str, String> {
    let Some(matching) = &interface.matching else {
        let name = interface.role.as_str();
        return facts
            .links
            .contains_key(name)
            .then_some(name)
            .ok_or_else(|| format!("there is no interface {name}; without match the role is the kernel's name"));
    };
    let mut found: Vec<(&str, &Link)> = facts
        .links
        .iter()
        .map(|(name, link)| (name.as_str(), link))
        .filter(|(name, link)| fits(matching, name, link))
        .collect();
    found.sort_by_key(|(_, link)| (link.pci.is_none(), &link.pci, link.index));
    match (matching.index, found.as_slice()) {
        (_, []) => Err(format!("no interface has {}", describe(matching))),
        (None, [(name, _)]) => Ok(name),
        (None, _) => {
            let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
            Err(format!("{} interfaces have {} ({}); add index", found.len(), describe(matching), names.join(", ")))
        }
        (Some(index), _) => found.get(index as usize).map(|(name, _)| *name).ok_or_else(|| {
            format!("there is no index {index}: interfaces with {}: {}", describe(matching), found.len())
        }),
    }
}

fn fits(matching: &InterfaceMatch, name: &str, link: &Link) -> bool {
    let InterfaceMatch { name: wanted, mac, driver, pci, index: _ } = matching;
    // Without a device behind it an interface is found by its name or address only: `index` counts NICs.
    let is_nic = wanted.is_some() || mac.is_some() || link.driver.is_some();
    // A VLAN has the MAC address of its parent.
    is_nic
        && !link.ours
        && wanted.as_ref().is_none_or(|wanted| wanted == name)
        && mac.as_ref().is_none_or(|mac| mac.eq_ignore_ascii_case(&link.mac))
        && driver.as_ref().is_none_or(|driver| link.driver.as_ref() == Some(driver))
        && pci.as_ref().is_none_or(|pci| link.pci.as_ref() == Some(pci))
}

fn describe(matching: &InterfaceMatch) -> String {
    let InterfaceMatch { name, mac, driver, pci, index: _ } = matching;
    let fields = [("name", name), ("mac", mac), ("driver", driver), ("pci", pci)];
    let said: Vec<String> =
        fields.into_iter().filter_map(|(key, value)| Some(format!("{key} {:?}", value.as_ref()?))).collect();
    if said.is_empty() { "a device".to_owned() } else { said.join(" and ") }
}

#[cfg(test)]
mod tests;
