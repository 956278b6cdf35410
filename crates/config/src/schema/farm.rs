//! `[farms]`, `[defaults.farm]` and `[policies]`.

use super::{DAY, Form, HOUR, Key, Kind, Merge, Preset, SECOND, between, key, words};
use crate::model::{
    BackendState, DsrVia, FarmState, HashField, HealthType, Helper, LimitAction, LogEvent, ManageAddress, Mode,
    OnEmpty, OnFail, PolicyAction, SchedulerName,
};
use std::time::Duration;

const ENABLED: Key =
    key("enabled", Kind::Boolean, Preset::Boolean(true), "`false` removes the entry, wherever it was written.");
const HASH_FIELDS: Kind = Kind::List(&Kind::Word(words::<HashField>));
/// Each family of a farm has 15 bits for them beside the farm's id.
pub(crate) const SLOTS_MAX: i64 = 32768;
const MARK: Kind = Kind::Integer(1, 0xffff_ffff);

/// Keys at the head of [`FARM`] that belong to one farm only.
const OWN: usize = 3;

/// `[defaults.farm]`: what farms may share.
pub(super) static DEFAULTS: &[Key] = FARM.split_at(OWN).1;

pub(super) static FARM: &[Key] = &[
    key(
        "listen",
        Kind::OneOrMore(&Kind::Text(Form::Listen)),
        Preset::None,
        "What the farm answers on: `ADDR:PORT`, `ADDR:LO-HI` or `ADDR:*`, then `/tcp` (the default), `/udp` or `/sctp`; `ADDR:*/any` takes every protocol. Exact ports win over ranges, ranges over `*`, `*` over `any`. Required.",
    ),
    key(
        "backends",
        Kind::Named("backend", BACKEND),
        Preset::None,
        "Where flows go. At least one, but in mode `local`.",
    ),
    ENABLED,
    key(
        "mode",
        Kind::Word(words::<Mode>),
        Preset::Text("snat"),
        "How packets reach a backend. `snat`: destination and source are rewritten, replies return by themselves. `dnat`: the backend sees the client and routes back through the box. `dsr`: the backend answers the client directly. `stateless`: rewriting without connection tracking. `local`: policies and limits for a service of the box itself.",
    ),
    key(
        "scheduler",
        Kind::Word(words::<SchedulerName>),
        Preset::Text("round-robin"),
        "How the backend of a new flow is picked. All honour weights.",
    ),
    key("hash", HASH_FIELDS, Preset::List(&["source-address"]), "What `hash` and `maglev` look at."),
    key(
        "slots",
        Kind::Integer(1, SLOTS_MAX),
        Preset::Integer(1021),
        "Size of the table of `hash` and `maglev`; for `maglev` a prime, 32749 at most. More slots follow weights more closely and cost memory.",
    ),
    key(
        "state",
        Kind::Word(words::<FarmState>),
        Preset::Text("up"),
        "`up` serves, `down` refuses new flows and lets established ones go on, `off` takes the farm out of the data plane.",
    ),
    key(
        "on-empty",
        Kind::Word(words::<OnEmpty>),
        Preset::Text("reject"),
        "What a client meets when no backend is usable: `reject` is a TCP reset or an ICMP error, `drop` is silence.",
    ),
    key(
        "source-addresses",
        Kind::List(&Kind::Text(Form::Address)),
        Preset::Told("the address that the route to the backend would use"),
        "Pool of source addresses for `snat`.",
    ),
    key("offload", Kind::Boolean, Preset::Boolean(false), "Flowtable fast path for established flows."),
    key("mark", MARK, Preset::None, "Mark of the packets, for policy routing. A backend's mark replaces it."),
    key(
        "helper",
        Kind::Word(words::<Helper>),
        Preset::None,
        "Connection tracking helper for a protocol that opens further connections.",
    ),
    key(
        "policies",
        Kind::List(&Kind::Text(Form::Name)),
        Preset::List(&[]),
        "Names of `[policies]`, in this order; the first that matches decides. A client that none matches meets the opposite of the last one's action: a last policy that allows shuts out everybody else.",
    ),
    key(
        "log",
        Kind::List(&Kind::Word(words::<LogEvent>)),
        Preset::List(&[]),
        "What is logged, rate-limited: `new` flows, `denied` packets.",
    ),
    key(
        "queue",
        Kind::Integer(0, 65535),
        Preset::None,
        "Hands new flows to this NFQUEUE first; bypassed when nobody listens.",
    ),
    key("address", Kind::Table(Merge::Deep, ADDRESS), Preset::None, "Who carries the virtual addresses."),
    key("persistence", Kind::Table(Merge::Deep, PERSISTENCE), Preset::None, "Stickiness: a client keeps its backend."),
    key(
        "limits",
        Kind::Table(Merge::Deep, LIMITS),
        Preset::None,
        "Protection, per client address unless the key says otherwise.",
    ),
    key("health", Kind::Table(Merge::Deep, HEALTH), Preset::None, "How backends are probed."),
    key("dsr", Kind::Table(Merge::Whole, DSR), Preset::None, "How packets reach the backends of a `dsr` farm."),
];

