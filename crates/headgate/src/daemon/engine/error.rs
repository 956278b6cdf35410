//! Why the engine did not do what it was asked for.

use headgate_config::Origin;
use headgate_config::diagnostic::Diagnostics;
use headgate_host::HostError;
use headgate_host::root::RootError;
use headgate_plan::compile::Unsupported;

use crate::api::{ApiError, ErrorCode, StepLine};
use crate::daemon::operator::{OperatorError, Target};
use crate::daemon::store::StoreError;
use crate::drop_in::DropInName;
use crate::files::place;
use crate::reconcile::ReconcileError;
use crate::steps::{Listing, told};

/// Why a request was not carried out. What ran before still runs.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EngineError {
    #[error("the configuration is invalid")]
    Config(Diagnostics),
    #[error("the configuration asks for what this version cannot do")]
    Unsupported(Vec<(Unsupported, Option<Origin>)>),
    #[error("{reason}; what ran before runs on")]
    Refused { reason: String, steps: Vec<StepLine> },
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    File(#[from] RootError),
    #[error(transparent)]
    Conntrack(#[from] headgate_host::conntrack::ConntrackError),
    #[error("there is no {0}")]
    NotFound(String),
    #[error("{0} exists already")]
    Exists(Target),
    #[error(
        "generation {0} runs, not the files: `headgate apply` loads the files again, and then --persist can change them"
    )]
    Returned(u64),
    #[error(
        "this configuration was returned from and is not loaded again until its files change; `headgate apply` loads it"
    )]
    NotAgain,
    #[error("no configuration runs yet")]
    NothingRuns,
    #[error("another configuration is on trial: `headgate confirm` keeps it, `headgate rollback` returns from it")]
    OnTrial,
    #[error("nothing is on trial: there is nothing to confirm")]
    NoTrial,
    #[error("what runs now is not kept, so it could not return: apply without --confirm")]
    NoReturn,
    #[error("{0}; with --confirm 60s it is tried, and what runs now returns unless you can still confirm")]
    ShutsOut(String),
    #[error(
        "{0} is headgated's own, of what is changed with --persist: `headgate farm` and `headgate backend` change it"
    )]
    Own(DropInName),
    #[error("{name} is {}: it is left as it is", if *is_link { "a link, which is not followed" } else { "no file" })]
    NoFile { name: DropInName, is_link: bool },
    #[error(
        "generation {number} runs, not the files, and {file} would come back as well: change that one first, `headgate apply` \
         loads all, and --confirm 60s tries it"
    )]
    ComesBack { number: u64, file: String },
    #[error("this needs the scope root, for it changes {what}; {by} has less")]
    Reach { what: &'static str, by: String },
    #[error("what runs is not kept as a generation; `headgate status` says why")]
    NotKept,
}

impl EngineError {
    /// The error as the API sends it.
    pub fn api(&self) -> ApiError {
        let details = match self {
            // No line of a file: whoever may use the API need not be allowed to read the files.
            EngineError::Config(diagnostics) => {
                diagnostics.without_excerpts().to_string().lines().map(str::to_owned).collect()
            }
            EngineError::Unsupported(list) => {
                list.iter().flat_map(|one| place(one).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
            }
            _ => Vec::new(),
        };
        let steps = match self {
            EngineError::Refused { steps, .. } => steps.clone(),
            _ => Vec::new(),
        };
        ApiError { code: self.code(), message: crate::explain(self), details, steps }
    }

    /// The error for whoever may read the files: with the lines that are wrong, and the steps that were tried.
    pub fn full(&self, listing: Listing) -> String {
        match self {
            EngineError::Config(diagnostics) => diagnostics.to_string(),
            EngineError::Unsupported(list) => list.iter().map(place).collect(),
            EngineError::Refused { steps, .. } => format!("error: {}\n{}", crate::explain(self), told(steps, listing)),
            _ => format!("error: {}\n", crate::explain(self)),
        }
    }

    /// What is wrong first and where, for a status.
    pub fn in_one_line(&self) -> String {
        let ApiError { message, details, .. } = self.api();
        first(&details).map_or(message.clone(), |first| format!("{message}: {first}"))
    }

    /// Its place among the errors of the API.
    pub fn code(&self) -> ErrorCode {
        match self {
            EngineError::Config(_) | EngineError::Unsupported(_) => ErrorCode::ConfigInvalid,
            EngineError::Refused { .. } | EngineError::Host(_) | EngineError::Conntrack(_) => ErrorCode::KernelRefused,
            EngineError::Store(StoreError::NoGeneration(_) | StoreError::NoEarlier) | EngineError::NotFound(_) => {
                ErrorCode::NotFound
            }
            EngineError::Store(_) | EngineError::File(_) => ErrorCode::StorageFailed,
            EngineError::Operator(OperatorError::Value { .. }) => ErrorCode::BadRequest,
            EngineError::Operator(_) => ErrorCode::ConfigInvalid,
            EngineError::Reach { .. } => ErrorCode::Forbidden,
            EngineError::Own(_)
            | EngineError::NoFile { .. }
            | EngineError::ComesBack { .. }
            | EngineError::Exists(_)
            | EngineError::Returned(_)
            | EngineError::NotAgain
            | EngineError::NothingRuns
            | EngineError::OnTrial
            | EngineError::NoTrial
            | EngineError::NoReturn
            | EngineError::ShutsOut(_)
            | EngineError::NotKept => ErrorCode::Conflict,
        }
    }
}

impl From<ReconcileError> for EngineError {
    fn from(error: ReconcileError) -> Self {
        let reason = error.to_string();
        match error {
            ReconcileError::Unsupported(list) => {
                EngineError::Unsupported(list.into_iter().map(|one| (one, None)).collect())
            }
            ReconcileError::Host(error) => EngineError::Host(error),
            ReconcileError::Refused { steps, .. } | ReconcileError::Unsettled(steps) => {
                EngineError::Refused { reason, steps }
            }
        }
    }
}

/// The first error of a listing, its place before it, and how many others there are. Warnings stand among the errors, by their
/// places.
fn first(details: &[String]) -> Option<String> {
    let mut errors = details.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix("error: ")?)));
    let (at, what) = errors.next()?;
    let place = details.get(at + 1).and_then(|line| line.strip_prefix("  --> "));
    let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
    let others = match errors.count() {
        0 => String::new(),
        others => format!(", and {others} more"),
    };
    Some(format!("{place}{what}{others}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_the_first_error_and_its_place() {
        let listing = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let one =
            "warning: old\n  --> a.toml:1:1\n\nerror: \"santa\" is no value of mode\n  --> b.toml:2:8\n = help: snat\n";
        assert_eq!(first(&listing(one)).unwrap(), "b.toml:2:8: \"santa\" is no value of mode");
        let two = format!("{one}\nerror: no such field\n  --> c.toml:3:1\n");
        assert_eq!(first(&listing(&two)).unwrap(), "b.toml:2:8: \"santa\" is no value of mode, and 1 more");
        assert_eq!(first(&listing("error: no configuration")).unwrap(), "no configuration");
        assert_eq!(first(&[]), None);
    }
}
