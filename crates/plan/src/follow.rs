//! The tables that mark packets of one farm to be traced, while somebody looks.
//!
//! They have a hook at the very begin of a packet's way, which marks it, and one at its end, which only sees it there: what
//! it tells has the addresses after all translations and the interface that the packet leaves by. All farms pay for a lookup
//! or two at each packet meanwhile, so the tables are the property of the program that looks and go with it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use headgate_config::model::Farm;
use headgate_nft::{
    BaseChain, Bytes, Chain, ChainKind, Element, Field, Hook, Key, Limit, Operator, Rule, Ruleset, Set, Statement,
    Table, TableId, Target, Value, Verdict,
};

use crate::compile::listeners;
use crate::maps::{Map, Place, Reach};
use crate::names::{self, IpVersion};

/// Which packets are followed.
#[derive(Debug, Clone)]
pub struct Follow<'a> {
    /// Those for this farm's listeners.
    pub farm: &'a Farm,
    /// From this address only.
    pub client: Option<IpAddr>,
    /// How much of a flow.
    pub scope: Scope,
    /// So many packets a second at most, both families together, at least 1.
    pub rate: u32,
    /// Name of the tables; each program that looks needs its own.
    pub table: Arc<str>,
    /// Interfaces at whose ingress packets of `dsr` farms are taken.
    pub devices: BTreeSet<Arc<str>>,
}

/// How much of a flow is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Of TCP what opens a connection; of all else every packet.
    Openings,
    /// Every packet.
    Packets,
}

/// Behind defragmentation (-400), so that there are ports, before all else.
const BEGIN: i32 = -350;
/// Before the ingress chain of farms, 0.
const BEGIN_INGRESS: i32 = -100;
/// Behind all that translates (100) and what others usually add.
const END: i32 = 1000;

const MARK: &str = "mark";
/// Where a packet leaves the box.
pub const OUT: &str = "out";
/// Where a packet has come to the box itself.
pub const IN: &str = "in";
/// Where a packet that the box itself sends begins.
pub const FROM_HERE: &str = "from-here";

impl Follow<'_> {
    /// The tables.
    pub fn ruleset(&self) -> Ruleset {
        let base = |hook, priority, devices| Some(BaseChain { kind: ChainKind::Filter, hook, priority, devices });
        let chain = |base, rules| Chain { base, rules };
        let begins = |hook| chain(base(hook, BEGIN, BTreeSet::new()), self.rules(Place::Inet));
        // The kernel tells what a packet is like with the first rule that matches, not with the policy.
        let seen = || vec![rule(vec![Statement::Counter])];
        let ends = |hook| chain(base(hook, END, BTreeSet::new()), seen());
        let chains = [
            (MARK, chain(None, self.mark())),
            ("arrived", begins(Hook::Prerouting)),
            (FROM_HERE, begins(Hook::Output)),
            // Others' chains at these hooks may drop it before it comes to the end.
            ("passing", chain(base(Hook::Forward, BEGIN, BTreeSet::new()), seen())),
            (IN, ends(Hook::Input)),
            (OUT, ends(Hook::Postrouting)),
        ];
        let mut tables = vec![(Place::Inet, chains.map(|(name, chain)| (name.into(), chain)).into())];
        if !self.devices.is_empty() {
            // The mark of a trace is the packet's: one table marks for all places at ingress.
            let ingress = chain(base(Hook::Ingress, BEGIN_INGRESS, self.devices.clone()), self.rules(Place::Netdev));
            tables.push((Place::Netdev, [(MARK.into(), chain(None, self.mark())), ("arrived".into(), ingress)].into()));
        }
        let table = |(place, chains): (Place, _)| {
            let id = TableId { family: place.table().family, name: self.table.clone() };
            (id, Table { sets: self.sets(), chains, ..Table::default() })
        };
        Ruleset { tables: tables.into_iter().map(table).collect() }
    }

    fn mark(&self) -> Vec<Rule> {
        let limit = Limit { rate: u64::from(self.rate), per_s: 1, burst: self.rate, over: false };
        let value = Value::Constant(Bytes::from_slice(&[1]));
        vec![rule(vec![Statement::Limit(limit), Statement::Set { target: Target::Nftrace, value }])]
    }

    /// What the farm listens on, in sets that are like its maps.
    fn sets(&self) -> std::collections::BTreeMap<Arc<str>, Set> {
        let mut sets = std::collections::BTreeMap::new();
        for (map, key) in listeners(self.farm) {
            let new = || Set { key: map.key(), interval: map.is_interval(), ..Set::default() };
            sets.entry(map.name()).or_insert_with(new).elements.insert(key, Element::default());
        }
        sets
    }

    fn rules(&self, place: Place) -> Vec<Rule> {
        let maps: BTreeSet<Map> = listeners(self.farm).into_iter().map(|(map, _): (Map, Key)| map).collect();
        let with_client = maps
            .into_iter()
            .filter(|map| self.client.is_none_or(|client| version_of(*map) == Some(IpVersion::of(client))));
        with_client.flat_map(|map| self.rules_of(place, map)).collect()
    }

    fn rules_of(&self, place: Place, map: Map) -> Vec<Rule> {
        const TCP: u8 = 6;
        let (Some(version), Some(value)) = (version_of(map), key(map)) else { return Vec::new() };
        let mut first = vec![of_version(place, version)];
        if let Some(client) = self.client {
            let field = if version == IpVersion::V4 { Field::Ip4Saddr } else { Field::Ip6Saddr };
            first.push(compare(Value::Field(field), Operator::Equal, &octets(client)));
        }
        let ours = Statement::InSet { value, set: map.name(), invert: false };
        let jump = Statement::Verdict(Verdict::Jump(MARK.into()));
        let with = |more: Vec<Statement>| rule([first.clone(), more, vec![ours.clone(), jump.clone()]].concat());
        let protocol = |operator| compare(Value::Field(Field::L4proto), operator, &[TCP]);
        match self.scope {
            Scope::Packets => vec![with(Vec::new())],
            Scope::Openings => {
                /// SYN of FIN, SYN, RST and ACK.
                const SYN: (u8, u8) = (2, 1 | 2 | 4 | 16);
                let flags = Value::And(Box::new(Value::Field(Field::TcpFlags)), Bytes::from_slice(&[SYN.1]));
                let opens = compare(flags, Operator::Equal, &[SYN.0]);
                vec![with(vec![protocol(Operator::Equal), opens]), with(vec![protocol(Operator::NotEqual)])]
            }
        }
    }
}

