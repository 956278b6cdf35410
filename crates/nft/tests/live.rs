//! What only the kernel knows, with packets: counts, elements that come and go, devices. Each test has its own network
//! namespace. Needs root.

#[allow(dead_code)]
mod samples;

use std::net::UdpSocket;

use headgate_nft::*;
use nix::errno::Errno;
use samples::namespace::*;
use samples::*;

const TABLE: &str = "hglive";
/// An IPv4 and a UDP header, bytes.
const HEADERS: usize = 20 + 8;

fn id() -> TableId {
    TableId::inet(TABLE)
}

/// A namespace in which the box talks to itself.
fn looped() -> Socket {
    let socket = fresh_namespace();
    run("ip", &["link", "set", "lo", "up"]);
    socket
}

fn send(count: usize, bytes: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("lo is up");
    for _ in 0..count {
        // What is rejected is told at the next call.
        let _ = socket.send_to(&vec![0; bytes], "127.0.0.2:9");
    }
}

/// A table whose rules see datagrams that the box sends to port 9.
fn output(sets: Vec<(&str, Set)>, rules: Vec<Vec<Statement>>) -> Ruleset {
    let datagrams = || vec![is(Field::L4proto, &[17]), is(Field::Dport, &[0, 9])];
    let rules = rules.into_iter().map(|more| rule(datagrams().into_iter().chain(more).collect()));
    let mut table = Table::default();
    table.sets.extend(sets.into_iter().map(|(set, value)| (name(set), value)));
    table.chains.insert(name("output"), base(ChainKind::Filter, Hook::Output, 0, rules.collect()));
    for counter in ["one", "two"] {
        table.objects.extend([object(ObjectKind::Counter, counter, Object::Counter)]);
    }
    Ruleset { tables: [(id(), table)].into() }
}

fn constant(number: u32) -> Value {
    Value::Constant(bytes(&number.to_ne_bytes()))
}

fn counter(object: &str) -> Statement {
    Statement::Object { kind: ObjectKind::Counter, name: name(object) }
}

fn dynset(op: DynsetOp, set: &str, data: Option<Value>, stateful: Option<Stateful>) -> Statement {
    Dynset { op, set: name(set), key: field(Field::Ip4Saddr), data, timeout_ms: None, stateful }.into()
}

fn counts(packets: u64, bytes: usize) -> Counts {
    Counts { packets, bytes: packets * (HEADERS + bytes) as u64 }
}

#[test]
fn objects_and_elements_count() {
    let mut socket = looped();
    let mut by_mark = set(&[Datatype::Mark], Some(SetData::Objects(ObjectKind::Counter)));
    by_mark.elements.extend([element(&7u32.to_ne_bytes(), None, to_object("two"), None)]);
    let mut each = set(&[Datatype::Mark], None);
    each.counters = true;
    each.elements.extend([7u32, 8].map(|mark| element(&mark.to_ne_bytes(), None, None, Some("b1"))));
    let rules = vec![
        vec![counter("one")],
        vec![Statement::ObjectMap { kind: ObjectKind::Counter, key: constant(7), map: name("by-mark") }],
        vec![
            Statement::ObjectMap { kind: ObjectKind::Counter, key: constant(8), map: name("by-mark") },
            counter("one"),
        ],
        vec![Statement::InSet { value: constant(7), set: name("each"), invert: false }],
    ];
    let ruleset = output(vec![("by-mark", by_mark), ("each", each)], rules);
    load(&mut socket, &ruleset);
    send(3, 100);
    let counters = socket.counters(&id()).unwrap();
    assert_eq!(counters, [(name("one"), counts(3, 100)), (name("two"), counts(3, 100))].into());
    let elements = socket.elements(&id(), "each").unwrap();
    let found: Vec<_> = elements.iter().map(|(key, state)| (key.start[0], state.counter, &state.comment)).collect();
    assert_eq!(found, [(7, Some(counts(3, 100)), &Some(name("b1"))), (8, Some(counts(0, 0)), &Some(name("b1")))]);
    // Counts are no difference, and a change of something else leaves them.
    assert_eq!(dump(&mut socket, &ruleset), ruleset);
    let mut more = ruleset.clone();
    let set = more.tables.values_mut().next().unwrap().sets.get_mut("each").unwrap();
    set.elements.extend([element(&9u32.to_ne_bytes(), None, None, None)]);
    commit(&mut socket, &between(&ruleset, &more)).unwrap();
    assert_eq!(socket.elements(&id(), "each").unwrap()[0].1.counter, Some(counts(3, 100)));
    assert_eq!(socket.counters(&id()).unwrap(), counters);
    assert!(socket.counters(&TableId::inet("nowhere")).unwrap().is_empty());
    assert!(matches!(socket.elements(&id(), "nowhere"), Err(DumpError::Absent { .. })));
}

