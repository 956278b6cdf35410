//! A program that listens to an NFQUEUE and decides about all packets alike.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use headgate_image::netns::Namespace;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// `NFNL_SUBSYS_QUEUE << 8` with `NFQNL_MSG_PACKET`, `_VERDICT` and `_CONFIG` (include/uapi/linux/netfilter/nfnetlink_queue.h, as
/// all numbers below).
const PACKET: u16 = 0x0300;
const VERDICT: u16 = 0x0301;
const CONFIG: u16 = 0x0302;
const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_VERDICT_HDR: u16 = 2;
const NFQA_PAYLOAD: u16 = 10;
const NFQNL_CFG_CMD_BIND: u8 = 1;
const NFQNL_COPY_PACKET: u8 = 2;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// As much of a packet as its addresses and ports need, bytes.
const COPIED_BYTES: u8 = 64;

/// What becomes of every packet (`NF_DROP`, `NF_ACCEPT`).
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Verdict {
    Drop = 0,
    Accept = 1,
}

/// A flow by the protocol's number, and from where to where its packet went.
pub type Seen = (u8, SocketAddr, SocketAddr);

/// The program; it ends when dropped.
#[derive(Debug)]
pub struct Listener {
    seen: Arc<Mutex<BTreeMap<Seen, usize>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens to queue `number` of a namespace from now on.
    pub fn start(space: &Namespace, number: u16, verdict: Verdict) -> Result<Self> {
        let socket = space.within(|| open(number))?.with_context(|| format!("queue {number}"))?;
        let (seen, stop) = (Arc::<Mutex<BTreeMap<Seen, usize>>>::default(), Arc::new(AtomicBool::new(false)));
        let (packets, ends) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                for (flow, verdict) in decide(&socket, number, verdict) {
                    *packets.lock().unwrap_or_else(PoisonError::into_inner).entry(flow).or_default() += 1;
                    let _ = send(socket.as_raw_fd(), &verdict, MsgFlags::empty());
                }
            }
        });
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// The flows whose packets came since this was asked last, and how many of each.
    pub fn take(&self) -> BTreeMap<Seen, usize> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Binds the queue and asks for the beginning of each packet. The kernel answers inside `send`.
fn open(number: u16) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
    // `struct nfqnl_msg_config_cmd`, and `struct nfqnl_msg_config_params`, whose length is big-endian.
    let bind = message(CONFIG, number, NFQA_CFG_CMD, &[NFQNL_CFG_CMD_BIND, 0, 0, 0]);
    let params = message(CONFIG, number, NFQA_CFG_PARAMS, &[0, 0, 0, COPIED_BYTES, NFQNL_COPY_PACKET]);
    for request in [bind, params] {
        send(fd.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let (kind, code) = (u16_at(&answer, 4), answer[..length].get(16..20).and_then(|code| code.try_into().ok()));
        match (kind, code.map(i32::from_ne_bytes)) {
            (Some(ERROR), Some(0)) => {}
            (Some(ERROR), Some(code)) => return Err(Errno::from_raw(-code).into()),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(fd)
}

/// A message with one attribute; one that configures wants an acknowledgement (`NLM_F_ACK`).
fn message(kind: u16, number: u16, attribute: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    // `struct nfgenmsg`: any family, version 0, the queue.
    bytes.extend([0, 0]);
    bytes.extend(number.to_be_bytes());
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(attribute.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let flags: u16 = if kind == CONFIG { 1 | 4 } else { 1 };
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// Waits a moment for packets: the flow of each, and the message with the verdict about it.
fn decide(socket: &OwnedFd, number: u16, verdict: Verdict) -> Vec<(Seen, Vec<u8>)> {
    let mut buffer = [0; 8192];
    let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { return Vec::new() };
    let (mut rest, mut decided) = (&buffer[..length], Vec::new());
    while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
        let Some(message) = rest.get(..length).filter(|message| message.len() > 28) else { break };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The first attribute is the header of the packet, its id the first number of it.
        if u16_at(message, 4) == Some(PACKET)
            && let Some(flow) = payload(&message[20..]).and_then(flow)
        {
            let mut header = (verdict as u32).to_be_bytes().to_vec();
            header.extend(&message[24..28]);
            decided.push((flow, self::message(VERDICT, number, NFQA_VERDICT_HDR, &header)));
        }
    }
    decided
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes)
}

fn payload(mut attributes: &[u8]) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2)? == NFQA_PAYLOAD {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Of a packet without options or extension headers.
fn flow(packet: &[u8]) -> Option<Seen> {
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    let (protocol, from, to, ports) = match packet.first()? >> 4 {
        4 => (packet.get(9)?, v4(12)?, v4(16)?, 20),
        _ => (packet.get(6)?, v6(8)?, v6(24)?, 40),
    };
    let port = |at: usize| u16_at(packet, at).map(u16::from_be);
    Some((*protocol, SocketAddr::new(from, port(ports)?), SocketAddr::new(to, port(ports + 2)?)))
}
