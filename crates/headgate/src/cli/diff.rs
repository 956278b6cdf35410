//! `headgate diff`.

// clap takes doc comments as help texts; a flattened field must not have one.
#![allow(missing_docs)]

use clap::Args;

use super::args::Output;
use super::{Answer, CliError};
use crate::api::{Compared, Difference};
use crate::client::Client;
use crate::difference::told;

#[derive(Debug, Args)]
pub struct Diff {
    /// The earlier: N, running or files
    #[arg(value_name = "A", default_value = "running")]
    pub from: Compared,
    /// The later: N, running or files
    #[arg(value_name = "B", default_value = "files")]
    pub to: Compared,
    #[command(flatten)]
    pub output: Output,
}

pub(super) fn run(client: &Client, diff: &Diff) -> Result<Answer, CliError> {
    let differences: Vec<Difference> = client.get(&format!("/v1/diff?from={}&to={}", diff.from, diff.to))?;
    Answer::of(diff.output, &differences, |differences| render(differences))
}

fn render(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "no difference\n".to_owned();
    }
    differences.iter().map(|difference| told(difference) + "\n").collect()
}
