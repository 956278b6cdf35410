//! Rulesets that several tests use.

pub(crate) mod arbitrary;
pub(crate) mod namespace;

use std::sync::Arc;

use headgate_nft::*;

pub(crate) fn name(text: &str) -> Arc<str> {
    text.into()
}

pub(crate) fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::from_slice(bytes)
}

pub(crate) fn field(field: Field) -> Value {
    Value::Field(field)
}

pub(crate) fn rule(statements: Vec<Statement>) -> Rule {
    Rule { statements, comment: None }
}

pub(crate) fn is(value: Field, constant: &[u8]) -> Statement {
    Statement::Match { value: field(value), operator: Operator::Equal, constant: bytes(constant) }
}

pub(crate) fn map(key: Value, map: &str) -> Value {
    Value::Map { key: Box::new(key), map: name(map) }
}

pub(crate) fn set_mark(value: Value) -> Statement {
    Statement::Set { target: Target::CtMark, value }
}

pub(crate) fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(name(chain)))
}

pub(crate) fn nat(kind: NatKind, ipv6: bool, port: bool, to: Value) -> Statement {
    Statement::Nat(Nat { kind, ipv6, to, port, fully_random: kind == NatKind::Source })
}

pub(crate) fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { base: Some(BaseChain { kind, hook, priority, devices: Default::default() }), rules }
}

pub(crate) fn chain(rules: Vec<Rule>) -> Chain {
    Chain { base: None, rules }
}

pub(crate) fn set(key: &[Datatype], data: Option<SetData>) -> Set {
    Set { key: key.to_vec(), data, size: Some(1024), ..Set::default() }
}

pub(crate) fn element(key: &[u8], end: Option<&[u8]>, data: Option<Data>, comment: Option<&str>) -> (Key, Element) {
    (
        Key { start: bytes(key), end: end.map(bytes).map(Box::new) },
        Element { data, comment: comment.map(name), ..Element::default() },
    )
}

pub(crate) fn value(data: &[u8]) -> Option<Data> {
    Some(Data::Value(bytes(data)))
}

pub(crate) fn to_chain(chain: &str) -> Option<Data> {
    Some(Data::Verdict(Verdict::Goto(name(chain))))
}

fn mark(id: u32) -> [u8; 4] {
    id.to_ne_bytes()
}

/// 10.1.0.100 . tcp . port
fn service4(port: u16) -> [u8; 12] {
    let [high, low] = port.to_be_bytes();
    [10, 1, 0, 100, 6, 0, 0, 0, high, low, 0, 0]
}

const FD00_1: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn services() -> Vec<(Arc<str>, Set)> {
    use Datatype::*;
    let mut services4 = set(&[Ipv4Addr, InetProto, InetService], Some(SetData::Verdict));
    services4.elements.extend([
        element(&service4(80), None, to_chain("farm-web"), Some("web")),
        element(&service4(443), None, to_chain("farm-off"), None),
    ]);
    let mut services6 = set(&[Ipv6Addr, InetProto, InetService], Some(SetData::Verdict));
    let mut key = FD00_1.to_vec();
    key.extend([17, 0, 0, 0, 0, 53, 0, 0]);
    services6.elements.extend([element(&key, None, to_chain("farm-dns.6"), None)]);
    let mut ranges4 = set(&[Ipv4Addr, InetProto, InetService], Some(SetData::Verdict));
    ranges4.interval = true;
    ranges4.elements.extend([element(&service4(100), Some(&service4(200)), to_chain("farm-web"), Some("ports"))]);
    let mut wildcards4 = set(&[Ipv4Addr, InetProto], Some(SetData::Verdict));
    wildcards4.elements.extend([element(&[10, 1, 0, 101, 6, 0, 0, 0], None, to_chain("farm-web"), None)]);
    let mut protocols4 = set(&[Ipv4Addr], Some(SetData::Verdict));
    protocols4.elements.extend([element(&[10, 1, 0, 102], None, to_chain("farm-web"), None)]);
    vec![
        (name("services4"), services4),
        (name("services6"), services6),
        (name("ranges4"), ranges4),
        (name("wildcards4"), wildcards4),
        (name("protocols4"), protocols4),
    ]
}

