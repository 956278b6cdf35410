//! What runs out: connection tracking, source ports, backlogs, rings, room on the disk.

use headgate_plan::capacity::{PortUse, SOURCE_PORTS, Storage};

use super::Readings;
use super::page::{counter, gauge};
use super::text::{Family, Kind};

/// Pairs of a source address and a backend that use less than this share of their ports make no series: there may be one for
/// each backend.
const PORTS_TOLD_PERCENT: u64 = 10;

pub(super) fn families(readings: &Readings) -> Vec<Family> {
    let mut families = conntrack(readings);
    families.extend(ports(&readings.ports));
    let softnet = readings.usage.softnet;
    families.push(counter(
        "headgate_softnet_dropped_packets",
        "packets",
        "Packets that the backlog of a CPU had no place for.",
        softnet.dropped,
    ));
    families.push(counter(
        "headgate_softnet_squeezed",
        "",
        "Times that a CPU left packets waiting because its turn was over.",
        softnet.squeezed,
    ));
    families.extend(nics(readings));
    if let Some(Storage { free, size }) = readings.usage.storage {
        let help = "Room in the file system with Headgate's state.";
        families.push(gauge("headgate_storage_free_bytes", "bytes", help, free));
        families.push(gauge("headgate_storage_size_bytes", "bytes", "The size of that file system.", size));
    }
    families
}

fn conntrack(readings: &Readings) -> Vec<Family> {
    let conntrack = readings.usage.conntrack;
    let mut families = Vec::new();
    if let Some(entries) = conntrack.entries {
        families.push(gauge("headgate_conntrack_entries", "", "Tracked connections, everybody's.", entries));
    }
    if let Some(limit) = conntrack.limit {
        let help = "Beyond so many tracked connections new ones are dropped.";
        families.push(gauge("headgate_conntrack_entries_limit", "", help, limit));
    }
    if let Some(buckets) = conntrack.buckets {
        families.push(gauge("headgate_conntrack_buckets", "", "Chains of the connection table.", buckets));
    }
    let mut lost = Family::new(
        "headgate_conntrack_lost_flows",
        Kind::Counter,
        "",
        "Flows that connection tracking refused or forgot, by its counter.",
    );
    let counters = [
        ("drop", conntrack.dropped),
        ("insert-failed", conntrack.insert_failed),
        ("early-drop", conntrack.early_dropped),
        ("chain-too-long", conntrack.chain_too_long),
    ];
    for (reason, count) in counters {
        lost.sample(&[("reason", reason)], count);
    }
    families.push(lost);
    families
}

fn ports(ports: &[PortUse]) -> [Family; 2] {
    let help = "Ports that a source address has towards one backend.";
    let limit = gauge("headgate_snat_ports_limit", "", help, SOURCE_PORTS);
    let mut used =
        Family::new("headgate_snat_ports_used", Kind::Gauge, "", "Those of them that are in use, from 10 % up.");
    let mut told: Vec<&PortUse> =
        ports.iter().filter(|ports| ports.used * 100 >= SOURCE_PORTS * PORTS_TOLD_PERCENT).collect();
    told.sort_by_key(|ports| (ports.source, ports.backend, &ports.protocol));
    for PortUse { used: count, source, backend, protocol } in told {
        let (source, backend) = (source.to_string(), backend.to_string());
        used.sample(&[("source", &source), ("backend", &backend), ("protocol", protocol)], count);
    }
    [limit, used]
}

fn nics(readings: &Readings) -> [Family; 2] {
    let mut missed = Family::new(
        "headgate_nic_missed_packets",
        Kind::Counter,
        "packets",
        "Packets that a full ring had no place for.",
    );
    let mut errors =
        Family::new("headgate_nic_errors", Kind::Counter, "", "Packets that were damaged, or could not be sent.");
    for (name, counts) in &readings.usage.nics {
        missed.sample(&[("interface", name)], counts.missed);
        errors.sample(&[("interface", name), ("direction", "receive")], counts.receive_errors);
        errors.sample(&[("interface", name), ("direction", "transmit")], counts.transmit_errors);
    }
    [missed, errors]
}
