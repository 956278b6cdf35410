//! TCP connections that send as much as they can to servers that throw it away.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headgate_image::netns::Namespace;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::{Outcome, Way};

/// Where the servers listen, and the farm.
pub const PORT: u16 = 5001;
/// Connections at a time.
const CONNECTIONS: usize = 2;
/// One call, bytes.
const CHUNK: usize = 256 * 1024;

/// Bytes that any server took since the program started: only one variant is under load at a time.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Servers in the backends' namespace; they end when dropped.
#[derive(Debug)]
pub struct Sinks {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sinks {
    /// Listens on these addresses.
    pub fn start(backends: &Namespace, addresses: &[SocketAddr]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for &address in addresses {
            let listener = backends.within(|| TcpListener::bind(address))?.with_context(|| address.to_string())?;
            let stop = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || accept(&listener, &stop)));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // A blocking accept cannot be ended; a wait of a tenth of a second can.
        let mut ready = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(listener), nix::poll::PollFlags::POLLIN)];
        if nix::poll::poll(&mut ready, 100_u8) == Ok(1)
            && let Ok((stream, _)) = listener.accept()
        {
            std::thread::spawn(move || take(&stream));
        }
    }
}

/// MSG_TRUNC has the kernel throw the bytes away (tcp(7)): copying them would be a cost of the backend.
fn take(stream: &TcpStream) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Ok(0) => return,
            Ok(length) => TAKEN.fetch_add(length as u64, Ordering::Relaxed),
            Err(Errno::EINTR) => 0,
            Err(_) => return,
        };
    }
}

/// Sends for `slice`; `done` are bytes that arrived.
pub fn run(way: &Way<'_>, slice: Duration) -> Result<Outcome> {
    let to = way.with_port(PORT);
    way.client.within(|| -> Result<Outcome> {
        let mut streams = Vec::with_capacity(CONNECTIONS);
        for index in 0..CONNECTIONS {
            let address = to[index % to.len()];
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))
                .with_context(|| format!("cannot connect to {address}"))?;
            stream.set_write_timeout(Some(Duration::from_millis(200)))?;
            streams.push(stream);
        }
        let started = Instant::now();
        let before = TAKEN.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            for stream in &mut streams {
                scope.spawn(|| {
                    let chunk = vec![0; CHUNK];
                    // A slow moment is no error: the clock ends this.
                    while started.elapsed() < slice {
                        let _ = stream.write(&chunk);
                    }
                });
            }
        });
        let (done, elapsed) = (TAKEN.load(Ordering::Relaxed) - before, started.elapsed());
        ensure!(done > 0, "nothing that was sent to {to:?} arrived");
        Ok(Outcome { done, failed: 0, elapsed })
    })?
}
