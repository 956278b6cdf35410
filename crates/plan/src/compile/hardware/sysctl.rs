//! Names and values of sysctls.

use crate::state::{Fit, KnobValue};

/// The file of a sysctl, as sysctl(8) finds it: dots separate, and a slash in the name stands for a dot in an interface's name.
pub(super) fn path(name: &str) -> String {
    let components = name.split('.').map(|component| component.replace('/', "."));
    std::iter::once("proc/sys".to_owned()).chain(components).collect::<Vec<_>>().join("/")
}

/// The files of a name of a profile: `{if}` stands for `all`, `default` and each interface.
pub(super) fn paths<'a>(name: &str, interfaces: impl Iterator<Item = &'a str>) -> Vec<String> {
    let path = path(name);
    if !path.contains("{if}") {
        return vec![path];
    }
    ["all", "default"].into_iter().chain(interfaces).map(|interface| path.replace("{if}", interface)).collect()
}

/// A value, typed so that a comparison is by meaning, and which will do: `">=4096"` in a profile.
pub(super) fn value(path: &str, text: &str) -> (KnobValue, Fit) {
    if let Some(number) = text.strip_prefix(">=").and_then(|number| number.trim().parse().ok()) {
        return (KnobValue::Int(number), Fit::AtLeast);
    }
    let is_mask = path.ends_with("/rps_default_mask") || path.ends_with("/flow_limit_cpu_bitmap");
    let value = match text.trim().parse() {
        _ if is_mask => KnobValue::CpuMask(Vec::new()).read_as(text),
        Ok(number) => KnobValue::Int(number),
        Err(_) => KnobValue::text(text),
    };
    (value, Fit::Exact)
}

/// Not of the network namespace: what a container changes here, it changes for the whole machine, or the kernel refuses it.
pub(super) fn is_of_the_host(name: &str) -> bool {
    const OF_THE_INITIAL_NAMESPACE: [&str; 3] = [
        "net.netfilter.nf_conntrack_max",
        "net.netfilter.nf_conntrack_buckets",
        "net.netfilter.nf_conntrack_expect_max",
    ];
    let is_gc_threshold = name.contains(".neigh.default.gc_thresh");
    !name.starts_with("net.")
        || name.starts_with("net.core.")
        || is_gc_threshold
        || OF_THE_INITIAL_NAMESPACE.contains(&name)
}

/// Why our profiles set it, by the dotted name without the part that names an interface.
pub(super) fn reason(name: &str) -> Option<&'static str> {
    let key = name.rsplit('.').next().unwrap_or(name);
    REASONS.iter().find(|(known, _)| *known == key).map(|(_, why)| *why)
}

const REASONS: [(&str, &str); 29] = [
    ("accept_redirects", "a forged redirect must not change where packets go"),
    ("accept_source_route", "a sender must not choose the way of its packets"),
    ("log_martians", "asymmetric routes are normal here and would flood the log"),
    ("arp_notify", "neighbours learn our address when the NIC comes up"),
    ("ndisc_notify", "neighbours learn our address when the NIC comes up"),
    ("ignore_routes_with_linkdown", "a route over a NIC without a link is left at once"),
    ("gc_thresh1", "a segment with thousands of hosts must not overflow the neighbour table"),
    ("gc_thresh2", "a segment with thousands of hosts must not overflow the neighbour table"),
    ("gc_thresh3", "a segment with thousands of hosts must not overflow the neighbour table"),
    ("nf_conntrack_acct", "counting every flow costs 128 bytes and two atomic additions a packet"),
    ("nf_conntrack_timestamp", "start times cost 128 bytes a flow"),
    ("nf_conntrack_events", "only while somebody listens"),
    ("nf_conntrack_log_invalid", "invalid packets would flood the log"),
    ("nf_conntrack_tcp_loose", "flows that another box has begun are taken over"),
    ("nf_conntrack_tcp_timeout_established", "RFC 5382 asks for 2 h 4 min; the kernel's 5 days keep the dead"),
    ("nf_conntrack_tcp_timeout_time_wait", "SNAT ports are free again sooner: 64,512 for each source and backend"),
    ("nf_conntrack_tcp_timeout_syn_sent", "a flood of half-open connections is forgotten sooner"),
    ("nf_conntrack_tcp_timeout_syn_recv", "a flood of half-open connections is forgotten sooner"),
    ("nf_conntrack_tcp_timeout_fin_wait", "closing connections are forgotten sooner"),
    ("nf_conntrack_tcp_timeout_close_wait", "closing connections are forgotten sooner"),
    ("nf_conntrack_tcp_timeout_last_ack", "closing connections are forgotten sooner"),
    ("nf_conntrack_tcp_timeout_unacknowledged", "connections of the dead are forgotten sooner"),
    ("nf_conntrack_tcp_timeout_max_retrans", "connections of the dead are forgotten sooner"),
    ("nf_conntrack_udp_timeout", "one packet without an answer, as DNS scans send them"),
    ("nf_conntrack_udp_timeout_stream", "RFC 4787 asks for 2 minutes at least"),
    ("min_free_kbytes", "packets are received into memory that must be free at once"),
    ("panic", "a broken kernel reboots, so that the other box or the other slot takes over"),
    ("softlockup_panic", "a CPU that is stuck forwards nothing, and the other box or slot does not know it"),
    ("panic_on_oops", "a broken kernel reboots, so that the other box or the other slot takes over"),
];