#[test]
fn packets_fill_a_set_and_we_read_and_change_it() {
    let mut socket = looped();
    let mut flows = set(&[Datatype::Ipv4Addr], Some(SetData::Value(vec![Datatype::Mark])));
    (flows.dynamic, flows.timeout_ms, flows.size) = (true, Some(60_000), Some(4));
    let update = dynset(DynsetOp::Update, "flows", Some(constant(5)), None);
    let ruleset = output(vec![("flows", flows.clone())], vec![vec![update, counter("one")]]);
    load(&mut socket, &ruleset);
    send(2, 10);
    let elements = socket.elements(&id(), "flows").unwrap();
    let [(key, state)] = elements.as_slice() else { panic!("{elements:?}") };
    assert_eq!((key.start.as_slice(), &state.data), (&[127, 0, 0, 1][..], &value(&5u32.to_ne_bytes())));
    assert!(state.expires_ms.is_some_and(|ms| (50_000..=60_000).contains(&ms)), "{state:?}");

    // Ours beside theirs, with a time-out of its own.
    let ours = |addresses: &[u8]| {
        let element = |host: &u8| element(&[10, 0, 0, *host], None, value(&6u32.to_ne_bytes()), Some("static"));
        let timed = |(key, element)| {
            (key, Element { own: Own { timeout_ms: Some(3_600_000), limit: None }.boxed(), ..element })
        };
        addresses.iter().map(element).map(timed).collect::<Vec<_>>()
    };
    let (table, set, definition) = (id(), name("flows"), Box::new(flows));
    let add = |hosts| Change::AddElements {
        table: table.clone(),
        set: set.clone(),
        definition: definition.clone(),
        elements: ours(hosts),
    };
    commit(&mut socket, &[add(&[1, 2])]).unwrap();
    let elements = socket.elements(&id(), "flows").unwrap();
    assert_eq!(elements.len(), 3);
    assert!(elements[0].1.expires_ms.is_some_and(|ms| ms > 3_500_000), "{elements:?}");
    assert_eq!(elements[0].1.comment, Some(name("static")));
    // They are no difference, and one that has gone meanwhile does not stop the deletion of the others.
    assert_eq!(dump(&mut socket, &ruleset), ruleset);
    let mut delete = ours(&[1, 2, 3]);
    delete.extend([element(&[127, 0, 0, 1], None, value(&5u32.to_ne_bytes()), None)]);
    commit(&mut socket, &[Change::DeleteElements { table: table.clone(), set, definition, elements: delete }]).unwrap();
    assert_eq!(socket.elements(&id(), "flows").unwrap(), []);
    assert_eq!(socket.counters(&id()).unwrap()[&name("one")], counts(2, 10));
}

#[test]
fn a_set_that_is_full_ends_the_rule() {
    let mut socket = looped();
    let mut flows = set(&[Datatype::Mark], None);
    (flows.dynamic, flows.size) = (true, Some(2));
    let add = Statement::from(Dynset {
        op: DynsetOp::Add,
        set: name("flows"),
        key: Value::Numgen(Numgen { random: false, modulus: 5, offset: 0 }),
        data: None,
        timeout_ms: None,
        stateful: Some(Stateful::Counter),
    });
    load(&mut socket, &output(vec![("flows", flows)], vec![vec![add, counter("one")]]));
    send(10, 0);
    // Two elements fit; each number comes twice.
    let elements = socket.elements(&id(), "flows").unwrap();
    assert_eq!(elements.iter().map(|(_, state)| state.counter).collect::<Vec<_>>(), [Some(counts(2, 0)); 2]);
    assert_eq!(socket.counters(&id()).unwrap()[&name("one")], counts(4, 0));
}

