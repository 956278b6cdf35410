//! What the box itself has to do with others: who takes its log.

use serde::{Deserialize, Serialize};

/// How sending the log elsewhere goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Syslog {
    /// Its receiver, as in the configuration.
    pub to: String,
    /// Why the receiver does not take it now. A receiver of datagrams may be away without anybody telling.
    pub error: Option<String>,
    /// For how long that is so, milliseconds.
    pub since_ms: Option<u64>,
    /// Lines that were sent, since this receiver was named.
    pub sent: u64,
    /// Lines that were lost, as far as anybody knows.
    pub lost: u64,
}
