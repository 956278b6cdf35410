//! The processes of a service, children of children included, and how they are ended.
//!
//! Three marks tell them, because each alone can be lost: the process group (until setsid), the descent (until the parent dies), and an
//! entry of the environment (until a program is started with another environment). Who has lost all three is a child of ours, since the
//! supervisor is a subreaper (prctl(2)), and is ended when the supervisor shuts down.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::table::{self, Process};

/// How long a process may take to go after SIGKILL: only one in uninterruptible sleep takes longer, and nothing helps against that.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two looks at the process table while waiting, and what it grows to.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Where the mark in the environment is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// Our own children: an orphan of ours comes to us, so this is enough while we live.
    Children,
    /// All processes: the orphans of a supervisor that was killed have gone to another parent.
    Everyone,
}

/// Processes that end together.
#[derive(Debug)]
pub(super) struct Family {
    /// Process groups that are ours as long as their leader, alive or zombie, keeps the number from being given again.
    groups: Vec<i32>,
    mark: String,
    among: Among,
    /// Everybody ever seen, pid to start time: stays known when its parent dies.
    known: BTreeMap<i32, u64>,
}

impl Family {
    pub(super) fn new(groups: Vec<i32>, mark: String, among: Among) -> Self {
        Self { groups, mark, among, known: BTreeMap::new() }
    }

    /// The members that are alive now.
    pub(super) fn living(&mut self) -> Vec<Process> {
        self.members().unwrap_or_else(|error| {
            // Out of descriptors, say. The groups can be signalled all the same.
            tracing::error!(%error, "cannot read /proc: processes that left their group are not found");
            self.groups_alone()
        })
    }

    fn members(&mut self) -> io::Result<Vec<Process>> {
        let all = table::processes()?;
        let me = std::process::id() as i32;
        let ancestors = ancestors(&all, me);
        let mut members: BTreeMap<i32, Process> = BTreeMap::new();
        let candidates: Vec<&Process> = all.iter().filter(|process| !ancestors.contains(&process.pid)).collect();
        for process in &candidates {
            let near = self.among == Among::Everyone || process.parent == me;
            if self.groups.contains(&process.group)
                || self.known.get(&process.pid) == Some(&process.start)
                || (near && !process.zombie && table::has_environment(process.pid, &self.mark)?)
            {
                members.insert(process.pid, **process);
            }
        }
        loop {
            let before = members.len();
            for process in &candidates {
                if members.contains_key(&process.parent) {
                    members.insert(process.pid, **process);
                }
            }
            if members.len() == before {
                break;
            }
        }
        self.known.extend(members.values().map(|process| (process.pid, process.start)));
        Ok(members.into_values().filter(|process| !process.zombie).collect())
    }

    fn groups_alone(&self) -> Vec<Process> {
        let there = self.groups.iter().filter(|group| killpg(Pid::from_raw(**group), None).is_ok());
        let unknown = Process {
            pid: 0,
            parent: 0,
            group: 0,
            session: 0,
            zombie: false,
            start: 0,
            cpu_ticks: 0,
            resident_pages: 0,
        };
        there.map(|group| Process { pid: *group, group: *group, ..unknown }).collect()
    }

    /// Sends `signal` to the groups at once, so that no member sees another one die first, and to those who left them.
    fn signal(&self, members: &[Process], signal: Signal) {
        // ESRCH (gone meanwhile) is what we want; EPERM cannot meet root. Either way the next look tells.
        for group in &self.groups {
            let _ = killpg(Pid::from_raw(*group), signal);
        }
        for process in members.iter().filter(|process| !self.groups.contains(&process.group)) {
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
    }

    /// Ends all members: SIGTERM, `patience`, SIGKILL. Returns those that are still there [`KILL_PATIENCE`] later.
    pub(super) async fn end(&mut self, patience: Duration) -> Vec<Process> {
        let mut members = self.living();
        if members.is_empty() {
            return members;
        }
        self.signal(&members, Signal::SIGTERM);
        // A stopped process takes SIGTERM only once it is continued.
        self.signal(&members, Signal::SIGCONT);
        members = self.wait_until_gone(patience).await;
        let deadline = Instant::now() + KILL_PATIENCE;
        while !members.is_empty() && Instant::now() < deadline {
            self.signal(&members, Signal::SIGKILL);
            members = self.wait_until_gone(POLL.1).await;
        }
        members
    }

    async fn wait_until_gone(&mut self, patience: Duration) -> Vec<Process> {
        let deadline = Instant::now() + patience;
        let mut pause = POLL.0;
        loop {
            let members = self.living();
            if members.is_empty() || Instant::now() >= deadline {
                return members;
            }
            sleep(pause.min(deadline - Instant::now())).await;
            pause = (pause * 2).min(POLL.1);
        }
    }
}

/// `pid` and those above it: never to be signalled, whatever their environment says.
fn ancestors(all: &[Process], pid: i32) -> Vec<i32> {
    let parents: BTreeMap<i32, i32> = all.iter().map(|process| (process.pid, process.parent)).collect();
    let mut line = vec![pid];
    let mut current = pid;
    while let Some(parent) = parents.get(&current).copied().filter(|parent| *parent > 0 && !line.contains(parent)) {
        line.push(parent);
        current = parent;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_above_a_process_survives_a_circle() {
        let process = |pid, parent| Process {
            pid,
            parent,
            group: 0,
            session: 0,
            zombie: false,
            start: 0,
            cpu_ticks: 0,
            resident_pages: 0,
        };
        assert_eq!(ancestors(&[process(5, 3), process(3, 1), process(1, 0)], 5), [5, 3, 1]);
        assert_eq!(ancestors(&[process(5, 3), process(3, 5)], 5), [5, 3]);
        assert_eq!(ancestors(&[], 5), [5]);
    }
}
