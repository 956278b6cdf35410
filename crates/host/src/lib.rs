//! The machine: the only crate that touches the kernel.

pub mod root;
pub mod topology;
