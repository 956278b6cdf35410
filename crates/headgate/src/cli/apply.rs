//! `headgate apply`, and how every change is told.

use hyper::Method;

use super::args::{Change, Output};
use super::table::printable;
use super::{Answer, CliError};
use crate::api::Applied;
use crate::client::Client;

/// More steps than this are counted, not listed: the first start with 10,000 virtual addresses.
const STEPS_SHOWN: usize = 40;

pub(super) fn run(client: &Client, output: Output) -> Result<Answer, CliError> {
    let applied: Applied = client.call(Method::POST, "/v1/apply", &())?;
    answer(output, applied)
}

/// What a change did.
pub(super) fn answer(output: Output, applied: Applied) -> Result<Answer, CliError> {
    let mut answer = Answer::of(output, &applied, render)?;
    if !output.json {
        answer.notes = applied.warnings.iter().map(|warning| format!("warning: {}", printable(warning))).collect();
    }
    Ok(answer)
}

/// The path of a change with where it is kept.
pub(super) fn target(path: &str, change: Change) -> String {
    if change.persist { format!("{path}?persist=true") } else { path.to_owned() }
}

fn render(applied: &Applied) -> String {
    let mut text = String::new();
    for line in applied.steps.iter().take(STEPS_SHOWN) {
        let step = printable(&line.step);
        text += &match line.outcome.as_deref() {
            None | Some("set") => format!("{step}\n"),
            Some(outcome) => format!("{step}: {}\n", printable(outcome)),
        };
    }
    if applied.steps.len() > STEPS_SHOWN {
        text += &format!("and {} more\n", applied.steps.len() - STEPS_SHOWN);
    }
    if applied.steps.is_empty() {
        text += "nothing to do\n";
    }
    if let Some(generation) = applied.generation {
        text += &format!("generation {generation} runs\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StepLine;

    #[test]
    fn a_change_is_told_step_by_step() {
        let step = |step: &str, outcome: Option<&str>| StepLine {
            step: step.into(),
            details: Vec::new(),
            outcome: outcome.map(str::to_owned),
        };
        let applied = Applied {
            generation: Some(3),
            steps: vec![step("add address 172.16.1.1/32 to eth0", Some("set")), step("set a to 1", Some("refused: x"))],
            warnings: vec!["careful".into()],
        };
        let told = answer(Output { json: false }, applied).unwrap();
        assert_eq!(told.text, "add address 172.16.1.1/32 to eth0\nset a to 1: refused: x\ngeneration 3 runs\n");
        assert_eq!(told.notes, ["warning: careful"]);
        assert_eq!(answer(Output { json: false }, Applied::default()).unwrap().text, "nothing to do\n");
    }
}
