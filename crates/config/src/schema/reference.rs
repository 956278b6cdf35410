//! The table of keys as the reference page.

use super::{Form, Key, Kind, Merge, PROFILE, Preset, ROOT};
use crate::types::duration_text;

const HEAD: &str = "\
# Configuration reference

Every key, its type, default and bounds. This page is printed from the table of keys that also checks the files
(`crates/config/src/schema.rs`); a test keeps the two equal. An editor can check a file by `headgate.schema.json`.

A duration is a whole number with a unit (`\"500ms\"`, `\"2s\"`, `\"5m\"`, `\"2h\"`), a rate `\"N/second\"`, `\"N/minute\"`,
`\"N/hour\"` or `\"N/day\"`, with `burst M` behind it if wanted. Names are `[A-Za-z0-9_.-]{1,63}`. Unknown keys are errors.
Tables merge key by key when several files have them, unless marked as replaced whole; everything else is replaced by the later
file.
";

/// `docs/configuration.md`.
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    tables(&mut out, ROOT, &mut Vec::new());
    out.push_str("\n# Hardware profiles\n\nThe keys of a file in `hwprofiles/`. `[hardware.overrides]` takes all but `profile` and `match`.\n");
    section(&mut out, PROFILE, "at the top", &[]);
    tables(&mut out, PROFILE, &mut Vec::new());
    out
}

/// A section for each table below `keys`.
fn tables(out: &mut String, keys: &'static [Key], path: &mut Vec<String>) {
    for key in keys {
        // Those of the farm and of the profile are described once.
        if path.first().is_some_and(|first| first == "defaults" || first == "hardware") && path.len() > 1 {
            continue;
        }
        path.push(key.name.to_owned());
        match &key.kind {
            Kind::Table(merge, inner) => {
                if path.join(".") == "defaults.farm" || path.join(".") == "hardware.overrides" {
                    heading(out, &format!("[{}]", path.join(".")), key.doc);
                } else {
                    let header = format!("[{}]", path.join("."));
                    let whole = if *merge == Merge::Whole { " Replaced whole by a later file." } else { "" };
                    section(out, inner, &header, &[key.doc, whole]);
                    tables(out, inner, path);
                }
            }
            Kind::Named(_, inner) => {
                path.push("NAME".to_owned());
                section(out, inner, &format!("[{}]", path.join(".")), &[key.doc]);
                tables(out, inner, path);
                path.pop();
            }
            Kind::Tables(inner) => section(out, inner, &format!("[[{}]]", path.join(".")), &[key.doc]),
            Kind::Map(_, form, inner) if path.len() == 1 => {
                heading(out, &format!("[{}]", key.name), key.doc);
                out.push_str(&format!("\nKeys: {}. Values: {}.\n", form_text(*form), kind_text(inner)));
            }
            _ => {}
        }
        path.pop();
    }
}

fn heading(out: &mut String, header: &str, doc: &str) {
    out.push_str(&format!("\n## `{header}`\n\n{doc}\n"));
}

fn section(out: &mut String, keys: &[Key], header: &str, doc: &[&str]) {
    if keys.iter().all(|key| is_section(&key.kind)) {
        // Nothing but tables, each with a section of its own.
        return;
    }
    heading(out, header, &doc.concat());
    out.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
    for key in keys.iter().filter(|key| !is_section(&key.kind)) {
        let cells =
            [kind_text(&key.kind), preset_text(key.preset), key.doc.to_owned()].map(|cell| cell.replace('|', "\\|"));
        out.push_str(&format!("| `{}` | {} |\n", key.name, cells.join(" | ")));
    }
}

fn is_section(kind: &Kind) -> bool {
    matches!(kind, Kind::Table(..) | Kind::Named(..) | Kind::Tables(_))
}

fn preset_text(preset: Preset) -> String {
    match preset {
        Preset::None => "–".to_owned(),
        Preset::Boolean(value) => format!("`{value}`"),
        Preset::Integer(number) => format!("`{number}`"),
        Preset::Text(text) => format!("`{text:?}`"),
        Preset::List(texts) => format!("`{texts:?}`"),
        Preset::Told(words) => words.to_owned(),
    }
}

fn kind_text(kind: &Kind) -> String {
    match kind {
        Kind::Boolean => "`true` or `false`".to_owned(),
        &Kind::Integer(i64::MIN, i64::MAX) => "integer".to_owned(),
        Kind::Integer(min, max) => format!("integer, {min} to {max}"),
        Kind::Word(words) => words().iter().map(|word| format!("`{word:?}`")).collect::<Vec<_>>().join(", "),
        Kind::Text(form) => form_text(*form),
        Kind::List(inner) => format!("list of: {}", kind_text(inner)),
        Kind::OneOrMore(inner) => format!("one or a list of: {}", kind_text(inner)),
        Kind::Either(kinds) => kinds.iter().map(kind_text).collect::<Vec<_>>().join(" or "),
        Kind::Table(_, keys) => {
            format!("{{ {} }}", keys.iter().map(|key| format!("`{}`", key.name)).collect::<Vec<_>>().join(", "))
        }
        Kind::Named(..) | Kind::Tables(_) => "tables".to_owned(),
        Kind::Map(merge, form, inner) => {
            let whole = if *merge == Merge::Whole { ", replaced whole by a later file" } else { "" };
            format!("table of: {} = {}{whole}", form_text(*form), kind_text(inner))
        }
    }
}

/// What a form is called, for people.
pub(super) fn form_text(form: Form) -> String {
    match form {
        Form::Any | Form::Line => "text",
        Form::Token => "one word",
        Form::Name => "name",
        Form::Address => "IP address",
        Form::Prefix => "IP address or prefix",
        Form::InterfaceAddress => "IP address with prefix length, or `\"dhcp\"`",
        Form::Destination => "`\"default\"` or prefix",
        Form::Endpoint => "`ADDR:PORT` or `ADDR`",
        Form::Listen => "listener",
        Form::Socket => "`ADDR:PORT`",
        Form::Duration(min, max) => {
            return format!("duration, {} to {}", duration_text(min), duration_text(max));
        }
        Form::Rate => "rate",
        Form::KernelName => "kernel name of an interface",
        Form::Interface => "role or kernel name",
        Form::Mac => "MAC address",
        Form::Pci => "PCI address",
        Form::Service => "service",
        Form::File => "path below `/etc/headgate`",
        Form::Hostname => "host name",
        Form::SshKey => "a line of `authorized_keys`, without options",
        Form::Syslog => "`udp://ADDR:PORT` or `tcp://ADDR:PORT`",
        Form::Sysctl => "dotted name",
        Form::HttpPath => "path of a request",
        Form::Status => "status `\"200\"` or range `\"200-399\"`",
        Form::DnsQuery => "name and type",
        Form::Secret => "text of at least 16 characters",
    }
    .to_owned()
}
