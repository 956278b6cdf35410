//! `headgate console`: what runs on the appliance's serial console instead of a login.
//!
//! Nobody needs a password here because nobody can change anything: there is no shell behind the prompt, only a closed list of commands
//! (`commands`) that are run as processes of their own, and whose output is shown without the control characters that names from outside
//! could smuggle in. `[exit N]` after each tells scripts how it went.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::termios::{
    self, ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios,
};
use nix::unistd::Pid;

use commands::Request;
use editor::{Editor, Typed};

use crate::api::SOCKET;

mod commands;
mod editor;
#[cfg(test)]
mod tests;

const PROMPT: &str = "headgate> ";

/// How long a console that does not exist is slept for, so that init, which starts us again at once, does not spin.
const ABSENT_PAUSE: Duration = Duration::from_secs(30);

/// How long a box that starts is waited for before its status is asked for the first time, and between two looks.
const START_PATIENCE: Duration = Duration::from_secs(60);
const START_PAUSE: Duration = Duration::from_millis(200);

/// The shortest session, for the same reason: a line that hangs up at once, again and again.
const SESSION_LEAST: Duration = Duration::from_secs(1);

/// How long a command may take; longer than the client waits for the daemon.
const COMMAND_PATIENCE: Duration = Duration::from_secs(90);

/// Characters typed ahead during a command that are kept.
const AHEAD_MAX: usize = 1024;

/// A line of output longer than this is shown in pieces, bytes.
const PIECE_MAX: usize = 8192;

/// The options of `headgate console`.
#[derive(Debug, Args)]
pub struct Options {
    /// The terminal to serve
    #[arg(long, value_name = "TTY", default_value = "/dev/tty", value_hint = ValueHint::FilePath)]
    pub tty: PathBuf,
}

/// Serves the terminal until it hangs up or its user leaves. Never fails: whoever starts it could do nothing about it.
pub fn run(options: &Options, root: &Path) {
    let console = Console {
        program: "/proc/self/exe".into(),
        root: root.to_owned(),
        absent_pause: ABSENT_PAUSE,
        start_patience: START_PATIENCE,
    };
    console.serve(&options.tty);
}

#[derive(Debug)]
struct Console {
    /// `headgate` itself. A link into `/proc` still works after an update has replaced the file.
    program: PathBuf,
    root: PathBuf,
    absent_pause: Duration,
    start_patience: Duration,
}

/// The terminal is gone.
struct HungUp;

impl From<io::Error> for HungUp {
    fn from(_: io::Error) -> Self {
        HungUp
    }
}

impl Console {
    fn serve(&self, tty: &Path) {
        let began = Instant::now();
        let opened = Terminal::open(tty).map_err(HungUp::from).and_then(|mut terminal| {
            // A port that the driver only reserves opens well and fails here (EIO).
            terminal.show(&banner())?;
            Ok(terminal)
        });
        let Ok(mut terminal) = opened else {
            // No serial port in this machine is nothing to report every half minute.
            sleep(self.absent_pause);
            return;
        };
        // A hang-up ends the session, and so does leaving: init starts a new one.
        let _ = self.session(&mut terminal);
        drop(terminal);
        sleep(SESSION_LEAST.saturating_sub(began.elapsed()));
    }

    fn session(&self, terminal: &mut Terminal) -> Result<(), HungUp> {
        self.wait_for_daemon(terminal)?;
        self.command(terminal, &["status".to_owned()])?;
        terminal.show("\nThis console only looks. Type help for what there is.\n")?;
        loop {
            terminal.show(PROMPT)?;
            let line = match terminal.line()? {
                Typed::Line(line) => line,
                Typed::TooLong => {
                    terminal.show("that line is too long.\n[exit 2]\n")?;
                    continue;
                }
                Typed::End => return Ok(()),
                Typed::Cancel | Typed::Echo(_) => continue,
            };
            match commands::read(&line) {
                Request::Nothing => {}
                Request::Help => terminal.show(&format!("{}[exit 0]\n", commands::help()))?,
                Request::Leave => return Ok(()),
                Request::Refused(why) => terminal.show(&format!("{why}\n[exit 2]\n"))?,
                Request::Run(arguments) => self.command(terminal, &arguments)?,
            }
        }
    }

