//! Logging of both binaries: tracing events to stderr, one line each.
//!
//! Three forms: text for people, JSON for collectors, and journal form, where systemd adds the time and reads the priority from `<N>`
//! (sd-daemon(3)). No character that could move a terminal's cursor or break a line leaves here, whatever a client or a service put into a
//! name. Spans are not shown; an event carries its fields itself.
//!
//! Logging never stops the daemon: a reader that stands still (a console under flow control, a full pipe) loses lines and is told how many.
//! On the appliance stderr is the console; the kernel's own log is left to the kernel.

pub mod record;
pub mod remote;

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use self::remote::Records;

/// The environment variable with the level, when `--log-level` is not given.
pub const LEVEL_VARIABLE: &str = "HEADGATE_LOG";

/// The longest line, bytes: what a pipe takes at once (PIPE_BUF of pipe(7)), so that a line is never mixed with another program's.
const LINE_MAX: usize = 4096;

/// How long a reader that stands still is waited for, once, before lines are lost.
const PATIENCE_MS: u8 = 50;

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Journal when stderr is systemd's journal, else text.
    #[default]
    Auto,
    /// Time, level, message, fields; in colour on a terminal.
    Text,
    /// One object a line: `time`, `level`, `target`, `message`, `fields`.
    Json,
    /// Priority, message, fields.
    Journal,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The level is not one.
    #[error("log level {level:?} is not valid: error, warn, info, debug, trace, or TARGET=LEVEL,…")]
    Level {
        /// What was asked for.
        level: String,
        /// Why it is refused.
        source: tracing_subscriber::filter::ParseError,
    },
    /// It was called before.
    #[error("logging is set up already")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Sends the events of the whole process to stderr, and to whoever takes the records. `level` comes from the command line and wins over [`LEVEL_VARIABLE`]; without either
/// it is `info`.
///
/// # Errors
/// When the level cannot be read, or logging is set up already.
pub fn init(format: Format, level: Option<&str>) -> Result<Records, LogError> {
    let variable = std::env::var(LEVEL_VARIABLE).ok();
    let level = level.or(variable.as_deref()).filter(|level| !level.is_empty()).unwrap_or("info");
    let filter =
        EnvFilter::builder().parse(level).map_err(|source| LogError::Level { level: level.to_owned(), source })?;
    let (tap, records) = remote::queue();
    let subscriber = tracing_subscriber::fmt()
        // It would report a failed write by eprintln!, which panics when stderr is gone.
        .log_internal_errors(false)
        .event_format(Line::new(format))
        .with_env_filter(filter)
        .with_writer(Sink(Mutex::new(Outlet::new(io::stderr()))))
        .finish()
        .with(tap);
    tracing::subscriber::set_global_default(subscriber).map_err(LogError::Twice)?;
    Ok(records)
}

/// How an event becomes a line.
#[derive(Debug, Clone, Copy)]
enum Line {
    Text { colour: bool },
    Json,
    Journal,
}

impl Line {
    fn new(format: Format) -> Self {
        match format {
            Format::Auto if stderr_is_journal() => Line::Journal,
            Format::Auto | Format::Text => {
                // https://no-color.org: any value but the empty one.
                let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                Line::Text { colour: io::stderr().is_terminal() && !plain }
            }
            Format::Json => Line::Json,
            Format::Journal => Line::Journal,
        }
    }

    fn write(self, line: &mut String, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let level = *event.metadata().level();
        let target = event.metadata().target();
        match self {
            Line::Text { colour } => {
                let (on, off) = if colour { (colour_of(level), "\x1b[0m") } else { ("", "") };
                SystemTime.format_time(&mut Writer::new(line))?;
                write!(line, " {on}{level:>5}{off} ")?;
                parts.write_text(line, level, target)
            }
            Line::Journal => {
                write!(line, "<{}>", priority_of(level))?;
                parts.write_text(line, level, target)
            }
            Line::Json => {
                let mut time = String::new();
                SystemTime.format_time(&mut Writer::new(&mut time))?;
                let level = level.as_str().to_ascii_lowercase();
                let Parts { message, fields } = parts;
                let object =
                    json!({ "time": time, "level": level, "target": target, "message": message, "fields": fields });
                escape_json(line, &object.to_string())
            }
        }
    }
}

