//! `headgate confirm`.

use hyper::Method;

use super::args::Output;
use super::{Answer, CliError};
use crate::api::Confirmed;
use crate::client::Client;

pub(super) fn run(client: &Client, output: Output) -> Result<Answer, CliError> {
    let confirmed: Confirmed = client.call(Method::POST, "/v1/confirm", &())?;
    Answer::of(output, &confirmed, |confirmed| match confirmed.generation {
        Some(generation) => format!("generation {generation} runs for good\n"),
        None => "it runs for good\n".to_owned(),
    })
}
