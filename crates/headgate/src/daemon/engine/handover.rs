//! What of the engine outlives the program.

use headgate_host::Lock;

use super::Engine;
use crate::daemon::handover::{HandoverError, Kept, LOCK, Successor, WAKE_UP};

impl Engine {
    /// Takes what the program before has left.
    pub fn inherit(&mut self, kept: &Kept) {
        if let Some(left) = kept.take(WAKE_UP) {
            self.host.inherit_wake_up(left);
        }
    }

    /// Has another program take over, here: this thread has what the new program needs of root's power, and is between two
    /// things that it does.
    pub fn hand_over(&mut self, successor: &Successor, kept: &Kept) -> HandoverError {
        let lock = kept.keep(LOCK, &self.lock);
        let wake_up = self.host.wake_up().map_or(Ok(()), |held| kept.keep(WAKE_UP, held));
        if let Err(error) = lock.and(wake_up) {
            tracing::warn!(%error, "the next program opens some of its files anew");
        }
        let Err(error) = successor.become_it(kept);
        kept.take(LOCK);
        kept.take(WAKE_UP);
        error
    }
}

/// The lock that the program before has left, if it is this root's.
pub fn inherited_lock(root: &headgate_host::Root, kept: &Kept) -> Option<Lock> {
    Lock::inherit(root, kept.take(LOCK)?)
}
