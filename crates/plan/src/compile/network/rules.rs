//! Routing rules: which packets ask which routing table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use headgate_config::model::Network;
use ipnet::IpNet;

use super::Layout;
use crate::facts::Facts;
use crate::state::RoutingRule;

impl Layout {
    pub(super) fn add_rules(&mut self, network: &Network, facts: &Facts) {
        for rule in network.rules.values() {
            let link = match rule.interface.as_deref().map(|name| self.needed(name, facts)).transpose() {
                Ok(link) => link,
                Err(why) => {
                    self.warnings.push(format!("network.rules.{}: {why}", rule.name));
                    continue;
                }
            };
            let said = rule.from.or(rule.to);
            let everywhere = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
            for any in everywhere {
                if said.is_some_and(|said| said.addr().is_ipv4() != any.is_ipv4()) {
                    continue;
                }
                let any = IpNet::new(any, 0).expect("no prefix is shorter");
                self.rules.insert(RoutingRule {
                    priority: rule.priority,
                    from: rule.from.unwrap_or(any).trunc(),
                    to: rule.to.unwrap_or(any).trunc(),
                    mark: rule.mark,
                    link: link.clone(),
                    table: rule.table,
                });
            }
        }
    }
}
