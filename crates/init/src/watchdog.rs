//! The hardware watchdog, armed as soon as its driver is there: from then on somebody has to feed it, or the box is reset.
//! `headgated` does, while its own check passes.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::console::Console;
use crate::initramfs::with_cause;

/// Where it is.
pub const DEVICE: &str = "/dev/watchdog";
/// From the last feeding to the reset. `headgated` has to be running by then, on a slow disk as well.
pub const TIMEOUT_SECONDS: i32 = 60;

nix::ioctl_readwrite!(
    /// `WDIOC_SETTIMEOUT` (`include/uapi/linux/watchdog.h`).
    set_timeout,
    b'W',
    6,
    nix::libc::c_int
);

/// Arms the watchdog of this machine. One that it does not have is no error: many have none.
pub fn arm(device: &Path, console: &Console) {
    match open(device) {
        Ok(seconds) => console.say(format_args!("watchdog armed: {seconds} s")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // A driver answers ENODEV where the BIOS has locked its chip.
        Err(error) => console.warn(format_args!("the watchdog cannot be armed: {}", with_cause(&error))),
    }
}

/// Opening it starts it. Closing it without the letter V does not stop it (`watchdog_release`, drivers/watchdog/watchdog_dev.c):
/// the kernel complains, and that is what we want.
fn open(device: &Path) -> io::Result<i32> {
    let file = OpenOptions::new().write(true).custom_flags(nix::libc::O_CLOEXEC).open(device)?;
    let mut seconds = TIMEOUT_SECONDS;
    // SAFETY: the file is open and `seconds` is the int that the request reads and writes.
    match unsafe { set_timeout(file.as_raw_fd(), &raw mut seconds) } {
        Ok(_) => Ok(seconds),
        // A driver with a fixed time: it is armed all the same.
        Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::EINVAL) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_not_taken_for_one() {
        let error = open(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTTY));
        assert_eq!(open(Path::new("/dev/no-such-watchdog")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
