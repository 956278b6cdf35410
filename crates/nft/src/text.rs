//! Rulesets as nft(8) would print them: for people, for golden files, and for `nft -c -f`.
//!
//! The same value always gives the same text. nft(8) has no escapes, so names and comments pass through filters
//! ([`crate::model::comment`]) and no text of an operator can end a string and start a command.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter, Write};
use std::sync::Arc;

use crate::change::Change;
use crate::model::{
    BaseChain, Chain, ChainKind, Datatype, Element, Family, Hook, Key, Ruleset, Set, SetData, Table, TableId,
};

mod datum;
mod object;
mod rule;
mod statement;

use datum::{datum, fields};

/// A name as nft(8) reads it without quotes; any other character, which only foreign objects have, is shown as `?`.
pub(crate) struct Name<'a>(pub(crate) &'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            f.write_char(if c.is_ascii_alphanumeric() || "/-_.".contains(c) { c } else { '?' })?;
        }
        Ok(())
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Netdev => "netdev",
            Self::Ip6 => "ip6",
        })
    }
}

impl Display for TableId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, Name(&self.name))
    }
}

impl Display for ChainKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
            Self::Foreign => "foreign",
        })
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
        })
    }
}

impl Display for BaseChain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "type {} hook {}", self.kind, self.hook)?;
        match self.devices.first() {
            Some(device) if self.devices.len() == 1 => write!(f, " device \"{}\"", Name(device))?,
            Some(_) => write!(f, " devices = {{ {} }}", Devices(&self.devices))?,
            None => {}
        }
        write!(f, " priority {}; policy accept;", self.priority)
    }
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (id, table) in &self.tables {
            write_table(f, id, table)?;
        }
        Ok(())
    }
}

fn write_table(f: &mut Formatter<'_>, id: &TableId, table: &Table) -> fmt::Result {
    writeln!(f, "table {id} {{")?;
    if table.dormant {
        writeln!(f, "\tflags dormant")?;
    }
    let mut blank = "";
    for ((kind, name), object) in &table.objects {
        writeln!(f, "{blank}\t{kind} {} {{", Name(name))?;
        write_lines(f, &object::options(object))?;
        blank = "\n";
    }
    for (name, flowtable) in &table.flowtables {
        writeln!(f, "{blank}\tflowtable {} {{", Name(name))?;
        write_lines(f, &object::flowtable(flowtable))?;
        blank = "\n";
    }
    for (name, set) in &table.sets {
        write!(f, "{blank}\t{} {} {{\n\t\t", kind(set), Name(name))?;
        write_definition(f, set, "\n\t\t")?;
        write_elements(f, set)?;
        writeln!(f, "\n\t}}")?;
        blank = "\n";
    }
    for (name, chain) in &table.chains {
        writeln!(f, "{blank}\tchain {} {{", Name(name))?;
        write_chain(f, chain)?;
        writeln!(f, "\t}}")?;
        blank = "\n";
    }
    writeln!(f, "}}")
}

/// What stands between the braces of an object, and the closing brace.
fn write_lines(f: &mut Formatter<'_>, lines: &[String]) -> fmt::Result {
    lines.iter().try_for_each(|line| writeln!(f, "\t\t{line}"))?;
    writeln!(f, "\t}}")
}

/// Names in quotes.
struct Devices<'a>(&'a BTreeSet<Arc<str>>);

impl Display for Devices<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, device) in self.0.iter().enumerate() {
            write!(f, "{}\"{}\"", if index == 0 { "" } else { ", " }, Name(device))?;
        }
        Ok(())
    }
}

fn write_chain(f: &mut Formatter<'_>, chain: &Chain) -> fmt::Result {
    if let Some(base) = &chain.base {
        writeln!(f, "\t\t{base}")?;
    }
    for rule in &chain.rules {
        writeln!(f, "\t\t{rule}")?;
    }
    Ok(())
}

fn kind(set: &Set) -> &'static str {
    if set.data.is_some() { "map" } else { "set" }
}

/// What a map from numbers yields, as an expression of that type: `type` has no word for its key.
fn by_example(set: &Set) -> Option<&'static str> {
    let ([Datatype::Number], Some(SetData::Value(data))) = (set.key.as_slice(), &set.data) else { return None };
    match data.as_slice() {
        [Datatype::Ipv4Addr] => Some("ip daddr"),
        [Datatype::Ipv6Addr] => Some("ip6 daddr"),
        [Datatype::Mark] => Some("ct mark"),
        _ => None,
    }
}

/// `type …`, flags, size, time-out and counter, with `between` in between.
fn write_definition(f: &mut Formatter<'_>, set: &Set, between: &str) -> fmt::Result {
    match (by_example(set), &set.data) {
        (Some(like), _) => write!(f, "typeof numgen inc mod 1 : {like}")?,
        (None, Some(SetData::Verdict)) => write!(f, "type {} : verdict", Types(&set.key))?,
        (None, Some(SetData::Value(data))) => write!(f, "type {} : {}", Types(&set.key), Types(data))?,
        (None, Some(SetData::Objects(kind))) => write!(f, "type {} : {kind}", Types(&set.key))?,
        (None, None) => write!(f, "type {}", Types(&set.key))?,
    }
    let flags = [("dynamic", set.dynamic), ("interval", set.interval), ("timeout", set.timeout_ms.is_some())];
    let flags: Vec<&str> = flags.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    if !flags.is_empty() {
        write!(f, "{between}flags {}", flags.join(","))?;
    }
    if let Some(size) = set.size {
        write!(f, "{between}size {size}")?;
    }
    match set.timeout_ms {
        Some(ms) if ms > 0 => write!(f, "{between}timeout {}", Milliseconds(ms))?,
        _ => {}
    }
    if set.counters { write!(f, "{between}counter") } else { Ok(()) }
}

