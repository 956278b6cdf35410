//! The clock of the machine (clock_adjtime(2)).
//!
//! It is one for all network namespaces: whoever may not set the clock of this machine must be without `CAP_SYS_TIME`.

use std::io;

use headgate_plan::clock::Correction;
use nix::libc::{self, CLOCK_REALTIME, timex};

/// `ADJ_*` and `STA_*` of include/uapi/linux/timex.h.
const OFFSET: u32 = 0x0001;
const MAX_ERROR: u32 = 0x0004;
const ESTIMATED_ERROR: u32 = 0x0008;
const STATUS: u32 = 0x0010;
const TIME_CONSTANT: u32 = 0x0020;
const SET_OFFSET: u32 = 0x0100;
const NANOSECONDS: u32 = 0x2000;
/// The kernel's loop slews, and learns how fast the clock is. Without `STA_UNSYNC` it also writes the time into the hardware clock,
/// every 11 minutes.
const PLL: i32 = 0x0001;
const SECOND: i64 = 1_000_000_000;

/// The clock is as it was.
#[derive(Debug, thiserror::Error)]
#[error("the clock cannot be set")]
pub struct ClockError(#[source] io::Error);

/// Corrects the clock. `pause` is the time until the next correction, seconds: the loop is the calmer the longer it is.
///
/// # Errors
/// The process is without `CAP_SYS_TIME`, or the time is none that the kernel takes.
pub fn correct(correction: Correction, pause: u64) -> Result<(), ClockError> {
    let time = request(correction, pause);
    adjust(time).map_err(ClockError)
}

fn request(correction: Correction, pause: u64) -> timex {
    // SAFETY: all its fields are numbers, for which zeroes are a value.
    let mut time: timex = unsafe { std::mem::zeroed() };
    time.status = PLL;
    match correction {
        Correction::Step(by) => {
            time.modes = STATUS | NANOSECONDS | SET_OFFSET | MAX_ERROR | ESTIMATED_ERROR;
            time.time.tv_sec = by.div_euclid(SECOND);
            // Never negative, and nanoseconds in spite of its name.
            time.time.tv_usec = by.rem_euclid(SECOND);
        }
        Correction::Slew(by) => {
            time.modes = STATUS | NANOSECONDS | OFFSET | TIME_CONSTANT | MAX_ERROR | ESTIMATED_ERROR;
            time.offset = by;
            // The kernel adds 4 when it counts in nanoseconds, and takes 10 at most (kernel/time/ntp.c).
            time.constant = i64::from(pause.max(16).ilog2() - 4);
        }
    }
    time
}

fn adjust(mut time: timex) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one `timex`, which is ours.
    let state = unsafe { libc::clock_adjtime(CLOCK_REALTIME, &raw mut time) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is set here: this is the clock of whoever runs the test. That it is set is shown in a guest.
    #[test]
    fn requests_are_as_the_kernel_wants_them() {
        let back = request(Correction::Step(-1), 64);
        assert_eq!((back.time.tv_sec, back.time.tv_usec, back.modes & OFFSET), (-1, 999_999_999, 0));
        let forth = request(Correction::Step(3 * SECOND + 5), 64);
        assert_eq!((forth.time.tv_sec, forth.time.tv_usec), (3, 5));
        let slew = request(Correction::Slew(-7), 1024);
        assert_eq!((slew.offset, slew.constant, slew.modes & SET_OFFSET), (-7, 6, 0));
        assert_eq!(request(Correction::Slew(1), 0).constant, 0);
    }
}
