//! `[network.rules]`.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::super::Checker;
use super::super::fields::Fields;
use crate::diagnostic::Report;
use crate::model::{MarkMatch, Network, RoutingRule};
use crate::schema::prefix;
use crate::tree::Span;
use crate::types::RuleName;

/// `RT_TABLE_DEFAULT` is empty, `RT_TABLE_LOCAL` answers for the addresses of the box.
const TABLES_OF_THE_KERNEL: [u32; 2] = [253, 255];
/// What a rule may look at.
const SELECTORS: [&str; 4] = ["from", "to", "mark", "interface"];

pub(super) fn rule(checker: &mut Checker<'_>, name: RuleName, fields: Fields<'_>) -> Option<RoutingRule> {
    for (key, help) in [
        ("priority", "priority = 1 to 32765 to be asked before the main table"),
        ("table", "table = the number of the table that is asked"),
    ] {
        if !fields.has(key) {
            checker.missing(fields, &format!("rule {name} has no {key}"), help);
        }
    }
    if !SELECTORS.iter().any(|key| fields.has(key)) {
        let what = format!("rule {name} fits every packet");
        checker.missing(
            fields,
            &what,
            "any of from, to, mark, interface; every packet of IPv4 is from = \"0.0.0.0/0\"",
        );
    }
    let table = fields.integer("table");
    if let Some(table) = table.filter(|table| TABLES_OF_THE_KERNEL.contains(table)) {
        let report = Report::error(fields.span_of("table"), format!("table {table} is the kernel's own"));
        checker.push(report.help("any other number, such as 100; the main table is 254"));
    }
    let net = |key: &str| fields.text(key).and_then(|text| prefix(text).ok());
    let (from, to): (Option<IpNet>, Option<IpNet>) = (net("from"), net("to"));
    if let (Some(from), Some(to)) = (from, to)
        && from.addr().is_ipv4() != to.addr().is_ipv4()
    {
        let report = Report::error(fields.span_of("to"), "to is of another family than from");
        checker.push(report.note(fields.span_of("from"), "from is here"));
    }
    Some(RoutingRule {
        origin: checker.document.origin_at(fields.span()),
        priority: fields.integer("priority")?,
        table: table?,
        from,
        to,
        mark: mark(checker, fields),
        interface: fields.text("interface").map(str::to_owned),
        name,
    })
}

/// The kernel compares what is in the mask and nothing else: a mark outside of it would be forgotten in silence.
fn mark(checker: &mut Checker<'_>, fields: Fields<'_>) -> Option<MarkMatch> {
    let mask = fields.integer("mask");
    let Some(value) = fields.integer("mark") else {
        if mask.is_some() && !fields.has("mark") {
            let report = Report::error(fields.key_span("mask"), "mask without mark");
            checker.push(report.help("mark = the value that the bits of the mask should have"));
        }
        return None;
    };
    let mask = mask.unwrap_or(u32::MAX);
    if value & !mask != 0 {
        let message = format!("mark {value:#x} has bits outside of its mask {mask:#x}");
        let report = Report::error(fields.span_of("mark"), message).note(fields.span_of("mask"), "the mask");
        checker.push(report.help(format!("mark = {:#x}", value & mask)));
    }
    Some(MarkMatch { value, mask })
}

/// Among rules of one priority the kernel takes the one that was added first: an order that nobody has written.
pub(super) fn priorities(checker: &mut Checker<'_>, fields: Fields<'_>, network: &Network) {
    let mut seen: BTreeMap<(bool, u32), (&str, Span)> = BTreeMap::new();
    for (name, written) in fields.named("rules") {
        let Some(rule) = network.rules.get(name) else { continue };
        let net = rule.from.or(rule.to);
        let families = [true, false].into_iter().filter(|v4| net.is_none_or(|net| net.addr().is_ipv4() == *v4));
        let span = written.span_of("priority");
        let taken = families.filter_map(|v4| seen.insert((v4, rule.priority), (name, span)));
        if let Some((other, first)) = taken.last() {
            let message = format!("rules {other} and {name} both have priority {}", rule.priority);
            checker.push(Report::error(span, message).note(first, "the other"));
        }
    }
}
