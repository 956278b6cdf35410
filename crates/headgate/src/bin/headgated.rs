//! The supervisor.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use headgate::daemon::{self, Task};
use headgate::exit::Exit;
use headgate::logging;

/// Load the farms into the kernel, keep them there, and serve the command headgate
///
/// Reads TOML below --root, makes nftables, addresses, routes and knobs follow it, keeps `[services]` running and listens on
/// /run/headgate/api.sock. SIGHUP loads the files again. SIGTERM stops the services and leaves the data plane in place.
#[derive(Debug, Parser)]
#[command(name = "headgated", version, max_term_width = 100)]
#[command(
    after_help = "Exit status:\n  0 good   1 the configuration is invalid   2 wrong usage   3 the kernel or the disk refused"
)]
struct Arguments {
    /// Directory below which configuration and state lie
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Apply the configuration and exit; the data plane goes on
    #[arg(long, conflicts_with_all = ["check", "flush"])]
    once: bool,
    /// Validate the configuration and exit; nothing is touched
    #[arg(long, conflicts_with = "flush")]
    check: bool,
    /// Remove everything of ours from the kernel and exit
    #[arg(long)]
    flush: bool,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logging::Format,
    /// error, warn, info, debug or trace; default: $HEADGATE_LOG, else info
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = logging::init(arguments.log_format, arguments.log_level.as_deref()) {
        eprintln!("headgated: {}", headgate::explain(&error));
        return Exit::Usage.into();
    }
    let task = match (arguments.check, arguments.once, arguments.flush) {
        (true, ..) => Task::Check,
        (_, true, _) => Task::Once,
        (_, _, true) => Task::Flush,
        _ => Task::Run,
    };
    let (exit, text) = daemon::perform(task, &arguments.root);
    eprint!("{text}");
    exit.into()
}
