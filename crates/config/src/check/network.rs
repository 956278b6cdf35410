//! `[network]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Checker;
use super::fields::{Fields, PRESET};
use crate::diagnostic::Report;
use crate::model::{Allow, Bond, Interface, InterfaceAddress, InterfaceMatch, Network, Route, Vlan, Vrf};
use crate::schema::{interface_address, kernel_name, mac, pci, prefix};
use crate::tree::{Node, Span, Value};
use crate::types::{Invalid, NeighbourName, Role, RouteName, RuleName, parse_address};

mod neighbour;
mod rule;

/// Those whose entries are interfaces that have addresses.
const CARRIERS: [&str; 3] = ["interfaces", "vlans", "bonds"];
/// Those whose entries are interfaces.
const TABLES: [&str; 4] = ["interfaces", "vlans", "bonds", "vrfs"];
/// `RT_TABLE_DEFAULT`, `…_MAIN`, `…_LOCAL`.
const TABLES_OF_THE_KERNEL: std::ops::RangeInclusive<u32> = 253..=255;

pub(super) fn network(checker: &mut Checker<'_>, fields: Fields<'_>) -> Network {
    roles(checker, fields);
    addresses_once(checker, fields);
    let mut network = Network::default();
    for (role, fields) in fields.named("interfaces") {
        let Ok(role) = Role::new(role) else { continue };
        let interface = interface(checker, role.clone(), fields);
        network.interfaces.insert(role, interface);
    }
    for (role, fields) in fields.named("vlans") {
        let Ok(role) = Role::new(role) else { continue };
        let vlan = vlan(checker, role.clone(), fields);
        network.vlans.insert(role, vlan);
    }
    for (role, fields) in fields.named("bonds") {
        let Ok(role) = Role::new(role) else { continue };
        let bond = bond(checker, role.clone(), fields);
        network.bonds.insert(role, bond);
    }
    for (name, fields) in fields.named("vrfs") {
        let Ok(name) = Role::new(name) else { continue };
        let vrf = vrf(checker, name.clone(), fields);
        network.vrfs.insert(name, vrf);
    }
    for (name, fields) in fields.named("routes") {
        let Ok(name) = RouteName::new(name) else { continue };
        let route = route(checker, name.clone(), fields);
        network.routes.extend(route.map(|route| (name, route)));
    }
    for (name, fields) in fields.named("rules") {
        let Ok(name) = RuleName::new(name) else { continue };
        let rule = rule::rule(checker, name.clone(), fields);
        network.rules.extend(rule.map(|rule| (name, rule)));
    }
    rule::priorities(checker, fields, &network);
    for (name, fields) in fields.named("neighbours") {
        let Ok(name) = NeighbourName::new(name) else { continue };
        let neighbour = neighbour::neighbour(checker, name.clone(), fields);
        network.neighbours.extend(neighbour.map(|neighbour| (name, neighbour)));
    }
    neighbour::once(checker, fields, &network);
    vlan_ids(checker, fields);
    vlan_cycles(checker, fields, &network);
    members_once(checker, fields);
    members_are_bare(checker, fields);
    vrfs(checker, fields);
    network
}

/// A role is one interface, and where it is also the kernel's name for it, the kernel must take it.
fn roles(checker: &mut Checker<'_>, fields: Fields<'_>) {
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for table in TABLES {
        for (role, written) in fields.named(table) {
            if let Some(&first) = seen.get(role) {
                let message = format!("interface {role} is defined twice in [network]");
                let report = Report::error(written.span(), message).note(first, "it is already here");
                checker.push(report.help("interfaces, vlans, bonds and vrfs share their names"));
            }
            seen.insert(role, written.span());
            let named_by_kernel = table != "interfaces" || !written.has("match");
            if let (true, Err(Invalid { message, help })) = (named_by_kernel, kernel_name(role)) {
                let help = help.map(|help| match table {
                    "interfaces" => format!("{help}; or a match, then the role may be any name"),
                    _ => help,
                });
                checker.push(Report::error(written.span(), message).maybe_help(help));
            }
        }
    }
}

fn interface(checker: &mut Checker<'_>, role: Role, fields: Fields<'_>) -> Interface {
    Interface {
        origin: checker.document.origin_at(fields.span()),
        matching: fields.maybe_table("match").map(|table| matching(checker, table)),
        addresses: addresses(checker, fields),
        mtu: fields.integer("mtu"),
        accept_ra: fields.word("accept-ra").unwrap_or_default(),
        vrf: vrf_of(fields),
        allow: allow(checker, fields),
        role,
    }
}

