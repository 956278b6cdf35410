//! The table of keys as a JSON Schema (draft 2020-12), for editors.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::reference::form_text;
use super::{Form, Key, Kind, PROFILE, Preset, ROOT};

/// `docs/headgate.schema.json`, as a value that serializes.
pub fn json_schema() -> impl Serialize {
    document("Headgate configuration", ROOT)
}

/// `docs/hwprofile.schema.json`, for the files of `hwprofiles/`.
pub fn profile_json_schema() -> impl Serialize {
    document("Headgate hardware profile", PROFILE)
}

fn document(title: &str, keys: &'static [Key]) -> Json {
    Json::Object(vec![
        ("$schema", text("https://json-schema.org/draft/2020-12/schema")),
        ("title", text(title)),
        ("type", text("object")),
        ("properties", properties(keys)),
        ("additionalProperties", Json::Boolean(false)),
    ])
}

/// Just as much of JSON as a schema needs, in the order of writing.
enum Json {
    Boolean(bool),
    Integer(i64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Boolean(value) => serializer.serialize_bool(*value),
            Json::Integer(number) => serializer.serialize_i64(*number),
            Json::Text(text) => serializer.serialize_str(text),
            Json::List(items) => serializer.collect_seq(items),
            Json::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                entries.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
        }
    }
}

fn text(text: impl Into<String>) -> Json {
    Json::Text(text.into())
}

fn properties(keys: &'static [Key]) -> Json {
    Json::Object(keys.iter().map(|key| (key.name, property(key))).collect())
}

fn property(key: &'static Key) -> Json {
    let mut entries = kind(&key.kind);
    entries.push(("description", text(key.doc)));
    match key.preset {
        Preset::Boolean(value) => entries.push(("default", Json::Boolean(value))),
        Preset::Integer(number) => entries.push(("default", Json::Integer(number))),
        Preset::Text(value) => entries.push(("default", text(value))),
        Preset::List(values) => {
            entries.push(("default", Json::List(values.iter().map(|&value| text(value)).collect())))
        }
        Preset::None | Preset::Told(_) => {}
    }
    Json::Object(entries)
}

const NAME: &str = "^[A-Za-z0-9_.-]{1,63}$";

fn kind(kind_of: &'static Kind) -> Vec<(&'static str, Json)> {
    match kind_of {
        Kind::Boolean => vec![("type", text("boolean"))],
        &Kind::Integer(i64::MIN, i64::MAX) => vec![("type", text("integer"))],
        &Kind::Integer(min, max) => {
            vec![("type", text("integer")), ("minimum", Json::Integer(min)), ("maximum", Json::Integer(max))]
        }
        Kind::Word(words) => vec![("enum", Json::List(words().into_iter().map(text).collect()))],
        Kind::Text(form) => form_of(*form),
        Kind::List(inner) => vec![("type", text("array")), ("items", Json::Object(kind(inner)))],
        Kind::OneOrMore(inner) => {
            let list =
                vec![("type", text("array")), ("items", Json::Object(kind(inner))), ("minItems", Json::Integer(1))];
            vec![("oneOf", Json::List(vec![Json::Object(kind(inner)), Json::Object(list)]))]
        }
        Kind::Either(kinds) => {
            vec![("oneOf", Json::List(kinds.iter().map(|inner| Json::Object(kind(inner))).collect()))]
        }
        Kind::Table(_, keys) => object(table(keys)),
        Kind::Named(_, keys) => {
            let entry = Json::Object(object(table(keys)));
            object(vec![
                ("propertyNames", Json::Object(vec![("pattern", text(NAME))])),
                ("additionalProperties", entry),
            ])
        }
        Kind::Map(_, _, inner) => object(vec![("additionalProperties", Json::Object(kind(inner)))]),
        Kind::Tables(keys) => vec![("type", text("array")), ("items", Json::Object(object(table(keys))))],
    }
}

type Entry = (&'static str, Json);

fn object(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.insert(0, ("type", text("object")));
    entries
}

fn table(keys: &'static [Key]) -> Vec<Entry> {
    vec![("properties", properties(keys)), ("additionalProperties", Json::Boolean(false))]
}

fn form_of(form: Form) -> Vec<Entry> {
    let pattern = match form {
        Form::Duration(..) => "^[0-9]+(ms|s|m|h)$",
        Form::Rate => "^[0-9]+/(second|minute|hour|day)( burst [0-9]+)?$",
        Form::Name | Form::Interface => NAME,
        Form::Status => "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$",
        Form::Listen => "^.+:([0-9]+(-[0-9]+)?|\\*)(/(tcp|udp|sctp|any))?$",
        Form::Any | Form::Line => return vec![("type", text("string"))],
        _ => return vec![("type", text("string")), ("title", text(form_text(form).replace('`', "")))],
    };
    vec![("type", text("string")), ("pattern", text(pattern))]
}
