//! Where two configurations differ.

use std::path::PathBuf;

use super::Document;
use super::render::inline;
use crate::diagnostic::Collector;
use crate::schema;
use crate::source::{Files, is_configuration};
use crate::tree::{Table, TableKind, Value};

/// A value, or a whole table, that two configurations do not have alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The keys that lead to it.
    pub path: Vec<String>,
    /// What it was, as TOML; `None`: it is new.
    pub from: Option<String>,
    /// What it is, as TOML; `None`: it is gone.
    pub to: Option<String>,
}

/// What became of a value, or of a whole table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there before.
    New,
    /// It is not there any more.
    Gone,
    /// It is another.
    Other,
}

impl Change {
    /// From whether it was there, and whether it is.
    pub fn of(was: bool, is: bool) -> Self {
        match (was, is) {
            (false, true) => Self::New,
            (true, false) => Self::Gone,
            _ => Self::Other,
        }
    }
}

/// Takes a path and what is there on both sides.
type Told<'f> = dyn FnMut(&[&str], Option<&Value>, Option<&Value>) + 'f;

impl Document {
    /// Texts that were loaded once, merged again; nothing is checked, and lists of addresses are left out.
    pub fn merged(texts: impl IntoIterator<Item = (PathBuf, String)>) -> Self {
        let mut files = Files::default();
        for (path, text) in texts.into_iter().filter(|(path, _)| is_configuration(path)) {
            files.add(path, text);
        }
        Document::new(files, schema::ROOT, &mut Collector::default())
    }

    /// What `later` has otherwise, by path. The site's secret differs without being shown.
    pub fn differences(&self, later: &Document) -> Vec<Difference> {
        let mut found = Vec::new();
        self.compare(later, &mut |path, from, to| found.push(difference(path, from, to)));
        for secret in found.iter_mut().filter(|difference| difference.path == ["site", "secret"]) {
            for side in [&mut secret.from, &mut secret.to] {
                *side = side.take().map(|_| "(not shown)".to_owned());
            }
        }
        found
    }

    /// Where `later` is otherwise, by path, without what it says there: nothing is kept of 40,000 differences.
    pub fn each_difference(&self, later: &Document, mut told: impl FnMut(&[&str], Change)) {
        self.compare(later, &mut |path, from, to| told(path, Change::of(from.is_some(), to.is_some())));
    }

    fn compare(&self, later: &Document, told: &mut Told<'_>) {
        let nothing = Table::new(TableKind::Implicit);
        let mut names: Vec<&str> = [&self.root, &later.root].into_iter().flat_map(keys).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            // Down to the tables of the first level, so that a first farm is a farm that is new, not a new `farms`.
            let side = |document: &'_ Document| document.root.get(name).is_some();
            let (from, to) = (self.root.table(name), later.root.table(name));
            match (from.is_some() || !side(self), to.is_some() || !side(later)) {
                (true, true) => {
                    compare(from.unwrap_or(&nothing), to.unwrap_or(&nothing), &mut vec![name], told);
                }
                _ => told(&[name], self.root.get(name).map(value), later.root.get(name).map(value)),
            }
        }
    }
}

fn value(node: &crate::tree::Node) -> &Value {
    &node.value
}

fn keys(table: &Table) -> impl Iterator<Item = &str> {
    table.iter().map(|entry| entry.key.as_ref())
}

fn difference(path: &[&str], from: Option<&Value>, to: Option<&Value>) -> Difference {
    Difference { path: path.iter().map(|&part| part.to_owned()).collect(), from: from.map(inline), to: to.map(inline) }
}

/// Whether both read alike. A value is the same wherever it stands, and a number however it is written.
fn is_alike(from: &Value, to: &Value) -> bool {
    match (from, to) {
        (Value::Text(from), Value::Text(to)) => from == to,
        (Value::Integer(from), Value::Integer(to)) => from == to,
        _ => inline(from) == inline(to),
    }
}

fn compare<'t>(from: &'t Table, to: &'t Table, path: &mut Vec<&'t str>, told: &mut Told<'_>) {
    let mut names: Vec<&str> = keys(from).chain(keys(to)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        path.push(name);
        match (from.get(name).map(value), to.get(name).map(value)) {
            (Some(Value::Table(from)), Some(Value::Table(to))) => compare(from, to, path, told),
            (Some(from), Some(to)) if is_alike(from, to) => {}
            (from, to) => told(path, from, to),
        }
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(from: &str, to: &str) -> Vec<(String, Option<String>, Option<String>)> {
        let document = |text: &str| Document::merged([(PathBuf::from("a.toml"), text.to_owned())]);
        let found = document(from).differences(&document(to));
        let mut told = Vec::new();
        document(from).each_difference(&document(to), |path, change| told.push((path.join("."), change)));
        let change = |one: &Difference| Change::of(one.from.is_some(), one.to.is_some());
        assert!(found.iter().map(|one| (one.path.join("."), change(one))).eq(told), "both ways are the same");
        found.into_iter().map(|one| (one.path.join("."), one.from, one.to)).collect()
    }

    #[test]
    fn only_what_differs_is_told_and_tables_that_come_or_go_are_told_whole() {
        let from = "[farms.a]\nlisten = \"10.0.0.1:80\"\n[farms.a.backends.x]\naddress = \"10.1.0.1\"\nweight = 3\n[farms.b]\n";
        let to = "# moved\n[farms.c]\nmode = 'dnat'\n[farms.a.backends.x]\nweight = 8\naddress = \"10.1.0.1\"\n\
                  [farms.a]\nlisten = [\"10.0.0.1:80\"]\n[sysctl]\n\"net.ipv4.ip_forward\" = 1\n";
        let some = |text: &str| Some(text.to_owned());
        let expected = [
            ("farms.a.backends.x.weight".to_owned(), some("3"), some("8")),
            ("farms.a.listen".to_owned(), some("\"10.0.0.1:80\""), some("[\"10.0.0.1:80\"]")),
            ("farms.b".to_owned(), some("{}"), None),
            ("farms.c".to_owned(), None, some("{ mode = \"dnat\" }")),
            ("sysctl.net.ipv4.ip_forward".to_owned(), None, some("1")),
        ];
        assert_eq!(between(from, to), expected);
        assert_eq!(between(to, to), []);
        assert_eq!(between("farms = 3", "[farms.a]\n").len(), 1, "what is not even a table is compared all the same");
    }

    #[test]
    fn the_secret_of_the_site_is_not_shown() {
        let hidden = Some("(not shown)".to_owned());
        let secret = |text: &str| format!("[site]\nsecret = \"{text}\"\n");
        let expected = |from, to| [("site.secret".to_owned(), from, to)];
        assert_eq!(between(&secret("one"), &secret("two")), expected(hidden.clone(), hidden.clone()));
        assert_eq!(between("", &secret("two")), expected(None, hidden.clone()));
        assert_eq!(between(&secret("one"), ""), expected(hidden, None));
    }
}
