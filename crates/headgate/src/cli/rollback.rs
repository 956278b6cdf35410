//! `headgate rollback`.

use hyper::Method;

use super::args::Rollback;
use super::{Answer, CliError, apply};
use crate::api;
use crate::client::Client;

pub(super) fn run(client: &Client, rollback: &Rollback) -> Result<Answer, CliError> {
    let request = api::Rollback { to: rollback.number, confirm_seconds: rollback.confirm.map(apply::seconds) };
    apply::change(client, Method::POST, "/v1/rollback", &request, rollback.steps)
}
