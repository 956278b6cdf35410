//! Processor time of those who work for a measurement: this program (clients, and servers that are threads of it), the
//! programs in the namespaces, and the kernel's threads for packets that waited.
//!
//! What the kernel does for a packet is counted for whom it interrupts, on veth for the sender, to the nanosecond. So other
//! work on the machine does not count, as it would in `/proc/stat`, whose unit is 10 ms besides. A kernel that is built with
//! `IRQ_TIME_ACCOUNTING` leaves that part out.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Who works.
#[derive(Debug)]
pub struct Workers(Vec<ClockId>);

impl Workers {
    /// This program, `ksoftirqd`, and these processes with all their threads.
    pub fn new(processes: &[i32]) -> Result<Self> {
        let mut clocks = vec![ClockId::CLOCK_PROCESS_CPUTIME_ID];
        for pid in processes.iter().copied().chain(softirq_threads()?) {
            let clock =
                ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).with_context(|| format!("no clock of process {pid}"))?;
            clocks.push(clock);
        }
        Ok(Self(clocks))
    }

    /// Only this process.
    pub fn one(process: i32) -> Result<Self> {
        Ok(Self(vec![ClockId::pid_cpu_clock_id(Pid::from_raw(process)).context("no clock of the process")?]))
    }

    /// How long they have worked since they began.
    pub fn time(&self) -> Result<Duration> {
        let times = self.0.iter().map(|&clock| clock_gettime(clock).map(Duration::from));
        times.sum::<nix::Result<Duration>>().context("a process has ended that should work")
    }
}

fn softirq_threads() -> Result<Vec<i32>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Gone already: it was none of them.
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            threads.push(pid);
        }
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_of_others_counts_as_our_own() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        let workers = Workers::new(&[child.id().cast_signed()]).unwrap();
        let (before, started) = (workers.time().unwrap(), Instant::now());
        while workers.time().unwrap() - before < Duration::from_millis(50) {
            assert!(started.elapsed() < Duration::from_secs(20), "a loop takes no time");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
