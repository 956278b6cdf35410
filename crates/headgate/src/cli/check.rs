//! `headgate check`.

use std::path::Path;

use headgate_config::Fate;
use serde::Serialize;

use super::args::Check;
use super::{Answer, CliError};
use crate::files::{self, Files};

/// What a valid configuration consists of.
#[derive(Debug, Serialize)]
struct Checked {
    files: usize,
    farms: usize,
    backends: usize,
    warnings: usize,
}

pub(super) fn run(root: &Path, check: &Check) -> Result<Answer, CliError> {
    let files = match check.paths.is_empty() {
        true => files::read(root),
        false => files::read_given(root, &check.paths),
    };
    let files = files.map_err(|error| CliError::files(error, check.output))?;
    let mut answer = Answer::of(check.output, &checked(&files), render)?;
    let warnings = files.loaded.warnings.to_string();
    answer.notes = (!warnings.is_empty()).then(|| warnings.trim_end().to_owned()).into_iter().collect();
    Ok(answer)
}

fn checked(files: &Files) -> Checked {
    let farms = &files.loaded.config.farms;
    Checked {
        files: files.loaded.files.iter().filter(|file| matches!(file.fate, Fate::Used)).count(),
        farms: farms.len(),
        backends: farms.values().map(|farm| farm.backends.len()).sum(),
        warnings: files.loaded.warnings.count(),
    }
}

fn render(checked: &Checked) -> String {
    let Checked { files, farms, backends, .. } = checked;
    let s = |count: &usize| if *count == 1 { "" } else { "s" };
    format!("good: {files} file{}, {farms} farm{}, {backends} backend{}\n", s(files), s(farms), s(backends))
}
