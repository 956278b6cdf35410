//! A blocking netlink socket: many requests in one datagram, and dumps.
//!
//! rtnetlink's own connection is a background task that sends one datagram and waits for one acknowledgement per request
//! through channels, and its `block_on` cannot be called from inside the daemon's runtime. Its message types are what we
//! use; the socket is this one. The kernel works through a datagram inside `send(2)`, message by message, so all answers
//! are queued when `send` returns, and only failures and the last message answer at all.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr};

/// Requests in one datagram. 256 error messages (768 bytes of accounted memory each) fit into the default receive buffer
/// of 212,992 bytes, so none is lost even when all of them fail.
const REQUESTS_PER_DATAGRAM: usize = 256;
/// The kernel builds dumps in pieces of at most 32 KiB (`netlink_dump`, net/netlink/af_netlink.c).
pub(crate) const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;
/// How long a dump that changes interrupt is started again. A program that adds addresses one by one interrupts every dump
/// that takes longer than one of them, until it is through; pauses let it get there.
const DUMP_PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause between two attempts; the first is a thousandth of it, each next one twice as long.
const DUMP_PAUSE: Duration = Duration::from_millis(100);
/// `nlmsgerr`: the error code lies behind the header.
const NLMSG_HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A netlink socket of one protocol in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message to rtnetlink and the flags it is sent with.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) message: RouteNetlinkMessage,
    /// `NLM_F_CREATE`, `NLM_F_EXCL`, …
    pub(crate) flags: u16,
}

/// The kernel's no to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    /// What the kernel says about it (`NLMSGERR_ATTR_MSG`).
    message: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{message} ({:?})", self.errno),
            None => write!(f, "{} ({:?})", self.errno.desc(), self.errno),
        }
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        refusal.errno.into()
    }
}

/// A received message: its type, flags and body.
pub(crate) struct Received<'a> {
    /// The whole message with its header.
    pub(crate) bytes: &'a [u8],
}

impl Netlink {
    /// A socket of `protocol` (`NETLINK_ROUTE` is 0, `NETLINK_NETFILTER` 12).
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without the payload of the failed request an error message stays small.
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        // The kernel always answers; this only bounds the damage should it not.
        // SAFETY: the descriptor is open as long as `socket` lives, which is longer than this borrow.
        let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::new(10, 0))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; RECEIVE_BUFFER_BYTES] })
    }

    /// A socket for links, addresses and routes, whose dumps the kernel filters by the fields of the request.
    pub(crate) fn open_route() -> io::Result<Self> {
        let socket = Self::open(0)?;
        socket.socket.set_netlink_get_strict_chk(true)?;
        Ok(socket)
    }

    /// Carries out `requests` in order and returns what became of each. One that fails does not stop the others.
    pub(crate) fn request(&mut self, requests: Vec<Request>) -> io::Result<Vec<Result<(), Refusal>>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        let mut datagram = Vec::new();
        while requests.peek().is_some() {
            datagram.clear();
            let first = self.sequence.wrapping_add(1);
            let mut last_start = 0;
            let mut count = 0;
            for request in requests.by_ref().take(REQUESTS_PER_DATAGRAM) {
                last_start = datagram.len();
                self.sequence = self.sequence.wrapping_add(1);
                append(&mut datagram, request.message, NLM_F_REQUEST | request.flags, self.sequence);
                count += 1;
            }
            let flags = u16::from_ne_bytes([datagram[last_start + 6], datagram[last_start + 7]]) | NLM_F_ACK;
            datagram[last_start + 6..last_start + 8].copy_from_slice(&flags.to_ne_bytes());
            self.socket.send(&datagram, 0)?;
            self.collect(first, count, &mut results)?;
        }
        Ok(results)
    }

    /// Reads the answers to messages `first..first + count`, until the last one's.
    fn collect(&mut self, first: u32, count: usize, results: &mut Vec<Result<(), Refusal>>) -> io::Result<()> {
        let start = results.len();
        results.extend((0..count).map(|_| Ok(())));
        loop {
            let length = receive(&self.socket, &mut self.buffer)?;
            for message in Messages(&self.buffer[..length]) {
                let message = message?;
                let index = message.sequence().wrapping_sub(first) as usize;
                if message.kind() != NLMSG_ERROR || index >= count {
                    continue;
                }
                results[start + index] = message.error();
                if index + 1 == count {
                    return Ok(());
                }
            }
        }
    }

    /// Calls `visit` with every message of the dump that `request` (without its header's flags) asks for. A dump that a
    /// concurrent change made inconsistent is started again, after a call of `restart`.
    pub(crate) fn dump_raw<C>(
        &mut self,
        request: &[u8],
        mut start: impl FnMut() -> C,
        mut visit: impl FnMut(&mut C, Received<'_>) -> io::Result<()>,
    ) -> io::Result<C> {
        let deadline = Instant::now() + DUMP_PATIENCE;
        let mut pause = DUMP_PAUSE / 1000;
        while Instant::now() < deadline {
            self.sequence = self.sequence.wrapping_add(1);
            let mut datagram = request.to_vec();
            datagram[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
            datagram[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
            self.socket.send(&datagram, 0)?;
            let mut collected = start();
            if self.read_dump(|message| visit(&mut collected, message))? {
                return Ok(collected);
            }
            std::thread::sleep(pause);
            pause = DUMP_PAUSE.min(pause * 2);
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "others changed the kernel's tables during every dump for 5 s"))
    }

    /// Reads one dump to its end. `false`: it was interrupted by a change and may lack or repeat entries.
    fn read_dump(&mut self, mut visit: impl FnMut(Received<'_>) -> io::Result<()>) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            let length = receive(&self.socket, &mut self.buffer)?;
            for message in Messages(&self.buffer[..length]) {
                let message = message?;
                if message.sequence() != self.sequence {
                    continue;
                }
                consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.kind() {
                    NLMSG_ERROR | NLMSG_DONE => {
                        message.error()?;
                        return Ok(consistent);
                    }
                    _ => visit(message)?,
                }
            }
        }
    }

    /// Everything that an rtnetlink dump returns. A message that our library cannot decode (an unknown kind of link) is
    /// passed over: it is none that we could manage.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = Vec::new();
        append(&mut request, message, 0, 0);
        self.dump_raw(&request, Vec::new, |found, message| {
            found.extend(message.route());
            Ok(())
        })
    }

    /// Sends one message that is not rtnetlink's, calls `visit` with each answer to it, and waits for its acknowledgement.
    pub(crate) fn query(&mut self, request: &[u8], mut visit: impl FnMut(Received<'_>)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut datagram = request.to_vec();
        datagram[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        datagram[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send(&datagram, 0)?;
        loop {
            let length = receive(&self.socket, &mut self.buffer)?;
            for message in Messages(&self.buffer[..length]) {
                let message = message?;
                match message.kind() {
                    _ if message.sequence() != self.sequence => {}
                    NLMSG_ERROR => return message.error().map_err(io::Error::from),
                    _ => visit(message),
                }
            }
        }
    }

    /// Sends one message that is not rtnetlink's and waits for its acknowledgement.
    pub(crate) fn request_raw(&mut self, request: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut datagram = request.to_vec();
        datagram[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        datagram[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send(&datagram, 0)?;
        let mut results = Vec::with_capacity(1);
        self.collect(self.sequence, 1, &mut results)?;
        Ok(results.pop().expect("collect() pushes one result per message")?)
    }
}

/// Serialises a message, padded to the alignment of the next.
fn append(datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut datagram[start..]);
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    let space = buffer.len();
    let mut unfilled = buffer;
    loop {
        match socket.recv(&mut unfilled, nix::libc::MSG_TRUNC) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(length) if length > space => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a netlink datagram of {length} bytes"),
                ));
            }
            other => return other,
        }
    }
}

