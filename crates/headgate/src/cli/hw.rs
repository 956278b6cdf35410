//! `headgate hw`.

// clap takes doc comments as help texts; a flattened field must not have one.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueHint};
use headgate_host::knob::originals;
use headgate_host::{Root, load};
use headgate_plan::facts::Recording;
use headgate_plan::hardware::{HardwareReport, KnobRow, Sources};
use headgate_plan::step::{Detail, Step};
use hyper::Method;

use super::args::{Output, Steps};
use super::{Answer, CliError, apply, plan};
use crate::api::Planned;
use crate::client::Client;
use crate::exit::Exit;
use crate::files::{FilesError, PROFILES};
use crate::reconcile::planned;
use crate::steps::printable;

#[derive(Debug, Subcommand)]
pub enum HwCommand {
    /// Topology, load, profile, where each queue's interrupt, RPS and XPS go, and what is not as wanted
    ///
    /// Reads the files and the kernel; needs root, and no daemon. Takes a fifth of a second to see how busy each CPU is.
    Show {
        /// Every knob with its reason, not only those that are not as wanted
        #[arg(long, short)]
        verbose: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show which knobs apply would turn; exit status 10 when there are any
    ///
    /// Reads the files and the kernel; needs root, and no daemon.
    Plan(Steps),
    /// Turn every knob that is not as wanted, those as well that were given back or left to another program
    Apply(Steps),
    /// Say of a knob what is wanted, what was found, what it had before, and the line that asked for it
    ///
    /// Reads the files and the kernel; needs root, and no daemon.
    #[command(
        after_help = "Examples:\n  headgate hw explain rings\n  headgate hw explain eth0\n  headgate hw explain nf_conntrack_max"
    )]
    Explain {
        /// A part of the knob's name, as `hw show --verbose` prints it
        #[arg(value_name = "KNOB")]
        knob: String,
        #[command(flatten)]
        output: Output,
    },
    /// Give the knobs of the profile and of the configuration back what they had, until `hw apply` or the next configuration
    ///
    /// What forwarding itself needs stays.
    Restore(Steps),
    /// Print what this machine is and how its knobs stand, as a file that the tests can load
    ///
    /// Without addresses, routes and MAC addresses. Reads the files and the kernel; needs root, and no daemon.
    #[command(after_help = "Examples:\n  headgate hw record > facts.toml")]
    Record,
    /// Validate hardware profiles; nothing is touched
    #[command(after_help = "Examples:\n  headgate hw check\n  headgate hw check hwprofiles")]
    Check {
        /// Directories of .toml files, instead of those that the daemon reads
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        directories: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
}

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
