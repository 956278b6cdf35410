//! One file's text to a [`Table`], with every syntax error of it.
//!
//! Lexer, grammar and the decoding of strings and numbers are those of `toml_parser`, the crate beneath `toml`; only the tree is
//! ours (see [`crate::tree`] for why). A test holds the two against each other on arbitrary documents.

use std::borrow::Cow;
use std::collections::HashSet;

use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, ValidateWhitespace};
use toml_parser::{ErrorSink, Expected, ParseError, Source, Span as Range};

use self::pieces::Pieces;
use crate::tree::{Entry, Key, Node, Span, Table, TableKind, Value};

mod pieces;

/// Deepest nesting of tables and lists. The deepest path of the configuration has six parts.
pub(crate) const DEPTH_MAX: usize = 16;

/// So many errors are kept of one file; a large file of something else has millions.
const ERRORS_MAX: usize = 1000;

/// So many tokens of a file are in memory at once, or as many as a table has. All those of a file are seven times its size.
const PIECE: usize = 1 << 14;

/// A refusal of the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    pub(crate) span: Span,
    /// The earlier place that it collides with.
    pub(crate) first: Option<Span>,
}

/// Parses `text`, the file with index `file`. The table holds everything that could be read.
pub(crate) fn parse(text: &str, file: u16) -> (Table, Vec<SyntaxError>) {
    let (table, errors) = parse_pieces(text, file, PIECE);
    match errors.is_empty() {
        true => (table, errors),
        // What the grammar makes of a mistake depends on what is around it.
        false => parse_pieces(text, file, usize::MAX),
    }
}

/// Parses pieces of at least so many tokens.
fn parse_pieces(text: &str, file: u16, tokens: usize) -> (Table, Vec<SyntaxError>) {
    let source = Source::new(text);
    let mut errors: Vec<ParseError> = Vec::new();
    let mut sink = |error| {
        if errors.len() < ERRORS_MAX {
            errors.push(error);
        }
    };
    let mut builder = Builder {
        source,
        file,
        keys: HashSet::new(),
        root: Table::new(TableKind::Header),
        section: Section { path: Vec::new(), table: Table::new(TableKind::Header), target: Target::Root },
        path: Vec::new(),
        frames: Vec::new(),
        header: None,
        lost: false,
    };
    {
        let mut receiver = ValidateWhitespace::new(&mut builder, source);
        for piece in Pieces::new(source, tokens) {
            toml_parser::parser::parse_document(&piece, &mut receiver, &mut sink);
        }
    }
    builder.finish_section(&mut sink);
    let mut errors: Vec<SyntaxError> = errors.iter().map(|error| builder.describe(error)).collect();
    errors.sort_by_key(|error| (error.span.start, error.span.end));
    // One mistake often makes the grammar complain at two tokens of the same place; the first says it.
    errors.dedup_by_key(|error| error.span.start);
    (builder.root, errors)
}

struct PathKey {
    key: Key,
    span: Span,
}

/// The table that `key = value` lines go to, held outside the tree until the next header.
struct Section {
    path: Vec<PathKey>,
    table: Table,
    target: Target,
}

enum Target {
    Root,
    Table(Span),
    /// `[[…]]`.
    Element(Span),
    /// The header was not understood: its keys belong nowhere.
    Nowhere,
}

enum Frame {
    Array { items: Vec<Node>, path: Vec<PathKey>, open: Range },
    Inline { table: Table, path: Vec<PathKey>, open: Range },
}

struct Header {
    open: Range,
    element: bool,
}

struct Builder<'t> {
    source: Source<'t>,
    file: u16,
    keys: HashSet<Key>,
    root: Table,
    section: Section,
    /// The key being read.
    path: Vec<PathKey>,
    /// Lists and inline tables that are open.
    frames: Vec<Frame>,
    header: Option<Header>,
    /// Nested too deep: what follows cannot be placed, only errors are collected.
    lost: bool,
}

