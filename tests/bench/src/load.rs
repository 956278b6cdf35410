//! Loads: what clients do for the length of a slice, and what came of it.

pub mod bulk;
pub mod datagrams;
pub mod http;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use headgate_image::netns::Namespace;

/// Where a load goes: the farm's address, or the backends themselves when nothing is between.
#[derive(Debug, Clone)]
pub struct Way<'a> {
    /// Where clients are.
    pub client: &'a Namespace,
    /// Where backends are.
    pub backends: &'a Namespace,
    /// The addresses to use in turn; the port says which service.
    pub addresses: Vec<std::net::IpAddr>,
}

impl Way<'_> {
    /// The addresses with this port.
    pub fn with_port(&self, port: u16) -> Vec<SocketAddr> {
        self.addresses.iter().map(|&address| SocketAddr::new(address, port)).collect()
    }
}

/// What came of a slice.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outcome {
    /// Requests answered, packets arrived, or bytes arrived.
    pub done: u64,
    /// Requests that failed.
    pub failed: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Outcome {
    /// Done in a second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }
}

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Load {
    /// HTTP requests over connections that stay open
    KeepAlive,
    /// HTTP requests, each over a connection of its own
    Close,
    /// UDP packets of 18 bytes (the smallest Ethernet frame) in one direction
    Udp,
    /// TCP connections that send as much as they can
    Bulk,
}

impl Load {
    /// All, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::KeepAlive, Self::Close, Self::Udp, Self::Bulk];

    /// Puts this load on for `slice`.
    pub fn run(self, way: &Way<'_>, slice: Duration) -> Result<Outcome> {
        match self {
            Self::KeepAlive => http::run(way.client, &way.with_port(http::PORT), http::Connections::Kept, slice),
            Self::Close => http::run(way.client, &way.with_port(http::PORT), http::Connections::OnePerRequest, slice),
            Self::Udp => datagrams::run(way, slice),
            Self::Bulk => bulk::run(way, slice),
        }
    }
}
