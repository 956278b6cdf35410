//! What of the machine is ours, as the same type that a configuration compiles to.

use std::collections::BTreeMap;

use headgate_nft::{Change, Ruleset};
use headgate_plan::compile::Desired;
use headgate_plan::knob::CPU_WAKE_UP;
use headgate_plan::maps;
use headgate_plan::state::{Address, LinkState, State};
use headgate_plan::step::{Outcome, Plan, Step};
use headgate_plan::tunnel::Device;
use headgate_plan::upper::Upper;

use crate::{Host, HostError, Report, address, knob, link, neighbour, route, rule, upper};

impl Host {
    /// Reads what there is of ours: our tables, tunnels, VLANs, bonds and VRFs, the addresses, routes, routing
    /// rules and neighbours that carry our protocol number, and of interfaces and knobs those that `wanted` names.
    ///
    /// # Errors
    /// [`HostError::Dump`], [`HostError::List`].
    pub fn observe(&mut self, wanted: &State) -> Result<State, HostError> {
        let ruleset = self.observe_ruleset()?;
        self.observe_beside(ruleset, wanted)
    }

    /// Our tables. The next plan is committed only if nobody has changed nftables since.
    ///
    /// # Errors
    /// [`HostError::Dump`].
    pub fn observe_ruleset(&mut self) -> Result<Ruleset, HostError> {
        let generation = self.nft.generation().map_err(HostError::Dump)?;
        let ruleset = self.nft.dump(&maps::tables()).map_err(HostError::Dump)?;
        (self.generation, self.ours) = (Some(generation), Some(generation));
        Ok(ruleset)
    }

    /// As [`observe`](Self::observe), with our tables as they have been [read](Self::observe_ruleset) already: at 10,000 farms that
    /// is most of the work.
    ///
    /// # Errors
    /// [`HostError::List`].
    pub fn observe_beside(&mut self, ruleset: Ruleset, wanted: &State) -> Result<State, HostError> {
        let interfaces = link::list(&mut self.netlink).map_err(HostError::list("interfaces"))?;
        let addresses = address::list(&mut self.netlink).map_err(HostError::list("addresses"))?;
        let routes = route::list(&mut self.netlink).map_err(HostError::list("routes"))?;
        let rules = rule::list(&mut self.netlink).map_err(HostError::list("routing rules"))?;
        let neighbours = neighbour::list(&mut self.netlink).map_err(HostError::list("neighbours"))?;
        let names: BTreeMap<u32, &str> = interfaces.values().map(|found| (found.index, found.name.as_str())).collect();
        let links = wanted.links.keys().filter_map(|name| {
            let found = interfaces.get(name)?;
            Some((name.clone(), LinkState { up: found.up, mtu: Some(found.mtu) }))
        });
        let tunnels = Device::ALL.into_iter().filter_map(|device| {
            let found = interfaces.get(device.name()).filter(|found| device.is(&found.name, found.index))?;
            Some((device, LinkState { up: found.up, mtu: None }))
        });
        let ours = addresses.iter().filter(|found| found.ours);
        let uppers: BTreeMap<String, Upper> =
            interfaces.values().filter_map(|found| Some((found.name.clone(), upper::ours(found, &names)?))).collect();
        let masters = interfaces.values().filter_map(|found| {
            let master = (*names.get(&found.master?)?).to_owned();
            let concerns = uppers.contains_key(&master) || wanted.masters.contains_key(&found.name);
            concerns.then(|| (found.name.clone(), master))
        });
        let masters = masters.collect();
        Ok(State {
            ruleset,
            links: links.collect(),
            tunnels: tunnels.collect(),
            uppers,
            masters,
            addresses: ours
                .filter_map(|found| Some(Address { link: (*names.get(&found.index)?).to_owned(), net: found.net }))
                .collect(),
            routes: routes.iter().filter(|found| found.ours).map(|found| found.state(&names)).collect(),
            rules: rules.into_iter().collect(),
            neighbours: neighbours.iter().filter_map(|found| found.ours(&names)).collect(),
            knobs: wanted
                .knobs
                .iter()
                .filter_map(|(path, like)| Some((path.clone(), knob::read(&self.root, path, like)?)))
                .collect(),
        })
    }

    /// What is still to be done, or was undone by others: nothing after a plan that was carried out.
    ///
    /// # Errors
    /// As [`observe`](Self::observe).
    pub fn verify(&mut self, desired: &Desired) -> Result<Plan, HostError> {
        let observed = self.observe(&desired.state)?;
        Ok(Plan::between(desired, &observed))
    }

    /// Gives back their original values to the knobs that we once turned and that `wanted` does not name any more.
    ///
    /// # Errors
    /// [`HostError::Originals`].
    pub fn restore_knobs(&mut self, wanted: &State) -> Result<Vec<(String, Outcome)>, HostError> {
        if !wanted.knobs.contains_key(CPU_WAKE_UP) {
            self.wake_up = None;
        }
        Ok(knob::restore(&self.root, &wanted.knobs)?)
    }

    /// Removes everything of ours: tables, the guard's included, neighbours, routing rules, routes, addresses, tunnels, VLANs, bonds and
    /// VRFs; and gives every knob back what it had.
    ///
    /// # Errors
    /// As [`observe`](Self::observe) and [`restore_knobs`](Self::restore_knobs); what could not be removed is in the report.
    pub fn flush(&mut self) -> Result<Report, HostError> {
        let found = self.observe(&State::default())?;
        let tables: Vec<Change> = found.ruleset.tables.into_keys().map(Change::DeleteTable).collect();
        let mut steps = Vec::new();
        if !tables.is_empty() {
            steps.push(Step::Ruleset(tables));
        }
        steps.extend(found.neighbours.into_iter().map(Step::RemoveNeighbour));
        steps.extend(found.rules.into_iter().map(Step::RemoveRule));
        steps.extend(found.routes.into_iter().map(Step::RemoveRoute));
        steps.extend(found.addresses.into_iter().map(Step::RemoveAddress));
        steps.extend(found.tunnels.into_keys().map(Step::RemoveTunnel));
        steps.extend(found.uppers.into_iter().map(|(name, upper)| Step::RemoveUpper { name, upper }));
        let mut report = self.apply(Plan { steps });
        report.restored = self.restore_knobs(&State::default())?;
        Ok(report)
    }
}
