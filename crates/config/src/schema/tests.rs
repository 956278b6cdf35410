use std::path::PathBuf;

use super::*;
use crate::diagnostic::Collector;
use crate::tree::{Node, Span, Value};

fn committed(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is not what the table of keys prints: run the test with BLESS=1", path.display());
}

#[test]
fn the_reference_page_is_the_table_of_keys() {
    committed("configuration.md", &reference());
}

#[test]
fn the_json_schema_is_the_table_of_keys() {
    let mut text = serde_json::to_string_pretty(&json_schema()).unwrap();
    text.push('\n');
    committed("headgate.schema.json", &text);
}

#[test]
fn the_json_schema_of_profiles_is_the_table_of_keys() {
    let mut text = serde_json::to_string_pretty(&profile_json_schema()).unwrap();
    text.push('\n');
    committed("hwprofile.schema.json", &text);
}

/// Visits every key below `keys`.
fn every(keys: &'static [Key], visit: &mut impl FnMut(&'static Key)) {
    for key in keys {
        visit(key);
        every(keys_of(&key.kind), visit);
    }
}

#[test]
fn keys_are_kebab_case_unique_and_told() {
    let mut tables = vec![ROOT, PROFILE];
    while let Some(keys) = tables.pop() {
        let mut names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), keys.len());
        for key in keys {
            assert!(key.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", key.name);
            assert!(key.doc.ends_with('.'), "{}: {:?}", key.name, key.doc);
            tables.push(keys_of(&key.kind));
        }
    }
}

#[test]
fn every_default_is_a_value_of_its_key() {
    let mut presets = 0;
    for keys in [ROOT, PROFILE] {
        every(keys, &mut |key| {
            let text = |text: &str| Value::Text(text.into());
            let node = |value| Node { value, span: Span::default() };
            let value = match key.preset {
                Preset::None | Preset::Told(_) => return,
                Preset::Boolean(value) => Value::Boolean(value),
                Preset::Integer(number) => Value::Integer(number),
                Preset::Text(word) => text(word),
                Preset::List(words) => Value::Array(words.iter().map(|word| node(text(word))).collect()),
            };
            let mut problems = Collector::default();
            walk::value(&node(value), &key.kind, key.name, &mut problems);
            assert!(!problems.has_errors(), "{}", key.name);
            presets += 1;
        });
    }
    assert!(presets > 60, "{presets}");
}

#[test]
fn slips_of_the_finger_are_recognised() {
    let keys = ["listen", "backends", "weight", "on-empty", "source-address", "id", "to"];
    let close = |word| closest(word, keys.into_iter());
    assert_eq!(close("wieght"), Some("weight"));
    assert_eq!(close("Weight"), Some("weight"));
    assert_eq!(close("on_empty"), Some("on-empty"));
    assert_eq!(close("sourceaddress"), Some("source-address"));
    assert_eq!(close("backend"), Some("backends"));
    assert_eq!(close("nonsense"), None);
    assert_eq!(close("x"), None);
    assert_eq!(close(""), None);
    assert_eq!(close(&"weight".repeat(1000)), None);
}
