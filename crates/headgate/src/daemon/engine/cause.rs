//! Why a configuration is applied.

use crate::daemon::caller::Caller;

/// Why a configuration is applied; the word in `history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The daemon begins.
    Start,
    /// SIGHUP.
    Reload,
    /// `headgate apply`.
    Apply,
    /// `headgate farm …`, `headgate backend …`.
    Operator,
    /// `headgate rollback`.
    Rollback,
    /// A trial that nobody confirmed.
    Lapse,
}

/// Why a configuration is applied, and who asked for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause<'a> {
    /// Why.
    pub(super) reason: Reason,
    /// Nobody: a signal, a start, a trial that is over.
    pub(super) by: Option<&'a Caller>,
}

impl Cause<'_> {
    /// As `history` names them.
    pub(super) fn author(self) -> Option<String> {
        self.by.map(|caller| caller.name().to_owned())
    }
}

impl Reason {
    /// As it is written.
    pub(super) fn word(self) -> &'static str {
        match self {
            Reason::Start => "start",
            Reason::Reload => "reload",
            Reason::Apply => "apply",
            Reason::Operator => "operator",
            Reason::Rollback => "rollback",
            Reason::Lapse => "lapse",
        }
    }
}
