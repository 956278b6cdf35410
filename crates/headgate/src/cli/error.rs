//! Why a command failed, and how it says so.

use std::io;

use headgate_plan::compile::Unsupported;

use super::args::Output;
use crate::api::ApiError;
use crate::client::ClientError;
use crate::exit::Exit;
use crate::files::{FilesError, place};
use crate::reconcile::ReconcileError;
use crate::steps::{Listing, printable, told};

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
    /// The kernel does not tell about packets.
    #[error(transparent)]
    Trace(super::TraceError),
    /// The firmware stays as it is.
    #[error(transparent)]
    Update(#[from] super::UpdateError),
    /// The other disk does not hold the system.
    #[error(transparent)]
    Install(#[from] super::InstallError),
    /// The box goes on running.
    #[error("PID 1 was not told to start the box anew")]
    Reboot(#[source] io::Error),
    /// An argument is not what it should be.
    #[error("{0}")]
    Usage(String),
    /// An answer cannot be printed as JSON.
    #[error("the answer cannot be printed as JSON")]
    Json(#[source] serde_json::Error),
    /// An answer cannot be printed as TOML.
    #[error("the answer cannot be printed as TOML")]
    Toml(#[source] toml::ser::Error),
    /// The screen cannot be had, or is gone.
    #[error("the terminal fails")]
    Terminal(#[source] io::Error),
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(std::path::PathBuf, #[source] io::Error),
    /// A file cannot be written.
    #[error("cannot write {0}")]
    Write(std::path::PathBuf, #[source] io::Error),
}

impl CliError {
    pub(super) fn files(error: FilesError, output: Output) -> Self {
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
            CliError::Kernel(_) | CliError::Trace(_) | CliError::Update(_) | CliError::Install(_) => {
                Exit::KernelRefused
            }
            CliError::Client(error) => error.exit(),
            CliError::Refused(error, _) => error.code.exit(),
            CliError::Usage(_) => Exit::Usage,
            CliError::Json(_)
            | CliError::Toml(_)
            | CliError::Read(..)
            | CliError::Write(..)
            | CliError::Reboot(_)
            | CliError::Terminal(_) => Exit::KernelRefused,
        }
    }

    /// For standard output all the same.
    pub fn text(&self) -> Option<&str> {
        match self {
            CliError::Files { json, .. } => json.as_deref(),
            _ => None,
        }
    }

    /// For standard error. The error comes first, then what belongs to it, then what to do about it.
    pub fn report(&self) -> String {
        // A parser's message has several lines.
        let message = crate::explain(self).lines().map(printable).collect::<Vec<_>>().join("\n");
        if let Some(diagnostics) = self.diagnostics() {
            // Each is an error with its own help; the message is the verdict on all of them.
            return format!("{}\nheadgate: {message}\n", diagnostics.trim_end());
        }
        let steps = match self {
            CliError::Refused(error, listing) => told(&error.steps, *listing),
            _ => String::new(),
        };
        let help = self.help().map(|help| format!("  = help: {help}\n")).unwrap_or_default();
        format!("error: {message}\n{steps}{help}")
    }

    fn diagnostics(&self) -> Option<String> {
        match self {
            CliError::Files { error, .. } => Some(error.full()),
            CliError::Kernel(ReconcileError::Unsupported(list)) => {
                Some(list.iter().map(|one| place(&(one.clone(), None))).collect())
            }
            CliError::Client(ClientError::Api(error)) | CliError::Refused(error, _) => {
                (!error.details.is_empty()).then(|| error.details.join("\n"))
            }
            _ => None,
        }
    }

    fn help(&self) -> Option<&'static str> {
        match self {
            CliError::Client(ClientError::Unreachable { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("only root and the group of the socket may use it")
            }
            CliError::Client(ClientError::Unreachable { .. }) => Some(
                "is it running? `systemctl status headgated`, or start it with `headgated`; the data plane goes on \
                 without it, and `headgate plan` works without it",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ErrorCode, StepLine};

    fn unreachable(kind: io::ErrorKind) -> CliError {
        ClientError::Unreachable { path: "/run/headgate/api.sock".into(), source: kind.into() }.into()
    }

    #[test]
    fn the_error_comes_before_its_help() {
        let absent = unreachable(io::ErrorKind::NotFound).report();
        let begin =
            "error: headgated does not answer on /run/headgate/api.sock: entity not found\n  = help: is it running? ";
        assert!(absent.starts_with(begin) && absent.lines().count() == 2, "{absent}");
        let forbidden = unreachable(io::ErrorKind::PermissionDenied).report();
        assert!(
            forbidden.ends_with("denied\n  = help: only root and the group of the socket may use it\n"),
            "{forbidden}"
        );
    }

    #[test]
    fn the_error_comes_before_the_steps_that_were_tried() {
        let step = |step: &str, outcome: &str| StepLine {
            kind: "knob".into(),
            step: step.into(),
            details: Vec::new(),
            outcome: Some(outcome.into()),
        };
        let mut error = ApiError::new(ErrorCode::KernelRefused, "set b to 1: no; what ran before runs on");
        error.steps = vec![step("set a to 1", "returned"), step("set b to 1", "refused: no")];
        assert_eq!(
            CliError::Refused(error, Listing::Short).report(),
            "error: set b to 1: no; what ran before runs on\nset a to 1: returned\nset b to 1: refused: no\n"
        );
    }

    #[test]
    fn diagnostics_are_the_errors_and_the_verdict_is_last() {
        let diagnostics =
            ["error: weight must be 0 to 65535", "  --> a.toml:1:1", "  = help: use 0 to drain the backend"];
        let mut error = ApiError::new(ErrorCode::ConfigInvalid, "the configuration is invalid");
        error.details = diagnostics.map(str::to_owned).to_vec();
        let expected = format!("{}\nheadgate: the configuration is invalid\n", diagnostics.join("\n"));
        assert_eq!(CliError::from(ClientError::Api(error.clone())).report(), expected);
        assert_eq!(CliError::Refused(error, Listing::Short).report(), expected);
        let unsupported = Unsupported { path: "farms.web.mode".into(), value: "\"dsr\"".into() };
        let expected = "error: not supported yet: farms.web.mode = \"dsr\"\nheadgate: the configuration asks for what this \
                        version cannot do\n";
        assert_eq!(CliError::Kernel(ReconcileError::Unsupported(vec![unsupported.clone()])).report(), expected);
        let files = FilesError::Unsupported(vec![(unsupported, None)]);
        assert!(CliError::files(files, Output { json: false }).report().starts_with("error: not supported yet"));
    }

    #[test]
    fn everything_else_is_one_line() {
        let not_found = ApiError::new(ErrorCode::NotFound, "there is no farm x");
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for (error, expected) in [
            (CliError::from(ClientError::Api(not_found.clone())), "error: there is no farm x\n"),
            (CliError::Refused(not_found, Listing::Short), "error: there is no farm x\n"),
            (CliError::Usage("\"x\" is not KEY=VALUE".into()), "error: \"x\" is not KEY=VALUE\n"),
            (CliError::Usage("\u{1b}[2J".into()), "error: \u{fffd}[2J\n"),
            (CliError::Write("/x".into(), full), "error: cannot write /x: no storage space\n"),
        ] {
            assert_eq!(error.report(), expected);
        }
    }
}
