//! The entries of one table with the defaults of the table of keys.

use std::str::FromStr;
use std::time::Duration;

use crate::model::Word;
use crate::schema::{Key, Kind, Preset, find, keys_of};
use crate::tree::{Entry, Node, Span, Table, Value};
use crate::types::duration;

/// Why a getter that always finds something may say so.
pub(super) const PRESET: &str = "the table of keys gives a default";

/// One table, present or not, and the keys it may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    table: Option<&'a Table>,
    keys: &'static [Key],
    span: Span,
}

impl<'a> Fields<'a> {
    pub(super) fn new(table: Option<&'a Table>, keys: &'static [Key], span: Span) -> Self {
        Self { table, keys, span }
    }

    /// The place of the table.
    pub(super) fn span(self) -> Span {
        self.span
    }

    /// The value as written.
    pub(super) fn node(self, name: &str) -> Option<&'a Node> {
        self.table?.get(name)
    }

    /// The place of the value, else of the table.
    pub(super) fn span_of(self, name: &str) -> Span {
        self.node(name).map_or(self.span, |node| node.span)
    }

    /// The place of the key, else of the table.
    pub(super) fn key_span(self, name: &str) -> Span {
        self.table.and_then(|table| table.entry(name)).map_or(self.span, |entry| entry.key_span)
    }

    pub(super) fn has(self, name: &str) -> bool {
        self.node(name).is_some()
    }

    /// Names of the keys that are written.
    pub(super) fn written(self) -> impl Iterator<Item = &'a Entry> {
        self.table.into_iter().flat_map(Table::iter)
    }

    fn preset(self, name: &str) -> Preset {
        let key = find(self.keys, name);
        debug_assert!(key.is_some(), "{name} is not in the table of keys");
        key.map_or(Preset::None, |key| key.preset)
    }

    pub(super) fn flag(self, name: &str) -> Option<bool> {
        match (self.node(name).map(|node| &node.value), self.preset(name)) {
            (Some(&Value::Boolean(value)), _) | (_, Preset::Boolean(value)) => Some(value),
            _ => None,
        }
    }

    pub(super) fn integer<T: TryFrom<i64>>(self, name: &str) -> Option<T> {
        let written = match self.node(name)?.value {
            Value::Integer(number) => T::try_from(number).ok(),
            _ => None,
        };
        written.or_else(|| self.preset_integer(name))
    }

    fn preset_integer<T: TryFrom<i64>>(self, name: &str) -> Option<T> {
        match self.preset(name) {
            Preset::Integer(number) => T::try_from(number).ok(),
            _ => None,
        }
    }

    /// As [`integer`](Self::integer) for a key that has a default.
    pub(super) fn number<T: TryFrom<i64>>(self, name: &str) -> T {
        self.integer(name).or_else(|| self.preset_integer(name)).expect(PRESET)
    }

    fn written_text(self, name: &str) -> Option<&'a str> {
        match &self.node(name)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn text(self, name: &str) -> Option<&'a str> {
        self.written_text(name).or(match self.preset(name) {
            Preset::Text(text) => Some(text),
            _ => None,
        })
    }

    /// The first of the written value and the default that reads as wanted.
    fn read<T>(self, name: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.written_text(name).and_then(&read).or_else(|| match self.preset(name) {
            Preset::Text(text) => read(text),
            _ => None,
        })
    }

    /// Whether the key is absent or its text reads: a follow-up of a value that was refused helps nobody.
    pub(super) fn reads(self, name: &str, reads: impl Fn(&str) -> bool) -> bool {
        !self.has(name) || self.written_text(name).is_some_and(reads)
    }

    pub(super) fn word<W: Word>(self, name: &str) -> Option<W> {
        self.read(name, W::from_word)
    }

    pub(super) fn parsed<T: FromStr>(self, name: &str) -> Option<T> {
        self.read(name, |text| text.parse().ok())
    }

    pub(super) fn duration(self, name: &str) -> Option<Duration> {
        self.read(name, |text| duration(text).ok())
    }

    /// The texts of a list, or the one text, with their places; else those of the default.
    pub(super) fn texts(self, name: &str) -> Vec<(&'a str, Span)> {
        let one = |node: &'a Node| match &node.value {
            Value::Text(text) => Some((text.as_ref(), node.span)),
            _ => None,
        };
        match self.node(name) {
            Some(Node { value: Value::Array(items), .. }) => items.iter().filter_map(one).collect(),
            Some(node) => one(node).into_iter().collect(),
            None => match self.preset(name) {
                Preset::List(texts) => texts.iter().map(|&text| (text, self.span)).collect(),
                _ => Vec::new(),
            },
        }
    }

    /// The texts of a list in another type; those that do not read have been refused.
    pub(super) fn list<T>(self, name: &str, read: impl Fn(&str) -> Option<T>) -> Vec<(T, Span)> {
        self.texts(name).into_iter().filter_map(|(text, span)| read(text).map(|value| (value, span))).collect()
    }

    pub(super) fn strings(self, name: &str) -> Vec<String> {
        self.texts(name).into_iter().map(|(text, _)| text.to_owned()).collect()
    }

    /// A table within, written or not.
    pub(super) fn table(self, name: &str) -> Fields<'a> {
        self.maybe_table(name).unwrap_or(Fields { table: None, keys: self.keys_below(name), span: self.span })
    }

    /// A table within, if written.
    pub(super) fn maybe_table(self, name: &str) -> Option<Fields<'a>> {
        let node = self.node(name)?;
        match &node.value {
            Value::Table(table) => Some(Fields { table: Some(table), keys: self.keys_below(name), span: node.span }),
            _ => None,
        }
    }

    /// The tables of `[[name]]`.
    pub(super) fn tables(self, name: &str) -> impl Iterator<Item = Fields<'a>> {
        let keys = self.keys_below(name);
        let items = match self.node(name).map(|node| &node.value) {
            Some(Value::Array(items)) => items.as_slice(),
            _ => &[],
        };
        items.iter().filter_map(move |item| match &item.value {
            Value::Table(table) => Some(Fields { table: Some(table), keys, span: item.span }),
            _ => None,
        })
    }

    fn keys_below(self, name: &str) -> &'static [Key] {
        find(self.keys, name).map_or(&[], |key| keys_of(&key.kind))
    }

    /// The entries of a table of tables by name, those with `enabled = false` left out.
    pub(super) fn named(self, name: &str) -> impl Iterator<Item = (&'a str, Fields<'a>)> {
        self.all_named(name).filter(|(_, fields)| fields.flag("enabled") != Some(false))
    }

    /// The same with those that are switched off.
    pub(super) fn all_named(self, name: &str) -> impl Iterator<Item = (&'a str, Fields<'a>)> {
        debug_assert!(find(self.keys, name).is_some_and(|key| matches!(key.kind, Kind::Named(..))));
        let keys = self.keys_below(name);
        self.table.and_then(|table| table.table(name)).into_iter().flat_map(Table::iter).filter_map(move |entry| {
            match &entry.node.value {
                Value::Table(table) => {
                    Some((entry.key.as_ref(), Fields { table: Some(table), keys, span: entry.node.span }))
                }
                _ => None,
            }
        })
    }
}
