//! What a daemon that panicked leaves for the next one to tell.
//!
//! The release build aborts on a panic, so that no half of it goes on; the data plane needs no daemon meanwhile. The hook writes
//! what is known into a file, and the next start says it in the log and in `headgate status`, until another start finds none.
//! What ends without a panic (SIGKILL, memory that is short) leaves a mark that the next start finds, and says in the log.

use std::backtrace::Backtrace;
use std::io;
use std::panic::PanicHookInfo;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use headgate_host::Root;
use headgate_host::root::RootError;
use serde::{Deserialize, Serialize};

/// Where the report of the last panic is, until the next start.
const REPORT: &str = "var/lib/headgate/crash.json";
/// Where it is from then on.
const TOLD: &str = "var/lib/headgate/crash.told.json";
/// There while a daemon runs. The directory does not outlive a boot.
const MARK: &str = "run/headgate/running";
/// How long a panic waits for its report to be on file: a disk that stands still must not hold up the end.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of a backtrace, bytes.
const BACKTRACE_MAX: usize = 16 << 10;

/// What is known of a panic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// RFC 3339, UTC.
    pub time: String,
    /// Of the program that panicked.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The thread's name.
    pub thread: String,
    /// What it said.
    pub message: String,
    /// `FILE:LINE:COLUMN` in the sources of that version.
    pub location: String,
    /// Without names where the program is stripped: addresses, for `addr2line` beside a build of the same version that is not.
    pub backtrace: String,
}

impl Report {
    fn new(panic: &PanicHookInfo<'_>) -> Self {
        let mut backtrace = Backtrace::force_capture().to_string();
        backtrace.truncate(backtrace.floor_char_boundary(BACKTRACE_MAX));
        Self {
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            thread: std::thread::current().name().unwrap_or("unnamed").to_owned(),
            message: panic.payload_as_str().unwrap_or("a panic without words").to_owned(),
            location: panic.location().map(ToString::to_string).unwrap_or_default(),
            backtrace,
        }
    }

    /// One line for `status` and the log.
    fn note(&self) -> String {
        let Self { time, version, thread, message, location, .. } = self;
        format!(
            "headgated {version} crashed at {time}: {message} (thread {thread}, {location}); /{TOLD} has the report, which helps \
             to mend it"
        )
    }
}

/// From now on a panic of any thread leaves a report. What it did before, words on standard error, it still does.
///
/// A thread of its own writes it: those behind the fence write no files.
///
/// # Errors
/// The system has no thread left.
pub fn report_panics(root: Root) -> io::Result<()> {
    let (panics, reports) = mpsc::channel::<(Vec<u8>, mpsc::Sender<()>)>();
    std::thread::Builder::new().name("crash".to_owned()).spawn(move || {
        for (text, _written) in reports {
            // A disk that is full must not hide the panic itself.
            let _ = root.write_file(REPORT, &text);
        }
    })?;
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Ok(text) = serde_json::to_vec_pretty(&Report::new(panic)) {
            let (writing, written) = mpsc::channel();
            // The answer is that it is dropped.
            let _ = panics.send((text, writing)).map(|()| written.recv_timeout(PATIENCE));
        }
        before(panic);
    }));
    Ok(())
}

/// Takes the report that the daemon before has left: what to say of it.
pub fn told(root: &Root) -> Option<String> {
    let text = root.read_file(REPORT).ok()?;
    // What cannot be read is set aside as well, so that it is said once.
    let moved = root.file(REPORT).and_then(|from| Ok((from, root.file(TOLD)?)));
    if let Err(error) = moved.map(|(from, to)| std::fs::rename(from, to)) {
        tracing::warn!(%error, "the report of a crash cannot be set aside");
    }
    let note = match serde_json::from_str::<Report>(&text) {
        Ok(report) => report.note(),
        Err(error) => format!("headgated crashed, and its report /{TOLD} cannot be read: {error}"),
    };
    tracing::error!("{note}");
    Some(note)
}

/// There while the daemon runs; gone when it ended as it should.
#[derive(Debug)]
pub struct Running(Root);

impl Running {
    /// Sets the mark, and says in the log when the daemon before has not taken its own away.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(root: &Root) -> Result<Self, RootError> {
        if let Ok(pid) = root.read_file(MARK) {
            tracing::warn!(pid = pid.trim(), "headgated ended without a word before: killed, or out of memory");
        }
        let running = Self(root.clone());
        running.again()?;
        Ok(running)
    }

    /// Sets it again, once another program was to take over and did not.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn again(&self) -> Result<(), RootError> {
        self.0.write_file(MARK, format!("{}\n", std::process::id()).as_bytes())
    }

    /// Takes the mark away.
    pub fn end(&self) {
        let removed = self.0.file(MARK).map_err(io::Error::other).and_then(std::fs::remove_file);
        if let Err(error) = removed {
            tracing::warn!(%error, "the mark of a daemon that runs cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the child that panics.
    const CHILD: &str = "HEADGATE_TEST_PANICS";

    #[test]
    fn a_panic_is_told_once_by_the_next_start() {
        if let Some(root) = std::env::var_os(CHILD) {
            report_panics(Root::new(root)).unwrap();
            std::thread::Builder::new()
                .name("engine".to_owned())
                .spawn(|| panic!("a farm has {} lives", 9))
                .unwrap()
                .join()
                .unwrap_err();
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        assert_eq!(told(&root), None);
        // The hook is the whole process's: other tests shall not meet it.
        let name = "crash::tests::a_panic_is_told_once_by_the_next_start";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, directory.path())
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        let note = told(&root).unwrap();
        assert!(note.contains("crashed at 2") && note.contains("a farm has 9 lives (thread engine, "), "{note}");
        assert!(note.contains("crash.rs:"), "{note}");
        let report: Report = serde_json::from_str(&root.read_file(TOLD).unwrap()).unwrap();
        assert_ne!(report.backtrace, "");
        assert_eq!(told(&root), None);
    }

    #[test]
    fn a_report_that_is_cut_off_is_told_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        root.write_file(REPORT, b"{\"time\": \"2026").unwrap();
        let note = told(&root).unwrap();
        assert!(note.contains("cannot be read"), "{note}");
        assert_eq!(told(&root), None);
    }
}
