//! The merged configuration as TOML and as JSON.

use std::fmt::Write;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::Document;
use crate::tree::{Entry, Node, Table, Value};

impl Document {
    /// The merged configuration as TOML; reading it back gives the same configuration.
    pub fn to_toml(&self) -> String {
        self.print(|_| String::new())
    }

    /// The same with the file and line of each value behind it, as a comment.
    pub fn to_toml_with_origins(&self) -> String {
        self.print(|node| {
            let origin = self.files.origin(node.span);
            format!("  # {}:{}", printable(&origin.file.display().to_string()), origin.line)
        })
    }

    fn print(&self, mark: impl Fn(&Node) -> String) -> String {
        let mut out = String::new();
        print_table(&mut out, &self.root, &mut Vec::new(), &mark);
        out
    }
}

/// A comment ends at the line's end, and a terminal must not obey a file's name.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn print_table<'t>(out: &mut String, table: &'t Table, path: &mut Vec<&'t str>, mark: &impl Fn(&Node) -> String) {
    for entry in table.iter().filter(|entry| !is_section(&entry.node)) {
        print_key(out, &entry.key);
        out.push_str(" = ");
        print_value(out, &entry.node.value);
        out.push_str(&mark(&entry.node));
        out.push('\n');
    }
    for Entry { key, node, .. } in table.iter() {
        path.push(key);
        match &node.value {
            Value::Table(inner) => {
                // A table of nothing but tables needs no header of its own.
                if inner.is_empty() || inner.iter().any(|entry| !is_section(&entry.node)) {
                    print_header(out, path, ["[", "]"], &mark(node));
                }
                print_table(out, inner, path, mark);
            }
            Value::Array(items) if is_section(node) => {
                for item in items {
                    print_header(out, path, ["[[", "]]"], &mark(item));
                    if let Value::Table(inner) = &item.value {
                        print_table(out, inner, path, mark);
                    }
                }
            }
            _ => {}
        }
        path.pop();
    }
}

/// Whether the value is printed under a header of its own.
fn is_section(node: &Node) -> bool {
    match &node.value {
        Value::Table(_) => true,
        Value::Array(items) => !items.is_empty() && items.iter().all(|item| matches!(item.value, Value::Table(_))),
        _ => false,
    }
}

fn print_header(out: &mut String, path: &[&str], brackets: [&str; 2], mark: &str) {
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(brackets[0]);
    for (at, part) in path.iter().enumerate() {
        if at > 0 {
            out.push('.');
        }
        print_key(out, part);
    }
    out.push_str(brackets[1]);
    out.push_str(mark);
    out.push('\n');
}

fn print_key(out: &mut String, key: &str) {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !key.is_empty() && key.chars().all(bare) { out.push_str(key) } else { print_text(out, key) }
}

fn print_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            // Also what only a terminal would mind.
            c if c.is_control() => push(out, format_args!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The value on one line.
pub(super) fn inline(value: &Value) -> String {
    let mut text = String::new();
    print_value(&mut text, value);
    text
}

fn print_value(out: &mut String, value: &Value) {
    match value {
        Value::Text(text) => print_text(out, text),
        Value::Integer(number) => push(out, format_args!("{number}")),
        Value::Float(number) => push(out, format_args!("{number:?}")),
        Value::Boolean(value) => push(out, format_args!("{value}")),
        Value::Datetime(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                print_value(out, &item.value);
            }
            out.push(']');
        }
        Value::Table(table) => {
            out.push('{');
            for (at, entry) in table.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { " " });
                print_key(out, &entry.key);
                out.push_str(" = ");
                print_value(out, &entry.node.value);
            }
            out.push_str(if table.is_empty() { "}" } else { " }" });
        }
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String does not fail");
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.root.serialize(serializer)
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for entry in self.iter() {
            map.serialize_entry(entry.key.as_ref(), &entry.node.value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) | Value::Datetime(text) => serializer.serialize_str(text),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Float(number) => serializer.serialize_f64(*number),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Table(table) => table.serialize(serializer),
            Value::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(&item.value))?;
                list.end()
            }
        }
    }
}
