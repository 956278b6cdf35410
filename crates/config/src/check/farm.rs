//! `[farms]`: each farm by itself. What farms do to one another is in [`super::claims`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::fields::Fields;
use super::{Checker, claims, health, mode};
use crate::diagnostic::Report;
use crate::model::{
    Backend, Backends, Config, Dsr, Farm, HashField, Limits, Mode, Persistence, Policy, Scheduler, SchedulerName, Word,
};
use crate::schema::{SLOTS_MAX, closest};
use crate::tree::Span;
use crate::types::{BackendName, Endpoint, FarmName, Listen, PolicyName, Protocol, parse_address};

/// What was written where, for the checks between farms.
pub(super) struct Written<'a> {
    pub(super) fields: Fields<'a>,
    pub(super) listen: Vec<(Listen, Span)>,
}

pub(super) fn farms(checker: &mut Checker<'_>, root: Fields<'_>, config: &Config) -> BTreeMap<FarmName, Arc<Farm>> {
    let mut farms = BTreeMap::new();
    let mut written = BTreeMap::new();
    for (name, fields) in root.named("farms") {
        let Ok(name) = FarmName::new(name) else { continue };
        let listen = listeners(checker, fields);
        let farm = farm(checker, name.clone(), fields, &listen, config);
        written.insert(name.clone(), Written { fields, listen });
        farms.insert(name, Arc::new(farm));
    }
    claims::check(checker, &farms, &written);
    farms
}

fn farm(
    checker: &mut Checker<'_>,
    name: FarmName,
    fields: Fields<'_>,
    listen: &[(Listen, Span)],
    config: &Config,
) -> Farm {
    let mode: Mode = fields.word("mode").unwrap_or_default();
    let backends = backends(checker, fields);
    let address = fields.table("address");
    let mut sorted: Vec<Listen> = listen.iter().map(|&(listen, _)| listen).collect();
    sorted.sort();
    sorted.dedup();
    let farm = Farm {
        name,
        origin: checker.document.origin_at(fields.span()),
        mode,
        listen: sorted,
        scheduler: scheduler(checker, fields, backends.len()),
        state: fields.word("state").unwrap_or_default(),
        on_empty: fields.word("on-empty").unwrap_or_default(),
        source_addresses: source_addresses(checker, fields),
        offload: fields.flag("offload").unwrap_or_default(),
        mark: fields.integer("mark"),
        helper: fields.word("helper"),
        policies: policies(checker, fields, &config.policies),
        log: fields.list("log", Word::from_word).into_iter().map(|(event, _)| event).collect(),
        queue: fields.integer("queue"),
        address_interface: address.text("interface").map(str::to_owned),
        address_manage: address.word("manage").unwrap_or_default(),
        persistence: fields.maybe_table("persistence").map(|table| persistence(checker, table, &backends)),
        limits: fields.maybe_table("limits").map(limits),
        health: fields.maybe_table("health").and_then(|table| health::health(checker, table)),
        on_fail: fields.table("health").word("on-fail").unwrap_or_default(),
        dsr: (mode == Mode::Dsr).then(|| dsr(checker, fields.table("dsr"))),
        backends,
    };
    virtual_addresses(checker, mode, listen);
    if mode != Mode::Local {
        families(checker, fields, listen, &farm);
    }
    mode::check(checker, fields, listen, &farm);
    health::ports(checker, fields, &farm);
    farm
}

fn listeners(checker: &mut Checker<'_>, fields: Fields<'_>) -> Vec<(Listen, Span)> {
    if !fields.has("listen") {
        checker.missing(fields, "the farm has no listen", "listen = \"ADDR:PORT\"");
    }
    fields.list("listen", |text| text.parse().ok())
}

fn virtual_addresses(checker: &mut Checker<'_>, mode: Mode, listen: &[(Listen, Span)]) {
    for &(listen, span) in listen {
        if listen.address.is_unspecified() {
            if mode != Mode::Local {
                let message = format!("listen on every address is only for mode local, not {}", mode.word());
                checker.push(Report::error(span, message).help("name the virtual address"));
            }
        } else {
            checker.host_address("the virtual address", listen.address, span);
        }
    }
}

