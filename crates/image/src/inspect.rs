//! `headgate-image inspect`: what is in an image or an update file, and where two of them differ.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result};
use headgate_update::bundle::{self, digest};
use headgate_update::keys;
use headgate_update::manifest::Manifest;
use serde::Serialize;

use crate::packages::checksum;
use crate::parts::{Partition, System, partitions};
use crate::progress::size;
use crate::sbom;
use crate::tree::walk;

/// How many files are shown as the largest.
const LARGEST: usize = 12;

/// What is in a file.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Report {
    /// A disk image, or the squashfs of a slot.
    Image(Image),
    /// An update file. Whether its signature is good says `verify`.
    Update(Manifest),
}

/// What is in a disk image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// Of the system in slot A.
    pub version: String,
    /// The kind of machine that it is for.
    pub board: String,
    /// Of the whole file.
    pub sha256: String,
    /// Empty for a squashfs alone.
    pub partitions: Vec<Partition>,
    /// The system in slot A.
    pub slot: Slot,
    /// The keys whose updates it takes.
    pub update_keys: Vec<String>,
    /// The parts of its bill of materials.
    pub components: usize,
    /// How many of them are under which licence.
    pub licenses: BTreeMap<String, usize>,
}

/// The system in a slot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Slot {
    /// Packed, bytes.
    pub size: u64,
    /// Whether the kernel verifies its root.
    pub verified: bool,
    /// What an update file would say of it.
    pub sha256: String,
    /// Its files.
    pub files: usize,
    /// Their sizes together, bytes.
    pub unpacked: u64,
    /// The largest, by path, bytes.
    pub largest: Vec<(String, u64)>,
}

/// Looks into a file.
pub fn inspect(path: &Path) -> Result<Report> {
    if let Some(manifest) = manifest(path)? {
        return Ok(Report::Update(manifest));
    }
    let system = System::find(path)?;
    let (version, board) = system.identity()?;
    let mut files = system.files()?;
    files.sort_by(|(path, size), (other, other_size)| other_size.cmp(size).then_with(|| path.cmp(other)));
    let directory = format!("{}/", keys::DIRECTORY.trim_start_matches('/'));
    let mut update_keys: Vec<String> =
        files.iter().filter_map(|(path, _)| Some(path.strip_prefix(&directory)?.to_owned())).collect();
    update_keys.sort_unstable();
    let unpacked = files.iter().map(|(_, size)| size).sum();
    let (sha256, size) = digest(system.open()?)?;
    let verified = system.is_verified();
    let slot = Slot {
        size,
        verified,
        sha256,
        files: files.len(),
        unpacked,
        largest: files.into_iter().take(LARGEST).collect(),
    };
    let materials: sbom::Summary =
        serde_json::from_slice(&system.file(sbom::PLACE).unwrap_or_default()).unwrap_or_default();
    Ok(Report::Image(Image {
        components: materials.components.len(),
        licenses: materials.licenses(),
        version: version.to_string(),
        board,
        sha256: checksum(path)?,
        partitions: partitions(path).unwrap_or_default(),
        slot,
        update_keys,
    }))
}

/// The manifest, where this is an update file.
fn manifest(path: &Path) -> Result<Option<Manifest>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut archive = bundle::stream(BufReader::new(file));
    let Ok(mut entries) = archive.entries() else { return Ok(None) };
    let Some(Ok(mut entry)) = entries.next() else { return Ok(None) };
    if entry.path_bytes() != bundle::MANIFEST.as_bytes() {
        return Ok(None);
    }
    let mut text = Vec::new();
    entry.by_ref().take(1 << 20).read_to_end(&mut text)?;
    Ok(Some(Manifest::parse(&text)?))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(image) => image.fmt(f),
            Self::Update(manifest) => {
                writeln!(f, "update to version {} for {}", manifest.version, manifest.board)?;
                if let Some(minimum) = &manifest.minimum_version {
                    writeln!(f, "for version {minimum} or later")?;
                }
                writeln!(f, "slot: {}, sha256 {}", size(manifest.slot.size), manifest.slot.sha256)
            }
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "version {} for {}", self.version, self.board)?;
        writeln!(f, "sha256 {}", self.sha256)?;
        for Partition { name, offset, size: bytes } in &self.partitions {
            writeln!(f, "  {name:<10} {:>10} at {}", size(*bytes), size(*offset))?;
        }
        let Slot { size: packed, verified, sha256, files, unpacked, largest } = &self.slot;
        let how = if *verified { ", verified by the kernel" } else { "" };
        writeln!(f, "slot: {}, {files} files of {}{how}, sha256 {sha256}", size(*packed), size(*unpacked))?;
        for (path, bytes) in largest {
            writeln!(f, "  {:>10} {path}", size(*bytes))?;
        }
        writeln!(f, "bill of materials ({}): {} components", sbom::PLACE, self.components)?;
        for (license, count) in &self.licenses {
            writeln!(f, "  {count:>10} {license}")?;
        }
        match self.update_keys.as_slice() {
            [] => writeln!(f, "updates: none are taken, no key is in it"),
            keys => writeln!(f, "updates: signed by {}", keys.join(", ")),
        }
    }
}

