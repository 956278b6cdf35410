//! `headgate farm`.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde_json::{Map, Value};

use headgate_plan::status::{BackendHealth, BackendStatus, FarmHealth, FarmStatus, HealthState, Standing};

use super::args::{Change, FarmCommand, Steps};
use super::paint::{Paint, Tone};
use super::table::Table;
use super::{Answer, CliError, apply, backend_setup, values};
use crate::api::Values;
use crate::client::{Client, segment};

pub(super) fn run(root: &Path, client: &Client, command: FarmCommand) -> Result<Answer, CliError> {
    match command {
        FarmCommand::List(output) => {
            let farms: Vec<FarmStatus> = client.get("/v1/farms")?;
            let render = |farms: &Vec<FarmStatus>| table(farms).shown(Paint::of_output());
            Answer::of(output, &farms, |farms| if farms.is_empty() { "no farms\n".to_owned() } else { render(farms) })
        }
        FarmCommand::Show { name, output } => {
            let farm: FarmStatus = client.get(&format!("/v1/farms/{}", segment(&name.farm)))?;
            Answer::of(output, &farm, render)
        }
        FarmCommand::Add { name, listen, backend, values, change } => {
            let mut values = values::parse(&values)?;
            values.insert("listen".to_owned(), listen.into());
            if !backend.is_empty() {
                values.insert("backends".to_owned(), Value::Object(backends(&backend)?));
            }
            send(client, Method::PUT, &name.farm, change, &values)
        }
        FarmCommand::BackendSetup { name, output } => backend_setup::run(root, &name.farm, output),
        FarmCommand::Remove { name, change } => send(client, Method::DELETE, &name.farm, change, &Values::new()),
        FarmCommand::Set { name, values, change } => {
            send(client, Method::PATCH, &name.farm, change, &values::parse(&values)?)
        }
    }
}

/// One line a farm.
pub(super) fn table(farms: &[FarmStatus]) -> Table {
    let mut table = Table::new(&["FARM", "STATE", ">FOR", "MODE", "BACKENDS", ">FLOWS", ">SINCE", "LISTEN"]);
    for farm in farms {
        let tone = match farm.health {
            FarmHealth::Down => Tone::Bad,
            FarmHealth::Degraded => Tone::Warning,
            FarmHealth::Serving | FarmHealth::Off => Tone::Plain,
        };
        table.row_in(
            tone,
            [
                farm.name.to_string(),
                farm.health.word().to_owned(),
                farm.since_ms.map(span).unwrap_or_default(),
                farm.mode.clone(),
                format!("{}/{}", farm.usable, farm.total),
                farm.flows.to_string(),
                farm.new_flows.to_string(),
                farm.listen.join(" "),
            ],
        );
    }
    table
}

fn render(farm: &FarmStatus) -> String {
    let mut text = table(std::slice::from_ref(farm)).to_string();
    for address in &farm.unplaced {
        text += &format!("no interface has {address}\n");
    }
    let mut table =
        Table::new(&["BACKEND", "STATE", "ADDRESS", ">WEIGHT", ">PRIORITY", ">FLOWS", ">SINCE", ">PACKETS", ">BYTES"]);
    for backend in &farm.backends {
        table.row([
            backend.name.to_string(),
            backend.standing.word().to_owned(),
            backend.address.clone(),
            backend.weight.to_string(),
            backend.priority.to_string(),
            backend.flows.to_string(),
            backend.new_flows.to_string(),
            backend.traffic.map(|traffic| traffic.packets.to_string()).unwrap_or_default(),
            backend.traffic.map(|traffic| traffic.bytes.to_string()).unwrap_or_default(),
        ]);
    }
    if !farm.backends.is_empty() {
        text += &format!("\n{table}");
    }
    let checks = checks(&farm.backends);
    if !checks.is_empty() {
        text += &format!("\n{checks}");
    }
    if !farm.refused.is_empty() {
        let mut table = Table::new(&["REFUSED BY", ">PACKETS"]);
        farm.refused.iter().for_each(|(reason, count)| table.row([reason.clone(), count.to_string()]));
        text += &format!("\n{table}");
    }
    text
}

/// What the checks say of each backend that has one.
fn checks(backends: &[BackendStatus]) -> Table {
    let mut table = Table::new(&["BACKEND", "HEALTH", ">FOR", ">PROBES", ">FAILED", ">TOOK", ">NEXT", "LAST ERROR"]);
    for (backend, health) in backends.iter().filter_map(|backend| Some((backend, backend.health.as_ref()?))) {
        table.row([
            backend.name.to_string(),
            condition(health),
            health.since_ms.map(span).unwrap_or_default(),
            health.probes.to_string(),
            health.failures.to_string(),
            health.latency_us.map(|latency| format!("{:.1} ms", latency as f64 / 1000.0)).unwrap_or_default(),
            health.next_ms.map(|next| format!("{:.1} s", next as f64 / 1000.0)).unwrap_or_default(),
            health.error.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// The state, and how near it is to another one.
fn condition(health: &BackendHealth) -> String {
    match health.state {
        HealthState::Down if health.passes => format!("down, {} of {} passed", health.streak, health.rise),
        HealthState::Down => "down".to_owned(),
        HealthState::Suspected => "suspected".to_owned(),
        HealthState::Unknown => "unknown".to_owned(),
        HealthState::Up if !health.passes => format!("up, {} failed", health.streak),
        HealthState::Up => "up".to_owned(),
    }
}

/// Whole seconds are enough for people.
pub(super) fn span(milliseconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(milliseconds / 1000)).to_string()
}

/// Why a backend takes no flows.
pub(super) fn why_not(backend: &BackendStatus) -> String {
    let standing = backend.standing.word();
    match (&backend.health, backend.standing) {
        (Some(health), Standing::Unhealthy) => {
            let since = health.since_ms.map(|since| format!(" for {}", span(since))).unwrap_or_default();
            let error = health.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            format!("{standing}{since}{error}")
        }
        _ => standing.to_owned(),
    }
}

/// `[NAME=]ADDR[:PORT]`. No address contains `=`.
fn backends(arguments: &[String]) -> Result<Values, CliError> {
    let mut backends = Map::new();
    for (index, argument) in arguments.iter().enumerate() {
        let (name, address) = match argument.split_once('=') {
            Some((name, address)) => (name.to_owned(), address),
            None => (format!("b{}", index + 1), argument.as_str()),
        };
        let backend = Map::from_iter([("address".to_owned(), Value::String(address.to_owned()))]);
        if backends.insert(name.clone(), Value::Object(backend)).is_some() {
            return Err(CliError::Usage(format!("backend {name} is given twice")));
        }
    }
    Ok(backends)
}

fn send(client: &Client, method: Method, farm: &str, change: Change, values: &Values) -> Result<Answer, CliError> {
    let path = format!("/v1/farms/{}", segment(farm));
    let steps = Steps { all: false, output: change.output };
    apply::change(client, method, &apply::target(&path, change), values, steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn backends_without_a_name_are_numbered() {
        let arguments = ["10.0.0.1:80", "x=10.0.0.2", "[2001:db8::1]:80"].map(str::to_owned);
        let expected = json!({
            "b1": {"address": "10.0.0.1:80"}, "x": {"address": "10.0.0.2"}, "b3": {"address": "[2001:db8::1]:80"},
        });
        assert_eq!(Value::Object(backends(&arguments).unwrap()), expected);
        assert!(backends(&["a=1.1.1.1".into(), "a=1.1.1.2".into()]).is_err());
    }
}
