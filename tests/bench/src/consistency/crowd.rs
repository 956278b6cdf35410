//! Many clients, each with an address of its own, and backends that note whose packets they get.
//!
//! A client's flow is one UDP packet of its own: the balancer decides as for any other, and the backend sees the client's
//! address because the farms that are asked keep it.

use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headgate_image::netns::Namespace;
use headgate_tests::lab::Lab;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg, setsockopt, sockopt};

/// Where backends listen, and the farm.
pub const PORT: u16 = 9;
/// Clients are 100.64.0.0 and up (the shared space of RFC 6598); as many as the network has.
pub const CLIENTS_MAX: u32 = 1 << 22;
const FIRST: u32 = u32::from_be_bytes([100, 64, 0, 0]);
const NETWORK: &str = "100.64.0.0/10";
/// Flows of phase N come from this port and N.
const SOURCE_PORT: u16 = 20_000;
/// Bytes; more than all clients' packets need at once at a backend that gets half of them.
const QUEUE: usize = 64 << 20;

/// The address of a backend.
pub fn backend(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 2, 101 + number as u8)
}

/// A kernel that is short of time drops packets on veth; the flow stays as it was decided.
const ATTEMPTS: usize = 10;

/// Which backend got each client's packet.
pub type Placement = Vec<u8>;

/// The clients and their backends.
#[derive(Debug)]
pub struct Crowd {
    /// For each client the number of the backend and 1, or 0.
    seen: Arc<Vec<AtomicU8>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Gives the lab the clients' addresses, and starts the backends.
    pub fn gather(lab: &Lab, clients: u32, backends: usize) -> Result<Self> {
        ensure!((1..=CLIENTS_MAX).contains(&clients), "1 to {CLIENTS_MAX} clients");
        // Every address of the network is the client's own; the box knows the way back.
        lab.client.ip(&["route", "add", "local", NETWORK, "dev", "lo"])?;
        lab.gate.ip(&["route", "add", NETWORK, "via", "172.16.1.10"])?;
        let seen: Arc<Vec<AtomicU8>> = Arc::new((0..clients).map(|_| AtomicU8::new(0)).collect());
        let mut crowd = Self { seen, stop: Arc::default(), threads: Vec::new() };
        for number in 0..backends {
            let address = backend(number);
            lab.backends.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            // A neighbour that is not known yet keeps some hundred packets, and the others are lost.
            lab.gate.run(&format!("ping -q -c 1 -W 2 {address}"))?;
            let socket = lab.backends.within(|| UdpSocket::bind((address, PORT)))??;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)?;
            let (seen, stop) = (Arc::clone(&crowd.seen), Arc::clone(&crowd.stop));
            crowd.threads.push(std::thread::spawn(move || note(&socket, number, &seen, &stop)));
        }
        Ok(crowd)
    }

    /// One packet from each client, as part of its flow of this phase, again until all got through; who got it.
    pub fn send(&self, client: &Namespace, to: SocketAddr, phase: u16) -> Result<Placement> {
        for seen in self.seen.iter() {
            seen.store(0, Ordering::Relaxed);
        }
        for _ in 0..ATTEMPTS {
            let silent = self.silent();
            if silent.is_empty() {
                break;
            }
            client.within(|| send_all(&silent, to, SOURCE_PORT + phase))??;
            let deadline = Instant::now() + Duration::from_millis(300);
            while Instant::now() < deadline && !self.silent().is_empty() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let lost = self.silent().len();
        ensure!(lost == 0, "{lost} of {} clients do not get through to {to}", self.seen.len());
        Ok(self.seen.iter().map(|seen| seen.load(Ordering::Relaxed) - 1).collect())
    }

    /// Those of whom no backend has heard.
    fn silent(&self) -> Vec<u32> {
        let heard = |client: &u32| self.seen[*client as usize].load(Ordering::Relaxed) > 0;
        (0..self.seen.len() as u32).filter(|client| !heard(client)).collect()
    }

    /// One packet from each client, wherever it goes.
    pub fn send_unseen(&self, client: &Namespace, to: SocketAddr) -> Result<()> {
        let everybody: Vec<u32> = (0..self.seen.len() as u32).collect();
        client.within(|| send_all(&everybody, to, SOURCE_PORT))?
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn note(socket: &UdpSocket, number: usize, seen: &[AtomicU8], stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((_, from)) => {
                if let IpAddr::V4(address) = from.ip()
                    && let Some(seen) = seen.get(address.to_bits().wrapping_sub(FIRST) as usize)
                {
                    seen.store(number as u8 + 1, Ordering::Relaxed);
                }
            }
            // A wait with a timeout is interrupted by any signal, a handled one too.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => panic!("backend {number} cannot receive: {error}"),
        }
    }
}

fn send_all(clients: &[u32], to: SocketAddr, port: u16) -> Result<()> {
    let SocketAddr::V4(to) = to else { anyhow::bail!("{to} is no IPv4 address") };
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    let to = SockaddrIn::from(to);
    for client in clients {
        // ip(7): the source address of this packet, which is local by the route.
        let source = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: (FIRST + client).to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let message = [ControlMessage::Ipv4PacketInfo(&source)];
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(b"who")], &message, MsgFlags::empty(), Some(&to))
            .with_context(|| format!("client {client}"))?;
    }
    Ok(())
}
