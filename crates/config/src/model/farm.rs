//! `[farms]` and `[policies]`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Backends, Origin, Ranges};
use crate::types::{BackendName, Endpoint, FarmName, Listen, PolicyName, Ports, Rate};

/// How a farm forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Mode {
    /// Destination and source are rewritten; replies come back through the box by themselves.
    #[default]
    Snat,
    /// The destination is rewritten; the backend sees the client and routes back through the box.
    Dnat,
    /// Direct server return.
    Dsr,
    /// Rewriting without connection tracking.
    Stateless,
    /// Policies and limits for a service of the box itself.
    Local,
}

/// A field of a packet that `hash` and persistence may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum HashField {
    SourceAddress,
    SourcePort,
    DestinationAddress,
    DestinationPort,
    SourceMac,
    DestinationMac,
}

/// How a farm picks the backend of a new flow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scheduler {
    /// In turn, weighted and smooth.
    #[default]
    RoundRobin,
    /// At random, by weight.
    Random,
    /// By a seeded hash over the fields.
    Hash {
        /// At least one.
        fields: Vec<HashField>,
        /// Size of the slot table.
        slots: u32,
    },
    /// By a consistent hash over the fields.
    Maglev {
        /// At least one.
        fields: Vec<HashField>,
        /// Size of the slot table, prime.
        slots: u32,
    },
    /// To the backend with the fewest flows for its weight.
    LeastConnections,
}

/// The operator's state of a farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum FarmState {
    /// Serves.
    #[default]
    Up,
    /// Refuses new flows; established ones go on.
    Down,
    /// Not in the data plane at all.
    Off,
}

/// The operator's state of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum BackendState {
    /// Serves.
    #[default]
    Up,
    /// Takes no new flows; established ones stay.
    Drain,
    /// Takes nothing.
    Down,
}

/// What a client meets when no backend is usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum OnEmpty {
    /// TCP reset, ICMP port unreachable for everything else.
    #[default]
    Reject,
    /// Silence.
    Drop,
}

/// Who adds the virtual addresses of a farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ManageAddress {
    /// Added where no interface carries them, announced, removed with the farm.
    #[default]
    Auto,
    /// Another program owns them (VRRP, BGP).
    Never,
}

/// What a farm logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum LogEvent {
    New,
    Denied,
}

/// A connection tracking helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Helper {
    Ftp,
    Pptp,
    Sip,
    Snmp,
    Tftp,
}

/// How DSR packets reach the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dsr {
    /// The encapsulation.
    pub via: DsrVia,
    /// Role or kernel name of the interface towards the backends.
    pub interface: Option<String>,
}

/// The encapsulation of DSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum DsrVia {
    L2,
    Ipip,
    Gre,
}

/// One farm: addresses on one side, backends on the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farm {
    /// Its key in `[farms]`.
    pub name: FarmName,
    /// The line of `[farms.NAME]`.
    pub origin: Origin,
    /// How it forwards.
    pub mode: Mode,
    /// What it answers on, at least one, sorted, no duplicates.
    pub listen: Vec<Listen>,
    /// How it picks a backend.
    pub scheduler: Scheduler,
    /// The operator's state.
    pub state: FarmState,
    /// What a client meets when no backend is usable.
    pub on_empty: OnEmpty,
    /// SNAT pool; empty: the address that the route to the backend would use.
    pub source_addresses: Vec<IpAddr>,
    /// Flowtable fast path.
    pub offload: bool,
    /// Packet mark for policy routing.
    pub mark: Option<u32>,
    /// Connection tracking helper.
    pub helper: Option<Helper>,
    /// In this order, the first that matches decides.
    pub policies: Vec<PolicyName>,
    /// What is logged.
    pub log: Vec<LogEvent>,
    /// NFQUEUE number for new flows.
    pub queue: Option<u16>,
    /// Role or kernel name of the interface that gets the virtual addresses; `None`: the one of their subnet.
    pub address_interface: Option<String>,
    /// Who adds the virtual addresses.
    pub address_manage: ManageAddress,
    /// Stickiness.
    pub persistence: Option<Persistence>,
    /// Protection.
    pub limits: Option<Limits>,
    /// Health checks; `None` also for `type = "none"`.
    pub health: Option<Health>,
    /// What becomes of the established flows of a backend that goes down, whoever took it down.
    pub on_fail: OnFail,
    /// Only with [`Mode::Dsr`].
    pub dsr: Option<Dsr>,
    /// By name; at least one but in [`Mode::Local`].
    pub backends: Backends,
}

impl Farm {
    /// The same in memory of its own: its names too, which a clone shares.
    #[must_use]
    pub fn copied(&self) -> Self {
        let copy = |backend: &Backend| Backend { name: backend.name.copied(), ..backend.clone() };
        Self { name: self.name.copied(), backends: self.backends.values().map(copy).collect(), ..self.clone() }
    }

