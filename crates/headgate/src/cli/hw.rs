//! `headgate hw`.

use std::collections::BTreeMap;
use std::path::Path;

use headgate_host::Root;
use headgate_host::knob::originals;
use headgate_plan::hardware::{HardwareReport, Sources};

use super::args::HwCommand;
use super::{Answer, CliError, plan};

pub(super) fn run(root: &Path, command: &HwCommand) -> Result<Answer, CliError> {
    let HwCommand::Show { verbose, output } = command;
    let (_, looked) = plan::look(root, *output)?;
    // Without the first values the report still says everything else.
    let originals = originals(&Root::new(root)).map(|originals| originals.knobs).unwrap_or_default();
    let originals: BTreeMap<String, String> =
        originals.into_iter().map(|(path, original)| (path, original.was)).collect();
    let report = HardwareReport::new(Sources {
        facts: &looked.facts,
        profile: looked.desired.profile.as_deref(),
        knobs: &looked.desired.knobs,
        found: &looked.observed.knobs,
        outcomes: &BTreeMap::new(),
        originals: &originals,
    });
    Answer::of(*output, &report, |report| if *verbose { format!("{report:#}") } else { report.to_string() })
}
