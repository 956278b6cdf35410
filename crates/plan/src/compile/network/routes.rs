//! Static routes.

use headgate_config::model::{self, Network};

use super::Layout;
use crate::compile::routing::TABLE_MAIN;
use crate::facts::Facts;
use crate::state::Route;

impl Layout {
    pub(super) fn add_routes(&mut self, network: &Network, facts: &Facts) {
        for route in network.routes.values() {
            match self.route(route, facts) {
                Ok(route) => self.routes.push(route),
                Err(why) => self.warnings.push(format!("network.routes.{}: {why}", route.name)),
            }
        }
    }

    fn route(&self, route: &model::Route, facts: &Facts) -> Result<Route, String> {
        let link = route.interface.as_deref().map(|name| self.needed(name, facts)).transpose()?;
        if let Some(via) = route.via.filter(|via| self.waits_for_lease(link.as_deref(), *via, facts)) {
            return Err(format!("waits for a lease that leads to {via}"));
        }
        let table = route.table.unwrap_or(TABLE_MAIN);
        let (to, via, source, metric) = (route.to.trunc(), route.via, route.source, route.metric);
        Ok(Route { to, via, link, source, metric, table })
    }
}
