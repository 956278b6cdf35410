//! QEMU as an instruction counter.

use std::io::{BufRead, BufReader, Write as _};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use headgate_bench_guest::cards;
use headgate_bench_guest::plan::{Measured, Report};
use headgate_image::progress::Progress;
use headgate_image::stop::Stop;
use headgate_image::tool::missing;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use super::ramdisk::{CPU, Ramdisk};

const PROGRAM: &str = "qemu-system-x86_64";
/// Addresses that do not change, a clock that is the counter, and nothing that runs at times of its own.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable clocksource=tsc nowatchdog \
     audit=0 apparmor=0 selinux=0 rcupdate.rcu_expedited=1";
/// Lines of the kernel's that are shown when the guest dies.
const LAST_WORDS: usize = 20;

/// The guest.
pub(crate) struct Machine {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    /// What was said beside reports.
    noise: Vec<String>,
    stop: Stop,
}

impl Machine {
    /// Starts it with the counter; `more` are further arguments of QEMU.
    pub(super) fn start(ramdisk: &Ramdisk, stop: &Stop, more: &[String]) -> Result<Self> {
        let mut command = Command::new(PROGRAM);
        // One instruction is a nanosecond, and idle time is skipped.
        command.args(["-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2024-01-01T00:00:00,clock=vm"]);
        command.args(["-machine", "pc", "-accel", "tcg,thread=single", "-smp", "1"]).args(more);
        Self::spawn(command, ramdisk, stop, &[])
    }

    /// Starts it without the counter, with an igb for each tap, whose hardware addresses are those of [`cards::ADDRESSES`].
    /// Each processor is a core, and a thread of QEMU.
    pub(crate) fn start_with_cards(
        ramdisk: &Ramdisk,
        stop: &Stop,
        taps: &[OwnedFd],
        processors: usize,
    ) -> Result<Self> {
        let mut command = Command::new(PROGRAM);
        command.args(["-machine", "q35", "-monitor", "none"]);
        let threads = if processors > 1 { "multi" } else { "single" };
        command.args(["-accel", &format!("tcg,thread={threads}"), "-smp"]);
        command.arg(format!("{processors},sockets=1,cores={processors},threads=1"));
        for (number, (tap, address)) in taps.iter().zip(cards::ADDRESSES).enumerate() {
            command.arg("-netdev").arg(format!("tap,id=net{number},fd={}", tap.as_raw_fd()));
            // Each igb brings virtual functions: two on one bus collide.
            let port = number + 1;
            command.arg("-device").arg(format!("pcie-root-port,id=port{number},chassis={port},slot={port}"));
            command.arg("-device").arg(format!("igb,bus=port{number},netdev=net{number},mac={address},romfile="));
        }
        Self::spawn(command, ramdisk, stop, taps)
    }

    fn spawn(mut command: Command, ramdisk: &Ramdisk, stop: &Stop, taps: &[OwnedFd]) -> Result<Self> {
        command.args(["-cpu", CPU, "-m", "1024"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        command.arg("-kernel").arg(&ramdisk.kernel).arg("-initrd").arg(&ramdisk.initramfs);
        command.args(["-append", KERNEL_ARGUMENTS]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let taps: Vec<i32> = taps.iter().map(AsRawFd::as_raw_fd).collect();
        let prepare = move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            for &tap in &taps {
                // SAFETY: the descriptor is open: its owner lives over the spawn.
                fcntl(unsafe { BorrowedFd::borrow_raw(tap) }, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        };
        // SAFETY: only async-signal-safe system calls, and no allocation.
        unsafe { command.pre_exec(prepare) };
        let mut child = command.spawn().map_err(|error| missing(PROGRAM, error))?;
        let input = child.stdin.take().context("QEMU has no standard input")?;
        let output = child.stdout.take().context("QEMU has no standard output")?;
        Ok(Self { child, input, lines: BufReader::new(output).lines(), noise: Vec::new(), stop: stop.clone() })
    }

    /// QEMU's process.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The next report. That the guest ends without [`Report::Done`] is an error.
    pub(crate) fn report(&mut self) -> Result<Report> {
        loop {
            // Ctrl-C ends QEMU as well, and with it the lines.
            let next = self.lines.next();
            self.stop.check()?;
            let Some(line) = next else {
                let from = self.noise.len().saturating_sub(LAST_WORDS);
                bail!("the guest died; its last words:\n{}", self.noise[from..].join("\n"));
            };
            // A serial line may carry anything, of which reports are always text.
            let Ok(line) = line else { continue };
            match Report::parse(&line) {
                Some(report) => return Ok(report),
                None => self.noise.push(line.trim_end().to_owned()),
            }
        }
    }

    /// Lets a guest that waits go on.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        self.input.write_all(b"\n")?;
        Ok(self.input.flush()?)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the whole plan. A variant that could not be measured is an error, after all others were.
pub(super) fn measure(ramdisk: &Ramdisk, progress: &Progress, stop: &Stop) -> Result<Vec<Measured>> {
    let mut machine = Machine::start(ramdisk, stop, &["-monitor".to_owned(), "none".to_owned()])?;
    let (mut measured, mut troubles) = (Vec::<Measured>::new(), Vec::new());
    loop {
        match machine.report()? {
            Report::Up { kernel } => progress.line(&format!("the guest is up, kernel {kernel}")),
            Report::Measured(one) => {
                if measured.last().is_none_or(|last| last.variant != one.variant) {
                    progress.line(&one.variant);
                }
                measured.push(one);
            }
            Report::Trouble { variant, what } => troubles.push(format!("{variant}: {what}")),
            Report::Pause { .. } | Report::Ready { .. } | Report::Counted { .. } | Report::Symbol { .. } => {}
            Report::Done => break,
        }
    }
    ensure!(troubles.is_empty(), "not everything could be measured:\n{}", troubles.join("\n"));
    Ok(measured)
}
