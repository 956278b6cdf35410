//! `/init`: from the kernel's first process to BusyBox init on the slot that GRUB chose.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::console::Console;
use crate::gate::RESCUE;
use crate::modalias;
use crate::modules::{Index, IndexError, Loader};
use headgate_update::disk::{self, Partition};
use headgate_update::grubenv::Slot;

const SYS: &str = "/sys";
const NEW_ROOT: &str = "/new";
const INIT: &str = "/sbin/init";

/// Storage of hardware that names itself is up by then; after this the drivers that no modalias asked for are tried too.
const FALLBACK_AFTER: Duration = Duration::from_secs(3);
/// Slow sticks and RAID controllers need most of it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A mount failed.
    #[error("cannot mount {what} on {target}")]
    Mount {
        /// Device or file system.
        what: String,
        /// Where it should go.
        target: PathBuf,
        /// Why.
        source: nix::Error,
    },
    /// The index of modules is damaged.
    #[error("the initramfs has no usable list of modules")]
    Index(#[from] IndexError),
    /// No disk has the partition.
    #[error("no disk with a partition named {name} after {seconds} s")]
    NoSlot {
        /// The GPT name.
        name: &'static str,
        /// How long it was looked for.
        seconds: u64,
    },
    /// The root file system has no init, or a step of handing over failed.
    #[error("cannot hand over to {what}")]
    HandOver {
        /// The program or path.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// Mounts the slot and becomes its init. Returns never: without a slot the machine reboots, and GRUB counts that try.
pub fn run() -> ExitCode {
    let early = mount_kernel_file_systems();
    let console = Console::open();
    if let Err(error) = early {
        console.warn(with_cause(&error));
    }
    console.say("initramfs");
    let Err(error) = start(&console);
    console.warn(format_args!("{}; rebooting in 5 s", with_cause(&error)));
    std::thread::sleep(Duration::from_secs(5));
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    // As the first process this is a kernel panic, and panic= on the command line reboots.
    ExitCode::FAILURE
}

fn start(console: &Console) -> Result<std::convert::Infallible, BootError> {
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let slot = disk::parameter(&command_line, "headgate.slot").and_then(Slot::parse).unwrap_or_else(|| {
        console.warn("the boot loader named no slot (headgate.slot=A or B): taking A");
        Slot::A
    });
    warn_of_rescue(&command_line, console);
    let index = Index::read()?;
    let loader = Loader::new(&index);
    let partition = find(slot, &index, &loader, console)?;
    for module in index.set("root-filesystem") {
        report(console, loader.load(module));
    }
    mount_on(&partition.device, NEW_ROOT, "squashfs", MsFlags::MS_RDONLY | MsFlags::MS_NODEV)?;
    console.say(format_args!("slot {slot} mounted from {}", partition.device.display()));
    for path in ["/dev", "/proc", SYS] {
        let target = format!("{NEW_ROOT}{path}");
        mount(Some(path), target.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|source| BootError::Mount { what: path.to_owned(), target: target.into(), source })?;
    }
    switch_root()
}

/// GRUB has begun again with the first slot: somebody should look.
pub(crate) fn warn_of_rescue(command_line: &str, console: &Console) {
    if command_line.split_whitespace().any(|word| word == RESCUE) {
        console.warn("no slot was left that starts; this is one more try of the first one");
    }
}

/// Loads storage drivers one after the other until the slot shows up, so that what is not needed to find it (an AHCI
/// controller without disks takes half a second) is not waited for.
fn find(slot: Slot, index: &Index, loader: &Loader<'_>, console: &Console) -> Result<Partition, BootError> {
    let sys = Path::new(SYS);
    let started = Instant::now();
    let mut tried = BTreeSet::new();
    loop {
        let patience = started.elapsed() < FALLBACK_AFTER;
        // Again each time: a loaded controller brings new devices with modaliases of their own.
        let candidates = match patience {
            true => index.wanted("storage", &modalias::present(sys)),
            false => index.set("storage").chain(index.set("storage-fallback")).collect(),
        };
        for module in candidates {
            if tried.insert(module) {
                report(console, loader.load(module));
                if let Some(partition) = disk::partition(sys, slot.partition(), None) {
                    return Ok(partition);
                }
            }
        }
        if let Some(partition) = disk::partition(sys, slot.partition(), None) {
            return Ok(partition);
        }
        if started.elapsed() > GIVE_UP_AFTER {
            return Err(BootError::NoSlot { name: slot.partition(), seconds: GIVE_UP_AFTER.as_secs() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mount_kernel_file_systems() -> Result<(), BootError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_on(Path::new("devtmpfs"), "/dev", "devtmpfs", flags)?;
    mount_proc_and_sys()
}

pub(crate) fn mount_proc_and_sys() -> Result<(), BootError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_on(Path::new("proc"), "/proc", "proc", flags | MsFlags::MS_NODEV)?;
    mount_on(Path::new("sysfs"), SYS, "sysfs", flags | MsFlags::MS_NODEV)
}

pub(crate) fn mount_on(what: &Path, target: &str, kind: &str, flags: MsFlags) -> Result<(), BootError> {
    mount(Some(what), target, Some(kind), flags, None::<&str>).map_err(|source| BootError::Mount {
        what: what.display().to_string(),
        target: target.into(),
        source,
    })
}

/// Gives the initramfs' memory back, makes the slot the root and becomes its init.
fn switch_root() -> Result<std::convert::Infallible, BootError> {
    let failed = |what| move |source: std::io::Error| BootError::HandOver { what, source };
    let kernel = |what| move |error: nix::Error| BootError::HandOver { what, source: error.into() };
    nix::unistd::chdir(NEW_ROOT).map_err(kernel(NEW_ROOT))?;
    std::fs::metadata(format!("{NEW_ROOT}{INIT}")).map_err(failed(INIT))?;
    // Only ever the memory file system that the kernel unpacked; started by hand on a real one nothing is deleted.
    if statfs("/").is_ok_and(|root| root.filesystem_type() == TMPFS_MAGIC || root.filesystem_type() == RAMFS_MAGIC) {
        empty(Path::new("/"));
    }
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(kernel("/"))?;
    nix::unistd::chroot(".").map_err(kernel("/"))?;
    nix::unistd::chdir("/").map_err(kernel("/"))?;
    // `exec` of the standard library, not the bare system call: it gives SIGPIPE its default back.
    Err(failed(INIT)(Command::new(INIT).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").exec()))
}

/// `include/uapi/linux/magic.h`.
const RAMFS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x8584_58f6);

/// Deletes what lies in `directory` on its own file system; best effort.
fn empty(directory: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(home) = std::fs::symlink_metadata(directory) else { return };
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != home.dev() {
            continue;
        }
        if metadata.is_dir() {
            empty(&path);
            let _ = std::fs::remove_dir(&path);
        } else {
            let _ = std::fs::remove_file(&path);
        }
    }
}

pub(crate) fn report<E: std::error::Error>(console: &Console, result: Result<(), E>) {
    if let Err(error) = result {
        console.say(with_cause(&error));
    }
}

/// An error and what is behind it, in one line.
pub(crate) fn with_cause(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptying_a_directory_leaves_it_and_follows_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "x").unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        std::fs::write(directory.path().join("a/b/c"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link")).unwrap();
        empty(directory.path());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn an_error_is_shown_with_its_cause() {
        let error = BootError::Mount { what: "/dev/vda4".into(), target: "/new".into(), source: nix::Error::EINVAL };
        assert_eq!(with_cause(&error), "cannot mount /dev/vda4 on /new: EINVAL: Invalid argument");
    }
}
