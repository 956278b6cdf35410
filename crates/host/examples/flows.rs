//! How long flows take to be counted, listed and ended, in a network namespace of its own.
//!
//! `cargo run --release -p headgate-host --example flows [COUNT]`, as root; `net.netfilter.nf_conntrack_max` of the
//! initial namespace is the most that there can be. Half of the flows are TCP, established, and half are UDP.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use headgate_host::conntrack::{Conntrack, Select};
use headgate_plan::names::MARK_TAG;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use support::Namespace;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

const BACKENDS: u32 = 16;
/// Messages in one datagram.
const BATCH: u32 = 64;

fn main() {
    let count: u32 = std::env::args().nth(1).map_or(200_000, |count| count.parse().expect("how many flows"));
    Namespace::new().run(move || {
        timed("filled", || fill(count).expect("root, nf_conntrack_netlink and room"));
        let mut conntrack = Conntrack::open().expect("a socket");
        let one = Select::Mark(MARK_TAG | 1);
        let four = Select::covering((4..8).map(|id| MARK_TAG | id)).expect("four marks");
        for (what, select) in [("all", Select::Ours), ("four backends'", four), ("one backend's", one)] {
            let loads = timed(&format!("{what} counted"), || conntrack.loads(select).expect("a dump"));
            println!("    {} of {} backends", loads.values().map(|load| load.active).sum::<u64>(), loads.len());
        }
        timed("all listed, 1,000 shown", || conntrack.flows(Select::Ours, 1_000).expect("a dump"));
        timed("one backend's listed", || conntrack.flows(one, 1_000).expect("a dump"));
        let marks = [2, 3].map(|id| MARK_TAG | id);
        let ended = timed("two backends' ended, but TCP", || {
            conntrack.delete_lost(&marks.into(), &[].into()).expect("they are there")
        });
        println!("    {ended}");
        timed("one backend's UDP ended", || conntrack.delete(one, Some(17)).expect("they are there"));
        timed("one backend's ended", || conntrack.delete(one, None).expect("they are there"));
        println!("peak memory of this process: {} KiB", peak_kib());
    });
}

/// Does it, and prints how long it took and how much CPU of this thread.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (started, before) = (Instant::now(), cpu());
    let result = work();
    println!("{what}: {:.1?}, CPU {:.1?}", started.elapsed(), cpu() - before);
    result
}

/// CPU time of this thread. (getrusage(2) counts in ticks of 4 ms here.)
fn cpu() -> Duration {
    Duration::from(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("Linux has this clock"))
}

fn peak_kib() -> i64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    usage.expect("it cannot fail").max_rss()
}

/// Makes flows without packets: `IPCTNL_MSG_CT_NEW` with both tuples.
fn fill(count: u32) -> io::Result<()> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), SockProtocol::NetlinkNetFilter)?;
    let mut datagram = Vec::new();
    for number in 0..count {
        datagram.extend(new_flow(number));
        if number % BATCH == BATCH - 1 || number + 1 == count {
            // SAFETY: the pointer and the length are those of one buffer, which lives through the call.
            let sent = unsafe { libc::send(netlink.as_raw_fd(), datagram.as_ptr().cast(), datagram.len(), 0) };
            if sent < 0 {
                return Err(io::Error::last_os_error());
            }
            datagram.clear();
        }
    }
    Ok(())
}

fn new_flow(number: u32) -> Vec<u8> {
    let client = Ipv4Addr::from_bits(0x0a00_0000 + number / 50_000);
    let port = u16::try_from(10_000 + number % 50_000).expect("less than 60,000");
    let protocol = if number.is_multiple_of(2) { 6 } else { 17 };
    let (service, backend) = (Ipv4Addr::new(172, 16, 1, 1), Ipv4Addr::new(172, 16, 2, 11));
    let tuple = |kind, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)| {
        let ip = nest(1, &[attribute(1, &from.0.octets()), attribute(2, &to.0.octets())]);
        let ports = [attribute(2, &from.1.to_be_bytes()), attribute(3, &to.1.to_be_bytes())].concat();
        nest(kind, &[ip, nest(2, &[attribute(1, &[protocol]), ports])])
    };
    let mut attributes = vec![
        tuple(1, (client, port), (service, 80)),
        tuple(2, (backend, 8080), (client, port)),
        // IPS_SEEN_REPLY, IPS_ASSURED and IPS_CONFIRMED.
        attribute(3, &14u32.to_be_bytes()),
        attribute(7, &3600u32.to_be_bytes()),
        attribute(8, &(MARK_TAG | (number / 2 % BACKENDS)).to_be_bytes()),
    ];
    if protocol == 6 {
        // CTA_PROTOINFO_TCP, ESTABLISHED.
        attributes.push(nest(4, &[nest(1, &[attribute(1, &[3])])]));
    }
    let attributes = attributes.concat();
    let length = u32::try_from(20 + attributes.len()).expect("less than 300 bytes");
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_CREATE | libc::NLM_F_EXCL).expect("flags have 16 bits");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(0x0100u16.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([2, 0, 0, 0]);
    message.extend(attributes);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(4 + value.len()).expect("a short value").to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nest(kind: u16, inner: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 1 << 15, &inner.concat())
}
