//! How long flows take to be counted, listed and ended, in a network namespace of its own.
//!
//! `cargo run --release -p headgate-host --example flows [COUNT]`, as root; `net.netfilter.nf_conntrack_max` of the
//! initial namespace is the most that there can be.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use headgate_host::conntrack::{Conntrack, Select};
use headgate_plan::names::MARK_TAG;
use support::{Namespace, nft};

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

const BACKENDS: u32 = 16;

fn main() {
    let count: u32 = std::env::args().nth(1).map_or(200_000, |count| count.parse().expect("how many flows"));
    Namespace::new().run(move || {
        nft(&format!(
            "add table ip t; add chain ip t c {{ type filter hook output priority 0; }}; \
             add rule ip t c udp dport >= 1024 ct mark set numgen inc mod {BACKENDS} offset {MARK_TAG}"
        ));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        for number in 0..count {
            let ip = Ipv4Addr::from_bits(0x7f01_0001 + number / 60_000);
            let port = u16::try_from(2_000 + number % 60_000).expect("less than 62,000");
            // Nobody listens: the refusals of earlier packets are reported here, and are none of this one.
            while socket.send_to(b"?", SocketAddr::from((ip, port))).is_err() {}
        }

        let mut conntrack = Conntrack::open().expect("a socket");
        let started = Instant::now();
        let counts = conntrack.counts().expect("a dump");
        println!(
            "{} flows of {} backends counted in {:?}",
            counts.values().sum::<u64>(),
            counts.len(),
            started.elapsed()
        );

        let started = Instant::now();
        let flows = conntrack.flows(Select::Ours, 1_000).expect("a dump");
        println!("{} of {} flows listed in {:?}", flows.flows.len(), flows.total, started.elapsed());

        let started = Instant::now();
        let flows = conntrack.flows(Select::Mark(MARK_TAG | 1), 1_000).expect("a dump");
        println!("{} of one backend's {} flows listed in {:?}", flows.flows.len(), flows.total, started.elapsed());

        let started = Instant::now();
        conntrack.delete(Select::Mark(MARK_TAG | 1), Some(17)).expect("they are there");
        println!("one backend's ended in {:?}", started.elapsed());
    });
}
