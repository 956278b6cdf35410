//! Capacity: what runs out, or is lost already, and the knob that would help.
//!
//! The kernel's counters begin with the boot and say nothing by themselves: a thousand packets lost on the day of the
//! installation are not today's. What is told is the difference of two [`Usage`]s, and how full what can be full is now.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Ports that one source address has towards one backend: the kernel maps a client's port from 1024 on into 1024 to 65535
/// (`nf_nat_l4proto_unique_tuple`).
pub const SOURCE_PORTS: u64 = 64_512;
/// From here on new flows sometimes find no free port: measured, random ports (UDP) lose none up to 78 %; where clients' own
/// ports are kept (TCP), one SYN in a thousand is lost at 46 % and nine at 90 %, and is sent again.
const PORTS_NEAR_PERCENT: u64 = 70;
/// The connection table.
const TABLE_NEAR_PERCENT: u64 = 80;
/// So full, the table refuses what the kernel does not say that it refuses for another reason.
const TABLE_FULL_PERCENT: u64 = 95;
/// Entries to a bucket beyond what a full table of ours has: half as many buckets as entries.
const ENTRIES_PER_BUCKET: u64 = 3;
/// A softirq that ends with packets left is normal now and then; once a second it is not.
const RARE_PER_SECOND: u64 = 1;
/// Less is left of a disk than a few generations of a large configuration and the log take.
const STORAGE_NEAR_BYTES: u64 = 4 << 20;
/// Of a small one, less than this share.
const STORAGE_NEAR_PERCENT: u64 = 5;
/// Addresses that are told of one by one.
const PORTS_TOLD: usize = 5;

/// What the kernel says at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of this network namespace.
    pub conntrack: Conntrack,
    /// Of the whole machine.
    pub softnet: Softnet,
    /// NICs by kernel name.
    pub nics: BTreeMap<String, NicCounts>,
    /// Where generations are kept; `None` when nothing is there.
    pub storage: Option<Storage>,
}

/// A file system, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Storage {
    /// What root may still write.
    pub free: u64,
    /// All of it.
    pub size: u64,
}

/// Connection tracking. What the kernel does not say is `None`, or 0 for a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conntrack {
    /// Entries now, everybody's.
    pub entries: Option<u64>,
    /// Beyond so many new flows are dropped (`nf_conntrack_max`).
    pub limit: Option<u64>,
    /// Chains of the hash table.
    pub buckets: Option<u64>,
    /// First packets of flows that were dropped: `drop`.
    pub dropped: u64,
    /// Those of them whose tuple was taken: `insert_failed`.
    pub insert_failed: u64,
    /// Flows without an answer that made room for others in a full table: `early_drop`.
    pub early_dropped: u64,
    /// Flows that a chain of the table had no place for: `chaintoolong`.
    pub chain_too_long: u64,
}

/// `/proc/net/softnet_stat`, all CPUs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Softnet {
    /// Packets that the backlog of a CPU had no place for.
    pub dropped: u64,
    /// Those of them that belonged to a flow with more than its share (`flow_limit_count`).
    pub flow_limited: u64,
    /// Times that a softirq ended with packets left: `time_squeeze`.
    pub squeezed: u64,
}

/// Counters of a NIC, packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NicCounts {
    /// The ring was full: `rx_missed_errors`, `rx_fifo_errors`, `rx_over_errors`.
    pub missed: u64,
    /// Arrived damaged.
    pub receive_errors: u64,
    /// Could not be sent.
    pub transmit_errors: u64,
}

/// Flows that need a port of one source address towards one backend, ended ones that the kernel keeps included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PortUse {
    /// Ports in use, of [`SOURCE_PORTS`].
    pub used: u64,
    /// Where the backend sees flows come from.
    pub source: IpAddr,
    /// Where they go.
    pub backend: SocketAddr,
    /// `tcp`, `udp`.
    pub protocol: String,
}

/// What `status` shows of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Capacity {
    /// Entries of the connection table.
    pub entries: Option<u64>,
    /// How many there may be.
    pub limit: Option<u64>,
    /// Chains of the table.
    pub buckets: Option<u64>,
    /// Source addresses and backends with the most ports in use, most first.
    pub ports: Vec<PortUse>,
    /// The time that `findings` speak of, milliseconds; `None` when there is nothing to compare with yet.
    pub over_ms: Option<u64>,
    /// What is to be said, worst first.
    pub findings: Vec<Finding>,
}

/// Something that is lost, or nearly runs out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What it is about.
    pub kind: Kind,
    /// Which interface, or which source address and backend, where there are several.
    pub subject: Option<String>,
    /// How many packets, flows or times; for what nearly runs out how much of it is in use.
    pub count: u64,
    /// One sentence for people.
    pub text: String,
    /// What would help.
    pub help: String,
}

/// The order is from bad to less bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Packets are lost.
    Losing,
    /// They would be, with a little more traffic.
    Near,
}

/// What runs out. The order is from bad to less bad: a flow that cannot begin is a client without an answer, a packet that is
/// lost is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Kind {
    ConnectionTable,
    SourcePorts,
    Buckets,
    Insertion,
    Ring,
    Backlog,
    Errors,
    Budget,
    Storage,
}

