use std::time::Duration;

use headgate_config::Config;
use headgate_config::model::{self, AcceptRa, BondMode, InterfaceAddress, LacpRate, Vlan, Vrf, XmitHashPolicy};
use headgate_config::types::Role;

use crate::compile::{Desired, Standing, compile};
use crate::facts::{Facts, Link};
use crate::ids::Ids;
use crate::samples::{config, facts, interface, link, net, origin, web};

fn role(name: &str) -> Role {
    Role::new(name).unwrap()
}

fn vlan(name: &str, parent: &str, id: u16) -> Vlan {
    Vlan {
        role: role(name),
        origin: origin(),
        parent: parent.to_owned(),
        id,
        addresses: vec![InterfaceAddress::Static(net("10.7.0.1/24"))],
        mtu: Some(1400),
        accept_ra: AcceptRa::No,
        vrf: None,
        allow: None,
    }
}

fn bond(name: &str, members: &[&str]) -> model::Bond {
    model::Bond {
        role: role(name),
        origin: origin(),
        members: members.iter().map(|member| (*member).to_owned()).collect(),
        mode: BondMode::Lacp,
        miimon: Duration::from_millis(100),
        lacp_rate: LacpRate::Slow,
        xmit_hash_policy: XmitHashPolicy::Layer34,
        addresses: Vec::new(),
        mtu: None,
        accept_ra: AcceptRa::No,
        vrf: None,
        allow: None,
    }
}

fn with(vlans: &[Vlan], bonds: &[model::Bond]) -> Config {
    let mut config = config(vec![web()]);
    config.network.vlans = vlans.iter().map(|vlan| (vlan.role.clone(), vlan.clone())).collect();
    config.network.bonds = bonds.iter().map(|bond| (bond.role.clone(), bond.clone())).collect();
    config
}

fn compiled(config: &Config, facts: &Facts) -> Desired {
    compile(config, &[], facts, &Ids::default()).unwrap()
}

fn told<'a, K: ToString + 'a, V: ToString + 'a>(map: impl IntoIterator<Item = (&'a K, &'a V)>) -> Vec<String> {
    map.into_iter().map(|(name, what)| format!("{} {}", name.to_string(), what.to_string())).collect()
}

#[test]
fn vlans_lie_on_roles_bonds_and_each_other() {
    let mut config = with(
        &[vlan("a", "b", 1), vlan("b", "b0", 2), vlan("c", "service", 3), vlan("lost", "nowhere", 4)],
        &[bond("b0", &["eth1", "eth9"])],
    );
    let named = model::Interface {
        matching: Some(model::InterfaceMatch { name: Some("eth0".to_owned()), ..Default::default() }),
        ..interface("service", &[])
    };
    config.network.interfaces.insert(named.role.clone(), named);
    let desired = compiled(&config, &facts());
    assert_eq!(
        told(&desired.state.uppers),
        [
            "a VLAN 1 of b",
            "b VLAN 2 of b0",
            "b0 bond, mode 802.3ad, miimon 100 ms, lacp-rate slow, xmit-hash-policy layer3+4",
            "c VLAN 3 of eth0",
        ]
    );
    assert_eq!(told(&desired.state.masters), ["eth1 b0"]);
    assert_eq!(
        desired.warnings[..2],
        ["network.vlans.lost: there is no interface nowhere", "network.bonds.b0: there is no interface eth9"]
    );
    let mtus: Vec<_> = desired.state.links.iter().map(|(name, link)| (name.as_str(), link.mtu)).collect();
    let ours = Some(1400);
    assert_eq!(mtus, [("a", ours), ("b", ours), ("b0", None), ("c", ours), ("eth0", None), ("eth1", None)]);
    assert!(desired.state.knobs.contains_key("proc/sys/net/ipv6/conf/a/accept_ra"));
}

#[test]
fn what_others_made_is_neither_made_nor_taken() {
    let config = with(&[vlan("v7", "eth0", 7)], &[bond("b0", &["eth1"])]);
    let mut facts = facts();
    facts.links.insert("v7".to_owned(), link(7, &[]));
    facts.links.insert("br0".to_owned(), link(8, &[]));
    facts.links.get_mut("eth1").unwrap().master = Some("br0".to_owned());
    let desired = compiled(&config, &facts);
    assert_eq!(desired.state.uppers.keys().collect::<Vec<_>>(), ["b0"]);
    assert!(desired.state.masters.is_empty());
    let told = |text: &str| desired.warnings.iter().any(|warning| warning.contains(text));
    assert!(told("network.vlans.v7: interface v7 is there and not headgate's"), "{:?}", desired.warnings);
    assert!(told("interface eth1 belongs to br0, which is not headgate's"), "{:?}", desired.warnings);
    assert!(desired.state.addresses.iter().any(|address| address.link == "v7"), "it is used");
    // Ours from before is made what it should be now.
    facts.links.insert("v7".to_owned(), Link { ours: true, ..link(7, &[]) });
    assert!(compiled(&config, &facts).state.uppers.contains_key("v7"));
}

#[test]
fn farms_do_not_see_what_is_in_a_vrf() {
    let mut config = with(&[], &[]);
    config.network.vrfs.insert(role("mgmt"), Vrf { name: role("mgmt"), origin: origin(), table: 10 });
    let managed = model::Interface { vrf: Some(role("mgmt")), ..interface("eth1", &["172.16.9.1/24"]) };
    config.network.interfaces.insert(managed.role.clone(), managed);
    let desired = compiled(&config, &facts());
    assert_eq!(told(&desired.state.masters), ["eth1 mgmt"]);
    // The backends are in the subnet of eth1.
    let seen = |desired: &Desired| {
        let standings = desired.context.standings(&config.farms[&web().name], &desired.ids);
        standings.iter().filter(|one| **one == Standing::Unroutable).count()
    };
    assert_eq!(seen(&desired), 2, "no route leads there but in the VRF");
}
