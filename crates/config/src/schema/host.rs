//! `[site]`, `[system]`, `[hardware]`, `[network]`, `[sysctl]`, `[api]`, `[metrics]` and `[services]`.

use std::time::Duration;

use super::{Form, HOUR, Key, Kind, Merge, Preset, between, key, profile, words};
use crate::model::{AcceptRa, BondMode, LacpRate, Restart, TrafficCount, TrustMedia, XmitHashPolicy};

const ENABLED: Key =
    key("enabled", Kind::Boolean, Preset::Boolean(true), "`false` removes the entry, wherever it was written.");

pub(super) static SITE: &[Key] = &[key(
    "secret",
    Kind::Text(Form::Secret),
    Preset::Told("made at first start"),
    "Mixed into every hash, so that a client cannot aim at a backend. The same on all boxes that serve the same addresses.",
)];

pub(super) static SYSTEM: &[Key] = &[
    key("hostname", Kind::Text(Form::Hostname), Preset::None, "Name of the box."),
    key(
        "protect",
        Kind::Boolean,
        Preset::Told("true on the appliance, false elsewhere"),
        "Filters traffic to the box itself by the `allow` lists of the interfaces.",
    ),
    key("ntp-servers", Kind::List(&Kind::Text(Form::Address)), Preset::List(&[]), "Time servers, by address."),
    key(
        "dns-servers",
        Kind::List(&Kind::Text(Form::Address)),
        Preset::List(&[]),
        "Who resolves names for the appliance, by address, three at most; without any those that a lease of DHCP brings.",
    ),
    key(
        "syslog",
        Kind::Text(Form::Syslog),
        Preset::None,
        "Where the log goes as well: `udp://ADDR:PORT` or `tcp://ADDR:PORT`.",
    ),
    key(
        "authorized-keys",
        Kind::List(&Kind::Text(Form::SshKey)),
        Preset::List(&[]),
        "Who may log in over ssh, on the appliance; without a key nothing listens.",
    ),
    key(
        "trust-media",
        Kind::Word(words::<TrustMedia>),
        Preset::Text("first-boot"),
        "When drop-ins from the ESP, a stick and fw_cfg are taken.",
    ),
];

pub(super) static HARDWARE: &[Key] = &[
    key(
        "profile",
        Kind::Text(Form::Name),
        Preset::Text("auto"),
        "`auto`: the best match; the name of a file in `hwprofiles/`; `none`: nothing is tuned but what forwarding needs.",
    ),
    key("overrides", Kind::Table(Merge::Deep, profile::TUNING), Preset::None, "Each key replaces the profile's."),
];

/// What `[sysctl]` takes.
pub(super) static SYSCTL_VALUE: &Kind = &Kind::Either(&[Kind::Integer(i64::MIN, i64::MAX), Kind::Text(Form::Line)]);

const ADDRESSES: Key = key(
    "addresses",
    Kind::List(&Kind::Text(Form::InterfaceAddress)),
    Preset::List(&[]),
    "Addresses with prefix length, or `dhcp`.",
);
// RFC 791 asks for 68; loopback carries 65536, nothing on a wire more.
const MTU: Key = key(
    "mtu",
    Kind::Integer(68, 65536),
    Preset::Told("what the interface has"),
    "Largest packet, bytes. With IPv6 at least 1280.",
);
const ACCEPT_RA: Key = key(
    "accept-ra",
    Kind::Word(words::<AcceptRa>),
    Preset::Text("no"),
    "Whether IPv6 router advertisements are believed.",
);
const VRF_OF: Key = key("vrf", Kind::Text(Form::Name), Preset::None, "The one of `[network.vrfs]` that it belongs to.");
const ALLOW: Key = key(
    "allow",
    Kind::List(&ALLOW_ENTRY),
    Preset::List(&["ping"]),
    "What of the box itself answers here: `ping`, `ssh`, `api`, `metrics`, `bgp`, `vrrp`, `all`, `tcp/PORT`, `udp/PORT`, or `{ service = …, from = [PREFIX, …] }`.",
);

static ALLOW_ENTRY: Kind = Kind::Either(&[Kind::Text(Form::Service), Kind::Table(Merge::Whole, ALLOW_FROM)]);