/// A time as nft(8) reads it.
struct Milliseconds(u64);

impl Display for Milliseconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// `ipv4_addr . inet_service`.
struct Types<'a>(&'a [Datatype]);

impl Display for Types<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, datatype) in self.0.iter().enumerate() {
            let dot = if index == 0 { "" } else { " . " };
            write!(f, "{dot}{datatype}")?;
        }
        Ok(())
    }
}

fn write_elements(f: &mut Formatter<'_>, set: &Set) -> fmt::Result {
    if set.elements.is_empty() {
        return Ok(());
    }
    f.write_str("\n\t\telements = {")?;
    for (index, (key, element)) in set.elements.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(f, "{comma}\n\t\t\t")?;
        write_element(f, set, key, element)?;
    }
    f.write_str("\n\t\t}")
}

/// `KEY limit … timeout … comment "…" : DATA`.
fn write_element(f: &mut Formatter<'_>, set: &Set, key: &Key, element: &Element) -> fmt::Result {
    write_key(f, &set.key, key)?;
    if let Some(own) = &element.own {
        own.limit.map_or(Ok(()), |limit| write!(f, " {limit}"))?;
        own.timeout_ms.map_or(Ok(()), |timeout| write!(f, " timeout {}", Milliseconds(timeout)))?;
    }
    if let Some(comment) = &element.comment {
        write!(f, " comment \"{}\"", crate::model::comment(comment))?;
    }
    let types = match &set.data {
        Some(SetData::Value(types)) => types.as_slice(),
        _ => &[],
    };
    rule::write_data(f, types, element.data.as_ref())
}

/// A value, or a range field by field, as nft(8) writes them.
fn write_key(f: &mut Formatter<'_>, types: &[Datatype], key: &Key) -> fmt::Result {
    if key.start.is_empty() {
        return f.write_char('*');
    }
    let start = fields(types, &key.start);
    let end = key.end.as_ref().map(|end| fields(types, end));
    for (index, (datatype, low)) in start.iter().enumerate() {
        if index > 0 {
            f.write_str(" . ")?;
        }
        datum(f, *datatype, low)?;
        match end.as_ref().and_then(|end| end.get(index)) {
            Some((_, high)) if high != low => {
                f.write_char('-')?;
                datum(f, *datatype, high)?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl Display for Change {
    /// One command of nft(8).
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable(table) => write!(f, "add table {table}"),
            Self::DeleteTable(table) => write!(f, "delete table {table}"),
            Self::AddChain { table, chain, base: Some(base) } => {
                write!(f, "add chain {table} {} {{ {base} }}", Name(chain))
            }
            Self::AddChain { table, chain, base: None } => write!(f, "add chain {table} {}", Name(chain)),
            Self::DeleteChain { table, chain } => write!(f, "delete chain {table} {}", Name(chain)),
            Self::FlushChain { table, chain } => write!(f, "flush chain {table} {}", Name(chain)),
            Self::AddRule { table, chain, rule } => write!(f, "add rule {table} {} {rule}", Name(chain)),
            Self::AddSet { table, set, value } => {
                write!(f, "add {} {table} {} {{ ", kind(value), Name(set))?;
                write_definition(f, value, "; ")?;
                f.write_str("; }")
            }
            // nft(8) takes `delete set` for a map too: the kernel finds both by name.
            Self::DeleteSet { table, set } => write!(f, "delete set {table} {}", Name(set)),
            Self::AddElements { table, set, definition, elements } => {
                write!(f, "add element {table} {} {{ ", Name(set))?;
                for (index, (key, element)) in elements.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    write_element(f, definition, key, element)?;
                }
                f.write_str(" }")
            }
            Self::DeleteElements { table, set, definition, elements } => {
                write!(f, "delete element {table} {} {{ ", Name(set))?;
                for (index, (key, _)) in elements.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    write_key(f, &definition.key, key)?;
                }
                f.write_str(" }")
            }
            Self::AddObject { table, kind, object, value } => {
                write!(f, "add {kind} {table} {} {{ {} }}", Name(object), commands(&object::options(value)))
            }
            Self::DeleteObject { table, kind, object } => write!(f, "delete {kind} {table} {}", Name(object)),
            Self::AddFlowtable { table, flowtable, value } => {
                write!(f, "add flowtable {table} {} {{ {} }}", Name(flowtable), commands(&object::flowtable(value)))
            }
            Self::DeleteFlowtable { table, flowtable } => write!(f, "delete flowtable {table} {}", Name(flowtable)),
            Self::DeleteDevices { table, flowtable, devices } => {
                write!(f, "delete flowtable {table} {} {{ devices = {{ {} }}; }}", Name(flowtable), Devices(devices))
            }
        }
    }
}

/// Lines between the braces of a command.
fn commands(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line};")).collect::<Vec<_>>().join(" ")
}

/// One element as it stands between the braces of a set.
pub(crate) struct ElementText<'a>(pub(crate) &'a Set, pub(crate) &'a Key, pub(crate) &'a Element);

impl Display for ElementText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_element(f, self.0, self.1, self.2)
    }
}
