//! The console at the end of a pseudo-terminal, with a `headgate` of our own making behind it.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::pty::openpty;
use nix::unistd::ttyname;
use tempfile::TempDir;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// Prints its arguments; some names make it misbehave.
const PROGRAM: &str = r#"#!/bin/sh
echo "ran: $*"
case "$*" in
*evil*) printf 'a\033[2J\007b\tc\n\302\233x\377y no newline'; exit 3;;
*hang*) sleep 1004 & echo $$ > "$0.pid"; wait;;
*flood*) i=0; while [ $i -lt 3000 ]; do echo "line $i of a long answer"; i=$((i+1)); done;;
*config*) env; echo 'secret = "abc"';;
*plan*) kill -SEGV $$;;
*status*) echo "headgated does not answer" >&2; exit 4;;
esac
"#;

struct Rig {
    master: File,
    seen: Arc<Mutex<String>>,
    /// Where the last [`Rig::expect`] ended.
    read_to: usize,
    console: Option<JoinHandle<()>>,
    directory: TempDir,
    /// The terminal lives as long as somebody has it open.
    slave: Option<OwnedFd>,
}

/// Waits for nothing.
fn console(program: impl Into<PathBuf>, root: &str) -> Console {
    let (program, root) = (program.into(), root.into());
    Console { program, root, absent_pause: Duration::ZERO, start_patience: Duration::ZERO }
}

/// Puts [`PROGRAM`] there.
fn program(directory: &TempDir) -> PathBuf {
    let program = directory.path().join("headgate");
    fs::write(&program, PROGRAM).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = program(&directory);
        Self::with(directory, program)
    }

    fn with(directory: TempDir, program: PathBuf) -> Self {
        let root = "/somewhere".into();
        Self::serving(
            directory,
            Console { program, root, absent_pause: Duration::ZERO, start_patience: Duration::ZERO },
        )
    }

    fn serving(directory: TempDir, console: Console) -> Self {
        let pty = openpty(None, None).unwrap();
        let tty = ttyname(&pty.slave).unwrap();
        let master = File::from(pty.master);
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, text) = (master.try_clone().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..count]));
            }
        });
        let console = std::thread::spawn(move || console.serve(&tty));
        Self { master, seen, read_to: 0, console: Some(console), directory, slave: Some(pty.slave) }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.master.write_all(bytes.as_ref()).unwrap();
    }

    /// What is shown up to and with `text`, from where the last call ended.
    fn expect(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let seen = self.seen.lock().unwrap().clone();
            if let Some(at) = seen[self.read_to..].find(text) {
                let from = self.read_to;
                self.read_to += at + text.len();
                return seen[from..self.read_to].to_owned();
            }
            assert!(start.elapsed() < DEADLINE, "{text:?} does not come; seen since: {:?}", &seen[self.read_to..]);
            sleep(Duration::from_millis(5));
        }
    }

    fn answer(&mut self, line: &str) -> String {
        self.send(format!("{line}\r"));
        let answer = self.expect(PROMPT);
        answer.replace("\r\n", "\n")
    }

    fn ends(&mut self) {
        let start = Instant::now();
        let console = self.console.take().unwrap();
        while !console.is_finished() {
            assert!(start.elapsed() < DEADLINE, "the console does not end");
            sleep(Duration::from_millis(5));
        }
        console.join().unwrap();
    }
}

#[test]
fn a_session_shows_the_status_and_answers() {
    let mut rig = Rig::new();
    let banner = rig.expect(PROMPT).replace("\r\n", "\n");
    assert!(banner.contains("\nHeadgate 0."), "{banner}");
    assert!(banner.contains("ran: --root /somewhere status\nheadgated does not answer\n[exit 4]\n"), "{banner}");
    assert_eq!(
        rig.answer("farm show web"),
        format!("farm show web\nran: --root /somewhere farm show web\n[exit 0]\n{PROMPT}")
    );
    assert!(rig.answer("2 --json").contains("ran: --root /somewhere farm list --json\n[exit 0]\n"));
    assert!(rig.answer("plan").contains("[exit 139]\n"), "SIGSEGV is 128 + 11");
    assert!(rig.answer("help").contains("farm show FARM"));
    assert_eq!(rig.answer(""), format!("\n{PROMPT}"));
    let config = rig.answer("config show");
    assert!(!config.contains("abc") && !config.contains("CARGO") && config.contains("NO_COLOR=1"), "{config}");
    rig.send("exit\r");
    rig.ends();
}

#[test]
fn a_box_that_starts_is_waited_for_until_a_key_is_pressed() {
    let rig = |patience| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("run/headgate")).unwrap();
        let program = program(&directory);
        let socket = root.join(SOCKET);
        let console = Console { root, start_patience: patience, ..console(program, "/") };
        (Rig::serving(directory, console), socket)
    };
    let (mut waits, socket) = rig(DEADLINE);
    assert!(!waits.expect("any key asks at once.").contains("ran:"));
    let _daemon = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(waits.expect(PROMPT).contains("status"));

    let (mut impatient, _) = rig(Duration::from_secs(3600));
    impatient.expect("any key asks at once.");
    assert!(impatient.answer("plan").contains("[exit 4]"), "first the status, of nobody");
    assert!(impatient.expect(PROMPT).contains("[exit 139]"), "then what was typed");

    let (mut short, _) = rig(Duration::from_millis(1));
    assert!(short.expect(PROMPT).contains("[exit 4]"), "it does not wait for ever");
}

