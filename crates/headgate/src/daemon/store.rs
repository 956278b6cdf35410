//! Generations: what ran before, so that it can be gone back to.
//!
//! `/var/lib/headgate/generations/N.json` holds a copy of every file of a configuration that was applied and verified;
//! `/var/lib/headgate/store.json` says which one runs and which configuration was returned from. Every file is written
//! beside its place, synced and renamed over it: after a power cut there is the old one or the new one. `store.json` is
//! written last: a generation that it does not name yet is only one more to go back to.
//!
//! A configuration on trial (`apply --confirm`) is written down before the kernel hears of it, so that whatever ends the
//! daemon in between, the next one knows what to return to.
//!
//! Nothing here is fatal. A file that cannot be read counts as absent and is reported once; a disk that is full costs the
//! history, never the data plane.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headgate_host::root::{Root, RootError};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api;
use crate::drop_in;

/// How many generations are kept.
const KEPT: usize = 20;
const STATE: &str = "var/lib/headgate";
const DIRECTORY: &str = "var/lib/headgate/generations";
const POINTERS: &str = "var/lib/headgate/store.json";

/// Why state was not kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Writing failed; what was there still is.
    #[error(transparent)]
    File(#[from] RootError),
    /// A path or text that JSON cannot hold.
    #[error("cannot encode {0}")]
    Encode(String, #[source] serde_json::Error),
    /// There is no such generation, or its file is damaged.
    #[error("there is no generation {0}")]
    NoGeneration(u64),
    /// There is none before the running one.
    #[error("there is no earlier generation")]
    NoEarlier,
}

/// A file of a configuration: where it lay and what it said.
pub type SourceText = (PathBuf, String);

/// One configuration that ran. Who only wants to know of it leaves the texts where they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation<Text = String> {
    /// Counts up from 1.
    pub number: u64,
    /// Seconds since 1970.
    pub time: u64,
    /// [`hash`] of `files`.
    pub hash: String,
    /// What brought it.
    pub reason: String,
    /// Who asked for it; nobody at a start or a reload by signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What it changed, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// In the order in which they are merged; without `runtime.toml`.
    pub files: Vec<(PathBuf, Text)>,
}

/// Why, and for whom, a configuration is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// What brought it.
    pub reason: &'static str,
    /// Who asked for it.
    pub author: Option<String>,
    /// What it changed, in words.
    pub changes: Vec<String>,
}

/// A configuration that returns to the one before unless somebody confirms it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trial {
    /// The generation to return to.
    pub back: u64,
    /// [`hash`] of the configuration on trial.
    pub hash: String,
    /// The boot in which it began: it ends with it.
    pub boot: String,
    /// When it is over, milliseconds of that boot, sleep included (`CLOCK_BOOTTIME`): no jump of the wall clock moves it.
    pub until_ms: u64,
    /// `runtime.toml` before: what it loses during the trial comes back with the configuration.
    pub runtime: String,
    /// An earlier generation is on trial, not the files: what had been returned from before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<Returned>,
}

/// Which files do not run although they are there, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Returned {
    /// Their [`hash`]; `None`: they run.
    hash: Option<String>,
    /// Nobody confirmed them.
    lapsed: bool,
}

impl Trial {
    /// How long it still has at `now`, a time of the boot `boot`; `None`: it is over.
    pub fn left(&self, boot: &str, now: Duration) -> Option<Duration> {
        let until = Duration::from_millis(self.until_ms);
        until.checked_sub(now).filter(|left| self.boot == boot && !left.is_zero())
    }
}

/// What `store.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Pointers {
    /// The generation that was last applied and verified.
    running: Option<u64>,
    /// The hash of the configuration that was returned from: not loaded again until the files change or `apply` asks.
    returned: Option<String>,
    /// It was returned from because nobody confirmed it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lapsed: bool,
    /// What runs is on trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<Trial>,
}

/// The store of one root.
#[derive(Debug)]
pub struct Store {
    root: Root,
    pointers: Pointers,
    /// By number. The texts stay on disk: 20 copies of a large configuration have no place in memory.
    known: Vec<api::Generation>,
    faults: Vec<String>,
}

