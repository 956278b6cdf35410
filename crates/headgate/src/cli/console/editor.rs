//! What is typed: bytes from a terminal in raw mode, or noise from an open serial line, into lines.
//!
//! The kernel's line discipline would do most of it, but it echoes control characters of its own choice, and Ctrl-C needs a controlling
//! terminal, which a process started by init need not get.

/// The longest line, characters. The longest sensible command has two names of 63.
const LINE_MAX: usize = 200;

/// What a byte brings about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Typed {
    /// To be shown; often nothing.
    Echo(String),
    /// Enter.
    Line(String),
    /// Enter after more than a line can hold.
    TooLong,
    /// Ctrl-C.
    Cancel,
    /// Ctrl-D on an empty line.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Text,
    /// After a carriage return: a line feed belongs to it.
    Return,
    /// After ESC.
    Escape,
    /// In a control sequence (ECMA-48): up to a final byte.
    Sequence,
}

/// A line under way.
#[derive(Debug, Default)]
pub(super) struct Editor {
    text: String,
    too_long: bool,
    place: Place,
}

impl Editor {
    /// Takes one byte. Everything but printable ASCII and a few keys is ignored: no name has other characters.
    pub(super) fn take(&mut self, byte: u8) -> Typed {
        let nothing = Typed::Echo(String::new());
        match std::mem::take(&mut self.place) {
            Place::Return if byte == b'\n' => return nothing,
            Place::Escape if matches!(byte, b'[' | b'O') => {
                self.place = Place::Sequence;
                return nothing;
            }
            Place::Escape if byte >= b' ' => return nothing,
            Place::Sequence if (b' '..b'@').contains(&byte) => {
                self.place = Place::Sequence;
                return nothing;
            }
            Place::Sequence if byte >= b'@' => return nothing,
            _ => {}
        }
        match byte {
            b'\r' | b'\n' => {
                self.place = if byte == b'\r' { Place::Return } else { Place::Text };
                let text = std::mem::take(&mut self.text);
                if std::mem::take(&mut self.too_long) { Typed::TooLong } else { Typed::Line(text) }
            }
            0x03 => {
                self.clear();
                Typed::Cancel
            }
            0x04 if self.text.is_empty() => Typed::End,
            // Backspace, as terminals of either kind send it.
            0x08 | 0x7f => Typed::Echo(rubbed_out(usize::from(self.text.pop().is_some()))),
            // Ctrl-U.
            0x15 => Typed::Echo(rubbed_out(self.clear())),
            // Ctrl-W.
            0x17 => {
                let before = self.text.len();
                let kept = self.text.trim_end().rfind(' ').map_or(0, |space| space + 1);
                self.text.truncate(kept);
                Typed::Echo(rubbed_out(before - kept))
            }
            0x1b => {
                self.place = Place::Escape;
                nothing
            }
            b' '..=b'~' if self.text.len() < LINE_MAX => {
                self.text.push(char::from(byte));
                Typed::Echo(char::from(byte).to_string())
            }
            b' '..=b'~' => {
                self.too_long = true;
                nothing
            }
            _ => nothing,
        }
    }

    fn clear(&mut self) -> usize {
        self.too_long = false;
        std::mem::take(&mut self.text).len()
    }
}

fn rubbed_out(count: usize) -> String {
    "\x08 \x08".repeat(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Typed> {
        let mut editor = Editor::default();
        bytes.iter().map(|byte| editor.take(*byte)).filter(|typed| !matches!(typed, Typed::Echo(_))).collect()
    }

    #[test]
    fn keys_edit_the_line() {
        let line = |text: &str| Typed::Line(text.into());
        let table: &[(&[u8], &[Typed])] = &[
            (b"status\n", &[line("status")]),
            (b"status\r\n\r\n\n", &[line("status"), line(""), line("")]),
            (b"stx\x7fat\x08atus\r", &[line("staatus")]),
            (b"\x7f\x7f\x08x\n", &[line("x")]),
            (b"farm show web\x17\x17list\n", &[line("farm list")]),
            (b"garbage\x15plan\n", &[line("plan")]),
            (b"abc\x03plan\n", &[Typed::Cancel, line("plan")]),
            (b"\x1b[A\x1b[1;5C\x1bOPplan\x1b\n", &[line("plan")]),
            (b"\x1b[\x03", &[Typed::Cancel]),
            (b"a\x04\x04b\n\x04", &[line("ab"), Typed::End]),
            (b"\x00\xff\xc3\xa4pl\x07an\n", &[line("plan")]),
        ];
        for (bytes, want) in table {
            assert_eq!(lines(bytes), *want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_line_without_end_takes_no_room() {
        let mut editor = Editor::default();
        for _ in 0..1_000_000 {
            editor.take(b'x');
        }
        assert_eq!(editor.text.len(), LINE_MAX);
        assert_eq!(editor.take(b'\n'), Typed::TooLong);
        assert_eq!(editor.take(b'\n'), Typed::Line(String::new()));
    }

    #[test]
    fn nothing_that_moves_the_cursor_is_echoed_but_rubbing_out() {
        let mut editor = Editor::default();
        for byte in 0..=255 {
            if let Typed::Echo(echo) = editor.take(byte) {
                let rest = echo.replace("\x08 \x08", "");
                assert!(!rest.contains(|c: char| c.is_control()), "{byte:#x} echoes {echo:?}");
            }
        }
    }
}
