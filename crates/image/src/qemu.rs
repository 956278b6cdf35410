//! The image in QEMU, with the shape of an SNA 7108: four cores with two threads each, two igb ports.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::qmp::Qmp;
use crate::stop::Stop;
use crate::tool::{missing, run, tool};

mod command;

/// A whole transcript is kept: a boot writes a few KiB, a runaway guest must not eat the host.
const MAX_TRANSCRIPT: usize = 8 << 20;

/// What starts the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// What becomes of what the guest writes to its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writes {
    /// They are in the image file.
    Kept,
    /// They are in the image file, and each of them, with each flush, in this file too, as the kernel's dm-log-writes keeps
    /// them (`Documentation/admin-guide/device-mapper/log-writes.rst`).
    Recorded(PathBuf),
    /// They are gone with QEMU.
    Discarded,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Translation: works everywhere, and is what the measured times are of.
    Tcg,
    /// The host's processor.
    Kvm,
}

/// The guest's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processors {
    /// Those of an SNA 7108: four cores with two threads each.
    Sna7108,
    /// Two cores, which QEMU translates side by side: what the time of a boot is measured with, for it then takes the guest as
    /// long as it takes us. See [`Machine::start`] for what may come of that.
    Pair,
}

/// What a network card of the guest is connected to.
#[derive(Debug)]
pub enum Link {
    /// QEMU's own user-mode network.
    User,
    /// An opened tap device.
    Tap(OwnedFd),
}

/// Where the guest's serial port goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serial {
    /// To this terminal, with QEMU's monitor behind Ctrl-A.
    Terminal,
    /// To a Unix socket that QEMU listens on.
    Socket(PathBuf),
    /// To the program that started QEMU.
    Program,
}

/// How to boot.
#[derive(Debug)]
pub struct Options {
    /// The disk image; one whose name ends with `.qcow2` is such a one, any other raw.
    pub image: PathBuf,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// TCG or KVM.
    pub accelerator: Accelerator,
    /// How many.
    pub processors: Processors,
    /// The network cards, in the guest's order.
    pub links: Vec<Link>,
    /// Drop-ins for the guest, by fw_cfg.
    pub drop_ins: Vec<PathBuf>,
    /// Kept or discarded.
    pub writes: Writes,
    /// Further disks, which the guest can only read: `/dev/vdb`, …
    pub disks: Vec<PathBuf>,
    /// Disks behind those, which it can write to.
    pub targets: Vec<PathBuf>,
    /// Sticks on USB, which the guest can only read.
    pub sticks: Vec<PathBuf>,
    /// Where the serial port goes.
    pub serial: Serial,
    /// Goes on from here ([`Machine::save`]) instead of starting: the same image, processors, cards and disks as there.
    pub memory: Option<PathBuf>,
    /// What the hardware clock says at power-on, `2020-01-01T00:00:00`; `None`: the time.
    pub clock: Option<String>,
}

impl Options {
    /// A trial: nothing is written to the image, and the caller reads the serial port.
    pub fn trial(image: &Path) -> Self {
        Self {
            image: image.to_owned(),
            firmware: Firmware::Bios,
            accelerator: Accelerator::Tcg,
            processors: Processors::Sna7108,
            links: vec![Link::User, Link::User],
            drop_ins: Vec::new(),
            writes: Writes::Discarded,
            disks: Vec::new(),
            targets: Vec::new(),
            sticks: Vec::new(),
            serial: Serial::Program,
            memory: None,
            clock: None,
        }
    }
}

/// A running guest; ended when dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    stdin: Option<ChildStdin>,
    /// When the serial port is ours.
    control: Option<Qmp>,
    transcript: Arc<(Mutex<Transcript>, Condvar)>,
    /// Up to here the transcript was consumed.
    cursor: usize,
    started: Instant,
    stop: Stop,
    _firmware: Option<TempDir>,
}

#[derive(Debug, Default)]
struct Transcript {
    text: String,
    ended: bool,
}

