//! `[network.neighbours]`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::Checker;
use super::super::fields::Fields;
use super::role_of;
use crate::diagnostic::Report;
use crate::model::{Neighbour, Network};
use crate::schema::{interface_address, mac};
use crate::tree::Span;
use crate::types::{NeighbourName, parse_address};

/// Of the first octet: what a frame to a group has.
const GROUP: u8 = 1;

pub(super) fn neighbour(checker: &mut Checker<'_>, name: NeighbourName, fields: Fields<'_>) -> Option<Neighbour> {
    for (key, help) in [
        ("interface", "interface = the role or kernel name of the interface that leads there"),
        ("address", "address = its IP address"),
        ("mac", "mac = its MAC address"),
    ] {
        if !fields.has(key) {
            checker.missing(fields, &format!("neighbour {name} has no {key}"), help);
        }
    }
    let address = fields.text("address").and_then(|text| parse_address(text).ok());
    if let Some(address) = address {
        host(checker, fields, address);
    }
    let mac = fields.text("mac").and_then(octets);
    if mac.is_some_and(|mac| mac[0] & GROUP != 0 || mac == [0; 6]) {
        let report = Report::error(fields.span_of("mac"), "the MAC address is not that of one host");
        checker.push(report.help("the second digit is even, and not all are 0"));
    }
    Some(Neighbour {
        origin: checker.document.origin_at(fields.span()),
        interface: fields.text("interface")?.to_owned(),
        address: address?,
        mac: mac?,
        name,
    })
}

fn host(checker: &mut Checker<'_>, fields: Fields<'_>, address: IpAddr) {
    let span = fields.span_of("address");
    checker.host_address("the neighbour's address", address, span);
    if address.is_loopback() {
        let report = Report::error(span, "the neighbour's address is one of the box itself");
        checker.push(report.help("the address of another host on the wire"));
    }
}

fn octets(text: &str) -> Option<[u8; 6]> {
    let text = mac(text).ok()?;
    let octets: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    octets?.try_into().ok()
}

/// An address has one MAC address on an interface, and none of the box is a neighbour's.
pub(super) fn once(checker: &mut Checker<'_>, fields: Fields<'_>, network: &Network) {
    let mut seen: BTreeMap<(&str, IpAddr), (&str, Span)> = BTreeMap::new();
    for (name, written) in fields.named("neighbours") {
        let Some(neighbour) = network.neighbours.get(name) else { continue };
        let (interface, address) = (neighbour.interface.as_str(), neighbour.address);
        let span = written.span_of("address");
        if let Some((other, first)) = seen.insert((interface, address), (name, span)) {
            let message = format!("neighbours {other} and {name} both have {address} on {interface}");
            checker.push(Report::error(span, message).note(first, "the other"));
        }
        let own = role_of(fields, interface)
            .into_iter()
            .flat_map(|of| of.list("addresses", |text| interface_address(text).ok()));
        for (_, first) in own.filter(|(net, _)| net.is_some_and(|net| net.addr() == address)) {
            let report = Report::error(span, format!("{address} is an address of {interface} itself"));
            checker.push(report.note(first, "it is here"));
        }
    }
}