/// SHA-256 over names and texts, hexadecimal.
pub fn hash(files: &[SourceText]) -> String {
    let mut digest = Sha256::new();
    for (path, text) in files {
        // Lengths keep the border between a name and a text from moving.
        for part in [path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Store {
    /// Reads what is there. Damage is remembered in [`Store::faults`]; that of the texts of a generation that does not run is found
    /// when it is gone back to: twenty large configurations are a quarter of a second to read, and most are never asked for.
    pub fn open(root: Root) -> Self {
        let mut store = Self { root, pointers: Pointers::default(), known: Vec::new(), faults: Vec::new() };
        store.sweep();
        store.pointers = store.read_json(POINTERS).unwrap_or_default();
        for number in store.numbers() {
            let known = match store.pointers.running == Some(number) {
                true => store.read_generation(number).as_ref().map(summary),
                false => store.read_numbered::<IgnoredAny>(number).as_ref().map(summary),
            };
            store.known.extend(known);
        }
        store
    }

    /// What could not be read, for people.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// All that can be gone back to, oldest first.
    pub fn history(&self) -> Vec<api::Generation> {
        self.known
            .iter()
            .map(|generation| api::Generation {
                running: self.pointers.running == Some(generation.number),
                returned: self.pointers.returned.as_ref() == Some(&generation.hash),
                ..generation.clone()
            })
            .collect()
    }

    /// The number of the generation that was last applied and verified.
    pub fn running(&self) -> Option<u64> {
        self.pointers.running
    }

    /// The hash of the configuration that was returned from.
    pub fn returned(&self) -> Option<&str> {
        self.pointers.returned.as_deref()
    }

    /// The last good one: the running one, or the newest that can be read when the pointer is lost.
    pub fn last_good(&mut self) -> Option<Generation> {
        let running = self.pointers.running;
        let newest_first = self.known.iter().rev().map(|generation| generation.number);
        let candidates: Vec<u64> = running.into_iter().chain(newest_first).collect();
        candidates.into_iter().find_map(|number| self.read_generation(number))
    }

    /// It was returned from because nobody confirmed it, not by a rollback.
    pub fn lapsed(&self) -> bool {
        self.pointers.lapsed
    }

    /// What runs is on trial.
    pub fn trial(&self) -> Option<&Trial> {
        self.pointers.trial.as_ref()
    }

    /// A generation by number, or the one before: before the trial, or before the running one.
    pub fn find(&mut self, number: Option<u64>) -> Result<Generation, StoreError> {
        let before_trial = self.pointers.trial.as_ref().map(|trial| trial.back);
        if let Some(number) = number.or(before_trial) {
            return self.read_generation(number).ok_or(StoreError::NoGeneration(number));
        }
        let running = self.pointers.running.unwrap_or(u64::MAX);
        let earlier = self.known.iter().rev().map(|generation| generation.number).filter(|number| *number < running);
        let earlier: Vec<u64> = earlier.collect();
        earlier.into_iter().find_map(|number| self.read_generation(number)).ok_or(StoreError::NoEarlier)
    }

    /// Remembers that these files run now, as a new generation unless they are the running one. A trial of them goes on.
    pub fn record(&mut self, files: Vec<SourceText>, origin: Origin) -> Result<u64, StoreError> {
        let hash = hash(&files);
        let trial = self.pointers.trial.clone().filter(|trial| trial.hash == hash);
        let number = match self.is_running(&hash) {
            Some(number) => number,
            None => self.write_generation(hash, files, origin)?,
        };
        self.point(Pointers { running: Some(number), trial, ..Pointers::default() })?;
        Ok(number)
    }

    /// The number of the running generation, if its hash is this one.
    pub fn is_running(&self, hash: &str) -> Option<u64> {
        let running = self.pointers.running;
        self.known.iter().find(|known| Some(known.number) == running && known.hash == hash).map(|known| known.number)
    }

    /// Remembers that `number` runs although the files say `hash`; `None`: they say the same, or nothing valid. A trial of it
    /// goes on.
    pub fn returned_to(&mut self, number: u64, hash: Option<String>) -> Result<(), StoreError> {
        let is = |trial: &Trial| self.known.iter().any(|known| known.number == number && known.hash == trial.hash);
        let trial = self.pointers.trial.clone().filter(is);
        self.point(Pointers { running: Some(number), returned: hash, trial, ..Pointers::default() })
    }

    /// For a trial of an earlier generation: what had been returned from before.
    pub fn returned_before(&self) -> Returned {
        Returned { hash: self.pointers.returned.clone(), lapsed: self.pointers.lapsed }
    }

    /// Remembers that what is applied next is on trial. What runs keeps running until [`Store::record`].
    pub fn begin_trial(&mut self, trial: Trial) -> Result<(), StoreError> {
        self.point(Pointers { trial: Some(trial), ..self.pointers.clone() })
    }

    /// What runs, runs for good.
    pub fn end_trial(&mut self) -> Result<(), StoreError> {
        self.point(Pointers { trial: None, ..self.pointers.clone() })
    }

    /// The trial is over, and what ran before it runs again. That holds even if it cannot be written: the next start then
    /// finds the trial, over as before.
    pub fn lapse(&mut self) -> Result<(), StoreError> {
        let Some(trial) = self.pointers.trial.take() else { return Ok(()) };
        let same = self.known.iter().any(|known| known.number == trial.back && known.hash == trial.hash);
        let Returned { hash: returned, lapsed } =
            trial.returned.unwrap_or_else(|| Returned { hash: Some(trial.hash).filter(|_| !same), lapsed: !same });
        self.pointers = Pointers { running: Some(trial.back), returned, lapsed, trial: None };
        self.write_json(POINTERS, &self.pointers)
    }

    fn point(&mut self, pointers: Pointers) -> Result<(), StoreError> {
        if pointers == self.pointers {
            return Ok(());
        }
        self.write_json(POINTERS, &pointers)?;
        self.pointers = pointers;
        Ok(())
    }

    /// Takes away what a daemon that was killed while writing left beside the files.
    fn sweep(&self) {
        let directories =
            [DIRECTORY, STATE, drop_in::DIRECTORY].map(|directory| self.root.file(directory).map(fs::read_dir));
        for entry in directories.into_iter().flatten().flatten().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".new")) {
                // It is in nobody's way; only its space is missed.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn write_generation(&mut self, hash: String, files: Vec<SourceText>, origin: Origin) -> Result<u64, StoreError> {
        let number = self.numbers().last().copied().unwrap_or(0) + 1;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let Origin { reason, author, changes } = origin;
        let generation = Generation { number, time, hash, reason: reason.to_owned(), author, changes, files };
        self.write_json(&file_of(number), &generation)?;
        self.known.push(summary(&generation));
        self.prune();
        Ok(number)
    }

    /// Oldest first; never the running one, which is what a boot with a bad configuration falls back to, nor what a trial
    /// returns to.
    fn prune(&mut self) {
        let kept = [self.pointers.running, self.pointers.trial.as_ref().map(|trial| trial.back)];
        while self.known.len() > KEPT {
            let Some(at) = self.known.iter().position(|known| !kept.contains(&Some(known.number))) else {
                return;
            };
            let number = self.known.remove(at).number;
            let removed = self.root.file(file_of(number)).map(fs::remove_file);
            if let Ok(Err(error)) = removed {
                self.fault(format!("cannot remove generation {number}: {error}"));
            }
        }
    }

    fn numbers(&self) -> Vec<u64> {
        let directory = self.root.file(DIRECTORY).map(fs::read_dir);
        let entries = directory.into_iter().flatten().flatten().flatten();
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok();
        let mut numbers: Vec<u64> = entries.filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    fn read_generation(&mut self, number: u64) -> Option<Generation> {
        let generation: Generation = self.read_numbered(number)?;
        let whole = generation.hash == hash(&generation.files);
        self.unless_damaged(number, whole).map(|()| generation)
    }

    fn read_numbered<Text: for<'de> Deserialize<'de>>(&mut self, number: u64) -> Option<Generation<Text>> {
        let generation: Generation<Text> = self.read_json(&file_of(number))?;
        self.unless_damaged(number, generation.number == number).map(|()| generation)
    }

    fn unless_damaged(&mut self, number: u64, whole: bool) -> Option<()> {
        if !whole {
            self.known.retain(|known| known.number != number);
            self.fault(format!("{} is damaged and left out", file_of(number)));
        }
        whole.then_some(())
    }

    fn read_json<T: for<'de> Deserialize<'de>>(&mut self, file: &str) -> Option<T> {
        match self.root.read_file(file) {
            Ok(text) => match serde_json::from_str(&text) {
                Ok(value) => return Some(value),
                Err(error) => self.fault(format!("{file} is damaged and left out: {error}")),
            },
            Err(error) if error.is_missing() => {}
            Err(error) => self.fault(crate::explain(&error)),
        }
        None
    }

    fn write_json<T: Serialize>(&self, file: &str, value: &T) -> Result<(), StoreError> {
        let text = serde_json::to_vec(value).map_err(|source| StoreError::Encode(file.to_owned(), source))?;
        Ok(self.root.write_file(file, &text)?)
    }

    fn fault(&mut self, text: String) {
        if !self.faults.contains(&text) {
            self.faults.push(text);
        }
    }
}

fn file_of(number: u64) -> String {
    format!("{DIRECTORY}/{number}.json")
}

fn summary<Text>(generation: &Generation<Text>) -> api::Generation {
    let name = |(path, _): &(PathBuf, Text)| path.display().to_string();
    api::Generation {
        number: generation.number,
        time: generation.time,
        hash: generation.hash.clone(),
        reason: generation.reason.clone(),
        author: generation.author.clone(),
        changes: generation.changes.clone(),
        files: generation.files.iter().map(name).collect(),
        running: false,
        returned: false,
    }
}

#[cfg(test)]
mod tests;
