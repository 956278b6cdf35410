//! What is drawn, and how often.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{ANY, BACKENDS, Backend, Edit, FARMS, Farm, Farms, LOCAL, Listen, Shared};

type Options = BTreeMap<&'static str, String>;

fn listen() -> impl Strategy<Value = Listen> {
    let ports = prop_oneof![6 => select(vec!["80", "443", "1050"]), 2 => select(vec!["1000-1100", "7-9"]),
        1 => Just("*"), 1 => Just(ANY)];
    (any::<bool>(), 1..4u8, select(vec!["tcp", "tcp", "udp", "sctp"]), ports)
        .prop_map(|(ipv6, address, protocol, ports)| Listen { ipv6, address, protocol, ports })
}

fn backend_state() -> impl Strategy<Value = &'static str> {
    select(vec!["up", "up", "up", "drain", "down"])
}

fn farm_state() -> impl Strategy<Value = &'static str> {
    select(vec!["up", "up", "up", "up", "down", "off"])
}

fn weight() -> impl Strategy<Value = u16> {
    prop_oneof![32 => 1..6u16, 8 => Just(0), 8 => 0..300u16, 1 => select(vec![u16::MAX, u16::MAX - 1])]
}

/// Each of these keys or not, with one of its lines.
fn options(lines: &[(&'static str, &[&'static str])], probability: f64) -> BoxedStrategy<Options> {
    let one = |&(key, lines): &(&'static str, &[&'static str])| {
        option::weighted(probability, select(lines.to_vec()).prop_map(move |line| (key, line.to_owned())))
    };
    lines.iter().map(one).collect::<Vec<_>>().prop_map(|drawn| drawn.into_iter().flatten().collect()).boxed()
}

fn backend() -> impl Strategy<Value = Backend> {
    let lines: &[(_, &[_])] = &[
        ("max-connections", &["max-connections = 1000", "max-connections = 1"]),
        ("mark", &["mark = 7", "mark = 0xffffffff"]),
    ];
    let source = option::weighted(0.1, select(vec![201, 202]));
    (weight(), select(vec![1, 1, 1, 2, 3u16]), backend_state(), source, options(lines, 0.1))
        .prop_map(|(weight, priority, state, source, options)| Backend { weight, priority, state, source, options })
}

/// One to three of what `hash` and persistence may use.
fn fields() -> impl Strategy<Value = String> {
    const FIELDS: [&str; 8] = [
        "source-address",
        "source-address",
        "source-port",
        "source-port",
        "destination-address",
        "destination-port",
        "source-mac",
        "destination-mac",
    ];
    btree_set(select(FIELDS.to_vec()), 1..4).prop_map(|fields| {
        let fields: Vec<&str> = fields.into_iter().collect();
        format!("[\"{}\"]", fields.join("\", \""))
    })
}

/// One that sends equal packets to one backend.
fn hashing() -> impl Strategy<Value = String> {
    let slots = prop_oneof![12 => select(vec!["slots = 13", "slots = 31", "slots = 101"]), 1 => Just("")];
    (select(vec!["hash", "maglev"]), fields(), slots)
        .prop_map(|(name, fields, slots)| format!("scheduler = \"{name}\"\nhash = {fields}\n{slots}"))
}

fn counting() -> impl Strategy<Value = String> {
    select(vec!["round-robin", "round-robin", "random", "least-connections"])
        .prop_map(|name| format!("scheduler = \"{name}\""))
}

fn persistence() -> impl Strategy<Value = String> {
    (fields(), select(vec!["90s", "1h"]), select(vec![512, 65_536])).prop_map(|(fields, timeout, size)| {
        format!("persistence.key = {fields}\npersistence.timeout = \"{timeout}\"\npersistence.size = {size}")
    })
}

/// What any mode may have.
const ANY_MODE: &[(&str, &[&str])] = &[
    ("address.manage", &["address.manage = \"never\""]),
    // `lo` never gets one: a warning.
    (
        "address.interface",
        &["address.interface = \"eth0\"", "address.interface = \"eth1\"", "address.interface = \"lo\""],
    ),
    ("mark", &["mark = 0x00000042", "mark = 1"]),
    (
        "policies",
        &[
            "policies = [\"friends\", \"foes\"]",
            "policies = [\"foes\", \"friends\"]",
            "policies = [\"foes\"]",
            "policies = [\"friends\"]",
        ],
    ),
    ("log", &["log = [\"new\", \"denied\"]", "log = [\"denied\"]"]),
];
const EMPTY: &[(&str, &[&str])] = &[("on-empty", &["on-empty = \"drop\""])];
/// What needs connection tracking, or connections.
const LIMITS: &[(&str, &[&str])] = &[
    ("queue", &["queue = 5"]),
    (
        "limits.new-connections",
        &["limits.new-connections = \"10/second burst 20\"", "limits.new-connections = \"1/day\""],
    ),
    ("limits.new-connections-total", &["limits.new-connections-total = \"1000/minute\""]),
    ("limits.connections-per-client", &["limits.connections-per-client = 20"]),
    ("limits.tcp-resets", &["limits.tcp-resets = \"5/second\""]),
    ("limits.strict-tcp", &["limits.strict-tcp = true"]),
    ("limits.ban", &["limits.ban = \"30s\""]),
    ("limits.action", &["limits.action = \"reject\"", "limits.action = \"log\""]),
];
const TRANSLATED: &[(&str, &[&str])] = &[
    ("limits.syn-proxy", &["limits.syn-proxy = true"]),
    ("offload", &["offload = true", "offload = true", "offload = false"]),
    (
        "helper",
        &["helper = \"ftp\"", "helper = \"pptp\"", "helper = \"sip\"", "helper = \"snmp\"", "helper = \"tftp\""],
    ),
];
const SNAT: &[(&str, &[&str])] = &[(
    "source-addresses",
    &[
        "source-addresses = [\"172.16.2.203\"]",
        "source-addresses = [\"172.16.2.203\", \"172.16.2.204\", \"2001:db8:2::203\"]",
        "source-addresses = [\"198.51.100.1\", \"2001:db8:2::204\", \"2001:db8:2::205\"]",
    ],
)];
const DSR: &[(&str, &[&str])] = &[("dsr.interface", &["dsr.interface = \"eth1\"", "dsr.interface = \"eth0\""])];

