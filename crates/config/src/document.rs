//! The files of a run merged into one tree that knows where each value was written.

use std::collections::BTreeMap;

use crate::diagnostic::{Collector, Report};
use crate::model::Origin;
use crate::parse::parse;
use crate::schema::{self, Key, Kind, Merge};
use crate::source::Files;
use crate::tree::{Entry, Node, Span, Table, TableKind, Value};

mod compare;
mod render;

pub use compare::{Change, Difference};

/// The merged configuration as written, `[defaults.farm]` spread over the farms.
///
/// It holds every text and tree of the run: a process that stays should drop it once the [`crate::Config`] is made.
#[derive(Debug)]
pub struct Document {
    pub(crate) files: Files,
    pub(crate) root: Table,
    /// The numbers of the lists that policies name.
    pub(crate) lists: BTreeMap<String, u16>,
}

impl Document {
    /// The texts that were merged, in their order, and behind them the lists that policies name.
    pub fn texts(&self) -> impl Iterator<Item = (&std::path::Path, &str)> {
        self.files.texts().map(|(file, text)| (self.files.path(file).as_path(), text))
    }

    /// Parses and merges `files` in their order along `keys`. Syntax errors of all files go to `problems`.
    pub(crate) fn new(files: Files, keys: &'static [Key], problems: &mut Collector) -> Self {
        let mut root = Table::new(TableKind::Header);
        for (file, text) in files.texts() {
            let (table, errors) = parse(text, file);
            errors.into_iter().for_each(|error| problems.push(Report::syntax(error)));
            if root.is_empty() {
                root = table;
            } else {
                merge(&mut root, table, keys);
            }
        }
        spread_defaults(&mut root, keys);
        Self { files, root, lists: BTreeMap::new() }
    }

    /// Puts a word in the place of `[site] secret`, that it may be shown. The word is too short for a secret, so that what
    /// is shown is not taken for what was written when somebody loads it.
    pub fn conceal_secret(&mut self) {
        let Some(Entry { node: Node { value: Value::Table(site), .. }, .. }) = self.root.entry_mut("site") else {
            return;
        };
        if let Some(entry) = site.entry_mut("secret") {
            entry.node.value = Value::Text("(not shown)".into());
        }
    }

    /// No configuration, but texts to point into.
    pub(crate) fn empty(files: Files) -> Self {
        Self { files, root: Table::new(TableKind::Header), lists: BTreeMap::new() }
    }

    /// Where the value at a dotted path was written: `farms.web.backends.b1.weight`, `sysctl."net.ipv4.ip_forward"`. A part that
    /// has dots of its own stands in quotes. For a table, its header.
    pub fn origin(&self, path: &str) -> Option<Origin> {
        let parts = split_path(path)?;
        self.origin_of(&parts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The same with the path in parts.
    pub fn origin_of(&self, path: &[&str]) -> Option<Origin> {
        let (last, parents) = path.split_last()?;
        let mut table = &self.root;
        for part in parents {
            table = table.table(part)?;
        }
        table.get(last).map(|node| self.files.origin(node.span))
    }
}

/// The parts of a dotted path; `None` when a quote is not closed or a part is empty.
fn split_path(path: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in path.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c => parts.last_mut()?.push(c),
        }
    }
    (!quoted && parts.iter().all(|part| !part.is_empty())).then_some(parts)
}

/// What the table of keys says about the values of a table.
#[derive(Clone, Copy)]
enum Shape {
    Keys(&'static [Key]),
    /// Tables by name, each of these keys.
    Named(&'static [Key]),
    /// Keys of the user's own, or nothing is known.
    Free,
}

impl Shape {
    /// The shape of the table under `name`; `None` when it is a value and is replaced whole.
    fn below(self, name: &str) -> Option<Shape> {
        match self {
            Shape::Named(keys) => Some(Shape::Keys(keys)),
            Shape::Free => Some(Shape::Free),
            Shape::Keys(keys) => match schema::find(keys, name).map(|key| &key.kind) {
                Some(Kind::Table(Merge::Whole, _) | Kind::Map(Merge::Whole, ..)) => None,
                Some(Kind::Table(Merge::Deep, keys)) => Some(Shape::Keys(keys)),
                Some(Kind::Named(_, keys)) => Some(Shape::Named(keys)),
                _ => Some(Shape::Free),
            },
        }
    }
}

/// Merges `from` over `into`.
fn merge(into: &mut Table, from: Table, keys: &'static [Key]) {
    merge_shaped(into, from, Shape::Keys(keys));
}

fn merge_shaped(into: &mut Table, from: Table, shape: Shape) {
    for entry in from.into_entries() {
        let below = shape.below(&entry.key);
        let Some(existing) = into.entry_mut(&entry.key) else {
            into.insert(entry);
            continue;
        };
        let Entry { key, key_span, node } = entry;
        match (&mut existing.node.value, node.value, below) {
            (Value::Table(old), Value::Table(new), Some(shape)) => {
                if old.kind != TableKind::Header && new.kind == TableKind::Header {
                    // A header says more about where a table is from than a path that leads through it.
                    existing.node.span = node.span;
                    existing.key_span = key_span;
                    old.kind = TableKind::Header;
                }
                merge_shaped(old, *new, shape);
            }
            (_, value, _) => *existing = Entry { key, key_span, node: Node { value, span: node.span } },
        }
    }
}

/// Puts `[defaults.farm]` under every farm.
fn spread_defaults(root: &mut Table, keys: &'static [Key]) {
    let Some(defaults) = root.table("defaults").and_then(|table| table.table("farm")).cloned() else { return };
    let Some(Shape::Named(farm)) = Shape::Keys(keys).below("farms") else { return };
    let Some(Entry { node: Node { value: Value::Table(farms), .. }, .. }) = root.entry_mut("farms") else { return };
    for entry in farms.iter_mut() {
        if let Value::Table(table) = &mut entry.node.value {
            underlay(table, &defaults, Shape::Keys(farm));
        }
    }
}

/// Adds from `base` what `table` does not have.
fn underlay(table: &mut Table, base: &Table, shape: Shape) {
    for entry in base.iter() {
        let known = match shape {
            // What a farm may not inherit is refused where the defaults themselves are checked.
            Shape::Keys(keys) => {
                schema::find(keys, &entry.key).is_some() && !matches!(entry.key.as_ref(), "backends" | "listen")
            }
            _ => true,
        };
        match table.entry_mut(&entry.key) {
            None if known => table.insert(entry.clone()),
            Some(Entry { node: Node { value: Value::Table(own), .. }, .. }) => {
                if let (Value::Table(base), Some(shape)) = (&entry.node.value, shape.below(&entry.key)) {
                    underlay(own, base, shape);
                }
            }
            _ => {}
        }
    }
}

impl Document {
    pub(crate) fn origin_at(&self, span: Span) -> Origin {
        self.files.origin(span)
    }
}

#[cfg(test)]
mod tests;
