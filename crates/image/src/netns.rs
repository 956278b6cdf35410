//! Network namespaces for trying things out: named, with veth pairs and taps, gone when dropped.
//!
//! `ip netns exec` enters the network namespace *and* a new mount namespace with a fresh `/sys`: a network namespace alone
//! still shows the host's `/sys/class/net`, and a test would tune the host.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// A network namespace of this process; its name is `hg-PID-LABEL`.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates the namespace with `lo` up. Namespaces that a killed run left behind (their PID is gone) are removed first.
    pub fn create(label: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root: run this as root");
        sweep()?;
        let name = format!("hg-{}-{label}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in this namespace, with a fresh `/sys`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command line (split at spaces, no shell) to its end; its standard output, or an error with its standard error.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        finish(line, self.command(program).args(words).output())
    }

    /// Runs `ip` with these arguments in the namespace, without the cost of a mount namespace.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        ip(&[&["-n", self.name.as_str()], arguments].concat())
    }

    /// Opens a tap device in this namespace and brings it up. The descriptor may be handed to QEMU, which stays outside.
    pub fn tap(&self, device: &str) -> Result<OwnedFd> {
        tap_in(&self.name, device)
    }

    /// Runs `action` in a thread that has entered the network namespace (its `/sys` is still the caller's).
    pub fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        within(&self.name, action)
    }

    /// The processes in this namespace.
    pub fn pids(&self) -> Result<Vec<i32>> {
        pids(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Opens a tap device in a namespace that exists already, and brings it up.
pub fn tap_in(space: &str, device: &str) -> Result<OwnedFd> {
    ensure!(!device.is_empty() && device.len() < nix::libc::IFNAMSIZ, "{device:?} is no interface name");
    let fd = within(space, || open_tap(device))?.with_context(|| format!("tap {device} in {space}"))?;
    ip(&["-n", space, "link", "set", device, "up"])?;
    Ok(fd)
}

fn within<T: Send>(space: &str, action: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(PathBuf::from("/run/netns").join(space)).with_context(|| format!("namespace {space}"))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok::<T, nix::Error>(action())
        });
        match thread.join() {
            Ok(result) => result.with_context(|| format!("entering namespace {space}")),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Connects two namespaces with a veth pair; both ends are up.
pub fn veth(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<()> {
    let ((left, left_device), (right, right_device)) = (left, right);
    left.ip(&["link", "add", left_device, "type", "veth", "peer", "name", right_device, "netns", right.name()])?;
    left.ip(&["link", "set", left_device, "up"])?;
    right.ip(&["link", "set", right_device, "up"])?;
    Ok(())
}

/// `struct ifreq` as TUNSETIFF reads it (`include/uapi/linux/if.h`).
#[repr(C)]
struct TunRequest {
    name: [u8; nix::libc::IFNAMSIZ],
    flags: i16,
    padding: [u8; 22],
}

nix::ioctl_write_ptr_bad!(
    /// Gives a tun descriptor its device (`Documentation/networking/tuntap.rst`).
    tunsetiff,
    nix::libc::TUNSETIFF,
    TunRequest
);

fn open_tap(device: &str) -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = TunRequest { name: [0; nix::libc::IFNAMSIZ], flags: 0, padding: [0; 22] };
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // VNET_HDR: QEMU negotiates checksum and segmentation offload over it, as a NIC would offer.
    request.flags = (nix::libc::IFF_TAP | nix::libc::IFF_NO_PI | nix::libc::IFF_VNET_HDR) as i16;
    // SAFETY: the descriptor is open and `request` is a whole ifreq that lives over the call.
    unsafe { tunsetiff(file.as_raw_fd(), &raw const request) }?;
    Ok(file.into())
}

fn ip(arguments: &[&str]) -> Result<String> {
    let line = format!("ip {}", arguments.join(" "));
    finish(&line, Command::new("ip").args(arguments).stdin(Stdio::null()).output())
}

fn finish(line: &str, output: io::Result<Output>) -> Result<String> {
    let output = output.with_context(|| format!("cannot start `{line}` (is iproute2 installed?)"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn pids(name: &str) -> Result<Vec<i32>> {
    let list = ip(&["netns", "pids", name])?;
    list.split_whitespace().map(|pid| pid.parse().with_context(|| format!("{pid:?} is no process id"))).collect()
}

/// Ends what still runs in a namespace and deletes it. Best effort: this is for clean-up paths.
fn remove(name: &str) {
    for pid in pids(name).unwrap_or_default() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let _ = ip(&["netns", "delete", name]);
}

/// Removes the namespaces of processes that no longer exist.
fn sweep() -> Result<()> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let owner = name.strip_prefix("hg-").and_then(|rest| rest.split('-').next());
        if let Some(pid) = owner.and_then(|pid| pid.parse::<u32>().ok())
            && !PathBuf::from(format!("/proc/{pid}")).exists()
        {
            remove(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_namespaces_reach_each_other_and_are_gone_afterwards() {
        let left = Namespace::create("left").unwrap();
        let right = Namespace::create("right").unwrap();
        veth((&left, "a0"), (&right, "b0")).unwrap();
        left.ip(&["address", "add", "10.9.0.1/24", "dev", "a0"]).unwrap();
        right.ip(&["address", "add", "10.9.0.2/24", "dev", "b0"]).unwrap();
        left.run("ping -c 1 -W 2 10.9.0.2").unwrap();
        assert!(left.run("ls /sys/class/net").unwrap().contains("a0"), "ip netns exec must show the namespace's /sys");
        let name = left.name().to_owned();
        drop(left);
        assert!(!PathBuf::from("/run/netns").join(name).exists());
    }

    #[test]
    fn a_tap_lives_as_long_as_its_descriptor() {
        let space = Namespace::create("tap").unwrap();
        let fd = space.tap("tap0").unwrap();
        assert!(space.run("ip -br link show tap0").unwrap().contains("tap0"));
        drop(fd);
        assert!(space.run("ip -br link show tap0").is_err());
    }

    #[test]
    fn a_failing_command_says_what_it_said() {
        let space = Namespace::create("fail").unwrap();
        let error = space.run("ip link show nowhere").unwrap_err().to_string();
        assert!(error.contains("nowhere"), "{error}");
    }
}
