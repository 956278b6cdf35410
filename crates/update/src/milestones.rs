//! When what was done since the kernel started: written by `headgate-init` and `headgated`, read by `headgate boot-times`.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// One milestone a line: seconds since the kernel started, a space, and what was done.
pub const FILE: &str = "/run/headgate/boot";

/// Begins a milestone that somebody must see: the status tells it too.
pub const WARNING: &str = "WARNING: ";

/// A point of the start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Milestone {
    /// Since the kernel started, s.
    pub seconds: f64,
    /// What was done by then.
    pub what: String,
}

/// Since the kernel started, s; it does not jump when the time is set.
#[must_use]
pub fn now() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME);
    now.map(|time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9).unwrap_or_default()
}

/// Adds a milestone to the list of this start; a machine that keeps none is left as it is.
pub fn note(list: &Path, what: impl Display) {
    note_since(list, Duration::ZERO, what);
}

/// The same of something that was done so long ago.
pub fn note_since(list: &Path, ago: Duration, what: impl Display) {
    if let Ok(mut file) = OpenOptions::new().append(true).open(list) {
        let _ = file.write_all(line(now() - ago.as_secs_f64(), what).as_bytes());
    }
}

/// A line of the list.
#[must_use]
pub fn line(seconds: f64, what: impl Display) -> String {
    format!("{seconds:.2} {what}\n")
}

/// The list, in its order; lines that are none are left out.
///
/// # Errors
/// The file cannot be read.
pub fn read(list: &Path) -> io::Result<Vec<Milestone>> {
    let milestone = |line: &str| {
        let (seconds, what) = line.split_once(' ')?;
        let seconds: f64 = seconds.parse().ok().filter(|seconds: &f64| seconds.is_finite())?;
        Some(Milestone { seconds, what: what.to_owned() })
    };
    let mut found: Vec<Milestone> = std::fs::read_to_string(list)?.lines().filter_map(milestone).collect();
    found.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_come_back_in_the_order_of_time() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("boot");
        note(&list, "nobody keeps it");
        assert!(read(&list).is_err());
        std::fs::write(&list, line(7.0, "ready") + "junk\nnan x\n" + &line(3.25, "initramfs")).unwrap();
        note(&list, "farms");
        let found = read(&list).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].seconds, found[0].what.as_str()), (3.25, "initramfs"));
        assert!(found.iter().any(|milestone| milestone.what == "farms" && milestone.seconds > 0.0));
    }
}
