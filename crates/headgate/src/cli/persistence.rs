//! `headgate persistence`.

use hyper::Method;

use super::args;
use super::table::Table;
use super::{Answer, CliError};
use crate::api::{Clients, Forgotten};
use crate::client::{Client, segment};

pub(super) fn run(client: &Client, command: &args::Persistence) -> Result<Answer, CliError> {
    let target = format!("/v1/farms/{}/clients", segment(&command.name.farm));
    if command.flush {
        let forgotten: Forgotten = client.call(Method::DELETE, &target, &())?;
        return Answer::of(command.output, &forgotten, |forgotten| {
            format!("{} clients forgotten\n", forgotten.clients)
        });
    }
    let clients: Clients = client.get(&target)?;
    Answer::of(command.output, &clients, render)
}

fn render(clients: &Clients) -> String {
    if clients.clients.is_empty() {
        return "no clients\n".to_owned();
    }
    let mut table = Table::new(&["CLIENT", "BACKEND", ">FORGOTTEN IN"]);
    for client in &clients.clients {
        let expires = client.expires.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds} s"));
        table.row([client.client.join(" "), client.backend.clone(), expires]);
    }
    let more = if clients.more { "there are more\n" } else { "" };
    format!("{table}{more}")
}
