//! `headgate man` and `headgate reference`: the manual, made from the command line itself.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::args::Cli;
use super::{Answer, CliError};
use crate::arguments::Arguments;

/// One page per command: `headgate-farm-add.1`.
pub(super) fn pages(directory: &Path) -> Result<Answer, CliError> {
    fs::create_dir_all(directory).map_err(|error| CliError::Write(directory.to_owned(), error))?;
    let mut written = String::new();
    for (name, command) in commands() {
        let title = name.replace(' ', "-");
        let section = if title == "headgated" { "8" } else { "1" };
        let file = directory.join(format!("{title}.{section}"));
        let mut page = Vec::new();
        let rendered = Man::new(command).title(title).section(section).manual("Headgate").render(&mut page);
        rendered.and_then(|()| fs::write(&file, page)).map_err(|error| CliError::Write(file.clone(), error))?;
        written += &format!("{}\n", file.display());
    }
    Ok(Answer::good(written))
}

/// `docs/commands.md`.
pub(super) fn reference() -> String {
    let mut text = String::from(
        "# Commands\n\nMade from the help texts of `headgate` and `headgated` by `headgate reference`; a test compares the \
         two. Every listing takes `--json`.\n",
    );
    for (name, mut command) in commands() {
        let help = command.render_long_help().to_string();
        let lines = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        text += &format!("\n## {name}\n\n```text\n{}\n```\n", lines.trim_end());
    }
    text
}

/// Every visible command with its whole name, depth first. Usage lines and global options are filled in.
fn commands() -> Vec<(String, Command)> {
    let mut found = Vec::new();
    for (name, command) in [("headgate", Cli::command()), ("headgated", Arguments::command())] {
        let mut command = command.term_width(100);
        command.build();
        collect(&command, name, &mut found);
    }
    found
}

fn collect(command: &Command, name: &str, found: &mut Vec<(String, Command)>) {
    found.push((name.to_owned(), command.clone()));
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        collect(inner, &format!("{name} {}", inner.get_name()), found);
    }
}
