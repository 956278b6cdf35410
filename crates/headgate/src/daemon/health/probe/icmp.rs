//! `icmp`: an echo request and its reply.
//!
//! A raw socket of its own for each probe: connected, so that the kernel hands it only what comes from this backend, and gone
//! with the probe, so that none waits for the packets of others.

use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Attempt, Passed, fault, socket};

/// Type of an echo request and of its reply: RFC 792, RFC 4443.
const ECHO4: (u8, u8) = (8, 0);
const ECHO6: (u8, u8) = (128, 129);
/// Type, code, checksum, identifier, sequence number.
const HEADER_BYTES: usize = 8;

/// Tells the probes of this process apart; the process is told by its payload.
static NEXT: AtomicU32 = AtomicU32::new(0);

pub(super) async fn ask(attempt: &Attempt) -> Passed {
    let what = format!("icmp echo to {}", attempt.address);
    let protocol = if attempt.address.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let socket = socket::open(attempt, Type::RAW, protocol)?;
    let connect = || -> io::Result<AsyncFd<Socket>> {
        socket::hear_errors(&socket, attempt.address)?;
        socket.connect(&SockAddr::from(std::net::SocketAddr::new(attempt.address, 0)))?;
        // SAFETY: `socket` owns a valid descriptor, and nothing closes or replaces it while the `AsyncFd` has it.
        Ok(unsafe { AsyncFd::register(socket) }?)
    };
    let socket = connect().map_err(|error| fault(&what, &error))?;
    let request = request(attempt.address, NEXT.fetch_add(1, Ordering::Relaxed));
    attempt.step(&what, socket.async_io(Interest::WRITABLE, |socket| socket.send(&request))).await?;
    let mut packet = [MaybeUninit::uninit(); 256];
    loop {
        let mut receive = |socket: &Socket| {
            let length = socket.recv(&mut packet)?;
            // SAFETY: recv(2) has written the first `length` bytes.
            let packet: Vec<u8> = packet[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
            Ok(is_reply(attempt.address, &packet, &request))
        };
        if attempt.step(&what, socket.async_io(Interest::READABLE, &mut receive)).await? {
            return Ok(());
        }
    }
}

/// An echo request: identifier and sequence number from `number`, and 16 bytes that say whose it is.
fn request(to: IpAddr, number: u32) -> Vec<u8> {
    let kind = if to.is_ipv4() { ECHO4.0 } else { ECHO6.0 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend_from_slice(b"headgate");
    packet.extend_from_slice(&std::process::id().to_be_bytes());
    packet.extend_from_slice(&number.to_be_bytes());
    if to.is_ipv4() {
        // That of ICMPv6 covers the addresses and is the kernel's work (RFC 3542 section 3.1).
        let checksum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&checksum);
    }
    packet
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether a packet, as a raw socket gives it, is the reply to a request: the same but for its type.
fn is_reply(from: IpAddr, packet: &[u8], request: &[u8]) -> bool {
    // IPv4 comes with its header (raw(7)), IPv6 without.
    let header = match (from, packet.first()) {
        (IpAddr::V4(_), Some(first)) => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    let kind = if from.is_ipv4() { ECHO4.1 } else { ECHO6.1 };
    let message = packet.get(header..).unwrap_or_default();
    message.len() >= HEADER_BYTES && message[..2] == [kind, 0] && message[4..] == request[4..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reply_to_this_very_request_is_one() {
        let [v4, v6]: [IpAddr; 2] = ["10.0.0.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        for (from, header) in [(v4, [&[0x46][..], &[0; 23]].concat()), (v6, Vec::new())] {
            let asked = request(from, 0x0102_0304);
            let mut answer = asked.clone();
            answer[0] = if from.is_ipv4() { 0 } else { 129 };
            let packet = |message: &[u8]| [&header, message].concat();
            assert!(is_reply(from, &packet(&answer), &asked));
            assert!(!is_reply(from, &packet(&asked), &asked), "our own request, on loopback");
            assert!(!is_reply(from, &packet(&answer), &request(from, 0x0102_0305)));
            for cut in 0..answer.len() {
                assert!(!is_reply(from, &packet(&answer[..cut]), &asked), "{cut}");
            }
        }
        assert!(!is_reply(v4, &[0x4f], &request(v4, 1)));
        assert!(!is_reply(v4, &[], &request(v4, 1)));
    }

    #[test]
    fn the_checksum_makes_the_sum_of_all_words_zero() {
        let packet = request("10.0.0.1".parse().unwrap(), 77);
        assert_eq!(checksum(&packet), 0);
        // RFC 1071 section 3, its example.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
