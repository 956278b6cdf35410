//! `headgate factory-reset`: the data partition becomes what the image came with, at the next start.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use clap::Args;
use headgate_update::install::Machine;
use headgate_update::reset;

use super::update::UpdateError;
use super::{Answer, CliError};

/// What has to be typed.
const WORD: &str = "reset";

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
        ask(&mut std::io::stdin().lock(), std::io::stdin().is_terminal())?;
    }
    machine.environment.change(reset::ask).map_err(UpdateError::from)?;
    Ok(Answer::good(
        "the next start puts data back to what this system came with: configuration, history, tokens, logs and leases are \
         gone then. `reboot` starts it.\n",
    ))
}

fn ask(input: &mut impl BufRead, is_terminal: bool) -> Result<(), CliError> {
    if !is_terminal {
        return Err(CliError::Usage("nobody can be asked here: --yes says that it is meant".to_owned()));
    }
    eprint!("Configuration, history, tokens, logs and leases of this box will be gone. Type {WORD} to go on: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let _ = input.read_line(&mut line);
    match line.trim() == WORD {
        true => Ok(()),
        false => Err(CliError::Usage("nothing was changed".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_goes_on() {
        assert!(ask(&mut "reset\n".as_bytes(), true).is_ok());
        for said in ["", "yes\n", "RESET\n"] {
            assert!(ask(&mut said.as_bytes(), true).is_err(), "{said:?}");
        }
        assert!(ask(&mut "reset\n".as_bytes(), false).unwrap_err().to_string().contains("--yes"));
    }
}
