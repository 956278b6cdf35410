//! `tcp`: a connection; optionally something that is sent, and something that must come back.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sought::Sought;
use super::{Attempt, Fault, Passed, socket};

pub(super) async fn ask(attempt: &Attempt, to: SocketAddr, send: Option<&str>, expect: Option<&str>) -> Passed {
    let mut stream = socket::connect(attempt, to).await?;
    if let Some(send) = send {
        attempt.step(&format!("tcp send to {to}"), stream.write_all(send.as_bytes())).await?;
    }
    let Some(expect) = expect else { return Ok(()) };
    let mut sought = Sought::new(expect);
    let mut piece = [0; 4096];
    loop {
        let read = attempt.step(&format!("tcp answer of {to} without {expect:?}"), stream.read(&mut piece)).await?;
        if sought.feed(&piece[..read]) {
            return Ok(());
        }
        if read == 0 || sought.is_exhausted() {
            return Err(Fault::Theirs(format!("tcp answer of {to}: it does not contain {expect:?}")));
        }
    }
}
