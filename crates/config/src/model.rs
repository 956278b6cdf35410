//! The checked configuration: what the files mean, with every default filled in.
//!
//! Each farm and backend keeps the [`Origin`] of the table that asked for it, so that a kernel object can be traced to a line.

mod backends;
pub mod farm;
pub mod hardware;
pub mod host;
mod ranges;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use backends::Backends;
pub use farm::*;
pub use hardware::*;
pub use host::*;
pub use ranges::Ranges;
pub use words::Word;
pub(crate) use words::{Auto, HealthType, SchedulerName};

use crate::types::{FarmName, PolicyName, ServiceName};

/// Where a value was written: a file, and the line and column (both from 1) in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// The file, as the user would open it (`--root` included).
    pub file: Arc<PathBuf>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// The whole checked configuration. Removed entries (`enabled = false`) are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `[site] secret`: mixed into every hash seed.
    pub site_secret: Option<String>,
    /// `[system]`.
    pub system: System,
    /// `[hardware]`.
    pub hardware: Hardware,
    /// `[network]`.
    pub network: Network,
    /// `[sysctl]`, by dotted name, in the order of the names.
    pub sysctl: BTreeMap<String, SysctlValue>,
    /// Where each of them was written.
    pub sysctl_origins: BTreeMap<String, Origin>,
    /// `[api]`, when present.
    pub api: Option<Api>,
    /// `[metrics]`, when present.
    pub metrics: Option<Metrics>,
    /// `[services]`, by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// The services in an order that starts each after those it names in `after`.
    pub service_order: Vec<ServiceName>,
    /// `[policies]`, by name.
    pub policies: BTreeMap<PolicyName, Policy>,
    /// `[farms]`, by name.
    pub farms: BTreeMap<FarmName, Arc<Farm>>,
}