fn matching(checker: &mut Checker<'_>, fields: Fields<'_>) -> InterfaceMatch {
    if fields.written().next().is_none() {
        checker.missing(fields, "an empty match fits every interface", "any of name, mac, driver, pci, index");
    }
    InterfaceMatch {
        name: fields.text("name").map(str::to_owned),
        mac: fields.text("mac").and_then(|text| mac(text).ok()),
        driver: fields.text("driver").map(str::to_owned),
        pci: fields.text("pci").and_then(|text| pci(text).ok()),
        index: fields.integer("index"),
    }
}

fn addresses(checker: &mut Checker<'_>, fields: Fields<'_>) -> Vec<InterfaceAddress> {
    let mut list: Vec<InterfaceAddress> = Vec::new();
    for (address, span) in fields.list("addresses", |text| interface_address(text).ok()) {
        let address = match address {
            None => InterfaceAddress::Dhcp,
            Some(net) => {
                checker.host_address("the interface's address", net.addr(), span);
                subnet_ends(checker, net, span);
                InterfaceAddress::Static(net)
            }
        };
        if list.contains(&address) {
            checker.push(Report::error(span, "the address is listed twice"));
        } else {
            list.push(address);
        }
    }
    let has_v6 = list.iter().any(|address| matches!(address, InterfaceAddress::Static(IpNet::V6(_))));
    let mtu: Option<u32> = fields.integer("mtu");
    if has_v6 && mtu.is_some_and(|mtu| mtu < 1280) {
        let report =
            Report::error(fields.span_of("mtu"), "an interface with an IPv6 address needs an mtu of at least 1280");
        checker.push(report.help("RFC 8200, section 5; the kernel removes IPv6 below it"));
    }
    list
}

/// The first and last address of an IPv4 subnet belong to no host, but in the two smallest (RFC 3021).
fn subnet_ends(checker: &mut Checker<'_>, net: IpNet, span: Span) {
    let IpNet::V4(net) = net else { return };
    if net.prefix_len() >= 31 {
        return;
    }
    let what = if net.addr() == net.network() {
        "the address of the subnet itself"
    } else if net.addr() == net.broadcast() {
        "the broadcast address of its subnet"
    } else {
        return;
    };
    checker.push(Report::error(span, format!("{} is {what}", net.addr())).help("an address within the subnet"));
}

/// No two interfaces carry one address.
fn addresses_once(checker: &mut Checker<'_>, fields: Fields<'_>) {
    let mut seen: BTreeMap<IpAddr, (&str, Span)> = BTreeMap::new();
    for (role, written) in CARRIERS.iter().flat_map(|table| fields.named(table)) {
        for (net, span) in written.list("addresses", |text| interface_address(text).ok()) {
            let Some(net) = net else { continue };
            match seen.get(&net.addr()) {
                Some(&(other, first)) if other != role => {
                    let message = format!("interfaces {other} and {role} both have {}", net.addr());
                    checker.push(Report::error(span, message).note(first, format!("{other} has it here")));
                }
                Some(_) => {}
                None => {
                    seen.insert(net.addr(), (role, span));
                }
            }
        }
    }
}

fn allow(checker: &mut Checker<'_>, fields: Fields<'_>) -> Option<Vec<Allow>> {
    let Node { value: Value::Array(items), .. } = fields.node("allow")? else { return None };
    let mut list = Vec::new();
    for item in items {
        match &item.value {
            Value::Text(service) => list.push(Allow { service: service.as_ref().to_owned(), from: Vec::new() }),
            Value::Table(table) => {
                let text = |node: &Node| match &node.value {
                    Value::Text(text) => Some(text.as_ref().to_owned()),
                    _ => None,
                };
                let from = match table.get("from").map(|node| &node.value) {
                    Some(Value::Array(nets)) if nets.is_empty() => {
                        let report = Report::error(item.span, "from is empty: nobody would be let in");
                        checker.push(report.help("leave out from to let everybody in, or the whole entry for nobody"));
                        Vec::new()
                    }
                    Some(Value::Array(nets)) => {
                        nets.iter().filter_map(text).filter_map(|text| prefix(&text).ok()).collect()
                    }
                    _ => Vec::new(),
                };
                match table.get("service").and_then(text) {
                    Some(service) => list.push(Allow { service, from }),
                    None => {
                        checker.push(Report::error(item.span, "the entry names no service").help("service = \"ssh\""))
                    }
                }
            }
            _ => {}
        }
    }
    Some(list)
}

