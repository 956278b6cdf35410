use std::collections::BTreeSet;

use super::*;
use crate::facts::RouteFact;
use crate::samples::{address, facts, link, net};

fn route(to: &str, via: Option<&str>) -> Route {
    Route { to: net(to), via: via.map(address), link: None, source: None, metric: None, table: TABLE_MAIN }
}

fn source(routing: &Routing, to: &str) -> Option<String> {
    routing.source_for(address(to)).map(|source| source.to_string())
}

#[test]
fn on_link_is_the_address_of_the_subnet() {
    let routing = Routing::new(&[], &[], &facts(), &BTreeSet::new());
    assert_eq!(source(&routing, "172.16.2.11").as_deref(), Some("172.16.2.1"));
    assert_eq!(source(&routing, "2001:db8:2::11").as_deref(), Some("2001:db8:2::1"));
    assert_eq!(source(&routing, "8.8.8.8"), None);
    assert_eq!(source(&routing, "fe80::9").as_deref(), Some("2001:db8:1::fe"), "link-local is never translated to");
}

#[test]
fn a_gateway_decides_by_its_subnet() {
    let routes = [route("0.0.0.0/0", Some("172.16.1.1")), route("10.9.0.0/16", Some("172.16.2.200"))];
    let routing = Routing::new(&[], &routes, &facts(), &BTreeSet::new());
    assert_eq!(source(&routing, "8.8.8.8").as_deref(), Some("172.16.1.254"));
    assert_eq!(source(&routing, "10.9.1.1").as_deref(), Some("172.16.2.1"), "the longest prefix wins");
}

#[test]
fn a_lower_metric_wins_and_a_preferred_source_is_used() {
    let via = |gateway: &str, metric, source: Option<&str>| Route {
        metric: Some(metric),
        source: source.map(address),
        ..route("0.0.0.0/0", Some(gateway))
    };
    let routes = [via("172.16.1.1", 200, None), via("172.16.2.200", 100, Some("172.16.1.77"))];
    let routing = Routing::new(&[], &routes, &facts(), &BTreeSet::new());
    assert_eq!(source(&routing, "8.8.8.8").as_deref(), Some("172.16.1.77"));
}

#[test]
fn other_tables_do_not_count() {
    let routing = Routing::new(
        &[],
        &[Route { table: 100, ..route("0.0.0.0/0", Some("172.16.1.1")) }],
        &facts(),
        &BTreeSet::new(),
    );
    assert_eq!(source(&routing, "8.8.8.8"), None);
}

#[test]
fn a_link_local_gateway_uses_a_global_address_of_its_interface() {
    let routes = [Route { link: Some("eth1".to_owned()), ..route("::/0", Some("fe80::9")) }];
    let routing = Routing::new(&[], &routes, &facts(), &BTreeSet::new());
    assert_eq!(source(&routing, "2001:db8:ffff::1").as_deref(), Some("2001:db8:2::1"));
}

#[test]
fn a_gateway_outside_of_all_subnets_uses_the_first_address() {
    let mut facts = facts();
    facts.routes.push(RouteFact {
        to: net("0.0.0.0/0"),
        via: Some(address("192.0.2.1")),
        link: "eth0".to_owned(),
        source: None,
        metric: 0,
    });
    assert_eq!(source(&Routing::new(&[], &[], &facts, &BTreeSet::new()), "8.8.8.8").as_deref(), Some("172.16.1.254"));
}

#[test]
fn configured_addresses_come_before_those_of_others() {
    let mut facts = facts();
    facts.links.insert("eth9".to_owned(), link(9, &["10.0.0.7/24"]));
    let ours = Address { link: "eth9".to_owned(), net: net("10.0.0.5/24") };
    assert_eq!(source(&Routing::new(&[ours], &[], &facts, &BTreeSet::new()), "10.0.0.1").as_deref(), Some("10.0.0.5"));
}

#[test]
fn addresses_that_we_added_are_known_from_the_configuration_only() {
    let mut facts = facts();
    let mut link = link(9, &["10.0.0.7/24"]);
    link.addresses[0].ours = true;
    facts.links.insert("eth9".to_owned(), link);
    assert_eq!(source(&Routing::new(&[], &[], &facts, &BTreeSet::new()), "10.0.0.1"), None, "it is about to go");
}

#[test]
fn host_addresses_reach_nobody() {
    let mut facts = facts();
    facts.links.insert("eth9".to_owned(), link(9, &["10.0.0.7/32"]));
    let routing = Routing::new(&[], &[], &facts, &BTreeSet::new());
    assert_eq!(source(&routing, "10.0.0.7"), None);
    assert_eq!(routing.link_of(address("10.0.0.7")), None);
}

#[test]
fn the_longest_subnet_holds_an_address() {
    let mut facts = facts();
    facts.links.insert("eth9".to_owned(), link(9, &["172.16.2.129/25"]));
    let routing = Routing::new(&[], &[], &facts, &BTreeSet::new());
    assert_eq!(routing.link_of(address("172.16.2.200")), Some("eth9"));
    assert_eq!(routing.link_of(address("172.16.2.100")), Some("eth1"));
}
