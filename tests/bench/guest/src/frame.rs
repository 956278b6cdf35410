//! The frames: 60 bytes of Ethernet with an IPv4 header and UDP, made beforehand.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The shortest frame that Ethernet has, without its checksum.
pub const LENGTH: usize = 60;

/// A hardware address.
pub type Mac = [u8; 6];

/// A whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame(pub [u8; LENGTH]);

const IP: usize = 14;
const UDP: usize = IP + 20;
const IPPROTO_UDP: u8 = 17;

impl Frame {
    /// An empty frame of UDP with all checksums right.
    #[must_use]
    pub fn udp(from: (Mac, SocketAddrV4), to: (Mac, SocketAddrV4)) -> Self {
        let mut frame = Self([0; LENGTH]);
        frame.put(0, &to.0);
        frame.put(6, &from.0);
        frame.put(12, &[0x08, 0x00]);
        frame.put(IP, &[0x45, 0]);
        frame.put(IP + 2, &((LENGTH - IP) as u16).to_be_bytes());
        // Don't fragment, a time to live of 64, UDP.
        frame.put(IP + 6, &[0x40, 0, 64, IPPROTO_UDP]);
        frame.put(IP + 12, &from.1.ip().octets());
        frame.put(IP + 16, &to.1.ip().octets());
        frame.put(UDP, &from.1.port().to_be_bytes());
        frame.put(UDP + 2, &to.1.port().to_be_bytes());
        frame.put(UDP + 4, &((LENGTH - UDP) as u16).to_be_bytes());
        frame.seal();
        frame
    }

    /// The frame that a peer would answer a received one with, between these hardware addresses. `None` when it is no UDP of
    /// ours.
    #[must_use]
    pub fn answer(received: &[u8], from: Mac, to: Mac) -> Option<Self> {
        if received.len() < LENGTH || received[12..14] != [0x08, 0x00] || received[IP + 9] != IPPROTO_UDP {
            return None;
        }
        let address = |at: usize| Ipv4Addr::new(received[at], received[at + 1], received[at + 2], received[at + 3]);
        let port = |at: usize| u16::from_be_bytes([received[at], received[at + 1]]);
        let source = SocketAddrV4::new(address(IP + 12), port(UDP));
        let target = SocketAddrV4::new(address(IP + 16), port(UDP + 2));
        Some(Self::udp((from, target), (to, source)))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn seal(&mut self) {
        let header = fold(sum(&self.0[IP..UDP]));
        self.put(IP + 10, &header.to_be_bytes());
        let pseudo = sum(&self.0[IP + 12..IP + 20]) + u32::from(IPPROTO_UDP) + (LENGTH - UDP) as u32;
        let udp = match fold(pseudo + sum(&self.0[UDP..])) {
            // Zero means that there is none (RFC 768).
            0 => 0xffff,
            sum => sum,
        };
        self.put(UDP + 6, &udp.to_be_bytes());
    }
}

/// The Internet checksum's sum (RFC 1071), not folded yet.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_right_and_an_answer_turns_everything_round() {
        let [a, b] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        let [client, server] = ["10.1.0.2:10000", "10.9.0.1:80"].map(|text| text.parse().unwrap());
        let frame = Frame::udp((a, client), (b, server));
        assert_eq!(fold(sum(&frame.0[IP..UDP])), 0);
        let pseudo = sum(&frame.0[IP + 12..IP + 20]) + 17 + 26;
        assert_eq!(fold(pseudo + sum(&frame.0[UDP..])), 0);
        assert_eq!(Frame::answer(&frame.0, b, a), Some(Frame::udp((b, server), (a, client))));
        assert_eq!(Frame::answer(&frame.0[..59], b, a), None);
    }
}