impl Builder<'_> {
    fn span(&self, range: Range) -> Span {
        // Files are capped far below 4 GiB.
        Span { file: self.file, start: range.start() as u32, end: range.end() as u32 }
    }

    fn key(&mut self, text: &str) -> Key {
        if let Some(key) = self.keys.get(text) {
            return key.clone();
        }
        let key: Key = text.into();
        self.keys.insert(key.clone());
        key
    }

    fn describe(&self, error: &ParseError) -> SyntaxError {
        let place = error.unexpected().or(error.context()).unwrap_or_default();
        let first = error.context().filter(|_| error.description() == DUPLICATE).map(|range| self.span(range));
        SyntaxError { message: self.message(error, place), span: self.span(place), first }
    }

    fn message(&self, error: &ParseError, place: Range) -> String {
        let text = self.source.input().get(place.start()..place.end()).unwrap_or_default();
        if error.description() == "string values must be quoted" {
            return match text {
                "" => "the value is missing".to_owned(),
                text => format!("a text needs quotes: {text:?}"),
            };
        }
        // TOML's names for the kinds of strings mean little to people.
        let mut message = error.description().replace("basic string", "text").replace("literal string", "text");
        for (at, expected) in error.expected().unwrap_or_default().iter().enumerate() {
            message.push_str(if at == 0 { ", expected " } else { " or " });
            match expected {
                Expected::Literal("\n") => message.push_str("the end of the line"),
                Expected::Literal(text) => message.push_str(&format!("`{text}`")),
                Expected::Description(text) => message.push_str(text),
                _ => message.push_str("something else"),
            }
        }
        message
    }

    fn finish_section(&mut self, errors: &mut dyn ErrorSink) {
        let empty = Section { path: Vec::new(), table: Table::default(), target: Target::Nowhere };
        let Section { mut path, table, target } = std::mem::replace(&mut self.section, empty);
        let (span, element) = match target {
            Target::Root => {
                self.root = table;
                return;
            }
            Target::Nowhere => return,
            Target::Table(span) => (span, false),
            Target::Element(span) => (span, true),
        };
        let Some(last) = path.pop() else { return };
        let node = Node { value: Value::Table(Box::new(table)), span };
        let Some(parent) = descend(&mut self.root, &path, TableKind::Implicit, errors) else { return };
        if !element {
            parent.insert(Entry { key: last.key, key_span: last.span, node });
            return;
        }
        match parent.entry_mut(&last.key) {
            None => {
                let list = Node { value: Value::Array(vec![node]), span };
                parent.insert(Entry { key: last.key, key_span: last.span, node: list });
            }
            Some(Entry { node: Node { value: Value::Array(items), .. }, .. }) if is_tables(items) => items.push(node),
            Some(entry) => errors.report_error(duplicate(last.span, entry.key_span)),
        }
    }

    fn start_section(&mut self, close: Range, errors: &mut dyn ErrorSink) {
        let Some(header) = self.header.take() else { return };
        let path = std::mem::take(&mut self.path);
        let span = self.span(header.open.append(close));
        let mut section = Section { path, table: Table::new(TableKind::Header), target: Target::Nowhere };
        let Some((last, parents)) = section.path.split_last() else { return };
        if self.lost || self.too_deep(section.path.len(), header.open, errors) {
            return;
        }
        if header.element {
            section.target = Target::Element(span);
            self.section = section;
            return;
        }
        let Some(parent) = descend(&mut self.root, parents, TableKind::Implicit, errors) else { return };
        match parent.entry(&last.key).map(|entry| (&entry.node.value, entry.key_span)) {
            None => section.target = Target::Table(span),
            Some((Value::Table(table), _)) if table.kind == TableKind::Implicit => {
                section.target = Target::Table(span);
                let Some(Entry { node: Node { value: Value::Table(table), .. }, .. }) = parent.remove(&last.key) else {
                    return;
                };
                section.table = *table;
                section.table.kind = TableKind::Header;
            }
            Some((_, first)) => errors.report_error(duplicate(last.span, first)),
        }
        self.section = section;
    }

    fn too_deep(&mut self, depth: usize, at: Range, errors: &mut dyn ErrorSink) -> bool {
        let too_deep = depth > DEPTH_MAX;
        if too_deep && !std::mem::replace(&mut self.lost, true) {
            errors.report_error(ParseError::new(format!("nested deeper than {DEPTH_MAX} levels")).with_unexpected(at));
        }
        too_deep
    }

    /// Puts a complete value where it belongs: into the open list or table, else into the section.
    fn place(&mut self, node: Node, errors: &mut dyn ErrorSink) {
        if self.lost {
            return;
        }
        let table = match self.frames.last_mut() {
            Some(Frame::Array { items, .. }) => {
                items.push(node);
                return;
            }
            Some(Frame::Inline { table, .. }) => table,
            None => &mut self.section.table,
        };
        // A value without a key: the grammar has already said so.
        let Some(last) = self.path.pop() else { return };
        let parents = std::mem::take(&mut self.path);
        let Some(parent) = descend(table, &parents, TableKind::Dotted, errors) else { return };
        match parent.entry(&last.key) {
            Some(entry) => errors.report_error(duplicate(last.span, entry.key_span)),
            None => parent.insert(Entry { key: last.key, key_span: last.span, node }),
        }
    }

    fn open(&mut self, frame: Frame, at: Range, errors: &mut dyn ErrorSink) -> bool {
        if self.lost || self.too_deep(self.frames.len() + 1, at, errors) {
            return false;
        }
        self.frames.push(frame);
        true
    }
}