/// The messages of a datagram.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<Received<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let length = self.0.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize);
        if length < NLMSG_HEADER_BYTES || length > self.0.len() {
            self.0 = &[];
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, "a truncated netlink message")));
        }
        let (bytes, _) = self.0.split_at(length);
        self.0 = &self.0[length.next_multiple_of(4).min(self.0.len())..];
        Some(Ok(Received { bytes }))
    }
}

impl<'a> Received<'a> {
    pub(crate) fn kind(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[4], self.bytes[5]])
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]])
    }

    fn sequence(&self) -> u32 {
        u32::from_ne_bytes([self.bytes[8], self.bytes[9], self.bytes[10], self.bytes[11]])
    }

    /// What follows the header.
    pub(crate) fn body(&self) -> &'a [u8] {
        &self.bytes[NLMSG_HEADER_BYTES..]
    }

    /// The message of rtnetlink that this is, if our library can decode it.
    pub(crate) fn route(&self) -> Option<RouteNetlinkMessage> {
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(self.bytes) {
            Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(inner), .. }) => Some(inner),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "netlink message passed over");
                None
            }
        }
    }

    /// The error of an error or done message; zero is none.
    pub(crate) fn error(&self) -> Result<(), Refusal> {
        match self.body().first_chunk().map(|code| i32::from_ne_bytes(*code)) {
            Some(code) if code < 0 => {
                Err(Refusal { errno: Errno::from_raw(code.wrapping_neg()), message: self.explanation() })
            }
            _ => Ok(()),
        }
    }

    /// The text that follows `nlmsgerr` (error code and header of the request, which NETLINK_CAP_ACK leaves at that).
    fn explanation(&self) -> Option<String> {
        if self.kind() != NLMSG_ERROR || self.flags() & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let mut rest = self.body().get(4 + NLMSG_HEADER_BYTES..)?;
        while let [first, second, kind, kind_high, ..] = *rest {
            let length = usize::from(u16::from_ne_bytes([first, second]));
            let value = rest.get(4..length)?;
            if u16::from_ne_bytes([kind, kind_high]) == NLMSGERR_ATTR_MSG {
                let text = value.split(|byte| *byte == 0).next()?;
                return Some(String::from_utf8_lossy(text).into_owned());
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
        None
    }
}

#[cfg(test)]
mod tests;
