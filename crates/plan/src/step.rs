//! Steps: what a plan consists of, how people read them, how they are taken back.

use crate::state::{Address, KnobValue, Route};

/// What is to be done, in this order: knobs, links, addresses and routes that are added, the ruleset, then removals.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
}

/// One step. `Display` is a line of `headgate plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write a knob.
    Knob {
        /// As in [`crate::state::Knob::path`].
        path: String,
        /// What was found; `None`: the file is not there.
        was: Option<KnobValue>,
        /// What is wanted.
        want: KnobValue,
    },
    /// Set an interface up or down.
    LinkUp {
        /// Kernel name.
        link: String,
        /// The new state.
        up: bool,
    },
    /// Set the MTU of an interface.
    LinkMtu {
        /// Kernel name.
        link: String,
        /// Found, bytes.
        was: u32,
        /// Wanted, bytes.
        want: u32,
    },
    /// Add an address and announce it (gratuitous ARP, unsolicited neighbour advertisement).
    AddAddress(Address),
    /// Add a route.
    AddRoute(Route),
    /// One netlink transaction.
    Ruleset(Vec<headgate_nft::Change>),
    /// Remove a route.
    RemoveRoute(Route),
    /// Remove an address.
    RemoveAddress(Address),
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It had the value already.
    Kept,
    /// Done; knobs have been read back.
    Set,
    /// This machine does not have it.
    Unsupported,
    /// The kernel said no, and why.
    Refused(String),
    /// Done, then taken back because a later step failed.
    Returned,
    /// Not tried because an earlier step failed.
    Skipped,
}
