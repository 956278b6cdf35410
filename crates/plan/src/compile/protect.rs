//! The filter for what is meant for the box itself: `system.protect` and the `allow` lists of the interfaces.
//!
//! A table of its own, so that neither the data plane nor another program's firewall knows of it. Its one hook is behind
//! every other chain on input: what a farm answers for (a refusal, a SYN proxy) has been answered before, and what another
//! firewall dropped stays dropped. Packets that go through the box never come by.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headgate_config::Config;
use headgate_config::model::{Allow, Farm, FarmState, InterfaceAddress, Mode};
use headgate_config::types::{Listen, Ports, Protocol, Role};
use headgate_nft::{
    Bytes, Chain, Data, Datatype, Element, Field, Rule, Set, SetData, Statement, Table, TableId, Value, Verdict,
};
use ipnet::IpNet;

use super::farm::is_anywhere;
use super::hooks::base;
use super::terms::{
    ESTABLISHED, RELATED, TCP, UDP, address_bytes, address_fields, equal, exactly, in_state, is, jump, nfproto, rule,
};
use crate::facts::Facts;
use crate::names::{self, IpVersion};

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const ICMP6: u8 = 58;
const VRRP: u8 = 112;
/// Types of ICMP (RFC 792) that say that a packet of ours went wrong. Of flows without connection tracking nothing else
/// lets them in, and without them the path MTU stays unknown.
const ICMP_ERRORS: [(u8, u8); 2] = [(3, 3), (11, 12)];
/// The same of ICMPv6 (RFC 4443), and what IPv6 cannot live without: listener reports (RFC 2710, 3810), neighbours and
/// routers (RFC 4861). The kernel takes the latter with a hop limit of 255 only, which is the sender on the link.
const ICMP6_NEEDED: [(u8, u8); 3] = [(1, 4), (130, 137), (143, 143)];
const ECHO_REQUEST: u8 = 8;
const ECHO6_REQUEST: u8 = 128;
const BOOTP_SERVER: u16 = 67;
const BOOTP_CLIENT: u16 = 68;
/// Index of `lo`, the first device of every network namespace.
const LOOPBACK: u32 = 1;

/// An interface as the filter sees it.
struct Guarded<'a> {
    /// Its kernel name.
    link: &'a str,
    role: &'a str,
    vrf: Option<&'a str>,
    addresses: &'a [InterfaceAddress],
    allow: &'a [Allow],
}

/// Something that may be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Everything,
    Echo,
    Protocol(u8),
    Port(u8, u16),
}

/// Whether the box filters what is meant for itself.
fn is_on(config: &Config, facts: &Facts) -> bool {
    config.system.protect.unwrap_or(facts.appliance)
}

/// The table, when there is a filter.
pub(super) fn table(config: &Config, facts: &Facts, roles: &BTreeMap<String, String>) -> Option<(TableId, Table)> {
    if !is_on(config, facts) {
        return None;
    }
    let mut table = Table::default();
    let mut interfaces = Set { key: vec![Datatype::IfName], data: Some(SetData::Verdict), ..Set::default() };
    let default = default_allow();
    for interface in interfaces_of(config, roles, &default) {
        let chain: Arc<str> = names::allow_chain(interface.role);
        let goto = Element { data: Some(Data::Verdict(Verdict::Goto(chain.clone()))), ..Element::default() };
        // What comes in by a VRF has that as its interface once it is known to be for the box (`l3mdev_ip_rcv`): the list of
        // the first of its interfaces is that of the VRF.
        if let Some(vrf) = interface.vrf {
            interfaces.elements.entry(exactly(link_bytes(vrf))).or_insert(goto.clone());
        }
        interfaces.elements.insert(exactly(link_bytes(interface.link)), goto);
        table.chains.insert(chain, Chain { base: None, rules: interface_rules(config, &interface) });
    }
    let has_interfaces = !interfaces.elements.is_empty();
    if has_interfaces {
        table.sets.insert(names::PROTECT_INTERFACES.into(), interfaces);
    }
    table.chains.extend(IpVersion::ALL.map(control));
    let mut rules = always();
    rules.extend(config.farms.values().flat_map(|farm| of_farm(farm)));
    if has_interfaces {
        let key = Value::Field(Field::Iifname);
        rules.push(rule([Statement::VerdictMap { key, map: names::PROTECT_INTERFACES.into() }]));
    }
    rules.extend(openings(config, &default));
    rules.push(refuse());
    table.chains.extend([base(names::PROTECT_INPUT, rules)]);
    Some((TableId::inet(names::PROTECT_TABLE), table))
}

