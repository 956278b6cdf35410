use headgate_config::model::{self, InterfaceMatch};
use headgate_config::types::{Role, RouteName};

use super::*;
use crate::compile::{Desired, compile};
use crate::ids::Ids;
use crate::samples::{address, backend, config, facts, farm, interface, link, net, origin, tcp, web};

fn compiled(config: &Config, facts: &Facts) -> Desired {
    compile(config, &[], facts, &Ids::default()).unwrap()
}

fn with_interface(mut config: Config, interface: Interface) -> Config {
    config.network.interfaces.insert(interface.role.clone(), interface);
    config
}

fn added(desired: &Desired) -> Vec<String> {
    desired.state.addresses.iter().map(|address| format!("{} {}", address.link, address.net)).collect()
}

fn nics() -> Facts {
    let mut facts = Facts::default();
    let nic = |index, driver: Option<&str>, pci: Option<&str>, mac: &str| Link {
        driver: driver.map(str::to_owned),
        pci: pci.map(str::to_owned),
        mac: mac.to_owned(),
        ..link(index, &[])
    };
    facts.links.insert("lo".to_owned(), nic(1, None, None, ""));
    facts.links.insert("enp2".to_owned(), nic(2, Some("igb"), Some("0000:02:00.0"), "52:54:00:00:00:02"));
    facts.links.insert("enp1".to_owned(), nic(3, Some("igb"), Some("0000:01:00.0"), "52:54:00:00:00:01"));
    facts.links.insert("usb0".to_owned(), nic(4, Some("r8152"), None, "52:54:00:00:00:03"));
    facts
}

fn matched(matching: InterfaceMatch) -> Result<String, String> {
    let interface = Interface { matching: Some(matching), ..interface("service", &[]) };
    find(&interface, &nics()).map(str::to_owned)
}

#[test]
fn roles_are_found_by_driver_and_position() {
    let igb = |index| InterfaceMatch { driver: Some("igb".to_owned()), index, ..InterfaceMatch::default() };
    assert_eq!(matched(igb(Some(0))).unwrap(), "enp1", "in the order of PCI addresses");
    assert_eq!(matched(igb(Some(1))).unwrap(), "enp2");
    assert_eq!(matched(igb(Some(2))).unwrap_err(), "there is no index 2: interfaces with driver \"igb\": 2");
    assert_eq!(matched(igb(None)).unwrap_err(), "2 interfaces have driver \"igb\" (enp1, enp2); add index");
}

#[test]
fn roles_are_found_by_name_address_and_slot() {
    let by = |name: Option<&str>, mac: Option<&str>, pci: Option<&str>| {
        let text = |text: Option<&str>| text.map(str::to_owned);
        matched(InterfaceMatch { name: text(name), mac: text(mac), pci: text(pci), ..InterfaceMatch::default() })
    };
    assert_eq!(by(Some("usb0"), None, None).unwrap(), "usb0");
    assert_eq!(by(None, Some("52:54:00:00:00:02"), None).unwrap(), "enp2");
    assert_eq!(by(None, None, Some("0000:01:00.0")).unwrap(), "enp1");
    let both = by(Some("usb0"), Some("52:54:00:00:00:02"), None).unwrap_err();
    assert_eq!(both, "no interface has name \"usb0\" and mac \"52:54:00:00:00:02\"");
}

#[test]
fn index_alone_counts_network_cards() {
    let index = |index| matched(InterfaceMatch { index: Some(index), ..InterfaceMatch::default() });
    assert_eq!([0, 1, 2].map(|n| index(n).unwrap()), ["enp1", "enp2", "usb0"]);
    assert_eq!(index(3).unwrap_err(), "there is no index 3: interfaces with a device: 3");
}

#[test]
fn a_role_that_is_not_there_is_told_and_nothing_is_set() {
    let desired = compiled(&with_interface(config(vec![]), interface("eth7", &["10.0.0.1/24"])), &facts());
    assert_eq!(
        desired.warnings,
        ["network.interfaces.eth7: there is no interface eth7; without match the role is the kernel's name"]
    );
    assert!(desired.state.links.is_empty() && desired.state.addresses.is_empty());
}

