//! `headgate hw`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headgate_host::knob::originals;
use headgate_host::{Root, load};
use headgate_plan::facts::Recording;
use headgate_plan::hardware::{HardwareReport, KnobRow, Sources};
use headgate_plan::step::{Detail, Step};
use hyper::Method;

use super::args::{HwCommand, Output, Steps};
use super::{Answer, CliError, apply, plan};
use crate::api::Planned;
use crate::client::Client;
use crate::exit::Exit;
use crate::files::{FilesError, PROFILES};
use crate::reconcile::planned;
use crate::steps::printable;

pub(super) fn run(root: &Path, client: &Client, command: &HwCommand) -> Result<Answer, CliError> {
    match command {
        HwCommand::Show { verbose, output } => {
            let report = report(root, *output)?;
            Answer::of(*output, &report, |report| if *verbose { format!("{report:#}") } else { report.to_string() })
        }
        HwCommand::Plan(steps) => planned_knobs(root, *steps),
        HwCommand::Apply(steps) => apply::change(client, Method::POST, "/v1/hardware/apply", &(), *steps),
        HwCommand::Restore(steps) => apply::change(client, Method::POST, "/v1/hardware/restore", &(), *steps),
        HwCommand::Explain { knob, output } => explain(root, knob, *output),
        HwCommand::Record => record(root),
        HwCommand::Check { directories, output } => check(root, directories, *output),
    }
}

fn report(root: &Path, output: Output) -> Result<HardwareReport, CliError> {
    let (_, looked) = plan::look(root, output)?;
    // Without the first values the report still says everything else.
    let originals = originals(&Root::new(root)).map(|originals| originals.knobs).unwrap_or_default();
    let originals: BTreeMap<String, String> =
        originals.into_iter().map(|(path, original)| (path, original.was)).collect();
    let mut report = HardwareReport::new(Sources {
        facts: &looked.facts,
        profile: looked.desired.profile.as_deref(),
        knobs: &looked.desired.knobs,
        found: &looked.observed.knobs,
        outcomes: &BTreeMap::new(),
        originals: &originals,
    });
    report.set_load(&load::per_cpu());
    Ok(report)
}

fn planned_knobs(root: &Path, steps: Steps) -> Result<Answer, CliError> {
    let (_, mut looked) = plan::look(root, steps.output)?;
    looked.plan.steps.retain(|step| matches!(step, Step::Knob { .. }));
    let planned = Planned { steps: planned(&looked.plan, Detail::Summary), warnings: looked.desired.warnings };
    let answer = Answer::of(steps.output, &planned, |planned| plan::render(planned, steps.listing()))?;
    Ok(answer.exit(if planned.steps.is_empty() { Exit::Good } else { Exit::Changes }))
}

fn explain(root: &Path, knob: &str, output: Output) -> Result<Answer, CliError> {
    let report = report(root, output)?;
    let rows: Vec<&KnobRow> = report.knobs.iter().filter(|row| row.path.contains(knob)).collect();
    if rows.is_empty() {
        return Err(CliError::Usage(format!(
            "no knob has {knob:?} in its name; `headgate hw show --verbose` lists them"
        )));
    }
    Answer::of(output, &rows, |rows| rows.iter().map(|row| format!("{row:#}")).collect())
}

/// Facts first and what was found behind them, so that what reads facts reads this as well.
fn record(root: &Path) -> Result<Answer, CliError> {
    let (_, looked) = plan::look(root, Output { json: false })?;
    let recording = Recording::new(looked.facts, &looked.observed.knobs);
    toml::to_string(&recording).map(Answer::good).map_err(CliError::Toml)
}

fn check(root: &Path, directories: &[PathBuf], output: Output) -> Result<Answer, CliError> {
    let installed = || PROFILES.iter().map(|directory| root.join(directory)).collect();
    let directories = if directories.is_empty() { installed() } else { directories.to_vec() };
    let profiles = headgate_config::load_profiles(&directories)
        .map_err(|problems| CliError::files(FilesError::Config(problems), output))?;
    if profiles.is_empty() {
        let names: Vec<String> = directories.iter().map(|directory| directory.display().to_string()).collect();
        return Err(CliError::Usage(format!("there is no profile in {}", names.join(", "))));
    }
    let titles: BTreeMap<&str, &str> =
        profiles.iter().map(|profile| (profile.id.as_str(), profile.title.as_str())).collect();
    Answer::of(output, &titles, |titles| {
        titles.iter().map(|(id, title)| format!("{id:<15} {}\n", printable(title))).collect()
    })
}
