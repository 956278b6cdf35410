//! Ours, `nft -f` and nftlb with the same farms: whole loads as processes, and single changes each in its own way.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use headgate_image::netns::Namespace;
use headgate_image::tool;
use headgate_tests::binaries;

use super::content::Content;
use super::process::{self, Run};
use crate::http;
use crate::peer::{self, Daemon};

/// Who loads and changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Headgate: `headgated --once`, and changes by the API of the daemon.
    Headgate,
    /// nft(8): a file, and single elements, a process each.
    Nft,
    /// nftlb: `nftlb -e`, and changes by the API of its daemon.
    Nftlb,
}

impl Engine {
    /// In the order of the tables.
    pub const ALL: [Self; 3] = [Self::Headgate, Self::Nft, Self::Nftlb];

    /// As the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Headgate => "headgate",
            Self::Nft => "nft -f",
            Self::Nftlb => "nftlb",
        }
    }

    /// nftlb gives each backend a mark of 12 bits, and loads what exceeds them in part, without an error.
    pub fn can(self, content: Content) -> bool {
        self != Self::Nftlb || content.size.farms * content.size.backends < 4096
    }

    fn file(self, directory: &Path) -> PathBuf {
        directory.join(match self {
            Self::Headgate => "etc/headgate/headgate.toml",
            Self::Nft => "rules.nft",
            Self::Nftlb => "nftlb.json",
        })
    }

    fn write(self, directory: &Path, content: Content) -> Result<()> {
        let text = match self {
            Self::Headgate => content.headgate(),
            Self::Nft => content.nft(),
            Self::Nftlb => serde_json::to_string(&content.nftlb())?,
        };
        let file = self.file(directory);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(std::fs::write(file, text)?)
    }

    /// From the files to the kernel, one process; `None` when it is not done within `patience`.
    pub fn load(
        self,
        space: &Namespace,
        directory: &Path,
        content: Content,
        patience: Duration,
    ) -> Result<Option<Run>> {
        self.write(directory, content)?;
        let file = self.file(directory);
        let mut command = match self {
            Self::Headgate => headgated(space, directory),
            Self::Nft => space.command("nft"),
            Self::Nftlb => peer::nftlb_once(space, &file),
        };
        match self {
            Self::Headgate => command.arg("--once"),
            Self::Nft => command.arg("-f").arg(file),
            Self::Nftlb => &mut command,
        };
        process::run(&mut command, patience)
    }

    /// Makes it ready for single changes to what was loaded.
    pub fn start(self, space: &Namespace, directory: &Path, patience: Duration) -> Result<Live> {
        let (space_name, socket) = (space.name().to_owned(), directory.join("run/headgate/api.sock"));
        let daemon = match self {
            Self::Headgate => Some(Daemon::start(headgated(space, directory).stderr(log(directory)?))?),
            Self::Nft => None,
            Self::Nftlb => {
                let mut command = peer::nftlb_daemon(space, &self.file(directory));
                Some(Daemon::start(command.stderr(log(directory)?))?)
            }
        };
        let mut live = Live { engine: self, daemon, socket };
        live.wait(space, patience).with_context(|| format!("{} in {space_name}", self.name()))?;
        Ok(live)
    }

    /// Leaves an empty namespace.
    pub fn clear(self, space: &Namespace, directory: &Path) -> Result<()> {
        if self == Self::Headgate {
            tool::run(headgated(space, directory).arg("--flush"))?;
        }
        space.run("nft flush ruleset").map(drop)
    }
}

fn log(directory: &Path) -> Result<std::fs::File> {
    Ok(std::fs::File::options().create(true).append(true).open(directory.join("log"))?)
}

fn headgated(space: &Namespace, directory: &Path) -> Command {
    let mut command = space.command(binaries::directory().join("headgated"));
    command.arg("--root").arg(directory);
    command
}

/// An engine that takes single changes.
#[derive(Debug)]
pub struct Live {
    engine: Engine,
    daemon: Option<Daemon>,
    socket: PathBuf,
}

/// A single change.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// The first backend of a farm takes no new flows.
    Leave(u32),
    /// It takes them again.
    Return(u32),
    /// A farm more.
    Add(u32),
    /// It goes away.
    Remove(u32),
}

impl Live {
    /// How long the change took, asked for and in the kernel.
    pub fn change(&self, space: &Namespace, content: Content, change: Change) -> Result<Duration> {
        let started = Instant::now();
        match self.engine {
            Engine::Headgate => self.headgate(content, change)?,
            Engine::Nft => nft(space, content, change)?,
            Engine::Nftlb => nftlb(space, content, change)?,
        }
        Ok(started.elapsed())
    }

    fn headgate(&self, content: Content, change: Change) -> Result<()> {
        let (method, path, body) = match change {
            Change::Leave(farm) => ("PATCH", format!("f{farm}/backends/b0"), "{\"state\": \"drain\"}".to_owned()),
            Change::Return(farm) => ("PATCH", format!("f{farm}/backends/b0"), "{\"state\": \"up\"}".to_owned()),
            Change::Add(farm) => {
                let (name, body) = content.headgate_farm(farm);
                ("PUT", name, body)
            }
            Change::Remove(farm) => ("DELETE", format!("f{farm}"), String::new()),
        };
        let stream = UnixStream::connect(&self.socket).context("headgated's socket")?;
        http::exchange(stream, method, &format!("/v1/farms/{path}"), &body)
    }

    /// Resident memory of the daemon, bytes.
    pub fn resident(&self) -> Result<Option<u64>> {
        let Some(daemon) = &self.daemon else { return Ok(None) };
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(Some(kibibytes * 1024))
    }

    fn wait(&mut self, space: &Namespace, patience: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let ready = match self.engine {
                Engine::Nft => return Ok(()),
                Engine::Headgate => UnixStream::connect(&self.socket)
                    .map_err(anyhow::Error::from)
                    .and_then(|stream| http::exchange(stream, "GET", "/v1/history", "")),
                Engine::Nftlb => peer::nftlb_answers(space),
            };
            match ready {
                Ok(()) => return Ok(()),
                Err(error) if started.elapsed() > patience => bail!("does not answer within {patience:?}: {error:#}"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

fn nft(space: &Namespace, content: Content, change: Change) -> Result<()> {
    let slot = |farm| content.nft_slots(farm).swap_remove(0);
    let text = match change {
        Change::Leave(farm) => format!("delete element ip flat slots {{ {} }}\n", slot(farm)),
        Change::Return(farm) => format!("add element ip flat slots {{ {} }}\n", slot(farm)),
        Change::Add(farm) => content.nft_farm("add", farm),
        Change::Remove(farm) => content.nft_farm("delete", farm),
    };
    peer::nft(space, &text)
}

fn nftlb(space: &Namespace, content: Content, change: Change) -> Result<()> {
    let state = |farm, state| {
        let body = format!(
            "{{\"farms\":[{{\"name\":\"f{farm}\",\"backends\":[{{\"name\":\"b0\",\"state\":\"{state}\"}}]}}]}}"
        );
        ("POST", "/farms".to_owned(), body)
    };
    let (method, path, body) = match change {
        Change::Leave(farm) => state(farm, "off"),
        Change::Return(farm) => state(farm, "up"),
        Change::Add(farm) => {
            let farms = peer::NftlbFarms { farms: vec![content.nftlb_farm(farm)] };
            ("POST", "/farms".to_owned(), serde_json::to_string(&farms)?)
        }
        Change::Remove(farm) => ("DELETE", format!("/farms/f{farm}"), String::new()),
    };
    peer::nftlb_api(space, method, &path, &body)
}
