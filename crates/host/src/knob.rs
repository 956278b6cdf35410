//! Knobs: single values in files of `/proc` and `/sys`, and settings of NICs.
//!
//! A value is compared by meaning, written only when it differs, and read back, because the kernel may accept a write and keep
//! something else. What a knob had before our first change is kept in `var/lib/headgate/originals.json`, so that [`restore`]
//! can give the machine back as it was, whatever became of the daemon meanwhile.

use std::collections::BTreeMap;

use headgate_plan::ethtool::of_path;
use headgate_plan::knob::CPU_WAKE_UP;
use headgate_plan::state::{Fit, KnobValue};
use headgate_plan::step::Outcome;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::root::{Root, RootError};
use crate::{ethtool, wakeup};

/// Relative to the files of a [`Root`].
const ORIGINALS: &str = "var/lib/headgate/originals.json";
/// Where an unreadable file of originals is put aside.
const DAMAGED: &str = "var/lib/headgate/originals.json.damaged";

/// A knob that is to be turned.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// As in [`headgate_plan::state::Knob::path`].
    pub path: &'a str,
    /// What it should be.
    pub want: &'a KnobValue,
    /// Which values will do.
    pub fit: Fit,
}

/// Why a knob cannot be read or written.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    File(#[from] RootError),
    #[error("the kernel refuses it")]
    Kernel(#[from] std::io::Error),
}

/// The originals could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum OriginalsError {
    /// The file could not be read or written.
    #[error("the original values of knobs cannot be kept in {ORIGINALS}")]
    File(#[from] RootError),
    /// The file is not what we wrote.
    #[error("{ORIGINALS} is damaged")]
    Damaged(#[from] serde_json::Error),
}

/// What the machine had before we changed it, by the path of the knob.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Originals {
    /// The kernel's boot id: values of an earlier boot mean nothing, `/run` may lie on a disk below `--root`.
    boot: String,
    /// In the order of the paths.
    pub knobs: BTreeMap<String, Original>,
}

/// What a knob had and what it has from us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Original {
    /// The text of the file before our first change, white space at its ends removed.
    pub was: String,
    /// What we left there. Another value that is found later is somebody else's, and is not taken back.
    pub ours: KnobValue,
}

/// What a knob has, read as what is wanted of it; `None` when it is not there or cannot be read.
pub fn read(root: &Root, path: &str, like: &KnobValue) -> Option<KnobValue> {
    read_text(root, path, like).ok().map(|text| like.read_as(&text))
}

/// The text of a knob. On a machine that is made of files, settings of NICs are files too: `ethtool/eth0/rings`.
fn read_text(root: &Root, path: &str, like: &KnobValue) -> Result<String, Fault> {
    if root.is_real_machine() {
        if let Some((link, setting)) = of_path(path) {
            return Ok(ethtool::read(link, &setting, like)?);
        }
        if path == CPU_WAKE_UP {
            return Ok(wakeup::read()?.to_string());
        }
    }
    Ok(root.read_machine(path)?)
}

fn write_value(root: &Root, path: &str, value: &KnobValue) -> Result<(), Fault> {
    match of_path(path) {
        Some((link, setting)) if root.is_real_machine() => Ok(ethtool::write(link, &setting, value)?),
        _ => Ok(root.write_machine(path, &format!("{}\n", value.file_text()))?),
    }
}

/// Gives a knob its value: [`Kept`](Outcome::Kept) when it has it, [`Set`](Outcome::Set) when it was written and read
/// back, [`Unsupported`](Outcome::Unsupported) when this machine does not have it, [`Refused`](Outcome::Refused) with the
/// reason otherwise, also when the kernel took the write and kept something else.
pub fn write(root: &Root, turn: Turn<'_>) -> Outcome {
    write_all(root, &[turn]).pop().expect("write_all() returns an outcome for each knob")
}