    /// On a box that has just started nobody answers yet: that is no error to begin with, and asking for it would take its time
    /// from what it starts. A key ends the wait.
    fn wait_for_daemon(&self, terminal: &mut Terminal) -> Result<(), HungUp> {
        let (socket, deadline) = (self.root.join(SOCKET), Instant::now() + self.start_patience);
        let absent = || match UnixStream::connect(&socket) {
            Ok(_) => false,
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused),
        };
        if absent() {
            terminal.show(
                "headgated does not answer yet. Its status comes here as soon as it does; any key asks at once.\n\n",
            )?;
        }
        while absent() && Instant::now() < deadline {
            if let Event::Typed(byte) = terminal.wait(None, START_PAUSE)? {
                terminal.keep(byte);
                break;
            }
        }
        Ok(())
    }

    /// Runs `headgate ARGUMENTS` and shows what it prints. Ctrl-C and the deadline end it.
    fn command(&self, terminal: &mut Terminal, arguments: &[String]) -> Result<(), HungUp> {
        let (child, mut output) = match self.spawn(arguments) {
            Ok(started) => started,
            Err(error) => return terminal.show(&format!("cannot run headgate: {error}\n[exit 126]\n")),
        };
        let mut child = KillOnDrop(child);
        let secrets = arguments.first().is_some_and(|word| word == "config");
        let deadline = Instant::now() + COMMAND_PATIENCE;
        let mut partial = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let event = terminal.wait(Some(&output), deadline.saturating_duration_since(Instant::now()))?;
            match event {
                Event::Output => {
                    let count = output.read(&mut chunk)?;
                    partial.extend_from_slice(&chunk[..count]);
                    terminal.show(&complete_lines(&mut partial, count == 0, secrets))?;
                    if count == 0 {
                        break;
                    }
                }
                Event::Typed(0x03) => {
                    child.kill();
                    return terminal.show("\n^C\n[exit 130]\n");
                }
                Event::Typed(byte) => terminal.keep(byte),
                Event::Nothing if Instant::now() >= deadline => break,
                Event::Nothing => {}
            }
        }
        match child.wait_until(deadline)? {
            Some(status) => terminal.show(&format!("[exit {}]\n", code(status))),
            None => terminal.show(&format!("stopped: no end after {COMMAND_PATIENCE:?}\n[exit 124]\n")),
        }
    }

    fn spawn(&self, arguments: &[String]) -> io::Result<(Child, PipeReader)> {
        let (reader, writer) = io::pipe()?;
        let child = std::process::Command::new(&self.program)
            .arg0("headgate")
            .arg("--root")
            .arg(&self.root)
            .args(arguments)
            // No pager, no editor, no colour, whatever init was given.
            .env_clear()
            .env("NO_COLOR", "1")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        Ok((child, reader))
    }
}

fn banner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    match host.trim() {
        // A box that starts has no name yet.
        "" | "(none)" => format!("\nHeadgate {version}\n\n"),
        host => format!("\nHeadgate {version} on {host}\n\n"),
    }
}

/// As a shell would say it.
fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// Takes the complete lines out of `partial`, at the `end` of the output all of it.
fn complete_lines(partial: &mut Vec<u8>, end: bool, secrets: bool) -> String {
    let complete = match partial.iter().rposition(|byte| *byte == b'\n') {
        Some(last) if !end => last + 1,
        None if !end && partial.len() <= PIECE_MAX => 0,
        _ => partial.len(),
    };
    let bytes: Vec<u8> = partial.drain(..complete).collect();
    let mut shown = String::new();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let line = if secrets { commands::without_secrets(line) } else { line.to_owned() };
        for (index, cell) in line.split('\t').enumerate() {
            if index > 0 {
                shown.push('\t');
            }
            crate::logging::escape(&mut shown, cell).expect("a String takes everything");
        }
        shown.push('\n');
    }
    shown
}

