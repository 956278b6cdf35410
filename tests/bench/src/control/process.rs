//! Programs that run to their end: how long, how much processor time, how much memory.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::libc;

/// What a program took.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// From its start to its end.
    pub wall: Duration,
    /// In user and kernel.
    pub processor: Duration,
    /// Peak of resident memory, bytes.
    pub memory: u64,
}

/// Runs a program that is killed after `patience`: then there is no figure.
pub fn run(command: &mut Command, patience: Duration) -> Result<Option<Run>> {
    let started = Instant::now();
    let log = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut memory = 0;
    loop {
        // Not ru_maxrss: a child is born with the memory of its parent, and that counts there as its own.
        memory = peak(&child).unwrap_or(memory);
        if let Some((status, usage)) = wait(&child)? {
            let wall = started.elapsed();
            ensure!(status == 0, "{command:?} ended with status {status:#x}: {}", said(log)?);
            let time = |time: libc::timeval| Duration::new(time.tv_sec.unsigned_abs(), time.tv_usec as u32 * 1000);
            return Ok(Some(Run { wall, processor: time(usage.ru_utime) + time(usage.ru_stime), memory }));
        }
        if started.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The wait status and what was used, once the child has ended.
fn wait(child: &Child) -> Result<Option<(i32, libc::rusage)>> {
    let mut status = 0;
    // SAFETY: a rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live over the call; the child is ours and was not waited for.
    match unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, libc::WNOHANG, &raw mut usage) } {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some((status, usage))),
        _ => bail!("wait4: {}", std::io::Error::last_os_error()),
    }
}

/// The peak of resident memory until now, bytes; `None` once it has ended.
fn peak(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

fn said(mut log: std::fs::File) -> Result<String> {
    use std::io::{Read, Seek};
    let mut text = String::new();
    log.rewind()?;
    log.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_memory_are_those_of_the_child() {
        let mut busy = Command::new("sh");
        busy.args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]);
        let run = run(&mut busy, Duration::from_secs(60)).unwrap().unwrap();
        assert!(run.processor > Duration::ZERO && run.processor <= run.wall + Duration::from_millis(10), "{run:?}");
        assert!((100_000..10_000_000).contains(&run.memory), "{run:?}");
    }

    #[test]
    fn patience_ends() {
        assert!(run(Command::new("sleep").arg("60"), Duration::from_millis(20)).unwrap().is_none());
    }

    #[test]
    fn a_failure_says_what_it_said() {
        let error = run(Command::new("ls").arg("/no/such/path"), Duration::from_secs(10)).unwrap_err().to_string();
        assert!(error.contains("/no/such/path"), "{error}");
    }
}
