//! What is wrong with a configuration, where, and what would be right: for a terminal, as JSON, and without a line of the file.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::parse::SyntaxError;
use crate::source::Files;
use crate::tree::Span;
use crate::types::Invalid;

mod excerpt;

pub use excerpt::Excerpt;
use excerpt::{clean, width};

/// So many are shown; a file that is not a configuration at all would scroll the first, most telling ones away.
const SHOWN_MAX: usize = 100;

/// Whether the configuration can be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but is likely not what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file, as the user would open it.
    pub file: Arc<PathBuf>,
    /// Line, from 1; 0 means the file as a whole.
    pub line: u32,
    /// Column in characters, from 1; 0 with line 0.
    pub column: u32,
    /// The line itself; absent where no line of a file may be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<Excerpt>,
}

/// A second place that belongs to a diagnostic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What is there.
    pub text: String,
    /// Where.
    pub place: Place,
}

/// One refusal or warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, one line.
    pub message: String,
    /// Where; absent when it concerns no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Other places that take part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// What would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// All diagnostics of a run, by file and position, at most 100 and the number of those left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    more: usize,
}

impl Diagnostics {
    /// One diagnostic that concerns no place in a file.
    pub fn error(message: impl Into<String>) -> Self {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            place: None,
            notes: Vec::new(),
            help: None,
        };
        Self { list: vec![diagnostic], more: 0 }
    }

    /// Nothing to say.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are, those left out included.
    pub fn count(&self) -> usize {
        self.list.len() + self.more
    }

    /// Those that are kept, by file and position.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// How many were left out.
    pub fn more(&self) -> usize {
        self.more
    }

    /// The same without any line of a file, as the API shows them to clients who may not read the files.
    #[must_use]
    pub fn without_excerpts(&self) -> Self {
        let mut copy = self.clone();
        for diagnostic in &mut copy.list {
            let places = diagnostic.place.iter_mut().chain(diagnostic.notes.iter_mut().map(|note| &mut note.place));
            places.for_each(|place| place.excerpt = None);
        }
        copy
    }
}

/// Its text is all the blocks: what was wrong is nothing but these.
impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, diagnostic) in self.list.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            diagnostic.fmt(f)?;
        }
        if self.more > 0 {
            writeln!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.severity, clean(&self.message))?;
        let places = || self.place.iter().chain(self.notes.iter().map(|note| &note.place));
        let gutter =
            places().map(|place| if place.excerpt.is_some() { digits(place.line) } else { 1 }).max().unwrap_or(1);
        if let Some(place) = &self.place {
            place.show(f, gutter)?;
        }
        for note in &self.notes {
            writeln!(f, "{:gutter$} = note: {}", "", clean(&note.text))?;
            note.place.show(f, gutter)?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "{:gutter$} = help: {}", "", clean(help))?;
        }
        Ok(())
    }
}

impl Place {
    fn show(&self, f: &mut fmt::Formatter<'_>, gutter: usize) -> fmt::Result {
        let file = self.file.display().to_string();
        if self.line == 0 {
            return writeln!(f, "  --> {}", clean(&file));
        }
        writeln!(f, "  --> {}:{}:{}", clean(&file), self.line, self.column)?;
        let Some(excerpt) = &self.excerpt else { return Ok(()) };
        writeln!(f, "{:gutter$} | {}", self.line, excerpt.text)?;
        let carets = "^".repeat(excerpt.width.max(1));
        writeln!(f, "{:gutter$} | {:indent$}{carets}", "", "", indent = excerpt.start)
    }
}

fn digits(line: u32) -> usize {
    width(&line.to_string())
}

/// Where a diagnostic points before its line and column are known. Ordered: files as a whole before places in files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum At {
    /// A file that could not be read.
    File(Arc<PathBuf>),
    Span(Span),
}

/// What a diagnostic says beyond its message and place.
#[derive(Debug, Clone)]
struct Rest {
    severity: Severity,
    notes: Vec<(Span, String)>,
    help: Option<String>,
}

/// Gathers diagnostics in any order. The same message at the same place counts once: `[defaults.farm]` reaches every farm.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    found: BTreeMap<(At, String), Rest>,
    /// Hashes of all that was ever found: what was pushed out must not be counted again.
    seen: HashSet<u64>,
    more: usize,
    errors: usize,
}

/// A diagnostic on its way into a [`Collector`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Report {
    at: At,
    message: String,
    rest: Rest,
}

impl Report {
    pub(crate) fn error(span: Span, message: impl Into<String>) -> Self {
        let rest = Rest { severity: Severity::Error, notes: Vec::new(), help: None };
        Self { at: At::Span(span), message: message.into(), rest }
    }

    pub(crate) fn warning(span: Span, message: impl Into<String>) -> Self {
        let mut report = Self::error(span, message);
        report.rest.severity = Severity::Warning;
        report
    }

    pub(crate) fn file(file: &Arc<PathBuf>, message: impl Into<String>) -> Self {
        Self { at: At::File(file.clone()), ..Self::error(Span::default(), message) }
    }

    pub(crate) fn syntax(error: SyntaxError) -> Self {
        let report = Self::error(error.span, error.message);
        match error.first {
            Some(first) => report.note(first, "it is already here"),
            None => report,
        }
    }

    pub(crate) fn invalid(span: Span, invalid: Invalid) -> Self {
        let mut report = Self::error(span, invalid.message);
        report.rest.help = invalid.help;
        report
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.rest.help = Some(help.into());
        self
    }

    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.rest.help = help;
        self
    }

    pub(crate) fn note(mut self, span: Span, text: impl Into<String>) -> Self {
        self.rest.notes.push((span, text.into()));
        self
    }
}

impl Collector {
    pub(crate) fn push(&mut self, report: Report) {
        let key = (report.at, report.message);
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return;
        }
        self.errors += usize::from(report.rest.severity == Severity::Error);
        self.found.insert(key, report.rest);
        // Keeps the first by position, whatever the order of the checks.
        if self.found.len() > SHOWN_MAX {
            self.found.pop_last();
            self.more += 1;
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    pub(crate) fn finish(self, files: &Files) -> Diagnostics {
        let list = self.found.into_iter().map(|((at, message), rest)| {
            let place = match at {
                At::File(file) => Place { file, line: 0, column: 0, excerpt: None },
                At::Span(span) => files.place(span),
            };
            let notes = rest.notes.into_iter().map(|(span, text)| Note { text, place: files.place(span) }).collect();
            Diagnostic { severity: rest.severity, message, place: Some(place), notes, help: rest.help }
        });
        Diagnostics { list: list.collect(), more: self.more }
    }
}

#[cfg(test)]
mod tests;
