//! One line of a file, made safe and short enough for a terminal, with the place of the caret.

use serde::{Deserialize, Serialize};

/// Widest excerpt, in terminal cells, the gutter not counted.
const WIDTH_MAX: usize = 100;
/// What stays visible before the caret when a line is cut.
const BEFORE: usize = 40;
/// Tab stops as compilers show them.
const TAB: usize = 4;

/// A line of a file as it is shown: tabs expanded, control characters replaced, cut around the caret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// The line.
    pub text: String,
    /// Terminal cells before the caret.
    pub start: usize,
    /// Terminal cells under the caret, at least 1.
    pub width: usize,
}

impl Excerpt {
    /// `start` and `end` are byte offsets of the marked part within `line`.
    pub(crate) fn new(line: &str, start: usize, end: usize) -> Self {
        let start = floor_char(line, start);
        let end = floor_char(line, end.max(start));
        // A line may be as long as a file: only what can be visible is looked at.
        let from = line[..start].char_indices().rev().take(BEFORE).last().map_or(start, |(at, _)| at);
        let mut text = String::new();
        if from > 0 {
            text.push('…');
        }
        let mut cells = width(&text);
        let mut caret = (cells, cells);
        let mut cut = false;
        for (at, c) in line[from..].char_indices().map(|(at, c)| (at + from, c)) {
            if cells >= WIDTH_MAX {
                cut = true;
                break;
            }
            if at <= start {
                caret.0 = cells;
            }
            if c == '\t' {
                let next = (cells / TAB + 1) * TAB;
                text.extend(std::iter::repeat_n(' ', next - cells));
                cells = next;
            } else {
                let shown = visible(c);
                text.push(shown);
                cells += char_width(shown);
            }
            if at < end {
                caret.1 = cells;
            }
        }
        if start >= line.len() {
            caret.0 = cells;
        }
        if cut {
            text.push('…');
        } else {
            text.truncate(text.trim_end().len());
        }
        Self { text, start: caret.0, width: caret.1.saturating_sub(caret.0).max(1) }
    }
}

fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Replaces what a terminal would obey: control characters by their picture, invisible and direction-changing ones by U+FFFD.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(visible).collect()
}

fn visible(c: char) -> char {
    match c {
        '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

fn char_width(c: char) -> usize {
    unicode_width::UnicodeWidthChar::width(c).unwrap_or(1)
}

/// Terminal cells of a text.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}