impl Kind {
    /// As it is sent.
    pub fn word(self) -> &'static str {
        match self {
            Kind::ConnectionTable => "connection-table",
            Kind::SourcePorts => "source-ports",
            Kind::Buckets => "buckets",
            Kind::Insertion => "insertion",
            Kind::Ring => "ring",
            Kind::Backlog => "backlog",
            Kind::Errors => "errors",
            Kind::Budget => "budget",
            Kind::Storage => "storage",
        }
    }
}

impl Capacity {
    /// What is to be said of `now`, when `before` was `elapsed` ago.
    pub fn new(now: &Usage, before: Option<(&Usage, Duration)>, mut ports: Vec<PortUse>) -> Self {
        ports.sort_by(|a, b| b.cmp(a));
        let mut findings = levels(now.conntrack);
        findings.extend(now.storage.and_then(of_storage));
        let elapsed = before.map(|(_, elapsed)| elapsed);
        let lost = before.map(|(before, elapsed)| Lost { before, now, elapsed });
        findings.extend(lost.iter().flat_map(|lost| lost.findings()));
        let starved = lost.as_ref().map_or(0, Lost::insert_failed);
        findings.extend(of_ports(&ports, starved, elapsed));
        if let Some(lost) = &lost
            && !ports.first().is_some_and(is_near)
        {
            findings.extend(lost.insertion());
        }
        findings.sort_by(|a, b| (a.severity, a.kind, b.count).cmp(&(b.severity, b.kind, a.count)));
        ports.truncate(PORTS_TOLD);
        let Conntrack { entries, limit, buckets, .. } = now.conntrack;
        let over_ms = elapsed.map(|elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        Self { entries, limit, buckets, ports, over_ms, findings }
    }
}

const LARGER_TABLE: &str = "`max` in [hardware.overrides.conntrack], or shorter timeouts in [sysctl]";

/// How full the table is.
fn levels(conntrack: Conntrack) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Conntrack { entries: Some(entries), limit, buckets, .. } = conntrack else { return findings };
    if let Some(limit) = limit.filter(|limit| *limit > 0 && entries * 100 >= limit * TABLE_NEAR_PERCENT) {
        findings.push(Finding {
            severity: Severity::Near,
            kind: Kind::ConnectionTable,
            subject: None,
            count: entries,
            text: format!("the connection table has {entries} of at most {limit} entries"),
            help: LARGER_TABLE.to_owned(),
        });
    }
    if let Some(buckets) = buckets.filter(|buckets| *buckets > 0 && entries >= buckets * ENTRIES_PER_BUCKET) {
        findings.push(Finding {
            severity: Severity::Near,
            kind: Kind::Buckets,
            subject: None,
            count: entries,
            text: format!(
                "the connection table has {entries} entries in {buckets} buckets: each packet looks at several"
            ),
            help: "`net.netfilter.nf_conntrack_buckets` in [sysctl]".to_owned(),
        });
    }
    findings
}

/// A full disk costs no packet: what was kept runs, and what changes is gone after a restart.
fn of_storage(storage: Storage) -> Option<Finding> {
    let Storage { free, size } = storage;
    let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20);
    (free < STORAGE_NEAR_BYTES.min(size * STORAGE_NEAR_PERCENT / 100)).then(|| Finding {
        severity: Severity::Near,
        kind: Kind::Storage,
        subject: None,
        count: size - free.min(size),
        text: format!(
            "the file system with Headgate's state has {} of {} left: what changes may not be kept",
            mib(free),
            mib(size)
        ),
        help: "remove what fills it: `du -ax` from where /var/lib/headgate is mounted; what runs is not touched"
            .to_owned(),
    })
}

fn is_near(ports: &PortUse) -> bool {
    ports.used * 100 >= SOURCE_PORTS * PORTS_NEAR_PERCENT
}

/// Those that are nearly used up, of ports in the order from most to least. The kernel counts what finds no port together
/// with other things, and not by address: it is told with the fullest.
fn of_ports(ports: &[PortUse], starved: u64, elapsed: Option<Duration>) -> Vec<Finding> {
    let near = ports.iter().filter(|ports| is_near(ports)).take(PORTS_TOLD).enumerate();
    let finding = |(place, ports): (usize, &PortUse)| {
        let PortUse { used, source, backend, protocol } = ports;
        let use_of = format!("{used} of {SOURCE_PORTS} {protocol} ports of {source} towards {backend} are in use");
        let (severity, count, text) = match elapsed {
            Some(elapsed) if starved > 0 && place == 0 => {
                let lost = format!("{starved} new flows found no port{}: {use_of}", Over(elapsed));
                (Severity::Losing, starved, lost)
            }
            _ => (Severity::Near, *used, use_of),
        };
        let help = "more `source-addresses` for the farm, or a shorter `nf_conntrack_tcp_timeout_time_wait`".to_owned();
        let subject = Some(format!("{source} {backend} {protocol}"));
        Finding { severity, kind: Kind::SourcePorts, subject, count, text, help }
    };
    near.map(finding).collect()
}

