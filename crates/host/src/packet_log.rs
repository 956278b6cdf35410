//! What rules tell of packets (`log group`), heard over `nfnetlink_log`.
//!
//! The kernel holds messages of a group back until there are a hundred, or a second has passed, and hands them on in one
//! piece. The group belongs to the socket: it goes with it, however the program ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};

/// `NFNL_SUBSYS_ULOG << 8`, with `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG`
/// (include/uapi/linux/netfilter/nfnetlink_log.h, as all numbers below).
const PACKET: u16 = 0x0400;
const CONFIG: u16 = 0x0401;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_MARK: u16 = 2;
/// `NLMSG_ERROR`, `NLM_F_REQUEST | NLM_F_ACK`.
const ERROR: u16 = 2;
const REQUEST: u16 = 1 | 4;
/// As much of a packet as its addresses and ports need, some extension headers of IPv6 included, bytes.
const COPIED_BYTES: u32 = 128;
/// A hundred messages of 128 bytes and their attributes are well below this; the kernel rounds up.
const RECEIVE_BYTES: usize = 128 * 1024;
/// Some seconds of all that rules of ours may tell, bytes.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// One packet that a rule told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What the rule said.
    pub prefix: String,
    /// From where the packet came; 0 where its protocol has no ports.
    pub source: (IpAddr, u16),
    /// To where.
    pub destination: (IpAddr, u16),
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// `meta mark`.
    pub mark: u32,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Packets, oldest first; none when nothing was there.
    Packets(Vec<Told>),
    /// The kernel had more to tell than was read: some packets are missing.
    Lost,
}

/// The group cannot be listened to.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PacketLogError {
    #[error("cannot open a netlink socket for the packet log")]
    Open(#[source] io::Error),
    #[error("another program listens to group {0} of the packet log")]
    Taken(u16),
    #[error("the kernel refused group {group} of the packet log")]
    Refused { group: u16, source: io::Error },
}

/// A socket that hears what rules log to one group, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct PacketLog {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl AsRawFd for PacketLog {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for PacketLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PacketLog {
    /// Listens to a group from now on. Reading does not wait.
    ///
    /// # Errors
    /// Any [`PacketLogError`].
    pub fn open(group: u16) -> Result<Self, PacketLogError> {
        let failed = |errno: Errno| PacketLogError::Open(errno.into());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter).map_err(failed)?;
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES))
            .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        let mut log = Self { fd, buffer: vec![0; RECEIVE_BYTES] };
        match log.configure(group) {
            Ok(()) => Ok(log),
            Err(Errno::EBUSY | Errno::EEXIST | Errno::EPERM) => Err(PacketLogError::Taken(group)),
            Err(errno) => Err(PacketLogError::Refused { group, source: errno.into() }),
        }
    }

    /// The kernel answers inside `send`.
    fn configure(&mut self, group: u16) -> Result<(), Errno> {
        let request = bind_request(group);
        send(self.fd.as_raw_fd(), &request, MsgFlags::empty())?;
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            for (kind, body) in messages(&self.buffer[..length]) {
                if kind == ERROR {
                    let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) };
                }
            }
        }
    }

    /// What has come since the last call; nothing is waited for.
    ///
    /// # Errors
    /// From `recv`.
    pub fn receive(&mut self) -> io::Result<Heard> {
        match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(Heard::Packets(told(&self.buffer[..length]))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Heard::Packets(Vec::new())),
            Err(Errno::ENOBUFS) => Ok(Heard::Lost),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Binds a group, and asks for the beginning of each packet.
fn bind_request(group: u16) -> Vec<u8> {
    let mut message = vec![0; 16];
    message[4..6].copy_from_slice(&CONFIG.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    // `struct nfgenmsg`: any family, version 0, the group.
    message.extend([0, 0]);
    message.extend(group.to_be_bytes());
    let mut put = |kind: u16, value: &[u8]| {
        message.extend((value.len() as u16 + 4).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value);
        message.resize(message.len().next_multiple_of(4), 0);
    };
    put(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]);
    let [a, b, c, d] = COPIED_BYTES.to_be_bytes();
    put(NFULA_CFG_MODE, &[a, b, c, d, NFULNL_COPY_PACKET, 0]);
    let length = u32::try_from(message.len()).expect("a request of some 50 bytes");
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// The packets in what a [`PacketLog`] received; what cannot be read is passed over.
pub fn told(bytes: &[u8]) -> Vec<Told> {
    let packets = messages(bytes).filter(|(kind, _)| *kind == PACKET);
    packets.filter_map(|(_, body)| packet(body.get(4..)?)).collect()
}

fn packet(attributes: &[u8]) -> Option<Told> {
    let (mut prefix, mut payload, mut mark) = (None, None, 0);
    for (kind, value) in Attributes(attributes) {
        match kind {
            NFULA_PREFIX => {
                let text = value.split(|byte| *byte == 0).next()?;
                prefix = Some(std::str::from_utf8(text).ok()?.to_owned());
            }
            NFULA_PAYLOAD => payload = Some(value),
            NFULA_MARK => mark = u32::from_be_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    let (source, destination, protocol, behind) = addresses(payload?)?;
    // TCP, UDP, DCCP, SCTP, UDP-Lite.
    let ports = match (protocol, behind) {
        (6 | 17 | 33 | 132 | 136, &[a, b, c, d, ..]) => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        _ => (0, 0),
    };
    Some(Told { prefix: prefix?, source: (source, ports.0), destination: (destination, ports.1), protocol, mark })
}

/// From, to, protocol, and what is behind the header of the network layer.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    match packet.first()? >> 4 {
        4 => {
            let at = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?).into());
            let header = usize::from(packet.first()? & 15) * 4;
            Some((at(12)?, at(16)?, *packet.get(9)?, packet.get(header..).unwrap_or_default()))
        }
        6 => {
            let at = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?).into());
            let (protocol, behind) = upper(*packet.get(6)?, packet.get(40..).unwrap_or_default());
            Some((at(8)?, at(24)?, protocol, behind))
        }
        _ => None,
    }
}

/// Past the extension headers of IPv6 that have a length of their own (RFC 8200): hop-by-hop, routing, destination options.
fn upper(mut protocol: u8, mut rest: &[u8]) -> (u8, &[u8]) {
    while let (0 | 43 | 60, &[next, length, ..]) = (protocol, rest) {
        protocol = next;
        rest = rest.get((usize::from(length) + 1) * 8..).unwrap_or_default();
    }
    (protocol, rest)
}

/// Type and body of each message; ends at the first that is cut off.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Kind and value of each attribute; ends at the first that is cut off.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const TYPE_MASK: u16 = 0x3fff;
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests;
