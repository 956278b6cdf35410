//! Measures Headgate beside its peers, in network namespaces and in the booted image: what `headgate-bench` runs.
//!
//! Each subcommand is a module that takes its options and returns a [`report::Report`]: tables with numbers, and the
//! targets of the design beside them. What is done with a report is decided in `main.rs`, once for all of them.
//!
//! Shared machines are noisy. What is compared is therefore alive side by side and measured in turns, in slices of about
//! a second, and the figure is the median of the ratio within a round.

pub mod boot;
pub mod consistency;
pub mod control;
pub mod dataplane;
pub mod http;
pub mod icount;
pub mod image;
pub mod load;
pub mod paper;
pub mod peer;
pub mod processors;
pub mod report;
pub mod setting;
pub mod statistics;
pub mod steer;
