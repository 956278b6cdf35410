//! Closed-loop HTTP clients: some threads, each with some connections that always wait for one answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headgate_image::netns::Namespace;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use super::Outcome;

/// Where the backends' web servers listen, and the farm.
pub const PORT: u16 = 80;
/// As many as there are processors on the smallest machine that this makes sense on.
const THREADS: usize = 2;
/// For each thread.
const CONNECTIONS: usize = 32;

/// How requests use connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// They stay open over the slice.
    Kept,
    /// Each carries one request; the server closes it.
    OnePerRequest,
}

impl Connections {
    fn request(self) -> &'static [u8] {
        match self {
            Self::Kept => b"GET / HTTP/1.1\r\nHost: farm\r\n\r\n",
            Self::OnePerRequest => b"GET / HTTP/1.1\r\nHost: farm\r\nConnection: close\r\n\r\n",
        }
    }
}

/// Asks the addresses in turn for `slice`. An answer is complete with its head: the servers send no body.
pub fn run(client: &Namespace, to: &[SocketAddr], connections: Connections, slice: Duration) -> Result<Outcome> {
    let outcomes = client.within(|| {
        std::thread::scope(|scope| {
            // Threads are born in the namespace of the thread that starts them.
            let threads: Vec<_> =
                (0..THREADS).map(|_| scope.spawn(|| Clients::open(to, connections)?.run(slice))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread of the load")).collect::<Result<Vec<_>>>()
        })
    })??;
    let sum = outcomes.iter().fold(Outcome::default(), |sum, one| Outcome {
        done: sum.done + one.done,
        failed: sum.failed + one.failed,
        elapsed: sum.elapsed.max(one.elapsed),
    });
    ensure!(sum.done > 0, "no request to {to:?} was answered, {} failed", sum.failed);
    Ok(sum)
}

/// The connections of one thread.
struct Clients<'a> {
    to: &'a [SocketAddr],
    connections: Connections,
    epoll: Epoll,
    open: Vec<TcpStream>,
    opened: usize,
    outcome: Outcome,
}

impl<'a> Clients<'a> {
    fn open(to: &'a [SocketAddr], connections: Connections) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut clients = Self {
            to,
            connections,
            epoll,
            open: Vec::with_capacity(CONNECTIONS),
            opened: 0,
            outcome: Outcome::default(),
        };
        for slot in 0..CONNECTIONS {
            let stream = match connections {
                Connections::Kept => {
                    let address = clients.next_address();
                    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))
                        .with_context(|| format!("cannot connect to {address}"))?;
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    stream
                }
                Connections::OnePerRequest => clients.begin()?,
            };
            clients.watch(&stream, slot)?;
            clients.open.push(stream);
        }
        Ok(clients)
    }

    fn next_address(&mut self) -> SocketAddr {
        self.opened += 1;
        self.to[self.opened % self.to.len()]
    }

    /// A connection that is being opened.
    fn begin(&mut self) -> Result<TcpStream> {
        let address = self.next_address();
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let stream: TcpStream =
            socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?.into();
        match connect(std::os::fd::AsRawFd::as_raw_fd(&stream), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(stream),
            Err(error) => Err(error).with_context(|| format!("cannot connect to {address}")),
        }
    }

    /// Edges are enough: every event is read to its end.
    fn watch(&self, stream: &TcpStream, slot: usize) -> Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        Ok(self.epoll.add(stream.as_fd(), EpollEvent::new(flags, slot as u64))?)
    }

    fn run(mut self, slice: Duration) -> Result<Outcome> {
        let started = Instant::now();
        let mut asked = [false; CONNECTIONS];
        let mut events = [EpollEvent::empty(); CONNECTIONS];
        while started.elapsed() < slice {
            let ready = self.epoll.wait(&mut events, EpollTimeout::from(10_u8))?;
            for event in &events[..ready] {
                let slot = event.data() as usize;
                self.serve(slot, event.events(), &mut asked[slot])?;
            }
        }
        Ok(Outcome { elapsed: started.elapsed(), ..self.outcome })
    }

    /// Goes on with one connection as far as it can.
    fn serve(&mut self, slot: usize, events: EpollFlags, asked: &mut bool) -> Result<()> {
        if events.contains(EpollFlags::EPOLLERR) {
            return self.fail(slot, asked);
        }
        if !*asked && events.contains(EpollFlags::EPOLLOUT) {
            if self.open[slot].write(self.connections.request()).is_err() {
                return self.fail(slot, asked);
            }
            *asked = true;
        }
        if !events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP) {
            return Ok(());
        }
        let mut buffer = [0; 4096];
        match self.open[slot].read(&mut buffer) {
            Ok(length) if answered(&buffer[..length]) => self.answer(slot, asked),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            _ => self.fail(slot, asked),
        }
    }

    fn answer(&mut self, slot: usize, asked: &mut bool) -> Result<()> {
        self.outcome.done += 1;
        match self.connections {
            Connections::Kept => {
                if self.open[slot].write(Connections::Kept.request()).is_err() {
                    self.fail(slot, asked)?;
                }
                Ok(())
            }
            Connections::OnePerRequest => self.reopen(slot, asked),
        }
    }

    fn fail(&mut self, slot: usize, asked: &mut bool) -> Result<()> {
        self.outcome.failed += 1;
        self.reopen(slot, asked)
    }

    /// The old one is closed; closing takes it out of the epoll as well.
    fn reopen(&mut self, slot: usize, asked: &mut bool) -> Result<()> {
        *asked = false;
        let stream = self.begin()?;
        self.watch(&stream, slot)?;
        self.open[slot] = stream;
        Ok(())
    }
}

/// A whole head with status 200: it is far smaller than a segment, so that it always comes in one piece.
fn answered(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.1 200 ") && bytes.ends_with(b"\r\n\r\n")
}
