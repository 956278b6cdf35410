//! Milestones of the boot, one line each, for the screen and for a serial port if there is one.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::termios::{self, ControlFlags, SetArg};
use nix::time::{ClockId, clock_gettime};

const SERIAL: &str = "/dev/ttyS0";

/// Where the milestones go. Lines look like `headgate-init 4.31 slot A mounted`: seconds since the kernel started.
#[derive(Debug)]
pub struct Console {
    outputs: Vec<File>,
}

impl Console {
    /// Opens `/dev/console`, and the first serial port if the kernel found a UART there and it is not the console already.
    /// An absent serial port must never be opened unasked: machines exist that wait minutes for one.
    #[must_use]
    pub fn open() -> Self {
        let mut outputs: Vec<File> = open_tty(Path::new("/dev/console")).into_iter().collect();
        let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        // The device behind /dev/console is the last one of the list.
        if has_uart(Path::new("/sys/class/tty/ttyS0")) && active.split_whitespace().last() != Some("ttyS0") {
            outputs.extend(open_tty(Path::new(SERIAL)).inspect(set_speed));
        }
        Self { outputs }
    }

    /// A console that nobody watches.
    #[must_use]
    pub fn open_none() -> Self {
        Self { outputs: Vec::new() }
    }

    /// Writes one line with the time. Nothing is lost but the line when an output fails or is full.
    pub fn say(&self, text: impl Display) {
        let seconds = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map(|time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
            .unwrap_or_default();
        let line = format!("headgate-init {seconds:.2} {text}\n");
        for mut output in &self.outputs {
            let _ = output.write_all(line.as_bytes());
        }
    }

    /// Like [`Console::say`], for what somebody must see: the line says so.
    pub fn warn(&self, text: impl Display) {
        self.say(format_args!("WARNING: {text}"));
    }
}

/// Not the controlling terminal, and never waiting for a carrier that a three-wire cable does not have.
fn open_tty(path: &Path) -> Option<File> {
    OpenOptions::new().write(true).custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK).open(path).ok()
}

/// The kernel makes four `ttyS` nodes whatever the machine has; type 0 is `PORT_UNKNOWN` (`include/uapi/linux/serial.h`).
fn has_uart(device: &Path) -> bool {
    std::fs::read_to_string(device.join("type")).is_ok_and(|kind| kind.trim() != "0")
}

/// 115200 baud: without a `console=` on the command line the port would stand at 9600.
fn set_speed(tty: &File) {
    let Ok(mut settings) = termios::tcgetattr(tty) else { return };
    // The bits themselves, not cfsetspeed(3): libc binds that to a versioned symbol, which a static program cannot have.
    settings.control_flags.remove(ControlFlags::CBAUD);
    settings.control_flags |= ControlFlags::from_bits_retain(nix::libc::B115200);
    settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
    let _ = termios::tcsetattr(tty, SetArg::TCSANOW, &settings);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_without_a_uart_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!has_uart(directory.path()), "no type file");
        std::fs::write(directory.path().join("type"), "0\n").unwrap();
        assert!(!has_uart(directory.path()), "PORT_UNKNOWN");
        std::fs::write(directory.path().join("type"), "4\n").unwrap();
        assert!(has_uart(directory.path()), "16550A");
    }
}
