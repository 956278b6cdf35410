//! `headgate completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Answer;
use super::args::Cli;

pub(super) fn run(shell: Shell) -> Answer {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "headgate", &mut script);
    Answer::good(String::from_utf8_lossy(&script))
}
