//! Knobs: single values in files of `/proc` and `/sys`.
//!
//! A value is compared by meaning, written only when it differs, and read back, because the kernel may accept a write and keep
//! something else. What a knob had before our first change is kept in `run/headgate/originals.json`, so that [`restore`]
//! can give the machine back as it was.

use std::collections::BTreeMap;

use headgate_plan::state::KnobValue;
use headgate_plan::step::Outcome;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::root::{Root, RootError};

/// Relative to the files of a [`Root`].
const ORIGINALS: &str = "run/headgate/originals.json";
/// Where an unreadable file of originals is put aside.
const DAMAGED: &str = "run/headgate/originals.json.damaged";

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
    root.read_machine(path).ok().map(|text| like.read_as(&text))
}

/// Gives a knob its value: [`Kept`](Outcome::Kept) when it has it, [`Set`](Outcome::Set) when it was written and read
/// back, [`Unsupported`](Outcome::Unsupported) when this machine does not have it, [`Refused`](Outcome::Refused) with the
/// reason otherwise, also when the kernel took the write and kept something else.
///
/// That the original cannot be kept (a full disk) does not stop the change: a load balancer that forwards is worth more than
/// one that can be taken back. It is logged, and the knob is missing in [`originals`].
pub fn write(root: &Root, path: &str, want: &KnobValue) -> Outcome {
    let was = match root.read_machine(path) {
        Ok(text) => text,
        Err(error) => return fault(path, &error),
    };
    if want.read_as(&was) == *want {
        return Outcome::Kept;
    }
    // Before the write, so that a crash in between loses nothing.
    let before = remember(root, path, was.trim(), want);
    if let Err(error) = root.write_machine(path, &format!("{}\n", want.file_text())) {
        forget(root, path, before);
        return fault(path, &error);
    }
    match root.read_machine(path) {
        Ok(text) if want.read_as(&text) == *want => Outcome::Set,
        Ok(text) => {
            let kept = KnobValue::text(&text);
            remember(root, path, was.trim(), &kept);
            Outcome::Refused(format!("the kernel kept {}", kept.file_text()))
        }
        Err(error) => fault(path, &error),
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
    let unwanted: Vec<String> = originals.knobs.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
    let mut outcomes = Vec::new();
    for path in unwanted {
        let outcome = restore_one(root, &path, &originals.knobs[&path]);
        if !matches!(outcome, Outcome::Refused(_)) {
            originals.knobs.remove(&path);
        }
        outcomes.push((path, outcome));
    }
    if !outcomes.is_empty() {
        save(root, &originals)?;
    }
    Ok(outcomes)
}

fn restore_one(root: &Root, path: &str, original: &Original) -> Outcome {
    let found = match root.read_machine(path) {
        Ok(text) => text,
        Err(error) => return fault(path, &error),
    };
    if found.trim() == original.was || original.ours.read_as(&found) != original.ours {
        return Outcome::Kept;
    }
    if let Err(error) = root.write_machine(path, &format!("{}\n", original.was)) {
        return fault(path, &error);
    }
    match root.read_machine(path) {
        Ok(text) if text.trim() == original.was => Outcome::Set,
        Ok(text) => Outcome::Refused(format!("the kernel kept {}", KnobValue::text(&text).file_text())),
        Err(error) => fault(path, &error),
    }
}

/// Keeps the first `was` and the last of ours; gives what was kept before. A failure is logged.
fn remember(root: &Root, path: &str, was: &str, ours: &KnobValue) -> Option<Original> {
    let attempt = || -> Result<Option<Original>, OriginalsError> {
        let mut kept = match originals(root) {
            Err(OriginalsError::Damaged(error)) => {
                tracing::warn!(reason = %error, "{ORIGINALS} is damaged and put aside as {DAMAGED}");
                root.write_file(DAMAGED, &root.read_file_bytes(ORIGINALS)?)?;
                Originals { boot: boot_id(root), knobs: BTreeMap::new() }
            }
            other => other?,
        };
        let before = kept.knobs.get(path).cloned();
        let was = before.as_ref().map_or(was, |before| &before.was).to_owned();
        kept.knobs.insert(path.to_owned(), Original { was, ours: ours.clone() });
        save(root, &kept)?;
        Ok(before)
    };
    attempt().unwrap_or_else(|error| {
        log_fault(path, &error);
        None
    })
}

/// A write that failed changed nothing: without this the value of somebody else would be taken for ours later.
fn forget(root: &Root, path: &str, before: Option<Original>) {
    let Ok(mut kept) = originals(root) else { return };
    match before {
        Some(before) => kept.knobs.insert(path.to_owned(), before),
        None => kept.knobs.remove(path),
    };
    if let Err(error) = save(root, &kept) {
        log_fault(path, &error);
    }
}

fn log_fault(path: &str, error: &OriginalsError) {
    let reason = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(path, reason, "{error}");
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
fn fault(path: &str, error: &RootError) -> Outcome {
    let is_interrupt = path.trim_start_matches('/').starts_with("proc/irq/");
    match error.errno().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => Outcome::Unsupported,
        Some(Errno::EIO | Errno::EPERM) if is_interrupt => Outcome::Unsupported,
        Some(errno) => Outcome::Refused(errno.desc().to_owned()),
        None => Outcome::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
