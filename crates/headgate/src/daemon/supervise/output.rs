//! What a service writes to stdout and stderr, line by line into the log.
//!
//! Neither a flood nor a line without end may cost more than a little: lines are cut, counted and thinned out, and the pipe is emptied at
//! a bounded pace. Beyond that pace the pipe fills and the service waits in write(2), rather than the data plane's supervisor in its log.

use std::time::Duration;

use headgate_config::types::ServiceName;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

/// The longest line, bytes; what exceeds it is dropped and marked.
const LINE_MAX: usize = 2048;
/// Lines per second in the long run, and at once.
const LINES_PER_SECOND: u32 = 100;
const LINES_BURST: u32 = 500;
/// Between two reports of dropped lines, which are lines themselves.
const REPORT_PAUSE: Duration = Duration::from_secs(1);
/// The pace at which the pipe is emptied: at most so many bytes in one slice of time, 1 MiB/s.
const SLICE_BYTES: usize = 64 * 1024;
const SLICE: Duration = Duration::from_millis(62);

/// Reads until every writer has closed the pipe.
pub(super) async fn capture(mut pipe: pipe::Receiver, service: ServiceName, pid: i32) {
    let mut lines = Lines::default();
    let mut quota = Quota::new(Instant::now());
    let mut chunk = vec![0; 4096];
    let (mut slice_start, mut slice_bytes) = (Instant::now(), 0);
    loop {
        let count = match pipe.read(&mut chunk).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => {
                tracing::warn!(%service, pid, %error, "its output cannot be read any more");
                break;
            }
        };
        lines.feed(&chunk[..count], |line| log(&service, pid, &mut quota, line));
        slice_bytes += count;
        if slice_bytes >= SLICE_BYTES {
            sleep_until(slice_start + SLICE).await;
            (slice_start, slice_bytes) = (Instant::now(), 0);
        }
    }
    lines.finish(|line| log(&service, pid, &mut quota, line));
    report_dropped(&service, pid, quota.dropped);
}

fn log(service: &ServiceName, pid: i32, quota: &mut Quota, line: &str) {
    let now = Instant::now();
    if !quota.admit(now) {
        return;
    }
    report_dropped(service, pid, quota.take_dropped(now));
    tracing::info!(target: "service", %service, pid, "{line}");
}

fn report_dropped(service: &ServiceName, pid: i32, dropped: u64) {
    if dropped > 0 {
        tracing::warn!(target: "service", %service, pid, dropped, "it writes too much: lines were not logged");
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    /// Bytes of this line beyond [`LINE_MAX`].
    excess: usize,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = LINE_MAX - self.partial.len();
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            self.excess += text.len().saturating_sub(room);
            if ends {
                self.finish(&mut each);
            }
        }
    }

    /// Ends the line that is under way; empty lines are nobody's news.
    fn finish(&mut self, mut each: impl FnMut(&str)) {
        let excess = std::mem::take(&mut self.excess);
        let text = String::from_utf8_lossy(&self.partial);
        let text = text.trim_end();
        if excess > 0 {
            each(&format!("{text}… ({excess} bytes more)"));
        } else if !text.is_empty() {
            each(text);
        }
        self.partial.clear();
    }
}

/// A bucket of [`LINES_BURST`] lines that fills with [`LINES_PER_SECOND`].
#[derive(Debug)]
struct Quota {
    left: f64,
    filled: Instant,
    dropped: u64,
    reported: Instant,
}

impl Quota {
    fn new(now: Instant) -> Self {
        Self { left: f64::from(LINES_BURST), filled: now, dropped: 0, reported: now }
    }

    fn admit(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.filled).as_secs_f64() * f64::from(LINES_PER_SECOND);
        self.left = (self.left + gained).min(f64::from(LINES_BURST));
        self.filled = now;
        if self.left < 1.0 {
            self.dropped += 1;
            return false;
        }
        self.left -= 1.0;
        true
    }

    /// What was dropped and not told yet; 0 when something was told less than [`REPORT_PAUSE`] ago.
    fn take_dropped(&mut self, now: Instant) -> u64 {
        if now.duration_since(self.reported) < REPORT_PAUSE {
            return 0;
        }
        self.reported = now;
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            lines.feed(chunk, |line| seen.push(line.to_owned()));
        }
        lines.finish(|line| seen.push(line.to_owned()));
        seen
    }

    #[test]
    fn lines_are_put_together_over_chunks() {
        assert_eq!(lines_of(&[b"on", b"e\ntwo\r\n\n", b"\n", b"three"]), ["one", "two", "three"]);
        assert_eq!(lines_of(&[b"bad \xff\xfe byte\n"]), ["bad \u{fffd}\u{fffd} byte"]);
        assert!(lines_of(&[b"", b"\n\n\n"]).is_empty());
    }

    #[test]
    fn a_line_without_end_costs_its_maximum() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            lines.feed(&[b'x'; 4096], |_| panic!("no line ended"));
        }
        assert!(lines.partial.capacity() <= 2 * LINE_MAX);
        let mut seen = Vec::new();
        lines.feed(b"\nnext\n", |line| seen.push(line.to_owned()));
        assert_eq!(seen[0], format!("{}… ({} bytes more)", "x".repeat(LINE_MAX), 4_096_000 - LINE_MAX));
        assert_eq!(seen[1], "next");
    }

    #[test]
    fn the_quota_fills_again() {
        let start = Instant::now();
        let mut quota = Quota::new(start);
        assert_eq!((0..10_000).filter(|_| quota.admit(start)).count(), LINES_BURST as usize);
        assert_eq!(quota.take_dropped(start), 0, "not yet");
        let later = start + Duration::from_secs(1);
        assert_eq!(quota.take_dropped(later), 10_000 - u64::from(LINES_BURST));
        assert_eq!((0..10_000).filter(|_| quota.admit(later)).count(), LINES_PER_SECOND as usize);
    }
}
