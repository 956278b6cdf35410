//! The lab: a client, the box and its backends as three network namespaces, with the paper's two networks between them.
//!
//! ```text
//!   client 172.16.1.10 ──── service 172.16.1.254  box  172.16.2.1 backend ──── 172.16.2.11, .12, .13
//!   2001:db8:1::10/64       2001:db8:1::fe              2001:db8:2::1          2001:db8:2::11, ::12, ::13
//! ```

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use headgate_image::netns::{Namespace, veth};
use tempfile::TempDir;

use crate::binaries;

/// The three namespaces and the files of the box.
#[derive(Debug)]
pub struct Lab {
    /// Where requests come from.
    pub client: Namespace,
    /// The load balancer.
    pub gate: Namespace,
    /// Where the backends are; their default route is the box.
    pub backends: Namespace,
    root: TempDir,
    environment: Vec<(&'static str, OsString)>,
    daemon: Option<Child>,
}

/// The backends' numbers: backend N is 172.16.2.N and 2001:db8:2::N.
pub const BACKENDS: [u8; 3] = [11, 12, 13];

impl Lab {
    /// Builds the three namespaces; nothing of Headgate runs yet.
    pub fn new(label: &str) -> Result<Self> {
        let client = Namespace::create(&format!("{label}-c"))?;
        let gate = Namespace::create(&format!("{label}-g"))?;
        let backends = Namespace::create(&format!("{label}-b"))?;
        veth((&client, "eth0"), (&gate, "service"))?;
        veth((&gate, "backend"), (&backends, "eth0"))?;
        for (space, device, addresses) in [
            (&client, "eth0", &["172.16.1.10/24", "2001:db8:1::10/64"][..]),
            (&gate, "service", &["172.16.1.254/24", "2001:db8:1::fe/64"]),
            (&gate, "backend", &["172.16.2.1/24", "2001:db8:2::1/64"]),
        ] {
            for address in addresses {
                space.ip(&["address", "add", address, "dev", device, "nodad"])?;
            }
        }
        for number in BACKENDS {
            for address in [format!("172.16.2.{number}/24"), format!("2001:db8:2::{number}/64")] {
                backends.ip(&["address", "add", &address, "dev", "eth0", "nodad"])?;
            }
        }
        for (space, via4, via6) in
            [(&client, "172.16.1.254", "2001:db8:1::fe"), (&backends, "172.16.2.1", "2001:db8:2::1")]
        {
            space.ip(&["route", "add", "default", "via", via4])?;
            space.ip(&["-6", "route", "add", "default", "via", via6])?;
        }
        let root = tempfile::Builder::new().prefix("headgate-lab-").tempdir()?;
        std::fs::create_dir_all(root.path().join("etc/headgate/conf.d"))?;
        Ok(Self { client, gate, backends, root, environment: Vec::new(), daemon: None })
    }

    /// The box's `--root`.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The daemon will have this in its environment.
    pub fn with_environment(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.environment.push((name, value.into()));
    }

    /// Replaces `/etc/headgate/headgate.toml` of the box.
    pub fn configure(&self, text: &str) -> Result<()> {
        let path = self.root().join("etc/headgate/headgate.toml");
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    fn program(&self, name: &str) -> Command {
        let mut command = self.gate.command(binaries::directory().join(name));
        command.arg("--root").arg(self.root());
        command
    }

    /// `headgated --root … ARGUMENTS`, to its end.
    pub fn headgated(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.program("headgated").args(arguments).output()?)
    }

    /// `headgate --root … ARGUMENTS`, to its end.
    pub fn headgate(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.program("headgate").args(arguments).output()?)
    }

    /// As [`Self::headgate`], but anything else than exit code 0 is an error with what it said.
    pub fn headgate_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.headgate(arguments)?;
        ensure!(output.status.success(), "headgate {arguments:?}: {}", said(&output));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies `text` with `headgated --once`; the daemon does not stay.
    pub fn once(&self, text: &str) -> Result<()> {
        self.configure(text)?;
        let output = self.headgated(&["--once"])?;
        ensure!(output.status.success(), "headgated --once: {}", said(&output));
        Ok(())
    }

    /// Starts the daemon and waits until it answers on its socket.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "the daemon runs already");
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = self.program("headgated");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.daemon = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        // Minutes, where instructions are translated on a machine that does other work too.
        let deadline = Instant::now() + Duration::from_secs(300);
        let socket = self.root().join("run/headgate/api.sock");
        loop {
            // 4: the daemon cannot be reached. Everything else is an answer. Asking takes the time of what is asked.
            let output = socket.exists().then(|| self.headgate(&["status"])).transpose()?;
            if output.as_ref().is_some_and(|output| output.status.code() != Some(4)) {
                return Ok(());
            }
            if let Some(status) = self.daemon.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                self.daemon = None;
                bail!("headgated ended with {status}:\n{}", std::fs::read_to_string(self.log())?);
            }
            let heard = || output.as_ref().map_or_else(|| "there is no socket".to_owned(), said);
            ensure!(Instant::now() < deadline, "headgated does not answer: {}", heard());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where the daemon's log goes.
    pub fn log(&self) -> PathBuf {
        self.root().join("headgated.log")
    }

    /// The daemon's process.
    pub fn process(&self) -> Result<nix::unistd::Pid> {
        let daemon = self.daemon.as_ref().context("no daemon runs")?;
        Ok(nix::unistd::Pid::from_raw(daemon.id().cast_signed()))
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        Ok(nix::sys::signal::kill(self.process()?, signal)?)
    }

    /// Waits for a daemon that ends by itself: how it did, or nothing when it has not within `patience`.
    pub fn ended(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let daemon = self.daemon.as_mut().context("no daemon runs")?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = daemon.try_wait()? {
                self.daemon = None;
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the daemon with SIGKILL, as a crash would.
    pub fn crash(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// Ends the daemon with SIGTERM and waits for it.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(nix::sys::signal::Signal::SIGTERM)?;
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        let status = daemon.wait()?;
        ensure!(status.success(), "headgated ended with {status}");
        Ok(())
    }

    /// What nft(8) lists in the box.
    pub fn nft(&self, arguments: &str) -> Result<String> {
        self.gate.run(&format!("nft {arguments}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.crash();
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.log())
        {
            eprintln!("--- headgated said:\n{log}---");
        }
    }
}

/// Backend `number`'s address and port.
pub fn backend(number: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([172, 16, 2, number]), port)
}

/// Backend `number`'s IPv6 address and port: the number is read as hexadecimal digits, as in 2001:db8:2::11.
pub fn backend6(number: u8, port: u16) -> SocketAddr {
    format!("[2001:db8:2::{number}]:{port}").parse().expect("a decimal number is hexadecimal digits too")
}

/// Both outputs of a program that ended, for messages.
pub fn said(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