#[test]
fn limits_of_elements_rules_and_packets_limit() {
    let mut socket = looped();
    let limit = Limit { rate: 1, per_s: 3_600, burst: 2, over: false };
    let mut guests = set(&[Datatype::Ipv4Addr], None);
    let (key, guest) = element(&[127, 0, 0, 1], None, None, None);
    guests.elements.extend([(key, Element { own: Own { timeout_ms: None, limit: Some(limit) }.boxed(), ..guest })]);
    let mut seen = set(&[Datatype::Ipv4Addr], None);
    (seen.dynamic, seen.timeout_ms) = (true, Some(60_000));
    let over = Limit { over: true, ..limit };
    let in_guests = Statement::InSet { value: field(Field::Ip4Saddr), set: name("guests"), invert: false };
    let rules = vec![
        vec![in_guests, counter("one")],
        vec![dynset(DynsetOp::Update, "seen", None, Some(Stateful::Limit(over))), counter("two")],
        vec![Statement::Limit(Limit { burst: 4, ..over }), Statement::Verdict(Verdict::Drop)],
    ];
    let ruleset = output(vec![("guests", guests), ("seen", seen)], rules);
    load(&mut socket, &ruleset);
    assert_eq!(dump(&mut socket, &ruleset), ruleset);
    assert!(nft(&["list", "set", "inet", TABLE, "guests"], "").contains("limit rate 1/hour burst 2 packets"));
    let receiver = UdpSocket::bind("127.0.0.2:9").unwrap();
    receiver.set_nonblocking(true).unwrap();
    send(10, 0);
    let counters = socket.counters(&id()).unwrap();
    assert_eq!(counters, [(name("one"), counts(2, 0)), (name("two"), counts(8, 0))].into());
    assert_eq!(std::iter::from_fn(|| receiver.recv(&mut [0; 8]).ok()).count(), 4);
    let elements = socket.elements(&id(), "guests").unwrap();
    assert_eq!(elements[0].1.limit, Some(limit));
}

/// A datagram to one port arrives at another, and comes from where the rule says.
#[test]
fn packets_are_rewritten() {
    let mut socket = looped();
    let receiver = UdpSocket::bind("127.0.0.5:0").unwrap();
    receiver.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
    let port = receiver.local_addr().unwrap().port().to_be_bytes();
    let write = |target, value: &[u8]| Statement::Set { target, value: Value::Constant(bytes(value)) };
    let mut hosts = set(&[Datatype::Mark], Some(SetData::Value(vec![Datatype::Ipv4Addr])));
    hosts.elements.extend([element(&0u32.to_ne_bytes(), None, value(&[127, 0, 0, 5]), None)]);
    let rules = vec![vec![
        Statement::Set { target: Target::Ip4Daddr, value: map(field(Field::Mark), "hosts") },
        write(Target::UdpDport, &port),
        write(Target::Ip4Saddr, &[127, 0, 0, 77]),
        write(Target::UdpSport, &[0, 53]),
        counter("one"),
    ]];
    let ruleset = output(vec![("hosts", hosts)], rules);
    load(&mut socket, &ruleset);
    assert_eq!(dump(&mut socket, &ruleset), ruleset);
    send(1, 5);
    let (length, from) = receiver.recv_from(&mut [0; 64]).unwrap();
    assert_eq!((length, from.to_string().as_str()), (5, "127.0.0.77:53"));
}

