//! What farms put into our table, gathered family by family, and how it becomes the table.
//!
//! Farms write into flat lists; sets, base chains and their rules follow from which lists are not empty. So the rules of the
//! hooks are written in one place, and no farm needs to know of another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use headgate_nft::{
    Bytes, Chain, Data, Datatype, Element, Field, Key, Nat, NatKind, Operator, Rule, Ruleset, Set, SetData, Statement,
    Table, TableId, Target, Value, Verdict,
};
use ipnet::IpNet;

use crate::ids::Ids;
use crate::names::{self, IpVersion, Maps};

/// Elements of one map.
pub(super) type Elements = Vec<(Key, Element)>;

/// What one farm, or all, put into our table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Contents {
    pub(super) v4: FamilyContents,
    pub(super) v6: FamilyContents,
    /// Slot → ct mark.
    pub(super) slots: Elements,
    /// The chains of farms.
    pub(super) chains: Vec<(Arc<str>, Chain)>,
    /// Subnets of ours with backends of `dnat` farms on them; the address is ours.
    pub(super) hairpins: BTreeSet<IpNet>,
    /// Sentences for people.
    pub(super) warnings: Vec<String>,
}

/// The elements of one family, by map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FamilyContents {
    pub(super) services: Elements,
    pub(super) ranges: Elements,
    pub(super) wildcards: Elements,
    pub(super) protocols: Elements,
    pub(super) targets: Elements,
    pub(super) hosts: Elements,
    pub(super) sources: Elements,
}

/// Which sets, base chains and rules some contents need. Two contents of the same shape differ in elements and in the chains
/// of farms only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape<'a> {
    maps: [[bool; 7]; 2],
    hairpins: &'a BTreeSet<IpNet>,
}

/// What sets look like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sets<'a> {
    /// Those with elements, with the sizes that they have in the kernel.
    Declared(&'a Ids),
    /// All, with elements or without, and all of one size: what is compared with another fragment must differ in elements
    /// only, and what is not named would be taken for something to delete.
    Comparable,
}

impl Contents {
    pub(super) fn family(&mut self, version: IpVersion) -> &mut FamilyContents {
        match version {
            IpVersion::V4 => &mut self.v4,
            IpVersion::V6 => &mut self.v6,
        }
    }

    fn families(&self) -> [(IpVersion, &FamilyContents); 2] {
        [(IpVersion::V4, &self.v4), (IpVersion::V6, &self.v6)]
    }

