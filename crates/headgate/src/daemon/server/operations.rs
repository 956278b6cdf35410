//! Every operation of the API, once: the router, the scopes and the OpenAPI document are made from this table.

use axum::routing::{MethodRouter, delete, get, patch, post, put};
use serde_json::{Map, Value, json};

use super::{Api, handlers};
use crate::api::{BODY_MAX, Scope};
use crate::daemon::engine::WINDOW_MAX;

/// Something that can be asked for.
pub(super) struct Operation {
    /// Lower case, as OpenAPI wants it.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// What it needs at least; a handler may ask for more once it has read the body.
    pub(super) scope: Scope,
    summary: &'static str,
    query: &'static [Parameter],
    body: Body,
    answer: Answer,
    pub(super) route: fn() -> MethodRouter<Api>,
}

/// A parameter of the query.
#[derive(Clone, Copy)]
struct Parameter {
    name: &'static str,
    need: Need,
    schema: fn() -> Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

/// What is sent along.
#[derive(Clone, Copy)]
enum Body {
    None,
    /// JSON of this schema.
    Json(&'static str),
    /// A file of the configuration.
    Toml,
}

/// What comes back with 200.
#[derive(Clone, Copy)]
enum Answer {
    /// JSON of this schema.
    One(&'static str),
    /// A list of it.
    List(&'static str),
    /// Something that is not JSON, of this type.
    Text(&'static str),
}

const PERSIST: &[Parameter] =
    &[Parameter { name: "persist", need: Need::Optional, schema: || json!({"type": "boolean"}) }];
const FLOWS: &[Parameter] = &[
    Parameter { name: "farm", need: Need::Optional, schema: || json!({"type": "string"}) },
    Parameter { name: "backend", need: Need::Optional, schema: || json!({"type": "string"}) },
    Parameter { name: "limit", need: Need::Optional, schema: || json!({"type": "integer", "minimum": 0}) },
];
const CONFIRM: &[Parameter] = &[Parameter { name: "confirm-seconds", need: Need::Optional, schema: window }];
const SIDES: &[Parameter] = &[
    Parameter { name: "from", need: Need::Required, schema: side },
    Parameter { name: "to", need: Need::Required, schema: side },
];

fn side() -> Value {
    json!({"type": "string", "pattern": "^(running|files|[0-9]{1,19})$"})
}

/// For so long something is on trial, seconds.
fn window() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": WINDOW_MAX.as_secs()})
}

/// The type of a file of the configuration.
pub(super) const TOML: &str = "application/toml";

const FARM: &str = "/v1/farms/{farm}";
const BACKEND: &str = "/v1/farms/{farm}/backends/{backend}";
const CLIENTS: &str = "/v1/farms/{farm}/clients";
const DROP_IN: &str = "/v1/drop-ins/{drop-in}";

const fn read(
    path: &'static str,
    summary: &'static str,
    answer: Answer,
    route: fn() -> MethodRouter<Api>,
) -> Operation {
    Operation { method: "get", path, scope: Scope::Read, summary, query: &[], body: Body::None, answer, route }
}

const fn change(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    route: fn() -> MethodRouter<Api>,
) -> Operation {
    let answer = Answer::One("Applied");
    Operation { method, path, scope: Scope::Configure, summary, query: &[], body: Body::None, answer, route }
}

/// All of them.
pub(super) static OPERATIONS: &[Operation] = &[
    read("/v1/status", "How everything is, worst first, read from the kernel now", Answer::One("Status"), || {
        get(handlers::status)
    }),
    read("/v1/farms", "The farms of the status", Answer::List("Farm"), || get(handlers::farms)),
    read(FARM, "One farm", Answer::One("Farm"), || get(handlers::farm_get)),
    Operation {
        query: PERSIST,
        body: Body::Json("Values"),
        ..change("put", FARM, "Makes a farm", || put(handlers::add))
    },
    Operation {
        scope: Scope::Operate,
        query: PERSIST,
        body: Body::Json("Values"),
        ..change("patch", FARM, "Sets keys of a farm; all but state needs the scope configure", || patch(handlers::set))
    },
    Operation { query: PERSIST, ..change("delete", FARM, "Removes a farm", || delete(handlers::remove)) },
    read(CLIENTS, "The clients that persistence remembers", Answer::One("Clients"), || get(handlers::clients)),
    Operation {
        scope: Scope::Operate,
        answer: Answer::One("Forgotten"),
        ..change("delete", CLIENTS, "Forgets them", || delete(handlers::forget))
    },
    Operation {
        query: PERSIST,
        body: Body::Json("Values"),
        ..change("put", BACKEND, "Makes a backend", || put(handlers::add))
    },
    Operation {
        scope: Scope::Operate,
        query: PERSIST,
        body: Body::Json("Values"),
        ..change("patch", BACKEND, "Sets keys of a backend; all but state and weight needs the scope configure", || {
            patch(handlers::set)
        })
    },
    Operation { query: PERSIST, ..change("delete", BACKEND, "Removes a backend", || delete(handlers::remove)) },
    Operation {
        body: Body::Json("Apply"),
        ..change("post", "/v1/apply", "Loads the files and makes the kernel follow them", || post(handlers::apply))
    },
    read("/v1/drop-ins", "The files of the configuration and what became of each", Answer::List("File"), || {
        get(handlers::drop_ins)
    }),
    Operation {
        // It shows values of all tables, services among them.
        scope: Scope::Configure,
        ..read(DROP_IN, "The text of a drop-in in /etc/headgate/conf.d", Answer::Text(TOML), || get(handlers::drop_in))
    },
    Operation {
        query: CONFIRM,
        body: Body::Toml,
        ..change(
            "put",
            DROP_IN,
            "Puts a drop-in in its place and loads the files; programs, sysctls and keys for ssh need the scope root",
            || put(handlers::drop_in_put),
        )
    },
    Operation {
        query: CONFIRM,
        ..change("delete", DROP_IN, "Removes a drop-in and loads the files", || delete(handlers::drop_in_remove))
    },
    Operation {
        answer: Answer::One("Confirmed"),
        ..change("post", "/v1/confirm", "Keeps what is on trial", || post(handlers::confirm))
    },
    Operation {
        body: Body::Json("Rollback"),
        ..change("post", "/v1/rollback", "Goes back to an earlier generation", || post(handlers::rollback))
    },
    read("/v1/plan", "What apply would do", Answer::One("Planned"), || get(handlers::plan)),
    read("/v1/history", "The generations that can be gone back to, oldest first", Answer::List("Generation"), || {
        get(handlers::history)
    }),
    Operation {
        // It shows values of all tables, services among them.
        scope: Scope::Configure,
        query: SIDES,
        ..read("/v1/diff", "What two configurations have otherwise", Answer::List("Difference"), || get(handlers::diff))
    },
    Operation {
        query: FLOWS,
        ..read("/v1/connections", "Flows", Answer::One("Connections"), || get(handlers::connections))
    },
    Operation {
        scope: Scope::Operate,
        query: FLOWS,
        answer: Answer::One("Flushed"),
        ..change("delete", "/v1/connections", "Cuts flows", || delete(handlers::flush))
    },
    read(
        "/v1/load",
        "How busy each CPU is, and counters of its packets and of the interrupts of NICs",
        Answer::One("Load"),
        || get(handlers::load),
    ),
    read("/v1/hardware", "Topology, queues and knobs", Answer::One("Hardware"), || get(handlers::hardware)),
    change("post", "/v1/hardware/apply", "Turns every knob that is not as wanted", || post(handlers::tune)),
    change("post", "/v1/hardware/restore", "Gives knobs back what they had; what forwarding needs stays", || {
        post(handlers::restore)
    }),
    read("/v1/self", "Who asks, how far they reach, and which box answers", Answer::One("Introduction"), || {
        get(handlers::introduce)
    }),
    read("/v1/events", "Changes of state as they happen", Answer::Text("text/event-stream"), || get(handlers::events)),
    Operation {
        scope: Scope::Root,
        ..read("/v1/tokens", "The tokens, without what lets anybody in", Answer::List("Token"), || {
            get(handlers::tokens)
        })
    },
    Operation {
        scope: Scope::Root,
        body: Body::Json("TokenWanted"),
        answer: Answer::One("NewToken"),
        ..change("post", "/v1/tokens", "Makes a token; it is shown this once", || post(handlers::token_add))
    },
    Operation {
        scope: Scope::Root,
        answer: Answer::One("Removed"),
        ..change("delete", "/v1/tokens/{token}", "Removes a token", || delete(handlers::token_remove))
    },
    read("/metrics", "Figures in OpenMetrics", Answer::Text("application/openmetrics-text"), || get(handlers::metrics)),
    read("/openapi.json", "This document", Answer::One("Document"), || get(handlers::openapi)),
];

/// The OpenAPI 3.1 document.
pub(super) fn openapi() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.describe();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Headgate",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
            "description": "One request per connection. Bodies and answers are JSON; every answer that is not 2xx is an Error.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(),
        },
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

impl Operation {
    fn describe(&self) -> Value {
        let segments = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let in_path = segments.map(|name| {
            let schema = json!({"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,63}$"});
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        });
        let in_query = self.query.iter().map(|parameter| {
            let required = parameter.need == Need::Required;
            json!({"name": parameter.name, "in": "query", "required": required, "schema": (parameter.schema)()})
        });
        let (media, schema) = match self.answer {
            Answer::One(schema) => ("application/json", reference(schema)),
            Answer::List(schema) => ("application/json", json!({"type": "array", "items": reference(schema)})),
            Answer::Text(media) => (media, json!({"type": "string"})),
        };
        let error = json!({"description": "Why not", "content": {"application/json": {"schema": reference("Error")}}});
        let mut described = json!({
            "summary": self.summary,
            "x-scope": self.scope.word(),
            "parameters": in_path.chain(in_query).collect::<Vec<Value>>(),
            "responses": {
                "200": {"description": "Done", "content": {media: {"schema": schema}}},
                "default": error,
            },
        });
        let content = match self.body {
            Body::None => return described,
            Body::Json(schema) => json!({"application/json": {"schema": reference(schema)}}),
            Body::Toml => json!({TOML: {"schema": {"type": "string"}}}),
        };
        described["requestBody"] = json!({"content": content, "x-bytes-max": BODY_MAX});
        described
    }
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties})
}

fn schemas() -> Value {
    let number = || json!({"type": "integer", "minimum": 0});
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "array", "items": {"type": "string"}});
    let objects = || json!({"type": "array", "items": {"type": "object"}});
    let maybe = || json!({"type": ["integer", "null"], "minimum": 0});
    let scopes: Vec<&str> = Scope::ALL.iter().map(|scope| scope.word()).collect();
    let scope = || json!({"type": "string", "enum": scopes});
    let closed = |mut schema: Value| {
        schema["additionalProperties"] = Value::Bool(false);
        schema
    };
    let requests = json!({
        "Values": {"type": "object", "description": "Keys and values as in the configuration"},
        "Apply": closed(object(&[], json!({"confirm-seconds": window()}))),
        "Rollback": closed(object(&[], json!({"to": number(), "confirm-seconds": window()}))),
        "TokenWanted": closed(object(&["name", "scope"], json!({
            "name": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,63}$"},
            "scope": scope(),
        }))),
    });
    let answers = json!({
        "Status": object(&["healthy", "faults", "farms", "services", "warnings"], json!({
            "healthy": {"type": "boolean"}, "faults": objects(), "farms": objects(), "services": objects(),
            "warnings": texts(), "fence": {"type": "object"},
        })),
        "File": object(&["path", "layer", "fate"], json!({"path": text(), "layer": text()})),
        "Farm": object(&["name", "health", "mode", "backends"], json!({
            "name": text(), "health": text(), "mode": text(), "backends": objects(),
        })),
        "Applied": object(&["generation", "steps"], json!({
            "generation": maybe(), "steps": objects(), "stored": {"type": "boolean"}, "warnings": texts(),
            "trial": {"type": "object"},
        })),
        "Confirmed": object(&["generation"], json!({"generation": maybe()})),
        "Planned": object(&["steps"], json!({"steps": objects(), "warnings": texts()})),
        "Generation": object(&["number", "time", "hash", "reason", "files"], json!({
            "number": number(), "time": number(), "hash": text(), "reason": text(), "files": texts(),
            "author": text(), "changes": texts(),
        })),
        "Difference": object(&["path"], json!({"path": texts(), "from": text(), "to": text()})),
        "Connections": object(&["flows", "more"], json!({"flows": objects(), "more": {"type": "boolean"}})),
        "Clients": object(&["key", "clients", "more"], json!({
            "key": texts(), "clients": objects(), "more": {"type": "boolean"},
        })),
        "Forgotten": object(&["clients"], json!({"clients": number()})),
        "Flushed": object(&["flows"], json!({"flows": number()})),
        "Load": object(&["cpus", "vectors"], json!({"cpus": objects(), "vectors": objects()})),
        "Introduction": object(&["name", "scope", "host", "version"], json!({
            "name": text(), "scope": scope(), "host": text(), "version": text(),
        })),
        "Hardware": {"type": "object"},
        "Token": object(&["name", "scope", "made"], json!({"name": text(), "scope": scope(), "made": number()})),
        "NewToken": object(&["name", "scope", "token"], json!({"name": text(), "scope": scope(), "token": text()})),
        "Removed": object(&["name"], json!({"name": text()})),
        "Document": {"type": "object"},
        "Error": object(&["error"], json!({"error": object(&["code", "message"], json!({
            "code": text(), "message": text(), "details": texts(), "steps": objects(),
        }))})),
    });
    let mut schemas = requests.as_object().cloned().unwrap_or_default();
    schemas.extend(answers.as_object().cloned().unwrap_or_default());
    Value::Object(schemas)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_the_document_refers_to_is_in_it_and_nothing_else_is() {
        let document = openapi();
        let text = document.to_string();
        let used: BTreeSet<&str> =
            text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let schemas = document["components"]["schemas"].as_object().expect("an object");
        assert_eq!(used, schemas.keys().map(String::as_str).collect());
        let operations: usize =
            document["paths"].as_object().expect("an object").values().filter_map(Value::as_object).map(Map::len).sum();
        assert_eq!(operations, OPERATIONS.len(), "two operations of one path and method");
    }

    /// A page that leaves out an operation is of no use to who looks for it there.
    #[test]
    fn the_page_for_people_has_every_operation() {
        let page = include_str!("../../../../../docs/api.md");
        for operation in OPERATIONS {
            let path = operation
                .path
                .replace("{farm}", "F")
                .replace("{backend}", "B")
                .replace("{token}", "NAME")
                .replace("{drop-in}", "NAME");
            let told = format!("`{} {path}", operation.method.to_uppercase());
            assert!(page.contains(&told), "docs/api.md has no {told}");
        }
    }
}