fn rule(statements: Vec<Statement>) -> Rule {
    Rule { statements, comment: None }
}

fn compare(value: Value, operator: Operator, constant: &[u8]) -> Statement {
    Statement::Match { value, operator, constant: Bytes::from_slice(constant) }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn of_version(place: Place, version: IpVersion) -> Statement {
    let (nfproto, ethertype) = match version {
        IpVersion::V4 => (2, 0x0800u16),
        IpVersion::V6 => (10, 0x86dd),
    };
    match place {
        Place::Inet => compare(Value::Field(Field::Nfproto), Operator::Equal, &[nfproto]),
        Place::Netdev | Place::Tunnels => {
            compare(Value::Field(Field::Protocol), Operator::Equal, &ethertype.to_be_bytes())
        }
    }
}

fn version_of(map: Map) -> Option<IpVersion> {
    match map {
        Map::Listeners(_, version, _) | Map::Anywhere(version, _) => Some(version),
        _ => None,
    }
}

/// What is looked up.
fn key(map: Map) -> Option<Value> {
    let (address, reach) = match map {
        Map::Listeners(_, IpVersion::V4, reach) => (Some(Field::Ip4Daddr), reach),
        Map::Listeners(_, IpVersion::V6, reach) => (Some(Field::Ip6Daddr), reach),
        Map::Anywhere(_, reach) => (None, reach),
        _ => return None,
    };
    let rest: &[Field] = match reach {
        Reach::Port | Reach::Range => &[Field::L4proto, Field::Dport],
        Reach::AllPorts => &[Field::L4proto],
        Reach::AllProtocols if address.is_none() => &[Field::L4proto],
        Reach::AllProtocols => &[],
    };
    let fields: Vec<Value> = address.into_iter().chain(rest.iter().copied()).map(Value::Field).collect();
    match <[Value; 1]>::try_from(fields) {
        Ok([one]) => Some(one),
        Err(many) => Some(Value::Concat(many)),
    }
}

/// The name of the tables of a program that looks.
pub fn table_name(pid: u32) -> Arc<str> {
    format!("{}-trace-{pid}", names::TABLE).into()
}
