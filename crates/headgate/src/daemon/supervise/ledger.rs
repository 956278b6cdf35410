//! Who runs, on file: `services.json` in the state directory, so that a supervisor that was killed does not leave its services to run
//! beside those of the next one.
//!
//! PR_SET_PDEATHSIG would not do: it reaches only direct children, and programs that change their user lose it. The file names the
//! leaders; a mark in the environment, made from device and inode of the state directory, finds the rest, and everybody when the file is
//! damaged. Adopting the old processes is no choice, their output would be lost: they are ended and started again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headgate_config::types::ServiceName;
use serde::{Deserialize, Serialize};

use super::family::{Among, Family};
use super::{SuperviseError, table};

const FILE: &str = "services.json";

/// The entry in the environment of every process of a service.
pub(super) const MARK: &str = "HEADGATE_SUPERVISED";

/// How long the services of a dead supervisor get when the file does not say.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(5);

/// A process that cannot be confused with a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) pid: i32,
    /// Clock ticks since boot.
    pub(super) start: u64,
}

impl Named {
    fn is_there(self) -> bool {
        table::process(self.pid).is_some_and(|process| process.start == self.start)
    }

    fn is_alive(self) -> bool {
        table::process(self.pid).is_some_and(|process| process.start == self.start && !process.zombie)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    leader: Named,
    stop_timeout_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Content {
    /// `/proc/sys/kernel/random/boot_id`: pids and ticks mean nothing after a reboot.
    boot: String,
    supervisor: Named,
    services: BTreeMap<ServiceName, Entry>,
}

/// The file and what it should say.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    content: Content,
    /// The last write failed, and this was said.
    complained: bool,
    key: String,
}

impl Ledger {
    /// Takes over the state directory, which is made when missing. What the one before us left running comes along.
    ///
    /// # Errors
    /// When the directory cannot be made, or its supervisor is alive.
    pub(super) fn open(directory: &Path) -> Result<(Self, Inheritance), SuperviseError> {
        let state_error = |source| SuperviseError::State { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(state_error)?;
        let metadata = fs::metadata(directory).map_err(state_error)?;
        let key = format!("{:x}.{:x}", metadata.dev(), metadata.ino());
        let path = directory.join(FILE);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let pid = std::process::id() as i32;
        let supervisor = Named { pid, start: table::process(pid).map_or(0, |process| process.start) };
        let old = read(&path).filter(|old| old.boot == boot);
        if let Some(alive) = old.as_ref().map(|old| old.supervisor).filter(|old| *old != supervisor && old.is_alive()) {
            return Err(SuperviseError::Running { pid: alive.pid, path });
        }
        let inheritance =
            Inheritance { mark: format!("{MARK}={key}/"), services: old.map(|old| old.services).unwrap_or_default() };
        let mut ledger =
            Self { path, content: Content { boot, supervisor, services: BTreeMap::new() }, complained: false, key };
        // The old entries stay on file until they are gone: we may be killed as well.
        ledger.content.services.clone_from(&inheritance.services);
        ledger.write();
        Ok((ledger, inheritance))
    }

    /// The mark of a service, `NAME=value`. It ends with a slash so that no name is the beginning of another.
    pub(super) fn mark(&self, service: &ServiceName) -> String {
        format!("{MARK}={}/{service}/", self.key)
    }

    /// Notes a service that runs now.
    pub(super) fn add(&mut self, service: &ServiceName, leader: Named, stop_timeout: Duration) {
        let stop_timeout_ms = u64::try_from(stop_timeout.as_millis()).unwrap_or(u64::MAX);
        self.content.services.insert(service.clone(), Entry { leader, stop_timeout_ms });
        self.write();
    }

    /// Strikes a service of which nothing is left.
    pub(super) fn remove(&mut self, service: &ServiceName) {
        if self.content.services.remove(service).is_some() {
            self.write();
        }
    }

    /// Strikes what the one before us left.
    pub(super) fn forget(&mut self, inherited: &Inheritance) {
        for (name, old) in &inherited.services {
            if self.content.services.get(name).is_some_and(|entry| entry.leader == old.leader) {
                self.content.services.remove(name);
            }
        }
        self.write();
    }

    /// A file that cannot be written (a full disk) must not stop a service: the mark alone finds nearly everybody.
    fn write(&mut self) {
        let text = serde_json::to_vec(&self.content).expect("names and numbers always serialise");
        let new = self.path.with_extension("json.new");
        match fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path)) {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                tracing::warn!(path = %self.path.display(), %error, "running services cannot be noted");
                self.complained = true;
            }
            Err(_) => {}
        }
    }
}

fn read(path: &Path) -> Option<Content> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot be read");
            return None;
        }
    };
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "is damaged; older services are found by their environment"))
        .ok()
}

/// What a supervisor that did not shut down left running.
#[derive(Debug)]
pub(super) struct Inheritance {
    mark: String,
    services: BTreeMap<ServiceName, Entry>,
}

impl Inheritance {
    /// Ends it.
    pub(super) async fn end(&self) {
        // A group is known to be theirs only while its leader holds the number; the mark finds the other members.
        let leaders = self.services.values().map(|entry| entry.leader).filter(|leader| leader.is_there());
        let mut family = Family::new(leaders.map(|leader| leader.pid).collect(), self.mark.clone(), Among::Everyone);
        let found = family.living();
        if found.is_empty() {
            return;
        }
        let pids: Vec<i32> = found.iter().map(|process| process.pid).collect();
        tracing::warn!(?pids, "services of a supervisor that was killed are still running: ending them");
        let patience = self.services.values().map(|entry| Duration::from_millis(entry.stop_timeout_ms)).max();
        for process in family.end(patience.unwrap_or(UNKNOWN_PATIENCE)).await {
            tracing::error!(pid = process.pid, "does not go even after SIGKILL; the kernel holds it");
        }
    }
}
