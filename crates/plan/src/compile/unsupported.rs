//! What the configuration language has and this version does not do yet.
//!
//! Each use is an error with its path and value. Nothing that somebody wrote is left out in silence: a limit that is not
//! there protects nobody.

use std::fmt::{self, Write as _};

use headgate_config::Config;
use headgate_config::model::{Farm, Mode, Persistence, Word};

use crate::ids::{BACKENDS_MAX, FARMS_MAX};

/// A key that this version cannot carry out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error, serde::Serialize)]
#[error("not supported yet: {path} = {value}")]
pub struct Unsupported {
    /// The key: `farms.web.mode`.
    pub path: String,
    /// Its value as it would be written in TOML: `"dsr"`.
    pub value: String,
}

/// Every use of something that is not supported, by path.
pub(super) fn find(config: &Config) -> Vec<Unsupported> {
    let mut uses = Uses::default();
    for farm in config.farms.values() {
        uses.farm(farm);
    }
    uses.numbers(config);
    uses.found.sort();
    uses.found.dedup();
    uses.found
}

#[derive(Default)]
struct Uses {
    found: Vec<Unsupported>,
}

impl Uses {
    fn add(&mut self, table: fmt::Arguments<'_>, key: &str, value: String) {
        let mut path = table.to_string();
        path.push_str(key);
        self.found.push(Unsupported { path, value });
    }

    fn farm(&mut self, farm: &Farm) {
        let at = format_args!("farms.{}.", farm.name);
        let translated = matches!(farm.mode, Mode::Snat | Mode::Dnat);
        if let Some(mark) = farm.mark.filter(|_| !translated) {
            self.add(at, "mark", format!("{mark:#x}"));
        }
        if let Some(helper) = farm.helper.filter(|_| !translated) {
            self.add(at, "helper", text(helper.word()));
        }
        if let Some(persistence) = farm.persistence.as_ref().filter(|_| !translated) {
            self.persistence(at, persistence);
        }
        for backend in farm.backends.values() {
            if let Some(mark) = backend.mark.filter(|_| !translated) {
                self.add(format_args!("{at}backends.{}.", backend.name), "mark", format!("{mark:#x}"));
            }
        }
    }

    fn persistence(&mut self, farm: fmt::Arguments<'_>, persistence: &Persistence) {
        let fields = persistence.key.iter().map(|field| field.word());
        self.add(farm, "persistence.key", list(fields));
    }

    /// Ids have 16 and 20 bits.
    fn numbers(&mut self, config: &Config) {
        let backends: usize = config.farms.values().map(|farm| farm.backends.len()).sum();
        for (what, count, most) in [("farms", config.farms.len(), FARMS_MAX), ("backends", backends, BACKENDS_MAX)] {
            if count > most {
                self.add(format_args!("farms"), "", format!("{{ … {count} {what}, {most} at most … }}"));
            }
        }
    }
}

/// A TOML string. What is not printable is escaped: this ends on terminals.
fn text(value: impl fmt::Display) -> String {
    let mut quoted = String::from("\"");
    for c in value.to_string().chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(c)).expect("a string takes all that is written")
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn list(values: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let values: Vec<String> = values.into_iter().map(text).collect();
    format!("[{}]", values.join(", "))
}

#[cfg(test)]
mod tests;
