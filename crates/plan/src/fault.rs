//! Faults: what needs somebody's attention, worst first, each with what to do about it; and since when.

use std::collections::BTreeMap;
use std::time::Duration;

use headgate_config::types::FarmName;
use serde::{Deserialize, Serialize};

use crate::capacity;
use crate::knob;
use crate::status::{BackendStatus, Clock, FarmHealth, FarmStatus, Standing, Status, Syslog};

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fault {
    /// How bad.
    pub severity: Severity,
    /// What it is of; the same for as long as it lasts: `farm web`, `backend b1 of web`, `configuration`.
    pub subject: String,
    /// What is wrong, in one sentence.
    pub text: String,
    /// For how long, milliseconds; `None`: nobody knows.
    pub since_ms: Option<u64>,
    /// What somebody can do.
    pub help: String,
}

/// How bad a fault is. The order is from bad to less bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Clients are refused.
    Down,
    /// Packets are lost.
    Losing,
    /// It works, but not as it should.
    Degraded,
    /// It works, and would not with a little more traffic.
    Near,
}

/// The subject of a configuration that does not run.
pub const CONFIGURATION: &str = "configuration";
/// The subject of a kernel that is not as it should be.
pub const DRIFT: &str = "kernel";
/// The subjects of what the box itself has to do with others.
pub const OUTSIDE: [&str; 2] = [CLOCK, SYSLOG];
/// The subject of a clock that is not kept.
pub const CLOCK: &str = "clock";
/// The subject of a log that its receiver does not take.
pub const SYSLOG: &str = "syslog";

/// The faults of a status, worst first.
pub fn faults(status: &Status) -> Vec<Fault> {
    let mut faults: Vec<Fault> = status.farms.iter().flat_map(of_farm).collect();
    let degraded = |subject: String, text: String, help: &str| Fault {
        severity: Severity::Degraded,
        subject,
        text,
        since_ms: None,
        help: help.to_owned(),
    };
    faults.extend(status.last_error.iter().map(|error| {
        let help = "mend the file and `headgate apply`, or `headgate rollback`";
        degraded(CONFIGURATION.to_owned(), error.clone(), help)
    }));
    faults.extend(status.drift.first().map(|first| {
        let more = status.drift.len() - 1;
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let help = "it is mended within seconds; if it comes again, somebody else writes it: `headgate plan`";
        degraded(DRIFT.to_owned(), format!("it is not as it should be: {}{more}", first.text), help)
    }));
    faults.extend(status.services.iter().filter(|service| !service.healthy).map(|service| {
        let help = "headgated starts it again by itself; why it ended is in the log";
        degraded(format!("service {}", service.name), service.state.clone(), help)
    }));
    faults.extend(status.refused.iter().map(|(path, why)| {
        let help = "`headgate hw explain` says who wants it, and why";
        degraded(format!("knob {}", knob::name(path)), format!("the kernel refused it: {why}"), help)
    }));
    faults.extend(status.clock.as_ref().and_then(of_clock));
    faults.extend(status.syslog.as_ref().and_then(of_syslog));
    faults.extend(status.capacity.findings.iter().map(of_finding));
    // What comes first of equal severity stays first: farms, then what is of the whole box.
    faults.sort_by_key(|fault| fault.severity);
    faults
}

/// A clock that was right a while ago is still nearly so: silence is no fault at once.
fn of_clock(clock: &Clock) -> Option<Fault> {
    let error = clock.error.as_ref().filter(|_| clock.synchronised_ms.is_none())?;
    let said = clock.servers.iter().filter_map(|server| {
        let error = server.error.as_ref()?;
        Some(format!("{}: {error}", server.address))
    });
    let said: Vec<String> = said.collect();
    let said = if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) };
    Some(Fault {
        severity: Severity::Degraded,
        subject: CLOCK.to_owned(),
        text: format!("the clock is not synchronised: {error}{said}"),
        since_ms: None,
        help: "see that `ntp-servers` are reachable and right; a box that is far ahead is set at its next start"
            .to_owned(),
    })
}

/// Farms serve without it, so the whole is healthy all the same.
fn of_syslog(syslog: &Syslog) -> Option<Fault> {
    let Syslog { to, error, lost, .. } = syslog;
    let lost = if *lost > 0 { format!("; {lost} lines are lost") } else { String::new() };
    error.as_ref().map(|error| Fault {
        severity: Severity::Degraded,
        subject: SYSLOG.to_owned(),
        text: format!("{to} does not take the log: {error}{lost}"),
        since_ms: syslog.since_ms,
        help:
            "mend the receiver or the way to it; it is tried again by itself, and lines wait as long as there is room"
                .to_owned(),
    })
}

fn of_finding(finding: &capacity::Finding) -> Fault {
    let subject = finding.subject.as_ref().map(|subject| format!(" {subject}")).unwrap_or_default();
    let severity = match finding.severity {
        capacity::Severity::Losing => Severity::Losing,
        capacity::Severity::Near => Severity::Near,
    };
    Fault {
        severity,
        subject: format!("capacity {}{subject}", finding.kind.word()),
        text: finding.text.clone(),
        since_ms: None,
        help: finding.help.clone(),
    }
}

