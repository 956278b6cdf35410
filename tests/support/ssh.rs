//! OpenSSH's client in a namespace, with keys of its own; nothing of the machine's configuration counts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use headgate_image::netns::Namespace;
use headgate_image::tool::{run, tool};

/// Of a server it knows what it saw at the first visit: another host key later on is an error.
pub struct Ssh<'a> {
    client: &'a Namespace,
    directory: PathBuf,
}

impl<'a> Ssh<'a> {
    /// Keys and known hosts lie in `directory`.
    pub fn new(client: &'a Namespace, directory: &Path) -> Self {
        Self { client, directory: directory.to_owned() }
    }

    /// A key pair of this name; its public half, as in a `.pub` file.
    ///
    /// # Panics
    /// Without ssh-keygen(1).
    pub fn key(&self, name: &str) -> String {
        let path = self.directory.join(name);
        run(tool("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path)).expect("a key");
        std::fs::read_to_string(path.with_extension("pub")).expect("its public half").trim().to_owned()
    }

    /// As if no server had been visited.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(self.directory.join("known"));
    }

    /// `ssh -i KEY WORDS…`, which ends after two minutes at the latest.
    pub fn command(&self, key: &str, words: &[&str]) -> Command {
        let mut command = self.client.command("timeout");
        command.args(["120", "ssh", "-F", "none", "-i"]).arg(self.directory.join(key));
        let known = format!("UserKnownHostsFile={}", self.directory.join("known").display());
        for option in [
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "ConnectTimeout=60",
            "StrictHostKeyChecking=accept-new",
            &known,
        ] {
            command.args(["-o", option]);
        }
        command.args(words);
        command
    }

    /// The same without a terminal or a question, to its end; `input` is what it reads.
    ///
    /// # Panics
    /// When there is no ssh(1).
    pub fn run(&self, key: &str, words: &[&str], input: &[u8]) -> Output {
        let words = if words.contains(&"-o") { words.to_vec() } else { [&["-o", "BatchMode=yes"], words].concat() };
        let mut command = self.command(key, &words);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("ssh runs: `make deps` brings it");
        let mut pipe = child.stdin.take().expect("it is piped");
        std::thread::scope(|scope| {
            // Who is refused reads nothing.
            scope.spawn(move || drop(pipe.write_all(input)));
            child.wait_with_output().expect("ssh ends")
        })
    }

    /// Standard output of what succeeds, with the key `ours`.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn does(&self, words: &[&str]) -> String {
        self.does_with(words, &[])
    }

    /// The same of what reads `input`.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn does_with(&self, words: &[&str], input: &[u8]) -> String {
        let Output { status, stdout, stderr } = self.run("ours", words, input);
        assert!(status.success(), "{words:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Fails, says `told`, and runs nothing.
    ///
    /// # Panics
    /// When it does not fail so.
    #[track_caller]
    pub fn is_refused(&self, key: &str, words: &[&str], told: &str) {
        let Output { status, stdout, stderr } = self.run(key, words, &[]);
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert!(!status.success() && stderr.contains(told), "{words:?}: {status}\n{stderr}");
        assert!(!String::from_utf8_lossy(&stdout).contains("uid="), "{words:?} ran a program");
    }
}
