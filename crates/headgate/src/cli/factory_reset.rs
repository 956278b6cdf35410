//! `headgate factory-reset`: the data partition becomes what the image came with, at the next start.

use std::io::IsTerminal;
use std::path::Path;

use clap::Args;
use headgate_update::install::Machine;
use headgate_update::reset;

use super::update::UpdateError;
use super::{Answer, CliError, consent};

#[derive(Debug, Args)]
pub struct FactoryReset {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

pub(super) fn run(options: &FactoryReset) -> Result<Answer, CliError> {
    // Before anything is asked: on another machine there is nothing to reset.
    let machine = Machine::find(Path::new("/")).map_err(UpdateError::from)?;
    if !options.yes {
        let question =
            "Configuration, history, tokens, logs and leases of this box will be gone. Type reset to go on: ";
        consent::ask(question, "reset", &mut std::io::stdin().lock(), std::io::stdin().is_terminal())?;
    }
    machine.environment.change(reset::ask).map_err(UpdateError::from)?;
    Ok(Answer::good(
        "the next start puts data back to what this system came with: configuration, history, tokens, logs and leases are \
         gone then. `headgate reboot` starts it.\n",
    ))
}