/// Where two images differ.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// Partitions whose bytes are not the same, by name.
    pub partitions: Vec<String>,
    /// Files of slot A that only the first has.
    pub removed: Vec<String>,
    /// Files that only the second has.
    pub added: Vec<String>,
    /// Files that are not the same.
    pub changed: Vec<String>,
}

/// Compares two images, byte for byte.
pub fn compare(one: &Path, other: &Path) -> Result<Difference> {
    let mut difference = Difference::default();
    if checksum(one)? == checksum(other)? {
        return Ok(difference);
    }
    let pair = [one, other].map(|path| partitions(path).map(|found| digests(path, &found)));
    if let [Ok(one), Ok(other)] = pair {
        let (one, other) = (one?, other?);
        let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
        difference.partitions = names.filter(|name| one.get(*name) != other.get(*name)).cloned().collect();
    }
    let work = tempfile::tempdir()?;
    let [one, other] = [(one, "one"), (other, "other")].map(|(path, name)| contents(path, &work.path().join(name)));
    let (one, other) = (one?, other?);
    difference.removed = one.keys().filter(|path| !other.contains_key(*path)).cloned().collect();
    difference.added = other.keys().filter(|path| !one.contains_key(*path)).cloned().collect();
    let changed = one.iter().filter(|(path, digest)| other.get(*path).is_some_and(|other| other != *digest));
    difference.changed = changed.map(|(path, _)| path.clone()).collect();
    Ok(difference)
}

fn digests(path: &Path, partitions: &[Partition]) -> Result<BTreeMap<String, String>> {
    use std::io::{Seek, SeekFrom};
    let mut found = BTreeMap::new();
    for Partition { name, offset, size } in partitions {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(*offset))?;
        found.insert(name.clone(), digest(file.take(*size))?.0);
    }
    Ok(found)
}

/// What each path of a system is, in one word: its digest, or where it leads, with its mode.
fn contents(path: &Path, to: &Path) -> Result<BTreeMap<String, String>> {
    System::find(path)?.unpack(to)?;
    let mut found = BTreeMap::new();
    for path in walk(to)? {
        let data = std::fs::symlink_metadata(&path)?;
        let kind = data.file_type();
        let what = if kind.is_file() {
            checksum(&path)?
        } else if kind.is_symlink() {
            std::fs::read_link(&path)?.display().to_string()
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {}", data.rdev())
        } else {
            String::new()
        };
        found.insert(path.strip_prefix(to)?.display().to_string(), format!("{:o} {what}", data.mode()));
    }
    Ok(found)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return writeln!(f, "the same, bit for bit");
        }
        if !self.partitions.is_empty() {
            writeln!(f, "partitions that differ: {}", self.partitions.join(", "))?;
        }
        for (sign, paths) in [('-', &self.removed), ('+', &self.added), ('~', &self.changed)] {
            for path in paths {
                writeln!(f, "{sign} {path}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{run, tool};

    /// A slot with these files beside what an image needs to know.
    fn slot(directory: &Path, name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let tree = directory.join(format!("{name}.d"));
        for (path, text) in files.iter().chain(&[("usr/lib/headgate/image", "version=1.0.0\nboard=x86_64\n")]) {
            std::fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
            std::fs::write(tree.join(path), text).unwrap();
        }
        let slot = directory.join(name);
        run(tool("mksquashfs").arg(&tree).arg(&slot).args(["-noappend", "-quiet", "-no-progress", "-all-root"]))
            .unwrap();
        slot
    }

    #[test]
    fn a_slot_says_what_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let key = "usr/lib/headgate/update-keys/release.pub";
        let path = slot(directory.path(), "one", &[(key, "key"), ("usr/bin/large", &"x".repeat(5000))]);
        let Report::Image(image) = inspect(&path).unwrap() else { panic!("it is an image") };
        assert_eq!((image.version.as_str(), image.board.as_str()), ("1.0.0", "x86_64"));
        assert_eq!(image.slot.largest[0], ("usr/bin/large".to_owned(), 5000));
        assert_eq!((image.slot.files, image.update_keys.as_slice()), (3, ["release.pub".to_owned()].as_slice()));
        assert_eq!(image.slot.size, std::fs::metadata(&path).unwrap().len());
        assert!(Report::Image(image).to_string().contains("updates: signed by release.pub"));
    }

    #[test]
    fn two_slots_differ_by_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let one = slot(directory.path(), "one", &[("etc/a", "1"), ("etc/b", "2")]);
        let other = slot(directory.path(), "other", &[("etc/a", "1"), ("etc/b", "3"), ("etc/c", "4")]);
        assert_eq!(compare(&one, &one).unwrap(), Difference::default());
        let difference = compare(&one, &other).unwrap();
        assert_eq!(
            (difference.changed.as_slice(), difference.added.as_slice()),
            (["etc/b".to_owned()].as_slice(), ["etc/c".to_owned()].as_slice())
        );
        assert!(difference.removed.is_empty());
        assert_eq!(difference.to_string(), "+ etc/c\n~ etc/b\n");
    }

    #[test]
    fn what_is_neither_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let junk = directory.path().join("junk");
        std::fs::write(&junk, vec![0; 4096]).unwrap();
        assert!(inspect(&junk).unwrap_err().to_string().contains("no partition table"));
        assert!(inspect(&directory.path().join("gone")).unwrap_err().to_string().contains("cannot open"));
    }
}