    /// The port at which a check asks a backend: the check's own, the backend's, or the only one that the farm has in its
    /// family. `None`: no port is known, or there is no check.
    pub fn probe_port(&self, backend: &Backend) -> Option<u16> {
        let ipv4 = backend.address.address.is_ipv4();
        let mut ports = self.listen.iter().filter(|listen| listen.address.is_ipv4() == ipv4).map(|listen| listen.ports);
        let listened = || match ports.next()? {
            Ports::One(port) => ports.all(|other| other == Ports::One(port)).then_some(port),
            _ => None,
        };
        self.health.as_ref()?.port.or(backend.address.port).or_else(listened)
    }
}

/// One backend of a farm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its key in `[farms.X.backends]`.
    pub name: BackendName,
    /// The line of its table.
    pub origin: Origin,
    /// Where flows go; without a port the client's is kept.
    pub address: Endpoint,
    /// 0 to 65535; 0 takes no new flows.
    pub weight: u16,
    /// The lowest number with a usable backend serves; default 1.
    pub priority: u32,
    /// The operator's state.
    pub state: BackendState,
    /// New flows go elsewhere beyond this.
    pub max_connections: Option<u32>,
    /// Packet mark, replaces the farm's.
    pub mark: Option<u32>,
    /// SNAT source, replaces the farm's.
    pub source_address: Option<IpAddr>,
}

/// `[farms.X.persistence]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persistence {
    /// At least one field.
    pub key: Vec<HashField>,
    /// How long an idle client keeps its backend.
    pub timeout: Duration,
    /// Most clients remembered.
    pub size: u32,
    /// Fixed assignments.
    pub fixed: BTreeMap<IpAddr, BackendName>,
}

/// What happens to an offender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[allow(missing_docs)]
pub enum LimitAction {
    #[default]
    Drop,
    Reject,
    Log,
}

/// `[farms.X.limits]`; per client address unless the field says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// New connections of one client.
    pub new_connections: Option<Rate>,
    /// New connections of all clients together.
    pub new_connections_total: Option<Rate>,
    /// Open connections of one client.
    pub connections_per_client: Option<u32>,
    /// TCP resets of one client.
    pub tcp_resets: Option<Rate>,
    /// Drop packets that no TCP handshake could produce.
    pub strict_tcp: bool,
    /// Answer SYNs before a backend sees them.
    pub syn_proxy: bool,
    /// How long an offender stays out.
    pub ban: Option<Duration>,
    /// What happens to an offender.
    pub action: LimitAction,
}

/// `[farms.X.health]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is tried.
    pub check: HealthCheck,
    /// Default: the backend's port.
    pub port: Option<u16>,
    /// Source of the probes.
    pub source_address: Option<IpAddr>,
    /// Time between probes.
    pub interval: Duration,
    /// Not longer than `interval`.
    pub timeout: Duration,
    /// Successes until healthy.
    pub rise: u32,
    /// Failures until unhealthy.
    pub fall: u32,
}

/// What happens to the flows of a backend that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[allow(missing_docs)]
pub enum OnFail {
    #[default]
    Drain,
    Reset,
}

/// What a health check tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheck {
    /// A connection; optionally bytes sent and bytes expected.
    Tcp {
        /// Sent after connecting.
        send: Option<String>,
        /// Must occur in the answer.
        expect_body: Option<String>,
    },
    /// A request over HTTP or HTTPS.
    Http {
        /// The request target.
        path: String,
        /// The method.
        method: String,
        /// The `Host` header.
        host: Option<String>,
        /// Further headers.
        headers: BTreeMap<String, String>,
        /// First and last good status.
        expect: (u16, u16),
        /// Must occur in the body.
        expect_body: Option<String>,
        /// TLS, for `https`.
        tls: Option<HealthTls>,
    },
    /// An echo request.
    Icmp,
    /// A datagram and its answer.
    Udp {
        /// The payload.
        send: Option<String>,
        /// Must occur in the answer.
        expect_body: Option<String>,
    },
    /// A DNS question: name and type.
    Dns {
        /// For example `"example.org A"`.
        query: String,
    },
    /// A program; exit 0 is healthy.
    Exec {
        /// Program and arguments, no shell.
        command: Vec<String>,
    },
}

/// TLS of an `https` check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthTls {
    /// SNI and the name that is verified.
    pub server_name: Option<String>,
    /// Whether the certificate is verified.
    pub verify: bool,
    /// Authorities, a PEM file below `/etc/headgate`.
    pub ca: Option<String>,
    /// Client certificate, PEM.
    pub client_certificate: Option<String>,
    /// Client key, PEM.
    pub client_key: Option<String>,
}

/// `[policies.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its key in `[policies]`.
    pub name: PolicyName,
    /// The line of its table.
    pub origin: Origin,
    /// What a match means.
    pub action: PolicyAction,
    /// What its prefixes cover, those written inline and those of its file. Shared: it can be large.
    pub ranges: Arc<Ranges>,
}

/// What a policy does to a packet that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum PolicyAction {
    Allow,
    Deny,
}