fn backends() -> Vec<(Arc<str>, Set)> {
    use Datatype::*;
    let mut slots = set(&[Mark], Some(SetData::Value(vec![Mark])));
    slots.elements.extend([
        element(&mark(0x10000), None, value(&mark(0x4800_0001)), None),
        element(&mark(0x10001), None, value(&mark(0x4800_0002)), None),
        element(&mark(0x20000), None, value(&mark(0x4800_0003)), None),
    ]);
    let mut targets4 = set(&[Mark], Some(SetData::Value(vec![Ipv4Addr, InetService])));
    targets4.elements.extend([element(
        &mark(0x4800_0001),
        None,
        value(&[10, 2, 0, 11, 0x1f, 0x90, 0, 0]),
        Some("web/b1"),
    )]);
    let mut targets6 = set(&[Mark], Some(SetData::Value(vec![Ipv6Addr, InetService])));
    let mut data = FD00_1.to_vec();
    data.extend([0, 53, 0, 0]);
    targets6.elements.extend([element(&mark(0x4800_0003), None, value(&data), Some("dns/b1"))]);
    let mut hosts4 = set(&[Mark], Some(SetData::Value(vec![Ipv4Addr])));
    hosts4.elements.extend([element(&mark(0x4800_0002), None, value(&[10, 2, 0, 12]), Some("web/b2"))]);
    let mut sources4 = set(&[Mark], Some(SetData::Value(vec![Ipv4Addr])));
    sources4.elements.extend([element(&mark(0x4800_0001), None, value(&[10, 2, 0, 1]), None)]);
    let mut nets = set(&[Ipv4Addr], None);
    nets.interval = true;
    nets.elements.extend([
        element(&[10, 0, 0, 0], Some(&[10, 255, 255, 255]), None, Some("ours")),
        element(&[11, 0, 0, 0], None, None, None),
        element(&[240, 0, 0, 0], Some(&[255, 255, 255, 255]), None, None),
    ]);
    let mut flows = set(&[Ipv4Addr], Some(SetData::Value(vec![Mark])));
    (flows.dynamic, flows.timeout_ms) = (true, Some(90_000));
    vec![
        (name("slots"), slots),
        (name("targets4"), targets4),
        (name("targets6"), targets6),
        (name("hosts4"), hosts4),
        (name("sources4"), sources4),
        (name("nets"), nets),
        (name("flows"), flows),
    ]
}

fn vmap(fields: &[Field], to: &str) -> Statement {
    let key = match fields {
        [one] => field(*one),
        many => Value::Concat(many.iter().map(|one| field(*one)).collect()),
    };
    Statement::VerdictMap { key, map: name(to) }
}

fn entry() -> Vec<Rule> {
    use Field::*;
    let (ipv4, ipv6) = (is(Nfproto, &[2]), is(Nfproto, &[10]));
    vec![
        rule(vec![ipv4.clone(), vmap(&[Ip4Daddr, L4proto, Dport], "services4")]),
        rule(vec![ipv4.clone(), vmap(&[Ip4Daddr, L4proto, Dport], "ranges4")]),
        rule(vec![ipv4.clone(), vmap(&[Ip4Daddr, L4proto], "wildcards4")]),
        rule(vec![ipv4, vmap(&[Ip4Daddr], "protocols4")]),
        rule(vec![ipv6, vmap(&[Ip6Daddr, L4proto, Dport], "services6")]),
    ]
}

