//! `headgated`: what it does is in [`crate`]; here are its parts.

pub mod notify;
pub mod operator;
pub mod store;
pub mod supervise;
