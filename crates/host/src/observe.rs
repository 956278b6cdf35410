//! What of the machine is ours, as the same type that a configuration compiles to.

use std::collections::BTreeMap;

use headgate_nft::{Change, Ruleset};
use headgate_plan::state::{Address, LinkState, State};
use headgate_plan::step::{Plan, Step};

use crate::{Host, HostError, Report, address, link, route};

impl Host {
    /// Reads what there is of ours: our tables, the addresses and routes that carry our protocol number, and of
    /// interfaces and knobs those that `wanted` names.
    ///
    /// # Errors
    /// [`HostError::List`].
    pub fn observe(&mut self, wanted: &State) -> Result<State, HostError> {
        let interfaces = link::list(&mut self.netlink).map_err(HostError::list("interfaces"))?;
        let addresses = address::list(&mut self.netlink).map_err(HostError::list("addresses"))?;
        let routes = route::list(&mut self.netlink).map_err(HostError::list("routes"))?;
        let names: BTreeMap<u32, &str> = interfaces.values().map(|found| (found.index, found.name.as_str())).collect();
        let links = wanted.links.keys().filter_map(|name| {
            let found = interfaces.get(name)?;
            Some((name.clone(), LinkState { up: found.up, mtu: Some(found.mtu) }))
        });
        let ours = addresses.iter().filter(|found| found.ours);
        Ok(State {
            ruleset: Ruleset::default(),
            links: links.collect(),
            addresses: ours
                .filter_map(|found| Some(Address { link: (*names.get(&found.index)?).to_owned(), net: found.net }))
                .collect(),
            routes: routes.iter().filter(|found| found.ours).map(|found| found.state(&names)).collect(),
            knobs: BTreeMap::new(),
        })
    }

    /// Removes everything of ours: tables, the guard's included, routes and addresses.
    ///
    /// # Errors
    /// As [`observe`](Self::observe); what could not be removed is in the report.
    pub fn flush(&mut self) -> Result<Report, HostError> {
        let found = self.observe(&State::default())?;
        let tables: Vec<Change> = found.ruleset.tables.into_keys().map(Change::DeleteTable).collect();
        let mut steps = Vec::new();
        if !tables.is_empty() {
            steps.push(Step::Ruleset(tables));
        }
        steps.extend(found.routes.into_iter().map(Step::RemoveRoute));
        steps.extend(found.addresses.into_iter().map(Step::RemoveAddress));
        Ok(self.apply(Plan { steps }))
    }
}
