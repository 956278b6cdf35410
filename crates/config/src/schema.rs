//! The table of every key: its type, default, bounds and meaning.
//!
//! The only list of keys there is. Unknown keys, wrong types and values out of range are refused by walking a tree along it
//! (`walk`); `docs/configuration.md` ([`reference()`]) and `docs/headgate.schema.json` ([`json_schema`]) are printed from it; merging
//! asks it which tables are values.

use std::time::Duration;

mod farm;
mod form;
mod host;
mod json;
mod profile;
mod reference;
mod walk;

pub(crate) use farm::SLOTS_MAX;
pub(crate) use form::{Form, file, interface_address, kernel_name, mac, pci, prefix, socket, status, syslog};
pub use json::{json_schema, profile_json_schema};
pub use reference::reference;
pub(crate) use walk::{closest, walk};

use crate::model::Word;

/// One key of a table.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) preset: Preset,
    pub(crate) doc: &'static str,
}

/// What may stand behind a key.
#[derive(Debug)]
pub(crate) enum Kind {
    Boolean,
    /// Both bounds included.
    Integer(i64, i64),
    /// One of a few words.
    Word(fn() -> Vec<&'static str>),
    /// A text of some form.
    Text(Form),
    List(&'static Kind),
    /// One, or a list of them.
    OneOrMore(&'static Kind),
    /// The first whose TOML type fits.
    Either(&'static [Kind]),
    /// A table of these keys.
    Table(Merge, &'static [Key]),
    /// Tables by name; the first text is what one of them is called.
    Named(&'static str, &'static [Key]),
    /// A table with keys of the user's own.
    Map(Merge, Form, &'static Kind),
    /// `[[…]]`.
    Tables(&'static [Key]),
}

/// What a later file does to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merge {
    /// Key by key.
    Deep,
    /// The table is a value: the later one replaces it.
    Whole,
}

/// What holds when the key is not written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Preset {
    /// Nothing.
    None,
    Boolean(bool),
    Integer(i64),
    Text(&'static str),
    List(&'static [&'static str]),
    /// Depends; in words, for the reference.
    Told(&'static str),
}

const fn key(name: &'static str, kind: Kind, preset: Preset, doc: &'static str) -> Key {
    Key { name, kind, preset, doc }
}

fn words<W: Word>() -> Vec<&'static str> {
    W::WORDS.iter().map(|&(word, _)| word).collect()
}

/// A duration between two bounds.
const fn between(min: Duration, max: Duration) -> Kind {
    Kind::Text(Form::Duration(min, max))
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86400);

/// The keys of `kind`, when it is a table of fixed keys.
pub(crate) fn keys_of(kind: &Kind) -> &'static [Key] {
    match kind {
        Kind::Table(_, keys) | Kind::Named(_, keys) | Kind::Tables(keys) => keys,
        _ => &[],
    }
}

pub(crate) fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

/// The keys of a configuration file.
pub(crate) static ROOT: &[Key] = &[
    key(
        "farms",
        Kind::Named("farm", farm::FARM),
        Preset::None,
        "What is balanced: virtual addresses on one side, backends on the other.",
    ),
    key(
        "defaults",
        Kind::Table(
            Merge::Deep,
            &[key(
                "farm",
                Kind::Table(Merge::Deep, farm::DEFAULTS),
                Preset::None,
                "Holds for every farm that does not say otherwise; everything of a farm but `listen` and `backends`.",
            )],
        ),
        Preset::None,
        "What holds unless said otherwise.",
    ),
    key("policies", Kind::Named("policy", farm::POLICY), Preset::None, "Lists of addresses that farms allow or deny."),
    key(
        "site",
        Kind::Table(Merge::Deep, host::SITE),
        Preset::None,
        "What all boxes that serve the same addresses share.",
    ),
    key("system", Kind::Table(Merge::Deep, host::SYSTEM), Preset::None, "The box itself."),
    key("hardware", Kind::Table(Merge::Deep, host::HARDWARE), Preset::None, "How the machine is tuned."),
    key("network", Kind::Table(Merge::Deep, host::NETWORK), Preset::None, "Interfaces, addresses and routes."),
    key(
        "sysctl",
        Kind::Map(Merge::Deep, Form::Sysctl, host::SYSCTL_VALUE),
        Preset::None,
        "Literal kernel settings, applied last: `net.*`, `vm.*` and a few of `kernel.*`. A dot inside an interface name is written as a slash. `\"unset\"` returns one to what the machine had.",
    ),
    key(
        "api",
        Kind::Table(Merge::Deep, host::API),
        Preset::None,
        "The API over HTTPS. The socket `/run/headgate/api.sock` is always there.",
    ),
    key("metrics", Kind::Table(Merge::Deep, host::METRICS), Preset::None, "Figures for Prometheus and its kin."),
    key(
        "services",
        Kind::Named("service", host::SERVICE),
        Preset::None,
        "Processes kept alive next to the data plane.",
    ),
];

/// The keys of a file of `hwprofiles/`.
pub(crate) use profile::PROFILE;

/// Set aside for what is to come, so that a file that has one gets a better answer than "unknown".
pub(crate) const RESERVED: &[&str] = &["ha", "bgp"];

#[cfg(test)]
mod tests;
