//! What a build shows while it works: a spinner on a terminal, and one line with the time for each finished step.

use std::io::IsTerminal as _;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// How often a step that takes long says so where there is no spinner: in a log, silence looks like a hang.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// The steps of one run.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
}

impl Progress {
    /// The clock starts now.
    #[expect(clippy::new_without_default, reason = "making one starts a clock")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }

    /// Runs a step; `action` returns what came out of it, for the line.
    pub fn step<T>(&self, name: &str, action: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        let done = if std::io::stderr().is_terminal() { spinning(name, action) } else { self.telling(name, action) };
        let (value, outcome) = done.with_context(|| format!("{name} failed"))?;
        self.line(&format!("{name}: {outcome}"));
        Ok(value)
    }

    fn telling<T>(&self, name: &str, action: impl FnOnce() -> T) -> T {
        // Dropped when the action is done, or panics.
        let (at_work, ended) = channel::<()>();
        std::thread::scope(|scope| {
            let _at_work = at_work;
            scope.spawn(move || {
                while ended.recv_timeout(SIGN_OF_LIFE) == Err(RecvTimeoutError::Timeout) {
                    self.line(&format!("{name}: at work"));
                }
            });
            action()
        })
    }

    /// One line with the time since the start, seconds.
    pub fn line(&self, text: &str) {
        eprintln!("{:7.1}  {text}", self.started.elapsed().as_secs_f64());
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

fn spinning<T>(name: &str, action: impl FnOnce() -> T) -> T {
    let spinner = ProgressBar::new_spinner().with_message(name.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    let done = action();
    spinner.finish_and_clear();
    done
}

/// Bytes as a person reads them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