fn farm_options(mode: &'static str) -> BoxedStrategy<Options> {
    let tables: &[&[_]] = match mode {
        "snat" => &[ANY_MODE, EMPTY, LIMITS, TRANSLATED, SNAT],
        "dnat" => &[ANY_MODE, EMPTY, LIMITS, TRANSLATED],
        "dsr" => &[ANY_MODE, EMPTY, LIMITS, DSR],
        "stateless" => &[ANY_MODE, EMPTY],
        _ => &[ANY_MODE, LIMITS],
    };
    let lines = options(&tables.concat(), 0.15);
    let persistence = option::weighted(0.2, persistence());
    (lines, persistence, option::of(counting()), hashing())
        .prop_map(move |(mut options, persistence, counting, hashing)| {
            if mode == LOCAL {
                return options;
            }
            if mode != "stateless" {
                options.extend(persistence.map(|lines| ("persistence", lines)));
            }
            let scheduler = match counting {
                // Nobody counts the packets of one flow as one, or sees both of its directions.
                Some(counting) if mode != "stateless" && !(mode == "dsr" && counting.contains("least")) => counting,
                _ => hashing,
            };
            options.insert("scheduler", scheduler);
            options
        })
        .boxed()
}

/// One farm, with at least one listener and one backend.
fn farm() -> impl Strategy<Value = Farm> {
    let modes = ["snat", "snat", "snat", "dnat", "dnat", "stateless", "dsr", LOCAL];
    let mode_and_options = select(modes.to_vec()).prop_flat_map(|mode| (Just(mode), farm_options(mode)));
    let backends = btree_map(0..BACKENDS, backend(), 1..BACKENDS);
    let port = option::weighted(0.7, select(vec![80, 8080u16]));
    let fixed = btree_map(10..14u8, 0..BACKENDS, 0..3);
    (vec(listen(), 1..5), any::<bool>(), backends, port, farm_state(), mode_and_options, fixed).prop_map(
        |(mut listen, anywhere, mut backends, port, state, (mode, mut options), fixed)| {
            if mode == LOCAL && anywhere {
                listen[0].address = 0;
                // These look at packets before it is known which are for the box.
                options.retain(|key, _| !["limits.strict-tcp", "limits.tcp-resets"].contains(key));
            }
            if mode == "dsr" {
                // Without connection tracking nobody can tell.
                let tracked = ["limits.strict-tcp", "limits.connections-per-client", "queue"];
                options.retain(|key, _| !tracked.contains(key));
            }
            if mode == "stateless" && options.get("log").is_some_and(|log| log.contains("new")) {
                options.remove("log");
            }
            if ["stateless", "dsr"].contains(&mode) {
                backends.values_mut().for_each(|backend| drop(backend.options.remove("max-connections")));
            }
            Farm { listen: listen.into_iter().collect(), backends, port, state, mode, fixed, options }
        },
    )
}

fn shared() -> impl Strategy<Value = Shared> {
    let foes =
        ["\"198.51.100.7\", \"198.51.100.128/25\"", "\"203.0.113.0/24\"", "\"2001:db8:e::/48\", \"198.51.100.7\""];
    let filters = [
        "",
        "[system]\nprotect = true\n",
        "[system]\nprotect = true\n[network.interfaces.eth0]\nallow = [\"ssh\", \"tcp/9100\", \
         { service = \"metrics\", from = [\"172.16.1.0/24\", \"2001:db8:1::/64\"] }]\n",
    ];
    (select(vec!["", "", "[metrics]\ntraffic = \"bytes\"\n"]), select(foes.to_vec()), select(filters.to_vec()))
        .prop_map(|(metrics, foes, filter)| Shared { metrics, foes, filter })
}

/// Any number of farms.
pub fn farms() -> impl Strategy<Value = Farms> {
    (btree_map(0..FARMS.len(), farm(), 0..FARMS.len()), shared()).prop_map(|(farms, shared)| Farms { farms, shared })
}

/// One change: mostly a small one.
pub fn edit() -> impl Strategy<Value = Edit> {
    let place = || 0..FARMS.len();
    prop_oneof![
        1 => Just(Edit::Nothing),
        8 => (place(), 0..BACKENDS, backend_state()).prop_map(|(farm, backend, state)| Edit::BackendState(farm, backend, state)),
        8 => (place(), 0..BACKENDS, weight()).prop_map(|(farm, backend, weight)| Edit::Weight(farm, backend, weight)),
        3 => (place(), farm_state()).prop_map(|(farm, state)| Edit::FarmState(farm, state)),
        3 => (place(), 0..BACKENDS, weight()).prop_map(|(farm, backend, weight)| Edit::AddBackend(farm, backend, weight)),
        3 => (place(), 0..BACKENDS).prop_map(|(farm, backend)| Edit::RemoveBackend(farm, backend)),
        4 => (place(), farm()).prop_map(|(number, farm)| Edit::Farm(number, Box::new(farm))),
        3 => place().prop_map(Edit::RemoveFarm),
        1 => shared().prop_map(Edit::Shared),
        1 => farms().prop_map(Edit::All),
    ]
}