fn assign() -> Vec<Rule> {
    use NatKind::Destination;
    let (mark, tcp) = (field(Field::CtMark), is(Field::L4proto, &[6]));
    vec![
        rule(vec![set_mark(map(mark.clone(), "slots"))]),
        // nft(8) 1.0.6 reads a translation of ports only behind a match of the protocol; the kernel does not need it.
        rule(vec![tcp.clone(), nat(Destination, false, true, map(mark.clone(), "targets4"))]),
        rule(vec![nat(Destination, false, false, map(mark.clone(), "hosts4"))]),
        rule(vec![tcp, nat(Destination, true, true, map(mark, "targets6"))]),
    ]
}

/// The product's table, with one of everything.
pub(crate) fn product() -> Ruleset {
    let numgen = |random, modulus, offset| Value::Numgen(Numgen { random, modulus, offset });
    let mut table = Table::default();
    table.sets.extend(services().into_iter().chain(backends()));
    let mut commented = rule(vec![set_mark(numgen(false, 2, 0x10000)), Statement::Counter, goto("assign")]);
    commented.comment = Some(name("web: two backends"));
    let snat = nat(NatKind::Source, false, false, map(field(Field::CtMark), "sources4"));
    let refuse = vec![
        rule(vec![is(Field::L4proto, &[6]), Statement::Reject(Reject::TcpReset)]),
        rule(vec![Statement::Reject(Reject::PortUnreachable)]),
    ];
    table.chains.extend([
        (name("prerouting"), base(ChainKind::Nat, Hook::Prerouting, -100, entry())),
        (name("output"), base(ChainKind::Nat, Hook::Output, -100, entry())),
        (name("postrouting"), base(ChainKind::Nat, Hook::Postrouting, 100, vec![rule(vec![snat])])),
        (name("farm-web"), chain(vec![commented])),
        (name("farm-dns.6"), chain(vec![rule(vec![set_mark(numgen(true, 1, 0x20000)), goto("assign")])])),
        (name("farm-off"), chain(vec![rule(vec![Statement::Verdict(Verdict::Drop)])])),
        (name("assign"), chain(assign())),
        (name("refuse"), base(ChainKind::Filter, Hook::Input, 0, refuse)),
    ]);
    Ruleset { tables: [(TableId::inet("hgtest"), table)].into() }
}

