//! `[hardware]` and the files of `hwprofiles/`.

use super::Checker;
use super::fields::Fields;
use crate::diagnostic::Report;
use crate::document::Document;
use crate::model::{Auto, ConntrackMax, Hardware, Profile, ProfileChoice, ProfileMatch, Tuning, Word};
use crate::schema::PROFILE;
use crate::tree::{Node, Span, Value};

pub(super) fn hardware(checker: &mut Checker<'_>, fields: Fields<'_>) -> Hardware {
    let profile = match fields.text("profile") {
        None | Some("auto") => ProfileChoice::Auto,
        Some("none") => ProfileChoice::None,
        Some(name) => ProfileChoice::Named(name.to_owned()),
    };
    Hardware { profile, overrides: tuning(checker.document, fields.table("overrides")) }
}

fn tuning(document: &Document, fields: Fields<'_>) -> Tuning {
    let mut tuning = Tuning {
        irq: fields.word("irq"),
        rps: fields.word("rps"),
        xps: fields.word("xps"),
        conntrack_max: fields.table("conntrack").node("max").and_then(conntrack_max),
        ..Tuning::default()
    };
    for key in ["irq", "rps", "xps"] {
        if let Some(node) = fields.node(key) {
            tuning.origins.insert(key.to_owned(), document.origin_at(node.span));
        }
    }
    if let Some(node) = fields.table("conntrack").node("max") {
        tuning.origins.insert("conntrack.max".to_owned(), document.origin_at(node.span));
    }
    for entry in fields.table("sysctl").written() {
        if let Some(value) = literal(&entry.node) {
            tuning.origins.insert(format!("sysctl.{}", entry.key), document.origin_at(entry.key_span));
            tuning.sysctl.insert(entry.key.as_ref().to_owned(), value);
        }
    }
    tuning
}

fn conntrack_max(node: &Node) -> Option<ConntrackMax> {
    match &node.value {
        Value::Text(text) => Auto::from_word(text).map(|_| ConntrackMax::Auto),
        Value::Integer(entries) => u32::try_from(*entries).ok().map(ConntrackMax::Entries),
        _ => None,
    }
}

/// The text that is written to the kernel.
pub(super) fn literal(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.as_ref().to_owned()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A file of `hwprofiles/`, named `id`.
pub(crate) fn profile(document: &Document, id: String, problems: &mut crate::diagnostic::Collector) -> Profile {
    let root = Fields::new(Some(&document.root), PROFILE, Span::default());
    let about = root.table("profile");
    if !about.has("title") {
        let report = Report::error(about.span(), "the profile has no title");
        problems.push(report.help("[profile] with a title of one line"));
    }
    let mut matches = Vec::new();
    for fields in root.tables("match") {
        if fields.written().next().is_none() {
            let report = Report::error(fields.span(), "an empty match fits every machine");
            problems.push(report.help("leave out [[match]] for a profile that fits every machine"));
        }
        matches.push(ProfileMatch {
            dmi_product: fields.strings("dmi-product"),
            cpu_model: fields.text("cpu-model").map(str::to_owned),
            cpu_cores: fields.integer("cpu-cores"),
            nic_drivers: fields.strings("nic-drivers"),
            nic_count_min: fields.integer("nic-count-min"),
        });
    }
    Profile {
        id,
        title: about.text("title").unwrap_or_default().to_owned(),
        priority: about.number("priority"),
        matches,
        tuning: tuning(document, root),
    }
}
