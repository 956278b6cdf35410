//! The stick: a USB disk, or a partition of one, whose FAT file system has the label [`LABEL`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// In capitals or not: what formats a stick changes that as it likes.
pub const LABEL: &str = "HEADGATE";
/// The directory with what is for us, on a stick and on the EFI system partition.
pub const DIRECTORY: &str = "headgate";

/// Why a stick cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StickError {
    /// There is none.
    #[error("no disk has a FAT file system with the label {LABEL}")]
    None,
    /// The kernel does not take it.
    #[error("cannot mount {}", device.display())]
    Mount {
        /// Its device.
        device: PathBuf,
        /// Why.
        source: nix::Error,
    },
    /// There is no place to mount it.
    #[error("cannot make {}", path.display())]
    Place {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The device of the stick that is plugged in; never a partition of `home`, the disk that the system runs from.
#[must_use]
pub fn find(sys: &Path, home: Option<&str>) -> Option<PathBuf> {
    let entries = std::fs::read_dir(sys.join("class/block")).ok()?;
    let mut devices: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    devices.sort_unstable();
    let foreign = |device: &&PathBuf| home.is_none_or(|home| !is_of(device, home));
    let node = |device: &PathBuf| Some(Path::new("/dev").join(device.file_name()?));
    devices.iter().filter(foreign).filter_map(node).find(|node| has_label(node))
}

/// Whether it is this disk or lies on it.
fn is_of(device: &Path, disk: &str) -> bool {
    let Ok(real) = std::fs::canonicalize(device) else { return false };
    real.components().any(|part| part.as_os_str() == disk)
}

/// Whether a FAT file system with the label is there. What Windows and macOS call a stick is only in its root directory, what
/// mkfs.vfat(8) calls it is also in the boot sector.
fn has_label(device: &Path) -> bool {
    let Ok(file) = File::open(device) else { return false };
    let Ok(system) = fatfs::FileSystem::new(file, fatfs::FsOptions::new()) else { return false };
    let label = system.read_volume_label_from_root_dir().ok().flatten().unwrap_or_else(|| system.volume_label());
    label.trim().eq_ignore_ascii_case(LABEL)
}

/// A FAT file system that can be read until this is dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts `device` at `point`, which is made.
    ///
    /// # Errors
    /// [`StickError::Mount`], [`StickError::Place`].
    pub fn at(device: &Path, point: &Path) -> Result<Self, StickError> {
        std::fs::create_dir_all(point).map_err(|source| StickError::Place { path: point.to_owned(), source })?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(device), point, Some("vfat"), flags, None::<&str>)
            .map_err(|source| StickError::Mount { device: device.to_owned(), source })?;
        Ok(Self(point.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn formatted(directory: &Path, arguments: &[&str]) -> PathBuf {
        let file = directory.join("stick");
        let _ = std::fs::remove_file(&file);
        File::create(&file).unwrap().set_len(40 << 20).unwrap();
        let made = Command::new("/usr/sbin/mkfs.vfat").args(arguments).arg(&file).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        file
    }

    #[test]
    fn a_label_is_read_from_every_kind_of_fat_in_any_case() {
        let directory = tempfile::tempdir().unwrap();
        for [kind, cluster] in [["-F12", "-s64"], ["-F16", "-s8"], ["-F32", "-s1"]] {
            assert!(has_label(&formatted(directory.path(), &[kind, cluster, "-n", "HEADGATE"])), "{kind}");
        }
        assert!(!has_label(&formatted(directory.path(), &["-F32", "-n", "HEADGATE2"])));
        assert!(!has_label(&formatted(directory.path(), &["-F32"])));
    }

    #[test]
    fn what_is_no_file_system_has_no_label() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("junk");
        for bytes in [vec![], vec![0; 512], vec![0xff; 1 << 16]] {
            std::fs::write(&file, bytes).unwrap();
            assert!(!has_label(&file));
        }
        // A boot sector whose numbers lead nowhere.
        let stick = formatted(directory.path(), &["-F32", "-n", "HEADGATE"]);
        let mut bytes = std::fs::read(&stick).unwrap();
        bytes[11..64].fill(0xff);
        std::fs::write(&stick, bytes).unwrap();
        assert!(!has_label(&stick));
        assert!(!has_label(&directory.path().join("none")));
    }

    #[test]
    fn the_disk_of_the_system_is_never_a_stick() {
        let sys = tempfile::tempdir().unwrap();
        let place = sys.path().join("devices/pci/block/sda/sda1");
        std::fs::create_dir_all(&place).unwrap();
        assert!(is_of(&place, "sda"));
        assert!(!is_of(&place, "sdb"));
        std::fs::create_dir_all(sys.path().join("class/block")).unwrap();
        assert_eq!(find(sys.path(), Some("sda")), None);
    }
}
