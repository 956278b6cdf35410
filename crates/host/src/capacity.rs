//! What the kernel says of what runs out: connection tracking, the backlogs of CPUs, the rings of NICs, room on the disk.
//!
//! Files and one small dump: less than a millisecond with a few NICs, however many flows there are.

use std::collections::BTreeMap;

use headgate_plan::capacity::{Conntrack, NicCounts, Softnet, Storage, Usage};

use crate::Root;
use crate::conntrack;

const STATE: &str = "var/lib/headgate";
const CONNTRACK: &str = "proc/sys/net/netfilter/nf_conntrack_";

/// Reads it. What the kernel does not say is left out: a connection table that nobody uses yet has no counters.
pub fn read(root: &Root) -> Usage {
    Usage {
        conntrack: conntrack(root),
        softnet: softnet(&root.read_machine("proc/net/softnet_stat").unwrap_or_default()),
        nics: nics(root),
        storage: storage(root),
    }
}

fn storage(root: &Root) -> Option<Storage> {
    let told = nix::sys::statvfs::statvfs(&root.file(STATE).ok()?).ok()?;
    let block = told.fragment_size();
    Some(Storage { free: told.blocks_free() * block, size: told.blocks() * block })
}

/// How full the connection table is, without its counters.
pub fn table(root: &Root) -> Conntrack {
    let number = |name: &str| number(root, &format!("{CONNTRACK}{name}"));
    Conntrack { entries: number("count"), limit: number("max"), buckets: number("buckets"), ..Conntrack::default() }
}

fn conntrack(root: &Root) -> Conntrack {
    // A recorded machine is files; nobody may ask this machine's kernel for it.
    let counted =
        root.is_real_machine().then(|| conntrack::Conntrack::open().and_then(|mut socket| socket.statistics()));
    let counted = counted.transpose().unwrap_or_else(|error| {
        tracing::debug!(%error, "connection tracking does not say what it dropped");
        None
    });
    let conntrack::Statistics { dropped, insert_failed, early_dropped, chain_too_long } = counted.unwrap_or_default();
    Conntrack { dropped, insert_failed, early_dropped, chain_too_long, ..table(root) }
}

/// A line of hexadecimal numbers for each CPU (`softnet_seq_show`, net/core/net-procfs.c): packets, dropped, `time_squeeze`, and
/// `flow_limit_count` as the eleventh.
fn softnet(text: &str) -> Softnet {
    let mut sum = Softnet::default();
    for line in text.lines() {
        let column = |place| {
            let field = line.split_whitespace().nth(place).and_then(|field| u64::from_str_radix(field, 16).ok());
            field.unwrap_or(0)
        };
        sum.dropped += column(1);
        sum.squeezed += column(2);
        sum.flow_limited += column(10);
    }
    sum
}

/// Interfaces with a device behind them: others have no ring, and count what these have counted once more.
fn nics(root: &Root) -> BTreeMap<String, NicCounts> {
    let names = root.list_machine("sys/class/net").unwrap_or_default();
    let has_device =
        |name: &String| root.machine(format!("sys/class/net/{name}/device")).is_ok_and(|path| path.exists());
    let counts = |name: String| {
        let count = |file: &str| number(root, &format!("sys/class/net/{name}/statistics/{file}")).unwrap_or(0);
        let missed = count("rx_missed_errors") + count("rx_fifo_errors") + count("rx_over_errors");
        let counts = NicCounts {
            missed,
            // Some drivers count what they missed among the errors too.
            receive_errors: count("rx_crc_errors") + count("rx_frame_errors") + count("rx_length_errors"),
            transmit_errors: count("tx_errors"),
        };
        (name, counts)
    };
    names.into_iter().filter(has_device).map(counts).collect()
}

fn number(root: &Root, path: &str) -> Option<u64> {
    root.read_machine(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SOFTNET: &str = "\
        00ec9a55 00000002 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000\n\
        00dd2f9d 0000000f 00000010 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000002 00000000 00000001\n";

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::with_machine(directory.path().join("files"), directory.path().join("machine"));
        for (path, text) in files {
            let path = root.machine(path).unwrap();
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (directory, root)
    }

    #[test]
    fn a_machine_that_says_nothing_has_no_figures() {
        assert_eq!(read(&machine(&[]).1), Usage::default());
        let garbage = machine(&[
            ("proc/net/softnet_stat", "zz\n\n1\nffffffffffffffffff 1 1\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "many"),
        ]);
        assert_eq!(read(&garbage.1).conntrack, Conntrack::default());
        assert_eq!(read(&garbage.1).softnet, Softnet { dropped: 1, squeezed: 1, flow_limited: 0 });
    }

    #[test]
    fn figures_are_those_of_the_files() {
        let (_directory, root) = machine(&[
            ("proc/net/softnet_stat", SOFTNET),
            ("proc/sys/net/netfilter/nf_conntrack_count", "7\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
            ("proc/sys/net/netfilter/nf_conntrack_buckets", "131072\n"),
            ("sys/class/net/eth0/device/vendor", "0x8086\n"),
            ("sys/class/net/eth0/statistics/rx_missed_errors", "3\n"),
            ("sys/class/net/eth0/statistics/rx_fifo_errors", "4\n"),
            ("sys/class/net/eth0/statistics/rx_errors", "99\n"),
            ("sys/class/net/eth0/statistics/rx_crc_errors", "5\n"),
            ("sys/class/net/eth0/statistics/tx_errors", "6\n"),
            ("sys/class/net/br0/statistics/rx_missed_errors", "1\n"),
        ]);
        let usage = read(&root);
        assert_eq!(usage.softnet, Softnet { dropped: 17, squeezed: 17, flow_limited: 3 });
        assert_eq!(table(&root), usage.conntrack);
        assert_eq!((usage.conntrack.entries, usage.conntrack.limit), (Some(7), Some(262_144)));
        assert_eq!(usage.conntrack.buckets, Some(131_072));
        let eth0 = NicCounts { missed: 7, receive_errors: 5, transmit_errors: 6 };
        assert_eq!(usage.nics, BTreeMap::from([("eth0".to_owned(), eth0)]), "br0 has no device");
    }
}
