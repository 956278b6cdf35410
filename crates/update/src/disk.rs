//! Partitions by their GPT names, from `/sys` alone: there is no udev here.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A partition that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The device node, `/dev/vda4`.
    pub device: PathBuf,
    /// The kernel's name of the disk that it lies on, `vda`.
    pub disk: String,
}

/// The partition with this GPT name; with `disk`, only on that disk: a second disk with the same names (a stick that was
/// flashed with the same image) must not lend its data partition to this system. `sys` is `/sys`.
#[must_use]
pub fn partition(sys: &Path, name: &str, disk: Option<&str>) -> Option<Partition> {
    let mut devices: Vec<PathBuf> =
        std::fs::read_dir(sys.join("class/block")).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    devices.sort_unstable();
    devices.iter().find_map(|device| {
        let uevent = std::fs::read_to_string(device.join("uevent")).ok()?;
        let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        (value("PARTNAME")? == name).then_some(())?;
        let found = Partition { device: Path::new("/dev").join(value("DEVNAME")?), disk: parent(device)? };
        disk.is_none_or(|disk| disk == found.disk).then_some(found)
    })
}

/// The disk that the file system at `path` is on.
#[must_use]
pub fn disk_of(sys: &Path, path: &Path) -> Option<String> {
    parent(&device_of(sys, path)?)
}

/// The partition that the file system at `path` is on: its directory in `sys`. A root that the kernel verifies is a device of
/// dm-verity, which stands on others; the lowest is the partition.
#[must_use]
pub fn device_of(sys: &Path, path: &Path) -> Option<PathBuf> {
    /// Two are ours.
    const STOREYS: usize = 4;
    let number = std::fs::metadata(path).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let mut device = std::fs::canonicalize(sys.join(format!("dev/block/{major}:{minor}"))).ok()?;
    for _ in 0..STOREYS {
        match below(&device) {
            Some(lower) => device = lower,
            None => break,
        }
    }
    Some(device)
}

/// What a device stands on; `None` where it is nothing or more than one.
fn below(device: &Path) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(device.join("slaves")).ok()?;
    let only = entries.next()?.ok()?.path();
    entries.next().is_none().then(|| std::fs::canonicalize(only).ok()).flatten()
}

/// A partition's directory in `/sys/devices` lies in that of its disk.
fn parent(device: &Path) -> Option<String> {
    let real = std::fs::canonicalize(device).ok()?;
    Some(real.parent()?.file_name()?.to_str()?.to_owned())
}

/// The value of `key=` on the kernel's command line; the last one counts, as with the kernel's own.
#[must_use]
pub fn parameter<'a>(command_line: &'a str, key: &str) -> Option<&'a str> {
    command_line.split_whitespace().rev().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Two disks with the same partition names, as after flashing a stick and the internal disk.
    fn machine() -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let class = sys.path().join("class/block");
        std::fs::create_dir_all(&class).unwrap();
        for disk in ["sda", "vda"] {
            for (number, name) in ["esp", "slot-a", "data"].iter().enumerate() {
                let device = format!("{disk}{}", number + 1);
                let path = sys.path().join("devices").join(disk).join(&device);
                std::fs::create_dir_all(&path).unwrap();
                std::fs::write(path.join("uevent"), format!("DEVNAME={device}\nDEVTYPE=partition\nPARTNAME={name}\n"))
                    .unwrap();
                symlink(&path, class.join(&device)).unwrap();
            }
            let whole = sys.path().join("devices").join(disk);
            std::fs::write(whole.join("uevent"), format!("DEVNAME={disk}\nDEVTYPE=disk\n")).unwrap();
            symlink(&whole, class.join(disk)).unwrap();
        }
        sys
    }

    #[test]
    fn a_partition_is_found_by_name_and_disk() {
        let sys = machine();
        let found = |name, disk| partition(sys.path(), name, disk).map(|found| found.device);
        assert_eq!(found("slot-a", None), Some("/dev/sda2".into()));
        assert_eq!(found("data", Some("vda")), Some("/dev/vda3".into()));
        assert_eq!(found("data", Some("sdb")), None);
        assert_eq!(found("slot-b", None), None);
        assert_eq!(found("slot-", None), None);
    }

    #[test]
    fn a_verified_root_is_on_the_partition_below_it() {
        let sys = machine();
        let devices = sys.path().join("devices");
        let path = tempfile::tempdir().unwrap();
        let number = std::fs::metadata(path.path()).unwrap().dev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        for (upper, lower) in [("dm-1", "virtual/dm-0"), ("dm-0", "vda/vda2")] {
            let slaves = devices.join("virtual").join(upper).join("slaves");
            std::fs::create_dir_all(&slaves).unwrap();
            let lower = devices.join(lower);
            symlink(&lower, slaves.join(lower.file_name().unwrap())).unwrap();
        }
        std::fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        let link = sys.path().join(format!("dev/block/{major}:{minor}"));
        symlink(devices.join("virtual/dm-1"), &link).unwrap();
        assert_eq!(disk_of(sys.path(), path.path()), Some("vda".to_owned()));
        assert!(device_of(sys.path(), path.path()).unwrap().ends_with("vda/vda2"));
        std::fs::remove_file(&link).unwrap();
        symlink(devices.join("sda/sda2"), &link).unwrap();
        assert_eq!(disk_of(sys.path(), path.path()), Some("sda".to_owned()));
    }

    #[test]
    fn parameters_are_whole_words_and_the_last_counts() {
        let line = "BOOT_IMAGE=/boot/vmlinuz headgate.slot=A quiet headgate.slot=B xheadgate.slot=C\n";
        assert_eq!(parameter(line, "headgate.slot"), Some("B"));
        assert_eq!(parameter(line, "headgate"), None);
        assert_eq!(parameter(line, "quiet"), None);
    }
}
