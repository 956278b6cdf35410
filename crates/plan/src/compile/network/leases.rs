//! Interfaces whose address comes by DHCP: what their leases add to the network.

use std::net::IpAddr;

use headgate_config::Config;
use headgate_config::model::InterfaceAddress;
use headgate_config::types::Role;
use ipnet::{IpNet, Ipv4Net};

use super::Layout;
use crate::compile::routing::TABLE_MAIN;
use crate::facts::Facts;
use crate::lease::{Lease, ROUTE_METRIC};
use crate::state::{Address, Route};

/// An interface that asks for an address.
struct Asking<'a> {
    /// `network.interfaces.ROLE`.
    path: String,
    role: &'a Role,
    vrf: Option<&'a Role>,
}

/// All that ask, in the order of their tables and roles.
fn asking(config: &Config) -> Vec<Asking<'_>> {
    let network = &config.network;
    let interfaces = network.interfaces.values().map(|one| ("interfaces", &one.role, &one.addresses, &one.vrf));
    let vlans = network.vlans.values().map(|one| ("vlans", &one.role, &one.addresses, &one.vrf));
    let bonds = network.bonds.values().map(|one| ("bonds", &one.role, &one.addresses, &one.vrf));
    let all = interfaces.chain(vlans).chain(bonds);
    all.filter(|(_, _, addresses, _)| addresses.contains(&InterfaceAddress::Dhcp))
        .map(|(table, role, _, vrf)| Asking { path: format!("network.{table}.{role}"), role, vrf: vrf.as_ref() })
        .collect()
}

impl Layout {
    /// The addresses, default routes and resolvers of the leases that there are. An interface without one does without.
    pub(super) fn add_leases(&mut self, config: &Config, facts: &Facts) {
        let mut metric = ROUTE_METRIC;
        for Asking { path, role, vrf } in asking(config) {
            self.asks = true;
            // Why it is not there is told already.
            let Some(link) = self.roles.get(role.as_str()).cloned() else { continue };
            self.clients.insert(link.clone());
            let Some(offer) = facts.leases.get(&link) else {
                self.warnings.push(format!("{path}: no lease from a DHCP server"));
                continue;
            };
            let lease = match offer.read().and_then(|lease| self.unopposed(lease, &link, config)) {
                Ok(lease) => lease,
                Err(why) => {
                    let server = server(&offer.serverid);
                    self.warnings.push(format!("{path}: the lease{server} is refused: {why}"));
                    continue;
                }
            };
            self.resolvers.extend(offer.resolvers().map(IpAddr::V4));
            self.configured.push(Address { link: link.clone(), net: lease.net.into() });
            let table = vrf.and_then(|vrf| config.network.vrfs.get(vrf)).map_or(TABLE_MAIN, |vrf| vrf.table);
            let via = lease.gateway.map(IpAddr::V4);
            self.routes.extend(via.map(|via| Route {
                to: Ipv4Net::default().into(),
                via: Some(via),
                link: Some(link),
                source: None,
                metric: Some(metric),
                table,
            }));
            metric += 1;
        }
    }

    fn unopposed(&self, lease: Lease, link: &str, config: &Config) -> Result<Lease, String> {
        let of_farms = config.farms.values().flat_map(|farm| {
            let listen = farm.listen.iter().map(|listen| (listen.address, format!("an address of farm {}", farm.name)));
            let backends = farm.backends.values();
            let backends =
                backends.map(|one| (one.address.address, format!("backend {} of farm {}", one.name, farm.name)));
            listen.chain(backends)
        });
        let of_others = self.configured.iter().filter(|other| other.link != link);
        let own = of_others.clone().map(|other| (other.net.addr(), format!("an address of {}", other.link)));
        let taken: Vec<(IpAddr, String)> = of_farms.chain(own).collect();
        let others: Vec<IpNet> = of_others.map(|other| other.net).collect();
        lease.conflict(&taken, &others).map_or(Ok(lease), Err)
    }

    /// Whether a route needs a lease that is not there: the kernel would refuse it, and everything with it.
    pub(super) fn waits_for_lease(&self, link: Option<&str>, via: IpAddr, facts: &Facts) -> bool {
        // Without an interface any of those that ask may get the network of the gateway, one that is not there yet as well.
        if via.is_ipv6() || !link.map_or(self.asks, |link| self.clients.contains(link)) {
            return false;
        }
        let on = |name: &str| link.is_none_or(|link| link == name);
        let own = self.configured.iter().filter(|own| on(&own.link)).map(|own| own.net);
        let addresses = facts.links.iter().filter(|(name, _)| on(name)).flat_map(|(_, link)| &link.addresses);
        let others = addresses.filter(|address| !address.ours).map(|address| address.net);
        let bare = self.routes.iter().filter(|route| route.via.is_none() && route.link.as_deref().is_some_and(on));
        let bare_of_others = facts.routes.iter().filter(|route| route.via.is_none() && on(&route.link));
        let on_link = bare.map(|route| route.to).chain(bare_of_others.map(|route| route.to));
        !own.chain(others).chain(on_link).any(|net| net.contains(&via))
    }
}

/// It says itself who it is.
fn server(said: &str) -> String {
    said.parse::<IpAddr>().map(|address| format!(" of {address}")).unwrap_or_default()
}
