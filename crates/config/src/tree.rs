//! The tree of one or more parsed files: tables and values, each with the place where it was written.
//!
//! Its own type rather than `toml::Table` because of memory: at 40,000 backends the ordered maps of `toml` take 120 MB, this
//! takes 15 (keys are shared, small tables are sorted vectors, a place is 12 bytes).

use std::collections::BTreeMap;
use std::sync::Arc;

/// A key. The parser shares one allocation among all keys of a file that read the same.
pub(crate) type Key = Arc<str>;

/// Where in which file. Ordered by file (in the order of merging), then by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Span {
    /// Index into the files of the run.
    pub(crate) file: u16,
    /// First byte.
    pub(crate) start: u32,
    /// One past the last byte.
    pub(crate) end: u32,
}

/// A value and where it was written; for a table its header, for `a.b = 1` the key that made it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(Arc<str>),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// No key of ours takes one; kept as written for the message.
    Datetime(Arc<str>),
    Array(Vec<Node>),
    Table(Box<Table>),
}

impl Value {
    /// What a person calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a text",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date or time",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// How a table came to be, which decides what may be added to it (TOML 1.1, "Table" and "Dotted keys").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TableKind {
    /// Only as part of the path of a header: `a` of `[a.b]`.
    #[default]
    Implicit,
    /// By its own header.
    Header,
    /// By a dotted key: `a` of `a.b = 1`.
    Dotted,
    /// `{ … }`: complete.
    Inline,
}

/// One key of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

/// A table, ordered by key.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Table {
    entries: Entries,
    pub(crate) kind: TableKind,
}

/// Up to this many entries a sorted vector is smaller than a map and as fast; beyond it, insertion in the middle would be quadratic.
const FEW: usize = 16;

#[derive(Debug, Clone, PartialEq)]
enum Entries {
    Few(Vec<Entry>),
    Many(BTreeMap<Key, Entry>),
}

impl Default for Entries {
    fn default() -> Self {
        Entries::Few(Vec::new())
    }
}

impl Table {
    pub(crate) fn new(kind: TableKind) -> Self {
        Self { entries: Entries::default(), kind }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match &self.entries {
            Entries::Few(list) => list.is_empty(),
            Entries::Many(map) => map.is_empty(),
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.entries {
            Entries::Few(list) => list.binary_search_by(|entry| entry.key.as_ref().cmp(key)).ok().map(|at| &list[at]),
            Entries::Many(map) => map.get(key),
        }
    }

    pub(crate) fn entry_mut(&mut self, key: &str) -> Option<&mut Entry> {
        match &mut self.entries {
            Entries::Few(list) => {
                list.binary_search_by(|entry| entry.key.as_ref().cmp(key)).ok().map(|at| &mut list[at])
            }
            Entries::Many(map) => map.get_mut(key),
        }
    }

    /// The entry under `key`, made first where there is none: among 10,000 farms one search, not two.
    pub(crate) fn entry_or_insert(&mut self, key: &Key, make: impl FnOnce() -> Entry) -> Option<&mut Entry> {
        if let Entries::Few(_) = self.entries {
            if self.entry(key).is_none() {
                self.insert(make());
            }
            return self.entry_mut(key);
        }
        match &mut self.entries {
            Entries::Few(_) => None,
            Entries::Many(map) => Some(map.entry(key.clone()).or_insert_with(make)),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The table under `key`, if that is a table.
    pub(crate) fn table(&self, key: &str) -> Option<&Table> {
        match self.get(key)?.value {
            Value::Table(ref table) => Some(table),
            _ => None,
        }
    }

    /// Adds or replaces.
    pub(crate) fn insert(&mut self, entry: Entry) {
        match &mut self.entries {
            Entries::Few(list) => match list.binary_search_by(|other| other.key.cmp(&entry.key)) {
                Ok(at) => list[at] = entry,
                Err(at) if list.len() < FEW => {
                    if list.len() == list.capacity() {
                        // Twice as many, but from one on: most tables are backends with an address, and a vector would begin
                        // with room for four.
                        list.reserve_exact(list.len().max(1));
                    }
                    list.insert(at, entry);
                }
                Err(_) => {
                    let mut map: BTreeMap<Key, Entry> =
                        std::mem::take(list).into_iter().map(|entry| (entry.key.clone(), entry)).collect();
                    map.insert(entry.key.clone(), entry);
                    self.entries = Entries::Many(map);
                }
            },
            Entries::Many(map) => {
                map.insert(entry.key.clone(), entry);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Entry> {
        match &mut self.entries {
            Entries::Few(list) => {
                list.binary_search_by(|entry| entry.key.as_ref().cmp(key)).ok().map(|at| list.remove(at))
            }
            Entries::Many(map) => map.remove(key),
        }
    }

    /// All entries, by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        let (few, many) = match &self.entries {
            Entries::Few(list) => (list.as_slice(), None),
            Entries::Many(map) => (&[][..], Some(map.values())),
        };
        few.iter().chain(many.into_iter().flatten())
    }

    /// All entries, by key, to change.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        let (few, many) = match &mut self.entries {
            Entries::Few(list) => (list.as_mut_slice(), None),
            Entries::Many(map) => (&mut [][..], Some(map.values_mut())),
        };
        few.iter_mut().chain(many.into_iter().flatten())
    }

    /// All entries, by key, taken out.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = Entry> {
        let (few, many) = match self.entries {
            Entries::Few(list) => (list, None),
            Entries::Many(map) => (Vec::new(), Some(map.into_values())),
        };
        few.into_iter().chain(many.into_iter().flatten())
    }
}
