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
    let number = std::fs::metadata(path).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    parent(&sys.join(format!("dev/block/{major}:{minor}")))
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
    fn parameters_are_whole_words_and_the_last_counts() {
        let line = "BOOT_IMAGE=/boot/vmlinuz headgate.slot=A quiet headgate.slot=B xheadgate.slot=C\n";
        assert_eq!(parameter(line, "headgate.slot"), Some("B"));
        assert_eq!(parameter(line, "headgate"), None);
        assert_eq!(parameter(line, "quiet"), None);
    }
}