/// The farm itself, and its backends that take no flows.
fn of_farm(farm: &FarmStatus) -> Vec<Fault> {
    let severity = match farm.health {
        FarmHealth::Down => Severity::Down,
        FarmHealth::Degraded => Severity::Degraded,
        FarmHealth::Serving | FarmHealth::Off => return Vec::new(),
    };
    let name = &farm.name;
    let closed = farm.backends.iter().all(|backend| backend.standing == Standing::Idle);
    let (mut text, mut help) = match farm.health {
        FarmHealth::Down if closed => {
            ("an operator has closed it".to_owned(), format!("`headgate farm set {name} state=up`"))
        }
        FarmHealth::Down => (format!("new flows are refused: 0 of {} backends take any", farm.total), String::new()),
        _ => (format!("{} of {} backends take flows", farm.usable, farm.total), String::new()),
    };
    if !farm.unplaced.is_empty() {
        let addresses: Vec<String> = farm.unplaced.iter().map(ToString::to_string).collect();
        text += &format!("; no interface has {}", addresses.join(", "));
        help = "give an interface an address of the same network, or name one with `address.interface`".to_owned();
    }
    if help.is_empty() {
        help = "see its backends".to_owned();
    }
    let itself = Fault { severity, subject: format!("farm {name}"), text, since_ms: farm.since_ms, help };
    let out = farm.backends.iter().filter(|backend| !matches!(backend.standing, Standing::Serving | Standing::Spare));
    let backends = out.filter(|_| !closed).map(|backend| Fault {
        severity,
        subject: format!("backend {} of {name}", backend.name),
        text: backend.why_not(),
        since_ms: backend
            .health
            .as_ref()
            .filter(|_| backend.standing == Standing::Unhealthy)
            .and_then(|health| health.since_ms),
        help: farm.remedy(backend),
    });
    std::iter::once(itself).chain(backends).collect()
}

impl BackendStatus {
    /// Why it takes no flows.
    fn why_not(&self) -> String {
        let error = self
            .health
            .as_ref()
            .filter(|_| self.standing == Standing::Unhealthy)
            .and_then(|health| health.error.as_ref());
        let error = error.map(|error| format!(": {error}")).unwrap_or_default();
        format!("{}{error}", self.standing.word())
    }
}

impl FarmStatus {
    /// What somebody can do so that a backend takes flows.
    pub fn remedy(&self, backend: &BackendStatus) -> String {
        let (farm, BackendStatus { name, address, .. }) = (&self.name, backend);
        match backend.standing {
            Standing::Serving | Standing::Spare => String::new(),
            Standing::Draining if backend.weight == 0 => format!("headgate backend weight {farm} {name} 1"),
            Standing::Draining | Standing::Down => format!("headgate backend up {farm} {name}"),
            Standing::Unhealthy => format!("mend the server; it comes back by itself: headgate farm show {farm}"),
            Standing::Unroutable => format!("add a route or an interface's address towards {address}"),
            Standing::Idle => format!("headgate farm set {farm} state=up"),
        }
    }
}

/// Since when farms are as they are, and faults are there; in times since the boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Since {
    farms: BTreeMap<FarmName, (FarmHealth, Duration)>,
    faults: BTreeMap<String, Duration>,
    #[serde(skip)]
    changed: bool,
}

impl Since {
    /// Takes note of how a farm is; since when it is so.
    pub fn see(&mut self, farm: &FarmName, health: FarmHealth, now: Duration) -> Duration {
        if let Some((_, since)) = self.farms.get(farm).filter(|(known, _)| *known == health) {
            return *since;
        }
        self.changed = true;
        self.farms.insert(farm.clone(), (health, now));
        now
    }

    /// Whether anything is otherwise since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Forgets farms that are gone: one that comes back begins anew.
    pub fn keep(&mut self, is_there: impl Fn(&FarmName) -> bool) {
        let before = self.farms.len();
        self.farms.retain(|farm, _| is_there(farm));
        self.changed |= self.farms.len() != before;
    }

    /// Writes into the farms since when they are as they are.
    pub fn date_farms(&mut self, farms: &mut [FarmStatus], now: Duration) {
        for farm in farms {
            farm.since_ms = Some(age(self.see(&farm.name, farm.health, now), now));
        }
    }

    /// Writes into the faults since when they are there, unless that is known better; forgets those that are gone.
    pub fn date(&mut self, faults: &mut [Fault], now: Duration) {
        let mut known = BTreeMap::new();
        for fault in faults.iter_mut().filter(|fault| fault.since_ms.is_none()) {
            let since = self.faults.get(&fault.subject).copied().unwrap_or(now);
            fault.since_ms = Some(age(since, now));
            known.insert(fault.subject.clone(), since);
        }
        self.changed |= self.faults != known;
        self.faults = known;
    }
}

fn age(since: Duration, now: Duration) -> u64 {
    u64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