#[test]
fn there_is_no_shell() {
    let mut rig = Rig::new();
    rig.expect(PROMPT);
    for line in [
        "sh",
        "/bin/sh -i",
        "!id",
        "status; id",
        "$(id)",
        "status --root /x",
        "check /etc/shadow",
        "apply",
        "\x1bc\x1b]0;x\x07id",
    ] {
        let answer = rig.answer(line);
        assert!(answer.contains("[exit 2]\n") && !answer.contains("ran:") && !answer.contains("uid="), "{answer}");
    }
}

#[test]
fn what_a_command_prints_moves_nothing() {
    let mut rig = Rig::new();
    rig.expect(PROMPT);
    let answer = rig.answer("explain evil");
    assert!(answer.contains("a\\u{1b}[2J\\u{7}b\tc\n\\u{9b}x\u{fffd}y no newline\n[exit 3]\n"), "{answer:?}");
}

#[test]
fn ctrl_c_stops_a_command_and_keeps_what_was_typed_ahead() {
    let mut rig = Rig::new();
    rig.expect(PROMPT);
    rig.send("explain hang\r");
    rig.expect("ran: ");
    let pid_file = rig.directory.path().join("headgate.pid");
    let start = Instant::now();
    while fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n')).eq(&false) {
        assert!(start.elapsed() < DEADLINE, "the command does not start");
        sleep(Duration::from_millis(5));
    }
    rig.send("explain next\r\x03");
    assert!(rig.expect(PROMPT).contains("^C\r\n[exit 130]"));
    assert!(rig.expect(PROMPT).contains("ran: --root /somewhere explain next\r\n[exit 0]"));
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    // Only the command itself was waited for: the rest of its group dies when it is next on a CPU.
    while living_in_group(pid) > 0 {
        assert!(start.elapsed() < DEADLINE, "some of its group live");
        sleep(Duration::from_millis(5));
    }
}

/// Zombies, which init has yet to take, do not count.
fn living_in_group(group: i32) -> usize {
    let stats =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    let member = |stat: &String| {
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or(Vec::new(), |(_, tail)| tail.split(' ').collect());
        fields.len() > 2 && fields[0] != "Z" && fields[2] == group.to_string()
    };
    stats.filter(member).count()
}

#[test]
fn a_hang_up_ends_console_and_command() {
    let mut rig = Rig::new();
    rig.expect(PROMPT);
    rig.send("explain hang\r");
    rig.expect("ran: ");
    // The reader thread holds the master too; it ends with the terminal.
    let pty = openpty(None, None).unwrap();
    let tty = ttyname(&pty.slave).unwrap();
    let console = console(rig.directory.path().join("headgate"), "/");
    let second = std::thread::spawn(move || console.serve(&tty));
    sleep(Duration::from_millis(200));
    drop(pty.master);
    let start = Instant::now();
    while !second.is_finished() {
        assert!(start.elapsed() < DEADLINE, "a hang-up is not noticed");
        sleep(Duration::from_millis(5));
    }
    assert!(start.elapsed() >= SESSION_LEAST.saturating_sub(Duration::from_millis(300)), "init must not spin");
    rig.send("\x03");
    rig.expect(PROMPT);
}

#[test]
fn ctrl_d_leaves_and_the_terminal_is_as_before() {
    let mut rig = Rig::new();
    let slave = rig.slave.take().unwrap();
    rig.expect(PROMPT);
    assert!(!termios::tcgetattr(&slave).unwrap().local_flags.contains(LocalFlags::ICANON));
    rig.send("\x04");
    rig.ends();
    let after = termios::tcgetattr(&slave).unwrap();
    assert!(after.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
}

#[test]
fn garbage_does_no_harm() {
    let mut rig = Rig::new();
    rig.expect(PROMPT);
    // A fixed linear congruential sequence stands for line noise; Ctrl-D would end the session, and rightly.
    let mut state = 12345u32;
    for _ in 0..64 {
        let noise: Vec<u8> = (0..256)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .filter(|byte| *byte != 4)
            .collect();
        rig.send(noise);
    }
    rig.send("\x03");
    rig.send(vec![b'x'; 100_000]);
    rig.send("\r");
    rig.expect("that line is too long.");
    rig.expect(PROMPT);
    assert!(rig.answer("explain web").contains("[exit 0]"));
}

#[test]
fn a_long_answer_arrives_whole() {
    let mut rig = Rig::new();
    rig.expect(PROMPT);
    let answer = rig.answer("explain flood");
    assert_eq!(answer.lines().filter(|line| line.ends_with("of a long answer")).count(), 3000);
}

#[test]
fn a_command_that_cannot_run_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("nothing");
    let mut rig = Rig::with(directory, program);
    assert!(rig.expect(PROMPT).contains("[exit 126]"));
}

#[test]
fn no_terminal_is_slept_for() {
    let console = Console { absent_pause: Duration::from_millis(300), ..console("/bin/true", "/") };
    for absent in ["/nonexistent/ttyS9", "/dev/null", "/"] {
        let start = Instant::now();
        console.serve(Path::new(absent));
        assert!(start.elapsed() >= Duration::from_millis(300), "{absent}");
    }
}

#[test]
fn lines_come_out_whole() {
    let mut partial = b"one\ntw".to_vec();
    assert_eq!(complete_lines(&mut partial, false, false), "one\n");
    partial.extend_from_slice(b"o\n");
    assert_eq!(complete_lines(&mut partial, false, false), "two\n");
    assert_eq!(complete_lines(&mut partial, true, false), "");
    partial = vec![b'x'; PIECE_MAX + 1];
    assert_eq!(complete_lines(&mut partial, false, false).len(), PIECE_MAX + 2);
    partial = b"secret = 1".to_vec();
    assert_eq!(complete_lines(&mut partial, true, true), "secret = (not shown here)\n");
}
