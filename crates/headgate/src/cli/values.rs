//! `KEY=VALUE` arguments.

use serde_json::{Map, Value};

use super::CliError;
use crate::api::Values;

/// Keys and values as the API takes them. A value that reads as TOML (`5`, `true`, `["a", "b"]`) is that, anything else is
/// a text, so that nobody has to quote quotes for a shell. A dotted key is a key of a table.
pub(super) fn parse(arguments: &[String]) -> Result<Values, CliError> {
    let mut values = Map::new();
    for argument in arguments {
        let (key, text) = argument
            .split_once('=')
            .ok_or_else(|| CliError::Usage(format!("{argument:?} is not KEY=VALUE, for example weight=5")))?;
        insert(&mut values, key, value(text), argument)?;
    }
    Ok(values)
}

fn insert(values: &mut Values, key: &str, value: Value, argument: &str) -> Result<(), CliError> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    if first.is_empty() {
        return Err(CliError::Usage(format!("{argument:?} has no key before the =")));
    }
    match rest {
        None if values.contains_key(first) => Err(CliError::Usage(format!("{first} is given twice"))),
        None => {
            values.insert(first.to_owned(), value);
            Ok(())
        }
        Some(rest) => match values.entry(first).or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(table) => insert(table, rest, value, argument),
            _ => Err(CliError::Usage(format!("{first} is given twice"))),
        },
    }
}

fn value(text: &str) -> Value {
    let parsed = text.parse::<toml::Value>().ok().and_then(json);
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// `None` for what no key of the configuration takes (a date, a fraction): it stays a text, and the loader says what is
/// wrong with it.
fn json(value: toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Boolean(value) => Value::Bool(value),
        toml::Value::Array(list) => Value::Array(list.into_iter().map(json).collect::<Option<_>>()?),
        toml::Value::Table(table) => {
            let pair = |(key, value)| Some((key, json(value)?));
            Value::Object(table.into_iter().map(pair).collect::<Option<_>>()?)
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(arguments: &[&str]) -> Result<Values, String> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        parse(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_what_they_look_like() {
        let values = parsed(&[
            "weight=5",
            "offload=true",
            "mode=snat",
            "listen=[\"10.0.0.1:80\", \"10.0.0.1:81\"]",
            "address=10.0.0.1:80",
            "mark=0x10",
            "helper=",
            "dsr={ via = \"l2\" }",
            "health.interval=2s",
            "health.rise=3",
            "quoted=\"5\"",
            "odd=1.5",
            "equals=a=b",
        ]);
        let expected = json!({
            "weight": 5, "offload": true, "mode": "snat", "listen": ["10.0.0.1:80", "10.0.0.1:81"],
            "address": "10.0.0.1:80", "mark": 16, "helper": "", "dsr": {"via": "l2"},
            "health": {"interval": "2s", "rise": 3}, "quoted": "5", "odd": "1.5", "equals": "a=b",
        });
        assert_eq!(Value::Object(values.unwrap()), expected);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        assert_eq!(parsed(&["weight"]).unwrap_err(), "\"weight\" is not KEY=VALUE, for example weight=5");
        assert_eq!(parsed(&["=5"]).unwrap_err(), "\"=5\" has no key before the =");
        assert_eq!(parsed(&["a=1", "a=2"]).unwrap_err(), "a is given twice");
        assert_eq!(parsed(&["a=1", "a.b=2"]).unwrap_err(), "a is given twice");
    }
}
