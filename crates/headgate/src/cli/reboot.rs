//! `headgate reboot`: the box starts anew, for a login that has no shell.

use std::io::IsTerminal;
use std::path::Path;

use clap::Args;
use headgate_update::install::Machine;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::update::UpdateError;
use super::{Answer, CliError, consent};

#[derive(Debug, Args)]
pub struct Reboot {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

pub(super) fn run(options: &Reboot) -> Result<Answer, CliError> {
    // Before anything is asked: elsewhere PID 1 takes the signal for something else.
    let machine = Machine::find(Path::new("/")).map_err(UpdateError::from)?;
    if !options.yes {
        let question = "Nothing is forwarded until the box is up again. Type reboot to go on: ";
        consent::ask(question, "reboot", &mut std::io::stdin().lock(), std::io::stdin().is_terminal())?;
    }
    // BusyBox init ends everything, writes what is not written, and starts the machine anew (init/init.c, `halt_reboot_pwoff`).
    kill(Pid::from_raw(1), Signal::SIGTERM).map_err(|errno| CliError::Reboot(errno.into()))?;
    Ok(Answer::good(format!("slot {}, version {}, goes down\n", machine.running, machine.version)))
}
