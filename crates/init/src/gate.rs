//! `headgate-init gate`: a slot that starts but does not come to good reboots by itself.
//!
//! GRUB decides at the next start which slot to try, so a system that hangs half-way would otherwise wait for a hand. This
//! process depends on nothing that could be broken in the new system but the kernel: `headgated` may crash, restart or never
//! begin.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use headgate_update::disk;
use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};

use crate::console::Console;
use crate::mark_good::MARKER;

/// How long a system may take from the kernel's start until its slot is good. A box with a dozen 10 GbE ports has been seen
/// to need two minutes for its drivers alone.
const DEADLINE: Duration = Duration::from_secs(300);
/// On the command line: another deadline, in seconds.
const PARAMETER: &str = "headgate.gate";
/// On the command line: no slot is good, GRUB has begun again. A box that is up, whatever its state, can be repaired; one that
/// reboots for ever cannot.
pub const RESCUE: &str = "headgate.rescue";

/// What is to be done about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Look again.
    Wait,
    /// The gate is passed, or there is none.
    Pass,
    /// The next start tries again, and the fourth another slot.
    Reboot,
}

/// Waits for the slot to be marked good, or reboots.
pub fn run() -> ExitCode {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    loop {
        match decide(&line, Path::new(MARKER).exists(), since_start()) {
            Verdict::Wait => std::thread::sleep(Duration::from_secs(1)),
            Verdict::Pass => return ExitCode::SUCCESS,
            Verdict::Reboot => {
                Console::open().warn("this slot has not come to good in time: rebooting");
                nix::unistd::sync();
                // Not by way of PID 1, which may be what hangs.
                let error = reboot(RebootMode::RB_AUTOBOOT).expect_err("a reboot does not return");
                Console::open().warn(format_args!("the kernel refuses to reboot: {error}"));
                return ExitCode::FAILURE;
            }
        }
    }
}

fn decide(command_line: &str, good: bool, up: Duration) -> Verdict {
    let from_slot = disk::parameter(command_line, "headgate.slot").is_some();
    let rescue = command_line.split_whitespace().any(|word| word == RESCUE);
    if good || rescue || !from_slot {
        return Verdict::Pass;
    }
    let asked = disk::parameter(command_line, PARAMETER).and_then(|seconds| seconds.parse().ok());
    let deadline = asked.map_or(DEADLINE, Duration::from_secs);
    if up < deadline { Verdict::Wait } else { Verdict::Reboot }
}

/// Since the kernel started; it does not jump when the time is set.
fn since_start() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME is there since Linux 2.6.39");
    Duration::from(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slot_that_is_not_good_in_time_reboots() {
        let decide = |line: &str, good, up| decide(line, good, Duration::from_secs(up));
        let slot = "quiet headgate.slot=B";
        assert_eq!(decide(slot, false, 0), Verdict::Wait);
        assert_eq!(decide(slot, false, 299), Verdict::Wait);
        assert_eq!(decide(slot, false, 300), Verdict::Reboot);
        assert_eq!(decide(slot, true, 300), Verdict::Pass);
        assert_eq!(decide("quiet", false, 300), Verdict::Pass, "not started by GRUB: nothing to fall back to");
        assert_eq!(decide("headgate.slot=A headgate.rescue", false, 300), Verdict::Pass);
        assert_eq!(decide("headgate.slot=A headgate.gate=20", false, 20), Verdict::Reboot);
        assert_eq!(decide("headgate.slot=A headgate.gate=never", false, 299), Verdict::Wait);
    }

    #[test]
    fn time_goes_on() {
        let before = since_start();
        assert!(since_start() >= before && before > Duration::ZERO);
    }
}
