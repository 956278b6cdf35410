//! Asking before something that cannot be taken back.

use std::io::{BufRead, Write};

use super::CliError;

/// Prints the `question` and goes on only when `word` is typed.
///
/// # Errors
/// [`CliError::Usage`] when something else is typed, or nobody can be asked.
pub(super) fn ask(question: &str, word: &str, input: &mut impl BufRead, is_terminal: bool) -> Result<(), CliError> {
    if !is_terminal {
        return Err(CliError::Usage("nobody can be asked here: --yes says that it is meant".to_owned()));
    }
    eprint!("{question}");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let _ = input.read_line(&mut line);
    match line.trim() == word {
        true => Ok(()),
        false => Err(CliError::Usage("nothing was changed".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_goes_on() {
        let ask = |said: &str, is_terminal| ask("?", "reset", &mut said.as_bytes(), is_terminal);
        assert!(ask("reset\n", true).is_ok());
        for said in ["", "yes\n", "RESET\n"] {
            assert!(ask(said, true).is_err(), "{said:?}");
        }
        assert!(ask("reset\n", false).unwrap_err().to_string().contains("--yes"));
    }
}
