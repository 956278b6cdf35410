//! The socket to nf_tables: commits batches, reads tables back.
//!
//! The kernel does all its work inside `sendmsg`: when it returns, every error is queued already, so errors are drained
//! without waiting and no acknowledgement is asked for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use rustables::sys;

use crate::batch::Batch;
use crate::wire::{Attributes, Header, MESSAGE_HEADER, Message, Messages, SUBSYSTEM, Writer, number_at};

mod dump;
mod live;

pub use dump::DumpError;

/// The kernel sends at most 32 KiB at once (`netlink_dump`); errors are short.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Receive buffer, bytes: one error of a batch takes about 800 bytes of it, so thousands fit. With the default of 208 KiB
/// the first errors of a large batch would push out the rest.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// A netlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `EPROTONOSUPPORT`, `EAFNOSUPPORT`.
    #[error("this kernel has no netfilter netlink socket (CONFIG_NETFILTER_NETLINK)")]
    NoNetfilter,
    /// Anything else.
    #[error("cannot open a netfilter netlink socket")]
    Socket(#[source] io::Error),
}

/// Why a batch was not carried out. Whatever it is, nothing of the batch has happened.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// `EPERM`.
    #[error("changing nftables needs CAP_NET_ADMIN in this network namespace")]
    Permission,
    /// The kernel does not know nf_tables.
    #[error("this kernel has no nf_tables (CONFIG_NF_TABLES)")]
    NoNftables,
    /// The ruleset is not that of the batch's generation any more: observe and plan again.
    #[error("the ruleset has changed meanwhile")]
    Stale,
    /// `EINVAL`, `EOPNOTSUPP` for the flag.
    #[error("this kernel has no tables that go with their owner (Linux 5.12)")]
    NoOwnership,
    /// The kernel could not carry out some messages.
    #[error("the kernel refused the transaction: {}", Refusal(failures, *complete))]
    Refused {
        /// In the order of the batch.
        failures: Vec<Failure>,
        /// Whether these are all; the kernel drops errors that do not fit the socket.
        complete: bool,
    },
    /// Sending or receiving failed.
    #[error("cannot send {bytes} bytes to nf_tables")]
    Send {
        /// Length of the batch.
        bytes: usize,
        /// From the system call.
        #[source]
        source: io::Error,
    },
}

/// One object that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Index of the change in the slice that the batch was made of; `None` when it is about the batch itself.
    pub change: Option<usize>,
    /// For people: `rule 2 of chain farm-web in table inet headgate`.
    pub object: String,
    /// The kernel's error.
    pub errno: Errno,
    /// Where in the message the kernel stumbled, bytes; it does not always say.
    pub offset: Option<u32>,
    /// What the kernel says about it (`NLMSGERR_ATTR_MSG`), rarely anything.
    pub message: Option<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({:?})", self.object, self.errno.desc(), self.errno)?;
        self.message.as_ref().map_or(Ok(()), |message| write!(f, ": {message}"))
    }
}

/// The first failures of a refusal in one line.
struct Refusal<'a>(&'a [Failure], bool);

impl std::fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 3;
        for (index, failure) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{failure}", if index == 0 { "" } else { "; " })?;
        }
        match (self.0.len().saturating_sub(SHOWN), self.1) {
            (0, true) => Ok(()),
            (0, false) => f.write_str("; and more that were lost"),
            (more, true) => write!(f, "; and {more} more"),
            (more, false) => write!(f, "; and {more} more, and others that were lost"),
        }
    }
}

/// What the kernel says in an error message.
struct Answer {
    sequence: u32,
    errno: Errno,
    offset: Option<u32>,
    message: Option<String>,
}

/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;

impl Answer {
    /// `None`: an acknowledgement.
    fn read(message: &Message<'_>) -> Option<Self> {
        let code = number_at(message.body, 0)? as i32;
        if code == 0 {
            return None;
        }
        // With NETLINK_CAP_ACK only the header of the refused message comes back, and details behind it.
        let capped = message.flags & libc::NLM_F_CAPPED as u16 != 0;
        let refused = number_at(message.body, 4).unwrap_or_default() as usize;
        let details = 4 + if capped { MESSAGE_HEADER } else { refused.next_multiple_of(4) };
        let has_details = message.flags & libc::NLM_F_ACK_TLVS as u16 != 0;
        let details = Attributes(message.body.get(details..).filter(|_| has_details).unwrap_or_default());
        Some(Self {
            sequence: message.sequence,
            errno: Errno::from_raw(-code),
            // In host order, unlike everything of nf_tables.
            offset: details.get(sys::NLMSGERR_ATTR_OFFS).and_then(|offset| number_at(offset, 0)),
            message: details.string(sys::NLMSGERR_ATTR_MSG).map(str::to_owned),
        })
    }
}

