//! `[farms.X.health]`.

use std::collections::BTreeMap;

use super::Checker;
use super::fields::Fields;
use crate::diagnostic::Report;
use crate::model::{Farm, Health, HealthCheck, HealthTls, HealthType, Word};
use crate::schema::status;
use crate::tree::Value;
use crate::types::{duration, parse_address};

/// Keys that belong to some types only.
const OWN: &[(&str, &[HealthType])] = &[
    ("path", &[HealthType::Http, HealthType::Https]),
    ("method", &[HealthType::Http, HealthType::Https]),
    ("host", &[HealthType::Http, HealthType::Https]),
    ("headers", &[HealthType::Http, HealthType::Https]),
    ("expect", &[HealthType::Http, HealthType::Https]),
    ("expect-body", &[HealthType::Http, HealthType::Https, HealthType::Tcp, HealthType::Udp]),
    ("send", &[HealthType::Tcp, HealthType::Udp]),
    ("query", &[HealthType::Dns]),
    ("command", &[HealthType::Exec]),
    ("tls", &[HealthType::Https]),
];

/// `None` for `type = "none"`.
pub(super) fn health(checker: &mut Checker<'_>, fields: Fields<'_>) -> Option<Health> {
    let kind: HealthType = fields.word("type").unwrap_or(HealthType::Tcp);
    if kind == HealthType::None {
        return None;
    }
    foreign_keys(checker, fields, kind);
    let interval = fields.duration("interval").unwrap_or_default();
    let timeout = fields.duration("timeout").unwrap_or_default();
    let both_read = ["interval", "timeout"].into_iter().all(|key| fields.reads(key, |text| duration(text).is_ok()));
    if both_read && timeout > interval {
        let key = if fields.has("timeout") { "timeout" } else { "interval" };
        let message = "timeout is longer than interval: probes would pile up";
        let mut report = Report::error(fields.span_of(key), message).help("timeout may be as long as interval");
        if key == "timeout" && fields.has("interval") {
            report = report.note(fields.span_of("interval"), "the interval");
        }
        checker.push(report);
    }
    let source_address = fields.text("source-address").and_then(|text| parse_address(text).ok());
    if let Some(source) = source_address {
        checker.host_address("the source address", source, fields.span_of("source-address"));
    }
    Some(Health {
        check: what(checker, fields, kind),
        port: fields.integer("port"),
        source_address,
        interval,
        timeout,
        rise: fields.number("rise"),
        fall: fields.number("fall"),
    })
}

/// A check of most types asks at a port, and a backend that keeps the client's port names none.
pub(super) fn ports(checker: &mut Checker<'_>, fields: Fields<'_>, farm: &Farm) {
    let Some(health) = &farm.health else { return };
    if matches!(health.check, HealthCheck::Icmp | HealthCheck::Exec { .. }) {
        return;
    }
    if let Some(backend) = farm.backends.values().find(|backend| farm.probe_port(backend).is_none()) {
        let message = format!("the check knows no port: backend {} keeps the client's", backend.name);
        let span = fields.named("backends").find(|(name, _)| *name == backend.name.as_str());
        let mut report =
            Report::error(fields.key_span("health"), message).help("give the check a port, as in port = 8080");
        if let Some((_, backend)) = span {
            report = report.note(backend.span_of("address"), "the backend");
        }
        checker.push(report);
    }
}

/// A key of another type is likely a mistake where it was written for this farm; from `[defaults.farm]` it has been overruled.
fn foreign_keys(checker: &mut Checker<'_>, fields: Fields<'_>, kind: HealthType) {
    let defaults = checker.document.root.table("defaults").and_then(|table| table.table("farm"));
    let defaults = defaults.and_then(|table| table.table("health"));
    let mut reports = Vec::new();
    for (key, kinds) in OWN.iter().filter(|(key, kinds)| fields.has(key) && !kinds.contains(&kind)) {
        let inherited =
            defaults.and_then(|table| table.entry(key)).is_some_and(|entry| entry.key_span == fields.key_span(key));
        if !inherited {
            let kinds: Vec<&str> = kinds.iter().map(|kind| kind.word()).collect();
            let message = format!("{key} has no effect in a check of type {}", kind.word());
            reports.push(
                Report::warning(fields.key_span(key), message).help(format!("it is for type {}", kinds.join(", "))),
            );
        }
    }
    reports.into_iter().for_each(|report| checker.push(report));
}

fn what(checker: &mut Checker<'_>, fields: Fields<'_>, kind: HealthType) -> HealthCheck {
    let text = |key: &str| fields.text(key).map(str::to_owned);
    match kind {
        HealthType::None | HealthType::Tcp => HealthCheck::Tcp { send: text("send"), expect_body: text("expect-body") },
        HealthType::Udp => HealthCheck::Udp { send: text("send"), expect_body: text("expect-body") },
        HealthType::Icmp => HealthCheck::Icmp,
        HealthType::Dns => {
            if !fields.has("query") {
                checker.missing(fields, "a check of type dns has no query", "query = \"example.org A\"");
            }
            HealthCheck::Dns { query: text("query").unwrap_or_default() }
        }
        HealthType::Exec => {
            let command = fields.strings("command");
            super::service::program(checker, fields, &command, "a check of type exec has no command");
            HealthCheck::Exec { command }
        }
        HealthType::Http | HealthType::Https => HealthCheck::Http {
            path: text("path").unwrap_or_default(),
            method: text("method").unwrap_or_default(),
            host: text("host"),
            headers: headers(fields.table("headers")),
            expect: fields.text("expect").and_then(|text| status(text).ok()).unwrap_or((200, 399)),
            expect_body: text("expect-body"),
            tls: (kind == HealthType::Https).then(|| tls(checker, fields.table("tls"))),
        },
    }
}

fn headers(fields: Fields<'_>) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::Text(text) => Some(text.as_ref().to_owned()),
        _ => None,
    };
    fields.written().filter_map(|entry| Some((entry.key.as_ref().to_owned(), text(&entry.node.value)?))).collect()
}

fn tls(checker: &mut Checker<'_>, fields: Fields<'_>) -> HealthTls {
    for (key, other) in [("client-certificate", "client-key"), ("client-key", "client-certificate")] {
        if fields.has(key) && !fields.has(other) {
            checker.push(Report::error(fields.key_span(key), format!("{key} without {other}")).help("both or neither"));
        }
    }
    let text = |key: &str| fields.text(key).map(str::to_owned);
    HealthTls {
        server_name: text("server-name"),
        verify: fields.flag("verify").unwrap_or(true),
        ca: text("ca"),
        client_certificate: text("client-certificate"),
        client_key: text("client-key"),
    }
}