/// A command that must not outlive its console.
struct KillOnDrop(Child);

impl KillOnDrop {
    fn kill(&mut self) {
        // The child is not waited for yet, so the number of its group is still its own.
        if let Ok(None) = self.0.try_wait() {
            let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }

    fn wait_until(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                self.kill();
                return Ok(None);
            }
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What happened first.
enum Event {
    Output,
    Typed(u8),
    Nothing,
}

/// A terminal in raw mode; as it was before once dropped.
struct Terminal {
    file: std::fs::File,
    before: Termios,
    editor: Editor,
    ahead: std::collections::VecDeque<u8>,
}

impl Terminal {
    fn open(path: &Path) -> io::Result<Self> {
        // O_NONBLOCK: the open of a serial line without carrier would wait for it (termios(3), CLOCAL).
        let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(O_NOCTTY | O_NONBLOCK).open(path)?;
        let before = termios::tcgetattr(&file)?;
        let mut mode = before.clone();
        mode.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG | LocalFlags::IEXTEN);
        // A stray Ctrl-S must not freeze the console, nor a break signal anybody.
        mode.input_flags.remove(InputFlags::IXON | InputFlags::IXOFF | InputFlags::ICRNL | InputFlags::INLCR);
        mode.input_flags.remove(InputFlags::BRKINT | InputFlags::PARMRK | InputFlags::ISTRIP);
        mode.input_flags.insert(InputFlags::IGNBRK);
        mode.output_flags.insert(OutputFlags::OPOST | OutputFlags::ONLCR);
        mode.control_flags.insert(ControlFlags::CREAD | ControlFlags::CLOCAL);
        mode.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        mode.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        // Speed, bits and parity stay as boot loader and kernel left them: whoever is connected sees text already.
        termios::tcsetattr(&file, SetArg::TCSANOW, &mode)?;
        Ok(Self { file, before, editor: Editor::default(), ahead: std::collections::VecDeque::new() })
    }

    fn show(&mut self, text: &str) -> Result<(), HungUp> {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(HungUp),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut wait = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut wait, PollTimeout::NONE).map_err(io::Error::from)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads a line, showing it as it comes. What was typed during a command comes first.
    fn line(&mut self) -> Result<Typed, HungUp> {
        loop {
            let byte = match self.ahead.pop_front() {
                Some(byte) => byte,
                None => match self.wait(None, Duration::MAX)? {
                    Event::Typed(byte) => byte,
                    Event::Output | Event::Nothing => continue,
                },
            };
            match self.editor.take(byte) {
                Typed::Echo(echo) => self.show(&echo)?,
                typed => {
                    self.show(if typed == Typed::Cancel { "^C\n" } else { "\n" })?;
                    return Ok(typed);
                }
            }
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.ahead.len() < AHEAD_MAX {
            self.ahead.push_back(byte);
        }
    }

    /// Waits for a key, or for `output`, at most `patience`.
    fn wait(&mut self, output: Option<&PipeReader>, patience: Duration) -> Result<Event, HungUp> {
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::NONE);
        let mut wait = vec![PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        wait.extend(output.map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
        match poll(&mut wait, patience) {
            Ok(0) | Err(nix::Error::EINTR) => return Ok(Event::Nothing),
            Ok(_) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let ready = |index: usize| wait.get(index).is_some_and(|fd: &PollFd<'_>| fd.any().unwrap_or(true));
        let (typed, printed) = (ready(0), ready(1));
        if typed {
            let mut byte = [0];
            return match self.file.read(&mut byte) {
                Ok(0) => Err(HungUp),
                Ok(_) => Ok(Event::Typed(byte[0])),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    Ok(Event::Nothing)
                }
                Err(error) => Err(error.into()),
            };
        }
        Ok(if printed { Event::Output } else { Event::Nothing })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Of a terminal that hung up nothing is left to restore.
        let _ = termios::tcsetattr(&self.file, SetArg::TCSANOW, &self.before);
    }
}
