//! What the machine is: the hardware's part from files, the network's part from rtnetlink.

use std::collections::{BTreeMap, BTreeSet};

use headgate_plan::facts::{Facts, Link, LinkAddress, RouteFact};
use headgate_plan::features::Feature;

use crate::link::Interface;
use crate::{Host, HostError, address, lease, link, route, topology};

impl Host {
    /// Reads the facts that decisions are made from, but for what the kernel is only asked when somebody wants it.
    ///
    /// # Errors
    /// [`HostError::List`], [`HostError::Topology`].
    pub fn facts(&mut self) -> Result<Facts, HostError> {
        let mut facts = topology::read(&self.root)?;
        let interfaces = link::list(&mut self.netlink).map_err(HostError::list("interfaces"))?;
        let addresses = address::list(&mut self.netlink).map_err(HostError::list("addresses"))?;
        let routes = route::list(&mut self.netlink).map_err(HostError::list("routes"))?;
        let names: BTreeMap<u32, &str> = interfaces.values().map(|found| (found.index, found.name.as_str())).collect();

        // An interface that came or went since the files were read is as rtnetlink has it.
        let mut devices = std::mem::take(&mut facts.links);
        for interface in interfaces.values() {
            let device = devices.remove(&interface.name).unwrap_or_default();
            let master = interface.master.and_then(|index| names.get(&index)).map(|name| (*name).to_owned());
            facts.links.insert(interface.name.clone(), Link { master, ..fact(interface, device) });
        }
        for found in addresses {
            let name = names.get(&found.index).copied().unwrap_or_default();
            if let Some(link) = facts.links.get_mut(name) {
                link.addresses.push(LinkAddress { net: found.net, ours: found.ours });
            }
        }
        facts.routes = routes
            .iter()
            .filter(|found| !found.ours && found.table == route::MAIN_TABLE)
            .filter_map(|found| {
                let link = (*names.get(&found.index)?).to_owned();
                Some(RouteFact { to: found.to, via: found.via, link, source: found.source, metric: found.metric })
            })
            .collect();
        facts.leases = lease::list(&self.root);
        Ok(facts)
    }

    /// Those of `wanted` that this kernel lacks. It is asked once for each.
    ///
    /// # Errors
    /// [`HostError::Commit`]: nftables cannot be asked.
    pub fn lacking_features(&mut self, wanted: &BTreeSet<Feature>) -> Result<BTreeSet<Feature>, HostError> {
        for &feature in wanted {
            if !self.features.contains_key(&feature) {
                let has = self.nft.supports(feature.family(), feature.probe()).map_err(HostError::Commit)?;
                self.features.insert(feature, has);
            }
        }
        Ok(wanted.iter().copied().filter(|feature| self.features.get(feature) == Some(&false)).collect())
    }

    /// Asked once: the answer does not change while a kernel runs, but a module is looked for each time, and a transaction waits for
    /// all CPUs (170 ms of a start in QEMU).
    ///
    /// # Errors
    /// [`HostError::Commit`]: nftables cannot be asked.
    pub fn has_flowtables(&mut self) -> Result<bool, HostError> {
        let known = match self.flowtable {
            Some(known) => known,
            None => self.nft.supports_flowtable().map_err(HostError::Commit)?,
        };
        self.flowtable = Some(known);
        Ok(known)
    }
}

/// A link with what rtnetlink knows of it, over what the files know of its device.
fn fact(interface: &Interface, device: Link) -> Link {
    Link {
        index: interface.index,
        mac: interface.mac_text(),
        up: interface.up,
        loopback: interface.loopback,
        mtu: interface.mtu,
        external: interface.external.clone(),
        ours: interface.upper.is_some() && interface.ours,
        ..device
    }
}
