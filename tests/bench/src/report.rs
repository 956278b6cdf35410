//! What a measurement says: tables with numbers, and targets that are met or not. The same value is printed for people,
//! printed as JSON, and written into `docs/benchmarks.md` between the markers of its section.

use std::fmt;

use anyhow::{Context, Result};
use headgate_image::source::Source;
use serde::{Serialize, Serializer};

/// The page that holds every section.
const PAGE: &str = "docs/benchmarks.md";

/// One subcommand's results.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The subcommand; also the section's name in the page.
    pub name: &'static str,
    /// What was used to measure: names and versions, in the order to show.
    pub setting: Vec<(String, String)>,
    /// The figures.
    pub tables: Vec<Table>,
    /// What the design asks for.
    pub targets: Vec<Target>,
}

/// Rows under one title.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// One line.
    pub title: String,
    /// The header; the unit is part of it.
    pub columns: Vec<String>,
    /// As many cells each as there are columns.
    pub rows: Vec<Vec<Cell>>,
    /// How to read it, and what must be known to trust it: one paragraph each.
    pub notes: Vec<String>,
}

/// One figure or word.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A word.
    Text(String),
    /// A number and how many of its decimals mean something.
    Number(f64, usize),
    /// Not measured, because it makes no sense or did not end in time.
    Missing,
}

/// One target of the design beside what was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// What is measured.
    pub what: String,
    /// What the design asks for, with its unit.
    pub wanted: String,
    /// What came out, with its unit.
    pub measured: String,
    /// Whether that is enough.
    pub met: bool,
}

impl Table {
    /// An empty table.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.into(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    /// The same with one more note.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }
}

impl Target {
    /// Something that must not be more than `limit`.
    pub fn at_most(what: impl Into<String>, limit: f64, measured: f64, unit: &str) -> Self {
        Self::new(what.into(), ("≤", limit), measured, unit, measured <= limit)
    }

    /// Something that must not be less than `limit`.
    pub fn at_least(what: impl Into<String>, limit: f64, measured: f64, unit: &str) -> Self {
        Self::new(what.into(), ("≥", limit), measured, unit, measured >= limit)
    }

    fn new(what: String, (sign, limit): (&str, f64), measured: f64, unit: &str, met: bool) -> Self {
        let space = if unit.is_empty() { "" } else { " " };
        // A measured value is shown with one digit more than its limit, so that a near miss is seen to be one.
        let decimals = if limit.fract() == 0.0 { 1 } else { 3 };
        let wanted = format!("{sign} {limit}{space}{unit}");
        Self { what, wanted, measured: format!("{measured:.decimals$}{space}{unit}"), met }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(value, decimals) => f.write_str(&grouped(&format!("{value:.decimals$}"))),
            Self::Missing => f.write_str("-"),
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(value, _) => serializer.serialize_f64(*value),
            Self::Missing => serializer.serialize_none(),
        }
    }
}

/// 1234567.8 as 1,234,567.8.
fn grouped(number: &str) -> String {
    let start = number.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
    let end = number.find('.').unwrap_or(number.len());
    let mut text = number[..start].to_owned();
    for (index, digit) in number[start..end].char_indices() {
        if index > 0 && (end - start - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + &number[end..]
}

impl Report {
    /// Markdown, aligned so that it reads well on a terminal too.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let setting: Vec<String> = self.setting.iter().map(|(name, value)| format!("{name} {value}")).collect();
        text += &format!("Measured with: {}.\n", setting.join("; "));
        for table in &self.tables {
            text += &format!("\n**{}**\n\n{}", table.title, grid(&table.columns, &table.rows));
            for note in &table.notes {
                text += &format!("\n{note}\n");
            }
        }
        if !self.targets.is_empty() {
            let columns = ["target", "asked for", "measured", ""].map(str::to_owned);
            let rows: Vec<Vec<Cell>> = self.targets.iter().map(Target::cells).collect();
            text += &format!("\n**Targets**\n\n{}", grid(&columns, &rows));
        }
        text
    }

    /// Puts the markdown into this report's section of `docs/benchmarks.md`.
    pub fn write(&self) -> Result<()> {
        let path = Source::find()?.join(PAGE);
        let page = std::fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
        let page = replace_section(&page, self.name, &self.markdown())
            .with_context(|| format!("{PAGE} has no section {:?} with its two markers", self.name))?;
        std::fs::write(&path, page).with_context(|| format!("cannot write {PAGE}"))
    }
}

impl Target {
    fn cells(&self) -> Vec<Cell> {
        let verdict = if self.met { "met" } else { "**not met**" };
        [&self.what, &self.wanted, &self.measured, verdict].map(|text| Cell::Text(text.to_owned())).to_vec()
    }
}

/// A markdown table; columns of numbers are aligned to the right.
fn grid(columns: &[String], rows: &[Vec<Cell>]) -> String {
    let shown: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect();
    let number = |column: usize| {
        rows.iter().any(|row| matches!(row[column], Cell::Number(..)))
            && !rows.iter().any(|row| matches!(row[column], Cell::Text(_)))
    };
    let width = |column: usize| {
        let cells = shown.iter().map(|row| row[column].chars().count());
        cells.chain([columns[column].chars().count(), 3]).max().unwrap_or(3)
    };
    let line = |cells: &[String]| {
        let padded = cells.iter().enumerate().map(|(column, cell)| match number(column) {
            true => format!("{cell:>width$}", width = width(column)),
            false => format!("{cell:<width$}", width = width(column)),
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule: Vec<String> = (0..columns.len())
        .map(|column| match number(column) {
            true => format!("{}:", "-".repeat(width(column) - 1)),
            false => "-".repeat(width(column)),
        })
        .collect();
    let mut text = line(columns) + &line(&rule);
    for row in &shown {
        text += &line(row);
    }
    text
}

fn replace_section(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin: {name} -->\n"), format!("<!-- end: {name} -->"));
    let start = page.find(&begin)? + begin.len();
    let stop = start + page[start..].find(&end)?;
    Some(format!("{}{text}{}", &page[..start], &page[stop..]))
}

#[cfg(test)]
mod tests;
