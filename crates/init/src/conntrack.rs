//! The size of the connection table, before anything uses it.
//!
//! `nf_nat` sizes its own hash table (`nf_nat_bysource`) by that of connection tracking, once, when it is loaded
//! (`nf_nat_init`, net/netfilter/nf_nat_core.c): buckets that `headgated` asks for later do not reach it, and with millions of
//! translated flows its chains would be long. So `nf_conntrack` is given its buckets when it is loaded.

use std::ffi::CString;
use std::path::Path;

/// The module.
pub const MODULE: &str = "nf_conntrack";
/// Per entry of the table, and what `headgated` decides by the same rule (`crates/plan/src/compile/hardware.rs`); `tests/guest/cards.rs`
/// compares them in a kernel.
const ENTRY_BYTES: u64 = 400;
const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const MEMINFO: &str = "/proc/meminfo";

/// Entries of a machine with so much memory: the largest power of two that fits into an eighth of it, 2^18 to 2^23.
#[must_use]
pub fn entries(memory_bytes: u64) -> u64 {
    1 << (memory_bytes / 8 / ENTRY_BYTES).checked_ilog2().unwrap_or(0).clamp(18, 23)
}

/// Half as many buckets.
#[must_use]
pub fn buckets(memory_bytes: u64) -> u64 {
    entries(memory_bytes) / 2
}

/// What the module is loaded with; nothing when the machine does not say how much memory it has.
pub(crate) fn parameters() -> CString {
    let size = memory().map(|bytes| format!("hashsize={}", buckets(bytes))).unwrap_or_default();
    CString::new(size).unwrap_or_default()
}

/// With buckets of our own the kernel allows eight entries for each (`nf_conntrack_init_start`), which is four times the
/// memory that they may take. Without effect where the limit cannot be written; `headgated` says so.
pub(crate) fn limit() {
    if let Some(bytes) = memory() {
        let _ = std::fs::write(LIMIT, entries(bytes).to_string());
    }
}

fn memory() -> Option<u64> {
    total(&std::fs::read_to_string(Path::new(MEMINFO)).ok()?)
}

/// `MemTotal`, bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_read_and_sizes_follow() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:        8052464 kB\n"), Some(8_052_464 * 1024));
        for strange in ["", "MemTotal:", "MemTotal: many kB", "MemTotal: 1 MB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(total(strange), None, "{strange:?}");
        }
        assert_eq!((entries(8 << 30), buckets(8 << 30)), (2_097_152, 1_048_576));
        assert_eq!((entries(0), entries(u64::MAX)), (1 << 18, 1 << 23));
    }
}
