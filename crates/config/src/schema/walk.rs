//! Holds a tree against the table of keys: unknown keys, wrong types, values that do not have their form or leave their bounds.

use super::{Form, Key, Kind, RESERVED, ROOT, find, keys_of};
use crate::diagnostic::{Collector, Report};
use crate::tree::{Entry, Node, Table, Value};
use crate::types::{Invalid, checked_name};

/// Checks every entry of `table`.
pub(crate) fn walk(table: &Table, keys: &'static [Key], problems: &mut Collector) {
    for entry in table.iter() {
        match find(keys, &entry.key) {
            Some(key) => value(&entry.node, &key.kind, key.name, problems),
            None => unknown(entry, keys, problems),
        }
    }
}

fn unknown(entry: &Entry, keys: &'static [Key], problems: &mut Collector) {
    let name = entry.key.as_ref();
    let report = Report::error(entry.key_span, format!("unknown key {name:?}"));
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    let help = if RESERVED.contains(&name) && find(keys, "farms").is_some() {
        "reserved for a later version".to_owned()
    } else if let Some(close) = closest(name, names.iter().copied()) {
        format!("did you mean {close}?")
    } else if let Some(place) = home(name) {
        format!("{name} is a key of {place}; the keys here are {}", names.join(", "))
    } else {
        format!("the keys here are {}", names.join(", "))
    };
    problems.push(report.help(help));
}

/// The table of the configuration that has a key of this name, when it is just one.
fn home(name: &str) -> Option<String> {
    let mut homes = Vec::new();
    homes_below(ROOT, name, &mut Vec::new(), &mut homes);
    match homes.as_slice() {
        [home] => Some(home.clone()),
        _ => None,
    }
}

fn homes_below(keys: &'static [Key], name: &str, path: &mut Vec<&'static str>, homes: &mut Vec<String>) {
    for key in keys.iter().filter(|key| key.name != "defaults") {
        if key.name == name && !path.is_empty() {
            homes.push(format!("[{}]", path.join(".")));
        }
        let length = path.len();
        path.push(key.name);
        if matches!(key.kind, Kind::Named(..)) {
            path.push("NAME");
        }
        homes_below(keys_of(&key.kind), name, path, homes);
        path.truncate(length);
    }
}

pub(super) fn value(node: &Node, kind: &'static Kind, name: &str, problems: &mut Collector) {
    match (kind, &node.value) {
        (Kind::Boolean, Value::Boolean(_)) => {}
        (Kind::Integer(min, max), Value::Integer(number)) if (min..=max).contains(&number) => {}
        (Kind::Integer(min, max), Value::Integer(_)) => {
            let report = Report::error(node.span, format!("{name} must be {min} to {max}"));
            problems.push(report.maybe_help(range_help(name).map(str::to_owned)));
        }
        (Kind::Word(words), Value::Text(text)) => word(node, words(), text, name, problems),
        (Kind::Text(form), Value::Text(text)) => text_of(node, *form, text, name, problems),
        (Kind::List(inner), Value::Array(items)) => items.iter().for_each(|item| value(item, inner, name, problems)),
        (Kind::OneOrMore(inner), Value::Array(items)) => {
            if items.is_empty() {
                problems.push(Report::error(node.span, format!("{name} is an empty list")));
            }
            items.iter().for_each(|item| value(item, inner, name, problems));
        }
        (Kind::OneOrMore(inner), _) if inner.takes(&node.value) => value(node, inner, name, problems),
        (Kind::Either(kinds), found) if kinds.iter().any(|kind| kind.takes(found)) => {
            let fits = kinds.iter().filter(|kind| kind.takes(found));
            fits.take(1).for_each(|kind| value(node, kind, name, problems));
        }
        (Kind::Table(_, keys), Value::Table(table)) => walk(table, keys, problems),
        (Kind::Named(what, keys), Value::Table(table)) => named(table, what, keys, problems),
        (Kind::Map(_, form, inner), Value::Table(table)) => map(table, *form, inner, problems),
        (Kind::Tables(keys), Value::Array(items)) => tables(items, keys, name, problems),
        (_, found) => {
            let message = format!("{name} must be {}, not {}", kind.describe(), found.kind());
            problems.push(Report::error(node.span, message).maybe_help(kind.example(found)));
        }
    }
}

/// What a number out of range probably meant.
fn range_help(name: &str) -> Option<&'static str> {
    match name {
        "weight" => Some("use 0 to drain the backend"),
        _ => None,
    }
}

fn word(node: &Node, words: Vec<&'static str>, text: &str, name: &str, problems: &mut Collector) {
    if words.contains(&text) {
        return;
    }
    // The one word stands beside a number.
    let list = if words.len() == 1 { format!("an integer or {:?}", words[0]) } else { words.join(", ") };
    let help = match closest(text, words.iter().copied()) {
        Some(close) => format!("did you mean {close:?}? One of {list}"),
        None if words.len() == 1 => list,
        None => format!("one of {list}"),
    };
    problems.push(Report::error(node.span, format!("{text:?} is no value of {name}")).help(help));
}