/// What an interface lets in that says nothing about it.
fn default_allow() -> Vec<Allow> {
    vec![Allow { service: "ping".to_owned(), from: Vec::new() }]
}

/// Interfaces, VLANs and bonds that are there.
fn interfaces_of<'a>(
    config: &'a Config,
    roles: &'a BTreeMap<String, String>,
    default: &'a [Allow],
) -> Vec<Guarded<'a>> {
    let network = &config.network;
    let interfaces = network.interfaces.values().map(|it| (&it.role, it.addresses.as_slice(), &it.allow, &it.vrf));
    let vlans = network.vlans.values().map(|it| (&it.role, it.addresses.as_slice(), &it.allow, &it.vrf));
    let bonds = network.bonds.values().map(|it| (&it.role, it.addresses.as_slice(), &it.allow, &it.vrf));
    interfaces
        .chain(vlans)
        .chain(bonds)
        .filter_map(|(role, addresses, allow, vrf)| {
            let (allow, role) = (allow.as_deref().unwrap_or(default), role.as_str());
            let vrf = vrf.as_ref().map(Role::as_str);
            Some(Guarded { link: roles.get(role)?, role, vrf, addresses, allow })
        })
        .collect()
}

/// The kinds of ICMP, or ICMPv6, that pass everywhere.
fn control(version: IpVersion) -> (Arc<str>, Chain) {
    let kinds = match version {
        IpVersion::V4 => ICMP_ERRORS.as_slice(),
        IpVersion::V6 => ICMP6_NEEDED.as_slice(),
    };
    let ranges = kinds.iter().flat_map(|&(first, last)| prefixes(Field::IcmpType, first.into(), last.into()));
    let rules = ranges.map(|kind| rule([kind, accept()])).collect();
    (names::control_chain(version), Chain { base: None, rules })
}

/// What passes whatever the lists say.
fn always() -> Vec<Rule> {
    let control = |number, version| rule([is(Field::L4proto, number), jump(&names::control_chain(version))]);
    vec![
        rule([equal(Value::Field(Field::Iif), Bytes::from_slice(&LOOPBACK.to_ne_bytes())), accept()]),
        rule([in_state(ESTABLISHED | RELATED), accept()]),
        control(ICMP, IpVersion::V4),
        control(ICMP6, IpVersion::V6),
        // A switch that snoops asks who listens; keepalived's groups depend on the answer.
        rule([is(Field::L4proto, IGMP), accept()]),
    ]
}

fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

fn refuse() -> Rule {
    rule([Statement::Counter, Statement::Verdict(Verdict::Drop)])
}

/// A `local` farm is a service of the box that has its own limits and policies: it says itself who comes in.
fn of_farm(farm: &Farm) -> Vec<Rule> {
    if farm.mode != Mode::Local || farm.state == FarmState::Off {
        return Vec::new();
    }
    farm.listen.iter().flat_map(of_listener).collect()
}

fn of_listener(listen: &Listen) -> Vec<Rule> {
    let version = IpVersion::of(listen.address);
    let mut head = vec![is(Field::Nfproto, nfproto(version))];
    if !is_anywhere(listen) {
        head.push(equal(Value::Field(address_fields(version).1), address_bytes(listen.address)));
    }
    head.extend(listen.protocol.number().map(|number| is(Field::L4proto, number)));
    let with = |more: Vec<Statement>| {
        let statements = head.iter().cloned().chain(more).chain([accept()]).collect();
        Rule { statements, comment: None }
    };
    match (listen.protocol, listen.ports) {
        (Protocol::Any, _) | (_, Ports::All) => vec![with(vec![])],
        (_, Ports::One(port)) => vec![with(vec![to_port(port)])],
        (_, Ports::Range(first, last)) => {
            prefixes(Field::Dport, first, last).map(|statement| with(vec![statement])).collect()
        }
    }
}

