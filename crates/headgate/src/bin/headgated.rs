//! The supervisor.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use headgate::arguments::Arguments;
use headgate::daemon::{self, Task};
use headgate::dhcp;
use headgate::exit::Exit;
use headgate::logging;
use headgate::steps::Listing;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    if Path::new(&program).file_name().is_some_and(|name| name == dhcp::HOOK) {
        let event = words.next().and_then(|event| event.into_string().ok());
        return match dhcp::hook(&program, event.as_deref()) {
            Ok(()) => Exit::Good.into(),
            Err(error) => {
                eprintln!("error: {}", headgate::explain(&error));
                Exit::KernelRefused.into()
            }
        };
    }
    let arguments = Arguments::parse();
    let records = match logging::init(arguments.log_format, arguments.log_level.as_deref()) {
        Ok(records) => records,
        Err(error) => {
            eprintln!("error: {}", headgate::explain(&error));
            return Exit::Usage.into();
        }
    };
    let task = match (arguments.check, arguments.once, arguments.flush) {
        (true, ..) => Task::Check,
        (_, true, _) => Task::Once,
        (_, _, true) => Task::Flush,
        _ => Task::Run(records),
    };
    let listing = if arguments.all_steps { Listing::All } else { Listing::Short };
    let (exit, text) = daemon::perform(task, &arguments.root, listing);
    eprint!("{text}");
    exit.into()
}