/// A socket of netfilter in the network namespace of the calling thread, which hears what these groups are told.
pub(crate) fn bound(groups: u32, receive_buffer_bytes: usize) -> Result<OwnedFd, OpenError> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
        .map_err(|errno| match errno {
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => OpenError::NoNetfilter,
            errno => OpenError::Socket(errno.into()),
        })?;
    let failed = |errno: Errno| OpenError::Socket(errno.into());
    // Refused without CAP_NET_ADMIN in the first user namespace; the plain option is then capped by rmem_max.
    setsockopt(&fd, sockopt::RcvBufForce, &receive_buffer_bytes)
        .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &receive_buffer_bytes))
        .map_err(failed)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(failed)?;
    Ok(fd)
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`OpenError::NoNetfilter`] when the kernel lacks it.
    pub fn open() -> Result<Self, OpenError> {
        let fd = bound(0, RECEIVE_BUFFER_BYTES)?;
        let failed = |errno: Errno| OpenError::Socket(errno.into());
        enable(&fd, libc::NETLINK_EXT_ACK).map_err(failed)?;
        enable(&fd, libc::NETLINK_CAP_ACK).map_err(failed)?;
        Ok(Self { fd, buffer: vec![0; RECEIVE_BYTES], sequence: 0 })
    }

    /// Carries out a batch: all of it, or nothing. An empty batch is not sent.
    ///
    /// # Errors
    /// Each failure with its object; [`CommitError::Stale`] when the batch's generation has passed.
    pub fn commit(&mut self, batch: &Batch<'_>) -> Result<(), CommitError> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = batch.as_bytes();
        let failed = |errno: Errno| CommitError::Send { bytes: bytes.len(), source: errno.into() };
        self.drain();
        self.reserve_send(bytes.len()).map_err(failed)?;
        self.send(bytes).map_err(failed)?;
        let (answers, complete) = self.answers().map_err(failed)?;
        refusal(batch, answers, complete)
    }

    /// The generation of the ruleset: it changes with every commit of anybody in this network namespace.
    ///
    /// # Errors
    /// Missing privilege or kernel feature.
    pub fn generation(&mut self) -> Result<u32, DumpError> {
        let mut generation = None;
        let request = dump::Request { kind: sys::NFT_MSG_GETGEN, family: 0, all: false };
        // An unknown subsystem is EINVAL for requests (nfnetlink_rcv_msg).
        self.request(request, |_| {}, |message| generation = message.attributes().number(sys::NFTA_GEN_ID)).map_err(
            |errno| match errno {
                Errno::EINVAL | Errno::EOPNOTSUPP => DumpError::NoNftables,
                errno => DumpError::from_errno("generation", errno),
            },
        )?;
        generation.ok_or(DumpError::Malformed { what: "generation" })
    }

    /// A message larger than the send buffer is refused with EMSGSIZE, and its memory is charged to the buffer.
    fn reserve_send(&self, bytes: usize) -> Result<(), Errno> {
        let wanted = bytes + bytes / 2 + 64 * 1024;
        setsockopt(&self.fd, sockopt::SndBufForce, &wanted).or_else(|_| setsockopt(&self.fd, sockopt::SndBuf, &wanted))
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                // Datagrams go as a whole.
                Ok(_) => return Err(Errno::EMSGSIZE),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Receives one datagram into the buffer.
    fn receive(&mut self, flags: MsgFlags) -> Result<usize, Errno> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Err(Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    /// Forgets what an earlier call that failed left behind.
    fn drain(&mut self) {
        while !matches!(self.receive(MsgFlags::MSG_DONTWAIT), Err(Errno::EAGAIN)) {}
    }

    /// Everything that the kernel has queued, and whether nothing was lost.
    fn answers(&mut self) -> Result<(Vec<Answer>, bool), Errno> {
        let (mut answers, mut complete) = (Vec::new(), true);
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    let messages = Messages(&self.buffer[..length]);
                    answers.extend(messages.filter(|message| message.kind == ERROR).filter_map(|m| Answer::read(&m)));
                }
                Err(Errno::EAGAIN) => return Ok((answers, complete)),
                Err(Errno::ENOBUFS) => complete = false,
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn refusal(batch: &Batch<'_>, answers: Vec<Answer>, complete: bool) -> Result<(), CommitError> {
    if answers.is_empty() && complete {
        return Ok(());
    }
    for answer in answers.iter().filter(|answer| answer.sequence == 0) {
        match answer.errno {
            Errno::EPERM => return Err(CommitError::Permission),
            Errno::EOPNOTSUPP => return Err(CommitError::NoNftables),
            Errno::ERESTART => return Err(CommitError::Stale),
            _ => {}
        }
    }
    let failures = answers.into_iter().map(|answer| Failure {
        change: batch.change(answer.sequence),
        object: batch.object(answer.sequence, answer.offset),
        errno: answer.errno,
        offset: answer.offset,
        message: answer.message,
    });
    Err(CommitError::Refused { failures: failures.collect(), complete })
}

/// Sets a flag of the netlink level, which nix does not know.
fn enable(fd: &OwnedFd, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: `on` lives through the call, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}
