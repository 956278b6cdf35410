//! Leases on file: what a client of DHCP was told last, one file for each interface, below a directory that a reboot empties.
//!
//! So a lease outlives the daemon and its client, and is a fact of the machine as any other.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use headgate_plan::lease::Offer;
use nix::time::ClockId;

use crate::root::{Root, RootError};

/// Where they are.
pub const DIRECTORY: &str = "run/headgate/leases";

/// Seconds since the boot, sleep included: no jump of the wall clock moves them.
pub fn now() -> u64 {
    ClockId::CLOCK_BOOTTIME.now().map(Duration::from).unwrap_or_default().as_secs()
}

/// Those whose time is not over, by kernel name of the interface.
pub(crate) fn list(root: &Root) -> BTreeMap<String, Offer> {
    let mut found = BTreeMap::new();
    let Ok(entries) = root.file(DIRECTORY).map_err(io::Error::other).and_then(fs::read_dir) else { return found };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        // What is being written has a dot in front.
        if let Some(offer) = read(root, &name).filter(|_| !name.starts_with('.')) {
            found.insert(name, offer);
        }
    }
    let now = now();
    found.retain(|_, offer| !offer.is_over(now));
    found
}

/// The one of an interface.
pub fn read(root: &Root, link: &str) -> Option<Offer> {
    let text = root.read_file(path(link)).ok()?;
    serde_json::from_str(&text).inspect_err(|error| tracing::warn!(%error, link, "a lease cannot be read")).ok()
}

/// Puts one on file.
///
/// # Errors
/// Any [`RootError`].
pub fn write(root: &Root, link: &str, offer: &Offer) -> Result<(), RootError> {
    root.write_file(path(link), &serde_json::to_vec(offer).expect("texts and numbers"))
}

/// Takes it away, if there is one.
///
/// # Errors
/// [`RootError::Outside`], or the file cannot be removed.
pub fn remove(root: &Root, link: &str) -> Result<(), RootError> {
    let path = root.file(path(link))?;
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RootError::Io { verb: "remove", path, source }),
        _ => Ok(()),
    }
}

fn path(link: &str) -> String {
    format!("{DIRECTORY}/{link}")
}
