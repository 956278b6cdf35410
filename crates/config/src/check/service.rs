//! `[services]`.

use std::collections::BTreeMap;

use super::Checker;
use super::farm::unknown;
use super::fields::Fields;
use crate::diagnostic::Report;
use crate::model::{Backoff, Ready, Service};
use crate::schema::socket;
use crate::tree::Span;
use crate::types::ServiceName;

/// What `after` may name besides services: once the network is configured.
const NETWORK: &str = "network";

pub(super) fn services(checker: &mut Checker<'_>, root: Fields<'_>) -> BTreeMap<ServiceName, Service> {
    let mut services = BTreeMap::new();
    for (name, fields) in root.named("services") {
        let Ok(name) = ServiceName::new(name) else { continue };
        if name.as_str() == NETWORK {
            let report = Report::error(fields.span(), "a service cannot be named network");
            checker.push(report.help("in after, network means: once the network is configured"));
        }
        let service = service(checker, name.clone(), fields);
        services.insert(name, service);
    }
    services
}

fn service(checker: &mut Checker<'_>, name: ServiceName, fields: Fields<'_>) -> Service {
    let command = fields.strings("command");
    program(checker, fields, &command, &format!("service {name} has no command"));
    let backoff = fields.table("backoff");
    let (initial, max) = (backoff.duration("initial").unwrap_or_default(), backoff.duration("max").unwrap_or_default());
    if initial > max {
        let report = Report::error(backoff.span_of("initial"), "backoff begins longer than its max");
        checker.push(report.help("initial may be as long as max"));
    }
    let ready = fields.maybe_table("ready").and_then(|ready| {
        if !ready.has("tcp") {
            checker.missing(ready, "ready names nothing that must answer", "ready = { tcp = \"127.0.0.1:22\" }");
        }
        ready.text("tcp").and_then(|text| socket(text).ok()).map(Ready::Tcp)
    });
    Service {
        origin: checker.document.origin_at(fields.span()),
        command,
        restart: fields.word("restart").unwrap_or_default(),
        backoff: Backoff { initial, max },
        after: fields.strings("after"),
        ready,
        stop_timeout: fields.duration("stop-timeout").unwrap_or_default(),
        name,
    }
}

/// A command begins with a program, named so that no `PATH` decides which.
pub(super) fn program(checker: &mut Checker<'_>, fields: Fields<'_>, command: &[String], missing: &str) {
    match (command.first(), fields.texts("command").first()) {
        (Some(program), Some(&(_, span))) if !program.starts_with('/') => {
            let report = Report::error(span, format!("{program:?} is not an absolute path"));
            checker.push(report.help("as in \"/usr/lib/headgate/check\""));
        }
        (None, _) => {
            let report = Report::error(fields.span_of("command"), missing);
            checker.push(report.help("command = [\"/path/to/program\", \"argument\"]"));
        }
        _ => {}
    }
}

/// The services in an order that starts each after those it names.
pub(super) fn order(
    checker: &mut Checker<'_>,
    root: Fields<'_>,
    services: &BTreeMap<ServiceName, Service>,
) -> Vec<ServiceName> {
    let mut waits: BTreeMap<&str, Vec<(&str, Span)>> = BTreeMap::new();
    for (name, fields) in root.named("services") {
        let known = waits.entry(name).or_default();
        for (other, span) in fields.texts("after") {
            if services.contains_key(other) {
                known.push((other, span));
            } else if other != NETWORK {
                let names = services.keys().map(ServiceName::as_str).chain([NETWORK]);
                let off = root.all_named("services").any(|(name, _)| name == other);
                checker.push(match off {
                    true => Report::error(span, format!("service {other} has enabled = false")),
                    false => unknown("service", other, span, names),
                });
            }
        }
    }
    let mut order: Vec<ServiceName> = Vec::new();
    while let Some(next) = waits.iter().find(|(_, after)| after.is_empty()).map(|(name, _)| *name) {
        waits.remove(next);
        waits.values_mut().for_each(|after| after.retain(|(name, _)| *name != next));
        order.extend(services.get_key_value(next).map(|(name, _)| name.clone()));
    }
    if let Some(cycle) = cycle(&waits) {
        let names: Vec<&str> = cycle.iter().map(|(name, _)| *name).collect();
        let message = format!("services wait for each other: {} after {}", names.join(" after "), names[0]);
        let mut places = cycle.iter().map(|(_, span)| *span);
        let mut report = Report::error(places.next().unwrap_or_default(), message);
        for (place, (name, _)) in places.zip(&cycle[1..]) {
            report = report.note(place, format!("{name} waits here"));
        }
        checker.push(report.help("take one of them out of after"));
    }
    order
}

/// One cycle among services of which each waits for another.
fn cycle<'a>(waits: &BTreeMap<&'a str, Vec<(&'a str, Span)>>) -> Option<Vec<(&'a str, Span)>> {
    let mut path: Vec<(&str, Span)> = Vec::new();
    let mut at = *waits.keys().next()?;
    loop {
        if let Some(begin) = path.iter().position(|(name, _)| *name == at) {
            return Some(path.split_off(begin));
        }
        let &(next, span) = waits.get(at)?.first()?;
        path.push((at, span));
        at = next;
    }
}
