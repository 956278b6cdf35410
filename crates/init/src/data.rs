//! The data partition: what the operator wrote and what `headgated` remembers, across reboots and updates.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::console::Console;
use crate::grow;
use crate::initramfs::{report, with_cause};
use headgate_update::disk::Partition;
use headgate_update::gpt;

const MOUNT_POINT: &str = "/data";

/// Directories on data and where they appear.
const DIRECTORIES: [(&str, &str); 3] = [("etc", "/etc/headgate"), ("state", "/var/lib/headgate"), ("log", "/var/log")];

/// Why data is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file system cannot be mounted.
    #[error("cannot mount {what} on {target}")]
    Mount {
        /// Device, file system or directory.
        what: PathBuf,
        /// Where it should go.
        target: &'static str,
        /// Why.
        source: nix::Error,
    },
    /// A directory cannot be made.
    #[error("cannot make {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Mounts data and binds its directories. A damaged or missing partition is never formatted: it may still be rescued, and
/// the box runs from memory meanwhile, with what media and the image say.
pub fn prepare(partition: Option<&Partition>, console: &Console) {
    let lost = match partition {
        Some(partition) => match mount_data(&partition.device).and_then(|()| bind()) {
            Ok(()) => {
                fill(partition, console);
                return console.say(format_args!("data mounted from {}", partition.device.display()));
            }
            Err(error) => with_cause(&error),
        },
        None => "this disk has no partition named data".to_owned(),
    };
    console.warn(format_args!("{lost}: configuration and state are in memory and will be gone after a reboot"));
    if let Err(error) = mount_memory().and_then(|()| bind()) {
        console.warn(with_cause(&error));
    }
}

/// A partition that has grown, in this start or in one that was cut off, has a file system that has not. It grows while it is
/// mounted; where it has all room already the kernel does nothing.
fn fill(partition: &Partition, console: &Console) {
    let name = partition.device.file_name().unwrap_or_default();
    let size = std::fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"));
    let sectors: Option<u64> = size.ok().and_then(|size| size.trim().parse().ok());
    if let Some(sectors) = sectors {
        report(console, grow::file_system(Path::new(MOUNT_POINT), sectors * gpt::SECTOR));
    }
}

fn mount_data(device: &Path) -> Result<(), DataError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    // A file system that finds itself inconsistent must not be written further.
    mount(Some(device), MOUNT_POINT, Some("ext4"), flags, Some("errors=remount-ro"))
        .map_err(|source| DataError::Mount { what: device.to_owned(), target: MOUNT_POINT, source })
}

fn mount_memory() -> Result<(), DataError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), MOUNT_POINT, Some("tmpfs"), flags, Some("size=32m,mode=755"))
        .map_err(|source| DataError::Mount { what: "tmpfs".into(), target: MOUNT_POINT, source })
}

fn bind() -> Result<(), DataError> {
    for (name, target) in DIRECTORIES {
        let path = Path::new(MOUNT_POINT).join(name);
        std::fs::create_dir_all(&path).map_err(|source| DataError::Directory { path: path.clone(), source })?;
        mount(Some(&path), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|source| DataError::Mount { what: path, target, source })?;
    }
    Ok(())
}
