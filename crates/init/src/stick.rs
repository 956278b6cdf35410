//! A stick that is plugged in when the box starts: drop-ins, and perhaps the wish for a factory reset.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headgate_update::{disk, reset::FILE, stick};

use crate::console::Console;
use crate::initramfs::report;
use crate::media::{self, Medium};
use crate::modalias;
use crate::modules::{Index, Loader};
use crate::reset;

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
        reset::wish_of_stick(&wish, console);
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
    let file = std::fs::File::open(mounted.path().join(stick::DIRECTORY).join(FILE)).ok()?;
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text).ok()?;
    if text.len() as u64 > LARGEST {
        console.warn(format_args!("{} on the stick is larger than {LARGEST} bytes: ignored", FILE));
        return None;
    }
    Some(text)
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