static BACKEND: &[Key] = &[
    ENABLED,
    key(
        "address",
        Kind::Text(Form::Endpoint),
        Preset::None,
        "Address and port; without a port the client's is kept, as ranges need. A backend serves the listeners of its own family. Required.",
    ),
    key(
        "weight",
        Kind::Integer(0, 65535),
        Preset::Integer(1),
        "Share of new flows. 0 takes none; persistent and existing ones stay.",
    ),
    key(
        "priority",
        Kind::Integer(1, 65535),
        Preset::Integer(1),
        "The lowest number with a usable backend serves; the others are spares.",
    ),
    key(
        "state",
        Kind::Word(words::<BackendState>),
        Preset::Text("up"),
        "`up` serves, `drain` takes no new flows, `down` takes nothing.",
    ),
    key(
        "max-connections",
        Kind::Integer(1, 0xffff_ffff),
        Preset::Told("no limit"),
        "New flows go elsewhere beyond this.",
    ),
    key("mark", MARK, Preset::Told("the farm's"), "Mark of the packets to this backend."),
    key(
        "source-address",
        Kind::Text(Form::Address),
        Preset::Told("the farm's"),
        "Source of the packets to this backend in mode `snat`.",
    ),
];

static ADDRESS: &[Key] = &[
    key(
        "interface",
        Kind::Text(Form::Interface),
        Preset::Told("the interface of its subnet"),
        "Role or kernel name of the interface that gets an address which none carries.",
    ),
    key(
        "manage",
        Kind::Word(words::<ManageAddress>),
        Preset::Text("auto"),
        "`never` when another program owns the addresses (VRRP, BGP).",
    ),
];

static PERSISTENCE: &[Key] = &[
    key("key", HASH_FIELDS, Preset::List(&["source-address"]), "What makes two flows the same client."),
    key(
        "timeout",
        between(SECOND, Duration::from_secs(30 * 86400)),
        Preset::Text("5m"),
        "How long an idle client keeps its backend.",
    ),
    key("size", Kind::Integer(1, 16_777_216), Preset::Integer(65536), "Most clients remembered."),
    key(
        "static",
        Kind::Map(Merge::Whole, Form::Address, &Kind::Text(Form::Name)),
        Preset::None,
        "Fixed assignments: client address to backend.",
    ),
];

static LIMITS: &[Key] = &[
    key(
        "new-connections",
        Kind::Text(Form::Rate),
        Preset::None,
        "New connections of one client. Without `burst` as many may come at once as in the whole unit. 65,536 clients are watched at a time; when that is full, further ones pass.",
    ),
    key(
        "new-connections-total",
        Kind::Text(Form::Rate),
        Preset::None,
        "New connections of all clients together, both families.",
    ),
    key(
        "connections-per-client",
        Kind::Integer(1, 0xffff_ffff),
        Preset::None,
        "Open connections of one client. After a change of the number those opened since then count.",
    ),
    key("tcp-resets", Kind::Text(Form::Rate), Preset::None, "TCP resets of one client."),
    key("strict-tcp", Kind::Boolean, Preset::Boolean(false), "Drops packets that no TCP handshake could produce."),
    key("syn-proxy", Kind::Boolean, Preset::Boolean(false), "Answers a SYN before a backend sees it."),
    key(
        "ban",
        between(SECOND, DAY),
        Preset::None,
        "How long a client that exceeded one of its limits stays out. Its established connections go on. Whoever forges source addresses can have others banned.",
    ),
    key(
        "action",
        Kind::Word(words::<LimitAction>),
        Preset::Text("drop"),
        "What a new connection beyond a limit meets: `drop` silence, `reject` a TCP reset or ICMP port unreachable, `log` nothing, it is only counted.",
    ),
];

