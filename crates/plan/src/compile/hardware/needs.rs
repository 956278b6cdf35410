//! What forwarding itself needs, whatever the profile.

use headgate_config::Config;
use headgate_config::model::InterfaceAddress;

use super::Link;
use crate::facts::Facts;
use crate::features::Feature;
use crate::state::{Fit, Knob, KnobValue};

/// Per interface: key below `net/ipv4/conf/X`, value, reason.
const PER_INTERFACE: [(&str, i64, &str); 4] = [
    (
        "rp_filter",
        0,
        "replies may come in where the way back does not lead; the larger of `all` and the interface counts",
    ),
    ("send_redirects", 0, "a client told to go to the backend directly would go past the load balancer"),
    ("arp_ignore", 1, "with two NICs in one segment only the one that has the address answers for it"),
    ("arp_announce", 2, "ARP requests carry an address of the segment they go to, never a virtual one of another"),
];

/// For `all`: where the kernel takes the larger of both (`IN_DEV_MAXCONF`, `IN_DEV_ORCONF`), the interface alone does not
/// suffice. ARP settings of `all` are left as they are: they would change the interfaces of others.
const FOR_ALL: [&str; 2] = ["rp_filter", "send_redirects"];

pub(super) fn knobs(config: &Config, facts: &Facts, ours: &[(&str, &Link)]) -> Vec<Knob> {
    let knob = |path: String, want, why: &str| Knob {
        path,
        want: KnobValue::Int(want),
        fit: Fit::Exact,
        why: why.to_owned(),
        origin: None,
    };
    let mut knobs =
        vec![knob("proc/sys/net/ipv4/ip_forward".into(), 1, "packets for a virtual address go on to its backend")];
    if facts.appliance || uses_ipv6(config) {
        // Not without need: the kernel drops the default routes that it learned from router advertisements.
        let why = "packets for a virtual IPv6 address go on to its backend";
        knobs.push(knob("proc/sys/net/ipv6/conf/all/forwarding".into(), 1, why));
    }
    for (key, value, why) in PER_INTERFACE {
        if FOR_ALL.contains(&key) {
            knobs.push(knob(format!("proc/sys/net/ipv4/conf/all/{key}"), value, why));
        }
        for (name, _) in ours {
            knobs.push(knob(format!("proc/sys/net/ipv4/conf/{name}/{key}"), value, why));
        }
    }
    let why = "a packet outside the window would leave untranslated, and the client would reset the connection";
    knobs.push(knob("proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal".into(), 1, why));
    let proxies = Feature::wanted(config).contains(&Feature::SynProxy);
    if proxies && !facts.lacking_features.contains(&Feature::SynProxy) {
        let why = "limits.syn-proxy: what ends a handshake with the proxy must not begin a connection by itself";
        knobs.push(knob("proc/sys/net/netfilter/nf_conntrack_tcp_loose".into(), 0, why));
    }
    knobs
}

fn uses_ipv6(config: &Config) -> bool {
    let network = &config.network;
    let addresses = network.interfaces.values().flat_map(|interface| &interface.addresses);
    let addresses = addresses.chain(network.vlans.values().flat_map(|vlan| &vlan.addresses));
    let mut addresses = addresses.chain(network.bonds.values().flat_map(|bond| &bond.addresses));
    config.farms.values().flat_map(|farm| &farm.listen).any(|listen| listen.address.is_ipv6())
        || addresses.any(|address| matches!(address, InterfaceAddress::Static(net) if net.addr().is_ipv6()))
        || network.routes.values().any(|route| route.to.addr().is_ipv6())
}
