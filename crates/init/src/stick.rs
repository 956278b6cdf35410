//! A stick that is plugged in when the box starts: drop-ins, and perhaps the wish for a factory reset.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headgate_update::install::Machine;
use headgate_update::{disk, reset, stick};
use nix::sys::reboot::{RebootMode, reboot};

use crate::console::Console;
use crate::initramfs::{report, with_cause};
use crate::media::{self, Medium, TRUST};
use crate::modalias;
use crate::modules::{Index, Loader};

/// From a new device on a USB to the next one, a controller's own hub to begin with: a port that resets a device takes 50 ms, hubs
/// behind hubs more.
const DEVICES: Duration = Duration::from_millis(500);
/// From a disk on a USB to its partitions: usb-storage waits a second by itself (`delay_use`), slow sticks some more.
const DISKS: Duration = Duration::from_secs(5);
/// The larger file is no wish, bytes.
const LARGEST: u64 = 4096;

/// Loads what a stick needs, waits for it when one is there, and copies its drop-ins aside.
pub fn look(index: &Index, loader: &Loader<'_>, console: &Console) {
    let sys = Path::new("/sys");
    let Some(device) = wait(sys, index, loader, console) else { return };
    report(console, media::copy_from_partition(Medium::Usb, &device, console));
    if let Some(wish) = wish(&device, console) {
        reset_if_new(&wish, console);
    }
}

/// The stick. A machine without one is asked until nothing new has come for half a second, and only when it has USB at all.
fn wait(sys: &Path, index: &Index, loader: &Loader<'_>, console: &Console) -> Option<PathBuf> {
    let home = disk::disk_of(sys, Path::new("/"));
    let found = || stick::find(sys, home.as_deref());
    let mut tried = Vec::new();
    let (mut begin, mut known) = (Instant::now(), 0);
    loop {
        // Again each time: controllers bring devices that want drivers of their own.
        for module in index.wanted("stick", &modalias::present(sys)) {
            if !tried.contains(&module) {
                report(console, loader.load(module));
                tried.push(module);
            }
        }
        if let Some(device) = found() {
            return Some(device);
        }
        let devices = usb_devices(sys).len();
        if tried.len() + devices != known {
            (begin, known) = (Instant::now(), tried.len() + devices);
        }
        let patience = if has_usb_disk(sys) { DISKS } else { DEVICES };
        if tried.is_empty() || begin.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Devices and their interfaces.
fn usb_devices(sys: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(sys.join("bus/usb/devices")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Class 8 is mass storage (USB class codes, <https://www.usb.org/defined-class-codes>).
fn has_usb_disk(sys: &Path) -> bool {
    let class = |path: PathBuf| std::fs::read_to_string(path.join("bInterfaceClass")).unwrap_or_default();
    usb_devices(sys).into_iter().any(|device| class(device).trim() == "08")
}

/// What the file says that asks for a factory reset.
fn wish(device: &Path, console: &Console) -> Option<Vec<u8>> {
    use std::io::Read;
    let mounted = stick::Mounted::at(device, Path::new("/run/headgate/mount/wish")).ok()?;
    let file = std::fs::File::open(mounted.path().join(stick::DIRECTORY).join(reset::FILE)).ok()?;
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text).ok()?;
    if text.len() as u64 > LARGEST {
        console.warn(format_args!("{} on the stick is larger than {LARGEST} bytes: ignored", reset::FILE));
        return None;
    }
    Some(text)
}

/// Data is mounted by now: the next start resets it. Whoever can plug in a stick can also take the disk, so this is refused only
/// where media are never trusted.
fn reset_if_new(wish: &[u8], console: &Console) {
    if std::fs::read_to_string(TRUST).is_ok_and(|trust| trust.trim() == "never") {
        return console.warn("the stick asks for a factory reset, but trust-media is \"never\"");
    }
    let machine = match Machine::find(Path::new("/")) {
        Ok(machine) => machine,
        Err(error) => return console.warn(with_cause(&error)),
    };
    let mut asked = false;
    if let Err(error) = machine.environment.change(|block| asked = reset::ask_for(block, wish)) {
        return console.warn(with_cause(&error));
    }
    if !asked {
        return console.say("the stick asks for the factory reset that it had already");
    }
    console.warn("the stick asks for a factory reset: starting again for it");
    nix::unistd::sync();
    let error = reboot(RebootMode::RB_AUTOBOOT).expect_err("a reboot does not return");
    console.warn(format_args!("the kernel refuses to reboot: {error}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_on_usb_is_told_by_its_class() {
        let sys = tempfile::tempdir().unwrap();
        assert!(!has_usb_disk(sys.path()));
        for (name, class, is_disk) in [("1-1:1.0", "03\n", false), ("2-1:1.0", "08\n", true)] {
            let device = sys.path().join("bus/usb/devices").join(name);
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("bInterfaceClass"), class).unwrap();
            assert_eq!(has_usb_disk(sys.path()), is_disk);
        }
    }
}
