//! `headgate trace` beside the packets that it tells of.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use crate::binaries;
use crate::lab::Lab;

/// `headgate trace` that has begun.
#[derive(Debug)]
pub struct Following(Child, BufReader<std::process::ChildStderr>);

impl Following {
    /// Begins to follow the packets of the farm `web`.
    pub fn begin(lab: &Lab, arguments: &[&str]) -> Self {
        let mut command = lab.gate.command(binaries::directory().join("headgate"));
        command.arg("--root").arg(lab.root()).args(["trace", "web"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.starts_with("following packets"), "{line}");
        Self(child, said)
    }

    /// All that it prints until it ends by itself.
    pub fn end(mut self) -> Vec<String> {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let mut said = String::new();
        self.1.read_to_string(&mut said).unwrap();
        assert!(self.0.wait().unwrap().success(), "{said}");
        text.lines().map(str::to_owned).collect()
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Without the ports that differ from run to run.
pub fn stable(line: &str) -> String {
    let words = line.split(' ').map(|word| match word.rsplit_once(':') {
        Some((address, port)) if port.parse::<u16>().is_ok_and(|port| port >= 1024 && port != 8080) => {
            format!("{address}:PORT")
        }
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}