/// Statements that the product does not use yet, and every operator.
pub(crate) fn varied() -> Ruleset {
    use Field::*;
    let and = |field, mask: u32| Value::And(Box::new(Value::Field(field)), bytes(&mask.to_ne_bytes()));
    let compare =
        |value, operator, constant: u32| Statement::Match { value, operator, constant: bytes(&constant.to_ne_bytes()) };
    let hash = Value::Jhash {
        key: Box::new(Value::Concat(vec![field(Ip4Saddr), field(Sport)])),
        modulus: 7,
        seed: 0xdead_beef,
        offset: 3,
    };
    let to4 = Value::Concat(vec![Value::Constant(bytes(&[10, 0, 0, 1])), Value::Constant(bytes(&[0, 80]))]);
    let to6 = Value::Concat(vec![Value::Constant(bytes(&FD00_1)), Value::Constant(bytes(&[0, 80]))]);
    let (ipv4, ipv6, tcp) = (is(Nfproto, &[2]), is(Nfproto, &[10]), is(L4proto, &[6]));
    let dnat = |ipv6, port, to| nat(NatKind::Destination, ipv6, port, to);
    let raw = vec![
        rule(vec![compare(and(CtMark, 0xfffff), Operator::Equal, 5), Statement::Counter]),
        rule(vec![compare(and(CtState, 6), Operator::NotEqual, 0), Statement::Verdict(Verdict::Accept)]),
        rule(vec![compare(field(CtState), Operator::Equal, 8), Statement::Verdict(Verdict::Return)]),
        rule(vec![compare(field(Mark), Operator::NotEqual, 7), Statement::Notrack]),
        rule(vec![ipv4.clone(), Statement::Set { target: Target::Mark, value: hash }]),
        rule(vec![Statement::Set { target: Target::Mark, value: and(CtMark, 0xffff) }]),
        rule(vec![set_mark(Value::Constant(bytes(&7u32.to_ne_bytes())))]),
        rule(vec![is(Iif, &1u32.to_ne_bytes()), Statement::Verdict(Verdict::Jump(name("other")))]),
        rule(vec![ipv4.clone(), Statement::InSet { value: field(Ip4Saddr), set: name("nets"), invert: true }]),
        rule(vec![ipv4.clone(), is(Ip4Daddr, &[10, 0, 0, 1]), is(Sport, &[0, 53]), Statement::Verdict(Verdict::Drop)]),
        rule(vec![
            ipv4.clone(),
            Statement::Match {
                value: Value::And(Box::new(field(Ip4Saddr)), bytes(&[255, 255, 255, 0])),
                operator: Operator::NotEqual,
                constant: bytes(&[10, 2, 0, 0]),
            },
        ]),
        rule(vec![ipv6.clone(), is(Ip6Saddr, &FD00_1), Statement::Verdict(Verdict::Drop)]),
    ];
    let nats = vec![
        rule(vec![ipv4.clone(), tcp.clone(), dnat(false, true, to4)]),
        rule(vec![ipv6, tcp, dnat(true, true, to6)]),
        rule(vec![ipv4, dnat(false, false, Value::Constant(bytes(&[10, 0, 0, 2])))]),
    ];
    let mut table = Table::default();
    let mut nets = set(&[Datatype::Ipv4Addr], None);
    (nets.interval, nets.size) = (true, None);
    table.sets.insert(name("nets"), nets);
    let mut ports = set(&[Datatype::InetService], None);
    ports.elements.extend([element(&[0, 80], None, None, None), element(&[1, 187], None, None, None)]);
    table.sets.insert(name("ports"), ports);
    let mut wide = set(&[Datatype::IfName, Datatype::EtherAddr, Datatype::IfIndex, Datatype::Ipv6Addr], None);
    let mut key = b"eth0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    key.extend([0, 17, 34, 51, 68, 85, 0, 0]);
    key.extend(1u32.to_ne_bytes());
    key.extend(FD00_1);
    wide.elements.extend([element(&key, None, None, Some("say 'hi' there; drop"))]);
    table.sets.insert(name("wide"), wide);
    table.chains.extend([
        (name("raw"), base(ChainKind::Filter, Hook::Prerouting, -300, raw)),
        (name("nats"), base(ChainKind::Nat, Hook::Prerouting, -90, nats)),
        (name("other"), chain(vec![])),
    ]);
    Ruleset { tables: [(TableId::inet("hgvaried"), table)].into() }
}

fn to(target: Target, value: Value) -> Statement {
    Statement::Set { target, value }
}

fn constant(value: &[u8]) -> Value {
    Value::Constant(bytes(value))
}

fn update(set: &str, key: Field, stateful: Option<Stateful>) -> Dynset {
    Dynset { op: DynsetOp::Update, set: name(set), key: field(key), data: None, timeout_ms: None, stateful }
}

pub(crate) const OVER: Limit = Limit { rate: 10, per_s: 1, burst: 5, over: true };

/// Sets that the packet path writes, of each kind.
fn learned() -> Vec<(Arc<str>, Set)> {
    use Datatype::*;
    let mut clients = set(&[Ipv4Addr], Some(SetData::Value(vec![Mark])));
    (clients.dynamic, clients.timeout_ms) = (true, Some(60_000));
    let mut bans = set(&[Ipv4Addr], None);
    (bans.dynamic, bans.timeout_ms) = (true, Some(10_000));
    let mut busy = set(&[Ipv4Addr], None);
    busy.dynamic = true;
    let targets = set(&[Mark], Some(SetData::Value(vec![Ipv4Addr])));
    let ports = set(&[Mark], Some(SetData::Value(vec![InetService])));
    [("clients", clients), ("bans", bans), ("busy", busy), ("targets", targets), ("ports", ports)]
        .map(|(set, value)| (name(set), value))
        .into()
}

