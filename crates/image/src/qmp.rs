//! QEMU's control channel: one command at a time, as lines of JSON (docs/interop/qmp-spec.rst of QEMU).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// QEMU answers at once; a machine that does other work too needs most of it.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// The channel to one QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    has_greeted: bool,
}

impl Qmp {
    /// Our end of a pair of sockets; QEMU has the other one.
    pub(crate) fn new(socket: UnixStream) -> Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(socket), has_greeted: false })
    }

    /// The greeting, and the word that commands may follow.
    fn greet(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.has_greeted, true) {
            return Ok(());
        }
        ensure!(self.read()?.get("QMP").is_some(), "QEMU's control channel does not greet");
        self.answer(&json!({ "execute": "qmp_capabilities" })).map(drop)
    }

    /// Writes what the machine is, its disks apart, into a file, and leaves it stopped.
    pub(crate) fn save(&mut self, memory: &str) -> Result<()> {
        self.greet()?;
        self.answer(&json!({ "execute": "stop" }))?;
        self.answer(&json!({ "execute": "migrate", "arguments": { "uri": format!("file:{memory}") } }))?;
        self.wait("query-migrate", |status| match status {
            "completed" => Ok(true),
            "failed" | "cancelled" => bail!("QEMU could not write {memory}: {status}"),
            _ => Ok(false),
        })
    }

    /// Takes the carrier from a card.
    pub(crate) fn unplug(&mut self, card: &str) -> Result<()> {
        self.greet()?;
        self.answer(&json!({ "execute": "set_link", "arguments": { "name": card, "up": false } })).map(drop)
    }

    /// Has a machine go on that QEMU was told to read from a file.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        self.greet()?;
        self.wait("query-status", |status| Ok(status != "inmigrate"))?;
        self.answer(&json!({ "execute": "cont" })).map(drop)
    }

    /// Asks until `is_over` its status.
    fn wait(&mut self, question: &str, is_over: impl Fn(&str) -> Result<bool>) -> Result<()> {
        let begin = Instant::now();
        loop {
            let answer = self.answer(&json!({ "execute": question }))?;
            if is_over(answer.get("status").and_then(Value::as_str).unwrap_or_default())? {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "QEMU does not come to an end with {question}: {answer}");
            std::thread::sleep(PAUSE);
        }
    }

    /// What a command returns. Events in between are passed over.
    fn answer(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.reader.get_mut(), "{command}").context("QEMU's control channel is closed")?;
        loop {
            let mut message = self.read()?;
            if let Some(error) = message.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).context("QEMU's control channel says nothing")?;
        ensure!(length > 0, "QEMU ended");
        serde_json::from_str(&line).with_context(|| format!("QEMU's control channel says {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that says these lines, and hears whatever it is told.
    fn channel(lines: &str) -> (Qmp, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(lines.as_bytes()).unwrap();
        (Qmp::new(ours).unwrap(), theirs)
    }

    const GREETING: &str = "{\"QMP\": {}}\n{\"return\": {}}\n";

    #[test]
    fn events_are_passed_over_and_errors_told() {
        let (mut saved, _theirs) = channel(&format!(
            "{GREETING}{{\"event\": \"STOP\"}}\n{{\"return\": {{}}}}\n{{\"return\": {{}}}}\n{{\"return\": {{\"status\": \
             \"active\"}}}}\n{{\"return\": {{\"status\": \"completed\"}}}}\n"
        ));
        saved.save("/somewhere").unwrap();
        let (mut refused, _theirs) = channel(&format!("{GREETING}{{\"error\": {{\"desc\": \"no\"}}}}\n"));
        assert!(refused.save("/somewhere").unwrap_err().to_string().contains("\"desc\":\"no\""));
        let (mut full, _theirs) = channel(&format!(
            "{GREETING}{{\"return\": {{}}}}\n{{\"return\": {{}}}}\n{{\"return\": {{\"status\": \"failed\"}}}}\n"
        ));
        assert!(full.save("/somewhere").unwrap_err().to_string().contains("could not write /somewhere"));
    }

    #[test]
    fn a_channel_that_ends_or_says_something_else_is_an_error() {
        let (mut silent, theirs) = channel("");
        drop(theirs);
        assert!(silent.go_on().unwrap_err().to_string().contains("QEMU ended"));
        let (mut other, _theirs) = channel("HTTP/1.1 200 OK\n");
        assert!(other.go_on().unwrap_err().to_string().contains("control channel says"));
    }
}
