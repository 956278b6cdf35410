//! Aligned columns.

use super::paint::{Paint, Tone};
use crate::steps::printable;

/// A table of text: a heading, rows, columns as wide as their widest cell.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<(Tone, Vec<String>)>,
    right: Vec<bool>,
}

impl Table {
    /// A heading; columns whose heading begins with `>` are numbers and stand to the right.
    pub(super) fn new(heading: &[&str]) -> Self {
        let right = heading.iter().map(|cell| cell.starts_with('>')).collect();
        let heading = heading.iter().map(|cell| cell.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![(Tone::Plain, heading)], right }
    }

    /// Adds a row; it has as many cells as the heading.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.row_in(Tone::Plain, cells);
    }

    /// The same, meant so.
    pub(super) fn row_in(&mut self, tone: Tone, cells: impl IntoIterator<Item = String>) {
        self.rows.push((tone, cells.into_iter().map(|cell| printable(&cell)).collect()));
    }

    /// Nothing but the heading.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl Table {
    /// As text, its rows in the colours of their tones.
    pub(super) fn shown(&self, paint: Paint) -> String {
        let columns = self.right.len();
        let cells = |column: usize| self.rows.iter().filter_map(move |(_, row)| row.get(column));
        let width = |column: usize| cells(column).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for (tone, row) in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let (width, right) = (widths[column], self.right[column]);
                line += &if right { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            text += &paint.text(*tone, line.trim_end());
            text.push('\n');
        }
        text
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown(Paint::Nothing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_have_no_tail() {
        let mut table = Table::new(&["FARM", ">FLOWS", "NOTE"]);
        table.row(["web".into(), "12".into(), String::new()]);
        table.row(["mail-in".into(), "4".into(), "\u{1b}[31mred".into()]);
        assert_eq!(table.to_string(), "FARM     FLOWS  NOTE\nweb         12\nmail-in      4  \u{fffd}[31mred\n");
    }

    #[test]
    fn a_row_is_painted_and_its_padding_counts_what_is_seen() {
        let mut table = Table::new(&["FARM", "STATE"]);
        table.row_in(Tone::Bad, ["a".into(), "down".into()]);
        assert_eq!(table.shown(Paint::Colours), "FARM  STATE\n\u{1b}[1m\u{1b}[31ma     down\u{1b}[0m\n");
    }
}
