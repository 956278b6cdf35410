//! Milestones of the boot, one line each, for the screen and for a serial port if there is one.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use headgate_update::milestones::{self, WARNING};
use nix::sys::termios::{self, ControlFlags, SetArg};

const SERIAL: &str = "/dev/ttyS0";

/// Where the milestones go. Lines look like `headgate-init 4.31 slot A mounted`: seconds since the kernel started.
#[derive(Debug)]
pub struct Console {
    outputs: Vec<File>,
}

/// What lines begin with.
const NAME: &str = "headgate-init";
/// The kernel's log: what is written there outlives the initramfs, and `quiet` keeps it from the screen.
const LOG: &str = "/dev/kmsg";

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
        outputs.extend(OpenOptions::new().write(true).open(LOG));
        Self { outputs }
    }

    /// Begins the list of milestones with those that were said so far, and goes on with what is said from now on.
    pub fn keep(&self, list: &Path) -> io::Result<()> {
        // One record a read (Documentation/ABI/testing/dev-kmsg): `6,339,5140900,-;headgate-init 3.29 initramfs`.
        let mut log = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(LOG)?;
        let mut record = [0; 8192];
        let mut text = String::new();
        while let Some(count) = next(&mut log, &mut record)? {
            let record = String::from_utf8_lossy(&record[..count]);
            let said = record.split_once(';').map(|(_, said)| said.lines().next().unwrap_or_default());
            if let Some(said) = said.and_then(|said| said.strip_prefix(NAME)?.strip_prefix(' ')) {
                text.push_str(said);
                text.push('\n');
            }
        }
        std::fs::write(list, text)
    }

    /// A console that nobody watches.
    #[must_use]
    pub fn open_none() -> Self {
        Self { outputs: Vec::new() }
    }

    /// Writes one line with the time. Nothing is lost but the line when an output fails or is full.
    pub fn say(&self, text: impl Display) {
        let line = format!("{NAME} {}", milestones::line(milestones::now(), text));
        for mut output in &self.outputs {
            let _ = output.write_all(line.as_bytes());
        }
    }

    /// Like [`Console::say`], for what somebody must see: the line says so.
    pub fn warn(&self, text: impl Display) {
        self.say(format_args!("{WARNING}{text}"));
    }
}

/// The next record. One that was overwritten meanwhile is left out (EPIPE), and there is an end (EAGAIN).
fn next(log: &mut File, record: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match log.read(record) {
            Ok(0) => return Ok(None),
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
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
