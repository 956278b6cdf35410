//! Since when farms are as they are, and faults are there; kept below `/run`, so that a restart does not make them young again.

use headgate_config::types::FarmName;
use headgate_host::Root;
use headgate_plan::fault::{Since, faults};
use headgate_plan::status::{Counted, FarmStatus, Status};
use serde::{Deserialize, Serialize};

use super::Engine;
use crate::remembered::{boot, now};

const FILE: &str = "run/headgate/since.json";

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Kept {
    since: Since,
}

/// The file: times since the boot say nothing in another one.
#[derive(Debug, Serialize, Deserialize)]
struct File<'a> {
    boot: String,
    since: std::borrow::Cow<'a, Since>,
}

impl Kept {
    /// Of this boot; nothing when there is nothing that can be read.
    pub(super) fn read(root: &Root) -> Self {
        let text = match root.read_file(FILE) {
            Ok(text) => text,
            Err(error) => {
                if !error.is_missing() {
                    tracing::warn!(error = %crate::explain(&error), "faults are as old as this start");
                }
                return Self::default();
            }
        };
        let read = serde_json::from_str::<File<'_>>(&text);
        let read =
            read.inspect_err(|error| tracing::warn!(%error, "/{FILE} is damaged; faults are as old as this start"));
        let since = read.ok().filter(|file| file.boot == boot(root)).map(|file| file.since.into_owned());
        Self { since: since.unwrap_or_default() }
    }

    fn write(&mut self, root: &Root) {
        if !self.since.take_changed() {
            return;
        }
        let file = File { boot: boot(root), since: std::borrow::Cow::Borrowed(&self.since) };
        let text = serde_json::to_vec(&file).expect("names and numbers are JSON");
        if let Err(error) = root.write_file(FILE, &text) {
            tracing::debug!(error = %crate::explain(&error), "a restart would make faults young again");
        }
    }
}

impl Engine {
    /// Dates the farms of an answer.
    pub(super) fn date_farms(&mut self, farms: &mut [FarmStatus]) {
        self.kept.since.date_farms(farms, now());
    }

    /// Finds the faults of a status, and dates everything.
    pub(super) fn date(&mut self, status: &mut Status) {
        self.date_farms(&mut status.farms);
        status.faults = faults(status);
        self.kept.since.date(&mut status.faults, now());
        self.kept.write(&self.root);
    }

    /// Takes note of farms that may have turned.
    pub(super) fn see<'a>(&mut self, farms: impl IntoIterator<Item = &'a FarmName>) {
        let Some(running) = &self.running else { return };
        let (counted, now) = (Counted::default(), now());
        for farm in farms.into_iter().filter_map(|name| running.config.farms.get(name)) {
            let health = FarmStatus::new(farm, &running.desired, &counted).health;
            self.kept.since.see(&farm.name, health, now);
        }
    }

    /// The same of all farms: of an address that went, or a route, nobody tells.
    pub(super) fn see_all(&mut self) {
        let Some(running) = &self.running else { return };
        let names: Vec<FarmName> = running.config.farms.keys().cloned().collect();
        self.see(&names);
        let Some(running) = &self.running else { return };
        self.kept.since.keep(|farm| running.config.farms.contains_key(farm));
        self.kept.write(&self.root);
    }
}

#[cfg(test)]
mod tests {
    use headgate_plan::status::FarmHealth;

    use super::*;

    #[test]
    fn what_is_written_is_read_in_the_same_boot_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let mut kept = Kept::read(&root);
        kept.since.see(&FarmName::new("web").unwrap(), FarmHealth::Down, now());
        kept.write(&root);
        assert_eq!(Kept::read(&root).since, kept.since);
        let path = directory.path().join(FILE);
        let other = std::fs::read_to_string(&path).unwrap().replace(&boot(&root), "another");
        for text in [other.as_str(), "", "{", "[]"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Kept::read(&root).since, Since::default(), "{text}");
        }
    }
}
