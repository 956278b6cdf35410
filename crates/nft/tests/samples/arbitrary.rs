//! Random rulesets that a kernel accepts: chains `l*` are jumped to and jump nowhere; sets `s*` have any shape; everything
//! has few names, so that two random rulesets have much to change between them.

use std::collections::BTreeMap;

use headgate_nft::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{base, bytes, chain, field, name, object, to_object};

/// What rules and elements may point to.
#[derive(Clone, Copy)]
struct Targets {
    /// Chains `l0`…
    leaves: usize,
    /// Counters `c0`…
    counters: usize,
}

/// Number generators and hashes: `offset + modulus` fits 32 bits, or the kernel says EOVERFLOW.
fn span() -> impl Strategy<Value = (u32, u32)> {
    (1..=u32::from(u16::MAX), 0..=0xfff0_0000u32)
}

fn blob(length: usize) -> BoxedStrategy<Bytes> {
    vec(any::<u8>(), length).prop_map(|blob| bytes(&blob)).boxed()
}

fn datatype() -> impl Strategy<Value = Datatype> {
    use Datatype::*;
    select(vec![Ipv4Addr, Ipv6Addr, InetProto, InetService, Mark, IfIndex, IfName, EtherAddr])
}

fn comment() -> impl Strategy<Value = Option<std::sync::Arc<str>>> {
    proptest::option::weighted(0.3, "[a-z/é ']{0,40}".prop_map(|text| name(&text)))
}

fn verdict(leaves: usize) -> impl Strategy<Value = Verdict> {
    let leaf = move || (0..leaves).prop_map(|leaf| name(&format!("l{leaf}")));
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Return),
        leaf().prop_map(Verdict::Goto),
        leaf().prop_map(Verdict::Jump),
    ]
}

