//! `headgate top` on a terminal of 80 × 24: what is typed there reaches the kernel, and only with a yes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use headgate_tests::binaries;
use headgate_tests::lab::{Lab, said};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};

const WEB: &str = r#"
[farms.web]
mode = "snat"
listen = "172.16.1.1:80"
[farms.web.backends.b11]
address = "172.16.2.11:8080"
[farms.web.backends.b12]
address = "172.16.2.12:8080"
"#;
const DEADLINE: Duration = Duration::from_secs(30);

/// `headgate top` and the other end of its terminal.
struct Top {
    child: Child,
    terminal: File,
    screen: vt100::Parser,
}

impl Top {
    fn start(lab: &Lab) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut command = lab.gate.command(binaries::directory().join("headgate"));
        command.env("TERM", "vt102").arg("--root").arg(lab.root()).args(["top", "--every", "200ms", "--ascii"]);
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let (rows, columns) = (24.try_into().unwrap(), 80.try_into().unwrap());
        Self { child, terminal: File::from(pair.master), screen: vt100::Parser::new(rows, columns, 0) }
    }

    /// Waits until this is on the screen.
    fn expect(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.screen.screen().contents().contains(text) {
            assert!(begun.elapsed() < DEADLINE, "{text:?} is not in\n{}", self.screen.screen().contents());
            self.read();
        }
    }

    fn read(&mut self) {
        let mut wait = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wait, PollTimeout::from(100u8)).unwrap() == 0 {
            return;
        }
        let mut buffer = [0; 4096];
        match self.terminal.read(&mut buffer) {
            Ok(read) => self.screen.process(&buffer[..read]),
            // EIO: nobody is at the other end any more.
            Err(error) if error.kind() == ErrorKind::Interrupted || error.raw_os_error() == Some(5) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn press(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn state(lab: &Lab, backend: &str) -> String {
    let shown = lab.headgate_ok(&["farm", "show", "web", "--json"]).unwrap();
    let farm: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let backends = farm["backends"].as_array().unwrap();
    backends.iter().find(|one| one["name"] == backend).unwrap()["standing"].as_str().unwrap().to_owned()
}

#[test]
fn a_backend_is_drained_from_the_screen() {
    let mut lab = Lab::new("top").unwrap();
    lab.configure(WEB).unwrap();
    lab.start().unwrap();
    let mut top = Top::start(&lab);
    top.expect("172.16.1.1:80");
    top.press("\r");
    top.expect("172.16.2.12:8080");
    top.press("\x1b[Bd");
    top.expect("drain b12 of web? y/n");
    top.press("n");
    top.expect("d drain");
    assert_eq!(state(&lab, "b12"), "serving");
    top.press("h");
    top.expect("PACKETS/S");
    top.expect("cpu0");
    top.press("\x1b");
    top.expect("d drain");
    top.press("d");
    top.expect("drain b12 of web? y/n");
    top.press("y");
    top.expect("done, until the next boot");
    assert_eq!(state(&lab, "b12"), "draining");
    // A daemon that is gone is said; the keys go on.
    lab.crash().unwrap();
    top.expect("NO ANSWER");
    top.press("q");
    let begun = Instant::now();
    let ended = loop {
        if let Some(status) = top.child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < DEADLINE, "q does not end it");
        top.read();
    };
    assert!(ended.success(), "{ended}");
    top.read();
    let screen = top.screen.screen();
    assert!(!screen.alternate_screen() && !screen.hide_cursor(), "the usual screen is back, with its cursor");
}

#[test]
fn it_wants_a_terminal_and_a_daemon() {
    let lab = Lab::new("top-none").unwrap();
    let output = lab.headgate(&["top"]).unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("status --json"), "{}", said(&output));
    let mut top = Top::start(&lab);
    top.expect("does not answer");
    assert_eq!(top.child.wait().unwrap().code(), Some(4));
}