#[test]
fn addresses_of_others_are_left_alone() {
    let config = with_interface(config(vec![]), interface("eth0", &["172.16.1.254/24", "172.16.1.7/24"]));
    let desired = compiled(&config, &facts());
    assert_eq!(added(&desired), ["eth0 172.16.1.7/24"]);
    assert_eq!(desired.state.links["eth0"], LinkState { up: true, mtu: None });
}

#[test]
fn a_virtual_address_goes_to_its_subnet() {
    let six = farm("six", vec![tcp("2001:db8:1::80", 80)], vec![backend("b", "2001:db8:2::11", 80)]);
    let desired = compiled(&config(vec![web(), six]), &facts());
    assert_eq!(added(&desired), ["eth0 172.16.1.1/32", "eth0 2001:db8:1::80/128"]);
    assert!(desired.warnings.is_empty(), "{:?}", desired.warnings);
}

#[test]
fn a_virtual_address_that_is_there_is_not_added() {
    let mut there = facts();
    there.links.insert("eth5".to_owned(), link(5, &["172.16.1.1/24"]));
    assert_eq!(added(&compiled(&config(vec![web()]), &there)), Vec::<String>::new(), "somebody else's");
    let configured = with_interface(config(vec![web()]), interface("eth0", &["172.16.1.1/24"]));
    assert_eq!(added(&compiled(&configured, &facts())), ["eth0 172.16.1.1/24"], "the interface's own");
    there.links.get_mut("eth5").unwrap().addresses[0].ours = true;
    assert_eq!(added(&compiled(&config(vec![web()]), &there)), ["eth0 172.16.1.1/32"], "ours is wanted again");
}

#[test]
fn virtual_addresses_can_be_placed_by_hand_or_not_at_all() {
    let never = Farm { address_manage: ManageAddress::Never, ..web() };
    assert!(compiled(&config(vec![never]), &facts()).state.addresses.is_empty());
    let off = Farm { state: FarmState::Off, ..web() };
    assert!(compiled(&config(vec![off]), &facts()).state.addresses.is_empty());
    let loopback = Farm { address_interface: Some("lo".to_owned()), ..web() };
    assert_eq!(added(&compiled(&config(vec![loopback]), &facts())), ["lo 172.16.1.1/32"]);
    let role = Interface {
        role: Role::new("inside").unwrap(),
        matching: Some(InterfaceMatch { name: Some("eth1".to_owned()), ..InterfaceMatch::default() }),
        ..interface("inside", &[])
    };
    let by_role = Farm { address_interface: Some("inside".to_owned()), ..web() };
    assert_eq!(added(&compiled(&with_interface(config(vec![by_role]), role), &facts())), ["eth1 172.16.1.1/32"]);
}

#[test]
fn a_virtual_address_without_a_place_is_told() {
    let far = Farm { listen: vec![tcp("192.0.2.80", 80), tcp("192.0.2.80", 81)], ..web() };
    let desired = compiled(&config(vec![far]), &facts());
    assert_eq!(
        desired.warnings,
        [
            "farm web: 192.0.2.80 is on no interface: none has a subnet that holds it; name one with address.interface, or \
          say address.manage = \"never\" if another program adds it"
        ]
    );
    assert_eq!(desired.unplaced, BTreeSet::from([address("192.0.2.80")]));
    let lost = Farm { address_interface: Some("outside".to_owned()), ..web() };
    assert_eq!(
        compiled(&config(vec![lost]), &facts()).warnings,
        ["farm web: 172.16.1.1 is on no interface: address.interface = \"outside\" is neither a role nor an interface"]
    );
}

#[test]
fn routes_name_interfaces_by_role() {
    let mut config = with_interface(config(vec![]), interface("eth0", &[]));
    let mut add = |name: &str, interface: Option<&str>| {
        let name = RouteName::new(name).unwrap();
        let route = model::Route {
            name: name.clone(),
            origin: origin(),
            to: net("0.0.0.0/0"),
            via: Some(address("172.16.1.254")),
            interface: interface.map(str::to_owned),
            metric: None,
            table: None,
            source: None,
        };
        config.network.routes.insert(name, route);
    };
    add("a", Some("eth0"));
    add("b", Some("nowhere"));
    let desired = compiled(&config, &facts());
    assert_eq!(desired.warnings, ["network.routes.b: there is no interface nowhere"]);
    let routes: Vec<String> = desired.state.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["default via 172.16.1.254 dev eth0"]);
}
