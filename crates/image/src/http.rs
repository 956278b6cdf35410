//! One HTTP request at a time: enough to ask a farm which backend answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// What of a response matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The value of `X-Backend`.
    pub backend: Option<String>,
}

/// Asks for `/` over a new connection.
pub fn get(address: SocketAddr, timeout: Duration) -> Result<Response> {
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    // The backends' answers are a few hundred bytes.
    stream.take(64 * 1024).read_to_end(&mut answer).with_context(|| format!("the answer of {address}"))?;
    parse(&String::from_utf8_lossy(&answer)).with_context(|| format!("{address} does not speak HTTP"))
}

fn parse(answer: &str) -> Option<Response> {
    let head = answer.split_once("\r\n\r\n")?.0;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let backend = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-backend").then(|| value.trim().to_owned())
    });
    Some(Response { status, backend })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_backend_are_read() {
        let answer = "HTTP/1.1 200 OK\r\nServer: nginx\r\nx-backend: 172.16.2.11:8080\r\n\r\n";
        let expected = Response { status: 200, backend: Some("172.16.2.11:8080".to_owned()) };
        assert_eq!(parse(answer), Some(expected));
        assert_eq!(parse("HTTP/1.1 503 x\r\n\r\n"), Some(Response { status: 503, backend: None }));
        for garbage in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(parse(garbage), None, "{garbage:?}");
        }
    }
}
