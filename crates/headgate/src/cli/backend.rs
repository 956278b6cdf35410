//! `headgate backend`.

use hyper::Method;
use serde_json::{Value, json};

use super::args::{BackendChange, BackendCommand, BackendName, Change, Steps};
use super::{Answer, CliError, apply, values};
use crate::api::Values;
use crate::client::{Client, segment};

pub(super) fn run(client: &Client, command: BackendCommand) -> Result<Answer, CliError> {
    let state = |call: BackendChange, state: &str| set(client, &call.name, call.change, json!({ "state": state }));
    match command {
        BackendCommand::Add { name, address, values, change } => {
            let mut values = values::parse(&values)?;
            values.insert("address".to_owned(), Value::String(address));
            send(client, Method::PUT, &name, change, &values)
        }
        BackendCommand::Remove(call) => send(client, Method::DELETE, &call.name, call.change, &Values::new()),
        BackendCommand::Drain(call) => state(call, "drain"),
        BackendCommand::Up(call) => state(call, "up"),
        BackendCommand::Down(call) => state(call, "down"),
        BackendCommand::Weight { name, weight, change } => set(client, &name, change, json!({ "weight": weight })),
    }
}

fn set(client: &Client, name: &BackendName, change: Change, values: Value) -> Result<Answer, CliError> {
    let values = values.as_object().cloned().unwrap_or_default();
    send(client, Method::PATCH, name, change, &values)
}

fn send(
    client: &Client,
    method: Method,
    name: &BackendName,
    change: Change,
    values: &Values,
) -> Result<Answer, CliError> {
    let path = format!("/v1/farms/{}/backends/{}", segment(&name.farm), segment(&name.backend));
    let steps = Steps { all: false, output: change.output };
    apply::change(client, method, &apply::target(&path, change), values, steps)
}
