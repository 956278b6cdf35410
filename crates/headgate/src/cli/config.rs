//! `headgate config`.

// clap takes doc comments as help texts; a flattened field must not have one.
#![allow(missing_docs)]

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueHint};
use headgate_config::{Fate, FileUse, Layer, load};
use hyper::Method;

use super::args::{Apply, Output};
use super::table::Table;
use super::{Answer, CliError, apply};
use crate::api::BODY_MAX;
use crate::client::{Client, segment};
use crate::drop_in::DropInName;
use crate::files::FilesError;
use crate::steps::printable;

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the merged configuration as TOML, and which files it is made of
    ///
    /// Reads the files; needs no daemon.
    Show {
        /// Behind each value, the file and line that set it
        #[arg(long)]
        origins: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List the files that the configuration is made of, and what became of each
    List(Output),
    /// Print a drop-in of /etc/headgate/conf.d as it is on the box
    ///
    /// The site's secret is not shown.
    #[command(after_help = "Examples:\n  headgate config get 50-web\n  ssh admin@lb1 config get 50-web > web.toml")]
    Get {
        /// The name of its file; .toml may be left out
        name: String,
    },
    /// Put a drop-in into /etc/headgate/conf.d and apply it, in place of the one of that name
    ///
    /// It is checked with all other files before anything is written. It is then written whole, and all files are applied in one
    /// transaction; when the kernel refuses, the file is as before. --confirm is that of `headgate apply`: the configuration before returns
    /// unless `headgate confirm` comes in time. The file stays then, and is not loaded until it changes: put a better one, or remove it.
    #[command(
        after_help = "Examples:\n  headgate config put 50-web web.toml\n  ssh admin@lb1 config put 50-web --confirm 60s < web.toml   and then `ssh admin@lb1 confirm`"
    )]
    Put {
        /// The name of its file; .toml may be left out. Files are merged in the order of their names
        name: String,
        /// What to put there; standard input without it, or with -
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        #[command(flatten)]
        apply: Apply,
    },
    /// Remove a drop-in from /etc/headgate/conf.d and apply what is left
    ///
    /// As with `put`, what is left is checked first, and the file comes back when the kernel refuses.
    #[command(
        after_help = "Examples:\n  headgate config remove 50-web\n  ssh admin@lb1 config remove 50-web --confirm 60s"
    )]
    Remove {
        /// The name of its file; .toml may be left out
        name: String,
        #[command(flatten)]
        apply: Apply,
    },
}

pub(super) fn run(root: &Path, client: &Client, command: &ConfigCommand) -> Result<Answer, CliError> {
    match command {
        ConfigCommand::Show { origins, output } => show(root, *origins, *output),
        ConfigCommand::List(output) => {
            let files: Vec<FileUse> = client.get("/v1/drop-ins")?;
            Answer::of(*output, &files, |files| if files.is_empty() { "no files\n".to_owned() } else { list(files) })
        }
        ConfigCommand::Get { name } => {
            let text = client.text(&target(name)?)?;
            Ok(Answer::good(if io::stdout().is_terminal() { harmless(&text) } else { text }))
        }
        ConfigCommand::Put { name, file, apply } => {
            let target = target(name)?;
            let text = read(name, file.as_deref())?;
            apply::told_of(client.put(&apply::on_trial(&target, apply), text), apply.steps)
        }
        ConfigCommand::Remove { name, apply } => {
            let target = apply::on_trial(&target(name)?, apply);
            apply::change(client, Method::DELETE, &target, &(), apply.steps)
        }
    }
}

/// What somebody wrote into a file does not steer the terminal that it is shown on; into a file it goes as it is.
fn harmless(text: &str) -> String {
    let line = |line: &str| line.split('\t').map(printable).collect::<Vec<_>>().join("\t") + "\n";
    text.lines().map(line).collect()
}

fn target(name: &str) -> Result<String, CliError> {
    let name: DropInName =
        name.parse().map_err(|error: crate::drop_in::NotADropIn| CliError::Usage(error.to_string()))?;
    Ok(format!("/v1/drop-ins/{}", segment(name.as_str())))
}

/// What is to be put. One byte more than the daemon takes tells it apart from what is just as long.
fn read(name: &str, file: Option<&Path>) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    let limit = BODY_MAX as u64 + 1;
    match file.filter(|file| *file != Path::new("-")) {
        Some(path) => {
            let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text));
            read.map_err(|error| CliError::Read(path.to_owned(), error))?;
        }
        None if io::stdin().is_terminal() => {
            return Err(CliError::Usage(format!(
                "the text of the drop-in is read from standard input: `headgate config put {name} < FILE`"
            )));
        }
        None => {
            let read = io::stdin().lock().take(limit).read_to_end(&mut text);
            read.map_err(|error| CliError::Read("standard input".into(), error))?;
        }
    }
    if text.len() > BODY_MAX {
        return Err(CliError::Usage(format!(
            "a drop-in that is put has at most {BODY_MAX} bytes; split it into several"
        )));
    }
    Ok(text)
}

fn list(files: &[FileUse]) -> String {
    let mut table = Table::new(&["FILE", "FROM", "WHAT BECAME OF IT"]);
    for file in files {
        let fate = match &file.fate {
            Fate::Used => "used".to_owned(),
            Fate::Replaced(by) => format!("replaced by {}", by.display()),
            Fate::Masked(by) => format!("masked by {}", by.display()),
            Fate::Unreadable => "unreadable".to_owned(),
        };
        table.row([file.path.display().to_string(), from(file.layer).to_owned(), fate]);
    }
    table.to_string()
}

fn from(layer: Layer) -> &'static str {
    match layer {
        Layer::Vendor => "image",
        Layer::Main => "main file",
        Layer::Esp => "EFI partition",
        Layer::Usb => "stick",
        Layer::FwCfg => "hypervisor",
        Layer::Etc => "drop-in",
        Layer::Runtime => "until reboot",
        Layer::Given => "given",
    }
}

fn show(root: &Path, origins: bool, output: Output) -> Result<Answer, CliError> {
    let mut loaded = load(root).map_err(|error| CliError::files(FilesError::Config(error), output))?;
    loaded.document.conceal_secret();
    if output.json {
        return json(&loaded, output);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_on_a_terminal_is_only_a_text() {
        assert_eq!(harmless("a = 1\t# x\r\n\u{1b}[2Jb\n\n"), "a = 1\t# x\n\u{fffd}[2Jb\n\n");
    }
}
