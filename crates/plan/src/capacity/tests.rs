use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn usage() -> Usage {
    let conntrack =
        Conntrack { entries: Some(1000), limit: Some(262_144), buckets: Some(131_072), ..Conntrack::default() };
    Usage { conntrack, nics: BTreeMap::from([("eth0".to_owned(), NicCounts::default())]), ..Usage::default() }
}

/// What is said when `change` has happened within a minute.
fn said(change: impl Fn(&mut Usage)) -> Vec<(Severity, Kind, u64)> {
    let (before, mut now) = (usage(), usage());
    change(&mut now);
    heads(&Capacity::new(&now, Some((&before, MINUTE)), Vec::new()))
}

fn heads(capacity: &Capacity) -> Vec<(Severity, Kind, u64)> {
    capacity.findings.iter().map(|finding| (finding.severity, finding.kind, finding.count)).collect()
}

fn ports(used: u64, last: u8) -> PortUse {
    PortUse {
        used,
        source: IpAddr::from([172, 16, 2, 1]),
        backend: SocketAddr::from(([172, 16, 2, last], 80)),
        protocol: "tcp".to_owned(),
    }
}

#[test]
fn a_machine_with_room_has_nothing_to_say() {
    assert_eq!(said(|_| ()), []);
    let quiet = Capacity::new(&usage(), None, vec![ports(45_000, 11)]);
    assert_eq!((quiet.findings.as_slice(), quiet.over_ms, quiet.entries), (&[][..], None, Some(1000)));
    assert_eq!(quiet.ports, [ports(45_000, 11)], "what is in use is told all the same");
}

#[test]
fn counters_since_the_boot_are_not_of_today() {
    let mut long_ago = usage();
    long_ago.softnet.dropped = 1_000_000;
    long_ago.conntrack.dropped = 1_000_000;
    long_ago.nics.entry("eth0".to_owned()).or_default().missed = 1_000_000;
    assert_eq!(Capacity::new(&long_ago, Some((&long_ago, MINUTE)), Vec::new()).findings, []);
    assert_eq!(Capacity::new(&long_ago, None, Vec::new()).findings, []);
    // A NIC that was plugged in again counts from 0.
    assert_eq!(Capacity::new(&usage(), Some((&long_ago, MINUTE)), Vec::new()).findings, []);
}

#[test]
fn a_full_table_loses_flows_and_a_nearly_full_one_says_so() {
    use Kind::ConnectionTable;
    assert_eq!(said(|now| now.conntrack.entries = Some(209_715)), []);
    assert_eq!(
        said(|now| now.conntrack.entries = Some(209_716)),
        [(Severity::Near, ConnectionTable, 209_716)],
        "80 % of the limit"
    );
    let full = said(|now| {
        now.conntrack.entries = Some(262_144);
        now.conntrack.dropped = 500;
        now.conntrack.early_dropped = 20;
    });
    assert_eq!(full, [(Severity::Losing, ConnectionTable, 520), (Severity::Near, ConnectionTable, 262_144)]);
    let room = said(|now| now.conntrack.dropped = 500);
    assert_eq!(room, [], "a table with room drops packets for other reasons: a policy, a helper");
    assert_eq!(said(|now| now.conntrack.early_dropped = 3), [(Severity::Losing, ConnectionTable, 3)]);
}

#[test]
fn chains_that_are_too_long_need_buckets() {
    assert_eq!(said(|now| now.conntrack.chain_too_long = 7), [(Severity::Losing, Kind::Buckets, 7)]);
    assert_eq!(said(|now| now.conntrack.buckets = Some(333)), [(Severity::Near, Kind::Buckets, 1000)]);
    assert_eq!(said(|now| now.conntrack.buckets = Some(334)), []);
}

#[test]
fn ports_are_told_by_source_and_backend_most_first() {
    let quarter = vec![ports(45_158, 11), ports(64_512, 12), ports(45_159, 13)];
    let near = Capacity::new(&usage(), Some((&usage(), MINUTE)), quarter.clone());
    assert_eq!(
        heads(&near),
        [(Severity::Near, Kind::SourcePorts, 64_512), (Severity::Near, Kind::SourcePorts, 45_159)]
    );
    assert_eq!(near.findings[0].subject.as_deref(), Some("172.16.2.1 172.16.2.12:80 tcp"));
    let mut starved = usage();
    (starved.conntrack.insert_failed, starved.conntrack.dropped) = (10, 10);
    let losing = Capacity::new(&starved, Some((&usage(), MINUTE)), quarter);
    assert_eq!(
        heads(&losing),
        [(Severity::Losing, Kind::SourcePorts, 10), (Severity::Near, Kind::SourcePorts, 45_159)],
        "the fullest is to blame, and told once"
    );
    assert!(losing.findings[0].text.contains("64512 of 64512 tcp ports of 172.16.2.1 towards 172.16.2.12:80"));
    assert!(losing.findings[0].help.contains("source-addresses"));
    let many = Capacity::new(&usage(), None, (0..100).map(|last| ports(60_000, last)).collect());
    assert_eq!((many.findings.len(), many.ports.len()), (PORTS_TOLD, PORTS_TOLD));
}

#[test]
fn insertions_that_fail_for_other_reasons_are_told_when_there_are_many() {
    assert_eq!(said(|now| now.conntrack.insert_failed = 59), []);
    assert_eq!(said(|now| now.conntrack.insert_failed = 60), [(Severity::Losing, Kind::Insertion, 60)]);
}

#[test]
fn a_cpu_that_cannot_keep_up_shows_twice() {
    assert_eq!(said(|now| now.softnet.squeezed = 59), [], "now and then is normal");
    let slow = said(|now| (now.softnet.squeezed, now.softnet.dropped, now.softnet.flow_limited) = (60, 1, 1));
    assert_eq!(slow, [(Severity::Losing, Kind::Backlog, 1), (Severity::Near, Kind::Budget, 60)]);
}

#[test]
fn a_disk_that_is_full_is_told_before_it_is() {
    let left = |free, size| said(|now| now.storage = Some(Storage { free, size }));
    assert_eq!(left(4 << 20, 128 << 20), []);
    assert_eq!(left((4 << 20) - 1, 128 << 20), [(Severity::Near, Kind::Storage, (124 << 20) + 1)]);
    assert_eq!(left(0, 128 << 20), [(Severity::Near, Kind::Storage, 128 << 20)]);
    assert_eq!(left(1 << 20, 2 << 20), [], "half of a small one");
    assert_eq!(left(0, 0), [], "a file system that has no size does not count");
}

#[test]
fn rings_and_cables_are_told_by_nic() {
    let (before, mut now) = (usage(), usage());
    now.nics.insert("eth0".to_owned(), NicCounts { missed: 5, receive_errors: 2, transmit_errors: 1 });
    now.nics.insert("eth1".to_owned(), NicCounts { missed: 9, ..NicCounts::default() });
    let told = Capacity::new(&now, Some((&before, MINUTE)), Vec::new());
    let subjects: Vec<_> = told.findings.iter().map(|one| (one.kind, one.subject.as_deref(), one.count)).collect();
    let expected = [(Kind::Ring, Some("eth1"), 9), (Kind::Ring, Some("eth0"), 5), (Kind::Errors, Some("eth0"), 3)];
    assert_eq!(subjects, expected, "the worst first");
    assert_eq!(told.findings[1].text, "5 packets were lost by eth0 in 60 s: its ring was full");
}