/// Rules that write into packets and sets.
fn writes() -> Vec<Rule> {
    use Field::*;
    let (ipv4, ipv6, tcp, udp) = (is(Nfproto, &[2]), is(Nfproto, &[10]), is(L4proto, &[6]), is(L4proto, &[17]));
    let mark = || field(Mark);
    let remember = Dynset { data: Some(mark()), timeout_ms: Some(30_000), ..update("clients", Ip4Saddr, None) };
    let limited = Dynset { op: DynsetOp::Add, ..update("bans", Ip4Saddr, Some(Stateful::Limit(OVER))) };
    let counted =
        Dynset { op: DynsetOp::Add, ..update("busy", Ip4Saddr, Some(Stateful::Connlimit { count: 20, over: true })) };
    let flags = Value::And(Box::new(field(TcpFlags)), bytes(&[0x12]));
    let syn = Statement::Match { value: flags, operator: Operator::Equal, constant: bytes(&[2]) };
    vec![
        rule(vec![ipv4.clone(), to(Target::Ip4Daddr, map(mark(), "targets"))]),
        rule(vec![ipv4.clone(), to(Target::Ip4Saddr, constant(&[1, 2, 3, 4]))]),
        rule(vec![ipv6.clone(), to(Target::Ip6Saddr, constant(&FD00_1))]),
        rule(vec![ipv6, to(Target::Ip6Daddr, constant(&FD00_1))]),
        rule(vec![tcp.clone(), to(Target::TcpDport, map(mark(), "ports")), to(Target::TcpSport, constant(&[0, 80]))]),
        rule(vec![udp.clone(), to(Target::UdpDport, map(mark(), "ports")), to(Target::UdpSport, constant(&[0, 53]))]),
        rule(vec![udp, is(UdpChecksum, &[0, 0]), to(Target::UdpChecksum, constant(&[0, 0]))]),
        rule(vec![to(Target::Nftrace, constant(&[1]))]),
        rule(vec![tcp, syn, Statement::Verdict(Verdict::Accept)]),
        rule(vec![ipv4.clone(), remember.into()]),
        rule(vec![ipv4.clone(), limited.into(), Statement::Verdict(Verdict::Drop)]),
        rule(vec![ipv4, counted.into(), Statement::Verdict(Verdict::Drop)]),
    ]
}