/// A range of a field of one or two bytes as masked comparisons, as few as there can be: 30 at most.
fn prefixes(field: Field, first: u16, last: u16) -> impl Iterator<Item = Statement> {
    let width = if field == Field::IcmpType { 1 } else { 2 };
    let (mut next, last) = (u32::from(first), u32::from(last));
    std::iter::from_fn(move || {
        if next > last {
            return None;
        }
        let mut size = if next == 0 { 1 << 16 } else { next & next.wrapping_neg() };
        while next + size - 1 > last {
            size /= 2;
        }
        let bytes = |number: u32| Bytes::from_slice(&number.to_be_bytes()[4 - width..]);
        let (start, mask) = (bytes(next), bytes(size.wrapping_neg()));
        next += size;
        Some(match size {
            1 => equal(Value::Field(field), start),
            _ => equal(Value::And(Box::new(Value::Field(field)), mask), start),
        })
    })
}

fn to_port(port: u16) -> Statement {
    equal(Value::Field(Field::Dport), Bytes::from_slice(&port.to_be_bytes()))
}

fn interface_rules(config: &Config, interface: &Guarded<'_>) -> Vec<Rule> {
    let mut rules = openings(config, interface.allow);
    if interface.addresses.contains(&InterfaceAddress::Dhcp) {
        // The first answer comes to a broadcast, or to an address that the box does not have yet.
        rules.push(rule([
            is(Field::L4proto, UDP),
            equal(Value::Field(Field::Sport), Bytes::from_slice(&BOOTP_SERVER.to_be_bytes())),
            to_port(BOOTP_CLIENT),
            accept(),
        ]));
    }
    rules.push(refuse());
    rules
}

/// What the entries of an `allow` list let in.
fn openings(config: &Config, allow: &[Allow]) -> Vec<Rule> {
    let of_entry = |entry: &Allow| {
        let opening = opening(config, &entry.service);
        opening.map(|opening| rules(opening, &entry.from)).unwrap_or_default()
    };
    allow.iter().flat_map(of_entry).collect()
}

/// What a service of `allow` is. `None`: it does not listen to the network.
fn opening(config: &Config, service: &str) -> Option<Opening> {
    let port_of = |socket: Option<SocketAddr>| socket.map(|socket| Opening::Port(TCP, socket.port()));
    match service {
        "all" => Some(Opening::Everything),
        "ping" => Some(Opening::Echo),
        "ssh" => Some(Opening::Port(TCP, 22)),
        "bgp" => Some(Opening::Port(TCP, 179)),
        "vrrp" => Some(Opening::Protocol(VRRP)),
        "api" => port_of(config.api.as_ref().and_then(|api| api.listen)),
        "metrics" => port_of(config.metrics.as_ref().and_then(|metrics| metrics.listen)),
        other => {
            let (protocol, port) = other.split_once('/')?;
            let number = match protocol {
                "tcp" => TCP,
                "udp" => UDP,
                _ => return None,
            };
            Some(Opening::Port(number, port.parse().ok()?))
        }
    }
}

