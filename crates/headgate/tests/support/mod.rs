//! A root directory and the two programs.

// Each test crate uses its part.
#![allow(dead_code, unreachable_pub)]

pub mod browser;
pub mod hostile;
pub mod namespace;
pub mod openmetrics;
pub mod requests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const HEADGATE: &str = env!("CARGO_BIN_EXE_headgate");
pub const HEADGATED: &str = env!("CARGO_BIN_EXE_headgated");

/// A farm on `172.16.1.1:80` with two backends.
pub const WEB: &str = "\
[farms.web]
listen = \"172.16.1.1:80\"
[farms.web.backends.b1]
address = \"172.16.2.11:8080\"
[farms.web.backends.b2]
address = \"172.16.2.12:8080\"
weight = 3
";

/// A directory for `--root`.
pub struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    pub fn new() -> Self {
        let tree = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        fs::create_dir_all(tree.path("etc/headgate/conf.d")).expect("mkdir");
        tree
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("mkdir");
        fs::write(path, text).expect("write");
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// `headgate --root … ARGUMENTS`.
    pub fn headgate(&self, arguments: &[&str]) -> Ran {
        Ran::of(Command::new(HEADGATE).arg("--root").arg(self.root()).args(arguments))
    }

    /// `headgated --root … ARGUMENTS`.
    pub fn headgated(&self, arguments: &[&str]) -> Ran {
        Ran::of(Command::new(HEADGATED).arg("--root").arg(self.root()).args(arguments))
    }
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("programs print UTF-8");
        Self { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}
