//! `headgate plan`, and what `explain` and `hw` share with it: the files and the kernel, without the daemon.

use std::path::Path;

use headgate_host::{Host, Root};
use headgate_plan::step::Detail;

use super::args::{self, Output};
use super::{Answer, CliError};
use crate::api::Planned;
use crate::exit::Exit;
use crate::files::{self, Files};
use crate::reconcile::{Knobs, Reconciled, Until, Wanted, planned, reconcile};
use crate::remembered::Remembered;
use crate::secret;
use crate::steps::{Listing, alike, listed, printable};
use crate::way::Way;

pub(super) fn run(root: &Path, plan: &args::Plan) -> Result<Answer, CliError> {
    let (files, looked) = look(root, plan.steps.output)?;
    let detail = if plan.verbose { Detail::Full } else { Detail::Summary };
    let mut warnings: Vec<String> = files.loaded.warnings.iter().map(|warning| warning.message.clone()).collect();
    warnings.extend(looked.desired.warnings.iter().cloned());
    let way = i32::try_from(std::process::id()).ok().and_then(Way::of_process);
    warnings.extend(
        way.and_then(|way| looked.desired.shuts_out(&files.loaded.config, &looked.facts, (way.client, way.server))),
    );
    let planned = Planned { steps: planned(&looked.plan, detail), warnings };
    let mut answer = Answer::of(plan.steps.output, &planned, |planned| render(planned, plan.steps.listing()))?;
    if !plan.steps.output.json {
        answer.notes = planned.warnings.iter().map(|warning| format!("warning: {}", printable(warning))).collect();
    }
    Ok(answer.exit(if planned.steps.is_empty() { Exit::Good } else { Exit::Changes }))
}

/// What the files mean on this machine, and what the kernel has.
pub(super) fn look(root: &Path, output: Output) -> Result<(Files, Reconciled), CliError> {
    let mut files = files::read(root).map_err(|error| CliError::files(error, output))?;
    let root = Root::new(root);
    let site_secret = &mut files.loaded.config.site_secret;
    if site_secret.is_none() {
        // Why the daemon could not make one is for the daemon to say.
        *site_secret = secret::read(&root).ok().flatten();
    }
    let mut host = Host::open(root.clone()).map_err(|error| CliError::Kernel(error.into()))?;
    let failed = Remembered::read(&root).fallen().within(&files.loaded.config);
    let wanted = Wanted {
        config: &files.loaded.config,
        profiles: &files.profiles,
        ids: None,
        failed: &failed,
        knobs: Knobs::All,
    };
    let looked = reconcile(&mut host, wanted, Until::Planned).map_err(CliError::Kernel)?;
    Ok((files, looked))
}

pub(super) fn render(planned: &Planned, listing: Listing) -> String {
    if planned.steps.is_empty() {
        return "nothing to do\n".to_owned();
    }
    listed(&planned.steps, listing, alike, |line| {
        let details = line.details.iter().map(|detail| format!("    {}\n", printable(detail)));
        std::iter::once(format!("{}\n", printable(&line.step))).chain(details).collect()
    })
}
