//! `headgate connections`.

use hyper::Method;

use super::args;
use super::table::Table;
use super::{Answer, CliError};
use crate::api::{Connections, Flow, Flushed};
use crate::client::{Client, segment};

pub(super) fn run(client: &Client, command: &args::Connections) -> Result<Answer, CliError> {
    let mut query = vec![format!("limit={}", command.limit)];
    query.extend(command.farm.iter().map(|farm| format!("farm={}", segment(farm))));
    query.extend(command.backend.iter().map(|backend| format!("backend={}", segment(backend))));
    let target = format!("/v1/connections?{}", query.join("&"));
    if command.flush {
        let flushed: Flushed = client.call(Method::DELETE, &target, &())?;
        return Answer::of(command.output, &flushed, |flushed| format!("{} flows cut\n", flushed.flows));
    }
    let connections: Connections = client.get(&target)?;
    Answer::of(command.output, &connections, render)
}

/// The kernel stops to follow the state of what it has offloaded.
fn state(flow: &Flow) -> String {
    match flow.offloaded {
        true => "offloaded".to_owned(),
        false => flow.state.clone().unwrap_or_default(),
    }
}

fn render(connections: &Connections) -> String {
    if connections.flows.is_empty() {
        return "no flows\n".to_owned();
    }
    let mut table = Table::new(&["FARM", "BACKEND", "PROTO", "CLIENT", "SERVICE", "TO", "STATE", ">TIMEOUT"]);
    for flow in &connections.flows {
        table.row([
            flow.farm.clone(),
            flow.backend.clone(),
            flow.protocol.clone(),
            flow.client.clone(),
            flow.service.clone(),
            flow.endpoint.clone(),
            state(flow),
            flow.timeout.map(|seconds| format!("{seconds} s")).unwrap_or_default(),
        ]);
    }
    let more = if connections.more { "there are more: name a farm and a backend, or raise --limit\n" } else { "" };
    format!("{table}{more}")
}
