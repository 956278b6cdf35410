//! Requests as bytes, and those that a fuzzer makes of the daemon's own document.

use serde_json::{Value, json};

pub fn message(method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Vec<u8> {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{token}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The next number of a sequence that is always the same.
fn random(state: &mut u64) -> u64 {
    // splitmix64.
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const STRINGS: [&str; 12] =
    ["web", "b1", "", "..", "%00", "a/b", "running", "files", "1", "-1", "18446744073709551616", "\u{1b}[2J\u{202e}ü"];

const DROP_INS: [&str; 6] = [
    "",
    "farms = 1",
    "[farms.web]\non-empty = \"drop\"\n",
    "[farms.web]\nmode = \"x\"\n",
    "[[",
    "a = \"\u{1b}[2J\u{202e}\"\n",
];

/// A value that is, mostly, none that the schema allows.
fn value(state: &mut u64, depth: u32) -> Value {
    match random(state) % if depth > 3 { 6 } else { 8 } {
        0 => Value::Null,
        1 => json!(random(state).is_multiple_of(2)),
        2 => json!(random(state) % 70_000),
        3 => json!(-1.5),
        4 => json!(u64::MAX),
        5 => json!(STRINGS[random(state) as usize % STRINGS.len()]),
        6 => Value::Array((0..random(state) % 4).map(|_| value(state, depth + 1)).collect()),
        _ => {
            let keys =
                ["state", "weight", "listen", "backends", "health", "to", "name", "scope", "confirm-seconds", "é\n"];
            let entry =
                |state: &mut u64| (keys[random(state) as usize % keys.len()].to_owned(), value(state, depth + 1));
            Value::Object((0..random(state) % 4).map(|_| entry(state)).collect())
        }
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Requests of one operation, from right to absurd.
pub fn requests(path: &str, method: &str, operation: &Value, state: &mut u64) -> Vec<Vec<u8>> {
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let rounds = if path == "/v1/hardware" { 2 } else { 12 };
    let request = |_| {
        let mut target = path.to_owned();
        let mut query = Vec::new();
        for parameter in &parameters {
            let name = parameter["name"].as_str().expect("a name");
            let text = STRINGS[random(state) as usize % STRINGS.len()];
            match parameter["in"].as_str() {
                Some("path") => target = target.replace(&format!("{{{name}}}"), &escaped(text)),
                _ if !random(state).is_multiple_of(4) => query.push(format!("{name}={}", escaped(text))),
                _ => {}
            }
        }
        if random(state).is_multiple_of(8) {
            query.push("unknown=1".to_owned());
        }
        if !query.is_empty() {
            target += &format!("?{}", query.join("&"));
        }
        let mut body = match operation.get("requestBody") {
            Some(body) if body["content"].get("application/toml").is_some() => {
                DROP_INS[random(state) as usize % DROP_INS.len()].as_bytes().to_vec()
            }
            Some(_) => serde_json::to_vec(&value(state, 0)).expect("JSON"),
            None => Vec::new(),
        };
        match random(state) % 8 {
            0 => body.truncate(body.len() / 2),
            1 => body.extend([0xff, 0xfe, 0]),
            2 => body = format!("{}1", "[".repeat(2000)).into_bytes(),
            _ => {}
        }
        message(&method.to_uppercase(), &target, None, &body)
    };
    (0..rounds).map(request).collect()
}

/// Types and required properties, one level deep: what the document promises.
pub fn answers_as_told(document: &Value, operation: &Value, body: &str) -> Result<(), String> {
    let content = operation["responses"]["200"]["content"].as_object().ok_or("no content")?;
    let Some(schema) = content.get("application/json").map(|media| &media["schema"]) else { return Ok(()) };
    let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let resolve = |schema: &Value| {
        let name = schema["$ref"].as_str()?.rsplit('/').next()?;
        document["components"]["schemas"].get(name).cloned()
    };
    let one = |schema: &Value, value: &Value| {
        let schema = resolve(schema).ok_or("a schema that is not there")?;
        let object = value.as_object().ok_or("no object")?;
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            object.get(required).ok_or(format!("{required} is missing"))?;
        }
        for (name, value) in object {
            let kind = match value {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(_) => "integer",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            let told = &schema["properties"][name]["type"];
            let fits =
                told.is_null() || told == kind || told.as_array().is_some_and(|told| told.contains(&json!(kind)));
            if !fits {
                return Err(format!("{name} is {kind}, not {told}"));
            }
        }
        Ok(())
    };
    match schema["type"] == "array" {
        true => body.as_array().ok_or("no list")?.iter().try_for_each(|value| one(&schema["items"], value)),
        false => one(schema, &body),
    }
}
