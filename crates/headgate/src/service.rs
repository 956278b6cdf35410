//! A supervised service as the daemon tells of it and `headgate status` shows it.

use serde::{Deserialize, Serialize};

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// It could not be started, or it ended badly and `restart` says to leave it. With `next_start` it is tried again.
    Failed,
    /// It ended and is started again at `next_start`.
    BackingOff,
    /// It waits for the services it names in `after`, or for the network.
    Waiting,
    /// It runs, and does not answer on `ready` yet.
    Starting,
    /// SIGTERM is out.
    Stopping,
    /// It runs (and answers, when it has `ready`).
    Up,
    /// It ended well, and `restart` says that this was all.
    Done,
    /// It was taken out of the configuration, or the supervisor is going down.
    Stopped,
}

impl ServiceState {
    /// Whether a person should look at it.
    pub fn is_fault(self) -> bool {
        matches!(self, ServiceState::Failed | ServiceState::BackingOff)
    }

    /// The word that `status` prints.
    pub fn word(self) -> &'static str {
        match self {
            ServiceState::Failed => "failed",
            ServiceState::BackingOff => "backing-off",
            ServiceState::Waiting => "waiting",
            ServiceState::Starting => "starting",
            ServiceState::Stopping => "stopping",
            ServiceState::Up => "up",
            ServiceState::Done => "done",
            ServiceState::Stopped => "stopped",
        }
    }
}

/// One service, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceStatus {
    /// The key in `[services]`.
    pub name: String,
    /// Where it is.
    pub state: ServiceState,
    /// Why it is there, when there is something to say: `waits for network`, `/usr/sbin/x: no such file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its first process, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it came into this state, milliseconds since 1970.
    pub since: u64,
    /// How often it was started again, since the supervisor began.
    pub restarts: u64,
    /// How it ended last: `exit 1`, `signal 9 (SIGKILL)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// When it is tried again, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start: Option<u64>,
    /// Processes of its group.
    #[serde(default)]
    pub processes: u32,
    /// CPU time that the living processes of its group have used, milliseconds.
    #[serde(default)]
    pub cpu_ms: u64,
    /// Resident memory of its group, bytes; pages shared between its processes count once each.
    #[serde(default)]
    pub memory_bytes: u64,
}
