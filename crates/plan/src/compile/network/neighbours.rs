//! Neighbours whose MAC address is known.

use headgate_config::model::{self, Network};

use super::Layout;
use crate::facts::Facts;
use crate::state::Neighbour;

impl Layout {
    pub(super) fn add_neighbours(&mut self, network: &Network, facts: &Facts) {
        for neighbour in network.neighbours.values() {
            match self.neighbour(neighbour, facts) {
                Ok(neighbour) => {
                    self.neighbours.insert(neighbour);
                }
                Err(why) => self.warnings.push(format!("network.neighbours.{}: {why}", neighbour.name)),
            }
        }
    }

    fn neighbour(&self, neighbour: &model::Neighbour, facts: &Facts) -> Result<Neighbour, String> {
        let link = self.needed(&neighbour.interface, facts)?;
        if facts.links.get(&link).is_some_and(|found| found.mac.is_empty()) {
            return Err(format!("{link} has no neighbours with MAC addresses"));
        }
        let neighbour = Neighbour { link, address: neighbour.address, mac: neighbour.mac };
        // Two names of one interface.
        match self.neighbours.iter().find(|other| other.same_place(&neighbour)) {
            Some(other) => Err(format!("there is {other} already")),
            None => Ok(neighbour),
        }
    }
}
