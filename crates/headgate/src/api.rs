//! The contract between `headgate` and `headgated`: HTTP/1.1 with JSON bodies over the Unix socket [`SOCKET`].
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | `headgate_plan::status::Status` |
//! | `GET /v1/farms`, `GET /v1/farms/F` | | farms of the status |
//! | `PUT /v1/farms/F` | [`Values`] | [`Applied`] |
//! | `PATCH /v1/farms/F` | [`Values`] | [`Applied`] |
//! | `DELETE /v1/farms/F` | | [`Applied`] |
//! | the same below `/v1/farms/F/backends/B` | | |
//! | `GET /v1/drop-ins` | | list of `headgate_config::FileUse` |
//! | `GET /v1/drop-ins/NAME` | | TOML |
//! | `PUT /v1/drop-ins/NAME` | TOML | [`Applied`] |
//! | `DELETE /v1/drop-ins/NAME` | | [`Applied`] |
//! | `POST /v1/apply` | [`Apply`] | [`Applied`] |
//! | `GET /v1/plan` | | [`Planned`] |
//! | `POST /v1/rollback` | [`Rollback`] | [`Applied`] |
//! | `GET /v1/history` | | list of [`Generation`] |
//! | `GET /v1/farms/F/clients` | | [`Clients`] |
//! | `DELETE /v1/farms/F/clients` | | [`Forgotten`] |
//! | `GET /v1/connections?farm=F&backend=B&limit=N` | | [`Connections`] |
//! | `DELETE /v1/connections?farm=F&backend=B` | | [`Flushed`] |
//! | `GET /v1/load` | | `headgate_plan::load::Load` |
//! | `GET /v1/self` | | [`Introduction`] |
//! | `GET /v1/hardware` | | `headgate_plan::hardware::HardwareReport` |
//! | `POST /v1/hardware/apply`, `POST /v1/hardware/restore` | | [`Applied`] |
//!
//! A change takes `?persist=true` to be written to `/etc/headgate/conf.d/90-operator.toml` instead of `runtime.toml`.
//! Every answer that is not 2xx carries an [`ErrorBody`]; its code is stable, its message is for people.

use serde::{Deserialize, Serialize};

use crate::exit::Exit;

/// The socket of the daemon, below `--root`.
pub const SOCKET: &str = "run/headgate/api.sock";

/// The largest request body, bytes. A configuration of thousands of farms comes from files, not through here.
pub const BODY_MAX: usize = 1024 * 1024;

/// Keys and values of a farm or a backend, spelled as in the configuration: strings, whole numbers, booleans, lists and tables.
pub type Values = serde_json::Map<String, serde_json::Value>;

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is not understood: 400.
    BadRequest,
    /// A token is missing, or is none of ours: 401.
    Unauthorized,
    /// The token's scope does not reach so far: 403.
    Forbidden,
    /// No such path, farm, backend or generation: 404.
    NotFound,
    /// It exists already: 409.
    Conflict,
    /// The body is larger than [`BODY_MAX`]: 413.
    TooLarge,
    /// The configuration would be invalid: 422.
    ConfigInvalid,
    /// The kernel refused; what ran before still runs: 502.
    KernelRefused,
    /// State could not be written (a full disk); what ran before still runs: 507.
    StorageFailed,
    /// Too much at once: 503.
    Busy,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::BadRequest => 400,
            ErrorCode::Unauthorized => 401,
            ErrorCode::Forbidden => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::Conflict => 409,
            ErrorCode::TooLarge => 413,
            ErrorCode::ConfigInvalid => 422,
            ErrorCode::KernelRefused => 502,
            ErrorCode::StorageFailed => 507,
            ErrorCode::Busy => 503,
        }
    }

    /// The exit code of a command that met it.
    pub fn exit(self) -> Exit {
        match self {
            ErrorCode::BadRequest
            | ErrorCode::Unauthorized
            | ErrorCode::Forbidden
            | ErrorCode::NotFound
            | ErrorCode::Conflict
            | ErrorCode::TooLarge => Exit::Usage,
            ErrorCode::ConfigInvalid => Exit::ConfigInvalid,
            ErrorCode::KernelRefused | ErrorCode::StorageFailed => Exit::KernelRefused,
            ErrorCode::Busy => Exit::Unreachable,
        }
    }
}

/// An error as the API sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// One sentence for people.
    pub message: String,
    /// Further lines: diagnostics without any line of a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// What was tried, and taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepLine>,
}

impl ApiError {
    /// An error without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), steps: Vec::new() }
    }
}

/// The body of every answer that is not 2xx.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

/// What a token is good for; each has what those before it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Look.
    Read,
    /// Drain, weigh and close until the next boot; cut flows.
    Operate,
    /// Change farms for good, load files, go back.
    Configure,
    /// Everything, programs that the box runs and tokens included.
    Root,
}

impl Scope {
    /// From small to large.
    pub const ALL: [Scope; 4] = [Scope::Read, Scope::Operate, Scope::Configure, Scope::Root];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Operate => "operate",
            Scope::Configure => "configure",
            Scope::Root => "root",
        }
    }
}

/// A token, without what lets anybody in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its name, as `history` tells it.
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
    /// When it was made, seconds since 1970.
    pub made: u64,
}

/// Who asks, and which box answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// As `history` names them.
    pub name: String,
    /// What they may do.
    pub scope: Scope,
    /// The name of the box.
    pub host: String,
    /// Of the program.
    pub version: String,
}

/// A token that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenWanted {
    /// By which `history` will tell it.
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
}

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// Its name.
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
    /// The token itself, this once.
    pub token: String,
}