impl Machine {
    /// Starts QEMU. `stop` ends waits early.
    ///
    /// With a thread for each processor, QEMU's translator uses entries of its address cache after another thread has freed
    /// them (`accel/tcg/cputlb.c`, seen up to 10.0): of ten boots beside other work one ended with an assertion and one never
    /// got its network.
    pub fn start(options: Options, stop: &Stop) -> Result<Self> {
        ensure!(options.image.is_file(), "{} is not there: `headgate-image build` first", options.image.display());
        let (mut command, firmware) = command::command_line(&options)?;
        let mut handed: Vec<i32> = options.links.iter().filter_map(Link::descriptor).collect();
        let control = match options.serial {
            Serial::Program => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
                let (ours, theirs) = UnixStream::pair()?;
                command.arg("-chardev").arg(format!("socket,id=control,fd={}", theirs.as_raw_fd()));
                command.args(["-mon", "chardev=control,mode=control"]);
                handed.push(theirs.as_raw_fd());
                Some((ours, theirs))
            }
            Serial::Terminal | Serial::Socket(_) => None,
        };
        let own_group = options.serial == Serial::Program;
        let parent = nix::unistd::getpid();
        let prepare = move || {
            // A guest must not outlive whoever started it, however that ended.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid() != parent {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            // Ctrl-C on the terminal is for us: we end the guest, after the report.
            if own_group {
                nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0))?;
            }
            for &descriptor in &handed {
                // SAFETY: the descriptor is open here: `options` or `control` owns it until after the spawn.
                let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
                fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        };
        // SAFETY: only async-signal-safe system calls, and no allocation.
        unsafe { command.pre_exec(prepare) };
        let mut child = command.spawn().map_err(|error| missing(command::PROGRAM, error))?;
        let transcript = Arc::new((Mutex::new(Transcript::default()), Condvar::new()));
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            let transcript = Arc::clone(&transcript);
            std::thread::spawn(move || follow(stdout, &transcript));
        }
        // Their end is QEMU's alone from here on, so that ours says when QEMU has ended.
        let control = control.map(|(ours, _)| Qmp::new(ours)).transpose()?;
        let (cursor, started, stop) = (0, Instant::now(), stop.clone());
        let mut machine = Self { child, stdin, control, transcript, cursor, started, stop, _firmware: firmware };
        if options.memory.is_some() {
            machine.control()?.go_on()?;
        }
        Ok(machine)
    }

    fn control(&mut self) -> Result<&mut Qmp> {
        self.control.as_mut().context("the control channel is not ours")
    }

    /// Pulls the cable of a card, counted as in [`Options::links`].
    pub fn unplug(&mut self, number: usize) -> Result<()> {
        self.control()?.unplug(&format!("net{number}"))
    }

    /// Writes the memory of the running machine and what its devices know into a file, and ends it: [`Options::memory`] goes on from
    /// there, as often as is wanted and within a second, with `writes` discarded. The disk has to be a `.qcow2` that keeps what was
    /// written so far ([`overlay`]).
    pub fn save(mut self, memory: &Path) -> Result<()> {
        let path = memory.to_str().with_context(|| format!("{} is not UTF-8", memory.display()))?.to_owned();
        self.control()?.save(&path)
    }

    /// QEMU's process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Since QEMU was started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until the serial port says `text`; what was said from the last wait to there. When it does not within the
    /// time, or QEMU ends, the error shows the last lines.
    pub fn expect(&mut self, text: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        let (transcript, changed) = &*self.transcript;
        let mut seen = transcript.lock().expect("the follower of the serial port does not panic");
        loop {
            if let Some(position) = seen.text[self.cursor..].find(text) {
                let end = self.cursor + position + text.len();
                let said = seen.text[self.cursor..end].to_owned();
                self.cursor = end;
                return Ok(said);
            }
            self.stop.check()?;
            if seen.ended {
                bail!("QEMU ended while {text:?} was waited for; its last words:\n{}", tail(&seen.text));
            }
            let now = Instant::now();
            if now >= deadline {
                bail!("no {text:?} on the serial port within {within:?}; its last words:\n{}", tail(&seen.text));
            }
            let wait = (deadline - now).min(Duration::from_millis(200));
            seen = changed.wait_timeout(seen, wait).expect("the follower of the serial port does not panic").0;
        }
    }

    /// Types a line.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.press(&format!("{line}\r"))
    }

    /// Presses keys at the serial port.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the serial port is not ours")?;
        stdin.write_all(keys.as_bytes()).context("cannot write to the serial port")?;
        Ok(stdin.flush()?)
    }

    /// Runs a command line at the console's prompt: what it printed, and its exit status.
    pub fn console(&mut self, line: &str, within: Duration) -> Result<(String, i32)> {
        self.send(line)?;
        let said = self.expect("[exit ", within).with_context(|| format!("console command `{line}`"))?;
        let status = self.expect("]", Duration::from_secs(5))?;
        let status = status.trim_end_matches(']').parse().with_context(|| format!("{status:?} is no exit status"))?;
        let output = said.trim_end_matches("[exit ").replace('\r', "");
        // Before the output are the prompt and the terminal's echo of what was typed.
        let output = output.split_once(&format!("{line}\n")).map_or(output.as_str(), |(_, output)| output);
        Ok((output.trim_end().to_owned(), status))
    }

    /// Everything that the serial port said so far.
    pub fn transcript(&self) -> String {
        self.transcript.0.lock().expect("the follower of the serial port does not panic").text.clone()
    }

    /// Connects the serial port with this terminal, line by line, until standard input ends, QEMU ends or we are stopped.
    pub fn attach(&mut self) -> Result<()> {
        let mut stdin = self.stdin.take().context("the serial port is not ours")?;
        std::thread::spawn(move || {
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line).is_ok_and(|count| count > 0) {
                if stdin.write_all(line.trim_end().as_bytes()).and_then(|()| stdin.write_all(b"\r")).is_err() {
                    break;
                }
                line.clear();
            }
        });
        while self.stop.check().is_ok() {
            let (transcript, changed) = &*self.transcript;
            let seen = transcript.lock().expect("the follower of the serial port does not panic");
            let wait = Duration::from_millis(100);
            let seen = changed.wait_timeout(seen, wait).expect("the follower of the serial port does not panic").0;
            print!("{}", &seen.text[self.cursor..]);
            let _ = std::io::stdout().flush();
            self.cursor = seen.text.len();
            if seen.ended {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the end of QEMU.
    pub fn wait(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }
}

/// The MAC address of a guest's card, counted from 0.
pub fn address(card: usize) -> String {
    format!("52:54:00:48:47:{card:02x}")
}

/// A disk at `path`, a `.qcow2`, that is the raw `image` until something is written to it; the image stays as it is.
pub fn overlay(image: &Path, path: &Path) -> Result<()> {
    let image = image.canonicalize().with_context(|| format!("cannot find {}", image.display()))?;
    run(tool("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(image).arg(path)).map(drop)
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Link {
    fn descriptor(&self) -> Option<i32> {
        match self {
            Self::User => None,
            Self::Tap(tap) => Some(tap.as_raw_fd()),
        }
    }
}

/// Reads the serial port to its end, without the escape sequences that firmware sends to terminals.
fn follow(mut port: impl Read, transcript: &(Mutex<Transcript>, Condvar)) {
    let mut plain = Plain::default();
    let mut buffer = [0; 4096];
    loop {
        let count = port.read(&mut buffer).unwrap_or(0);
        let text: String = buffer[..count].iter().filter_map(|&byte| plain.next(byte)).collect();
        let mut seen = transcript.0.lock().expect("whoever waits for the serial port does not panic");
        if seen.text.len() < MAX_TRANSCRIPT {
            seen.text.push_str(&text);
        }
        seen.ended = count == 0;
        transcript.1.notify_all();
        if count == 0 {
            return;
        }
    }
}

/// Leaves out escape sequences (ECMA-48: `ESC [ … letter`, `ESC x`) and what is not ASCII.
#[derive(Debug, Default)]
enum Plain {
    #[default]
    Text,
    Escape,
    Sequence,
}

impl Plain {
    fn next(&mut self, byte: u8) -> Option<char> {
        match (&self, byte) {
            (Self::Text, 0x1b) => *self = Self::Escape,
            (Self::Text, b'\n' | b'\r' | b'\t' | 0x20..=0x7e) => return Some(char::from(byte)),
            (Self::Text, _) => {}
            (Self::Escape, b'[') => *self = Self::Sequence,
            (Self::Escape, _) => *self = Self::Text,
            (Self::Sequence, 0x40..=0x7e) => *self = Self::Text,
            (Self::Sequence, _) => {}
        }
        None
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_left_out_across_reads() {
        let mut plain = Plain::default();
        let text: String =
            b"\x1bc\x1b[2J\x1b[01;01Hready\x1b[0m\r\n\xff\x00x".iter().filter_map(|&byte| plain.next(byte)).collect();
        assert_eq!(text, "ready\r\nx");
    }

    #[test]
    fn a_missing_image_says_what_to_do() {
        let error = Machine::start(Options::trial(Path::new("/no/image")), &Stop::never()).unwrap_err().to_string();
        assert!(error.contains("headgate-image build"), "{error}");
    }
}