/// Bytes for a concatenation: padding is zero, as the kernel keeps it.
fn key_bytes(types: &[Datatype], blob: &[u8]) -> Vec<u8> {
    let mut blob = blob.iter().cycle();
    let mut out = Vec::new();
    for datatype in types {
        out.extend(blob.by_ref().take(datatype.bytes()));
        if types.len() > 1 {
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
    out
}

/// Definition of a set without elements.
fn definition() -> impl Strategy<Value = Set> {
    let data = prop_oneof![
        Just(None),
        Just(Some(SetData::Verdict)),
        vec(datatype(), 1..3).prop_map(|types| Some(SetData::Value(types))),
        Just(Some(SetData::Objects(ObjectKind::Counter))),
    ];
    let size = proptest::option::of(select(vec![256u32, 1024]));
    (vec(datatype(), 1..4), data, 0..4, size, any::<(bool, bool)>()).prop_map(|(key, data, kind, size, own)| {
        let points = matches!(data, Some(SetData::Verdict | SetData::Objects(_)));
        let dynamic = kind == 2 && !points;
        Set {
            // Ranges compare bytes, so what is in host order has no ranges of a single field.
            interval: kind == 1,
            dynamic,
            timeout_ms: (own.0 && kind >= 2 && !points).then_some(3_600_000),
            counters: own.1,
            key,
            data,
            size: if dynamic { size.or(Some(512)) } else { size },
            ..Set::default()
        }
    })
}

fn data(data: Option<&SetData>, targets: Targets) -> BoxedStrategy<Option<Data>> {
    match data.cloned() {
        None => Just(None).boxed(),
        Some(SetData::Objects(_)) => (0..targets.counters).prop_map(|n| to_object(&format!("c{n}"))).boxed(),
        Some(SetData::Verdict) => verdict(targets.leaves).prop_map(|verdict| Some(Data::Verdict(verdict))).boxed(),
        Some(SetData::Value(types)) => {
            let value = vec(any::<u8>(), 64).prop_map(move |blob| Some(Data::Value(key_bytes(&types, &blob).into())));
            value.boxed()
        }
    }
}

fn filled(set: Set, targets: Targets) -> BoxedStrategy<Set> {
    if set.dynamic {
        return Just(set).boxed();
    }
    let (timeouts, limits) = (set.timeout_ms.is_some(), !set.counters);
    let timeout = proptest::option::of(1..1_000u64);
    let timeout = timeout.prop_map(move |s| s.map(|s| (s + 3_600) * 1_000).filter(|_| timeouts));
    let limit = proptest::option::weighted(0.2, limit()).prop_map(move |one| one.filter(|_| limits));
    let element =
        (data(set.data.as_ref(), targets), comment(), timeout, limit).prop_map(|(data, comment, timeout_ms, limit)| {
            Element { data, comment, own: Own { timeout_ms, limit }.boxed() }
        });
    let element = (vec(any::<u8>(), 64), element, any::<bool>());
    vec(element, 0..12)
        .prop_map(move |elements| {
            let mut set = set.clone();
            for (index, (blob, element, ranged)) in elements.into_iter().enumerate() {
                let key = key(&set, index as u8, &blob, ranged);
                set.elements.insert(key, element);
            }
            set
        })
        .boxed()
}

/// Ranges of different elements are apart by their first byte.
fn key(set: &Set, index: u8, blob: &[u8], ranged: bool) -> Key {
    let mut start = key_bytes(&set.key, blob);
    if !set.interval {
        return Key { start: start.into(), end: None };
    }
    start[0] = index * 20;
    let mut end = start.clone();
    if ranged {
        // The last byte of the first field; a single byte stays below the next element's.
        let last = set.key[0].bytes() - 1;
        end[last] = if last == 0 { start[0] + 5 } else { 0xff };
    }
    let end = (end != start).then(|| Box::new(end.into()));
    Key { start: start.into(), end }
}

/// A value of so many bytes.
fn value(width: usize) -> BoxedStrategy<Value> {
    use Field::*;
    let fields: Vec<Field> = match width {
        1 => vec![Nfproto, L4proto, CtDirection, TcpFlags],
        2 => vec![Protocol, Sport, Dport, UdpChecksum],
        4 => vec![Mark, Iif, Oif, CtMark, CtState, Ip4Saddr, Ip4Daddr, FibDaddrType],
        6 => vec![EtherSaddr, EtherDaddr],
        16 => vec![Ip6Saddr, Ip6Daddr],
        _ => return blob(width).prop_map(Value::Constant).boxed(),
    };
    let field = select(fields).prop_map(Value::Field);
    let masked = (field.clone(), blob(width)).prop_map(|(field, mask)| Value::And(Box::new(field), mask));
    let plain = prop_oneof![4 => field, 1 => blob(width).prop_map(Value::Constant), 1 => masked];
    if width != 4 {
        return plain.boxed();
    }
    let numgen = (any::<bool>(), span())
        .prop_map(|(random, (modulus, offset))| Value::Numgen(Numgen { random, modulus, offset }));
    let hash = (prop_oneof![value(1), value(2), value(16), flow_key()], span(), any::<u32>())
        .prop_map(|(key, (modulus, offset), seed)| Value::Jhash { key: Box::new(key), modulus, seed, offset });
    prop_oneof![4 => plain, 1 => numgen, 1 => hash].boxed()
}

/// What a hash usually takes.
fn flow_key() -> BoxedStrategy<Value> {
    let addresses = select(vec![Field::Ip4Saddr, Field::Ip6Saddr]);
    addresses.prop_map(|address| Value::Concat(vec![Value::Field(address), Value::Field(Field::Sport)])).boxed()
}

/// A value with the shape of a set's key.
fn key_value(types: &[Datatype]) -> BoxedStrategy<Value> {
    match types {
        [one] => value(one.bytes()),
        many => many.iter().map(|one| value(one.bytes())).collect::<Vec<_>>().prop_map(Value::Concat).boxed(),
    }
}

fn comparison() -> impl Strategy<Value = Statement> {
    let operator = || select(vec![Operator::Equal, Operator::NotEqual]);
    select(vec![1usize, 2, 4, 6, 16]).prop_flat_map(move |width| {
        (value(width), operator(), blob(width)).prop_map(|(value, operator, constant)| Statement::Match {
            value,
            operator,
            constant,
        })
    })
}

type Sets = BTreeMap<std::sync::Arc<str>, Set>;

/// A map with data of this width, looked into; else any value.
fn mapped(sets: &Sets, width: usize) -> BoxedStrategy<Value> {
    let maps: Vec<_> = sets
        .iter()
        .filter(|(_, set)| matches!(&set.data, Some(SetData::Value(types)) if model::width(types) == width))
        .map(|(name, set)| {
            let name = name.clone();
            key_value(&set.key).prop_map(move |key| Value::Map { key: Box::new(key), map: name.clone() })
        })
        .collect();
    let mut choices = vec![value(width)];
    choices.extend(maps.into_iter().map(Strategy::boxed));
    proptest::strategy::Union::new(choices).boxed()
}

/// Writes of a mark or into the packet.
fn write(sets: &Sets) -> BoxedStrategy<Statement> {
    use Target::*;
    let targets = [
        (1, vec![Nftrace]),
        (2, vec![TcpSport, TcpDport, UdpSport, UdpDport, UdpChecksum]),
        (4, vec![CtMark, Mark, Ip4Saddr, Ip4Daddr]),
        (16, vec![Ip6Saddr, Ip6Daddr]),
    ];
    let writes = targets.into_iter().map(|(width, targets)| {
        let write = (select(targets), mapped(sets, width));
        write.prop_map(|(target, value)| Statement::Set { target, value }).boxed()
    });
    proptest::strategy::Union::new(writes).boxed()
}

fn limit() -> impl Strategy<Value = Limit> {
    (1..1_000_000u64, select(vec![1u64, 7, 60, 3_600, 86_400, 604_800]), 1..10_000u32, any::<bool>())
        .prop_map(|(rate, per_s, burst, over)| Limit { rate, per_s, burst, over })
}

fn stateful() -> impl Strategy<Value = Stateful> {
    prop_oneof![
        Just(Stateful::Counter),
        limit().prop_map(Stateful::Limit),
        (any::<u32>(), any::<bool>()).prop_map(|(count, over)| Stateful::Connlimit { count, over }),
    ]
}

/// Key and data fit the registers; connections are counted only where nothing expires.
fn dynset(name: &std::sync::Arc<str>, set: &Set) -> Option<BoxedStrategy<Statement>> {
    let types = match &set.data {
        Some(SetData::Value(types)) => Some(types.clone()),
        _ => None,
    };
    let padded = |types: &[Datatype]| model::width(types).next_multiple_of(4);
    if !set.dynamic || padded(&set.key) + types.as_deref().map_or(0, padded) > 64 {
        return None;
    }
    let data = types.map_or_else(|| Just(None).boxed(), |types| key_value(&types).prop_map(Some).boxed());
    let (timeouts, counters) = (set.timeout_ms.is_some(), set.counters);
    let timeout = proptest::option::of(1..100_000u64).prop_map(move |ms| ms.map(|ms| ms * 100).filter(|_| timeouts));
    let stateful = proptest::option::of(stateful())
        .prop_map(move |one| one.filter(|one| !counters && (!timeouts || !matches!(one, Stateful::Connlimit { .. }))));
    let op = select(vec![DynsetOp::Add, DynsetOp::Update, DynsetOp::Delete]);
    let name = name.clone();
    let whole = (op, key_value(&set.key), data, timeout, stateful);
    let dynset = whole.prop_map(move |(op, key, data, timeout_ms, stateful)| {
        Statement::from(Dynset { op, set: name.clone(), key, data, timeout_ms, stateful })
    });
    Some(dynset.boxed())
}

fn log() -> impl Strategy<Value = Statement> {
    let prefix = "[a-z/é ']{0,40}".prop_map(|text| name(&text));
    (any::<u16>(), prefix, proptest::option::of(any::<u32>())).prop_map(|(group, prefix, snaplen)| Statement::Log {
        group,
        prefix,
        snaplen,
    })
}

/// Statements that any chain may have; those that decide where to go on come last in their rule.
fn statement(sets: &Sets, targets: Targets) -> BoxedStrategy<Statement> {
    let state = stateful().prop_map(|one| match one {
        Stateful::Counter => Statement::Counter,
        Stateful::Limit(limit) => Statement::Limit(limit),
        Stateful::Connlimit { count, over } => Statement::Connlimit { count, over },
    });
    let mut choices = vec![comparison().boxed(), write(sets), state.boxed(), log().boxed()];
    choices.extend(sets.iter().filter_map(|(name, set)| dynset(name, set)));
    let counter = (0..targets.counters).prop_map(|n| name(&format!("c{n}")));
    choices.push(counter.prop_map(|name| Statement::Object { kind: ObjectKind::Counter, name }).boxed());
    for (name, set) in sets.iter().filter(|(_, set)| matches!(set.data, Some(SetData::Objects(_)))) {
        let map = name.clone();
        let kind = ObjectKind::Counter;
        let lookup = key_value(&set.key).prop_map(move |key| Statement::ObjectMap { kind, key, map: map.clone() });
        choices.push(lookup.boxed());
    }
    for (name, set) in sets.iter().filter(|(_, set)| set.data.is_none()) {
        let name = name.clone();
        let lookup = (key_value(&set.key), any::<bool>()).prop_map(move |(value, invert)| Statement::InSet {
            value,
            set: name.clone(),
            invert,
        });
        choices.push(lookup.boxed());
    }
    proptest::strategy::Union::new(choices).boxed()
}

/// What only some hooks, families or kernels take: for the encoding alone.
pub(crate) fn particular() -> BoxedStrategy<Statement> {
    let kinds = vec![ObjectKind::Counter, ObjectKind::Helper, ObjectKind::Tunnel, ObjectKind::Synproxy];
    let object_name = || "[a-z0-9-]{1,20}".prop_map(|text| name(&text));
    let fwd = any::<bool>().prop_flat_map(|ipv6| {
        (value(4), value(if ipv6 { 16 } else { 4 })).prop_map(move |(device, address)| Statement::Fwd {
            ipv6,
            device: Box::new(device),
            address,
        })
    });
    let synproxy = (any::<u16>(), 0..15u8, any::<bool>(), any::<bool>());
    prop_oneof![
        fwd,
        (any::<u16>(), any::<bool>()).prop_map(|(number, bypass)| Statement::Queue { number, bypass }),
        object_name().prop_map(|flowtable| Statement::FlowAdd { flowtable }),
        (select(kinds), object_name()).prop_map(|(kind, name)| Statement::Object { kind, name }),
        synproxy.prop_map(|(mss, wscale, timestamp, sack)| Statement::Synproxy { mss, wscale, timestamp, sack }),
    ]
    .boxed()
}

/// The last statement of a rule of a chain that may jump.
fn decision(sets: &Sets, leaves: usize) -> BoxedStrategy<Statement> {
    let mut choices = vec![verdict(leaves).prop_map(Statement::Verdict).boxed()];
    for (name, set) in sets.iter().filter(|(_, set)| set.data == Some(SetData::Verdict)) {
        let name = name.clone();
        let lookup = key_value(&set.key).prop_map(move |key| Statement::VerdictMap { key, map: name.clone() });
        choices.push(lookup.boxed());
    }
    proptest::strategy::Union::new(choices).boxed()
}

/// Translation in `kind`'s chain.
fn translation(sets: &Sets, kind: NatKind) -> BoxedStrategy<Statement> {
    let to = |ipv6: bool| {
        let (address, data) = if ipv6 { (16, Datatype::Ipv6Addr) } else { (4, Datatype::Ipv4Addr) };
        let both = (value(address), value(2)).prop_map(|(address, port)| Value::Concat(vec![address, port]));
        let types = [data, Datatype::InetService];
        let sets: Sets = sets
            .iter()
            .filter(|(_, set)| matches!(&set.data, Some(SetData::Value(one)) if one == &types))
            .map(|(name, set)| (name.clone(), set.clone()))
            .collect();
        let alone = value(address).prop_map(|to| (to, false));
        let pair = if sets.is_empty() { both.boxed() } else { mapped_only(&sets) };
        prop_oneof![alone, pair.prop_map(|to| (to, true))]
    };
    let any_family = prop_oneof![to(false).prop_map(|to| (false, to)), to(true).prop_map(|to| (true, to))];
    (any_family, any::<bool>())
        .prop_map(move |((ipv6, (to, port)), fully_random)| Statement::Nat(Nat { kind, ipv6, to, port, fully_random }))
        .boxed()
}

fn mapped_only(sets: &Sets) -> BoxedStrategy<Value> {
    let (name, set) = sets.iter().next().expect("the caller has seen one");
    let name = name.clone();
    key_value(&set.key).prop_map(move |key| Value::Map { key: Box::new(key), map: name.clone() }).boxed()
}

fn rules(body: BoxedStrategy<Statement>, last: BoxedStrategy<Statement>) -> BoxedStrategy<Vec<Rule>> {
    let rule = (vec(body, 0..4), proptest::option::of(last), comment());
    let rule = rule.prop_map(|(mut statements, last, comment)| {
        statements.extend(last);
        Rule { statements, comment }
    });
    vec(rule, 0..4).boxed()
}

fn chains(sets: &Sets, targets: Targets) -> BoxedStrategy<BTreeMap<std::sync::Arc<str>, Chain>> {
    let leaves = targets.leaves;
    let statement = |sets| statement(sets, targets);
    let leaf = || Just(Statement::Verdict(Verdict::Return)).boxed();
    let refusal = select(vec![
        Statement::Notrack,
        Statement::Reject(Reject::PortUnreachable),
        Statement::Reject(Reject::TcpReset),
    ]);
    let raw = prop_oneof![3 => decision(sets, leaves), 1 => refusal].boxed();
    let middle = vec(rules(statement(sets), decision(sets, leaves)), 0..3);
    (
        vec(rules(statement(sets), leaf()), leaves),
        middle,
        rules(statement(sets), raw),
        rules(statement(sets), translation(sets, NatKind::Destination)),
        rules(statement(sets), translation(sets, NatKind::Source)),
        (-310..-290i32, any::<Index>()),
    )
        .prop_map(|(leaves, middles, raw, before, after, (priority, absent))| {
            let mut chains = BTreeMap::new();
            chains.extend(leaves.into_iter().enumerate().map(|(n, rules)| (name(&format!("l{n}")), chain(rules))));
            chains.extend(middles.into_iter().enumerate().map(|(n, rules)| (name(&format!("m{n}")), chain(rules))));
            let bases = [
                ("raw", base(ChainKind::Filter, Hook::Prerouting, priority, raw)),
                ("before", base(ChainKind::Nat, Hook::Prerouting, -100, before)),
                ("after", base(ChainKind::Nat, Hook::Postrouting, 100, after)),
            ];
            let absent = absent.index(4);
            let bases = bases.into_iter().enumerate().filter(|(n, _)| *n != absent);
            chains.extend(bases.map(|(_, (chain, value))| (name(chain), value)));
            chains
        })
        .boxed()
}

fn objects(targets: Targets) -> impl Strategy<Value = BTreeMap<(ObjectKind, std::sync::Arc<str>), Object>> {
    let proxy = (1..5000u16, 0..15u8, any::<bool>(), any::<bool>());
    let proxy = proxy.prop_map(|(mss, wscale, timestamp, sack)| Object::Synproxy { mss, wscale, timestamp, sack });
    proptest::option::of(proxy).prop_map(move |proxy| {
        let counters = (0..targets.counters).map(|n| object(ObjectKind::Counter, &format!("c{n}"), Object::Counter));
        counters.chain(proxy.map(|proxy| object(ObjectKind::Synproxy, "c0", proxy))).collect()
    })
}

fn table() -> impl Strategy<Value = Table> {
    let sets = btree_map((0..5u8).prop_map(|n| name(&format!("s{n}"))), definition(), 0..5);
    (sets, 1..4usize, 1..3usize).prop_flat_map(|(definitions, leaves, counters)| {
        let targets = Targets { leaves, counters };
        let sets: Vec<_> =
            definitions.iter().map(|(name, set)| (Just(name.clone()), filled(set.clone(), targets))).collect();
        (sets, chains(&definitions, targets), objects(targets)).prop_map(|(sets, chains, objects)| Table {
            sets: sets.into_iter().collect(),
            chains,
            objects,
            ..Table::default()
        })
    })
}

/// One or two tables.
pub(crate) fn ruleset() -> impl Strategy<Value = Ruleset> {
    (table(), proptest::option::weighted(0.3, table())).prop_map(|(one, two)| {
        let mut tables = BTreeMap::from([(TableId::inet("one"), one)]);
        tables.extend(two.map(|two| (TableId::inet("two"), two)));
        Ruleset { tables }
    })
}

fn devices() -> impl Strategy<Value = std::collections::BTreeSet<std::sync::Arc<str>>> {
    proptest::collection::btree_set((0..4u8).prop_map(|n| name(&format!("d{n}"))), 0..4)
}

fn flowtable() -> impl Strategy<Value = Flowtable> {
    (select(vec![-10, 0]), devices(), any::<bool>(), proptest::bool::weighted(0.1))
        .prop_map(|(priority, devices, counters, hardware)| Flowtable { priority, devices, counters, hardware })
}

fn tunnel() -> impl Strategy<Value = Object> {
    use std::net::IpAddr;
    let addresses = prop_oneof![
        any::<[[u8; 4]; 2]>().prop_map(|both| both.map(IpAddr::from)),
        any::<[[u8; 16]; 2]>().prop_map(|both| both.map(IpAddr::from)),
    ];
    (0..4u32, addresses, any::<u8>(), any::<bool>()).prop_map(|(id, [source, destination], ttl, zero_checksum)| {
        Object::Tunnel(Tunnel { id, source, destination, ttl, zero_checksum })
    })
}

fn helper() -> impl Strategy<Value = Object> {
    (select(vec!["ftp", "sip"]), select(vec![6u8, 17]), select(vec![Family::Inet, Family::Ip, Family::Ip6]))
        .prop_map(|(helper, protocol, family)| Object::Helper { helper: name(helper), protocol, family })
}

/// Flowtables, tunnels, helpers and chains at devices, each with rules and elements that point to it: what not every kernel
/// takes, so for the laws alone.
fn particular_table() -> impl Strategy<Value = Table> {
    let flowtables = btree_map((0..3u8).prop_map(|n| name(&format!("f{n}"))), flowtable(), 0..3);
    let objects = btree_map((0..3u8).prop_map(|n| name(&format!("o{n}"))), prop_oneof![tunnel(), helper()], 0..4);
    (flowtables, objects, devices()).prop_map(|(flowtables, objects, devices)| {
        let kind = |object: &Object| object.kind().expect("none of them is foreign");
        let add = flowtables.keys().map(|flowtable| Statement::FlowAdd { flowtable: flowtable.clone() });
        let uses = objects.iter().map(|(name, object)| Statement::Object { kind: kind(object), name: name.clone() });
        let mut by_mark =
            Set { key: vec![Datatype::Mark], data: Some(SetData::Objects(ObjectKind::Tunnel)), ..Set::default() };
        let tunnels = objects.iter().filter(|(_, object)| kind(object) == ObjectKind::Tunnel);
        by_mark.elements = tunnels
            .enumerate()
            .map(|(n, (tunnel, _))| super::element(&(n as u32).to_ne_bytes(), None, to_object(tunnel), None))
            .collect();
        let map = Statement::ObjectMap { kind: ObjectKind::Tunnel, key: field(Field::Mark), map: name("by-mark") };
        let rules = |statements: Vec<Statement>| -> Vec<Rule> {
            statements.into_iter().map(|one| Rule { statements: vec![one], comment: None }).collect()
        };
        let hook = BaseChain { kind: ChainKind::Filter, hook: Hook::Ingress, priority: 0, devices };
        let chains = [
            (name("flows"), chain(rules(add.collect()))),
            (name("in"), Chain { base: Some(hook), rules: rules(uses.chain([map]).collect()) }),
        ];
        Table {
            chains: chains.into(),
            sets: [(name("by-mark"), by_mark)].into(),
            objects: objects.into_iter().map(|(name, object)| ((kind(&object), name), object)).collect(),
            flowtables,
            ..Table::default()
        }
    })
}

/// A ruleset of anything at all.
pub(crate) fn any_ruleset() -> impl Strategy<Value = Ruleset> {
    (ruleset(), particular_table()).prop_map(|(mut ruleset, table)| {
        ruleset.tables.insert(TableId { family: Family::Netdev, name: name("three") }, table);
        ruleset
    })
}
