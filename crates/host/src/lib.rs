//! The machine: the only crate that touches the kernel.
//!
//! A [`Host`] has three verbs. [`facts`](Host::facts) reads what the machine is: processors and devices from files below a
//! [`Root`], interfaces, addresses and routes over rtnetlink. [`observe`](Host::observe) reads what of it is ours, as the
//! same [`State`](headgate_plan::state::State) that a configuration compiles to, so that a plan is their difference.
//! [`apply`](Host::apply) carries a plan out and reports what became of every step; when one fails on which others rely,
//! what was done is taken back.
//!
//! One address on its way: `address` adds it over `netlink` with our protocol number in it, by which `observe` knows it
//! again; [`announce`] tells the neighbours once the ruleset that serves it is committed. What is not ours (no protocol
//! number of ours, not one of our tables, not asked for) is never changed.
//!
//! Nothing here decides: what should be is said by `headgate-plan`. Every call blocks until the kernel has answered, which
//! it does at once; there is no task or thread. Who wants to know what happens waits for it: a [`Monitor`](monitor::Monitor) tells
//! that something of the network changed, [`Carriers`](carrier::Carriers) that a cable was plugged in, a
//! [`PacketLog`](packet_log::PacketLog) what rules log. A `Host` works in the network namespace of the thread that opened it and must
//! be used from threads in the same one.

mod address;
pub mod announce;
mod apply;
pub mod capacity;
pub mod carrier;
pub mod clock;
pub mod conntrack;
mod counted;
pub mod ethtool;
mod facts;
mod helper;
pub mod knob;
pub mod lease;
mod link;
pub mod load;
pub mod lock;
pub mod memory;
pub mod monitor;
mod neighbour;
mod netlink;
mod observe;
pub mod packet_log;
pub mod recorded;
pub mod root;
mod route;
mod rule;
pub mod topology;
mod tunnel;
mod upper;
mod wakeup;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use headgate_nft::{Batch, Change, Socket};
use headgate_plan::features::Feature;
use headgate_plan::helpers::Helper;
use headgate_plan::tunnel::Device;

pub use apply::{Failure, Report};
pub use lock::Lock;
use netlink::Netlink;
pub use root::Root;

/// The machine, and our sockets to its kernel.
#[derive(Debug)]
pub struct Host {
    root: Root,
    netlink: Netlink,
    nft: Socket,
    /// nftables' generation when our tables were last observed: a plan is committed only if it is still that.
    generation: Option<u32>,
    /// The generation that nftables has if nobody but us has committed since.
    ours: Option<u32>,
    /// How often something was to be written.
    writes: u64,
    /// When the first ruleset of a plan went to the kernel, and when it was there.
    first_commit: Option<(Instant, Instant)>,
    /// Connection tracking helpers that have been found to be there.
    helpers: BTreeSet<Helper>,
    /// Tunnel devices whose kind has been found to be there.
    tunnels: BTreeSet<Device>,
    /// Major and minor number of the kernel's release.
    kernel: (u32, u32),
    /// Whether the kernel has flowtables, once it was asked.
    flowtable: Option<bool>,
    /// The limit on the sleep of CPUs, while it is wanted.
    wake_up: Option<wakeup::WakeUp>,
    /// What else it has or lacks, as far as it was asked.
    features: BTreeMap<Feature, bool>,
}

