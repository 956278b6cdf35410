//! What the tests across crates share: a lab of network namespaces, servers that say who they are, the product's binaries,
//! a client of ssh, what nft(8) lists, random configurations, hostile bytes for its parsers, and a tracer that follows packets through rulesets without a kernel.

pub mod arbitrary;
pub mod binaries;
pub mod farms;
pub mod following;
pub mod hostile;
pub mod lab;
pub mod listing;
pub mod nfqueue;
pub mod packets;
pub mod server;
pub mod ssh;
pub mod tracer;
pub mod wire;
