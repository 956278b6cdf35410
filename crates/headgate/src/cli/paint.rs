//! Colours for people, where a terminal shows them.

use std::io::{self, IsTerminal as _};

use anstyle::{AnsiColor, Style};

/// How a line is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// It works, and somebody should know.
    Warning,
    /// It does not work.
    Bad,
}

/// Whether colours are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Colours,
    Nothing,
}

impl Paint {
    /// What standard output takes; `NO_COLOR` (no-color.org) and `TERM=dumb` are honoured.
    pub(super) fn of_output() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if io::stdout().is_terminal() && !plain { Self::Colours } else { Self::Nothing }
    }

    /// One line, or a part of one.
    pub(super) fn text(self, tone: Tone, text: &str) -> String {
        let style = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warning => AnsiColor::Yellow.on_default(),
            // Bold as well: red alone is hard to read on black, and looks like green to some.
            Tone::Bad => AnsiColor::Red.on_default().bold(),
        };
        self.styled(style, text)
    }

    fn styled(self, style: Style, text: &str) -> String {
        match self {
            Self::Colours => format!("{style}{text}{style:#}"),
            Self::Nothing => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_plain_is_painted() {
        assert_eq!(Paint::Colours.text(Tone::Plain, "x"), "x");
        assert_eq!(Paint::Colours.text(Tone::Good, "x"), "\u{1b}[32mx\u{1b}[0m");
        assert_eq!(Paint::Nothing.text(Tone::Bad, "x"), "x");
    }
}
