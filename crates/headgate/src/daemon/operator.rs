//! What the operator changed without editing files: `runtime.toml` and `90-operator.toml` as documents that keep their
//! comments and their order.
//!
//! Only text is made here. Whether the outcome is a valid configuration is decided by the same loader that reads files,
//! before anything is written.

use headgate_config::model::BackendState;
use headgate_config::types::{BackendName, FarmName};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use crate::api::Values;

/// The file of changes that last until the next boot, below the root.
pub const RUNTIME: &str = "run/headgate/runtime.toml";
/// The file of changes that were made with `--persist`, below the root.
pub const PERSISTENT: &str = "etc/headgate/conf.d/90-operator.toml";

/// Tables that the merge takes whole (`docs/configuration.md`): a part of one would not mean what was asked for.
const WHOLE: [&str; 2] = ["dsr", "static"];

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The farm.
    pub farm: FarmName,
    /// A backend of it; `None`: the farm itself.
    pub backend: Option<BackendName>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.backend {
            None => write!(f, "farm {}", self.farm),
            Some(backend) => write!(f, "backend {backend} of farm {}", self.farm),
        }
    }
}

/// Why a change cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The file is not TOML; it is left alone.
    #[error("{file} is not valid TOML and is left as it is")]
    Syntax {
        /// The file, below the root.
        file: &'static str,
        /// Where and why.
        #[source]
        source: Box<toml_edit::TomlError>,
    },
    /// JSON that no configuration value is made of.
    #[error("{key} cannot be {value}: a value is a text, a whole number, true or false, a list or a table")]
    Value {
        /// The key.
        key: String,
        /// The value, as JSON.
        value: String,
    },
    /// Something that is no table is where the table of the target should be.
    #[error("{file}: {key} is not a table")]
    NotATable {
        /// The file, below the root.
        file: &'static str,
        /// The key.
        key: String,
    },
}

/// One of the two files.
#[derive(Debug, Clone)]
pub struct Overrides {
    file: &'static str,
    document: DocumentMut,
}

impl Overrides {
    /// Parses a file's text; an absent file is an empty text.
    pub fn parse(file: &'static str, text: &str) -> Result<Self, OperatorError> {
        let document = text.parse().map_err(|source| OperatorError::Syntax { file, source: Box::new(source) })?;
        Ok(Self { file, document })
    }

    /// No changes.
    pub fn empty(file: &'static str) -> Self {
        Self { file, document: DocumentMut::new() }
    }

