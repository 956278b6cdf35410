//! What changes of links, addresses, routes, routing rules, leases and settings of NICs, told by the kernel as it happens.
//!
//! A [`Monitor`] says *that* something changed and never what: who is told looks at the machine, so a lost message costs
//! nothing but the look. The kernel drops messages for a socket whose buffer is full and answers the next read with ENOBUFS
//! (`netlink_overrun`, net/netlink/af_netlink.c); everything counts as changed then. What we change ourselves is told as well.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rtnetlink::sys::Socket;

use crate::ethtool::{NETLINK_GENERIC, monitor_group};
use crate::netlink::{Messages, RECEIVE_BUFFER_BYTES};
use crate::{Root, lease};

/// `NETLINK_ROUTE`.
const NETLINK_ROUTE: isize = 0;
/// `RTNLGRP_LINK`, `…_IPV4_IFADDR`, `…_IPV4_ROUTE`, `…_IPV4_RULE`, `…_IPV6_IFADDR`, `…_IPV6_ROUTE`, `…_IPV6_RULE`
/// (include/uapi/linux/rtnetlink.h).
const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];
/// `RTM_NEWLINK`, `RTM_DELLINK`, and the same of addresses, routes and routing rules.
const LINKS: [u16; 2] = [16, 17];
const ADDRESSES: [u16; 2] = [20, 21];
const ROUTES: [u16; 2] = [24, 25];
const RULES: [u16; 2] = [32, 33];

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An interface: it came, went, was renamed, set up or down, or its carrier or MTU changed.
    Links,
    /// An address of an interface.
    Addresses,
    /// A route of any table.
    Routes,
    /// A rule that says which packets ask which routing table.
    Rules,
    /// What a DHCP server said.
    Leases,
    /// What ethtool sets: queues, rings, coalescing, features, pause.
    Settings,
}

impl Subject {
    fn of_route(message: u16) -> Option<Self> {
        match message {
            kind if LINKS.contains(&kind) => Some(Self::Links),
            kind if ADDRESSES.contains(&kind) => Some(Self::Addresses),
            kind if ROUTES.contains(&kind) => Some(Self::Routes),
            kind if RULES.contains(&kind) => Some(Self::Rules),
            _ => None,
        }
    }
}

/// A subscription in the network namespace of the thread that opened it. Its descriptor is readable while there is something
/// to [`take`](Monitor::take).
#[derive(Debug)]
pub struct Monitor(Source);

#[derive(Debug)]
enum Source {
    Kernel(Subscription),
    Leases(Inotify),
}

/// To multicast groups of netlink.
#[derive(Debug)]
struct Subscription {
    socket: Socket,
    /// What a message of this type is about.
    subject: fn(u16) -> Option<Subject>,
    /// Everything that may be told here.
    all: &'static [Subject],
    buffer: Vec<u8>,
}

impl Monitor {
    /// Subscribes to links, addresses, routes and routing rules.
    ///
    /// # Errors
    /// There is no such socket.
    pub fn network() -> io::Result<Self> {
        let all = &[Subject::Links, Subject::Addresses, Subject::Routes, Subject::Rules];
        Self::open(NETLINK_ROUTE, &GROUPS, Subject::of_route, all)
    }

    /// Subscribes to settings of NICs. What a driver changes by itself is not told, nor, before Linux 6.17, are hash fields.
    ///
    /// # Errors
    /// There is no such socket: a kernel without ethtool's netlink (before Linux 5.6).
    pub fn settings() -> io::Result<Self> {
        Self::open(NETLINK_GENERIC, &[monitor_group()?], |_| Some(Subject::Settings), &[Subject::Settings])
    }

    /// Watches the directory of the leases.
    ///
    /// # Errors
    /// It is not there.
    pub fn leases(root: &Root) -> io::Result<Self> {
        let directory = root.file(lease::DIRECTORY).map_err(io::Error::other)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(&directory, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE)?;
        Ok(Self(Source::Leases(inotify)))
    }

    /// What changed since it was asked last; nothing when nothing did. Does not wait.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn take(&mut self) -> io::Result<BTreeSet<Subject>> {
        match &mut self.0 {
            Source::Kernel(subscription) => subscription.take(),
            Source::Leases(inotify) => match inotify.read_events() {
                Ok(_) => Ok(BTreeSet::from([Subject::Leases])),
                Err(Errno::EAGAIN | Errno::EINTR) => Ok(BTreeSet::new()),
                Err(error) => Err(error.into()),
            },
        }
    }

    fn open(
        protocol: isize,
        groups: &[u32],
        subject: fn(u16) -> Option<Subject>,
        all: &'static [Subject],
    ) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        let buffer = vec![0; RECEIVE_BUFFER_BYTES];
        Ok(Self(Source::Kernel(Subscription { socket, subject, all, buffer })))
    }
}

impl Subscription {
    fn take(&mut self) -> io::Result<BTreeSet<Subject>> {
        let mut changed = BTreeSet::new();
        loop {
            let mut unfilled = self.buffer.as_mut_slice();
            match self.socket.recv(&mut unfilled, 0) {
                // A message that is cut off says enough with its header.
                Ok(length) => {
                    changed.extend(
                        Messages(&self.buffer[..length]).flatten().filter_map(|one| (self.subject)(one.kind())),
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed.extend(self.all),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        match &self.0 {
            Source::Kernel(subscription) => subscription.socket.as_raw_fd(),
            Source::Leases(inotify) => inotify.as_fd().as_raw_fd(),
        }
    }
}
