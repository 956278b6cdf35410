//! What a backend needs on its side: the commands that make it answer for a farm.
//!
//! They are commands of iproute2 and procps, one a line and each of them safe to repeat but for `ip address add`, so that
//! they can be read, run and put into whatever keeps a backend's configuration.

use std::collections::BTreeSet;
use std::net::IpAddr;

use headgate_config::model::{Farm, Mode};
use headgate_config::types::BackendName;
use serde::Serialize;

/// One backend's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setup {
    /// The backend.
    pub backend: BackendName,
    /// Its address.
    pub address: IpAddr,
    /// A sentence for people.
    pub note: &'static str,
    /// To be run as root on the backend, in this order.
    pub commands: Vec<String>,
}

/// What each backend of a farm needs, in the order of their names.
pub fn of(farm: &Farm) -> Vec<Setup> {
    let setup = |backend: &headgate_config::model::Backend| {
        let address = backend.address.address;
        let (note, commands) = match farm.mode {
            Mode::Snat => ("Nothing: it sees the box as its client and answers to it.", Vec::new()),
            Mode::Dnat | Mode::Stateless => (
                "Its route to the clients has to lead to the box, most often as its default gateway: answers that take \
                 another way are not translated back.",
                Vec::new(),
            ),
            Mode::Dsr => (
                "It carries the virtual address without telling its neighbours, listens there, and answers the clients \
                 itself.",
                direct(farm, address.is_ipv4()),
            ),
            Mode::Local => ("There are no backends.", Vec::new()),
        };
        Setup { backend: backend.name.clone(), address, note, commands }
    };
    farm.backends.values().map(setup).collect()
}

/// A backend that answers for the virtual addresses of its family.
///
/// Linux answers ARP for any address of the machine on any interface, and asks with any of them as the sender: both would
/// draw the virtual address's traffic past the box (`Documentation/networking/ip-sysctl.rst`, `arp_ignore`, `arp_announce`).
/// For IPv6 it answers for the interface's own addresses only. Without `nodad` an address is unusable for a moment.
fn direct(farm: &Farm, ipv4: bool) -> Vec<String> {
    let addresses: BTreeSet<IpAddr> =
        farm.listen.iter().map(|listen| listen.address).filter(|address| address.is_ipv4() == ipv4).collect();
    let mut commands = Vec::new();
    if ipv4 && !addresses.is_empty() {
        commands.push("sysctl -w net.ipv4.conf.all.arp_ignore=1".to_owned());
        commands.push("sysctl -w net.ipv4.conf.all.arp_announce=2".to_owned());
    }
    commands.extend(addresses.into_iter().map(|address| match address {
        IpAddr::V4(address) => format!("ip address add {address}/32 dev lo"),
        IpAddr::V6(address) => format!("ip address add {address}/128 dev lo nodad"),
    }));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{backend, tcp, web};

    #[test]
    fn a_backend_of_each_family_gets_the_addresses_of_its_own() {
        let mut farm = web();
        assert!(of(&farm).iter().all(|setup| setup.commands.is_empty() && setup.note.starts_with("Nothing")));
        farm.mode = Mode::Dsr;
        farm.listen.extend([tcp("172.16.1.1", 81), tcp("2001:db8:1::1", 80)]);
        let six = backend("b6", "2001:db8:2::11", 80);
        farm.backends.insert(six.name.clone(), six);
        let commands: Vec<Vec<String>> = of(&farm).into_iter().map(|setup| setup.commands).collect();
        let four = [
            "sysctl -w net.ipv4.conf.all.arp_ignore=1",
            "sysctl -w net.ipv4.conf.all.arp_announce=2",
            "ip address add 172.16.1.1/32 dev lo",
        ];
        assert_eq!(commands, [&four[..], &four, &["ip address add 2001:db8:1::1/128 dev lo nodad"]]);
    }
}
