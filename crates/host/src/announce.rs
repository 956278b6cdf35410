//! Telling the neighbours that an address is here: gratuitous ARP and unsolicited neighbour advertisements.
//!
//! Without it, switches and hosts that knew the address elsewhere go on sending there until their entry expires. The
//! frames are made here, because the kernel sends them by itself only for some address changes
//! (`arp_notify`), and not when we need it.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::link::Interface;

/// No interface may hold up the rest longer than this; 20,000 frames take less than 0.1 s on a wire of 1 Gbit/s.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);

/// What became of the announcements on one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Kernel name of the interface.
    pub link: String,
    /// Addresses that were announced.
    pub sent: usize,
    /// Addresses that were not, and why.
    pub unsent: Option<(usize, Unannounced)>,
}

/// Why an address was not announced. The address itself is in place all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unannounced {
    /// Loopback, a tunnel, or IFF_NOARP: there is nobody to tell.
    #[error("the interface has no neighbours")]
    NoNeighbours,
    /// Not up or no carrier: nothing would leave.
    #[error("the interface is down")]
    Down,
    /// The transmit queue stayed full.
    #[error("the interface did not take the frames in time")]
    Late,
    /// The socket or a frame was refused.
    #[error("the kernel refused the frames: {0}")]
    Refused(Errno),
}

/// Announces `addresses` on an interface, each once: for IPv4 an ARP request and an ARP reply (some hosts heed only the
/// one, some only the other), for IPv6 a neighbour advertisement.
pub(crate) fn announce(interface: &Interface, addresses: &[IpAddr]) -> Announcement {
    let link = interface.name.clone();
    let (sent, reason) = match send_all(interface, addresses) {
        Ok(()) => (addresses.len(), None),
        Err((sent, reason)) => (sent, Some(reason)),
    };
    Announcement { link, sent, unsent: reason.map(|reason| (addresses.len() - sent, reason)) }
}

fn send_all(interface: &Interface, addresses: &[IpAddr]) -> Result<(), (usize, Unannounced)> {
    let mac = match interface.mac {
        Some(mac) if interface.arp && !interface.loopback => mac,
        _ => return Err((0, Unannounced::NoNeighbours)),
    };
    if !interface.up || !interface.carrier {
        return Err((0, Unannounced::Down));
    }
    let socket = open(interface.index).map_err(|errno| (0, Unannounced::Refused(errno)))?;
    let deadline = Instant::now() + DEADLINE;
    let send = |frame: &[u8]| send_frame(&socket, frame, deadline);
    for (sent, address) in addresses.iter().enumerate() {
        let outcome = match address {
            IpAddr::V4(ip) => {
                send(&arp(mac, *ip, Operation::Request)).and_then(|()| send(&arp(mac, *ip, Operation::Reply)))
            }
            IpAddr::V6(ip) => send(&neighbour_advertisement(mac, *ip)),
        };
        outcome.map_err(|reason| (sent, reason))?;
    }
    Ok(())
}

/// A socket that sends whole frames on one interface and, with protocol 0, receives none.
fn open(index: u32) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(200))?;
    // SAFETY: sockaddr_ll is plain integers, for which all zeroes is a value.
    let mut address: nix::libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = nix::libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    let length = mem::size_of_val(&address) as u32;
    // SAFETY: the pointer is to a whole sockaddr_ll of family AF_PACKET, and `length` is its size.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    bind(socket.as_raw_fd(), &address.expect("the family and length are those of a sockaddr_ll"))?;
    Ok(socket)
}

fn send_frame(socket: &OwnedFd, frame: &[u8], deadline: Instant) -> Result<(), Unannounced> {
    loop {
        match send(socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            // The interface's queue is full: a frame that was refused is not sent later by itself.
            Err(Errno::ENOBUFS) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Err(Errno::ENOBUFS | Errno::EAGAIN) => return Err(Unannounced::Late),
            Err(Errno::ENETDOWN) => return Err(Unannounced::Down),
            Err(errno) => return Err(Unannounced::Refused(errno)),
        }
    }
}

/// `ar$op` of RFC 826.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Request = 1,
    Reply = 2,
}

const BROADCAST: [u8; 6] = [0xff; 6];

/// An ARP announcement (RFC 5227, section 3): sender and target are both the address. 42 bytes; drivers pad.
fn arp(mac: [u8; 6], ip: Ipv4Addr, operation: Operation) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    // EtherType ARP; hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
    frame[12..21].copy_from_slice(&[0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4, 0]);
    frame[21] = operation as u8;
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&ip.octets());
    // The target hardware address is unused in a request; in a reply it is ours as well (RFC 5944, section 4.6).
    if operation == Operation::Reply {
        frame[32..38].copy_from_slice(&mac);
    }
    frame[38..42].copy_from_slice(&ip.octets());
    frame
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;

/// An unsolicited neighbour advertisement to all nodes (RFC 4861, sections 4.4 and 7.2.6), 86 bytes: router (a balancer
/// forwards, and neighbours would strike it from their list of routers otherwise) and override, with our link-layer address.
fn neighbour_advertisement(mac: [u8; 6], ip: Ipv6Addr) -> [u8; 86] {
    const MESSAGE: usize = 54;
    let mut frame = [0; 86];
    // The multicast MAC address is 33:33 and the last 4 bytes of the group (RFC 2464, section 7).
    frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&mac);
    // EtherType IPv6; version 6; payload of 32 bytes; ICMPv6; hop limit 255, without which receivers ignore it.
    frame[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame[22..38].copy_from_slice(&ip.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    frame[MESSAGE] = 136;
    frame[MESSAGE + 4] = 0b1010_0000;
    frame[MESSAGE + 8..MESSAGE + 24].copy_from_slice(&ip.octets());
    // Option "target link-layer address", 1 unit of 8 bytes.
    frame[MESSAGE + 24..MESSAGE + 26].copy_from_slice(&[2, 1]);
    frame[MESSAGE + 26..MESSAGE + 32].copy_from_slice(&mac);
    let sum = checksum(&ip.octets(), &ALL_NODES.octets(), &frame[MESSAGE..]);
    frame[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The checksum of an ICMPv6 message of an even length (RFC 4443, section 2.3), its own field still zero.
fn checksum(source: &[u8], destination: &[u8], message: &[u8]) -> u16 {
    let pairs = source.chunks_exact(2).chain(destination.chunks_exact(2)).chain(message.chunks_exact(2));
    let words: u32 = pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let mut sum = words + message.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests;
