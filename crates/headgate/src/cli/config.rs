//! `headgate config`.

use std::path::Path;

use headgate_config::{Fate, FileUse, load};

use super::args::{ConfigCommand, Output};
use super::{Answer, CliError};
use crate::files::FilesError;
use crate::steps::printable;

pub(super) fn run(root: &Path, command: &ConfigCommand) -> Result<Answer, CliError> {
    let ConfigCommand::Show { origins, output } = command;
    let mut loaded = load(root).map_err(|error| CliError::files(FilesError::Config(error), *output))?;
    loaded.document.conceal_secret();
    if output.json {
        return json(&loaded, *output);
    }
    let mut text: String = loaded.files.iter().map(line).collect();
    if !text.is_empty() {
        text.push('\n');
    }
    text += &match origins {
        true => loaded.document.to_toml_with_origins(),
        false => loaded.document.to_toml(),
    };
    Ok(Answer::good(text))
}

fn json(loaded: &headgate_config::Loaded, output: Output) -> Result<Answer, CliError> {
    let value = serde_json::json!({ "files": loaded.files, "config": loaded.document });
    Answer::of(output, &value, ToString::to_string)
}

/// A comment, so that the whole output is TOML.
fn line(file: &FileUse) -> String {
    let path = printable(&file.path.display().to_string());
    match &file.fate {
        Fate::Used => format!("# {path}\n"),
        Fate::Replaced(by) => format!("# {path}, replaced by {}\n", printable(&by.display().to_string())),
        Fate::Masked(by) => format!("# {path}, masked by {}\n", printable(&by.display().to_string())),
        Fate::Unreadable => format!("# {path}, unreadable\n"),
    }
}