/// The same for many, in order, with the originals kept once for all of them.
///
/// That the originals cannot be kept (a full disk) does not stop the change: a load balancer that forwards is worth more than
/// one that can be taken back. It is logged, and the knobs are missing in [`originals`].
pub fn write_all(root: &Root, turns: &[Turn<'_>]) -> Vec<Outcome> {
    let found = turns.iter().map(|turn| {
        let text = read_text(root, turn.path, turn.want).ok()?;
        let found = turn.want.read_as(&text);
        (!turn.fit.takes(turn.want, &found)).then(|| (turn, was(&text, found)))
    });
    let found: Vec<(&Turn<'_>, String)> = found.flatten().collect();
    // Before the first write, so that a crash in between loses nothing.
    let entries = found.iter().map(|(turn, was)| (turn.path, Original { was: was.clone(), ours: turn.want.clone() }));
    let before = remember(root, entries.collect());
    let mut corrections = Vec::new();
    let outcomes = turns.iter().map(|turn| {
        let (outcome, left) = write_one(root, *turn);
        match left {
            Left::Ours => {}
            // A write that failed changed nothing: without this the value of somebody else would be taken for ours later.
            Left::Untouched => corrections.push((turn.path, before.get(turn.path).cloned().flatten())),
            Left::Other(kept) => {
                let was = found.iter().find(|(other, _)| other.path == turn.path).map(|(_, was)| was.clone());
                corrections.push((turn.path, was.map(|was| Original { was, ours: kept })));
            }
        }
        outcome
    });
    let outcomes = outcomes.collect();
    correct(root, corrections);
    outcomes
}

/// What was found, as it is kept: of a NIC's settings only those that are changed.
fn was(text: &str, found: KnobValue) -> String {
    match found {
        KnobValue::Fields(_) => found.file_text(),
        _ => text.trim().to_owned(),
    }
}

/// What is in a knob after an attempt to write it.
enum Left {
    /// Our value, or one that nobody had to change.
    Ours,
    /// What was there before.
    Untouched,
    /// Something else.
    Other(KnobValue),
}

fn write_one(root: &Root, Turn { path, want, fit }: Turn<'_>) -> (Outcome, Left) {
    match read_text(root, path, want) {
        Err(error) => return (fault(path, &error), Left::Ours),
        Ok(text) if fit.takes(want, &want.read_as(&text)) => return (Outcome::Kept, Left::Ours),
        Ok(_) => {}
    }
    if let Err(error) = write_value(root, path, want) {
        return (fault(path, &error), Left::Untouched);
    }
    match read_text(root, path, want) {
        Ok(text) if fit.takes(want, &want.read_as(&text)) => (Outcome::Set, Left::Ours),
        Ok(text) => {
            let kept = want.read_as(&text);
            (Outcome::Refused(format!("the kernel kept {}", kept.file_text())), Left::Other(kept))
        }
        Err(error) => (fault(path, &error), Left::Ours),
    }
}

/// The originals of this boot; none when nothing was changed yet.
///
/// # Errors
/// [`OriginalsError`].
pub fn originals(root: &Root) -> Result<Originals, OriginalsError> {
    let boot = boot_id(root);
    let bytes = match root.read_file_bytes(ORIGINALS) {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(Originals { boot, knobs: BTreeMap::new() }),
        Err(error) => return Err(error.into()),
    };
    let kept: Originals = serde_json::from_slice(&bytes)?;
    Ok(if kept.boot == boot { kept } else { Originals { boot, knobs: BTreeMap::new() } })
}

/// Gives every knob that we changed, and that `wanted` does not name any more, its original value. Nothing wanted at all
/// restores the machine.
///
/// [`Kept`](Outcome::Kept): it has its original or, meanwhile, somebody else's value. A knob that is refused stays in the
/// originals, and is tried again the next time.
///
/// # Errors
/// [`OriginalsError`]; what was restored stays restored.
pub fn restore(root: &Root, wanted: &BTreeMap<String, KnobValue>) -> Result<Vec<(String, Outcome)>, OriginalsError> {
    let mut originals = originals(root)?;
    let mut unwanted: Vec<String> =
        originals.knobs.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    // Some can only go back once others have: the preference of a CPU is fixed while its governor is `performance`.
    while !unwanted.is_empty() {
        let before = unwanted.len();
        unwanted.retain(|path| {
            let outcome = restore_one(root, path, &originals.knobs[path]);
            let refused = matches!(outcome, Outcome::Refused(_));
            outcomes.insert(path.clone(), outcome);
            if !refused {
                originals.knobs.remove(path);
            }
            refused
        });
        if unwanted.len() == before {
            break;
        }
    }
    if !outcomes.is_empty() {
        save(root, &originals)?;
    }
    Ok(outcomes.into_iter().collect())
}

fn restore_one(root: &Root, path: &str, original: &Original) -> Outcome {
    let (ours, was) = (&original.ours, original.ours.read_as(&original.was));
    let found = match read_text(root, path, ours) {
        Ok(text) => ours.read_as(&text),
        Err(error) => return fault(path, &error),
    };
    if found == was || found != *ours {
        return Outcome::Kept;
    }
    let written = match of_path(path) {
        Some(_) => write_value(root, path, &was),
        // As it was written, whatever it means.
        None => root.write_machine(path, &format!("{}\n", original.was)).map_err(Fault::from),
    };
    if let Err(error) = written {
        return fault(path, &error);
    }
    match read_text(root, path, ours) {
        Ok(text) if ours.read_as(&text) == was => Outcome::Set,
        Ok(text) => Outcome::Refused(format!("the kernel kept {}", ours.read_as(&text).file_text())),
        Err(error) => fault(path, &error),
    }
}

/// Keeps the first `was` and the last of ours; gives what was kept before. A failure is logged.
fn remember(root: &Root, entries: BTreeMap<&str, Original>) -> BTreeMap<String, Option<Original>> {
    if entries.is_empty() {
        return BTreeMap::new();
    }
    let attempt = || -> Result<BTreeMap<String, Option<Original>>, OriginalsError> {
        let mut kept = match originals(root) {
            Err(OriginalsError::Damaged(error)) => {
                tracing::warn!(reason = %error, "{ORIGINALS} is damaged and put aside as {DAMAGED}");
                root.write_file(DAMAGED, &root.read_file_bytes(ORIGINALS)?)?;
                Originals { boot: boot_id(root), knobs: BTreeMap::new() }
            }
            other => other?,
        };
        let mut befores = BTreeMap::new();
        for (path, Original { was, ours }) in &entries {
            let before = kept.knobs.get(*path).cloned();
            let was = before.as_ref().map_or(was, |before| &before.was).clone();
            kept.knobs.insert((*path).to_owned(), Original { was, ours: ours.clone() });
            befores.insert((*path).to_owned(), before);
        }
        save(root, &kept)?;
        Ok(befores)
    };
    attempt().unwrap_or_else(|error| {
        log_fault(&error);
        BTreeMap::new()
    })
}

/// What is in knobs whose write did not do what was wanted; `None`: nothing of ours, and nothing to take back.
fn correct(root: &Root, corrections: Vec<(&str, Option<Original>)>) {
    if corrections.is_empty() {
        return;
    }
    let Ok(mut kept) = originals(root) else { return };
    for (path, original) in corrections {
        let first = kept.knobs.get(path).map(|kept| kept.was.clone());
        match original {
            Some(original) => {
                let was = first.unwrap_or(original.was);
                kept.knobs.insert(path.to_owned(), Original { was, ours: original.ours })
            }
            None => kept.knobs.remove(path),
        };
    }
    if let Err(error) = save(root, &kept) {
        log_fault(&error);
    }
}

fn log_fault(error: &OriginalsError) {
    let reason = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(reason, "{error}");
}

fn boot_id(root: &Root) -> String {
    root.read_machine("proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn save(root: &Root, originals: &Originals) -> Result<(), OriginalsError> {
    let mut text = serde_json::to_vec_pretty(originals)?;
    text.push(b'\n');
    Ok(root.write_file(ORIGINALS, &text)?)
}

/// What a failed read or write of a knob means. The kernel manages some interrupts itself (`irq_can_set_affinity_usr` in
/// `kernel/irq/proc.c`), and says so with EIO or EPERM.
fn fault(path: &str, fault: &Fault) -> Outcome {
    let is_interrupt = path.trim_start_matches('/').starts_with("proc/irq/");
    let errno = match fault {
        Fault::File(error) => error.errno(),
        Fault::Kernel(error) => error.raw_os_error(),
    };
    match errno.map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => Outcome::Unsupported,
        Some(Errno::EIO | Errno::EPERM) if is_interrupt => Outcome::Unsupported,
        Some(errno) => Outcome::Refused(errno.desc().to_owned()),
        None => Outcome::Refused(fault.to_string()),
    }
}

#[cfg(test)]
mod tests;
