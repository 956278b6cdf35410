use std::sync::Arc;

use headgate_nft::{BaseChain, Bytes, Datatype, Element, Key, Nat, Numgen, SetData};

use super::*;

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn map_of(key: &[Datatype], data: SetData, elements: Vec<(Vec<u8>, Data)>) -> Set {
    let element = |(key, data): (Vec<u8>, Data)| {
        (Key { start: Bytes::from_vec(key), end: None }, Element { data: Some(data), ..Element::default() })
    };
    Set { key: key.to_vec(), data: Some(data), elements: elements.into_iter().map(element).collect(), ..Set::default() }
}

fn value(bytes: &[u8]) -> Data {
    Data::Value(Bytes::from_slice(bytes))
}

fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Vec<Statement>>) -> Chain {
    Chain { base: Some(BaseChain { kind, hook, priority, devices: Default::default() }), ..plain(rules) }
}

fn plain(rules: Vec<Vec<Statement>>) -> Chain {
    Chain { base: None, rules: rules.into_iter().map(|statements| Rule { statements, comment: None }).collect() }
}

fn looked_up(key: Value, map: &str) -> Value {
    Value::Map { key: Box::new(key), map: name(map) }
}

fn is(field: Field, constant: &[u8]) -> Statement {
    let value = Value::Field(field);
    Statement::Match { value, operator: Operator::Equal, constant: Bytes::from_slice(constant) }
}

fn set_mark(value: Value) -> Statement {
    Statement::Set { target: Target::CtMark, value }
}

fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(name(chain)))
}

fn nat(kind: NatKind, port: bool, map: &str) -> Statement {
    let to = looked_up(Value::Field(Field::CtMark), map);
    Statement::Nat(Nat { kind, ipv6: false, to, port, fully_random: false })
}

/// 10.1.0.100, tcp, port
fn service(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![10, 1, 0, 100, 6, 0, 0, 0, high, low, 0, 0]
}

/// Port 80: two backends by mark, the second without a port of its own and without a source. Port 443: refused. Ports
/// 1000 to 2000: the second backend.
fn product() -> Ruleset {
    use Datatype::{InetProto, InetService, Ipv4Addr, Mark};
    let services = [Ipv4Addr, InetProto, InetService];
    let to = |chain| Data::Verdict(Verdict::Goto(name(chain)));
    let mark = |id: u32| id.to_ne_bytes().to_vec();
    let exact = map_of(&services, SetData::Verdict, vec![(service(80), to("web")), (service(443), to("off"))]);
    let mut ranges = map_of(&services, SetData::Verdict, vec![(service(1000), to("one"))]);
    ranges.interval = true;
    let (mut key, element) = ranges.elements.pop_first().unwrap();
    key.end = Some(Box::new(service(2000).into()));
    ranges.elements.insert(key, element);
    let marks = SetData::Value(vec![Mark]);
    let slots = map_of(&[Mark], marks, vec![(mark(16), value(&mark(1))), (mark(17), value(&mark(2)))]);
    let ends = SetData::Value(vec![Ipv4Addr, InetService]);
    let targets = map_of(&[Mark], ends, vec![(mark(1), value(&[10, 2, 0, 11, 0x1f, 0x90, 0, 0]))]);
    let address = SetData::Value(vec![Ipv4Addr]);
    let hosts = map_of(&[Mark], address.clone(), vec![(mark(2), value(&[10, 2, 0, 12]))]);
    let sources = map_of(&[Mark], address, vec![(mark(1), value(&[10, 2, 0, 1]))]);
    let key = Value::Concat([Field::Ip4Daddr, Field::L4proto, Field::Dport].map(Value::Field).to_vec());
    let vmap = |map| vec![is(Field::Nfproto, &[2]), Statement::VerdictMap { key: key.clone(), map: name(map) }];
    let entry = || vec![vmap("services4"), vmap("ranges4")];
    let numgen = Value::Numgen(Numgen { random: false, modulus: 2, offset: 16 });
    let refused = vec![
        vec![is(Field::L4proto, &[6]), Statement::Reject(Reject::TcpReset)],
        vec![Statement::Verdict(Verdict::Drop)],
    ];
    let assign = vec![
        vec![set_mark(looked_up(Value::Field(Field::CtMark), "slots"))],
        vec![nat(NatKind::Destination, true, "targets4")],
        vec![nat(NatKind::Destination, false, "hosts4")],
    ];
    let table = Table {
        sets: [
            ("services4", exact),
            ("ranges4", ranges),
            ("slots", slots),
            ("targets4", targets),
            ("hosts4", hosts),
            ("sources4", sources),
        ]
        .map(|(set, value)| (name(set), value))
        .into(),
        chains: [
            ("prerouting", base(ChainKind::Nat, Hook::Prerouting, -100, entry())),
            ("output", base(ChainKind::Nat, Hook::Output, -100, entry())),
            (
                "postrouting",
                base(ChainKind::Nat, Hook::Postrouting, 100, vec![vec![nat(NatKind::Source, false, "sources4")]]),
            ),
            ("web", plain(vec![vec![set_mark(numgen), goto("assign")]])),
            ("one", plain(vec![vec![set_mark(Value::Constant(mark(17).into())), goto("assign")]])),
            ("off", plain(refused)),
            ("assign", plain(assign)),
        ]
        .map(|(chain, value)| (name(chain), value))
        .into(),
        ..Table::default()
    };
    Ruleset { tables: [(TableId::inet("headgate"), table)].into() }
}