fn text_of(node: &Node, form: Form, text: &str, name: &str, problems: &mut Collector) {
    if let Err(Invalid { message, help }) = form.check(text) {
        problems.push(Report::error(node.span, format!("{name}: {message}")).maybe_help(help));
    }
}

fn named(table: &Table, what: &str, keys: &'static [Key], problems: &mut Collector) {
    for entry in table.iter() {
        if let Err(invalid) = checked_name(what, &entry.key) {
            problems.push(Report::invalid(entry.key_span, invalid));
        }
        match &entry.node.value {
            Value::Table(inner) => walk(inner, keys, problems),
            found => problems.push(Report::error(
                entry.node.span,
                format!("{what} {:?} must be a table, not {}", entry.key, found.kind()),
            )),
        }
    }
}

fn map(table: &Table, form: Form, inner: &'static Kind, problems: &mut Collector) {
    for entry in table.iter() {
        if let Err(invalid) = form.check(&entry.key) {
            let mut report = Report::error(entry.key_span, invalid.message);
            // `net.ipv4.ip_forward = 1` without quotes is three tables to TOML.
            let help = match (form, &entry.node.value) {
                (Form::Sysctl, Value::Table(_)) => {
                    Some("put the whole name in quotes, as in \"net.ipv4.ip_forward\" = 1".to_owned())
                }
                _ => invalid.help,
            };
            report = report.maybe_help(help);
            problems.push(report);
            continue;
        }
        value(&entry.node, inner, &entry.key, problems);
    }
}

fn tables(items: &[Node], keys: &'static [Key], name: &str, problems: &mut Collector) {
    for item in items {
        match &item.value {
            Value::Table(table) => walk(table, keys, problems),
            found => {
                problems.push(Report::error(item.span, format!("{name} must be tables, not {}", found.kind())));
            }
        }
    }
}

impl Kind {
    /// Whether the TOML type fits.
    fn takes(&self, value: &Value) -> bool {
        match self {
            Kind::Boolean => matches!(value, Value::Boolean(_)),
            Kind::Integer(..) => matches!(value, Value::Integer(_)),
            Kind::Word(_) | Kind::Text(_) => matches!(value, Value::Text(_)),
            Kind::List(_) | Kind::Tables(_) => matches!(value, Value::Array(_)),
            Kind::OneOrMore(inner) => matches!(value, Value::Array(_)) || inner.takes(value),
            Kind::Either(kinds) => kinds.iter().any(|kind| kind.takes(value)),
            Kind::Table(..) | Kind::Named(..) | Kind::Map(..) => matches!(value, Value::Table(_)),
        }
    }

    /// What a person calls it.
    pub(super) fn describe(&self) -> String {
        match self {
            Kind::Boolean => "true or false".to_owned(),
            Kind::Integer(..) => "an integer".to_owned(),
            Kind::Word(_) => "a word in quotes".to_owned(),
            Kind::Text(Form::Duration(..)) => "a duration in quotes".to_owned(),
            Kind::Text(Form::Rate) => "a rate in quotes".to_owned(),
            Kind::Text(_) => "a text".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::OneOrMore(inner) => format!("{} or a list", inner.describe()),
            Kind::Either(kinds) => kinds.iter().map(Kind::describe).collect::<Vec<_>>().join(" or "),
            Kind::Table(..) | Kind::Named(..) | Kind::Map(..) => "a table".to_owned(),
            Kind::Tables(_) => "tables in double brackets".to_owned(),
        }
    }

    /// How the value that was written would look in the right type.
    fn example(&self, found: &Value) -> Option<String> {
        match (self, found) {
            (Kind::Text(Form::Duration(..)), Value::Integer(number)) => {
                Some(format!("with a unit: \"{number}s\" or \"{number}ms\""))
            }
            (Kind::Text(Form::Rate), Value::Integer(number)) => Some(format!("with a unit: \"{number}/second\"")),
            (Kind::Integer(..), Value::Text(text)) if text.parse::<i64>().is_ok() => {
                Some(format!("without quotes: {text}"))
            }
            (Kind::Boolean, Value::Text(text)) if matches!(text.as_ref(), "true" | "false") => {
                Some(format!("without quotes: {text}"))
            }
            (Kind::List(_), Value::Text(text)) => Some(format!("[{text:?}]")),
            _ => None,
        }
    }
}

/// The candidate that `word` is probably a slip of the finger from.
pub(crate) fn closest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > 40 {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('_', "-");
    if word.len() < 3 {
        return None;
    }
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= limit)
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= limit && distance < candidate.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        best = best.min(rows[i - 2][j - 2] + 1);
                    }
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}
