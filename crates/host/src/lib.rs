//! The machine: the only crate that touches the kernel.
