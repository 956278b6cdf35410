//! The health of the backends, in a file: what the next daemon goes on with, and what `plan` must know without the daemon.
//!
//! It lies under `/run`, which a reboot empties. What another boot has left there all the same says nothing about now.

use std::net::IpAddr;
use std::time::Duration;

use headgate_config::types::{BackendName, FarmName};
use headgate_host::root::{Root, RootError};
use headgate_plan::health::{Condition, Fallen, Record};
use nix::time::ClockId;
use serde::{Deserialize, Serialize};

const FILE: &str = "run/headgate/health.json";
/// Another one in each boot.
const BOOT: &str = "proc/sys/kernel/random/boot_id";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Remembered {
    boot: String,
    /// In no order.
    pub backends: Vec<Entry>,
}

/// What is remembered of one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// Its farm.
    pub farm: FarmName,
    /// Its name.
    pub backend: BackendName,
    /// Where it was.
    pub address: IpAddr,
    /// How it was.
    pub record: Record,
    /// Why its last probe failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Time since boot, by which all that is remembered is dated.
pub fn now() -> Duration {
    ClockId::CLOCK_BOOTTIME.now().map(Duration::from).unwrap_or_default()
}

impl Remembered {
    /// Nothing, when there is nothing that can be read and is of this boot: a backend of which nothing is known is probed first.
    pub fn read(root: &Root) -> Self {
        let text = match root.read_file(FILE) {
            Ok(text) => text,
            Err(error) => {
                if !error.is_missing() {
                    tracing::warn!(error = %crate::explain(&error), "the health of the backends is not remembered");
                }
                return Self::default();
            }
        };
        let read: Self = serde_json::from_str(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, "/{FILE} is damaged; the health of the backends is not remembered");
            Self::default()
        });
        if read.boot == boot(root) { read } else { Self::default() }
    }

    /// Keeps this instead of what was kept.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(root: &Root, backends: Vec<Entry>) -> Result<(), RootError> {
        let text = serde_json::to_vec(&Self { boot: boot(root), backends }).expect("names and numbers are JSON");
        root.write_file(FILE, &text)
    }

    /// Those that are down.
    pub fn fallen(&self) -> Fallen {
        let mut fallen = Fallen::default();
        for entry in self.backends.iter().filter(|entry| entry.record.condition() == Condition::Down) {
            fallen.set(&entry.farm, &entry.backend, entry.address, Condition::Down);
        }
        fallen
    }
}

/// Which boot this is.
pub fn boot(root: &Root) -> String {
    root.read_machine(BOOT).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use headgate_plan::health::{Sign, Thresholds};

    use super::*;

    fn entry(sign: Sign) -> Entry {
        let mut record = Record::default();
        record.observe(sign, Thresholds { rise: 1, fall: 1 }, now());
        Entry {
            farm: FarmName::new("web").unwrap(),
            backend: BackendName::new("b1").unwrap(),
            address: [10, 0, 0, 1].into(),
            record,
            error: None,
        }
    }

    #[test]
    fn what_is_written_is_read_in_the_same_boot_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        assert_eq!(Remembered::read(&root), Remembered::default());
        for sign in [Sign::Failed, Sign::Passed] {
            Remembered::write(&root, vec![entry(sign)]).unwrap();
            let read = Remembered::read(&root);
            assert_eq!(
                read.backends,
                [entry(sign)].map(|entry| Entry { record: read.backends[0].record.clone(), ..entry })
            );
            assert_eq!(read.fallen() == Fallen::default(), sign == Sign::Passed);
        }
        let path = directory.path().join(FILE);
        let other = std::fs::read_to_string(&path).unwrap().replace(&boot(&root), "another");
        for text in [other.as_str(), "", "{", "[]"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Remembered::read(&root), Remembered::default(), "{text}");
        }
    }
}
