//! What a backend needs on its side: the commands that make it answer for a farm.
//!
//! They are commands of iproute2 and procps, one a line for a shell and each of them safe to repeat but for `ip address add`
//! and `ip link add`, so that they can be read, run and put into whatever keeps a backend's configuration.

use std::collections::BTreeSet;
use std::net::IpAddr;

use headgate_config::model::{Farm, Mode};
use headgate_config::types::BackendName;
use serde::Serialize;

use crate::tunnel::{self, Device, GRE_KEY};

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
            Mode::Dsr => match Device::to(tunnel::via(farm), address) {
                None => (
                    "It carries the virtual address without telling its neighbours, listens there, and answers the \
                     clients itself.",
                    direct(farm, address.is_ipv4()),
                ),
                Some(device) => (
                    "It takes packets out of the tunnel, carries the virtual address without telling its neighbours, listens \
                     there, and answers the clients itself. The segment size fits an MTU of 1500 all the way; the last \
                     command changes the default route.",
                    [direct(farm, address.is_ipv4()), tunnelled(device, address)].concat(),
                ),
            },
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

/// The backend's end of a tunnel.
///
/// Without a remote address the device takes packets from any sender: filter the protocol where strangers reach a backend.
/// `rp_filter` is off, since packets of clients come in by the tunnel and the way to clients is another; loose is not enough for
/// an interface without an address (`__fib_validate_source`, net/ipv4/fib_frontend.c), and the larger of the two numbers counts. A client takes the
/// largest segment from the backend's SYN-ACK, which never passes the box, so only the backend can say that the tunnel
/// takes some bytes away; `advmss` is an attribute of its route to the clients.
fn tunnelled(device: Device, backend: IpAddr) -> Vec<String> {
    let (name, kind, mss) = (device.name(), device.kind(), device.segment_bytes());
    let how = match device {
        Device::Ipip => String::new(),
        Device::Ipip6 => " mode ip6ip6 remote ::".to_owned(),
        Device::Gre => format!(" key {GRE_KEY}"),
        Device::Gre6 => format!(" remote :: key {GRE_KEY}"),
    };
    let mut commands =
        vec![format!("ip link add name {name} type {kind} local {backend}{how}"), format!("ip link set dev {name} up")];
    if backend.is_ipv4() {
        commands.extend(["all", name].map(|name| format!("sysctl -w net.ipv4.conf.{name}.rp_filter=0")));
    }
    let ip = if backend.is_ipv4() { "ip" } else { "ip -6" };
    commands.push(format!(
        "{ip} route change $({ip} route show default | head -n 1 | sed 's/ advmss [0-9]*//') advmss {mss}"
    ));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use headgate_config::model::{Dsr, DsrVia};

    use crate::samples::{backend, tcp, web};

    #[test]
    fn a_backend_of_each_family_gets_the_addresses_of_its_own() {
        let mut farm = web();
        assert!(of(&farm).iter().all(|setup| setup.commands.is_empty() && setup.note.starts_with("Nothing")));
        farm.mode = Mode::Dsr;
        farm.listen.extend([tcp("172.16.1.1", 81), tcp("2001:db8:1::1", 80)]);
        let six = backend("b6", "2001:db8:2::11", 80);
        farm.backends.insert(six);
        let commands: Vec<Vec<String>> = of(&farm).into_iter().map(|setup| setup.commands).collect();
        let four = [
            "sysctl -w net.ipv4.conf.all.arp_ignore=1",
            "sysctl -w net.ipv4.conf.all.arp_announce=2",
            "ip address add 172.16.1.1/32 dev lo",
        ];
        assert_eq!(commands, [&four[..], &four, &["ip address add 2001:db8:1::1/128 dev lo nodad"]]);
        farm.dsr = Some(Dsr { via: DsrVia::Gre, interface: None });
        let commands: Vec<Vec<String>> = of(&farm).into_iter().map(|setup| setup.commands).collect();
        assert_eq!(
            commands[0][3..],
            [
                "ip link add name headgate-gre type gre local 172.16.2.11 key 72",
                "ip link set dev headgate-gre up",
                "sysctl -w net.ipv4.conf.all.rp_filter=0",
                "sysctl -w net.ipv4.conf.headgate-gre.rp_filter=0",
                "ip route change $(ip route show default | head -n 1 | sed 's/ advmss [0-9]*//') advmss 1432",
            ]
        );
        assert_eq!(commands[2][1], "ip link add name headgate-gre6 type ip6gre local 2001:db8:2::11 remote :: key 72");
    }
}
