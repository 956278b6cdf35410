//! How the box itself is: what keeps its clock, who takes its log, and what stands around the daemon.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::clock::Sample;

/// How the clock is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Clock {
    /// For how long it is right, milliseconds; `None`: it is not.
    pub synchronised_ms: Option<u64>,
    /// Who was believed last, and how far off the clock was then.
    pub best: Option<Sample>,
    /// How long that is ago, milliseconds.
    pub heard_ms: Option<u64>,
    /// Why it is not kept now.
    pub error: Option<String>,
    /// By address.
    pub servers: Vec<TimeServer>,
}

/// One time server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TimeServer {
    /// Its address.
    pub address: IpAddr,
    /// What it said last.
    pub said: Option<Sample>,
    /// Why it did not.
    pub error: Option<String>,
}

/// How sending the log elsewhere goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Syslog {
    /// Its receiver, as in the configuration.
    pub to: String,
    /// Why the receiver does not take it now. A receiver of datagrams may be away without anybody telling.
    pub error: Option<String>,
    /// For how long that is so, milliseconds.
    pub since_ms: Option<u64>,
    /// Lines that were sent, since this receiver was named.
    pub sent: u64,
    /// Lines that were lost, as far as anybody knows.
    pub lost: u64,
}

/// A fence around threads. Each half is there if the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fence {
    /// Files that they have no use for cannot be opened.
    pub landlock: bool,
    /// System calls that they have no use for are refused.
    pub seccomp: bool,
}
