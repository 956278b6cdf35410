//! The exit codes of both binaries (`docs/commands.md`): scripts rely on them, so they live in one place.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done; for `plan`: nothing to do; for `status`: healthy.
    Good = 0,
    /// The configuration is invalid.
    ConfigInvalid = 1,
    /// Wrong usage, or a name that does not exist. clap uses the same number.
    Usage = 2,
    /// The kernel refused, or the machine failed us (a full disk, a missing privilege).
    KernelRefused = 3,
    /// The daemon cannot be reached.
    Unreachable = 4,
    /// `status`: something is degraded.
    Degraded = 5,
    /// `plan`: there are changes.
    Changes = 10,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