#[test]
fn a_changed_object_takes_everything_along_that_points_to_it() {
    let mut socket = fresh_namespace();
    run("ip", &["link", "add", "hg0", "type", "veth", "peer", "name", "hg1"]);
    for (old, kind, object) in [(objects(), ObjectKind::Synproxy, "web"), (tunnels(), ObjectKind::Tunnel, "b1")] {
        load(&mut socket, &old);
        let mut new = old.clone();
        let table = new.tables.values_mut().next().unwrap();
        match table.objects.get_mut(&(kind, name(object))).unwrap() {
            Object::Synproxy { mss, .. } => *mss = 1400,
            Object::Tunnel(tunnel) => tunnel.ttl = 32,
            other => panic!("{other:?}"),
        }
        for (from, to) in [(&old, &new), (&new, &old)] {
            commit(&mut socket, &between(from, to)).unwrap();
            assert_eq!(dump(&mut socket, to), *to);
        }
        commit(&mut socket, &between(&old, &Ruleset::default())).unwrap();
    }
}

#[test]
fn an_error_names_the_object() {
    let mut socket = fresh_namespace();
    load(&mut socket, &objects());
    let table = TableId::inet("hgobjects");
    let helper = Object::Helper { helper: name("none-such"), protocol: 6, family: Family::Inet };
    let changes = [
        Change::AddObject { table: table.clone(), kind: ObjectKind::Helper, object: name("lost"), value: helper },
        Change::DeleteObject { table, kind: ObjectKind::Counter, object: name("web") },
    ];
    let CommitError::Refused { failures, complete: true } = commit(&mut socket, &changes).unwrap_err() else {
        panic!()
    };
    let failures: Vec<_> = failures.iter().map(|failure| (failure.object.as_str(), failure.errno)).collect();
    assert_eq!(
        failures,
        [
            ("ct helper lost in table inet hgobjects", Errno::ENOENT),
            ("counter web in table inet hgobjects", Errno::EBUSY)
        ]
    );
    assert_eq!(dump(&mut socket, &objects()), objects());
}

/// Whatever this kernel has: the answer is that of the attempt, and the question leaves nothing behind.
#[test]
fn flowtables_are_probed_without_a_trace() {
    let mut socket = fresh_namespace();
    run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]);
    let generation = socket.generation().unwrap();
    let supported = socket.supports_flowtable().unwrap();
    assert_eq!(socket.generation().unwrap(), generation);
    assert_eq!(nft(&["list", "tables"], ""), "");
    match commit(&mut socket, &between(&Ruleset::default(), &offload())) {
        Ok(()) => assert!(supported && dump(&mut socket, &offload()) == offload()),
        Err(error) => assert!(!supported && error.to_string().contains("flowtable fast in table"), "{error}"),
    }
}

/// A device leaves and another comes in its place: what the dump says, the difference mends.
#[test]
fn a_chain_follows_its_devices() {
    let mut socket = fresh_namespace();
    run("ip", &["link", "add", "hg0", "type", "veth", "peer", "name", "hg1"]);
    let wanted = tunnels();
    load(&mut socket, &wanted);
    run("ip", &["link", "delete", "hg0"]);
    // Before 6.16 the kernel drops the device from the chain, since then it waits for it.
    let found = dump(&mut socket, &wanted);
    let devices = |ruleset: &Ruleset| {
        let table = ruleset.tables.values().next().unwrap();
        table.chains["in"].base.as_ref().unwrap().devices.clone()
    };
    assert!(devices(&found).contains("lo"));
    run("ip", &["link", "add", "hg0", "type", "veth", "peer", "name", "hg1"]);
    commit(&mut socket, &between(&found, &wanted)).unwrap();
    assert_eq!(dump(&mut socket, &wanted), wanted);
    let mut moved = wanted.clone();
    let chain = moved.tables.values_mut().next().unwrap().chains.get_mut("in").unwrap();
    chain.base.as_mut().unwrap().devices = [name("hg1")].into();
    for (from, to) in [(&wanted, &moved), (&moved, &wanted)] {
        commit(&mut socket, &between(from, to)).unwrap();
        assert_eq!(dump(&mut socket, to), *to);
    }
}
