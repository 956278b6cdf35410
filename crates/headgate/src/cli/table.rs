//! Aligned columns.

use crate::steps::printable;

/// A table of text: a heading, rows, columns as wide as their widest cell.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A heading; columns whose heading begins with `>` are numbers and stand to the right.
    pub(super) fn new(heading: &[&str]) -> Self {
        let right = heading.iter().map(|cell| cell.starts_with('>')).collect();
        let heading = heading.iter().map(|cell| cell.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![heading], right }
    }

    /// Adds a row; it has as many cells as the heading.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// Nothing but the heading.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.right.len();
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let (width, right) = (widths[column], self.right[column]);
                line += &if right { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
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
}
