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

impl Document {
    /// Texts that were loaded once, merged again; nothing is checked, and lists of addresses are left out.
    pub fn merged(texts: &[(PathBuf, String)]) -> Self {
        let mut files = Files::default();
        for (path, text) in texts.iter().filter(|(path, _)| is_configuration(path)) {
            files.add(path.clone(), text.clone());
        }
        Document::new(files, schema::ROOT, &mut Collector::default())
    }

    /// What `later` has otherwise, by path. The site's secret differs without being shown.
    pub fn differences(&self, later: &Document) -> Vec<Difference> {
        let mut found = Vec::new();
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
                    compare(from.unwrap_or(&nothing), to.unwrap_or(&nothing), &mut vec![name], &mut found);
                }
                _ => found.push(difference(&[name], self.root.get(name).map(value), later.root.get(name).map(value))),
            }
        }
        for secret in found.iter_mut().filter(|difference| difference.path == ["site", "secret"]) {
            for side in [&mut secret.from, &mut secret.to] {
                *side = side.take().map(|_| "(not shown)".to_owned());
            }
        }
        found
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

fn compare<'t>(from: &'t Table, to: &'t Table, path: &mut Vec<&'t str>, found: &mut Vec<Difference>) {
    let mut names: Vec<&str> = keys(from).chain(keys(to)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        path.push(name);
        match (from.get(name).map(value), to.get(name).map(value)) {
            (Some(Value::Table(from)), Some(Value::Table(to))) => compare(from, to, path, found),
            (from, to) if from.map(inline) != to.map(inline) => found.push(difference(path, from, to)),
            _ => {}
        }
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(from: &str, to: &str) -> Vec<(String, Option<String>, Option<String>)> {
        let document = |text: &str| Document::merged(&[(PathBuf::from("a.toml"), text.to_owned())]);
        let found = document(from).differences(&document(to));
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
