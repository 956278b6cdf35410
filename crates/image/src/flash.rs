//! `headgate-image flash`: an image onto a disk, and never onto the wrong one.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use headgate_update::bundle::digest;
use indicatif::{ProgressBar, ProgressStyle};

use crate::progress::size;

/// Written and read at once, bytes.
const PIECE: usize = 1 << 20;

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
            Self::TooSmall { needed } => write!(f, "it is too small, the image needs {}", size(*needed)),
        }
    }
}

impl Target {
    /// What is known of `device` for an image of `needed` bytes. `root` is `/`: tests have another.
    pub fn look(root: &Path, device: &Path, needed: u64) -> Result<Self> {
        let real = std::fs::canonicalize(device).with_context(|| format!("there is no {}", device.display()))?;
        let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let class = root.join("sys/class/block");
        let sys =
            std::fs::canonicalize(class.join(&name)).with_context(|| format!("{} is no disk", device.display()))?;
        let text = |path: &str| std::fs::read_to_string(sys.join(path)).map(|text| text.trim().to_owned()).ok();
        let number = |path: &str| text(path)?.parse::<u64>().ok();
        let sectors = number("size").with_context(|| format!("/sys does not say how large {name} is"))?;
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
    pub fn check(&self) -> Result<()> {
        let refusals: Vec<String> = self.refusals.iter().map(Refusal::to_string).collect();
        ensure!(refusals.is_empty(), "{} is left alone: {}", self.device.display(), refusals.join("; "));
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.removable { "removable" } else { "fixed" };
        write!(f, "{}: {}, {}, {kind}", self.device.display(), self.model, size(self.size))
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

fn in_use(root: &Path, devices: &[Device]) -> Result<Vec<Refusal>> {
    let read = |path: &str| {
        std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read /{path}, so nothing is written"))
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
pub fn ask(target: &Target, answers: &mut impl BufRead, out: &mut impl Write) -> Result<()> {
    let name = target.device.display().to_string();
    write!(out, "{target}\nEverything on it will be gone. Type {name} to go on: ")?;
    out.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    ensure!(answer.trim() == name, "nothing was written");
    Ok(())
}

/// Writes the image, and reads it back from the medium.
pub fn write(image: &Path, device: &Path) -> Result<()> {
    let mut from = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let total = from.seek(SeekFrom::End(0))?;
    from.rewind()?;
    // Of a block device O_EXCL refuses what is mounted or held, whatever happened since we looked (open(2)).
    let to = OpenOptions::new().write(true).custom_flags(nix::libc::O_EXCL | nix::libc::O_CLOEXEC).open(device);
    let mut to = match to {
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => bail!("{} is in use", device.display()),
        to => to.with_context(|| format!("cannot write to {}", device.display()))?,
    };
    let bar = bar("writing", total);
    copy(&mut from, &mut to, &bar).with_context(|| format!("cannot write to {}", device.display()))?;
    to.sync_all().with_context(|| format!("cannot write to {}", device.display()))?;
    drop(to);
    bar.finish_and_clear();
    verify(image, device, total)
}

fn copy(from: &mut File, to: &mut File, bar: &ProgressBar) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&piece[..length])?;
        // Else the bar is full while gigabytes are still on their way to a slow stick.
        to.sync_data()?;
        bar.inc(length as u64);
    }
}

fn verify(image: &Path, device: &Path, total: u64) -> Result<()> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    let medium = File::open(device).with_context(|| format!("cannot read {}", device.display()))?;
    // What the page cache remembers proves nothing.
    posix_fadvise(&medium, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let bar = bar("reading back", total);
    let (wanted, _) = digest(File::open(image)?)?;
    let (found, read) = digest(bar.wrap_read(medium.take(total)))?;
    bar.finish_and_clear();
    ensure!(
        read == total && found == wanted,
        "{} does not give back what was written: the medium is bad, or not as large as it says",
        device.display()
    );
    Ok(())
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    match ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests;
