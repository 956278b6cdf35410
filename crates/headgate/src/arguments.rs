//! The command line of `headgated`. It is not in its binary, so that `headgate man` can write its page with the others.

use std::path::PathBuf;

use clap::Parser;

use crate::logging::Format;

/// Load the farms into the kernel, keep them there, and serve the command headgate
///
/// Reads TOML below --root, makes nftables, addresses, routes and knobs follow it, keeps `[services]` running and listens on
/// /run/headgate/api.sock. SIGHUP loads the files again. SIGTERM stops the services and leaves the data plane in place. SIGUSR2 has
/// the program that lies in place of this one take over in the same process, its sockets included.
#[derive(Debug, Parser)]
#[command(name = "headgated", version, max_term_width = 100)]
#[command(
    after_help = "Exit status:\n  0 good   1 the configuration is invalid   2 wrong usage   3 the kernel or the disk refused"
)]
pub struct Arguments {
    /// Directory below which configuration and state lie
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Apply the configuration and exit; the data plane goes on
    #[arg(long, conflicts_with_all = ["check", "flush"])]
    pub once: bool,
    /// Validate the configuration and exit; nothing is touched
    #[arg(long, conflicts_with = "flush")]
    pub check: bool,
    /// Remove everything of ours from the kernel and exit
    #[arg(long)]
    pub flush: bool,
    /// With --flush or --once: print every step, not only the first of many alike
    // Not `--all` as of `headgate plan`: `--flush --all` would read as if there were a flush of less.
    #[arg(long)]
    pub all_steps: bool,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: Format,
    /// error, warn, info, debug or trace; default: $HEADGATE_LOG, else info
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}