    pub(super) fn shape(&self) -> Shape<'_> {
        Shape { maps: [self.v4.used(), self.v6.used()], hairpins: &self.hairpins }
    }

    /// The whole table: hooks, shared chains, farms.
    pub(super) fn into_table(self, ids: &Ids) -> Table {
        let hooks = self.hook_chains();
        let mut table = self.into_fragment(Sets::Declared(ids));
        // The schedule of farms that are all down is empty, and still there to come back to.
        let size = ids.size(names::SLOTS, 0);
        table.sets.entry(names::SLOTS.into()).or_insert_with(|| set_of(Layout::Marks, Vec::new(), Some(size)));
        table.chains.extend(hooks);
        table
    }

    /// Sets with these elements and the chains of farms, without hooks and shared chains.
    pub(super) fn into_fragment(self, which: Sets<'_>) -> Table {
        let mut sets = BTreeMap::new();
        let mut add = |name: &'static str, layout, elements: Elements| {
            let size = match which {
                Sets::Declared(_) if elements.is_empty() => return,
                Sets::Declared(ids) => Some(ids.size(name, elements.len())),
                Sets::Comparable => None,
            };
            sets.insert(Arc::from(name), set_of(layout, elements, size));
        };
        for (version, family) in [(IpVersion::V4, self.v4), (IpVersion::V6, self.v6)] {
            for (name, layout, elements) in family.into_maps(version) {
                add(name, layout, elements);
            }
        }
        add(names::SLOTS, Layout::Marks, self.slots);
        Table { sets, chains: self.chains.into_iter().collect(), ..Table::default() }
    }

    /// The way of a new flow: the hook jumps to `dispatch`, which goes to the chain of a farm; that one only sets the ct
    /// mark to a slot, and its end is the end of the jump, so the hook goes on to `assign`. What is nobody's is accepted
    /// at the end of `dispatch`: it never comes to `assign`, whatever mark others have set on it.
    ///
    /// A farm's chain that named `assign` itself would be shorter to read and cost one change of a backend 4 ms instead of
    /// 0.07 at 10,000 farms: a rule with a verdict makes the kernel validate all chains (`nft_table_validate`).
    fn hook_chains(&self) -> Vec<(Arc<str>, Chain)> {
        let families = self.families();
        let mut dispatch: Vec<Rule> = families.iter().flat_map(|(version, family)| lookups(*version, family)).collect();
        dispatch.push(rule([Statement::Verdict(Verdict::Accept)]));
        let hook = |name: &str| {
            let jump = rule([Statement::Verdict(Verdict::Jump(names::DISPATCH.into()))]);
            let goto = rule([Statement::Verdict(Verdict::Goto(names::ASSIGN.into()))]);
            (name.into(), Chain { base: names::base_chain(name), rules: vec![jump, goto] })
        };
        let mut chains = vec![
            hook(names::PREROUTING),
            hook(names::OUTPUT),
            (names::DISPATCH.into(), Chain { base: None, rules: dispatch }),
            (names::ASSIGN.into(), Chain { base: None, rules: self.assign_rules() }),
        ];
        let sources = self.source_rules();
        if !sources.is_empty() {
            let name = names::POSTROUTING;
            chains.push((name.into(), Chain { base: names::base_chain(name), rules: sources }));
        }
        chains
    }

    /// Slot → mark → destination. A miss ends a rule and the next is tried, so a backend is in exactly one map.
    fn assign_rules(&self) -> Vec<Rule> {
        let mut rules = vec![rule([Statement::Set { target: Target::CtMark, value: by_mark(names::SLOTS) }])];
        for (version, family) in self.families() {
            let Maps { targets, hosts, .. } = version.maps();
            let to = |map, port| {
                let kind = NatKind::Destination;
                Statement::Nat(Nat {
                    kind,
                    ipv6: version == IpVersion::V6,
                    to: by_mark(map),
                    port,
                    fully_random: false,
                })
            };
            if !family.targets.is_empty() {
                // One rule a protocol: a port is only meaningful to these (a port given for ICMP would be taken for its
                // identifier), and nft(8) reads the rule back only behind a comparison with a protocol, not with a set.
                rules.extend([TCP, UDP, SCTP].map(|number| rule([is(Field::L4proto, number), to(targets, true)])));
            }
            if !family.hosts.is_empty() {
                rules.push(rule([to(hosts, false)]));
            }
        }
        rules
    }

    /// Source translation.
    ///
    /// `fully-random`: 256 instead of 384 bytes a connection against `masquerade`, no search for an earlier mapping of the
    /// same client, and no flows lost to collisions when many ports are taken.
    ///
    /// Hairpin: a client on the subnet of the backend that was chosen would get the backend's answer directly, from an
    /// address it never spoke to. It is mostly another backend of the farm. Such a flow, and only such a flow, is sent from
    /// our address on that subnet. It costs every new flow of the machine this chain (about 210 instructions) and the
    /// comparison of the mark; a rule a subnet, none a backend.
    fn source_rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        let snat = |version, to| {
            let ipv6 = version == IpVersion::V6;
            Statement::Nat(Nat { kind: NatKind::Source, ipv6, to, port: false, fully_random: true })
        };
        for (version, family) in self.families() {
            if !family.sources.is_empty() {
                rules.push(rule([snat(version, by_mark(version.maps().sources))]));
            }
        }
        for net in &self.hairpins {
            let version = IpVersion::of(net.addr());
            let (source, destination) = address_fields(version);
            let tag = Value::And(Box::new(Value::Field(Field::CtMark)), mark_bytes(names::MARK_TAG_MASK));
            let within = |field| {
                let masked = Value::And(Box::new(Value::Field(field)), address_bytes(net.netmask()));
                equal(masked, address_bytes(net.network()))
            };
            rules.push(rule([
                is(Field::Nfproto, nfproto(version)),
                equal(tag, mark_bytes(names::MARK_TAG)),
                within(source),
                within(destination),
                snat(version, Value::Constant(address_bytes(net.addr()))),
            ]));
        }
        rules
    }
}