/// What was lost between two looks.
struct Lost<'a> {
    before: &'a Usage,
    now: &'a Usage,
    elapsed: Duration,
}

impl Lost<'_> {
    /// A counter that became smaller began anew: of a NIC that was plugged in again.
    fn since(&self, counter: impl Fn(&Usage) -> u64) -> u64 {
        counter(self.now).saturating_sub(counter(self.before))
    }

    fn insert_failed(&self) -> u64 {
        self.since(|usage| usage.conntrack.insert_failed)
    }

    fn is_rare(&self, count: u64) -> bool {
        u128::from(count) * 1000 < self.elapsed.as_millis() * u128::from(RARE_PER_SECOND)
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> =
            [self.table(), self.chains(), self.backlog(), self.budget()].into_iter().flatten().collect();
        findings.extend(self.now.nics.keys().flat_map(|name| self.nic(name)));
        findings
    }

    fn losing(&self, kind: Kind, count: u64, text: String, help: &str) -> Option<Finding> {
        let text = format!("{count} {text}");
        let finding = Finding { severity: Severity::Losing, kind, subject: None, count, text, help: help.to_owned() };
        (count > 0).then_some(finding)
    }

    fn table(&self) -> Option<Finding> {
        let Conntrack { entries, limit, .. } = self.now.conntrack;
        let early = self.since(|usage| usage.conntrack.early_dropped);
        let dropped = self.since(|usage| usage.conntrack.dropped).saturating_sub(self.insert_failed());
        let (entries, limit) = entries.zip(limit)?;
        if early == 0 && entries * 100 < limit * TABLE_FULL_PERCENT {
            return None;
        }
        let over = Over(self.elapsed);
        let text = format!(
            "flows were refused or forgotten{over}: the connection table is full ({entries} of {limit} entries); {dropped} new, {early} without an answer yet"
        );
        self.losing(Kind::ConnectionTable, dropped + early, text, LARGER_TABLE)
    }

    fn chains(&self) -> Option<Finding> {
        let text = format!("new flows were refused{}: a chain of the connection table is too long", Over(self.elapsed));
        let count = self.since(|usage| usage.conntrack.chain_too_long);
        self.losing(Kind::Buckets, count, text, "`net.netfilter.nf_conntrack_buckets` in [sysctl]")
    }

    /// Where no source address is short of ports.
    fn insertion(&self) -> Option<Finding> {
        let count = self.insert_failed();
        let text = format!(
            "first packets were lost{}: another packet of the same flow, or another flow with the same ports, was faster",
            Over(self.elapsed)
        );
        let help = "nothing here: clients that send several first packets at once lose one of them";
        (!self.is_rare(count)).then(|| self.losing(Kind::Insertion, count, text, help)).flatten()
    }

    fn backlog(&self) -> Option<Finding> {
        let limited = self.since(|usage| usage.softnet.flow_limited);
        let mut text = format!("packets were lost{}: the backlog of a CPU was full", Over(self.elapsed));
        if limited > 0 {
            text += &format!("; {limited} of them belonged to flows that had more than their share");
        }
        let help = "`rps` and `queues` in [hardware.overrides] for more CPUs; `net.core.netdev_max_backlog` in [sysctl] for short bursts";
        self.losing(Kind::Backlog, self.since(|usage| usage.softnet.dropped), text, help)
    }

    fn budget(&self) -> Option<Finding> {
        let count = self.since(|usage| usage.softnet.squeezed);
        (!self.is_rare(count)).then(|| Finding {
            severity: Severity::Near,
            kind: Kind::Budget,
            subject: None,
            count,
            text: format!("{count} times{} a CPU left packets waiting because its turn was over", Over(self.elapsed)),
            help: "`net.core.netdev_budget` and `net.core.netdev_budget_usecs` in [sysctl], or more `queues`"
                .to_owned(),
        })
    }

    fn nic(&self, name: &str) -> Vec<Finding> {
        let since = |counter: fn(&NicCounts) -> u64| self.since(|usage| usage.nics.get(name).map_or(0, counter));
        let over = Over(self.elapsed);
        let ring = self.losing(
            Kind::Ring,
            since(|nic| nic.missed),
            format!("packets were lost by {name}{over}: its ring was full"),
            "`rx-ring` and `queues` in [hardware.overrides]",
        );
        let (receive, transmit) = (since(|nic| nic.receive_errors), since(|nic| nic.transmit_errors));
        let errors = self.losing(
            Kind::Errors,
            receive + transmit,
            format!("packets were damaged or not sent by {name}{over}: {receive} received, {transmit} sent"),
            "no knob: the cable, the transceiver, or the speed and duplex of the switch's port",
        );
        let found = ring.into_iter().chain(errors);
        found.map(|finding| Finding { subject: Some(name.to_owned()), ..finding }).collect()
    }
}

/// ` in 10 s`.
struct Over(Duration);

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " in {} s", self.0.as_millis().div_ceil(1000).max(1))
    }
}

#[cfg(test)]
mod tests;
