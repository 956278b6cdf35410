//! `headgate farm backend-setup`.

use std::path::Path;

use headgate_plan::setup::{self, Setup};

use super::args::Output;
use super::{Answer, CliError};
use crate::files;

pub(super) fn run(root: &Path, name: &str, output: Output) -> Result<Answer, CliError> {
    let files = files::read(root).map_err(|error| CliError::files(error, output))?;
    let farm = files.loaded.config.farms.get(name);
    let farm = farm.ok_or_else(|| CliError::Usage(format!("there is no farm {name:?} in the configuration")))?;
    Answer::of(output, &setup::of(farm), |setups| render(setups))
}

/// Shell, with the sentences as comments.
fn render(setups: &[Setup]) -> String {
    let mut text = String::new();
    for setup in setups {
        let gap = if text.is_empty() { "" } else { "\n" };
        text += &format!("{gap}# backend {} at {}\n# {}\n", setup.backend, setup.address, setup.note);
        text.extend(setup.commands.iter().flat_map(|command| [command.as_str(), "\n"]));
    }
    text
}
