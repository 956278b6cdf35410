//! What is on a finished image or disk: its partition table as sfdisk(8) reads it, and the system in its slot.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use headgate_update::install::{self, note};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::layout::SECTOR;
use crate::slot::START;
use crate::tool::{run, tool};
use crate::verity;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its GPT name.
    pub name: String,
    /// From the start of the disk, bytes.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// The partitions of a disk image, in their order.
pub fn partitions(image: &Path) -> Result<Vec<Partition>> {
    #[derive(Deserialize)]
    struct Output {
        partitiontable: Table,
    }
    #[derive(Deserialize)]
    struct Table {
        partitions: Vec<Row>,
    }
    #[derive(Deserialize)]
    struct Row {
        #[serde(default)]
        name: String,
        start: u64,
        size: u64,
    }
    let output = run(tool("sfdisk").arg("-J").arg(image))
        .with_context(|| format!("{} has no partition table that sfdisk can read", image.display()))?;
    let Output { partitiontable: Table { partitions } } = serde_json::from_slice(&output)?;
    let partition = |row: Row| Partition { name: row.name, offset: row.start * SECTOR, size: row.size * SECTOR };
    Ok(partitions.into_iter().map(partition).collect())
}

/// A system as it lies in a slot: one squashfs within a file, or two with a hash tree ([`crate::slot`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    file: PathBuf,
    offset: u64,
    /// Where the squashfs of the root begins, bytes; the same as `offset` where it is the only one.
    root: u64,
    /// All of it, bytes.
    pub size: u64,
}

impl System {
    /// The system in slot A of a disk image, or in a file that is one.
    pub fn find(path: &Path) -> Result<Self> {
        if let Ok(system) = Self::at(path, 0) {
            return Ok(system);
        }
        let partitions = partitions(path)?;
        let slot = partitions.iter().find(|partition| partition.name == "slot-a");
        let slot = slot.with_context(|| format!("{} has no partition named slot-a", path.display()))?;
        let system = Self::at(path, slot.offset)?;
        ensure!(system.size <= slot.size, "the system in slot-a is larger than its partition");
        Ok(system)
    }

    fn at(path: &Path, offset: u64) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let first = squashfs(&mut file, offset).with_context(|| format!("in {}", path.display()))?;
        let mut system = Self { file: path.to_owned(), offset, root: offset, size: first };
        // What happens to lie behind a system that is one squashfs has nothing to do with it.
        if system.paths()?.iter().any(|path| path == START) {
            let root = offset + first;
            let second = squashfs(&mut file, root).with_context(|| format!("the root in {}", path.display()))?;
            let size = first + second + verity::size(second / verity::BLOCK as u64);
            let end = file.seek(SeekFrom::End(0))?;
            ensure!(offset + size <= end, "{} ends within the hash tree of its root", path.display());
            system = Self { root, size, ..system };
        }
        Ok(system)
    }

    /// Its bytes.
    pub fn open(&self) -> Result<Take<File>> {
        let mut file = File::open(&self.file).with_context(|| format!("cannot open {}", self.file.display()))?;
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(file.take(self.size))
    }

    /// Whether the kernel verifies its root.
    pub fn is_verified(&self) -> bool {
        self.root != self.offset
    }

    /// A file of its root.
    pub fn file(&self, path: &str) -> Result<Vec<u8>> {
        run(tool("unsquashfs").args(["-q", "-cat", "-o", &self.root.to_string()]).arg(&self.file).arg(path))
            .with_context(|| format!("cannot read {path} in {}", self.file.display()))
    }

    /// Unpacks it into a directory, which must not exist.
    pub fn unpack(&self, to: &Path) -> Result<()> {
        for offset in self.file_systems() {
            let offset = offset.to_string();
            run(tool("unsquashfs")
                .args(["-q", "-n", "-f", "-no-xattrs", "-o", &offset, "-d"])
                .arg(to)
                .arg(&self.file))?;
        }
        Ok(())
    }

    /// The paths of everything in it.
    pub fn paths(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for offset in self.file_systems() {
            let list = run(tool("unsquashfs").args(["-q", "-l", "-o", &offset.to_string()]).arg(&self.file))?;
            let list = String::from_utf8_lossy(&list);
            found.extend(list.lines().filter_map(|line| line.strip_prefix("squashfs-root/")).map(str::to_owned));
        }
        Ok(found)
    }

    /// Its files with their sizes in bytes, by path; directories and links are not among them.
    pub fn files(&self) -> Result<Vec<(String, u64)>> {
        // `-rw-r--r-- 0/0  14205312 2024-01-01 00:00 squashfs-root/boot/vmlinuz`
        let file = |line: &str| {
            let mut words = line.split_whitespace();
            let mode = words.next()?;
            let size = words.nth(1)?.parse().ok()?;
            let path = line.split_once("squashfs-root/")?.1;
            mode.starts_with('-').then(|| (path.to_owned(), size))
        };
        let mut found = Vec::new();
        for offset in self.file_systems() {
            let list = run(tool("unsquashfs").args(["-q", "-lln", "-o", &offset.to_string()]).arg(&self.file))?;
            found.extend(String::from_utf8_lossy(&list).lines().filter_map(file));
        }
        Ok(found)
    }

    fn file_systems(&self) -> BTreeSet<u64> {
        BTreeSet::from([self.offset, self.root])
    }

    /// What the builder wrote down about it: its version and its board.
    pub fn identity(&self) -> Result<(Version, String)> {
        let notes = String::from_utf8(self.file(install::IMAGE)?)?;
        let value = |name| note(&notes, name).with_context(|| format!("{} says no {name}", install::IMAGE));
        Ok((value(install::VERSION)?.parse()?, value(install::BOARD)?.to_owned()))
    }
}

/// How long the squashfs at `offset` is with its padding, bytes. Superblock: magic at 0, `bytes_used` at 40
/// (`struct squashfs_super_block`, fs/squashfs/squashfs_fs.h).
fn squashfs(file: &mut File, offset: u64) -> Result<u64> {
    /// mksquashfs pads to this.
    const PADDING: u64 = 4096;
    let mut block = [0; 48];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut block).context("it is too short")?;
    if !block.starts_with(b"hsqs") {
        bail!("there is no squashfs at byte {offset}");
    }
    let used = u64::from_le_bytes(block[40..48].try_into().context("eight bytes")?);
    let size = used.checked_next_multiple_of(PADDING).context("the squashfs has an impossible size")?;
    let end = file.seek(SeekFrom::End(0))?;
    ensure!(offset.checked_add(size).is_some_and(|behind| behind <= end), "it ends within its squashfs");
    Ok(size)
}
