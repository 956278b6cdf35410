//! How long CPUs may take to wake up: `/dev/cpu_dma_latency`, which holds while its descriptor is open.
//!
//! It is held, and not `intel_idle.max_cstate=1` on the kernel command line: no reboot, and when the daemon dies CPUs sleep
//! as they did.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use headgate_plan::knob::CPU_WAKE_UP;

/// A limit that holds as long as this lives.
#[derive(Debug)]
pub(crate) struct WakeUp {
    held: File,
}

impl WakeUp {
    /// Limits the time to `micros`.
    pub(crate) fn hold(micros: i32) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).open(path())?;
        // Four bytes are a number; any other length is read as hexadecimal digits (`cpu_latency_qos_write`).
        file.write_all(&micros.to_ne_bytes())?;
        Ok(Self { held: file })
    }
}

impl From<OwnedFd> for WakeUp {
    fn from(held: OwnedFd) -> Self {
        Self { held: held.into() }
    }
}

impl AsFd for WakeUp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.held.as_fd()
    }
}

/// The strictest limit of all who hold one, microseconds.
pub(crate) fn read() -> io::Result<i32> {
    let mut micros = [0; 4];
    File::open(path())?.read_exact(&mut micros)?;
    Ok(i32::from_ne_bytes(micros))
}

fn path() -> String {
    format!("/{CPU_WAKE_UP}")
}
