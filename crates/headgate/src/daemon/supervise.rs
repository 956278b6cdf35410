//! `[services]`: processes kept alive next to the data plane.
//!
//! [`Supervisor::apply`] tells each service's keeper, a task of its own, what is wanted of it and returns at once; keepers wait for each
//! other (`after`, and the reverse on the way down), never the daemon for them. A run is an `instance`: a process group, a pidfd, a pipe
//! into the log. After every run the `family` of the service, escaped grandchildren included, is ended before the next run starts.
//! `policy` decides what follows, `ledger` keeps on file who runs, so that nothing runs twice after the supervisor itself was killed,
//! and `reaper` takes the orphans. Nothing here touches the data plane, and nothing in the data plane waits for it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headgate_config::model::Service;
use headgate_config::types::ServiceName;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::service::{ServiceState, ServiceStatus};
use keeper::{Keeper, NETWORK, Report, Run, Shared, Wanted};
use ledger::Ledger;

mod family;
mod instance;
mod keeper;
mod ledger;
mod output;
mod policy;
mod reaper;
mod table;
#[cfg(test)]
mod tests;

/// Why the supervisor cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuperviseError {
    /// The state directory cannot be made.
    #[error("cannot use {path} for the state of services")]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another supervisor keeps the services of this state directory.
    #[error("process {pid} keeps the services already, says {path}")]
    Running {
        /// The other one.
        pid: i32,
        /// The file that says so.
        path: PathBuf,
    },
}

/// Whether the network step is over, well or not: services that are `after` it wait until then. A step that failed counts as over, since
/// the service that waits for it may be the ssh that is needed to repair it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Not yet.
    Pending,
    /// From now on; there is no way back.
    Configured,
}

/// Keeps services running. Lives in a tokio runtime with I/O and time; dropping it without [`Supervisor::shutdown`] ends the services too,
/// if the runtime lives on for long enough.
#[derive(Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
    keepers: BTreeMap<ServiceName, Kept>,
    network: watch::Sender<bool>,
    reaper: JoinHandle<()>,
}

#[derive(Debug)]
struct Kept {
    /// As it was wanted last; stays when it is being stopped, for the order.
    service: Service,
    wanted: watch::Sender<Wanted>,
    report: watch::Receiver<Report>,
}

impl Kept {
    fn is_stopping(&self) -> bool {
        matches!(&*self.wanted.borrow(), Wanted::Stop(_))
    }

    fn is_gone(&self) -> bool {
        self.is_stopping() && self.report.borrow().state == ServiceState::Stopped
    }
}

impl Supervisor {
    /// Takes over the services of `state_dir` (`/run/headgate`), which must be on a file system that a reboot empties. What a supervisor
    /// that was killed left running is ended in the background before any service starts.
    ///
    /// # Errors
    /// When the directory cannot be used, or its supervisor is alive.
    pub fn new(state_dir: &Path) -> Result<Self, SuperviseError> {
        let (ledger, inheritance) = Ledger::open(state_dir)?;
        if let Err(error) = set_child_subreaper(true) {
            tracing::warn!(%error, "orphans of services go to init instead of to us");
        }
        let (alone_sender, alone) = watch::channel(false);
        let shared = Arc::new(Shared { ledger: Mutex::new(ledger), alone });
        let sweeper = Arc::clone(&shared);
        tokio::spawn(async move {
            inheritance.end().await;
            sweeper.ledger().forget(&inheritance);
            alone_sender.send_replace(true);
        });
        let reaper = tokio::spawn(reaper::reap_orphans());
        Ok(Self { shared, keepers: BTreeMap::new(), network: watch::Sender::new(false), reaper })
    }

    /// Makes `services` what runs: new ones start, those whose command changed are restarted, those that are gone are stopped, the rest is
    /// left alone (a new policy holds from now on). Returns at once; [`Supervisor::status`] tells how it goes.
    pub fn apply(&mut self, services: &BTreeMap<ServiceName, Service>, network: Network) {
        if network == Network::Configured {
            self.network.send_replace(true);
        }
        self.keepers.retain(|_, kept| !kept.is_gone());
        self.stop_all_but(services);
        let mut reports: BTreeMap<ServiceName, watch::Receiver<Report>> = BTreeMap::new();
        let mut news: Vec<(ServiceName, watch::Sender<Report>)> = Vec::new();
        for name in services.keys() {
            let report = self.keepers.get(name).map(|kept| kept.report.clone());
            let report = report.unwrap_or_else(|| {
                let (sender, receiver) = watch::channel(Report::new());
                news.push((name.clone(), sender));
                receiver
            });
            reports.insert(name.clone(), report);
        }
        for (name, service) in services {
            if let Some(kept) = self.keepers.get_mut(name)
                && (kept.is_stopping() || !same(&kept.service, service))
            {
                kept.service = service.clone();
                kept.wanted.send_replace(wanted(service, &reports, &self.network));
            }
        }
        for (name, report) in news {
            let service = services[&name].clone();
            let (wanted, receiver) = watch::channel(wanted(&service, &reports, &self.network));
            let keeper = Keeper::new(name.clone(), Arc::clone(&self.shared), receiver, report);
            tokio::spawn(keeper.keep());
            let report = reports[&name].clone();
            self.keepers.insert(name, Kept { service, wanted, report });
        }
    }