fn local() -> [IpAddr; 1] {
    ["10.1.0.100".parse().unwrap()]
}

fn ends(packet: &Packet) -> Vec<(Fate, String, String, u32)> {
    let outcomes = trace(&product(), packet, &local()).unwrap();
    let line = |one: Outcome| (one.fate, one.source.to_string(), one.destination.to_string(), one.ct_mark);
    outcomes.into_iter().map(line).collect()
}

#[test]
fn a_service_ends_at_each_of_its_backends() {
    for (from, origin) in [("10.0.0.9:4711", Origin::Network), ("10.1.0.100:4711", Origin::Box)] {
        let found = ends(&Packet::tcp(from, "10.1.0.100:80", origin));
        let expected = [
            (Fate::Passed, "10.2.0.1:4711".to_owned(), "10.2.0.11:8080".to_owned(), 1),
            (Fate::Passed, from.to_owned(), "10.2.0.12:80".to_owned(), 2),
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn a_range_is_consulted_after_exact_ports() {
    let found = ends(&Packet::tcp("10.0.0.9:1", "10.1.0.100:1500", Origin::Network));
    assert_eq!(found, [(Fate::Passed, "10.0.0.9:1".to_owned(), "10.2.0.12:1500".to_owned(), 2)]);
    let found = ends(&Packet::tcp("10.0.0.9:1", "10.1.0.100:2001", Origin::Network));
    assert_eq!(found, [(Fate::Passed, "10.0.0.9:1".to_owned(), "10.1.0.100:2001".to_owned(), 0)]);
}

#[test]
fn a_refused_service_is_refused() {
    let found = ends(&Packet::tcp("10.0.0.9:1", "10.1.0.100:443", Origin::Network));
    assert_eq!(found[0].0, Fate::Refused(Reject::TcpReset));
    assert_eq!(found.len(), 1);
}

#[test]
fn another_protocol_or_family_is_left_alone() {
    let found = ends(&Packet::udp("10.0.0.9:1", "10.1.0.100:80", Origin::Network));
    assert_eq!(found, [(Fate::Passed, "10.0.0.9:1".to_owned(), "10.1.0.100:80".to_owned(), 0)]);
    let found = ends(&Packet::tcp("[fd00::9]:1", "[fd00::100]:80", Origin::Network));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].3, 0);
}

#[test]
fn what_the_kernel_would_not_have_is_an_error() {
    let packet = Packet::tcp("10.0.0.9:1", "10.1.0.100:80", Origin::Network);
    let mut ruleset = product();
    let table = ruleset.tables.values_mut().next().unwrap();
    table.chains.insert(name("assign"), plain(vec![vec![goto("assign")]]));
    assert!(matches!(trace(&ruleset, &packet, &local()), Err(TraceError::TooDeep { .. })));
    let table = ruleset.tables.values_mut().next().unwrap();
    table.chains.insert(name("assign"), plain(vec![vec![Statement::Unknown { name: name("log") }]]));
    assert!(matches!(trace(&ruleset, &packet, &local()), Err(TraceError::Unknown { .. })));
    ruleset.tables.values_mut().next().unwrap().chains.remove("assign");
    assert!(matches!(trace(&ruleset, &packet, &local()), Err(TraceError::NoChain { .. })));
}
