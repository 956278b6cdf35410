//! The appliance's hardware watchdog: armed by `headgate-init` at the start, fed from here while the engine answers. A box whose
//! supervisor hangs is reset, and GRUB counts the try.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Where it is.
pub const DEVICE: &str = "/dev/watchdog";
/// A sixth of the time after which it resets the box: one feeding that comes late is no reason to.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// A watchdog that wants to be fed.
#[derive(Debug)]
pub struct Watchdog(File);

impl Watchdog {
    /// Takes over the watchdog of this machine; `None` where there is none. Only one process can have it open.
    pub fn open(device: &Path) -> Option<Self> {
        match File::options().write(true).open(device) {
            Ok(file) => Some(Self(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, device = %device.display(), "the watchdog cannot be fed from here");
                None
            }
        }
    }

    /// Goes on with the one that the program before has left.
    pub fn inherit(left: OwnedFd) -> Self {
        Self(left.into())
    }

    /// Any byte will do, but the letter V, which would let it be stopped (Documentation/watchdog/watchdog-api.rst).
    pub fn feed(&mut self) {
        if let Err(error) = self.0.write_all(b"\0") {
            tracing::warn!(%error, "the watchdog cannot be fed");
        }
    }
}

impl AsFd for Watchdog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fed_with_something_that_does_not_stop_it() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Watchdog::open(&directory.path().join("none")).is_none());
        let path = directory.path().join("watchdog");
        std::fs::write(&path, "").unwrap();
        let mut watchdog = Watchdog::open(&path).unwrap();
        watchdog.feed();
        watchdog.feed();
        drop(watchdog);
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0");
    }
}
