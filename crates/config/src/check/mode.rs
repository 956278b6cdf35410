//! What a mode cannot have.

use super::Checker;
use super::fields::Fields;
use crate::diagnostic::Report;
use crate::model::{DsrVia, Farm, Helper, LogEvent, Mode, Scheduler, SchedulerName, Word};
use crate::tree::Span;
use crate::types::{Listen, Ports, Protocol};

/// A key that a mode refuses, and why.
type Refusal = (&'static str, &'static str);

/// A mode without connection tracking cannot count or remember connections.
const STATELESS: &[Refusal] = &[
    ("limits", "without connection tracking there are no connections to limit"),
    (
        "persistence",
        "without connection tracking no client is remembered; scheduler = \"hash\" keeps one on its backend",
    ),
    ("helper", "a helper needs connection tracking"),
    ("offload", "nothing is tracked, so there is nothing to offload"),
    ("source-addresses", "the source is rewritten in mode snat only"),
    ("queue", "without connection tracking every packet would be queued"),
    ("dsr", "only for mode dsr"),
];

const DSR: &[Refusal] = &[
    ("queue", "packets are sent on before the kernel could hand them to a program"),
    ("helper", "the box does not see the backend's answers"),
    ("offload", "the box does not see the backend's answers"),
    ("source-addresses", "the source is rewritten in mode snat only"),
];

const LOCAL: &[Refusal] = &[
    ("backends", "the service is the box itself"),
    ("scheduler", "there is nothing to choose between"),
    ("hash", "there is nothing to choose between"),
    ("slots", "there is nothing to choose between"),
    ("persistence", "there is nothing to choose between"),
    ("health", "there are no backends to probe"),
    ("on-empty", "there are no backends that could be missing"),
    ("source-addresses", "the source is rewritten in mode snat only"),
    ("offload", "only forwarded flows are offloaded"),
    ("dsr", "only for mode dsr"),
];

const SNAT: &[Refusal] = &[("dsr", "only for mode dsr")];
const DNAT: &[Refusal] =
    &[("dsr", "only for mode dsr"), ("source-addresses", "the source is rewritten in mode snat only")];

pub(super) fn check(checker: &mut Checker<'_>, fields: Fields<'_>, listen: &[(Listen, Span)], farm: &Farm) {
    let refused = match farm.mode {
        Mode::Snat => SNAT,
        Mode::Dnat => DNAT,
        Mode::Dsr => DSR,
        Mode::Stateless => STATELESS,
        Mode::Local => LOCAL,
    };
    for &(key, why) in refused {
        // `offload = false` asks for nothing.
        if !fields.has(key) || (key == "offload" && !farm.offload) || inherited(checker, fields, key) {
            continue;
        }
        let message = format!("mode {} cannot have {key}", farm.mode.word());
        checker.push(Report::error(fields.key_span(key), message).help(why));
    }
    tracked(checker, fields, farm);
    limits(checker, fields, listen, farm);
    if farm.mode == Mode::Stateless && farm.log.contains(&LogEvent::New) && !inherited(checker, fields, "log") {
        let report = Report::error(fields.span_of("log"), "mode stateless cannot log new flows");
        checker.push(report.help("without connection tracking every packet would be one; \"denied\" can be logged"));
    }
    if farm.mode == Mode::Stateless {
        unbound(checker, fields, listen, farm);
    }
    backend_keys(checker, fields, farm);
    hash_keys(checker, fields, farm);
    helper(checker, fields, listen, farm);
    if farm.mode == Mode::Dsr {
        dsr_ports(checker, fields, listen, farm);
        dsr_tunnel(checker, fields, farm);
    }
}

/// Nothing remembers where a connection went, so the packet itself must say it each time.
fn unbound(checker: &mut Checker<'_>, fields: Fields<'_>, listen: &[(Listen, Span)], farm: &Farm) {
    if !matches!(farm.scheduler, Scheduler::RoundRobin | Scheduler::Random) || farm.backends.len() < 2 {
        return;
    }
    let Some((connected, span)) = listen.iter().find(|(listen, _)| listen.protocol != Protocol::Udp) else { return };
    let name = if farm.scheduler == Scheduler::Random { "random" } else { "round-robin" };
    let message = format!("mode stateless with scheduler {name} cannot carry connections ({connected})");
    let report = Report::error(fields.span_of("scheduler"), message).note(*span, "the farm listens here");
    checker.push(
        report.help("each packet would go to another backend; scheduler = \"maglev\" keeps a client on its backend"),
    );
}

/// What comes from `[defaults.farm]` and means nothing here is passed over, but for limits: who set them relies on them.
fn inherited(checker: &Checker<'_>, fields: Fields<'_>, key: &str) -> bool {
    let defaults = checker.document.root.table("defaults").and_then(|table| table.table("farm"));
    let default = defaults.and_then(|table| table.entry(key));
    key != "limits" && default.is_some_and(|entry| entry.key_span == fields.key_span(key))
}

/// What needs every packet of both directions.
fn tracked(checker: &mut Checker<'_>, fields: Fields<'_>, farm: &Farm) {
    if !matches!(farm.mode, Mode::Dsr | Mode::Stateless) {
        return;
    }
    let why = "connections are counted by connection tracking, which needs both directions";
    if farm.scheduler == Scheduler::LeastConnections && !inherited(checker, fields, "scheduler") {
        let message = format!("mode {} cannot have scheduler least-connections", farm.mode.word());
        checker.push(Report::error(fields.span_of("scheduler"), message).help(why));
    }
    for (name, backend) in fields.named("backends").filter(|(_, backend)| backend.has("max-connections")) {
        let message = format!("mode {} cannot have max-connections (backend {name})", farm.mode.word());
        checker.push(Report::error(backend.key_span("max-connections"), message).help(why));
    }
}

