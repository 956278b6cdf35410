//! A disk that a system is to be written to, and why it may not be: the wrong one is gone for ever.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

/// Why nothing is written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A typing error.
    #[error("there is no {}", .0.display())]
    None(PathBuf),
    /// A file, a terminal, …
    #[error("{} is no disk", .0.display())]
    NoDisk(PathBuf),
    /// What uses it cannot be told.
    #[error("cannot read /{path}, so nothing is written")]
    Unknown {
        /// The file that would tell.
        path: &'static str,
        /// Why it does not.
        source: io::Error,
    },
    /// Something speaks against it.
    #[error("{} is left alone: {why}", device.display())]
    Refused {
        /// The disk.
        device: PathBuf,
        /// What does.
        why: String,
    },
    /// The operator did not type its name.
    #[error("nothing was written")]
    Declined,
    /// The operator cannot be asked.
    #[error("the terminal fails")]
    Terminal(#[from] io::Error),
}

/// A disk that an image could go to, as `/sys` and `/proc` know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `/dev/sdb`.
    pub device: PathBuf,
    /// Vendor and model, or what the kernel calls it.
    pub model: String,
    /// Bytes.
    pub size: u64,
    /// The kernel says that the medium can be taken out.
    pub removable: bool,
    /// Why nothing may be written to it.
    pub refusals: Vec<Refusal>,
}

/// Why a disk is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A partition, where a whole disk is needed.
    Partition {
        /// The disk that it lies on.
        disk: String,
    },
    /// A file system on it is in use.
    Mounted {
        /// Where.
        at: String,
    },
    /// It is swapped to.
    Swap,
    /// Another device (LVM, RAID, dm-crypt) is built on it.
    Held {
        /// Which.
        by: String,
    },
    /// Its switch says so.
    ReadOnly,
    /// The image does not fit.
    TooSmall {
        /// Of the image, bytes.
        needed: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition { disk } => write!(f, "it is a partition; the whole disk is /dev/{disk}"),
            Self::Mounted { at } if at == "/" => write!(f, "this system runs from it"),
            Self::Mounted { at } => write!(f, "it is mounted on {at}: unmount it first"),
            Self::Swap => write!(f, "it is in use as swap"),
            Self::Held { by } => write!(f, "{by} is built on it"),
            Self::ReadOnly => write!(f, "it is read-only"),
            Self::TooSmall { needed } => write!(f, "it is too small, the image needs {}", mebibytes(*needed)),
        }
    }
}

impl Target {
    /// What is known of `device` for an image of `needed` bytes. `root` is `/`: tests have another.
    ///
    /// # Errors
    /// [`TargetError`]: where it cannot be judged nothing is written.
    pub fn look(root: &Path, device: &Path, needed: u64) -> Result<Self, TargetError> {
        let real = std::fs::canonicalize(device).map_err(|_| TargetError::None(device.to_owned()))?;
        let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let class = root.join("sys/class/block");
        let sys = std::fs::canonicalize(class.join(&name)).map_err(|_| TargetError::NoDisk(device.to_owned()))?;
        let text = |path: &str| std::fs::read_to_string(sys.join(path)).map(|text| text.trim().to_owned()).ok();
        let number = |path: &str| text(path)?.parse::<u64>().ok();
        let sectors = number("size").ok_or_else(|| TargetError::NoDisk(device.to_owned()))?;
        let model: Vec<String> = ["device/vendor", "device/model"].iter().filter_map(|path| text(path)).collect();
        let mut target = Self {
            device: real,
            model: if model.is_empty() { name.clone() } else { model.join(" ") },
            // Always in units of 512 bytes, whatever the disk's own sectors are.
            size: sectors * 512,
            removable: number("removable") == Some(1),
            refusals: Vec::new(),
        };
        if sys.join("partition").exists() {
            let disk = sys.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
            target.refusals.push(Refusal::Partition { disk });
        }
        let devices = devices(&sys, &name);
        target.refusals.extend(in_use(root, &devices)?);
        if number("ro") == Some(1) {
            target.refusals.push(Refusal::ReadOnly);
        }
        if target.size < needed {
            target.refusals.push(Refusal::TooSmall { needed });
        }
        Ok(target)
    }

    /// Nothing speaks against it.
    ///
    /// # Errors
    /// [`TargetError::Refused`].
    pub fn check(&self) -> Result<(), TargetError> {
        let why: Vec<String> = self.refusals.iter().map(Refusal::to_string).collect();
        match why.is_empty() {
            true => Ok(()),
            false => Err(TargetError::Refused { device: self.device.clone(), why: why.join("; ") }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.removable { "removable" } else { "fixed" };
        write!(f, "{}: {}, {}, {kind}", self.device.display(), self.model, mebibytes(self.size))
    }
}

/// A disk and its partitions by their names, with `major:minor`, and what is built on them, whose mounts count as well.
fn devices(sys: &Path, name: &str) -> Vec<Device> {
    let device = |directory: &Path, name: &str| {
        let number = std::fs::read_to_string(directory.join("dev")).unwrap_or_default().trim().to_owned();
        let held = names(&directory.join("holders"));
        Device { name: name.to_owned(), number, held }
    };
    let mut found = vec![device(sys, name)];
    for child in names(sys) {
        if sys.join(&child).join("partition").exists() {
            found.push(device(&sys.join(&child), &child));
        }
    }
    found
}

#[derive(Debug)]
struct Device {
    name: String,
    number: String,
    held: Vec<String>,
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn in_use(root: &Path, devices: &[Device]) -> Result<Vec<Refusal>, TargetError> {
    let read = |path: &'static str| {
        std::fs::read_to_string(root.join(path)).map_err(|source| TargetError::Unknown { path, source })
    };
    let (mounts, swaps) = (read("proc/self/mountinfo")?, read("proc/swaps")?);
    let mut refusals = Vec::new();
    let mut places = BTreeSet::new();
    for line in mounts.lines() {
        // `36 35 98:0 /mnt1 /mnt2 …`: the third is the device, the fifth where it is mounted (proc_pid_mountinfo(5)).
        let mut fields = line.split(' ').skip(2);
        let (Some(number), Some(at)) = (fields.next(), fields.nth(1)) else { continue };
        // btrfs and overlays have numbers of their own, and name the device at the end of the line.
        let named = |device: &Device| line.split(' ').any(|word| word == format!("/dev/{}", device.name));
        if devices.iter().any(|device| device.number == number || named(device)) {
            places.insert(at.to_owned());
        }
    }
    refusals.extend(places.into_iter().map(|at| Refusal::Mounted { at }));
    let swapped =
        |line: &str| devices.iter().any(|device| line.split(' ').next() == Some(&format!("/dev/{}", device.name)));
    if swaps.lines().any(swapped) {
        refusals.push(Refusal::Swap);
    }
    refusals.extend(devices.iter().flat_map(|device| &device.held).map(|by| Refusal::Held { by: by.clone() }));
    Ok(refusals)
}

/// Asks on the terminal; only the device's own name is a yes.
///
/// # Errors
/// [`TargetError::Declined`], [`TargetError::Terminal`].
pub fn ask(target: &Target, answers: &mut impl BufRead, out: &mut impl Write) -> Result<(), TargetError> {
    let name = target.device.display().to_string();
    write!(out, "{target}\nEverything on it will be gone. Type {name} to go on: ")?;
    out.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    if answer.trim() == name { Ok(()) } else { Err(TargetError::Declined) }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests;
