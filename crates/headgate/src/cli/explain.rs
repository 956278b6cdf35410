//! `headgate explain`.

use std::path::Path;

use headgate_config::model::Farm;
use headgate_plan::compile::Desired;
use serde::Serialize;

use super::args::Explain;
use super::{Answer, CliError, plan};

/// What carries a farm.
#[derive(Debug, Serialize)]
struct Explained {
    /// What stands where in the configuration.
    origins: Vec<String>,
    /// In nft(8)'s syntax.
    ruleset: String,
    warnings: Vec<String>,
}

pub(super) fn run(root: &Path, explain: &Explain) -> Result<Answer, CliError> {
    let (files, looked) = plan::look(root, explain.output)?;
    let name = &explain.name.farm;
    let farm = files.loaded.config.farms.get(name.as_str());
    let farm = farm.ok_or_else(|| CliError::Usage(format!("there is no farm {name:?} in the configuration")))?;
    Answer::of(explain.output, &explained(farm, &looked.desired), render)
}

fn explained(farm: &Farm, desired: &Desired) -> Explained {
    let fragment = desired.context.farm_fragment(farm, &desired.ids);
    let mut origins = vec![format!("farm {}: {}", farm.name, farm.origin)];
    for backend in farm.backends.values() {
        let mark = desired.ids.mark(&farm.name, &backend.name);
        let mark = mark.map(|mark| format!(", ct mark {mark:#010x}")).unwrap_or_default();
        origins.push(format!("backend {} at {}{mark}: {}", backend.name, backend.address, backend.origin));
    }
    Explained { origins, ruleset: fragment.ruleset.to_string(), warnings: fragment.warnings }
}

/// The comments of the elements carry `FARM/BACKEND`; what those are is said above them.
fn render(explained: &Explained) -> String {
    let mut text: String = explained.origins.iter().map(|line| format!("# {line}\n")).collect();
    text += "#\n# Of the shared maps only this farm's elements are shown; the chains `prerouting`, `output`, `assign` and\n";
    text += "# `postrouting` serve all farms.\n";
    text += &explained.ruleset;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text += &explained.warnings.iter().map(|warning| format!("# warning: {warning}\n")).collect::<String>();
    text
}
