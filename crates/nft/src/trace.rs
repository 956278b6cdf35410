//! What the kernel tells about packets whose `nftrace` is set: each rule that matched, each verdict, chain by chain.
//!
//! [`Listener`] receives it. What it says about rules are handles, which [`Socket::handles`](crate::Socket::handles) knows; the
//! tables that set `nftrace` are made by [`Socket::own`](crate::Socket::own), so that they go with the program that asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use rustables::sys;

use crate::model::{Family, TableId};
use crate::socket::{OpenError, bound};
use crate::wire::{Attributes, Message, Messages, SUBSYSTEM};

/// One step of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The same for all steps of a packet; given again to others after it.
    pub packet: u32,
    /// Where.
    pub table: TableId,
    /// Where in it.
    pub chain: Arc<str>,
    /// What happened.
    pub step: Step,
    /// What the packet was like; the kernel says it with the first rule that matches below each base chain.
    pub headers: Option<Headers>,
    /// `meta mark`.
    pub mark: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A rule matched to its end.
    Rule {
        /// Which; [`Socket::handles`](crate::Socket::handles) knows it.
        handle: u64,
        /// What it said.
        ruling: Ruling,
    },
    /// A chain came to its end, and the packet went back to where it had jumped from.
    Return,
    /// A base chain came to its end.
    Policy(Ruling),
}

/// A verdict as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ruling {
    Accept,
    Drop,
    /// Somebody else has the packet now: it was forwarded on the spot, or answered.
    Stolen,
    /// A program has it.
    Queue,
    /// None: the next rule.
    Continue,
    Return,
    Goto(Arc<str>),
    Jump(Arc<str>),
    /// One that we have no word for.
    Other(i32),
}

/// What a packet was like at a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// `IPPROTO_*`; behind extension headers of IPv6 that of the first.
    pub protocol: u8,
    /// Source and destination, for protocols that have ports.
    pub ports: Option<(u16, u16)>,
    /// Index of the interface that it came in by.
    pub iif: Option<u32>,
    /// Index of the interface that it leaves by.
    pub oif: Option<u32>,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Steps of packets, oldest first; none when the time was up.
    Events(Vec<Event>),
    /// The kernel had more to tell than we took: some steps are missing.
    Lost,
}

/// A socket that hears about packets that are traced in its network namespace, whoever asked for it.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Listener {
    /// Opens it in the network namespace of the calling thread; what happens from now on is heard.
    ///
    /// # Errors
    /// [`OpenError::NoNetfilter`] when the kernel lacks it; `EPERM` without `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, OpenError> {
        const BUFFER_BYTES: usize = 4 << 20;
        let fd = bound(1 << (sys::NFNLGRP_NFTRACE - 1), BUFFER_BYTES)?;
        Ok(Self { fd, buffer: vec![0; 64 * 1024] })
    }

    /// Waits for the next steps, `patience` at most.
    ///
    /// # Errors
    /// From `poll` and `recv`.
    pub fn receive(&mut self, patience: Duration) -> io::Result<Received> {
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], patience) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Received::Events(Vec::new())),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(Received::Events(events(&self.buffer[..length]))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Events(Vec::new())),
            Err(Errno::ENOBUFS) => Ok(Received::Lost),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The steps in what a [`Listener`] received; what cannot be read is passed over.
pub fn events(bytes: &[u8]) -> Vec<Event> {
    let trace = SUBSYSTEM | sys::NFT_MSG_TRACE as u16;
    Messages(bytes).filter(|message| message.kind == trace).filter_map(|message| event(&message)).collect()
}

fn event(message: &Message<'_>) -> Option<Event> {
    let attributes = message.attributes();
    let family = match message.body.first()? {
        1 => Family::Inet,
        2 => Family::Ip,
        5 => Family::Netdev,
        10 => Family::Ip6,
        // Bridges and arp: not on the way of our packets.
        _ => return None,
    };
    let ruling = || attributes.nested(sys::NFTA_TRACE_VERDICT).and_then(ruling);
    let step = match attributes.number(sys::NFTA_TRACE_TYPE)? {
        sys::NFT_TRACETYPE_RULE => {
            Step::Rule { handle: attributes.long(sys::NFTA_TRACE_RULE_HANDLE)?, ruling: ruling()? }
        }
        sys::NFT_TRACETYPE_RETURN => Step::Return,
        sys::NFT_TRACETYPE_POLICY => Step::Policy(code(attributes.number(sys::NFTA_TRACE_POLICY)? as i32)),
        _ => return None,
    };
    Some(Event {
        packet: attributes.number(sys::NFTA_TRACE_ID)?,
        table: TableId { family, name: attributes.string(sys::NFTA_TRACE_TABLE)?.into() },
        chain: attributes.string(sys::NFTA_TRACE_CHAIN)?.into(),
        step,
        headers: headers(attributes),
        mark: attributes.number(sys::NFTA_TRACE_MARK).unwrap_or_default(),
    })
}

fn ruling(verdict: Attributes<'_>) -> Option<Ruling> {
    let chain = || verdict.string(sys::NFTA_VERDICT_CHAIN).map(Arc::from);
    match verdict.number(sys::NFTA_VERDICT_CODE)? as i32 {
        sys::NFT_GOTO => chain().map(Ruling::Goto),
        sys::NFT_JUMP => chain().map(Ruling::Jump),
        number => Some(code(number)),
    }
}

/// Verdicts without a chain (linux/netfilter.h, linux/netfilter/nf_tables.h). Those of the hooks have more than the verdict
/// in their upper bits.
fn code(number: i32) -> Ruling {
    match number {
        sys::NFT_CONTINUE => Ruling::Continue,
        sys::NFT_RETURN => Ruling::Return,
        0.. => match number & 0xff {
            0 => Ruling::Drop,
            1 => Ruling::Accept,
            2 => Ruling::Stolen,
            3 => Ruling::Queue,
            _ => Ruling::Other(number),
        },
        _ => Ruling::Other(number),
    }
}

fn headers(attributes: Attributes<'_>) -> Option<Headers> {
    let network = attributes.get(sys::NFTA_TRACE_NETWORK_HEADER)?;
    let transport = attributes.get(sys::NFTA_TRACE_TRANSPORT_HEADER).unwrap_or_default();
    let (source, destination, protocol) = match network.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(network.get(at..at + 4)?).ok()?).into());
            (address(12)?, address(16)?, *network.get(9)?)
        }
        6 => {
            let address =
                |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(network.get(at..at + 16)?).ok()?).into());
            (address(8)?, address(24)?, *network.get(6)?)
        }
        _ => return None,
    };
    // TCP, UDP, DCCP, SCTP, UDP-Lite.
    let ports = match (protocol, transport) {
        (6 | 17 | 33 | 132 | 136, &[a, b, c, d, ..]) => Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
        _ => None,
    };
    let (iif, oif) = (attributes.number(sys::NFTA_TRACE_IIF), attributes.number(sys::NFTA_TRACE_OIF));
    Some(Headers { source, destination, protocol, ports, iif, oif })
}

#[cfg(test)]
mod tests;