fn scheduler(checker: &mut Checker<'_>, fields: Fields<'_>, backends: usize) -> Scheduler {
    let name = fields.word("scheduler").unwrap_or(SchedulerName::RoundRobin);
    let slots: u32 = fields.number("slots");
    let scheduler = match name {
        SchedulerName::RoundRobin => Scheduler::RoundRobin,
        SchedulerName::Random => Scheduler::Random,
        SchedulerName::LeastConnections => Scheduler::LeastConnections,
        SchedulerName::Hash => Scheduler::Hash { fields: hash_fields(checker, fields, "hash"), slots },
        SchedulerName::Maglev => Scheduler::Maglev { fields: hash_fields(checker, fields, "hash"), slots },
    };
    let hashes = matches!(name, SchedulerName::Hash | SchedulerName::Maglev);
    if name == SchedulerName::Maglev && !is_prime(slots) {
        let message = format!("slots must be a prime for maglev, {slots} is none");
        let next = (slots..=SLOTS_MAX as u32).find(|&slots| is_prime(slots));
        let help = match next.or_else(|| (1..slots).rev().find(|&slots| is_prime(slots))) {
            Some(prime) if prime > slots => format!("the next prime is {prime}"),
            last => format!("the largest prime that it can be is {}", last.unwrap_or(2)),
        };
        checker.push(Report::error(fields.span_of("slots"), message).help(help));
    }
    if hashes && (slots as usize) < backends {
        let message = format!("slots = {slots} is too few for {backends} backends");
        checker
            .push(Report::error(fields.span_of("slots"), message).help("a hundred for each backend spread them well"));
    }
    scheduler
}

fn is_prime(number: u32) -> bool {
    number >= 2 && (2..).take_while(|&factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}

fn hash_fields(checker: &mut Checker<'_>, fields: Fields<'_>, key: &str) -> Vec<HashField> {
    let mut list = Vec::new();
    for (field, span) in fields.list(key, HashField::from_word) {
        if list.contains(&field) {
            checker.push(Report::error(span, format!("{} is in {key} twice", field.word())));
        } else {
            list.push(field);
        }
    }
    if list.is_empty() && fields.texts(key).is_empty() {
        let report = Report::error(fields.span_of(key), format!("{key} is empty: every flow would be the same"));
        checker.push(report.help("[\"source-address\"] keeps a client on one backend"));
    }
    list
}

fn source_addresses(checker: &mut Checker<'_>, fields: Fields<'_>) -> Vec<IpAddr> {
    let list = fields.list("source-addresses", |text| parse_address(text).ok());
    for &(address, span) in &list {
        checker.host_address("the source address", address, span);
    }
    list.into_iter().map(|(address, _)| address).collect()
}

fn policies(checker: &mut Checker<'_>, fields: Fields<'_>, known: &BTreeMap<PolicyName, Policy>) -> Vec<PolicyName> {
    let mut list = Vec::new();
    for (name, span) in fields.list("policies", |text| PolicyName::new(text).ok()) {
        if !known.contains_key(&name) {
            checker.push(unknown("policy", name.as_str(), span, known.keys().map(PolicyName::as_str)));
        } else if list.contains(&name) {
            checker.push(Report::error(span, format!("policy {name} is listed twice")));
        } else {
            list.push(name);
        }
    }
    list
}

/// So many names fit into a line of help.
const KNOWN_MAX: usize = 8;

/// A name that nothing has.
pub(super) fn unknown<'n>(what: &str, name: &str, span: Span, known: impl Iterator<Item = &'n str>) -> Report {
    let known: Vec<&str> = known.collect();
    let report = Report::error(span, format!("there is no {what} {name}"));
    match closest(name, known.iter().copied()) {
        Some(close) => report.help(format!("did you mean {close}?")),
        None if (1..=KNOWN_MAX).contains(&known.len()) => report.help(format!("there is {}", known.join(", "))),
        None => report,
    }
}

fn persistence(checker: &mut Checker<'_>, fields: Fields<'_>, backends: &Backends) -> Persistence {
    let mut fixed = BTreeMap::new();
    for entry in fields.table("static").written() {
        let crate::tree::Value::Text(text) = &entry.node.value else { continue };
        let (Ok(client), Ok(name)) = (parse_address(&entry.key), BackendName::new(text)) else { continue };
        match backends.get(&name) {
            None => {
                let names = backends.keys().map(BackendName::as_str);
                checker.push(unknown("backend", name.as_str(), entry.node.span, names));
            }
            Some(backend) if backend.address.address.is_ipv4() != client.is_ipv4() => {
                let message = format!("backend {name} is of another family than {client}");
                checker.push(Report::error(entry.node.span, message));
            }
            Some(_) => {
                fixed.insert(client, name);
            }
        }
    }
    Persistence {
        key: hash_fields(checker, fields, "key"),
        timeout: fields.duration("timeout").unwrap_or_default(),
        size: fields.number("size"),
        fixed,
    }
}

fn limits(fields: Fields<'_>) -> Limits {
    Limits {
        new_connections: fields.parsed("new-connections"),
        new_connections_total: fields.parsed("new-connections-total"),
        connections_per_client: fields.integer("connections-per-client"),
        tcp_resets: fields.parsed("tcp-resets"),
        strict_tcp: fields.flag("strict-tcp").unwrap_or_default(),
        syn_proxy: fields.flag("syn-proxy").unwrap_or_default(),
        ban: fields.duration("ban"),
        action: fields.word("action").unwrap_or_default(),
    }
}