    /// The file, below the root.
    pub fn file(&self) -> &'static str {
        self.file
    }

    /// The file's text.
    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// Nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.document.is_empty()
    }

    /// Writes `values` into the target's table; other keys of it stay.
    pub fn set(&mut self, target: &Target, values: &Values) -> Result<(), OperatorError> {
        let table = self.table(target)?;
        for (key, value) in values {
            merge(table, key, value)?;
        }
        Ok(())
    }

    /// Takes out what this file says about the target, and its keys `keys` only when some are named.
    pub fn unset(&mut self, target: &Target, keys: &[&str]) {
        let Some(farms) = self.document.get_mut("farms").and_then(Item::as_table_like_mut) else { return };
        let name = target.farm.as_str();
        let Some(farm) = farms.get_mut(name).and_then(Item::as_table_like_mut) else { return };
        match &target.backend {
            None => clear(farm, keys),
            Some(backend) => {
                let Some(backends) = farm.get_mut("backends").and_then(Item::as_table_like_mut) else { return };
                if let Some(table) = backends.get_mut(backend.as_str()).and_then(Item::as_table_like_mut) {
                    clear(table, keys);
                }
                drop_empty(backends, backend.as_str());
                drop_empty(farm, "backends");
            }
        }
        drop_empty(farms, name);
        drop_empty(self.document.as_table_mut(), "farms");
    }

    /// Takes over what `other` says about the target.
    pub fn copy(&mut self, other: &Overrides, target: &Target) -> Result<(), OperatorError> {
        let own = |(key, _): &(&str, &Item)| target.backend.is_some() || *key != "backends";
        let entries: Vec<(&str, &Item)> =
            other.entries(target).into_iter().flat_map(TableLike::iter).filter(own).collect();
        let table = self.table(target)?;
        for (key, item) in entries {
            table.insert(key, item.clone());
        }
        Ok(())
    }

    /// Every target that this file says something about.
    pub fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let Some(farms) = self.document.get("farms").and_then(Item::as_table_like) else { return targets };
        for (name, farm) in farms.iter() {
            let (Ok(farm_name), Some(farm)) = (FarmName::new(name), farm.as_table_like()) else { continue };
            let backends = farm.get("backends").and_then(Item::as_table_like);
            if farm.iter().any(|(key, _)| key != "backends") {
                targets.push(Target { farm: farm_name.clone(), backend: None });
            }
            for (backend, _) in backends.into_iter().flat_map(TableLike::iter) {
                if let Ok(backend) = BackendName::new(backend) {
                    targets.push(Target { farm: farm_name.clone(), backend: Some(backend) });
                }
            }
        }
        targets
    }

    /// The keys that this file sets for the target, as TOML, one a line: for people.
    pub fn describe(&self, target: &Target) -> Vec<String> {
        let entries = self.entries(target).into_iter().flat_map(TableLike::iter);
        let entry = |(key, value): (&str, &Item)| format!("{key} = {}", value.to_string().trim());
        entries.filter(|(key, _)| target.backend.is_some() || *key != "backends").map(entry).collect()
    }

    /// Whether this file sets `key` of the target.
    pub fn sets(&self, target: &Target, key: &str) -> bool {
        self.entries(target).is_some_and(|table| table.contains_key(key))
    }

    /// Takes out the state and the weight of a backend where they say what it has without this file.
    pub fn drop_same(&mut self, target: &Target, (state, weight): (BackendState, u16)) {
        let Some(table) = self.entries(target) else { return };
        let same_state = table.get("state").and_then(Item::as_str) == Some(state_word(state));
        let same_weight = table.get("weight").and_then(Item::as_integer) == Some(weight.into());
        let same = [("state", same_state), ("weight", same_weight)];
        for (key, _) in same.into_iter().filter(|(_, same)| *same) {
            self.unset(target, &[key]);
        }
    }

    fn entries(&self, target: &Target) -> Option<&dyn TableLike> {
        let farm = self.document.get("farms")?.get(target.farm.as_str())?;
        match &target.backend {
            None => farm.as_table_like(),
            Some(backend) => farm.get("backends")?.get(backend.as_str())?.as_table_like(),
        }
    }

    fn table(&mut self, target: &Target) -> Result<&mut dyn TableLike, OperatorError> {
        let file = self.file;
        let mut path = vec!["farms", target.farm.as_str()];
        path.extend(target.backend.iter().flat_map(|backend| ["backends", backend.as_str()]));
        let mut table: &mut dyn TableLike = self.document.as_table_mut();
        for (depth, key) in path.iter().enumerate() {
            let item = table.entry(key).or_insert_with(|| {
                let mut made = Table::new();
                // `[farms]` alone on a line says nothing; the tables below it carry their whole name.
                made.set_implicit(depth + 1 < path.len());
                Item::Table(made)
            });
            let not_a_table = || OperatorError::NotATable { file, key: path[..=depth].join(".") };
            table = item.as_table_like_mut().ok_or_else(not_a_table)?;
        }
        Ok(table)
    }
}

/// As in the configuration.
pub fn state_word(state: BackendState) -> &'static str {
    match state {
        BackendState::Up => "up",
        BackendState::Drain => "drain",
        BackendState::Down => "down",
    }
}

fn clear(table: &mut dyn TableLike, keys: &[&str]) {
    if keys.is_empty() {
        table.clear();
    }
    for key in keys {
        table.remove(key);
    }
}

fn drop_empty(table: &mut dyn TableLike, key: &str) {
    if table.get(key).and_then(Item::as_table_like).is_some_and(TableLike::is_empty) {
        table.remove(key);
    }
}

fn merge(table: &mut dyn TableLike, key: &str, value: &serde_json::Value) -> Result<(), OperatorError> {
    if let serde_json::Value::Object(values) = value
        && !WHOLE.contains(&key)
    {
        let item = table.entry(key).or_insert_with(|| Item::Value(Value::InlineTable(InlineTable::new())));
        if let Some(inner) = item.as_table_like_mut() {
            return values.iter().try_for_each(|(key, value)| merge(inner, key, value));
        }
    }
    let value = toml_value(key, value)?;
    match table.get_mut(key).and_then(Item::as_value_mut) {
        // The comment behind a value stays.
        Some(old) => {
            let decor = old.decor().clone();
            *old = value;
            *old.decor_mut() = decor;
        }
        None => {
            table.insert(key, Item::Value(value));
        }
    }
    Ok(())
}