const DUPLICATE: &str = "duplicate key";

fn duplicate(again: Span, first: Span) -> ParseError {
    let range = |span: Span| Range::new_unchecked(span.start as usize, span.end as usize);
    ParseError::new(DUPLICATE).with_unexpected(range(again)).with_context(range(first))
}

fn is_tables(items: &[Node]) -> bool {
    matches!(items.last(), Some(Node { value: Value::Table(table), .. }) if table.kind != TableKind::Inline)
}

/// Walks `path` from `table`, making what is missing as `make`; a header may walk through every table but inline ones, a dotted
/// key only through those that dotted keys or longer headers made.
fn descend<'a>(
    mut table: &'a mut Table,
    path: &[PathKey],
    make: TableKind,
    errors: &mut dyn ErrorSink,
) -> Option<&'a mut Table> {
    for step in path {
        let entry = table.entry_or_insert(&step.key, || {
            let node = Node { value: Value::Table(Box::new(Table::new(make))), span: step.span };
            Entry { key: step.key.clone(), key_span: step.span, node }
        })?;
        let first = entry.key_span;
        table = match &mut entry.node.value {
            Value::Table(inner) => {
                let closed = match make {
                    TableKind::Dotted => matches!(inner.kind, TableKind::Header | TableKind::Inline),
                    _ => inner.kind == TableKind::Inline,
                };
                if closed {
                    errors.report_error(duplicate(step.span, first));
                    return None;
                }
                if make == TableKind::Dotted {
                    // From now on no header may open it.
                    inner.kind = TableKind::Dotted;
                }
                inner
            }
            Value::Array(items) if make == TableKind::Implicit && is_tables(items) => match items.last_mut() {
                Some(Node { value: Value::Table(inner), .. }) => inner,
                _ => return None,
            },
            _ => {
                errors.report_error(duplicate(step.span, first));
                return None;
            }
        };
    }
    Some(table)
}