/// Limits that the place of a mode on a packet's way rules out.
fn limits(checker: &mut Checker<'_>, fields: Fields<'_>, listen: &[(Listen, Span)], farm: &Farm) {
    let Some(limits) = &farm.limits else { return };
    let wanted = [
        ("connections-per-client", limits.connections_per_client.is_some()),
        ("strict-tcp", limits.strict_tcp),
        ("tcp-resets", limits.tcp_resets.is_some()),
        ("syn-proxy", limits.syn_proxy),
    ];
    let anywhere = listen.iter().find(|(listen, _)| listen.address.is_unspecified());
    for key in wanted.into_iter().filter_map(|(key, wanted)| wanted.then_some(key)) {
        let (why, note) = match (farm.mode, key) {
            (Mode::Dsr, "syn-proxy") => ("the backend answers the client itself", None),
            (Mode::Dsr, "connections-per-client" | "strict-tcp") => {
                ("it needs connection tracking, and the box does not see the backend's answers", None)
            }
            (Mode::Local, "syn-proxy") => ("the box's own service has it: sysctl net.ipv4.tcp_syncookies", None),
            (Mode::Local, "strict-tcp" | "tcp-resets") if anywhere.is_some() => {
                ("packets are looked at before it is known which are for the box: name its addresses", anywhere)
            }
            _ => continue,
        };
        let message = match note {
            Some(_) => format!("{key} needs listeners with an address"),
            None => format!("mode {} cannot have {key}", farm.mode.word()),
        };
        let report = Report::error(fields.table("limits").span_of(key), message).help(why);
        checker.push(match note {
            Some((_, span)) => report.note(*span, "the farm listens on every address"),
            None => report,
        });
    }
}

fn backend_keys(checker: &mut Checker<'_>, fields: Fields<'_>, farm: &Farm) {
    if farm.mode == Mode::Snat {
        return;
    }
    for (_, backend) in fields.named("backends").filter(|(_, backend)| backend.has("source-address")) {
        let message = format!("mode {} cannot have source-address", farm.mode.word());
        let report = Report::error(backend.key_span("source-address"), message);
        checker.push(report.help("the source is rewritten in mode snat only"));
    }
}

fn hash_keys(checker: &mut Checker<'_>, fields: Fields<'_>, farm: &Farm) {
    let name = fields.word("scheduler").unwrap_or(SchedulerName::RoundRobin);
    if farm.mode == Mode::Local || matches!(name, SchedulerName::Hash | SchedulerName::Maglev) {
        return;
    }
    for key in ["hash", "slots"] {
        if fields.has(key) && !inherited(checker, fields, key) {
            let message = format!("{key} has no effect with scheduler {}", name.word());
            checker.push(Report::warning(fields.key_span(key), message).help("it is for hash and maglev"));
        }
    }
}

fn helper(checker: &mut Checker<'_>, fields: Fields<'_>, listen: &[(Listen, Span)], farm: &Farm) {
    let Some(helper) = farm.helper else { return };
    let protocols: &[Protocol] = match helper {
        Helper::Ftp | Helper::Pptp => &[Protocol::Tcp],
        Helper::Sip => &[Protocol::Udp, Protocol::Tcp],
        Helper::Snmp | Helper::Tftp => &[Protocol::Udp],
    };
    let fits = |listen: &Listen| listen.protocol == Protocol::Any || protocols.contains(&listen.protocol);
    if !listen.is_empty() && !listen.iter().any(|(listen, _)| fits(listen)) {
        let names: Vec<String> = protocols.iter().map(Protocol::to_string).collect();
        let message = format!("helper {} needs a listener of protocol {}", helper.word(), names.join(" or "));
        checker.push(Report::error(fields.span_of("helper"), message));
    }
}

/// What tunnels do not need.
fn dsr_tunnel(checker: &mut Checker<'_>, fields: Fields<'_>, farm: &Farm) {
    let Some(dsr) = farm.dsr.as_ref().filter(|dsr| dsr.via != DsrVia::L2) else { return };
    if dsr.interface.is_some() {
        let message = format!("dsr.interface has no effect with via {}", dsr.via.word());
        let report = Report::warning(fields.table("dsr").key_span("interface"), message);
        checker.push(report.help("the route to a backend decides how its tunnel leaves"));
    }
}

/// The backend sees the packet as the client sent it: its port must be the client's.
fn dsr_ports(checker: &mut Checker<'_>, fields: Fields<'_>, listen: &[(Listen, Span)], farm: &Farm) {
    for (name, written) in fields.named("backends") {
        let Some(endpoint) = farm.backends.get(name).map(|backend| backend.address) else { continue };
        let Some(port) = endpoint.port else { continue };
        let family = |listen: &Listen| listen.address.is_ipv4() == endpoint.address.is_ipv4();
        let other = listen.iter().find(|(listen, _)| family(listen) && listen.ports != Ports::One(port));
        if let Some(&(_, span)) = other {
            let message = format!("mode dsr cannot change the port to {port} (backend {name})");
            let report = Report::error(written.span_of("address"), message).note(span, "the farm listens here");
            checker.push(report.help("write the address without a port"));
        }
    }
}