fn dsr(checker: &mut Checker<'_>, fields: Fields<'_>) -> Dsr {
    use crate::model::DsrVia;
    let via = fields.word("via").unwrap_or(DsrVia::L2);
    if via != DsrVia::L2 {
        let message = format!("with dsr via {}, nft 1.0.6 aborts on `nft list ruleset`", via.word());
        let help = "forwarding works; list our tables by name, as in `nft list table inet headgate`";
        checker.push(Report::warning(fields.span_of("via"), message).help(help));
    }
    Dsr { via, interface: fields.text("interface").map(str::to_owned) }
}

fn backends(checker: &mut Checker<'_>, fields: Fields<'_>) -> Backends {
    let named = fields.named("backends").filter_map(|(name, fields)| Some((BackendName::new(name).ok()?, fields)));
    named.filter_map(|(name, fields)| backend(checker, name, fields)).collect()
}

fn backend(checker: &mut Checker<'_>, name: BackendName, fields: Fields<'_>) -> Option<Backend> {
    if !fields.has("address") {
        checker.missing(fields, &format!("backend {name} has no address"), "address = \"ADDR:PORT\"");
        return None;
    }
    let address: Endpoint = fields.parsed("address")?;
    checker.host_address("the backend's address", address.address, fields.span_of("address"));
    let source_address = fields.text("source-address").and_then(|text| parse_address(text).ok());
    if let Some(source) = source_address {
        let span = fields.span_of("source-address");
        checker.host_address("the source address", source, span);
        if source.is_ipv4() != address.address.is_ipv4() {
            let report = Report::error(span, "the source address is of another family than the backend");
            checker.push(report.note(fields.span_of("address"), "the backend's address"));
        }
    }
    Some(Backend {
        name,
        origin: checker.document.origin_at(fields.span()),
        address,
        weight: fields.number("weight"),
        priority: fields.number("priority"),
        state: fields.word("state").unwrap_or_default(),
        max_connections: fields.integer("max-connections"),
        mark: fields.integer("mark"),
        source_address,
    })
}

/// Every family that is listened on has a backend, and the other way round.
fn families(checker: &mut Checker<'_>, fields: Fields<'_>, listen: &[(Listen, Span)], farm: &Farm) {
    if fields.all_named("backends").next().is_none() {
        checker.missing(
            fields,
            &format!("farm {} has no backends", farm.name),
            &format!("[farms.{}.backends.b1] with an address", farm.name),
        );
        return;
    }
    if farm.backends.is_empty() {
        let off = fields.all_named("backends").all(|(_, backend)| backend.flag("enabled") == Some(false));
        if off {
            let message = format!("every backend of farm {} has enabled = false", farm.name);
            checker.missing(fields, &message, "state = \"down\" on the farm keeps it without serving");
        }
        return;
    }
    for (v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let served = farm.backends.values().any(|backend| backend.address.address.is_ipv4() == v4);
        let first = listen.iter().find(|(listen, _)| listen.address.is_ipv4() == v4);
        if let (false, Some(&(_, span))) = (served, first) {
            checker.push(
                Report::error(span, format!("listen on {family}, but no backend of farm {} is {family}", farm.name))
                    .help("a backend serves the listeners of its own family"),
            );
        }
        if served && first.is_none() && !listen.is_empty() {
            let idle = fields.named("backends").find(|(name, _)| {
                farm.backends.get(*name).is_some_and(|backend| backend.address.address.is_ipv4() == v4)
            });
            if let Some((name, backend)) = idle {
                let message = format!("backend {name} is {family}, but the farm does not listen on {family}");
                checker.push(Report::warning(backend.span_of("address"), message).help("it will not be used"));
            }
        }
    }
    own_addresses(checker, fields, listen, farm);
}

/// A backend must not be the farm itself, and takes a port only where one port can be meant.
fn own_addresses(checker: &mut Checker<'_>, fields: Fields<'_>, listen: &[(Listen, Span)], farm: &Farm) {
    for (name, written) in fields.named("backends") {
        let Some(backend) = farm.backends.get(name) else { continue };
        let span = written.span_of("address");
        if let Some(&(_, own)) = listen.iter().find(|(listen, _)| listen.address == backend.address.address) {
            let message = format!("backend {name} is the farm's own virtual address");
            checker.push(Report::error(span, message).note(own, "the farm listens here"));
        }
        let any = listen.iter().find(|(listen, _)| {
            listen.protocol == Protocol::Any && listen.address.is_ipv4() == backend.address.address.is_ipv4()
        });
        if let (Some(_), Some(&(_, any))) = (backend.address.port, any) {
            let message = format!("backend {name} has a port, but the farm takes every protocol");
            checker.push(Report::error(span, message).note(any, "/any").help("write the address without a port"));
        }
    }
}