/// Statements of every kind that this machine's kernel has, beside those of [`varied`].
pub(crate) fn features() -> Ruleset {
    use Field::*;
    let mut table = Table::default();
    table.sets.extend(learned());
    let log = |prefix: &str, snaplen| Statement::Log { group: 5, prefix: name(prefix), snaplen };
    let others = vec![
        rule(vec![Statement::Limit(Limit { rate: 10, per_s: 60, burst: 5, over: false }), log("new ", Some(128))]),
        rule(vec![Statement::Limit(Limit { rate: 1, per_s: 3_600, burst: 7, over: true }), log("", None)]),
        rule(vec![Statement::Connlimit { count: 5, over: true }, Statement::Verdict(Verdict::Drop)]),
        rule(vec![is(FibDaddrType, &2u32.to_ne_bytes()), Statement::Verdict(Verdict::Accept)]),
        rule(vec![is(CtDirection, &[0]), Statement::Counter]),
        rule(vec![is(CtDirection, &[1]), Statement::Counter]),
        rule(vec![is(Oif, &1u32.to_ne_bytes()), Statement::Counter]),
        rule(vec![is(Iifname, b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"), Statement::Counter]),
        rule(vec![is(L4proto, &[1]), is(IcmpType, &[8]), Statement::Counter]),
    ];
    let proxy = Statement::Synproxy { mss: 1460, wscale: 7, timestamp: true, sack: true };
    table.chains.extend([
        (name("writes"), base(ChainKind::Filter, Hook::Prerouting, -300, writes())),
        (name("others"), base(ChainKind::Filter, Hook::Forward, 0, others)),
        (name("proxy"), base(ChainKind::Filter, Hook::Input, 0, vec![rule(vec![is(L4proto, &[6]), proxy])])),
    ]);
    Ruleset { tables: [(TableId::inet("hgfeatures"), table)].into() }
}

/// A table of packets that arrive at `lo`.
pub(crate) fn ingress() -> Ruleset {
    use Field::*;
    let fwd = |ipv6, device, address| Statement::Fwd { ipv6, device: Box::new(device), address };
    let lo = || constant(&1u32.to_ne_bytes());
    let mut table = Table::default();
    table.sets.extend([
        (name("hops"), set(&[Datatype::Mark], Some(SetData::Value(vec![Datatype::Ipv4Addr])))),
        (name("ports"), set(&[Datatype::Mark], Some(SetData::Value(vec![Datatype::IfIndex])))),
    ]);
    let rules = vec![
        rule(vec![is(Protocol, &[0x86, 0xdd]), Statement::Verdict(Verdict::Accept)]),
        rule(vec![is(EtherSaddr, &[0, 17, 34, 51, 68, 85]), is(EtherDaddr, &[2, 0, 0, 0, 0, 1]), Statement::Counter]),
        rule(vec![is(Ip4Daddr, &[1, 2, 3, 4]), fwd(false, lo(), constant(&[10, 0, 0, 1]))]),
        rule(vec![is(Ip4Daddr, &[1, 2, 3, 5]), fwd(false, lo(), map(field(Mark), "hops"))]),
        rule(vec![is(Ip4Daddr, &[1, 2, 3, 6]), fwd(false, map(field(Mark), "ports"), map(field(Mark), "hops"))]),
        rule(vec![is(Ip6Daddr, &FD00_1), fwd(true, lo(), constant(&FD00_1))]),
    ];
    let hook = BaseChain { kind: ChainKind::Filter, hook: Hook::Ingress, priority: 0, devices: [name("lo")].into() };
    table.chains.insert(name("in"), Chain { base: Some(hook), rules });
    let id = TableId { family: Family::Netdev, name: name("hgingress") };
    Ruleset { tables: [(id, table)].into() }
}

pub(crate) fn object(kind: ObjectKind, object: &str, value: Object) -> ((ObjectKind, Arc<str>), Object) {
    ((kind, name(object)), value)
}

pub(crate) fn to_object(object: &str) -> Option<Data> {
    Some(Data::Object(name(object)))
}

/// Named objects and what elements have for themselves.
pub(crate) fn objects() -> Ruleset {
    use ObjectKind::*;
    let mut table = Table::default();
    let helper = Object::Helper { helper: name("ftp"), protocol: 6, family: Family::Inet };
    let proxy = Object::Synproxy { mss: 1460, wscale: 7, timestamp: true, sack: false };
    table.objects.extend([
        object(Counter, "web", Object::Counter),
        object(Counter, "dns.6", Object::Counter),
        object(Helper, "web", helper),
        object(Synproxy, "web", proxy),
    ]);
    let mut by_mark = set(&[Datatype::Mark], Some(SetData::Objects(Counter)));
    by_mark.elements.extend([
        element(&mark(1), None, to_object("web"), Some("web/b1")),
        element(&mark(2), None, to_object("dns.6"), None),
    ]);
    let mut proxies = set(&[Datatype::Ipv4Addr], Some(SetData::Objects(Synproxy)));
    proxies.elements.extend([element(&[10, 1, 0, 100], None, to_object("web"), None)]);
    let mut counted = set(&[Datatype::Mark], None);
    counted.counters = true;
    counted.elements.extend([element(&mark(1), None, None, None), element(&mark(2), None, None, Some("b2"))]);
    let mut limited = set(&[Datatype::Ipv4Addr], None);
    limited.timeout_ms = Some(3_600_000);
    let (key, lasting) = element(&[10, 0, 0, 1], None, None, Some("guest"));
    let own = Own { timeout_ms: Some(86_400_000), limit: Some(OVER) };
    limited.elements.insert(key, Element { own: own.boxed(), ..lasting });
    limited.elements.extend([element(&[10, 0, 0, 2], None, None, None)]);
    let sets = [("by-mark", by_mark), ("counted", counted), ("limited", limited), ("proxies", proxies)];
    table.sets.extend(sets.map(|(set, value)| (name(set), value)));
    let named = |kind, object| Statement::Object { kind, name: name(object) };
    let in_set = |value, set| Statement::InSet { value: field(value), set: name(set), invert: false };
    let forward = vec![
        rule(vec![named(Counter, "web")]),
        rule(vec![Statement::ObjectMap { kind: Counter, key: field(Field::CtMark), map: name("by-mark") }]),
        rule(vec![in_set(Field::CtMark, "counted")]),
        rule(vec![is(Field::Nfproto, &[2]), in_set(Field::Ip4Saddr, "limited"), Statement::Verdict(Verdict::Drop)]),
        rule(vec![is(Field::L4proto, &[6]), named(Helper, "web")]),
        rule(vec![is(Field::L4proto, &[6]), named(Synproxy, "web")]),
        rule(vec![
            is(Field::Nfproto, &[2]),
            is(Field::L4proto, &[6]),
            Statement::ObjectMap { kind: Synproxy, key: field(Field::Ip4Daddr), map: name("proxies") },
        ]),
    ];
    table.chains.insert(name("forward"), base(ChainKind::Filter, Hook::Forward, 0, forward));
    Ruleset { tables: [(TableId::inet("hgobjects"), table)].into() }
}

/// Tunnels, which nft(8) 1.0.6 cannot list, and a chain at two devices.
pub(crate) fn tunnels() -> Ruleset {
    let tunnel = |id, source: &str, destination: &str| {
        let address = |text: &str| text.parse().expect("an address");
        let (source, destination) = (address(source), address(destination));
        Object::Tunnel(Tunnel { id, source, destination, ttl: 64, zero_checksum: id % 2 == 1 })
    };
    let mut table = Table::default();
    table.objects.extend([
        object(ObjectKind::Tunnel, "b1", tunnel(1, "10.2.0.1", "10.2.0.11")),
        object(ObjectKind::Tunnel, "b2", tunnel(2, "fd02::1", "fd02::12")),
    ]);
    let mut by_mark = set(&[Datatype::Mark], Some(SetData::Objects(ObjectKind::Tunnel)));
    by_mark
        .elements
        .extend([element(&mark(1), None, to_object("b1"), None), element(&mark(2), None, to_object("b2"), None)]);
    table.sets.insert(name("tunnels"), by_mark);
    let objref = Statement::ObjectMap { kind: ObjectKind::Tunnel, key: field(Field::Mark), map: name("tunnels") };
    let devices = [name("lo"), name("hg0")].into();
    let hook = BaseChain { kind: ChainKind::Filter, hook: Hook::Ingress, priority: -5, devices };
    table.chains.insert(name("in"), Chain { base: Some(hook), rules: vec![rule(vec![objref])] });
    let id = TableId { family: Family::Netdev, name: name("hgtunnels") };
    Ruleset { tables: [(id, table)].into() }
}

/// A flowtable, which not every kernel has.
pub(crate) fn offload() -> Ruleset {
    let mut table = Table::default();
    let devices = [name("eth0"), name("eth1")].into();
    let flowtable = Flowtable { priority: -10, devices, counters: true, hardware: false };
    table.flowtables.insert(name("fast"), flowtable);
    let rules = vec![rule(vec![Statement::FlowAdd { flowtable: name("fast") }])];
    table.chains.insert(name("forward"), base(ChainKind::Filter, Hook::Forward, 0, rules));
    Ruleset { tables: [(TableId::inet("hgoffload"), table)].into() }
}
