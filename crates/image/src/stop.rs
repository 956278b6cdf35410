//! Ctrl-C as a value: waits look at it, so that everything is cleaned up on the way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

/// Whether somebody wants us to stop.
#[derive(Debug, Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Set by SIGINT, SIGTERM and SIGHUP. A second signal ends the program at once.
    pub fn on_signals() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [nix::libc::SIGINT, nix::libc::SIGTERM, nix::libc::SIGHUP] {
            // First the one that ends us if the flag is set already, then the one that sets it.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag)).context("signal handler")?;
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("signal handler")?;
        }
        Ok(Self(flag))
    }

    /// Nobody ever will.
    pub fn never() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// An error once somebody did.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}