static ALLOW_FROM: &[Key] = &[
    key("service", Kind::Text(Form::Service), Preset::None, "As above. Required."),
    key("from", Kind::List(&Kind::Text(Form::Prefix)), Preset::Told("anywhere"), "Who may."),
];

pub(super) static NETWORK: &[Key] = &[
    key(
        "interfaces",
        Kind::Named("interface", INTERFACE),
        Preset::None,
        "By role: `service`, `backend`. Without `match` the role is the kernel name.",
    ),
    key("vlans", Kind::Named("interface", VLAN), Preset::None, "802.1Q interfaces."),
    key("bonds", Kind::Named("interface", BOND), Preset::None, "Bonded interfaces."),
    key(
        "vrfs",
        Kind::Named("interface", VRF),
        Preset::None,
        "Interfaces with a routing table of their own, for management.",
    ),
    key("routes", Kind::Named("route", ROUTE), Preset::None, "Static routes."),
    key("rules", Kind::Named("rule", RULE), Preset::None, "Which packets ask which routing table."),
    key(
        "neighbours",
        Kind::Named("neighbour", NEIGHBOUR),
        Preset::None,
        "Whose MAC address is known and not asked for, by ARP or neighbour discovery.",
    ),
];

static INTERFACE: &[Key] = &[
    ENABLED,
    key(
        "match",
        Kind::Table(Merge::Whole, MATCH),
        Preset::Told("the role is the kernel name"),
        "Which kernel interface has this role: all that is given must fit.",
    ),
    ADDRESSES,
    MTU,
    ACCEPT_RA,
    VRF_OF,
    ALLOW,
];

static MATCH: &[Key] = &[
    key("name", Kind::Text(Form::KernelName), Preset::None, "Kernel name."),
    key("mac", Kind::Text(Form::Mac), Preset::None, "Permanent MAC address."),
    key("driver", Kind::Text(Form::Token), Preset::None, "Kernel driver."),
    key("pci", Kind::Text(Form::Pci), Preset::None, "PCI address, as in `0000:01:00.0`."),
    key(
        "index",
        Kind::Integer(0, 1023),
        Preset::None,
        "Position among those that fit the rest, by PCI address and kernel index, from 0.",
    ),
];

static VLAN: &[Key] = &[
    ENABLED,
    key(
        "parent",
        Kind::Text(Form::Interface),
        Preset::None,
        "Role or kernel name of the interface that carries it. Required.",
    ),
    key("id", Kind::Integer(1, 4094), Preset::None, "802.1Q VLAN. Required."),
    ADDRESSES,
    MTU,
    ACCEPT_RA,
    VRF_OF,
    ALLOW,
];

static BOND: &[Key] = &[
    ENABLED,
    key("members", Kind::List(&Kind::Text(Form::Interface)), Preset::None, "Roles or kernel names. At least one."),
    key("mode", Kind::Word(words::<BondMode>), Preset::Text("active-backup"), "As the kernel names them."),
    key(
        "miimon",
        between(Duration::ZERO, Duration::from_secs(60)),
        Preset::Text("100ms"),
        "Between two looks at the carriers of the members, in whole milliseconds; `0ms`: never.",
    ),
    key(
        "lacp-rate",
        Kind::Word(words::<LacpRate>),
        Preset::Text("slow"),
        "How often the other side of `802.3ad` is asked to send: every 30 s or every second.",
    ),
    key(
        "xmit-hash-policy",
        Kind::Word(words::<XmitHashPolicy>),
        Preset::Text("layer3+4"),
        "What decides which member a packet leaves by, with `802.3ad`, `balance-xor` and `balance-tlb`.",
    ),
    ADDRESSES,
    MTU,
    ACCEPT_RA,
    VRF_OF,
    ALLOW,
];

static VRF: &[Key] = &[
    ENABLED,
    key("table", Kind::Integer(1, 0xffff_ffff), Preset::None, "Its routing table, but not 253 to 255. Required."),
];

