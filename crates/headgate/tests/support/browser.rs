//! Chromium without a screen, driven by its own protocol over two pipes.

use std::collections::VecDeque;
use std::io::{BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::namespace::Namespace;

const PROGRAM: &str = "chromium-headless-shell";
/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A browser with one page; it ends when dropped.
pub struct Browser {
    child: Child,
    to: BufWriter<ChildStdin>,
    from: Receiver<Value>,
    session: String,
    number: u64,
    /// What the page said that it should not have: errors, and what its policy forbade.
    pub complaints: Vec<String>,
    waiting: VecDeque<Value>,
}

impl Browser {
    /// In a namespace; `profile` is a directory of its own. Certificates that sign themselves are taken.
    pub fn start(ns: &Namespace, profile: &std::path::Path) -> Self {
        // The protocol is spoken on descriptors 3 and 4. Root has no sandbox.
        let script = format!("exec {PROGRAM} \"$@\" 3<&0 4>&1 </dev/null >&2");
        let mut command = ns.command("sh");
        command.args(["-c", &script, "sh", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]);
        command.args([
            "--ignore-certificate-errors",
            "--no-first-run",
            "--force-color-profile=srgb",
            "--hide-scrollbars",
        ]);
        command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        let log = std::fs::File::create(profile.with_extension("log")).expect("a log");
        command.env("HOME", profile).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("`make deps` brings the browser");
        let to = BufWriter::new(child.stdin.take().expect("it is a pipe"));
        let from = messages(child.stdout.take().expect("it is a pipe"));
        let (complaints, waiting) = (Vec::new(), VecDeque::new());
        let mut browser = Self { child, to, from, session: String::new(), number: 0, complaints, waiting };
        let targets = browser.call("Target.getTargets", json!({}));
        let page = targets["targetInfos"].as_array().expect("a list").iter().find(|target| target["type"] == "page");
        let id = page.expect("about:blank is open")["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": id, "flatten": true}));
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Has the browser do something; what it answers.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(message.to_string().as_bytes()).and_then(|()| self.to.write_all(b"\0")).expect("it reads");
        self.to.flush().expect("it reads");
        loop {
            let message = self.from.recv_timeout(DEADLINE).unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == json!(self.number) {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.take(message);
        }
    }

    fn take(&mut self, message: Value) {
        let params = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.complaints.push(params["exceptionDetails"].to_string()),
            "Log.entryAdded" => {
                let entry = &params["entry"];
                // An answer that is not 2xx is told by the network; the page shows it itself.
                if entry["level"] == "error" && entry["source"] != "network" {
                    self.complaints.push(entry["text"].to_string());
                }
            }
            "Page.loadEventFired" => self.waiting.push_back(message),
            _ => {}
        }
    }

    /// Opens an address, and waits until it is loaded.
    #[track_caller]
    pub fn open(&mut self, address: &str) {
        self.waiting.clear();
        // The daemon may still be adding addresses, and the browser breaks off what it loads when it sees that.
        let begin = Instant::now();
        loop {
            let went = self.call("Page.navigate", json!({"url": address}));
            if went["errorText"].is_null() {
                break;
            }
            let again = went["errorText"] == "net::ERR_NETWORK_CHANGED" && begin.elapsed() < DEADLINE;
            assert!(again, "{address}: {went}");
        }
        self.wait_for("document.readyState === 'complete'");
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        let answer = self.call(
            "Runtime.evaluate",
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true}),
        );
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        let begin = Instant::now();
        while self.value(expression) != json!(true) {
            if begin.elapsed() > DEADLINE {
                let text = self.value("document.body.innerText");
                panic!("never: {expression}\n{}\n{:?}", text.as_str().unwrap_or_default(), self.complaints);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a text is to be seen.
    #[track_caller]
    pub fn wait_for_text(&mut self, text: &str) {
        self.wait_for(&format!("document.body.innerText.includes({})", json!(text)));
    }

    /// Presses a key, as it is named on the keyboard.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            " " => (32, " "),
            other => panic!("no key {other}"),
        };
        let event = |kind| json!({"type": kind, "key": key, "code": if key == " " { "Space" } else { key }, "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", event(if text.is_empty() { "rawKeyDown" } else { "keyDown" }));
        self.call("Input.dispatchKeyEvent", event("keyUp"));
    }

    /// Types a text where the focus is.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Everything that a screen reader is told: role and name, in order, without what is ignored.
    pub fn told(&mut self) -> Vec<(String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        let shown = nodes.iter().filter(|node| node["ignored"] != json!(true));
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        shown.map(|node| (text(&node["role"]), text(&node["name"]))).collect()
    }

    /// What the page looks like, as a PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let whole = json!({"format": "png", "captureBeyondViewport": true});
        let shot = self.call("Page.captureScreenshot", whole);
        BASE64_STANDARD.decode(shot["data"].as_str().unwrap_or_default()).expect("it is Base64")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Messages end with a NUL.
fn messages(stream: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        for byte in BufReader::new(stream).bytes().map_while(Result::ok) {
            if byte != 0 {
                bytes.push(byte);
                continue;
            }
            let Ok(message) = serde_json::from_slice(&bytes) else { return };
            bytes.clear();
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}