fn toml_value(key: &str, value: &serde_json::Value) -> Result<Value, OperatorError> {
    let refused = || OperatorError::Value { key: key.to_owned(), value: value.to_string() };
    Ok(match value {
        serde_json::Value::Null => return Err(refused()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => Value::from(number.as_i64().ok_or_else(refused)?),
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(list) => {
            let values = list.iter().map(|value| toml_value(key, value));
            Value::Array(values.collect::<Result<Array, OperatorError>>()?)
        }
        serde_json::Value::Object(values) => {
            let mut table = InlineTable::new();
            for (key, value) in values {
                table.insert(key, toml_value(key, value)?);
            }
            Value::InlineTable(table)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target(farm: &str, backend: Option<&str>) -> Target {
        Target {
            farm: FarmName::new(farm).unwrap(),
            backend: backend.map(|backend| BackendName::new(backend).unwrap()),
        }
    }

    fn values(value: serde_json::Value) -> Values {
        value.as_object().unwrap().clone()
    }

    fn empty() -> Overrides {
        Overrides::parse(RUNTIME, "").unwrap()
    }

    #[test]
    fn a_backend_gets_a_table_of_its_own() {
        let mut overrides = empty();
        overrides.set(&target("web", Some("b1")), &values(json!({"state": "drain", "weight": 0}))).unwrap();
        assert_eq!(overrides.text(), "[farms.web.backends.b1]\nstate = \"drain\"\nweight = 0\n");
        assert_eq!(overrides.targets(), [target("web", Some("b1"))]);
        assert_eq!(overrides.describe(&target("web", Some("b1"))), ["state = \"drain\"", "weight = 0"]);
        overrides.unset(&target("web", Some("b1")), &["state"]);
        assert_eq!(overrides.text(), "[farms.web.backends.b1]\nweight = 0\n");
        overrides.unset(&target("web", Some("b1")), &[]);
        assert!(overrides.is_empty() && overrides.text().is_empty());
    }

    #[test]
    fn comments_and_order_of_the_file_stay() {
        let text = "# ours\n[farms.web]\nmode = \"snat\" # why\n\n[farms.web.backends.b1]\naddress = \"10.0.0.1:80\"\nweight = 3 # half\n";
        let mut overrides = Overrides::parse(PERSISTENT, text).unwrap();
        overrides.set(&target("web", Some("b1")), &values(json!({"weight": 7}))).unwrap();
        overrides.set(&target("web", None), &values(json!({"mode": "dnat"}))).unwrap();
        assert_eq!(overrides.text(), text.replace("weight = 3", "weight = 7").replace("snat", "dnat"));
    }

    #[test]
    fn what_is_copied_is_what_was_said_of_that_target() {
        let text = "[farms.web]\nmode = \"dnat\"\n[farms.web.backends.b1]\nstate = \"drain\"\n";
        let other = Overrides::parse(RUNTIME, text).unwrap();
        let mut overrides = empty();
        overrides.copy(&other, &target("web", Some("b1"))).unwrap();
        assert_eq!(overrides.text(), "[farms.web.backends.b1]\nstate = \"drain\"\n");
        overrides.copy(&other, &target("web", None)).unwrap();
        assert_eq!(overrides.targets(), other.targets());
        overrides.copy(&other, &target("web", Some("nobody"))).unwrap();
        overrides.copy(&other, &target("nobody", None)).unwrap();
    }

    #[test]
    fn names_with_dots_are_quoted() {
        let mut overrides = empty();
        overrides.set(&target("a.b", None), &values(json!({"listen": ["10.0.0.1:80"], "offload": false}))).unwrap();
        assert_eq!(overrides.text(), "[farms.\"a.b\"]\nlisten = [\"10.0.0.1:80\"]\noffload = false\n");
        assert_eq!(overrides.targets(), [target("a.b", None)]);
    }

    #[test]
    fn tables_merge_but_values_of_tables_do_not() {
        let mut overrides = empty();
        let web = target("web", None);
        overrides.set(&web, &values(json!({"health": {"type": "tcp", "interval": "2s"}}))).unwrap();
        overrides.set(&web, &values(json!({"health": {"interval": "5s"}, "dsr": {"via": "l2"}}))).unwrap();
        overrides.set(&web, &values(json!({"dsr": {"interface": "x"}}))).unwrap();
        assert_eq!(
            overrides.text(),
            "[farms.web]\nhealth = { interval = \"5s\", type = \"tcp\" }\ndsr = { interface = \"x\" }\n"
        );
    }

    #[test]
    fn what_toml_cannot_say_is_refused() {
        for value in [json!(null), json!(1.5), json!([null]), json!({"a": null}), json!(u64::MAX)] {
            let error = empty().set(&target("web", None), &values(json!({"mode": value}))).unwrap_err();
            assert!(matches!(error, OperatorError::Value { .. }), "{error}");
        }
        let mut odd = Overrides::parse(RUNTIME, "farms = 3").unwrap();
        let error = odd.set(&target("web", None), &values(json!({"mode": "snat"}))).unwrap_err();
        assert_eq!(error.to_string(), "run/headgate/runtime.toml: farms is not a table");
        assert!(matches!(Overrides::parse(RUNTIME, "= 3"), Err(OperatorError::Syntax { .. })));
    }

    #[test]
    fn text_of_a_value_cannot_break_out() {
        let mut overrides = empty();
        let hostile = "a\"\n[services.x]\ncommand = [\"/bin/sh\"]\n\u{1b}";
        overrides.set(&target("web", None), &values(json!({"mode": hostile}))).unwrap();
        let parsed: toml::Table = overrides.text().parse().unwrap();
        assert_eq!(parsed["farms"]["web"]["mode"].as_str(), Some(hostile));
        assert_eq!(parsed.len(), 1);
    }
}
