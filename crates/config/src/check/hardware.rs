//! `[hardware]` and the files of `hwprofiles/`.

use std::collections::BTreeMap;

use super::Checker;
use super::fields::Fields;
use crate::diagnostic::Report;
use crate::document::Document;
use crate::model::{
    Auto, ConntrackMax, Hardware, NicTuning, Origin, Profile, ProfileChoice, ProfileMatch, QueueCount, RingSize,
    Tuning, WakeUp, Word,
};
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

/// The keys of a profile that are one value.
const SETTINGS: [&str; 6] = ["irq", "rps", "xps", "pcie-power-saving", "cpu-frequency", "cpu-wake-up"];
/// The same of [`NicTuning`].
const NIC_SETTINGS: [&str; 8] = ["queues", "rx-ring", "tx-ring", "coalesce", "rx-usecs", "udp-hash", "pause", "eee"];

fn tuning(document: &Document, fields: Fields<'_>) -> Tuning {
    let mut tuning = Tuning {
        irq: fields.word("irq"),
        rps: fields.word("rps"),
        xps: fields.word("xps"),
        pcie_power_saving: fields.word("pcie-power-saving"),
        cpu_frequency: fields.word("cpu-frequency"),
        cpu_wake_up: fields.node("cpu-wake-up").and_then(|node| number_or_word(node, WakeUp::Micros)),
        conntrack_max: fields.table("conntrack").node("max").and_then(conntrack_max),
        ..Tuning::default()
    };
    for key in SETTINGS {
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
    tuning.nic = nic(document, fields, "", &mut tuning.origins);
    for (driver, fields) in fields.all_named("drivers") {
        let nic = nic(document, fields, &format!("drivers.{driver}."), &mut tuning.origins);
        tuning.drivers.insert(driver.to_owned(), nic);
    }
    tuning
}

/// What ethtool sets; `prefix` is the path of the table, with its dot.
fn nic(document: &Document, fields: Fields<'_>, prefix: &str, origins: &mut BTreeMap<String, Origin>) -> NicTuning {
    let ring = |key| fields.node(key).and_then(|node| number_or_word(node, RingSize::Entries));
    for key in NIC_SETTINGS {
        if let Some(node) = fields.node(key) {
            origins.insert(format!("{prefix}{key}"), document.origin_at(node.span));
        }
    }
    let mut features = BTreeMap::new();
    for entry in fields.table("features").written() {
        if let Value::Boolean(on) = entry.node.value {
            origins.insert(format!("{prefix}features.{}", entry.key), document.origin_at(entry.key_span));
            features.insert(entry.key.as_ref().to_owned(), on);
        }
    }
    NicTuning {
        queues: fields.node("queues").and_then(|node| number_or_word(node, QueueCount::Count)),
        rx_ring: ring("rx-ring"),
        tx_ring: ring("tx-ring"),
        coalesce: fields.word("coalesce"),
        rx_usecs: fields.integer("rx-usecs"),
        udp_hash: fields.word("udp-hash"),
        pause: fields.word("pause"),
        eee: fields.word("eee"),
        features,
    }
}

fn number_or_word<W: Word>(node: &Node, number: impl Fn(u32) -> W) -> Option<W> {
    match &node.value {
        Value::Text(text) => W::from_word(text),
        Value::Integer(found) => u32::try_from(*found).ok().map(number),
        _ => None,
    }
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
