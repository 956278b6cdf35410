//! What the host hands in and what the guest says: the contract of both sides, as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::counters::Counters;

/// Where the plan lies in the initramfs.
pub const PLAN: &str = "/plan.json";
/// Begins each line on the serial port that is a [`Report`].
pub const PREFIX: &str = "@ ";

/// Everything that one boot measures, in this order. Another order moves figures by some ten instructions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The variants.
    pub variants: Vec<Variant>,
    /// Stop before a few packets of each phase until the host answers on the serial port.
    pub profile: bool,
    /// Count nothing: be the balancer between two network cards with each variant, until the host answers on the serial
    /// port.
    pub cards: bool,
}

/// One way to bring packets from the client to the backend.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Variant {
    /// Its name in results.
    pub name: String,
    /// Written before the commands run, by path.
    pub files: BTreeMap<String, String>,
    /// Run in the balancer's namespace, one after the other; all must succeed.
    pub commands: Vec<Command>,
    /// Where the client sends to.
    pub targets: Targets,
    /// What is measured.
    pub phases: Vec<Phase>,
    /// How far packets go.
    pub reach: Reach,
}

/// A program with its arguments and its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub line: Vec<String>,
    /// Its standard input.
    pub input: String,
}

/// Addresses in blocks of 250 with the fourth byte counted up from that of the first address, all at port 80.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// The first.
    pub first: Ipv4Addr,
    /// How many.
    pub count: u32,
}

impl Targets {
    /// The address with this number, counted round.
    #[must_use]
    pub fn address(self, number: u32) -> Ipv4Addr {
        let number = number % self.count;
        (u32::from(self.first) + ((number / 250) << 8) + number % 250).into()
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A packet of an established flow, from the client.
    Original,
    /// A packet of an established flow, from the backend.
    Reply,
    /// The first packet of a flow.
    New,
    /// A TCP connection: opened, 64 bytes each way, closed. Both ends are inside.
    Tcp,
}

impl Phase {
    /// All, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Original, Self::Reply, Self::New, Self::Tcp];

    /// As it is written in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Reply => "reply",
            Self::New => "new",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// How far packets of a variant go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// They end where the balancer would receive them: what sending costs, for subtraction.
    Balancer,
    /// Through the balancer and back.
    Backend,
    /// Through the balancer; the backend has the virtual addresses and a link of its own to the client.
    Direct,
}

/// A line from the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// The guest is up.
    Up {
        /// As `uname -r` says.
        kernel: String,
    },
    /// A phase was run once.
    Measured(Measured),
    /// The guest waits for a byte on the serial port, and will again after `packets` packets, with [`Report::Pause`] again.
    Pause {
        /// The variant.
        variant: String,
        /// Its phase.
        phase: Phase,
        /// How many packets the guest sends until the next pause; none at the second.
        packets: u32,
    },
    /// The guest stands between its cards until a byte comes on the serial port.
    Ready {
        /// The variant.
        variant: String,
    },
    /// What the guest's kernel counted between [`Report::Ready`] and that byte.
    Counted {
        /// The variant.
        variant: String,
        /// The counters.
        counters: Counters,
    },
    /// A variant's figures, if any, are worth nothing.
    Trouble {
        /// The variant.
        variant: String,
        /// What went wrong.
        what: String,
    },
    /// A symbol of the kernel, for profiles.
    Symbol {
        /// Its address.
        address: u64,
        /// Its name.
        name: String,
    },
    /// All variants were run.
    Done,
}

/// Instructions per packet (per connection for TCP).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The variant.
    pub variant: String,
    /// The phase.
    pub phase: Phase,
    /// Median of the batches: a timer's tick in some of them does not show.
    pub median: f64,
    /// Mean of the batches: ticks and deferred work are in it.
    pub mean: f64,
}

impl Report {
    /// Writes the line to standard output, which is the serial port.
    pub fn print(&self) {
        // A plan's names are text and its numbers are finite.
        println!("{PREFIX}{}", serde_json::to_string(self).expect("a report is JSON"));
    }

    /// Reads a line of the serial port; `None` when it is somebody else's.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim().strip_prefix(PREFIX)?).ok()
    }
}