    /// Stops all services, dependents first, and returns when nothing of them is left.
    pub async fn shutdown(mut self) {
        self.stop_all_but(&BTreeMap::new());
        for kept in self.keepers.values() {
            let _ = kept.report.clone().wait_for(|report| report.state == ServiceState::Stopped).await;
        }
        end_strays().await;
    }

    /// All services, by name, with what their processes use. Reads `/proc` once.
    pub fn status(&self) -> Vec<ServiceStatus> {
        let running = self.keepers.values().any(|kept| kept.report.borrow().pid.is_some());
        let processes = if running { table::processes().unwrap_or_default() } else { Vec::new() };
        self.keepers.iter().map(|(name, kept)| status(name, &kept.report.borrow(), &processes)).collect()
    }

    /// Tells every keeper whose service is not in `services` to stop, once those that depend on it have.
    fn stop_all_but(&mut self, services: &BTreeMap<ServiceName, Service>) {
        let leaving = |name: &ServiceName| !services.contains_key(name);
        for (name, kept) in self.keepers.iter().filter(|(name, kept)| leaving(name) && !kept.is_stopping()) {
            let dependents = self.keepers.iter().filter(|(other, kept)| {
                leaving(other) && kept.service.after.iter().any(|before| before == name.as_str())
            });
            kept.wanted.send_replace(Wanted::Stop(dependents.map(|(_, kept)| kept.report.clone()).collect()));
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.reaper.abort();
    }
}

/// Whether a service is what it was; where it is written does not matter.
fn same(old: &Service, new: &Service) -> bool {
    *old == Service { origin: old.origin.clone(), ..new.clone() }
}

fn wanted(
    service: &Service,
    reports: &BTreeMap<ServiceName, watch::Receiver<Report>>,
    network: &watch::Sender<bool>,
) -> Wanted {
    let after = service.after.iter().filter_map(|name| reports.get_key_value(name.as_str()));
    Wanted::Run(Arc::new(Run {
        service: service.clone(),
        after: after.map(|(name, report)| (name.clone(), report.clone())).collect(),
        network: service.after.iter().any(|name| name == NETWORK).then(|| network.subscribe()),
    }))
}

fn status(name: &ServiceName, report: &Report, processes: &[table::Process]) -> ServiceStatus {
    // sysconf(3): both are positive on Linux; 100 and 4096 nearly everywhere.
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1) as u64;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096).max(1) as u64;
    let group = processes.iter().filter(|process| report.pid == Some(process.group) && !process.zombie);
    let (mut count, mut ticks, mut pages) = (0, 0, 0);
    for process in group {
        count += 1;
        ticks += process.cpu_ticks;
        pages += process.resident_pages;
    }
    ServiceStatus {
        name: name.to_string(),
        state: report.state,
        reason: report.reason.clone(),
        pid: report.pid.and_then(|pid| u32::try_from(pid).ok()),
        since: report.since,
        restarts: report.restarts,
        last_exit: report.last_exit.clone(),
        next_start: report.next_start,
        processes: count,
        cpu_ms: ticks * 1000 / hertz,
        memory_bytes: pages * page,
    }
}

/// How long the kernel gets to take a killed stray away.
const STRAY_PATIENCE: Duration = Duration::from_millis(50);

/// Kills orphans that came to us, left their group and lost their mark: they are of another session than we, while what the daemon itself
/// starts is of ours.
async fn end_strays() {
    let me = std::process::id() as i32;
    let session = nix::unistd::getsid(None).map_or(0, Pid::as_raw);
    let mut strays = table::processes().unwrap_or_default();
    strays.retain(|process| process.parent == me && process.session != session && !instance::is_leader(process.pid));
    // Who still has a mark has a keeper, here or in another supervisor of this process.
    strays.retain(|process| !table::has_environment(process.pid, ledger::MARK).unwrap_or(true));
    if strays.is_empty() {
        return;
    }
    for stray in strays.iter().filter(|stray| !stray.zombie) {
        tracing::warn!(pid = stray.pid, "an orphan of a service is left: killing it");
        let _ = kill(Pid::from_raw(stray.pid), Signal::SIGKILL);
    }
    sleep(STRAY_PATIENCE).await;
    for stray in &strays {
        let _ = waitpid(Pid::from_raw(stray.pid), Some(WaitPidFlag::WNOHANG));
    }
}
