//! `headgate apply`, and how every change is told.

use std::time::Duration;

use hyper::Method;
use serde::Serialize;

use super::args::{self, Change, Steps};
use super::{Answer, CliError};
use crate::api::{Applied, Apply};
use crate::client::{Client, ClientError};
use crate::steps::{Listing, printable, told};

pub(super) fn run(client: &Client, apply: &args::Apply) -> Result<Answer, CliError> {
    let confirm_seconds = apply.confirm.map(seconds);
    change(client, Method::POST, "/v1/apply", &Apply { confirm_seconds }, apply.steps)
}

/// For how long something is on trial. A part of a second would be no time at all.
pub(super) fn seconds(window: Duration) -> u64 {
    window.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// Asks for a change, and says what it did.
pub(super) fn change(
    client: &Client,
    method: Method,
    target: &str,
    body: &impl Serialize,
    steps: Steps,
) -> Result<Answer, CliError> {
    told_of(client.call(method, target, body), steps)
}

/// What a change did, or why it was refused.
pub(super) fn told_of(done: Result<Applied, ClientError>, steps: Steps) -> Result<Answer, CliError> {
    match done {
        Ok(applied) => answer(applied, steps),
        Err(ClientError::Api(error)) => Err(CliError::Refused(error, steps.listing())),
        Err(error) => Err(error.into()),
    }
}

fn answer(applied: Applied, steps: Steps) -> Result<Answer, CliError> {
    let mut answer = Answer::of(steps.output, &applied, |applied| render(applied, steps.listing()))?;
    if !steps.output.json {
        answer.notes = applied.warnings.iter().map(|warning| format!("warning: {}", printable(warning))).collect();
    }
    Ok(answer)
}

/// The path of a change that is on trial if it is asked for.
pub(super) fn on_trial(path: &str, apply: &args::Apply) -> String {
    let window = apply.confirm.map(seconds);
    window.map_or_else(|| path.to_owned(), |seconds| format!("{path}?confirm-seconds={seconds}"))
}

/// The path of a change with where it is kept.
pub(super) fn target(path: &str, change: Change) -> String {
    if change.persist { format!("{path}?persist=true") } else { path.to_owned() }
}

fn render(applied: &Applied, listing: Listing) -> String {
    let mut text = told(&applied.steps, listing);
    if applied.steps.is_empty() {
        text += if applied.stored { "stored; nothing to do in the kernel\n" } else { "nothing to do\n" };
    }
    if let Some(generation) = applied.generation {
        text += &format!("generation {generation} runs\n");
    }
    if let Some(trial) = &applied.trial {
        text += &format!(
            "on trial: generation {} returns in {} s unless `headgate confirm` keeps this one\n",
            trial.back, trial.seconds_left
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StepLine;
    use crate::cli::args::Output;

    #[test]
    fn a_change_is_told_step_by_step() {
        let step = |step: &str, outcome: Option<&str>| StepLine {
            kind: "knob".into(),
            step: step.into(),
            details: Vec::new(),
            outcome: outcome.map(str::to_owned),
        };
        let applied = Applied {
            generation: Some(3),
            trial: None,
            stored: true,
            steps: vec![step("add address 172.16.1.1/32 to eth0", Some("set")), step("set a to 1", Some("refused: x"))],
            warnings: vec!["careful".into()],
        };
        let steps = Steps { all: false, output: Output { json: false } };
        let told = answer(applied, steps).unwrap();
        assert_eq!(told.text, "add address 172.16.1.1/32 to eth0\nset a to 1: refused: x\ngeneration 3 runs\n");
        assert_eq!(told.notes, ["warning: careful"]);
        assert_eq!(answer(Applied::default(), steps).unwrap().text, "nothing to do\n");
        let stored = Applied { stored: true, ..Applied::default() };
        assert_eq!(answer(stored, steps).unwrap().text, "stored; nothing to do in the kernel\n");
    }
}