/// The machine cannot be observed or changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum HostError {
    /// No netlink socket, or not one of the kind that we need.
    #[error("cannot open a netlink socket for interfaces, addresses and routes")]
    Netlink(#[source] io::Error),
    /// No netlink socket for nftables.
    #[error("cannot open a netlink socket for nftables")]
    Socket(#[source] headgate_nft::OpenError),
    /// Our tables cannot be read: nftables is not in this kernel, or a privilege is missing.
    #[error("cannot read our nftables tables")]
    Dump(#[source] headgate_nft::DumpError),
    /// A transaction was refused; nothing of it is in force.
    #[error("the ruleset was refused")]
    Commit(#[source] headgate_nft::CommitError),
    /// Something cannot be listed.
    #[error("cannot list {what}")]
    List { what: &'static str, source: io::Error },
    /// The original values of knobs cannot be read.
    #[error("cannot give knobs back their original values")]
    Originals(#[from] knob::OriginalsError),
    /// Files that describe the hardware cannot be read.
    #[error("cannot read the hardware's description")]
    Topology(#[from] topology::TopologyError),
}

impl HostError {
    fn list(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::List { what, source }
    }

    /// Somebody changed nftables since it was observed: observe and plan again.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Commit(headgate_nft::CommitError::Stale))
    }
}

impl Host {
    /// Opens the sockets and makes sure that nftables is there and may be used.
    ///
    /// # Errors
    /// [`HostError::Netlink`], [`HostError::Socket`], [`HostError::Dump`].
    pub fn open(root: Root) -> Result<Self, HostError> {
        let netlink = Netlink::open_route().map_err(HostError::Netlink)?;
        let mut nft = Socket::open().map_err(HostError::Socket)?;
        // Asking for the generation needs what a transaction needs: the kernel's subsystem and CAP_NET_ADMIN.
        nft.generation().map_err(HostError::Dump)?;
        let kernel = kernel_version(nix::sys::utsname::uname().ok().as_ref().and_then(|name| name.release().to_str()));
        Ok(Self {
            root,
            netlink,
            nft,
            generation: None,
            ours: None,
            writes: 0,
            first_commit: None,
            helpers: BTreeSet::new(),
            tunnels: BTreeSet::new(),
            kernel,
            flowtable: None,
            features: BTreeMap::new(),
            wake_up: None,
        })
    }

    /// Where the files are.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The descriptor that limits the sleep of CPUs, while one does.
    pub fn wake_up(&self) -> Option<BorrowedFd<'_>> {
        self.wake_up.as_ref().map(AsFd::as_fd)
    }

    /// Goes on with the one that the program before has left.
    pub fn inherit_wake_up(&mut self, left: OwnedFd) {
        self.wake_up = Some(left.into());
    }

    /// Commits one transaction; with a generation, only if nftables is still at it.
    fn commit(&mut self, changes: &[Change], generation: Option<u32>) -> Result<(), HostError> {
        self.writes += 1;
        self.nft.commit(&Batch::new(changes, generation)).map_err(HostError::Commit)?;
        // Each commit counts the generation up by one (`nft_base_seq_inc`).
        self.ours = self.ours.map(|ours| ours.wrapping_add(1));
        Ok(())
    }

    /// The next plan is committed whatever others have committed since our tables were observed.
    pub fn ignore_generation(&mut self) {
        self.generation = None;
    }

    /// How often this one has written, or tried to: what another looked at between two of the same number is as this one left it.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Since when farms of this one's are in the kernel: when the network was set up for them, and when they were there.
    pub fn first_commit(&self) -> Option<(Instant, Instant)> {
        self.first_commit
    }

    /// nftables' generation when our tables were last observed.
    pub fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// Another has observed our tables at this generation, and found nothing that is ours to mend.
    pub fn has_seen(&mut self, generation: Option<u32>) {
        self.ours = generation;
    }

    /// Whether somebody else has committed to nftables since our tables were last observed: it may have been to ours. One
    /// request, whatever the size of the ruleset; a listener would have the kernel build a message for each element of our own
    /// commits.
    ///
    /// # Errors
    /// [`HostError::Dump`].
    pub fn is_overtaken(&mut self) -> Result<bool, HostError> {
        let generation = self.nft.generation().map_err(HostError::Dump)?;
        Ok(self.ours.is_some_and(|ours| ours != generation))
    }
}

/// An error with its causes, on one line: `cannot write /x: No space left on device`.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// `6.18.44-foo` is 6.18. A release that does not begin with two numbers is of no kernel that we know: the newest features
/// are then assumed, and their absence shows when they are used.
fn kernel_version(release: Option<&str>) -> (u32, u32) {
    let mut numbers = release.unwrap_or_default().split(|character: char| !character.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse().ok());
    number().zip(number()).unwrap_or((u32::MAX, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_told_apart() {
        assert_eq!(kernel_version(Some("6.18.44-fc-v769")), (6, 18));
        assert_eq!(kernel_version(Some("5.4")), (5, 4));
        assert_eq!(kernel_version(Some("5.15-rc1")), (5, 15));
        assert_eq!(kernel_version(Some("next")), (u32::MAX, 0));
        assert_eq!(kernel_version(None), (u32::MAX, 0));
    }
}