impl EventReceiver for Builder<'_> {
    fn std_table_open(&mut self, span: Range, errors: &mut dyn ErrorSink) {
        self.frames.clear();
        self.path.clear();
        self.finish_section(errors);
        self.header = Some(Header { open: span, element: false });
    }

    fn std_table_close(&mut self, span: Range, errors: &mut dyn ErrorSink) {
        self.start_section(span, errors);
    }

    fn array_table_open(&mut self, span: Range, errors: &mut dyn ErrorSink) {
        self.std_table_open(span, errors);
        self.header = Some(Header { open: span, element: true });
    }

    fn array_table_close(&mut self, span: Range, errors: &mut dyn ErrorSink) {
        self.start_section(span, errors);
    }

    fn inline_table_open(&mut self, span: Range, errors: &mut dyn ErrorSink) -> bool {
        let path = std::mem::take(&mut self.path);
        self.open(Frame::Inline { table: Table::new(TableKind::Inline), path, open: span }, span, errors)
    }

    fn inline_table_close(&mut self, span: Range, errors: &mut dyn ErrorSink) {
        let Some(Frame::Inline { table, path, open }) = self.frames.pop() else { return };
        self.path = path;
        let span = self.span(open.append(span));
        self.place(Node { value: Value::Table(Box::new(table)), span }, errors);
    }

    fn array_open(&mut self, span: Range, errors: &mut dyn ErrorSink) -> bool {
        let path = std::mem::take(&mut self.path);
        self.open(Frame::Array { items: Vec::new(), path, open: span }, span, errors)
    }

    fn array_close(&mut self, span: Range, errors: &mut dyn ErrorSink) {
        let Some(Frame::Array { items, path, open }) = self.frames.pop() else { return };
        self.path = path;
        let span = self.span(open.append(span));
        self.place(Node { value: Value::Array(items), span }, errors);
    }

    fn newline(&mut self, _span: Range, _errors: &mut dyn ErrorSink) {
        if self.frames.is_empty() {
            // What a broken line left behind.
            self.path.clear();
        }
    }

    fn simple_key(&mut self, span: Range, encoding: Option<Encoding>, errors: &mut dyn ErrorSink) {
        let Some(text) = self.source.input().get(span.start()..span.end()) else { return };
        let raw = toml_parser::Raw::new_unchecked(text, encoding, span);
        let mut decoded = Cow::Borrowed("");
        raw.decode_key(&mut decoded, errors);
        if self.path.len() < DEPTH_MAX {
            let key = self.key(&decoded);
            let span = self.span(span);
            self.path.push(PathKey { key, span });
        } else {
            self.too_deep(self.path.len() + 1, span, errors);
        }
    }

    fn scalar(&mut self, span: Range, encoding: Option<Encoding>, errors: &mut dyn ErrorSink) {
        let Some(text) = self.source.input().get(span.start()..span.end()) else { return };
        let raw = toml_parser::Raw::new_unchecked(text, encoding, span);
        let mut decoded = Cow::Borrowed("");
        let mut refused = false;
        let kind = raw.decode_scalar(&mut decoded, &mut |error: ParseError| {
            refused = true;
            errors.report_error(error);
        });
        let value = match kind {
            ScalarKind::String => Some(Value::Text(decoded.as_ref().into())),
            ScalarKind::Boolean(value) => Some(Value::Boolean(value)),
            ScalarKind::DateTime => Some(Value::Datetime(decoded.as_ref().into())),
            ScalarKind::Float => decoded.parse().ok().map(Value::Float),
            ScalarKind::Integer(radix) => i64::from_str_radix(&decoded, radix.value()).ok().map(Value::Integer),
        };
        match value {
            Some(value) if !refused => {
                let span = self.span(span);
                self.place(Node { value, span }, errors);
            }
            _ => {
                if !refused {
                    errors.report_error(ParseError::new("the number is too large").with_unexpected(span));
                }
                self.drop_value();
            }
        }
    }
}

impl Builder<'_> {
    /// Forgets the key of a value that could not be read.
    fn drop_value(&mut self) {
        if !matches!(self.frames.last(), Some(Frame::Array { .. })) {
            self.path.clear();
        }
    }
}

#[cfg(test)]
mod tests;
