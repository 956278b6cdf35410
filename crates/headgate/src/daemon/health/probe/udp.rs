//! `udp`: a datagram and its answer.
//!
//! What is asked for decides what passes: with `expect-body` an answer that contains it, with `send` alone any answer. With
//! neither an empty datagram goes out, and silence passes: only an ICMP error (port or host unreachable) fails then.

use std::net::SocketAddr;

use tokio::time::timeout_at;

use super::sought::Sought;
use super::{Attempt, Passed, fault, socket};

pub(super) async fn ask(attempt: &Attempt, to: SocketAddr, send: Option<&str>, expect: Option<&str>) -> Passed {
    let socket = socket::datagrams(attempt, to)?;
    let what = format!("udp to {to}");
    attempt.step(&what, socket.send(send.unwrap_or_default().as_bytes())).await?;
    if send.is_none() && expect.is_none() {
        return match timeout_at(attempt.deadline, socket.recv(&mut [0; 1])).await {
            Ok(Err(error)) => Err(fault(&what, &error)),
            Ok(Ok(_)) | Err(_) => Ok(()),
        };
    }
    let what = match expect {
        Some(expect) => format!("udp answer of {to} with {expect:?}"),
        None => format!("udp answer of {to}"),
    };
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = attempt.step(&what, socket.recv(&mut answer)).await?;
        // Another datagram may still be the answer.
        if expect.is_none_or(|expect| Sought::new(expect).feed(&answer[..length])) {
            return Ok(());
        }
    }
}