fn rules(opening: Opening, from: &[IpNet]) -> Vec<Rule> {
    let echo = |version| match version {
        IpVersion::V4 => vec![is(Field::L4proto, ICMP), is(Field::IcmpType, ECHO_REQUEST)],
        IpVersion::V6 => vec![is(Field::L4proto, ICMP6), is(Field::IcmpType, ECHO6_REQUEST)],
    };
    let what = |version| match opening {
        Opening::Everything => vec![],
        Opening::Echo => echo(version),
        Opening::Protocol(number) => vec![is(Field::L4proto, number)],
        Opening::Port(number, port) => vec![is(Field::L4proto, number), to_port(port)],
    };
    let of = |statements: Vec<Statement>| Rule { statements, comment: None };
    let from_net = |net: &IpNet| {
        let version = IpVersion::of(net.addr());
        let masked = Value::And(Box::new(Value::Field(address_fields(version).0)), address_bytes(net.netmask()));
        let mut statements = vec![is(Field::Nfproto, nfproto(version))];
        if net.prefix_len() > 0 {
            statements.push(equal(masked, address_bytes(net.network())));
        }
        statements.extend(what(version));
        statements.push(accept());
        of(statements)
    };
    match (opening, from) {
        (Opening::Echo, []) => IpVersion::ALL.map(|version| of([what(version), vec![accept()]].concat())).into(),
        (_, []) => vec![of([what(IpVersion::V4), vec![accept()]].concat())],
        (_, nets) => nets.iter().map(from_net).collect(),
    }
}

/// An interface name as it lies in a register.
fn link_bytes(name: &str) -> Bytes {
    let mut bytes = Bytes::from_slice(name.as_bytes());
    bytes.resize(Datatype::IfName.bytes(), 0);
    bytes
}

/// Why a client that came over TCP would not come in again; `None` when it would.
pub(super) fn shuts_out(
    config: &Config,
    facts: &Facts,
    roles: &BTreeMap<String, String>,
    (client, server): (IpAddr, SocketAddr),
) -> Option<String> {
    if !is_on(config, facts) || client.is_loopback() {
        return None;
    }
    let carries = |link: &&crate::facts::Link| link.addresses.iter().any(|own| own.net.addr() == server.ip());
    let (link, _) = facts.links.iter().find(|(_, link)| carries(link))?;
    let default = default_allow();
    let interfaces = interfaces_of(config, roles, &default);
    let interface = interfaces.iter().find(|interface| interface.link == link);
    let allow = interface.map_or(default.as_slice(), |interface| interface.allow);
    let lets_in = |entry: &Allow| {
        let opens = match opening(config, &entry.service) {
            Some(Opening::Everything) => true,
            Some(Opening::Port(number, port)) => (number, port) == (TCP, server.port()),
            Some(Opening::Echo | Opening::Protocol(_)) | None => false,
        };
        opens && (entry.from.is_empty() || entry.from.iter().any(|net| net.contains(&client)))
    };
    if allow.iter().any(lets_in) || config.farms.values().any(|farm| serves(farm, server)) {
        return None;
    }
    let place = interface.map_or_else(
        || format!("no [network.interfaces] names {link}"),
        |interface| format!("allow of {} does not", interface.role),
    );
    Some(format!("system.protect would not let {client} come back to port {} by {link}: {place}", server.port()))
}

/// See [`super::stops_listening`].
pub(super) fn stops_listening(
    before: &Config,
    after: &Config,
    (client, server): (IpAddr, SocketAddr),
) -> Option<String> {
    let takes = |config: &Config| {
        let listen = config.api.as_ref().and_then(|api| api.listen);
        listen.is_some_and(|listen| {
            listen.port() == server.port() && (listen.ip() == server.ip() || listen.ip().is_unspecified())
        })
    };
    (takes(before) && !takes(after) && !client.is_loopback())
        .then(|| format!("api.listen would not take {client} at {server} any more"))
}

/// A `local` farm has this listener.
fn serves(farm: &Farm, server: SocketAddr) -> bool {
    let is = |listen: &Listen| {
        let address = is_anywhere(listen) || listen.address == server.ip();
        let protocol = matches!(listen.protocol, Protocol::Tcp | Protocol::Any);
        let port = match listen.ports {
            Ports::One(port) => port == server.port(),
            Ports::Range(first, last) => (first..=last).contains(&server.port()),
            Ports::All => true,
        };
        address && protocol && port
    };
    farm.mode == Mode::Local && farm.state != FarmState::Off && farm.listen.iter().any(is)
}

#[cfg(test)]
mod tests;
