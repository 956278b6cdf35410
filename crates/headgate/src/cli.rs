//! The operator's command: one file per command. A command computes an [`Answer`], and `main` prints it;
//! `console` and `trace`, which go on, print by themselves.

mod apply;
pub mod args;
mod backend;
mod backend_setup;
mod boot_times;
mod check;
mod completions;
pub mod config;
mod confirm;
mod connections;
mod consent;
pub mod console;
pub mod diff;
mod error;
mod explain;
mod factory_reset;
mod farm;
mod history;
pub mod hw;
mod install;
mod man;
mod paint;
mod persistence;
mod plan;
mod reboot;
mod rollback;
mod status;
mod table;
pub mod token;
pub mod top;
mod trace;
pub mod update;
mod values;

use std::path::Path;

use serde::Serialize;

use crate::client::Client;
use crate::exit::Exit;
use args::{Cli, Command, Output};

pub use error::CliError;
pub use install::InstallError;
pub use trace::TraceError;
pub use update::UpdateError;

/// What a command prints, and how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// For standard error: warnings.
    pub notes: Vec<String>,
    /// The exit code.
    pub exit: Exit,
}

impl Answer {
    /// Text, and all is well.
    fn good(text: impl Into<String>) -> Self {
        Self { text: text.into(), notes: Vec::new(), exit: Exit::Good }
    }

    /// The value as JSON, or as the text that `render` makes of it.
    fn of<T: Serialize>(output: Output, value: &T, render: impl FnOnce(&T) -> String) -> Result<Self, CliError> {
        if output.json {
            let json = serde_json::to_string_pretty(value).map_err(CliError::Json)?;
            return Ok(Self::good(json + "\n"));
        }
        Ok(Self::good(render(value)))
    }

    fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

/// Carries out a command line.
///
/// # Errors
/// [`CliError`], whose `exit()` is the exit code.
pub fn run(cli: Cli) -> Result<Answer, CliError> {
    let root: &Path = &cli.root;
    let client = Client::new(root);
    match cli.command {
        Command::Check(check) => check::run(root, &check),
        Command::Config(command) => config::run(root, &client, &command),
        Command::Plan(plan) => plan::run(root, &plan),
        Command::Explain(explain) => explain::run(root, &explain),
        Command::Trace(trace) => trace::run(root, &trace),
        Command::Hw(command) => hw::run(root, &client, &command),
        Command::Status(output) => status::run(&client, output),
        Command::Top(options) => top::run(&client, &options),
        Command::Apply(apply) => apply::run(&client, &apply),
        Command::Confirm(output) => confirm::run(&client, output),
        Command::Rollback(rollback) => rollback::run(&client, &rollback),
        Command::History(output) => history::run(&client, output),
        Command::Diff(diff) => diff::run(&client, &diff),
        Command::Farm(command) => farm::run(root, &client, command),
        Command::Backend(command) => backend::run(&client, command),
        Command::Connections(connections) => connections::run(&client, &connections),
        Command::Persistence(persistence) => persistence::run(&client, &persistence),
        Command::Update(command) => update::run(&command),
        Command::Install(options) => install::run(&options),
        Command::FactoryReset(options) => factory_reset::run(&options),
        Command::Reboot(options) => reboot::run(&options),
        Command::BootTimes(output) => boot_times::run(output),
        Command::Token(command) => token::run(&client, command),
        Command::Console(options) => {
            console::run(&options, root);
            Ok(Answer::good(""))
        }
        Command::Completions { shell } => Ok(completions::run(shell)),
        Command::Man { directory } => man::pages(&directory),
        Command::Reference => Ok(Answer::good(man::reference())),
    }
}
