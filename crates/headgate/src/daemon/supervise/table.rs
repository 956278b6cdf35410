//! The machine's processes, read from `/proc`: who descends from whom, who belongs to which service.

use std::fs;
use std::io;

use nix::libc;

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    /// It has ended and waits for its parent.
    pub(super) zombie: bool,
    /// Clock ticks since boot. With the pid it names a process for good: pids come again, pairs do not.
    pub(super) start: u64,
    /// User and system time, clock ticks.
    pub(super) cpu_ticks: u64,
    /// Resident pages.
    pub(super) resident_pages: u64,
}

/// All processes; those that vanish while we look are not in it.
///
/// `/proc/PID/task/TID/children` would be shorter to read, but is there only with CONFIG_PROC_CHILDREN.
///
/// # Errors
/// When `/proc` cannot be listed, or a process that is there cannot be read (no descriptors left): a list with holes would let somebody
/// survive.
pub(super) fn processes() -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok())
            && let Some(stat) = unless_gone(fs::read(format!("/proc/{pid}/stat")))?
        {
            all.extend(parse_stat(&stat));
        }
    }
    Ok(all)
}

/// One process, when it is there.
pub(super) fn process(pid: i32) -> Option<Process> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// A process may end between the listing and the reading: ENOENT at open, ESRCH at read.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        // EACCES: a process that is hidden from us (hidepid) is not one that we started.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a line of `/proc/PID/stat` (proc_pid_stat(5)). The name in parentheses need not be text and may hold spaces and parentheses
/// itself, so the fields are counted from the last `)`.
fn parse_stat(line: &[u8]) -> Option<Process> {
    let line = String::from_utf8_lossy(line);
    let (head, tail) = line.rsplit_once(") ")?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok());
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        // X is the moment between zombie and gone.
        zombie: matches!(*fields.first()?, "Z" | "X"),
        start: number(19)?,
        cpu_ticks: number(11)? + number(12)?,
        resident_pages: number(21)?,
    })
}

/// Whether the environment that a process was started with has an entry that begins with `mark`. A process keeps it through fork and
/// setsid, and loses it only when it starts a program with another environment.
///
/// # Errors
/// When it cannot be read although the process is there.
pub(super) fn has_environment(pid: i32, mark: &str) -> io::Result<bool> {
    let environment = unless_gone(fs::read(format!("/proc/{pid}/environ")))?.unwrap_or_default();
    Ok(environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_itself() {
        let me = std::process::id() as i32;
        let found = processes().unwrap().into_iter().find(|process| process.pid == me).expect("this process is listed");
        assert_eq!(found.parent, nix::unistd::getppid().as_raw());
        assert_eq!(found.group, nix::unistd::getpgrp().as_raw());
        assert!(!found.zombie && found.resident_pages > 0);
    }

    #[test]
    fn a_hostile_name_moves_no_field() {
        let line = b"77 (x\xff) R 1 (y) S 5 6 7 0 -1 0 0 0 0 0 3 4 0 0 20 0 1 0 991 4096 12 0";
        let process = parse_stat(line).unwrap();
        assert_eq!((process.pid, process.parent, process.group, process.zombie), (77, 5, 6, false));
        assert_eq!((process.cpu_ticks, process.start, process.resident_pages), (7, 991, 12));
        for truncated in [
            "",
            "77",
            "77 (x",
            "77 (x) R",
            "77 (x) R 1 2 3",
            "x (y) S 5 6 7 0 -1 0 0 0 0 0 3 4 0 0 20 0 1 0 991 4096 12",
        ] {
            assert_eq!(parse_stat(truncated.as_bytes()), None, "{truncated:?}");
        }
    }
}