static ROUTE: &[Key] = &[
    ENABLED,
    key("to", Kind::Text(Form::Destination), Preset::None, "`default` or a prefix. Required."),
    key("via", Kind::Text(Form::Address), Preset::None, "The next hop. This or `interface` is required."),
    key("interface", Kind::Text(Form::Interface), Preset::Told("the one that reaches `via`"), "Role or kernel name."),
    key("metric", Kind::Integer(0, 0xffff_ffff), Preset::Told("the kernel's"), "The lowest wins."),
    key("table", Kind::Integer(1, 0xffff_ffff), Preset::Told("main"), "Routing table."),
    key("source", Kind::Text(Form::Address), Preset::None, "Preferred source address."),
];

static RULE: &[Key] = &[
    ENABLED,
    key(
        "priority",
        Kind::Integer(1, 0xffff_ffff),
        Preset::None,
        "The lowest is asked first; the main table has 32766. Required.",
    ),
    key(
        "table",
        Kind::Integer(1, 0xffff_ffff),
        Preset::None,
        "The routing table that is asked, but not 253 and 255; main is 254. Without a route there, the next rule. Required.",
    ),
    key("from", Kind::Text(Form::Prefix), Preset::Told("any"), "Source of the packets."),
    key("to", Kind::Text(Form::Prefix), Preset::Told("any"), "Destination of the packets."),
    key(
        "mark",
        Kind::Integer(0, 0xffff_ffff),
        Preset::Told("any"),
        "Mark of the packets, as `mark` of a farm sets it.",
    ),
    key("mask", Kind::Integer(1, 0xffff_ffff), Preset::Told("all bits"), "The bits of `mark` that are compared."),
    key(
        "interface",
        Kind::Text(Form::Interface),
        Preset::Told("any"),
        "Role or kernel name of the interface by which packets come in; `lo`: those of the box itself.",
    ),
];

static NEIGHBOUR: &[Key] = &[
    ENABLED,
    key(
        "interface",
        Kind::Text(Form::Interface),
        Preset::None,
        "Role or kernel name of the interface that leads there. Required.",
    ),
    key("address", Kind::Text(Form::Address), Preset::None, "Its IP address. Required."),
    key("mac", Kind::Text(Form::Mac), Preset::None, "Its MAC address. Required."),
];

pub(super) static API: &[Key] = &[
    key("listen", Kind::Text(Form::Socket), Preset::None, "Address and port for HTTPS with tokens."),
    key(
        "certificate",
        Kind::Text(Form::File),
        Preset::Told("made at first start"),
        "PEM file with certificate and key, below `/etc/headgate`.",
    ),
];

pub(super) static METRICS: &[Key] = &[
    key(
        "listen",
        Kind::Text(Form::Socket),
        Preset::None,
        "Address and port for OpenMetrics. On any other address than loopback it needs a token or an allow list.",
    ),
    key("traffic", Kind::Word(words::<TrafficCount>), Preset::Text("flows"), "What is counted per backend."),
];

pub(super) static SERVICE: &[Key] = &[
    ENABLED,
    key(
        "command",
        Kind::List(&Kind::Text(Form::Line)),
        Preset::None,
        "Program, as an absolute path, and its arguments; no shell. Required.",
    ),
    key("restart", Kind::Word(words::<Restart>), Preset::Text("always"), "When it is started again."),
    key(
        "backoff",
        Kind::Table(Merge::Whole, BACKOFF),
        Preset::None,
        "Time between restarts: doubles from `initial` to `max`.",
    ),
    key(
        "after",
        Kind::List(&Kind::Text(Form::Name)),
        Preset::List(&[]),
        "Services that start before it; `network` means once the network is configured.",
    ),
    key(
        "ready",
        Kind::Table(Merge::Whole, READY),
        Preset::Told("up once it runs"),
        "What must answer before it counts as up.",
    ),
    key("stop-timeout", between(Duration::from_millis(100), HOUR), Preset::Text("5s"), "From SIGTERM to SIGKILL."),
];

static BACKOFF: &[Key] = &[
    key("initial", between(Duration::from_millis(10), HOUR), Preset::Text("100ms"), "The first wait."),
    key(
        "max",
        between(Duration::from_millis(10), HOUR),
        Preset::Text("30s"),
        "The longest wait; a run of this length starts over at `initial`.",
    ),
];

static READY: &[Key] = &[key("tcp", Kind::Text(Form::Socket), Preset::None, "A TCP connection succeeds. Required.")];
