//! The operator's command: one file per command. A command computes an [`Answer`]; only `main` prints.

mod apply;
pub mod args;
mod backend;
mod check;
mod completions;
mod config;
mod connections;
pub mod console;
mod explain;
mod farm;
mod history;
mod hw;
mod man;
mod plan;
mod rollback;
mod status;
mod table;
mod values;

use std::path::Path;

use serde::Serialize;

use headgate_plan::compile::Unsupported;

use crate::api::ApiError;
use crate::client::{Client, ClientError};
use crate::exit::Exit;
use crate::files::FilesError;
use crate::reconcile::ReconcileError;
use crate::steps::{Listing, told};
use args::{Cli, Command, Output};

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

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The daemon did not answer, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The daemon refused a change; with how much of what it tried is told.
    #[error("{0}")]
    Refused(ApiError, Listing),
    /// The files are no configuration.
    #[error("the configuration is invalid")]
    Files {
        /// Why.
        error: FilesError,
        /// The same as JSON, for standard output.
        json: Option<String>,
    },
    /// The kernel, or the machine, failed us.
    #[error(transparent)]
    Kernel(#[from] ReconcileError),
    /// An argument is not what it should be.
    #[error("{0}")]
    Usage(String),
    /// An answer cannot be printed as JSON.
    #[error("the answer cannot be printed as JSON")]
    Json(#[source] serde_json::Error),
    /// A file cannot be written.
    #[error("cannot write {0}")]
    Write(std::path::PathBuf, #[source] std::io::Error),
}

impl CliError {
    fn files(error: FilesError, output: Output) -> Self {
        let json = match &error {
            FilesError::Config(diagnostics) => serde_json::to_value(diagnostics),
            FilesError::Unsupported(list) => {
                let value =
                    |(one, origin): &(Unsupported, _)| serde_json::json!({"message": one.to_string(), "place": origin});
                Ok(list.iter().map(value).collect())
            }
        };
        let json = json.ok().filter(|_| output.json).map(|json| format!("{json:#}\n"));
        Self::Files { error, json }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            CliError::Files { .. } | CliError::Kernel(ReconcileError::Unsupported(_)) => Exit::ConfigInvalid,
            CliError::Kernel(_) => Exit::KernelRefused,
            CliError::Client(error) => error.exit(),
            CliError::Refused(error, _) => error.code.exit(),
            CliError::Usage(_) => Exit::Usage,
            CliError::Json(_) | CliError::Write(..) => Exit::KernelRefused,
        }
    }

    /// For standard output all the same.
    pub fn text(&self) -> Option<&str> {
        match self {
            CliError::Files { json, .. } => json.as_deref(),
            _ => None,
        }
    }

    /// Further lines for standard error: details, and what to do about it.
    pub fn details(&self) -> Vec<String> {
        match self {
            CliError::Client(ClientError::Api(error)) => error.details.clone(),
            CliError::Refused(error, listing) => {
                let steps = told(&error.steps, *listing);
                error.details.iter().cloned().chain(steps.lines().map(str::to_owned)).collect()
            }
            CliError::Files { error, .. } => vec![error.full().trim_end().to_owned()],
            CliError::Kernel(ReconcileError::Unsupported(list)) => list.iter().map(ToString::to_string).collect(),
            CliError::Client(ClientError::Unreachable { .. }) => vec![
                "help: is it running? `systemctl status headgated`, or start it with `headgated`; the data plane goes \
                 on without it, and `headgate plan` works without it"
                    .to_owned(),
            ],
            _ => Vec::new(),
        }
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
        Command::Config(command) => config::run(root, &command),
        Command::Plan(plan) => plan::run(root, &plan),
        Command::Explain(explain) => explain::run(root, &explain),
        Command::Hw(command) => hw::run(root, &command),
        Command::Status(output) => status::run(&client, output),
        Command::Apply(steps) => apply::run(&client, steps),
        Command::Rollback(rollback) => rollback::run(&client, &rollback),
        Command::History(output) => history::run(&client, output),
        Command::Farm(command) => farm::run(&client, command),
        Command::Backend(command) => backend::run(&client, command),
        Command::Connections(connections) => connections::run(&client, &connections),
        Command::Console(options) => {
            console::run(&options, root);
            Ok(Answer::good(""))
        }
        Command::Completions { shell } => Ok(completions::run(shell)),
        Command::Man { directory } => man::pages(&directory),
        Command::Reference => Ok(Answer::good(man::reference())),
    }
}