impl FamilyContents {
    fn into_maps(self, version: IpVersion) -> [(&'static str, Layout, Elements); 7] {
        let maps = version.maps();
        [
            (maps.services, Layout::Services(version), self.services),
            (maps.ranges, Layout::Ranges(version), self.ranges),
            (maps.wildcards, Layout::Wildcards(version), self.wildcards),
            (maps.protocols, Layout::Protocols(version), self.protocols),
            (maps.targets, Layout::Targets(version), self.targets),
            (maps.hosts, Layout::Addresses(version), self.hosts),
            (maps.sources, Layout::Addresses(version), self.sources),
        ]
    }

    /// Which of its maps have elements.
    fn used(&self) -> [bool; 7] {
        let Self { services, ranges, wildcards, protocols, targets, hosts, sources } = self;
        [services, ranges, wildcards, protocols, targets, hosts, sources].map(|elements| !elements.is_empty())
    }
}

/// Exact ports before ranges before `*` before `any`; a miss goes on with the next rule.
fn lookups(version: IpVersion, family: &FamilyContents) -> Vec<Rule> {
    let (_, destination) = address_fields(version);
    let Maps { services, ranges, wildcards, protocols, .. } = *version.maps();
    let fields = [destination, Field::L4proto, Field::Dport];
    let tables = [
        (services, &fields[..], &family.services),
        (ranges, &fields[..], &family.ranges),
        (wildcards, &fields[..2], &family.wildcards),
        (protocols, &fields[..1], &family.protocols),
    ];
    let used = tables.into_iter().filter(|(_, _, elements)| !elements.is_empty());
    used.map(|(map, fields, _)| {
        let key = match fields {
            [one] => Value::Field(*one),
            many => Value::Concat(many.iter().copied().map(Value::Field).collect()),
        };
        rule([is(Field::Nfproto, nfproto(version)), Statement::VerdictMap { key, map: map.into() }])
    })
    .collect()
}

/// The permanent table. Any ct expression holds connection tracking; this one is never evaluated.
pub(super) fn guard() -> (TableId, Table) {
    let rules = vec![rule([equal(Value::Field(Field::CtMark), mark_bytes(0)), Statement::Verdict(Verdict::Return)])];
    let chains = [(names::GUARD_CHAIN.into(), Chain { base: None, rules })].into();
    (TableId::inet(names::GUARD_TABLE), Table { chains, ..Table::default() })
}

/// A ruleset of nothing but our table.
pub(super) fn alone(table: Table) -> Ruleset {
    Ruleset { tables: [(TableId::inet(names::TABLE), table)].into() }
}

/// Keys and data of our maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Services(IpVersion),
    Ranges(IpVersion),
    Wildcards(IpVersion),
    Protocols(IpVersion),
    Marks,
    Targets(IpVersion),
    Addresses(IpVersion),
}

fn set_of(layout: Layout, elements: Elements, size: Option<u32>) -> Set {
    use Datatype::{InetProto, InetService, Mark};
    let address = |version| match version {
        IpVersion::V4 => Datatype::Ipv4Addr,
        IpVersion::V6 => Datatype::Ipv6Addr,
    };
    let (key, data) = match layout {
        Layout::Services(v) | Layout::Ranges(v) => (vec![address(v), InetProto, InetService], SetData::Verdict),
        Layout::Wildcards(v) => (vec![address(v), InetProto], SetData::Verdict),
        Layout::Protocols(v) => (vec![address(v)], SetData::Verdict),
        Layout::Marks => (vec![Mark], SetData::Value(vec![Mark])),
        Layout::Targets(v) => (vec![Mark], SetData::Value(vec![address(v), InetService])),
        Layout::Addresses(v) => (vec![Mark], SetData::Value(vec![address(v)])),
    };
    // A size chooses the cheaper kind of hash table; ranges are no hash table.
    let interval = matches!(layout, Layout::Ranges(_));
    let size = size.filter(|_| !interval);
    let elements = elements.into_iter().collect();
    Set { key, data: Some(data), interval, dynamic: false, timeout_ms: None, size, elements }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

fn nfproto(version: IpVersion) -> u8 {
    // NFPROTO_IPV4, NFPROTO_IPV6
    match version {
        IpVersion::V4 => 2,
        IpVersion::V6 => 10,
    }
}

fn address_fields(version: IpVersion) -> (Field, Field) {
    match version {
        IpVersion::V4 => (Field::Ip4Saddr, Field::Ip4Daddr),
        IpVersion::V6 => (Field::Ip6Saddr, Field::Ip6Daddr),
    }
}

pub(super) fn rule<const N: usize>(statements: [Statement; N]) -> Rule {
    Rule { statements: statements.into(), comment: None }
}

fn equal(value: Value, constant: Bytes) -> Statement {
    Statement::Match { value, operator: Operator::Equal, constant }
}

/// A field of one byte has this value.
fn is(field: Field, value: u8) -> Statement {
    equal(Value::Field(field), Bytes::from_slice(&[value]))
}

/// The packet is TCP.
pub(super) fn is_tcp() -> Statement {
    is(Field::L4proto, TCP)
}

fn by_mark(map: &str) -> Value {
    Value::Map { key: Box::new(Value::Field(Field::CtMark)), map: map.into() }
}

/// An address as it lies in a register.
pub(super) fn address_bytes(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::from_slice(&address.octets()),
    }
}

/// A mark as it lies in a register.
pub(super) fn mark_bytes(mark: u32) -> Bytes {
    Bytes::from_slice(&mark.to_ne_bytes())
}

/// Appends a field of a concatenation, padded to 4 bytes.
pub(super) fn push_field(bytes: &mut Bytes, field: &[u8]) {
    bytes.extend_from_slice(field);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A key without a range.
pub(super) fn exactly(start: Bytes) -> Key {
    Key { start, end: None }
}

/// An element of a map that yields a value.
pub(super) fn yields(value: Bytes) -> Element {
    Element { data: Some(Data::Value(value)), comment: None }
}
