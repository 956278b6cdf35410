//! The two binaries `headgated` and `headgate`, and the API between them.
//!
//! `headgated` turns files into kernel state and keeps it so; `headgate` is what an operator types. The two meet in [`api`]
//! only: [`daemon`] and [`cli`] never import each other, and both may use [`client`]'s contract, the exit codes of [`exit`]
//! and the crates below.
//!
//! The way of one command, `headgate backend drain web b1`: `cli/backend.rs` sends `PATCH /v1/farms/web/backends/b1`;
//! `daemon/server.rs` takes the request and hands it to the one thread that owns the kernel (`daemon/engine.rs`); that one
//! writes `runtime.toml`, compiles the old and the new fragment of this farm, commits their difference as one transaction
//! and answers with the steps. Everything larger goes through [`reconcile`]: load, compile, observe, plan, apply,
//! verify.

pub mod api;
pub mod arguments;
pub mod cli;
pub mod client;
pub mod crash;
pub mod daemon;
pub mod dhcp;
pub mod difference;
pub mod drop_in;
pub mod exit;
pub mod files;
pub mod logging;
pub mod login;
pub mod owed;
pub mod reconcile;
pub mod remembered;
pub mod resolver;
pub mod secret;
pub mod service;
pub mod ssh;
pub mod steps;
pub mod way;

pub use headgate_host::explain;
