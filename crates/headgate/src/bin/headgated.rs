//! The supervisor.

use std::process::ExitCode;

use clap::Parser;
use headgate::arguments::Arguments;
use headgate::daemon::{self, Task};
use headgate::exit::Exit;
use headgate::logging;
use headgate::steps::Listing;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = logging::init(arguments.log_format, arguments.log_level.as_deref()) {
        eprintln!("error: {}", headgate::explain(&error));
        return Exit::Usage.into();
    }
    let task = match (arguments.check, arguments.once, arguments.flush) {
        (true, ..) => Task::Check,
        (_, true, _) => Task::Once,
        (_, _, true) => Task::Flush,
        _ => Task::Run,
    };
    let listing = if arguments.all_steps { Listing::All } else { Listing::Short };
    let (exit, text) = daemon::perform(task, &arguments.root, listing);
    eprint!("{text}");
    exit.into()
}
