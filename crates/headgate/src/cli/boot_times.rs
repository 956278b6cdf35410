//! `headgate boot-times`: where the time of the last start went.

use std::path::Path;

use headgate_update::milestones::{self, Milestone};

use super::args::Output;
use super::{Answer, CliError};

pub(super) fn run(output: Output) -> Result<Answer, CliError> {
    let list = Path::new(milestones::FILE);
    let found = milestones::read(list).map_err(|error| CliError::Read(list.to_owned(), error))?;
    Answer::of(output, &found, |found| table(found))
}

/// Steps run side by side, so a line's own share is what passed since the line before: no more than that was waited for it.
fn table(found: &[Milestone]) -> String {
    let mut before = 0.0;
    let mut text = String::from("    at, s   after, s  what\n");
    for Milestone { seconds, what } in found {
        text.push_str(&format!("{seconds:9.2}  {:9.2}  {what}\n", seconds - before));
        before = *seconds;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_when_and_how_long_after_the_one_before() {
        let milestone = |seconds, what: &str| Milestone { seconds, what: what.to_owned() };
        let text = table(&[milestone(3.25, "initramfs"), milestone(4.0, "slot A mounted")]);
        assert!(text.contains("     3.25       3.25  initramfs\n     4.00       0.75  slot A mounted\n"), "{text}");
    }
}
