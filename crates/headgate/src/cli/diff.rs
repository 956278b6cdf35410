//! `headgate diff`.

use super::args::Diff;
use super::{Answer, CliError};
use crate::api::Difference;
use crate::client::Client;
use crate::difference::told;

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
