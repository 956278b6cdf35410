//! Lists of steps as people read them. Ten thousand virtual addresses are ten thousand steps that say the same; a few of
//! them, and how many there are, say as much. JSON always has all of them.

use crate::api::StepLine;

/// Up to this many steps of a kind in a row are all listed.
const RUN_MAX: usize = 8;
/// This many of a longer row are.
const RUN_SHOWN: usize = 3;

/// How much of a list is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listing {
    /// Long rows of the same are cut short.
    #[default]
    Short,
    /// Every step.
    All,
}

/// The steps as lines of `line`; of a long row of steps that are `alike` the first ones, and how many more there are.
pub fn listed<T>(
    steps: &[T],
    listing: Listing,
    alike: impl FnMut(&T, &T) -> bool,
    line: impl Fn(&T) -> String,
) -> String {
    let mut text = String::new();
    for row in steps.chunk_by(alike) {
        let shown = match listing {
            Listing::Short if row.len() > RUN_MAX => RUN_SHOWN,
            _ => row.len(),
        };
        text.extend(row[..shown].iter().map(&line));
        if shown < row.len() {
            text += &format!("… and {} more like it\n", row.len() - shown);
        }
    }
    text
}

/// The same kind of step, and the same became of it.
pub fn alike(one: &StepLine, other: &StepLine) -> bool {
    one.kind == other.kind && one.outcome == other.outcome
}

/// What was done: a line a step, with its outcome where that is not simply that it was done.
pub fn told(steps: &[StepLine], listing: Listing) -> String {
    listed(steps, listing, alike, |line| {
        let step = printable(&line.step);
        match line.outcome.as_deref() {
            None | Some("set") => format!("{step}\n"),
            Some(outcome) => format!("{step}: {}\n", printable(outcome)),
        }
    })
}

/// Text without anything that steers a terminal: names of interfaces and kernel messages come from outside.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(kind: &str, numbers: std::ops::Range<u32>, outcome: &str) -> Vec<StepLine> {
        let step = |number| StepLine {
            kind: kind.to_owned(),
            step: format!("{kind} {number}"),
            details: Vec::new(),
            outcome: Some(outcome.to_owned()),
        };
        numbers.map(step).collect()
    }

    #[test]
    fn nine_of_a_kind_are_three_and_a_number_and_eight_are_eight() {
        assert_eq!(told(&steps("add", 0..9, "set"), Listing::Short), "add 0\nadd 1\nadd 2\n… and 6 more like it\n");
        assert_eq!(told(&steps("add", 0..8, "set"), Listing::Short).lines().count(), 8);
        assert_eq!(told(&steps("add", 0..10_000, "set"), Listing::All).lines().count(), 10_000);
        assert_eq!(told(&[], Listing::Short), "");
    }

    #[test]
    fn only_what_follows_on_each_other_with_the_same_outcome_is_one_row() {
        let rows = [
            steps("add", 0..9, "returned"),
            steps("add", 9..10, "refused: no such device"),
            steps("add", 10..20, "skipped"),
            steps("knob", 0..1, "skipped"),
            steps("add", 20..25, "skipped"),
        ];
        let told = told(&rows.concat(), Listing::Short);
        let expected = "add 0: returned\nadd 1: returned\nadd 2: returned\n… and 6 more like it\n\
                        add 9: refused: no such device\n\
                        add 10: skipped\nadd 11: skipped\nadd 12: skipped\n… and 7 more like it\n\
                        knob 0: skipped\n\
                        add 20: skipped\nadd 21: skipped\nadd 22: skipped\nadd 23: skipped\nadd 24: skipped\n";
        assert_eq!(told, expected);
    }

    #[test]
    fn what_steers_a_terminal_is_replaced() {
        let mut hostile = steps("add", 0..1, "refused: \u{1b}[2J");
        hostile[0].step = "add to \u{1b}]0;x\u{7}".to_owned();
        assert!(!told(&hostile, Listing::Short).contains(|c: char| c.is_control() && c != '\n'));
    }
}