/// Something that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
}

/// Where a change is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// `runtime.toml`: until the next boot.
    #[default]
    UntilReboot,
    /// `/etc/headgate/conf.d/90-operator.toml`.
    Persist,
}

/// One step that was carried out, or is going to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLine {
    /// `knob`, `link`, `add-tunnel`, `add-address`, `add-route`, `ruleset`, `remove-route`, `remove-address` or `remove-tunnel`.
    pub kind: String,
    /// As `headgate plan` prints it.
    pub step: String,
    /// What it consists of, one thing a line: chains, maps, how many elements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// What became of it: `set`, `refused: …`; absent in a plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// The answer to every change: the kernel now does what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Applied {
    /// The generation of the configuration that runs; absent when no state could be kept.
    pub generation: Option<u64>,
    /// It runs on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// In order; empty: nothing was written into the kernel.
    pub steps: Vec<StepLine>,
    /// What was asked for was not so yet, and is written down, whether the kernel had something to change or not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stored: bool,
    /// What people should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A configuration that returns to the one before unless somebody confirms it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trial {
    /// The generation on trial; absent when it could not be kept.
    pub generation: Option<u64>,
    /// The generation that returns.
    pub back: u64,
    /// When it does.
    pub seconds_left: u64,
}

/// How files are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Apply {
    /// On trial, for so long; 1 second to a day. Absent: for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

/// What was on trial is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The generation that runs.
    pub generation: Option<u64>,
}

/// One of two configurations that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Compared {
    /// A generation of the history.
    Generation(u64),
    /// What runs, with what was changed at run time.
    Running,
    /// What `apply` would load.
    Files,
}

/// It is none of the three.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the number of a generation, nor `running` or `files`")]
pub struct NotCompared(String);

impl std::str::FromStr for Compared {
    type Err = NotCompared;

    fn from_str(text: &str) -> Result<Self, NotCompared> {
        match text {
            "running" => Ok(Compared::Running),
            "files" => Ok(Compared::Files),
            number => number.parse().map(Compared::Generation).map_err(|_| NotCompared(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Compared {
    type Error = NotCompared;

    fn try_from(text: String) -> Result<Self, NotCompared> {
        text.parse()
    }
}

impl From<Compared> for String {
    fn from(side: Compared) -> String {
        side.to_string()
    }
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Compared::Generation(number) => write!(f, "{number}"),
            Compared::Running => f.write_str("running"),
            Compared::Files => f.write_str("files"),
        }
    }
}

/// Which two configurations are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diff {
    /// The earlier one.
    pub from: Compared,
    /// The later one.
    pub to: Compared,
}

/// A value, or a whole table, that two configurations have otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The keys that lead to it: `["farms", "web", "backends", "b1", "weight"]`.
    pub path: Vec<String>,
    /// What it was, as TOML; absent: it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it is, as TOML; absent: it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What `apply` would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Planned {
    /// In order; empty: nothing to do.
    pub steps: Vec<StepLine>,
    /// What people should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A generation of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Generation {
    /// Counts up from 1.
    pub number: u64,
    /// When it was first applied, seconds since 1970.
    pub time: u64,
    /// SHA-256 over its files, hexadecimal.
    pub hash: String,
    /// What brought it: `start`, `reload`, `apply`, `operator`.
    pub reason: String,
    /// Who asked for it: the user at the other end of the socket, or the name of a token. Absent: a start, or a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What it changed of the one before, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// The names of its files.
    pub files: Vec<String>,
    /// It runs now.
    #[serde(default)]
    pub running: bool,
    /// It was returned from; the files under `/etc` still say it.
    #[serde(default)]
    pub returned: bool,
}

/// Which generation to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rollback {
    /// Absent: the one before the running one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// On trial, for so long; 1 second to a day. Absent: for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

/// Which flows: of a farm, of one backend of it, of all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Absent: all farms.
    pub farm: Option<String>,
    /// Absent: all backends.
    pub backend: Option<String>,
    /// Most flows listed; default 1000.
    pub limit: Option<usize>,
}

/// A flow of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Flow {
    /// Its farm.
    pub farm: String,
    /// Its backend.
    pub backend: String,
    /// `tcp`, `udp`, …, or the number.
    pub protocol: String,
    /// As the client sent it.
    pub client: String,
    /// The virtual address.
    pub service: String,
    /// Where it went.
    pub endpoint: String,
    /// TCP state, when there is one.
    pub state: Option<String>,
    /// It goes by the flowtable (`offload = true`).
    #[serde(default)]
    pub offloaded: bool,
    /// Seconds until it is forgotten.
    pub timeout: Option<u32>,
}

/// Flows, at most as many as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Connections {
    /// The flows.
    pub flows: Vec<Flow>,
    /// There are more than were listed.
    pub more: bool,
}

/// A client that a farm remembers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RememberedClient {
    /// The fields of the key, in their order.
    pub client: Vec<String>,
    /// Where its flows go; `?` when it is not there any more.
    pub backend: String,
    /// Seconds until it is forgotten, unless it comes back; `None` for an assignment.
    pub expires: Option<u64>,
}

/// Clients that a farm remembers, and those that somebody has assigned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clients {
    /// The fields of the key.
    pub key: Vec<String>,
    /// At most 100,000.
    pub clients: Vec<RememberedClient>,
    /// There are more than are listed.
    pub more: bool,
}

/// Clients that were forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Forgotten {
    /// How many.
    pub clients: u64,
}

/// Flows that were cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flushed {
    /// How many.
    pub flows: u64,
}
