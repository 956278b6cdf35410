//! `[system]`, `[sysctl]`, `[api]` and `[metrics]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::fields::Fields;
use super::{Checker, hardware};
use crate::diagnostic::Report;
use crate::model::{
    Allow, Api, Config, FarmState, InterfaceAddress, Metrics, Mode, Origin, RESOLVERS_MAX, SysctlValue, System,
};
use crate::schema::{socket, syslog};
use crate::tree::Span;
use crate::types::{Listen, Ports, Protocol, parse_address};

pub(super) fn system(checker: &mut Checker<'_>, fields: Fields<'_>) -> System {
    let addresses =
        |key: &str| fields.list(key, |text| parse_address(text).ok()).into_iter().map(|(address, _)| address).collect();
    if fields.strings("dns-servers").len() > RESOLVERS_MAX {
        let report = Report::error(fields.span_of("dns-servers"), format!("more than {RESOLVERS_MAX} resolvers"));
        checker.push(report.help("a resolver asks the first three, and never another one (resolv.conf(5))"));
    }
    System {
        hostname: fields.text("hostname").map(str::to_owned),
        protect: fields.flag("protect"),
        ntp_servers: addresses("ntp-servers"),
        dns_servers: addresses("dns-servers"),
        syslog: fields.text("syslog").and_then(|text| syslog(text).ok()),
        authorized_keys: fields.strings("authorized-keys"),
        trust_media: fields.word("trust-media").unwrap_or_default(),
    }
}

/// The port of ssh.
const SSH: u16 = 22;

/// The word that returns a sysctl to what the machine had.
const UNSET: &str = "unset";

pub(super) fn sysctl(checker: &mut Checker<'_>, fields: Fields<'_>) -> BTreeMap<String, SysctlValue> {
    let mut values = BTreeMap::new();
    for entry in fields.written() {
        if entry.key.contains('{') {
            let report = Report::error(entry.key_span, "{if} is for hardware profiles only");
            checker.push(report.help("name the interface, or use [hardware.overrides.sysctl]"));
        }
        let Some(text) = hardware::literal(&entry.node) else { continue };
        let value = if text == UNSET { SysctlValue::Unset } else { SysctlValue::Set(text) };
        values.insert(entry.key.as_ref().to_owned(), value);
    }
    values
}

pub(super) fn sysctl_origins(checker: &Checker<'_>, fields: Fields<'_>) -> BTreeMap<String, Origin> {
    let written = fields.written();
    written.map(|entry| (entry.key.as_ref().to_owned(), checker.document.origin_at(entry.key_span))).collect()
}

fn listen(fields: Fields<'_>) -> Option<SocketAddr> {
    fields.text("listen").and_then(|text| socket(text).ok())
}

pub(super) fn api(checker: &Checker<'_>, fields: Option<Fields<'_>>) -> Option<Api> {
    let fields = fields?;
    let origin = checker.document.origin_at(fields.span());
    Some(Api { origin, listen: listen(fields), certificate: fields.text("certificate").map(str::to_owned) })
}

pub(super) fn metrics(checker: &Checker<'_>, fields: Option<Fields<'_>>) -> Option<Metrics> {
    let fields = fields?;
    let origin = checker.document.origin_at(fields.span());
    Some(Metrics { origin, listen: listen(fields), traffic: fields.word("traffic").unwrap_or_default() })
}

/// Whether what listens can be reached, and does not take a place twice.
pub(super) fn reachable(checker: &mut Checker<'_>, root: Fields<'_>, config: &Config) {
    let api = config.api.as_ref().and_then(|api| api.listen);
    let metrics = config.metrics.as_ref().and_then(|metrics| metrics.listen);
    let (api_span, metrics_span) = (root.table("api").span_of("listen"), root.table("metrics").span_of("listen"));
    if let (Some(a), Some(b)) = (api, metrics)
        && a == b
    {
        let report = Report::error(metrics_span, format!("metrics and api both listen on {a}"));
        checker.push(report.note(api_span, "the API listens here").help("give one of them another port"));
    }
    for (service, address, span) in [("api", api, api_span), ("metrics", metrics, metrics_span)] {
        if let Some(address) = address {
            taken(checker, root, service, address, span);
        }
    }
    // Without the filter everything is reachable.
    if config.system.protect == Some(false) {
        return;
    }
    if !config.system.authorized_keys.is_empty() {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], SSH));
        allowed(checker, config, "ssh", everywhere, root.table("system").span_of("authorized-keys"));
    }
    for (service, address, span) in [("api", api, api_span), ("metrics", metrics, metrics_span)] {
        if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
            allowed(checker, config, service, address, span);
        }
    }
}

/// Warns when a farm takes the packets that are meant for `service`: its rules come before any socket of the box.
fn taken(checker: &mut Checker<'_>, root: Fields<'_>, service: &str, address: SocketAddr, span: Span) {
    let covers = |listen: &Listen| {
        let protocol = matches!(listen.protocol, Protocol::Tcp | Protocol::Any);
        let port = match listen.ports {
            Ports::One(port) => port == address.port(),
            Ports::Range(first, last) => (first..=last).contains(&address.port()),
            Ports::All => true,
        };
        listen.address == address.ip() && protocol && port
    };
    for (name, farm) in root.named("farms") {
        let forwards = farm.word("mode") != Some(Mode::Local) && farm.word("state") != Some(FarmState::Off);
        let listen = farm.list("listen", |text| text.parse::<Listen>().ok());
        if let Some(&(_, place)) = listen.iter().find(|(listen, _)| forwards && covers(listen)) {
            let report = Report::warning(span, format!("farm {name} takes {address} from {service}"));
            checker.push(report.note(place, "the farm listens here").help("give one of them another port or address"));
        }
    }
}

/// Warns when no interface that carries `address` lets `service` in.
fn allowed(checker: &mut Checker<'_>, config: &Config, service: &str, address: SocketAddr, span: Span) {
    let network = &config.network;
    let interfaces =
        network.interfaces.values().map(|interface| (&interface.role, &interface.addresses, &interface.allow));
    let vlans = network.vlans.values().map(|vlan| (&vlan.role, &vlan.addresses, &vlan.allow));
    let bonds = network.bonds.values().map(|bond| (&bond.role, &bond.addresses, &bond.allow));
    let carries = |addresses: &[InterfaceAddress]| {
        address.ip().is_unspecified()
            || addresses.iter().any(|own| matches!(own, InterfaceAddress::Static(net) if net.addr() == address.ip()))
    };
    let port = format!("tcp/{}", address.port());
    let lets_in = |allow: &Option<Vec<Allow>>| {
        let names = allow.iter().flatten().map(|allow| allow.service.as_str());
        names.into_iter().any(|name| name == service || name == "all" || name == port)
    };
    let carriers: Vec<_> =
        interfaces.chain(vlans).chain(bonds).filter(|(_, addresses, _)| carries(addresses)).collect();
    if carriers.iter().any(|(_, _, allow)| lets_in(allow)) {
        return;
    }
    let report = match carriers.first() {
        Some((role, ..)) if !address.ip().is_unspecified() => {
            Report::warning(span, format!("{service} listens on {address}, but interface {role} does not allow it"))
                .help(format!("allow = [\"{service}\"] in the interface {role}"))
        }
        Some(_) => Report::warning(span, format!("{service} listens on {address}, but no interface allows it"))
            .help(format!("allow = [\"{service}\"] in an interface")),
        None => Report::warning(span, format!("{service} listens on {address}, which no interface here carries"))
            .help("the interface that gets this address must allow it"),
    };
    checker.push(report);
}