fn vlan(checker: &mut Checker<'_>, role: Role, fields: Fields<'_>) -> Vlan {
    for (key, help) in [("parent", "parent = the role or kernel name of an interface"), ("id", "id = 1 to 4094")] {
        if !fields.has(key) {
            checker.missing(fields, &format!("vlan {role} has no {key}"), help);
        }
    }
    Vlan {
        origin: checker.document.origin_at(fields.span()),
        parent: fields.text("parent").unwrap_or_default().to_owned(),
        id: fields.integer("id").unwrap_or(1),
        addresses: addresses(checker, fields),
        mtu: fields.integer("mtu"),
        accept_ra: fields.word("accept-ra").unwrap_or_default(),
        vrf: vrf_of(fields),
        allow: allow(checker, fields),
        role,
    }
}

fn vlan_ids(checker: &mut Checker<'_>, fields: Fields<'_>) {
    let mut seen: BTreeMap<(&str, u16), (&str, Span)> = BTreeMap::new();
    for (role, vlan) in fields.named("vlans") {
        let (Some(parent), Some(id)) = (vlan.text("parent"), vlan.integer::<u16>("id")) else { continue };
        match seen.get(&(parent, id)) {
            Some(&(other, first)) => {
                let message = format!("vlans {other} and {role} both have id {id} on {parent}");
                checker.push(Report::error(vlan.span_of("id"), message).note(first, "the other"));
            }
            None => {
                seen.insert((parent, id), (role, vlan.span_of("id")));
            }
        }
    }
}

fn vlan_cycles(checker: &mut Checker<'_>, fields: Fields<'_>, network: &Network) {
    for (role, vlan) in fields.named("vlans") {
        // Each vlan is entered at most once on the way down, so this ends.
        let mut at = vlan.text("parent");
        let mut steps = 0;
        while let Some(parent) = at.filter(|&parent| parent != role && steps <= network.vlans.len()) {
            at = network.vlans.get(parent).map(|vlan| vlan.parent.as_str());
            steps += 1;
        }
        if at == Some(role) {
            let report = Report::error(vlan.span_of("parent"), format!("vlan {role} is carried by itself"));
            checker.push(report.help("the parent is the interface that is plugged in"));
        }
    }
}

fn bond(checker: &mut Checker<'_>, role: Role, fields: Fields<'_>) -> Bond {
    let members = fields.texts("members");
    if members.is_empty() {
        let report = Report::error(fields.span_of("members"), format!("bond {role} has no members"));
        checker.push(report.help("members = [\"eth2\", \"eth3\"]"));
    }
    for &(_, span) in members.iter().filter(|(member, _)| *member == role.as_str()) {
        checker.push(Report::error(span, format!("bond {role} is a member of itself")));
    }
    Bond {
        origin: checker.document.origin_at(fields.span()),
        members: members.into_iter().map(|(member, _)| member.to_owned()).collect(),
        mode: fields.word("mode").expect(PRESET),
        miimon: fields.duration("miimon").expect(PRESET),
        lacp_rate: fields.word("lacp-rate").expect(PRESET),
        xmit_hash_policy: fields.word("xmit-hash-policy").expect(PRESET),
        addresses: addresses(checker, fields),
        mtu: fields.integer("mtu"),
        accept_ra: fields.word("accept-ra").unwrap_or_default(),
        vrf: vrf_of(fields),
        allow: allow(checker, fields),
        role,
    }
}

fn members_once(checker: &mut Checker<'_>, fields: Fields<'_>) {
    let mut seen: BTreeMap<&str, (&str, Span)> = BTreeMap::new();
    for (bond, written) in fields.named("bonds") {
        for (member, span) in written.texts("members") {
            match seen.get(member) {
                Some(&(other, first)) => {
                    let message = match other == bond {
                        true => format!("{member} is a member of bond {bond} twice"),
                        false => format!("{member} is a member of bonds {other} and {bond}"),
                    };
                    checker.push(Report::error(span, message).note(first, "it is already here"));
                }
                None => {
                    seen.insert(member, (bond, span));
                }
            }
        }
    }
}

