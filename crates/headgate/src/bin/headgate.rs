//! The operator's command.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use headgate::cli::{self, args::Cli};
use headgate::exit::Exit;
use headgate::login;

fn main() -> ExitCode {
    let words = match login::command_line() {
        Ok(words) => words,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage.into();
        }
    };
    match cli::run(Cli::parse_from(words)) {
        Ok(answer) => {
            for note in &answer.notes {
                eprintln!("{note}");
            }
            match io::stdout().lock().write_all(answer.text.as_bytes()) {
                // Whoever reads has seen enough: `headgate history | head`.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    eprintln!("error: cannot print: {error}");
                    Exit::KernelRefused.into()
                }
                _ => answer.exit.into(),
            }
        }
        Err(error) => {
            eprint!("{}", error.report());
            print!("{}", error.text().unwrap_or_default());
            error.exit().into()
        }
    }
}
