//! What an init does: file systems, modules, entropy, and the end.

use std::fs::File;

use anyhow::{Context, Result};
use headgate_init::modules::{Index, Loader};
use nix::libc::c_int;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use crate::plan::Report;

/// The set of modules that is loaded at the start, in the index.
pub const MODULES: &str = "bench";

/// As much as the kernel's pool takes, bytes.
const ENTROPY: usize = 512;

/// `struct rand_pool_info` (`include/uapi/linux/random.h`).
#[repr(C)]
struct Entropy {
    bits: c_int,
    size: c_int,
    bytes: [u8; ENTROPY],
}

nix::ioctl_write_ptr_bad!(
    /// Adds entropy to the pool. The kernel's headers declare the argument as `int[2]`, from which the number is made.
    add_entropy,
    nix::request_code_write!(b'R', 0x03, size_of::<[c_int; 2]>()),
    Entropy
);
nix::ioctl_none!(
    /// Makes the generator take from the pool at once (random(4)).
    reseed,
    b'R',
    0x07
);

/// Mounts, loads modules and seeds the kernel's random numbers.
pub fn start() -> Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")] {
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {target}"))?;
    }
    let index = Index::read()?;
    let loader = Loader::new(&index);
    for module in index.set(MODULES) {
        loader.load(module)?;
    }
    seed().context("cannot seed the kernel's random numbers")?;
    // Flows never meet in a bucket more than they must: what is compared is code, not the filling of a table.
    std::fs::write("/proc/sys/net/netfilter/nf_conntrack_max", "1000000")?;
    std::fs::write("/proc/sys/net/netfilter/nf_conntrack_buckets", "65536")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    Report::Up { kernel }.print();
    Ok(())
}

/// A guest without entropy never becomes ready, and then each random number is extracted from the pool anew: 11,000
/// instructions, and every new flow needs one.
fn seed() -> Result<()> {
    let mut entropy = Entropy { bits: 8 * ENTROPY as c_int, size: ENTROPY as c_int, bytes: [0; ENTROPY] };
    for (number, byte) in entropy.bytes.iter_mut().enumerate() {
        *byte = (number * 37) as u8;
    }
    let file = File::options().write(true).open("/dev/urandom")?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: the descriptor is open, and `entropy` is a whole rand_pool_info that lives over the call.
    unsafe { add_entropy(fd, &raw const entropy) }?;
    // SAFETY: the descriptor is open; the call has no argument.
    unsafe { reseed(fd) }?;
    Ok(())
}

/// Prints the kernel's functions.
pub fn symbols() -> Result<()> {
    for line in std::fs::read_to_string("/proc/kallsyms")?.lines() {
        let mut words = line.split_whitespace();
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
        if matches!(kind, "t" | "T" | "w" | "W")
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            Report::Symbol { address, name: name.to_owned() }.print();
        }
    }
    Ok(())
}

/// Ends the guest, and QEMU with it.
pub fn stop() {
    let _ = reboot(RebootMode::RB_POWER_OFF);
}