static HEALTH: &[Key] = &[
    key("type", Kind::Word(words::<HealthType>), Preset::Text("tcp"), "What is tried."),
    key(
        "port",
        Kind::Integer(1, 65535),
        Preset::Told("the backend's, else the only one the farm has"),
        "Port of the probe.",
    ),
    key("path", Kind::Text(Form::HttpPath), Preset::Text("/"), "`http`, `https`: the request target."),
    key("method", Kind::Text(Form::Token), Preset::Text("GET"), "`http`, `https`: the method."),
    key("host", Kind::Text(Form::Line), Preset::Told("the backend's address"), "`http`, `https`: the `Host` header."),
    key(
        "headers",
        Kind::Map(Merge::Deep, Form::Token, &Kind::Text(Form::Line)),
        Preset::None,
        "`http`, `https`: further headers.",
    ),
    key(
        "expect",
        Kind::Text(Form::Status),
        Preset::Text("200-399"),
        "`http`, `https`: a good status, or a range of them.",
    ),
    key(
        "expect-body",
        Kind::Text(Form::Any),
        Preset::None,
        "`http`, `https`, `tcp`, `udp`: must occur in the first 64 KiB of the answer.",
    ),
    key(
        "send",
        Kind::Text(Form::Any),
        Preset::None,
        "`tcp`, `udp`: sent first. With `udp` an answer must come then; with neither `send` nor `expect-body` silence is good, and only an ICMP error fails.",
    ),
    key(
        "query",
        Kind::Text(Form::DnsQuery),
        Preset::None,
        "`dns`: name and type, as in `example.org A`; the answer must have a record of the type. Required there.",
    ),
    key(
        "command",
        Kind::List(&Kind::Text(Form::Line)),
        Preset::None,
        "`exec`: program and arguments, no shell; exit status 0 is healthy. In its environment: `HEADGATE_FARM`, `HEADGATE_BACKEND`, `HEADGATE_ADDRESS`, `HEADGATE_PORT`, `HEADGATE_TIMEOUT_MS`. It is killed with its process group when it ends or is late. Required there.",
    ),
    key("tls", Kind::Table(Merge::Deep, TLS), Preset::None, "`https`: TLS."),
    key(
        "source-address",
        Kind::Text(Form::Address),
        Preset::Told("the address that the route would use"),
        "Source of the probes to backends of its family.",
    ),
    key("interval", between(Duration::from_millis(100), HOUR), Preset::Text("2s"), "Time between probes."),
    key(
        "timeout",
        between(Duration::from_millis(10), HOUR),
        Preset::Text("1s"),
        "A probe that takes longer has failed. Not longer than `interval`.",
    ),
    key(
        "rise",
        Kind::Integer(1, 100),
        Preset::Integer(2),
        "Successes in a row until healthy. Twice as many for each fall but the first within ten minutes, 16 times at most.",
    ),
    key("fall", Kind::Integer(1, 100), Preset::Integer(3), "Failures in a row until unhealthy."),
    key(
        "on-fail",
        Kind::Word(words::<OnFail>),
        Preset::Text("drain"),
        "Of a backend that goes down: `drain` stops new flows, `reset` cuts the existing ones too. Also what the operator takes down, without checks as well.",
    ),
];

static TLS: &[Key] = &[
    key("server-name", Kind::Text(Form::Hostname), Preset::Told("`host`"), "Name that is asked for and verified."),
    key("verify", Kind::Boolean, Preset::Boolean(true), "Whether the certificate is verified."),
    key("ca", Kind::Text(Form::File), Preset::Told("the system's"), "Authorities, a PEM file below `/etc/headgate`."),
    key("client-certificate", Kind::Text(Form::File), Preset::None, "Client certificate, PEM. Needs `client-key`."),
    key("client-key", Kind::Text(Form::File), Preset::None, "Client key, PEM."),
];

static DSR: &[Key] = &[
    key(
        "via",
        Kind::Word(words::<DsrVia>),
        Preset::Text("l2"),
        "`l2`: the frame goes to the backend's MAC address; `ipip`, `gre`: in a tunnel.",
    ),
    key(
        "interface",
        Kind::Text(Form::Interface),
        Preset::Told("the interface of the route to the backend"),
        "Role or kernel name of the interface towards the backends.",
    ),
];

pub(super) static POLICY: &[Key] = &[
    ENABLED,
    key("action", Kind::Word(words::<PolicyAction>), Preset::None, "What a match means. Required."),
    key("elements", Kind::List(&Kind::Text(Form::Prefix)), Preset::List(&[]), "Addresses and prefixes."),
    key(
        "file",
        Kind::Text(Form::File),
        Preset::None,
        "A file below `/etc/headgate`, not reached by symbolic links, of at most 8 MiB: one address or prefix a line, `#` comments. It is read again by SIGHUP and `apply`.",
    ),
];
