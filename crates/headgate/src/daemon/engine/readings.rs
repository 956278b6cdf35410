//! What the figures of `GET /metrics` are read from.

use std::time::{Duration, Instant};

use headgate_host::{Root, capacity};
use headgate_plan::status::FarmStatus;
use headgate_plan::step::Outcome;

use super::{Engine, Running};
use crate::daemon::metrics::{Knobs, Process, Readings};

/// `USER_HZ`: the unit of times in `/proc/PID/stat`, 100 on every architecture of ours.
const TICKS: u64 = 100;

impl Engine {
    /// Everything of it, read now. Nothing is compiled, and of the ruleset only the counters are read.
    pub fn readings(&mut self) -> Readings {
        let begin = Instant::now();
        let counted = match self.running {
            Some(_) => self.counted(),
            None => Default::default(),
        };
        let farms = self.running.iter().flat_map(|running| {
            let farms = running.config.farms.values();
            farms.map(|farm| FarmStatus::new(farm, &running.desired, &counted))
        });
        let mut readings = Readings {
            farms: farms.collect(),
            knobs: self.running.as_ref().map(knobs).unwrap_or_default(),
            tally: self.tally.clone(),
            generation: self.running.as_ref().and_then(|running| running.generation),
            fault: self.fault.is_some(),
            on_trial: self.store.trial().is_some(),
            returned: self.store.returned().is_some(),
            usage: capacity::read(&self.root),
            clock: self.clock.told(),
            syslog: self.syslog.told(),
            ports: counted.ports.clone(),
            process: process(&self.root),
            took: Duration::ZERO,
        };
        readings.took = begin.elapsed();
        readings
    }
}

/// A knob that was never written had its value already.
fn knobs(running: &Running) -> Knobs {
    let mut knobs = Knobs::default();
    for knob in &running.desired.knobs {
        match running.knobs.get(&knob.path) {
            Some(Outcome::Set) => knobs.set += 1,
            Some(Outcome::Unsupported) => knobs.unsupported += 1,
            Some(Outcome::Refused(_)) => knobs.refused += 1,
            None | Some(Outcome::Kept | Outcome::Returned | Outcome::Skipped) => knobs.kept += 1,
        }
    }
    knobs
}

/// proc_pid_stat(5), proc_pid_statm(5).
fn process(root: &Root) -> Process {
    let stat = root.read_machine("proc/self/stat").unwrap_or_default();
    // The name of the program stands in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let field = |number: usize| fields.split_whitespace().nth(number - 3).and_then(|text| text.parse::<u64>().ok());
    let ticks = |number| Duration::from_millis(field(number).unwrap_or(0) * 1000 / TICKS);
    let statm = root.read_machine("proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let machine = root.read_machine("proc/stat").unwrap_or_default();
    let boot: f64 =
        machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or_default();
    Process {
        cpu: ticks(14) + ticks(15),
        resident: pages * page_size(),
        descriptors: root.list_machine("proc/self/fd").map_or(0, |names| names.len() as u64),
        started: boot + ticks(22).as_secs_f64(),
    }
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}