/// What a bond has taken has no addresses of its own, belongs to nothing else, and sends what the bond sends: the kernel gives a
/// member the bond's MTU whenever it joins or that MTU is set (`bond_enslave`, `bond_change_mtu`).
fn members_are_bare(checker: &mut Checker<'_>, fields: Fields<'_>) {
    for (bond, written) in fields.named("bonds") {
        for (member, span) in written.texts("members") {
            let Some(of_role) = role_of(fields, member) else { continue };
            for key in ["addresses", "vrf"].into_iter().filter(|key| of_role.has(key)) {
                let message = format!("{member} is a member of bond {bond} and has {key} of its own");
                let report = Report::error(of_role.key_span(key), message).note(span, "it is a member here");
                checker.push(report.help(format!("{key} of the bond")));
            }
            let mtus = [of_role.integer::<u32>("mtu"), written.integer::<u32>("mtu")];
            if mtus[0].is_some() && mtus[0] != mtus[1] {
                let message = format!("{member} is a member of bond {bond} and has another mtu");
                let report = Report::error(of_role.key_span("mtu"), message).note(span, "it is a member here");
                checker.push(report.help("mtu of the bond: its members take it over"));
            }
        }
    }
}

/// What is written of an interface that is named by its role or, where the role matches by it, by its kernel name.
fn role_of<'a>(fields: Fields<'a>, name: &str) -> Option<Fields<'a>> {
    let by_role = CARRIERS.iter().flat_map(|table| fields.named(table)).find(|(role, _)| *role == name);
    let by_name = || {
        let matches = |of: &Fields<'a>| of.maybe_table("match").and_then(|table| table.text("name")) == Some(name);
        fields.named("interfaces").find(|(_, of)| matches(of))
    };
    by_role.or_else(by_name).map(|(_, of)| of)
}

fn vrf_of(fields: Fields<'_>) -> Option<Role> {
    fields.text("vrf").and_then(|name| Role::new(name).ok())
}

fn vrf(checker: &mut Checker<'_>, name: Role, fields: Fields<'_>) -> Vrf {
    let table = fields.integer("table");
    if !fields.has("table") {
        checker.missing(fields, &format!("vrf {name} has no table"), "table = 1 to 4294967295, but not 253 to 255");
    }
    if let Some(table) = table.filter(|table| TABLES_OF_THE_KERNEL.contains(table)) {
        let message = format!("table {table} is the kernel's, not a vrf's");
        checker.push(Report::error(fields.span_of("table"), message).help("any other number, such as 10"));
    }
    Vrf { origin: checker.document.origin_at(fields.span()), table: table.unwrap_or(1), name }
}

/// Each belongs to one that there is, and no two have one table.
fn vrfs(checker: &mut Checker<'_>, fields: Fields<'_>) {
    let mut seen: BTreeMap<u32, (&str, Span)> = BTreeMap::new();
    for (vrf, written) in fields.named("vrfs") {
        let Some(table) = written.integer("table") else { continue };
        let span = written.span_of("table");
        match seen.get(&table) {
            Some(&(other, first)) => {
                let message = format!("vrfs {other} and {vrf} both have table {table}");
                checker.push(Report::error(span, message).note(first, "the other"));
            }
            None => {
                seen.insert(table, (vrf, span));
            }
        }
    }
    for (_, written) in CARRIERS.iter().flat_map(|table| fields.named(table)) {
        let Some(vrf) = written.text("vrf") else { continue };
        if !fields.named("vrfs").any(|(name, _)| name == vrf) {
            let report = Report::error(written.span_of("vrf"), format!("there is no vrf {vrf}"));
            checker.push(report.help(format!("[network.vrfs.{vrf}] with its table")));
        }
    }
}

fn route(checker: &mut Checker<'_>, name: RouteName, fields: Fields<'_>) -> Option<Route> {
    let address = |key: &str| fields.text(key).and_then(|text| parse_address(text).ok());
    let (via, source) = (address("via"), address("source"));
    if !fields.has("to") {
        checker.missing(fields, &format!("route {name} has no to"), "to = \"default\" or a prefix");
        return None;
    }
    if !fields.has("via") && !fields.has("interface") {
        checker.missing(fields, &format!("route {name} leads nowhere"), "via = the next hop, or interface");
    }
    let to = match fields.text("to")? {
        "default" if via.or(source).is_some_and(|address| address.is_ipv6()) => {
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))
        }
        "default" => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        text => prefix(text).ok()?,
    };
    for (key, address) in [("via", via), ("source", source)] {
        let Some(address) = address else { continue };
        checker.host_address(
            if key == "via" { "the next hop" } else { "the source address" },
            address,
            fields.span_of(key),
        );
        if address.is_ipv4() != to.addr().is_ipv4() {
            let report = Report::error(fields.span_of(key), format!("{key} is of another family than the route"));
            checker.push(report.note(fields.span_of("to"), "the route leads here"));
        }
    }
    Some(Route {
        origin: checker.document.origin_at(fields.span()),
        to,
        via,
        interface: fields.text("interface").map(str::to_owned),
        metric: fields.integer("metric"),
        table: fields.integer("table"),
        source,
        name,
    })
}
