//! What happens, as it happens: for `GET /v1/events`.

use serde::Serialize;
use tokio::sync::broadcast;

use super::engine::EngineError;

/// So many may wait for a reader; one that is slower misses some, and is told.
const WAITING_MAX: usize = 256;

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Event {
    /// A configuration runs.
    Applied {
        /// Its generation.
        generation: Option<u64>,
        /// The word of `history`.
        reason: &'static str,
        /// Who asked for it.
        #[serde(skip_serializing_if = "Option::is_none")]
        author: Option<String>,
        /// How many steps it took; 0: nothing had to be written.
        steps: usize,
        /// When it returns unless it is confirmed.
        #[serde(skip_serializing_if = "Option::is_none")]
        trial_seconds: Option<u64>,
    },
    /// A configuration was refused; what ran before runs on.
    Refused {
        /// The word of `history`.
        reason: &'static str,
        /// Who asked for it.
        #[serde(skip_serializing_if = "Option::is_none")]
        author: Option<String>,
        /// Why.
        message: String,
    },
    /// What was on trial is kept.
    Confirmed {
        /// Its generation.
        generation: Option<u64>,
        /// By whom.
        author: String,
    },
    /// A backend has another state or weight.
    Backend {
        /// Its farm.
        farm: String,
        /// Its name.
        backend: String,
        /// `up`, `drain` or `down`.
        state: &'static str,
        /// Its share.
        weight: u16,
        /// By whom.
        author: String,
    },
    /// A backend's checks say something else, and the kernel knows.
    Health {
        /// Its farm.
        farm: String,
        /// Its name.
        backend: String,
        /// `up` or `down`.
        state: &'static str,
    },
    /// The kernel was not as it should be.
    Drift {
        /// Whether it is again.
        repaired: bool,
        /// What was to be done.
        steps: usize,
    },
}

impl Event {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Applied { .. } => "applied",
            Event::Refused { .. } => "refused",
            Event::Confirmed { .. } => "confirmed",
            Event::Backend { .. } => "backend",
            Event::Health { .. } => "health",
            Event::Drift { .. } => "drift",
        }
    }

    /// Of a configuration that was refused, in one line.
    pub fn refused(reason: &'static str, author: Option<String>, error: &EngineError) -> Self {
        Event::Refused { reason, author, message: error.api().message }
    }
}

/// Where they are told.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING_MAX))
    }
}

impl Events {
    /// Tells everybody who listens.
    pub fn tell(&self, event: Event) {
        // An error means that nobody does.
        let _ = self.0.send(event);
    }

    /// All from now on.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
