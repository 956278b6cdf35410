//! The least of HTTP that two APIs need: one request, one answer of success.

use std::io::{Read, Write};

use anyhow::{Result, ensure};

/// Sends a request and waits for the whole answer, which must be one of success.
pub fn exchange(stream: impl Read + Write, method: &str, path: &str, body: &str) -> Result<()> {
    send(stream, "", (method, path, body))
}

/// The same to an API that wants a key; the request is method, path and body.
pub fn exchange_with_key(stream: impl Read + Write, key: &str, request: (&str, &str, &str)) -> Result<()> {
    send(stream, &format!("Key: {key}\r\n"), request)
}

fn send(mut stream: impl Read + Write, headers: &str, (method, path, body): (&str, &str, &str)) -> Result<()> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n");
    // In one piece: nftlb reads once and takes what it got for all.
    stream.write_all((head + body).as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 65536]);
    loop {
        let length = stream.read(&mut buffer)?;
        answer.extend_from_slice(&buffer[..length]);
        if length == 0 || complete(&answer) {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer);
    ensure!(text.starts_with("HTTP/1.1 2"), "{method} {path}: {text}");
    Ok(())
}

/// Whether an answer with a length is all there; one without ends with its connection.
fn complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("content-length")));
    length.and_then(|(_, length)| length.trim().parse().ok()).is_some_and(|length: usize| body.len() >= length)
}
