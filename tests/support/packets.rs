//! Packets written by hand, from whatever address they say.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// `IPPROTO_RAW`: the header of the network layer is part of what is sent.
const RAW: i32 = 255;

/// A segment of TCP with a right checksum and nothing behind its header.
pub fn segment(from: IpAddr, to: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(1_u32.to_be_bytes());
    segment.extend(1_u32.to_be_bytes());
    segment.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let mut covered = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => covered.extend(address.octets()),
            IpAddr::V6(address) => covered.extend(address.octets()),
        }
    }
    covered.extend([0, 6, 0, segment.len() as u8]);
    covered.extend(&segment);
    let sum: u32 = covered.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The same with a header of the network layer before it.
pub fn packet(from: IpAddr, to: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let segment = segment(from, to, ports, flags);
    let mut packet = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel fills in the checksum.
            packet.extend([0x45, 0, 0, 20 + segment.len() as u8, 0, 0, 0, 0, 64, 6, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0, 0, segment.len() as u8, 6, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => panic!("both addresses are of one family"),
    }
    packet.extend(segment);
    packet
}

/// The same with the checksum that a header inside another packet needs.
pub fn inner_packet(from: IpAddr, to: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut packet = packet(from, to, ports, flags);
    if from.is_ipv4() {
        let length = packet.len() as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// A header of the network layer around whatever protocol.
pub fn around(from: IpAddr, to: IpAddr, protocol: u8, inside: &[u8]) -> Vec<u8> {
    let mut packet = packet(from, to, (0, 0), 0);
    packet.truncate(if from.is_ipv4() { 20 } else { 40 });
    match from {
        IpAddr::V4(_) => packet[9] = protocol,
        IpAddr::V6(_) => {
            packet[4..6].copy_from_slice(&(inside.len() as u16).to_be_bytes());
            packet[6] = protocol;
        }
    }
    packet.extend(inside);
    packet
}

/// A datagram of UDP over IPv4 with nothing in it and no checksum.
pub fn datagram(from: SocketAddrV4, to: SocketAddrV4) -> [u8; 28] {
    let mut datagram = [0; 28];
    // The kernel fills in the checksum of the header.
    datagram[..12].copy_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    datagram[12..16].copy_from_slice(&from.ip().octets());
    datagram[16..20].copy_from_slice(&to.ip().octets());
    datagram[20..22].copy_from_slice(&from.port().to_be_bytes());
    datagram[22..24].copy_from_slice(&to.port().to_be_bytes());
    datagram[25] = 8;
    datagram
}

/// A socket of the calling thread's namespace for what [`packet`] and [`datagram`] make.
pub fn raw_socket(to: IpAddr) -> io::Result<Socket> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))
}

/// Sends a packet, however full the queue of the device is.
pub fn send(socket: &Socket, packet: &[u8], to: IpAddr) -> io::Result<()> {
    loop {
        match socket.send_to(packet, &SocketAddr::new(to, 0).into()) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            sent => return sent.map(drop),
        }
    }
}
