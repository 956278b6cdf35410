//! `headgate-init boot`: everything between BusyBox init and `headgated`.
//!
//! Three things run side by side, because each mostly waits for the kernel: drivers of the hardware, netfilter, and the
//! disk (data partition and ESP). `headgated` starts when all are done, so it never sees half a configuration; on the
//! machines that were measured the disk is ready long before the network cards are.

use std::path::Path;
use std::process::ExitCode;

use headgate_update::{disk, milestones};
use nix::mount::MsFlags;

use crate::console::Console;
use crate::initramfs::{mount_on, mount_proc_and_sys, report, warn_of_rescue, with_cause};
use crate::media::{self, Medium};
use crate::modules::{Index, Loader};
use crate::{data, grow, modalias, reset, stick, watchdog};

const SYS: &str = "/sys";
const SUPERVISOR: &str = "/usr/sbin/headgated";
/// Drivers bring buses, buses bring devices: USB network cards need three rounds.
const ROUNDS: usize = 4;

/// Runs all steps. A failed step is on the console and costs only itself: a box that is up with less can be repaired.
pub fn run() -> ExitCode {
    // A kernel that finds its root by itself has mounted /dev (CONFIG_DEVTMPFS_MOUNT) and nothing else.
    let direct = !Path::new("/proc/self").exists();
    let early = if direct { mount_proc_and_sys().err().map(|error| with_cause(&error)) } else { None };
    let hidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mounts = [
        ("tmpfs", "/run", hidden),
        ("tmpfs", "/tmp", hidden),
        ("cgroup2", "/sys/fs/cgroup", hidden | MsFlags::MS_NOEXEC),
        ("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC),
    ];
    // There before anything is mounted on it: devtmpfs has no such directory of its own.
    let _ = std::fs::create_dir_all("/dev/pts");
    let mounts =
        mounts.iter().filter_map(|(kind, target, flags)| mount_on(Path::new(kind), target, kind, *flags).err());
    let failed: Vec<String> = early.into_iter().chain(mounts.map(|error| with_cause(&error))).collect();
    let console = Console::open();
    if direct {
        say_where_from(&console);
    }
    console.say("init");
    failed.iter().for_each(|line| console.warn(line));

    let index = Index::read().unwrap_or_else(|error| {
        console.warn(with_cause(&error));
        Index::default()
    });
    std::thread::spawn(|| read_ahead(Path::new(SUPERVISOR)));
    let loader = Loader::new(&index);
    std::thread::scope(|scope| {
        scope.spawn(|| load_hardware(&index, &loader, &console));
        scope.spawn(|| load_set("netfilter", &index, &loader, &console));
        scope.spawn(|| prepare_disk(&index, &loader, &console));
        report(&console, raise_loopback());
    });
    media::collect(&console);
    console.say("ready");
    report(&console, console.keep(Path::new(milestones::FILE)));
    ExitCode::SUCCESS
}

/// Reads a program that is about to be started, so that its pages are unpacked (and verified) while everything here waits for the
/// kernel. Nobody waits for it: what is not read when this program ends is read when it is needed.
fn read_ahead(program: &Path) {
    let _ = std::fs::File::open(program).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
}

/// What the initramfs says where there is one.
fn say_where_from(console: &Console) {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    warn_of_rescue(&line, console);
    let slot = disk::parameter(&line, "headgate.slot").unwrap_or("unnamed");
    match disk::device_of(Path::new(SYS), Path::new("/")) {
        Some(device) => {
            let name = device.file_name().unwrap_or_default().display().to_string();
            console.say(format_args!("slot {slot} mounted from /dev/{name}, verified"));
        }
        None => console.warn(format_args!("slot {slot} is on no device that can be found")),
    }
}

fn load_set(set: &str, index: &Index, loader: &Loader<'_>, console: &Console) {
    let modules: Vec<&str> = index.set(set).collect();
    for module in &modules {
        report(console, loader.load(module));
    }
    console.say(format_args!("{set}: {} modules", modules.len()));
}

fn load_hardware(index: &Index, loader: &Loader<'_>, console: &Console) {
    let mut loaded: Vec<&str> = Vec::new();
    for _ in 0..ROUNDS {
        let present = modalias::present(Path::new(SYS));
        let new: Vec<&str> =
            index.wanted("hardware", &present).into_iter().filter(|module| !loaded.contains(module)).collect();
        if new.is_empty() {
            break;
        }
        for module in new {
            report(console, loader.load(module));
            loaded.push(module);
        }
    }
    console.say(format_args!("hardware: {}", loaded.join(" ")));
    watchdog::arm(Path::new(watchdog::DEVICE), console);
}

fn prepare_disk(index: &Index, loader: &Loader<'_>, console: &Console) {
    let sys = Path::new(SYS);
    let home = disk::disk_of(sys, Path::new("/"));
    let partition = |name| disk::partition(sys, name, home.as_deref());
    for module in index.set("data") {
        report(console, loader.load(module));
    }
    let data = partition("data");
    if let Some(data) = &data {
        reset::carry_out(data, console);
        match grow::partition(sys, data) {
            Ok(Some(grown)) => console.say(format_args!("data grows to {} MiB", grown.size >> 20)),
            Ok(None) => {}
            Err(error) => console.warn(with_cause(&error)),
        }
    }
    data::prepare(data.as_ref(), console);
    // What data says about trust is known now.
    reset::look_at_menu(console);
    for module in index.set("esp") {
        report(console, loader.load(module));
    }
    match partition("esp") {
        Some(esp) => report(console, media::copy_from_partition(Medium::Esp, &esp.device, console)),
        None => console.warn("this disk has no partition named esp"),
    }
    stick::look(index, loader, console);
}

nix::ioctl_write_ptr_bad!(
    /// Sets an interface's flags (netdevice(7)).
    siocsifflags,
    nix::libc::SIOCSIFFLAGS,
    nix::libc::ifreq
);

/// Brings `lo` up: the kernel gives it its addresses then. Everything else of the network is `headgated`'s.
fn raise_loopback() -> nix::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut name = [0; nix::libc::IFNAMSIZ];
    name[..2].copy_from_slice(&[b'l'.cast_signed(), b'o'.cast_signed()]);
    let flags = (nix::libc::IFF_UP | nix::libc::IFF_RUNNING) as nix::libc::c_short;
    let request =
        nix::libc::ifreq { ifr_name: name, ifr_ifru: nix::libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: the socket is open and `request` is a whole ifreq that lives over the call.
    unsafe { siocsifflags(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}
