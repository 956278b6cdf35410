//! Configuration: from text to checked values.
//!
//! The way of one value: [`source`] lists the files in their order, [`document`] parses and merges them and remembers where
//! each value was written, [`check`] turns the merged tree into a [`Config`], collecting every [`Diagnostic`] of every file
//! in one run. Nothing here touches the kernel; only `source` reads the disk.

pub mod model;
pub mod types;

pub use model::{Config, Origin};