/// Whether stderr is the stream that systemd connected to its journal: JOURNAL_STREAM holds its device and inode (systemd.exec(5)), so
/// that a variable inherited by a process with another stderr misleads nobody.
fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(descriptor) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    std::fs::File::from(descriptor)
        .metadata()
        .is_ok_and(|metadata| stream == format!("{}:{}", metadata.dev(), metadata.ino()))
}

fn colour_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

/// syslog(3): 3 error, 4 warning, 6 informational, 7 debug.
fn priority_of(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.write(&mut line, event)?;
        if line.len() >= LINE_MAX {
            line.truncate(line.floor_char_boundary(LINE_MAX - "…\n".len()));
            line.push('…');
        }
        line.push('\n');
        writer.write_str(&line)
    }
}

/// The message of an event, and its fields in the order of their names.
#[derive(Debug, Default)]
struct Parts {
    message: String,
    fields: Map<String, Value>,
}

impl Parts {
    fn write_text(&self, line: &mut String, level: Level, target: &str) -> fmt::Result {
        if level >= Level::DEBUG {
            write!(line, "{target}: ")?;
        }
        escape(line, &self.message)?;
        for (name, value) in &self.fields {
            write!(line, " {name}=")?;
            match value {
                Value::String(text) if is_one_word(text) => escape(line, text)?,
                Value::String(text) => {
                    line.push('"');
                    escape(line, &text.replace('\\', "\\\\").replace('"', "\\\""))?;
                    line.push('"');
                }
                other => write!(line, "{other}")?,
            }
        }
        Ok(())
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, value) => drop(self.fields.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, crate::explain(value).into());
    }
}

fn is_one_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '=' | '\\'))
}

/// Whether a character acts on what shows it: the C0 and C1 controls, line and paragraph separators, and the marks that turn the
/// direction of writing (Unicode TR9), with which one text can be made to look like another.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

/// Writes `text` so that it stays on its line and moves nothing. Used by whatever prints what others wrote.
///
/// # Errors
/// Those of the writer.
pub fn escape(line: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '\n' => line.write_str("\\n")?,
            '\r' => line.write_str("\\r")?,
            '\t' => line.write_str("\\t")?,
            c if acts(c) => write!(line, "{}", c.escape_unicode())?,
            c => line.write_char(c)?,
        }
    }
    Ok(())
}

/// The same within JSON, where such characters occur only in strings, and those below U+0020 are escaped already.
fn escape_json(line: &mut String, json: &str) -> fmt::Result {
    for c in json.chars() {
        if acts(c) { write!(line, "\\u{:04x}", u32::from(c))? } else { line.push(c) }
    }
    Ok(())
}

/// The way out, one for all threads.
struct Sink(Mutex<Outlet<io::Stderr>>);

impl<'a> MakeWriter<'a> for Sink {
    type Writer = SinkGuard<'a>;

    fn make_writer(&'a self) -> SinkGuard<'a> {
        SinkGuard(&self.0)
    }
}

struct SinkGuard<'a>(&'a Mutex<Outlet<io::Stderr>>);

impl Write for SinkGuard<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut outlet = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        outlet.line(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines to who reads them, and drops them for who does not. A pipe that poll(2) calls writable takes [`LINE_MAX`] bytes without
/// waiting, a terminal waits at most for its line to be sent.
struct Outlet<W> {
    to: W,
    lost: u64,
}

impl<W: Write + AsFd> Outlet<W> {
    fn new(to: W) -> Self {
        Self { to, lost: 0 }
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        // Who stood still once is not waited for again until it moves.
        let patience = if self.lost == 0 { PollTimeout::from(PATIENCE_MS) } else { PollTimeout::ZERO };
        if !self.takes_more(patience) {
            self.lost += 1;
            return Ok(());
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            self.to.write_all(format!("{lost} lines were lost here: nobody read them\n").as_bytes())?;
        }
        self.to.write_all(line)
    }

    fn takes_more(&self, patience: PollTimeout) -> bool {
        let mut wait = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
        // An error (EINTR, or a kind of file that cannot be polled) must not silence the log.
        !matches!(poll(&mut wait, patience), Ok(0))
    }
}

#[cfg(test)]
mod tests;
