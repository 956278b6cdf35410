//! VLANs, bonds and VRFs: what is made, and who belongs to whom.

use headgate_config::model::Network;
use headgate_config::types::Role;

use super::Layout;
use crate::facts::Facts;
use crate::state::LinkState;
use crate::upper::{Bond, Upper};

impl Layout {
    pub(super) fn add_uppers(&mut self, network: &Network, facts: &Facts) {
        for vrf in network.vrfs.values() {
            self.make("vrfs", &vrf.name, Upper::Vrf { table: vrf.table }, facts);
            self.add_link(vrf.name.as_str(), None, &[]);
        }
        for bond in network.bonds.values() {
            self.make("bonds", &bond.role, Upper::Bond(Bond::wanted(bond)), facts);
            self.add_link(bond.role.as_str(), bond.mtu, &bond.addresses);
            self.accept_ra.insert(bond.role.to_string(), bond.accept_ra);
        }
        self.add_vlans(network, facts);
        // Only now everybody has a name.
        for bond in network.bonds.values() {
            for member in &bond.members {
                match self.kernel_name(member, facts) {
                    Some(member) => self.give(&member, bond.role.as_str(), facts),
                    None => self.warnings.push(format!("network.bonds.{}: there is no interface {member}", bond.role)),
                }
            }
        }
        let interfaces = network.interfaces.values().map(|interface| (&interface.role, &interface.vrf));
        let bonds = network.bonds.values().map(|bond| (&bond.role, &bond.vrf));
        let vlans = network.vlans.values().map(|vlan| (&vlan.role, &vlan.vrf));
        for (role, vrf) in interfaces.chain(bonds).chain(vlans) {
            if let (Some(link), Some(vrf)) = (self.roles.get(role.as_str()).cloned(), vrf) {
                self.give(&link, vrf.as_str(), facts);
                self.apart.insert(link);
            }
        }
    }

    /// Each VLAN whose parent is there or is made; a parent may be a VLAN itself.
    fn add_vlans(&mut self, network: &Network, facts: &Facts) {
        let mut waiting: Vec<_> = network.vlans.values().collect();
        loop {
            let before = waiting.len();
            waiting.retain(|vlan| {
                let Some(parent) = self.kernel_name(&vlan.parent, facts) else { return true };
                self.links.entry(parent.clone()).or_insert(LinkState { up: true, mtu: None });
                self.make("vlans", &vlan.role, Upper::Vlan { parent, id: vlan.id }, facts);
                self.add_link(vlan.role.as_str(), vlan.mtu, &vlan.addresses);
                self.accept_ra.insert(vlan.role.to_string(), vlan.accept_ra);
                false
            });
            if waiting.len() == before {
                break;
            }
        }
        for vlan in waiting {
            self.warnings.push(format!("network.vlans.{}: there is no interface {}", vlan.role, vlan.parent));
        }
    }

    /// Has an interface made, unless somebody else has made it.
    fn make(&mut self, table: &str, role: &Role, upper: Upper, facts: &Facts) {
        let name = role.to_string();
        if facts.links.get(&name).is_some_and(|link| !link.ours) {
            self.warnings.push(format!(
                "network.{table}.{name}: interface {name} is there and not headgate's: it is used as it is"
            ));
        } else {
            self.uppers.insert(name.clone(), upper);
        }
        self.roles.insert(name.clone(), name);
    }

    /// Gives an interface to a bond or VRF, unless somebody else's bond or bridge has it.
    fn give(&mut self, link: &str, master: &str, facts: &Facts) {
        let other = facts.links.get(link).and_then(|link| link.master.as_ref());
        let other = other.filter(|other| *other != master && facts.links.get(*other).is_some_and(|link| !link.ours));
        if let Some(other) = other {
            self.warnings
                .push(format!("interface {link} belongs to {other}, which is not headgate's, and stays there"));
            return;
        }
        self.links.entry(link.to_owned()).or_insert(LinkState { up: true, mtu: None });
        self.masters.insert(link.to_owned(), master.to_owned());
    }
}

#[cfg(test)]
mod tests;
