//! Small UDP packets in one direction, as fast as one thread can send them.
//!
//! On veth a packet is carried to its end on the processor that sends it, within the system call. What arrives is counted
//! and dropped at the first hook of the backends' namespace, so that the time is that of the way and not of a socket's
//! queue.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headgate_image::netns::Namespace;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

use super::{Outcome, Way};

/// The discard service.
pub const PORT: u16 = 9;
/// With headers 60 bytes, the smallest Ethernet frame.
const PAYLOAD: [u8; 18] = [0; 18];
/// Flows, each from a socket of its own.
const FLOWS: usize = 64;
/// Packets in one system call.
pub const BATCH: usize = 64;

/// Prepares a backends' namespace: what comes to [`PORT`] by `device` is counted and dropped.
pub fn sink(backends: &Namespace, device: &str) -> Result<()> {
    let rules = format!(
        "table netdev sink {{ chain count {{ type filter hook ingress device \"{device}\" priority 0; policy accept; \
         udp dport {PORT} counter drop; }}; }}"
    );
    let output = backends.command("nft").arg(rules).output().context("cannot start nft")?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// How many packets the sink took since it is there.
fn sunk(backends: &Namespace) -> Result<u64> {
    let text = backends.run("nft list chain netdev sink count")?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().and_then(|word| word.parse().ok()).with_context(|| format!("no counter in {text}"))
}

/// Sends for `slice`, as fast as it can; `done` are the packets that arrived, `failed` those that did not.
pub fn run(way: &Way<'_>, slice: Duration) -> Result<Outcome> {
    run_at(way, slice, Duration::ZERO)
}

/// The same with a batch of [`BATCH`] packets each `interval` at most.
pub fn run_at(way: &Way<'_>, slice: Duration, interval: Duration) -> Result<Outcome> {
    let before = sunk(way.backends)?;
    let to = way.with_port(PORT);
    let (sent, elapsed) = way.client.within(|| -> Result<_> {
        let sockets = (0..FLOWS)
            .map(|flow| {
                let socket = UdpSocket::bind(if to[0].is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(to[flow % to.len()])?;
                Ok(socket)
            })
            .collect::<Result<Vec<_>>>()?;
        send(&sockets, slice, interval)
    })??;
    let done = sunk(way.backends)? - before;
    ensure!(done > 0, "none of {sent} packets to {to:?} arrived");
    Ok(Outcome { done, failed: sent.saturating_sub(done), elapsed })
}

fn send(sockets: &[UdpSocket], slice: Duration, interval: Duration) -> Result<(u64, Duration)> {
    let messages = [[IoSlice::new(&PAYLOAD)]; BATCH];
    // The sockets are connected.
    let addresses = [None::<SockaddrStorage>; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let started = Instant::now();
    let (mut sent, mut batches) = (0, 0);
    while started.elapsed() < slice {
        for socket in sockets {
            let results = sendmmsg(socket.as_raw_fd(), &mut headers, &messages, addresses, [], MsgFlags::empty());
            sent += results.context("sendmmsg")?.count() as u64;
            batches += 1;
            std::thread::sleep((interval * batches).saturating_sub(started.elapsed()));
        }
    }
    Ok((sent, started.elapsed()))
}
