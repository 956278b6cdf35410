//! Follows a new flow's first packet through rulesets, without a kernel.
//!
//! [`trace`] walks the hooks in the kernel's order and returns every [`Outcome`] that is possible: a number generator or a
//! hash may yield any of its values, so a farm with three backends gives three outcomes. Known and kept from the kernel:
//! base chains of one hook by priority; `accept` ends a base chain, not the hook; a map that misses ends the rule but not
//! what the rule has done before; a translation ends the translation of its hook; `goto` does not come back; a translation
//! of the other family does nothing; a device's ingress comes before all. Not followed: flows that are known already. Which
//! device a packet came in by is not compared with those of a chain.
//!
//! ```
//! # use headgate_tests::tracer::{Origin, Packet, trace};
//! let packet = Packet::tcp("10.0.0.9:4711", "172.16.1.1:80", Origin::Network);
//! let outcomes = trace(&headgate_nft::Ruleset::default(), &packet, &["172.16.1.1".parse().unwrap()]).unwrap();
//! assert!(outcomes.iter().all(|outcome| outcome.destination == packet.destination));
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use headgate_nft::{
    Chain, ChainKind, Data, Family, Field, Hook, NatKind, Operator, Reject, Rule, Ruleset, Set, Statement, Table,
    TableId, Target, Value, Verdict,
};

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Received: prerouting, then input or forward and postrouting.
    Network,
    /// Sent by the box itself: output, postrouting.
    Box,
}

/// The first packet of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// From; the port is 0 for protocols without ports.
    pub source: SocketAddr,
    /// To.
    pub destination: SocketAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Where it comes from.
    pub origin: Origin,
    /// Index of the interface that it came in by.
    pub interface: u32,
}

impl Packet {
    /// A TCP packet.
    ///
    /// # Panics
    /// When an address cannot be read.
    pub fn tcp(source: &str, destination: &str, origin: Origin) -> Self {
        Self::new(6, source, destination, origin)
    }

    /// A UDP packet.
    ///
    /// # Panics
    /// When an address cannot be read.
    pub fn udp(source: &str, destination: &str, origin: Origin) -> Self {
        Self::new(17, source, destination, origin)
    }

    fn new(protocol: u8, source: &str, destination: &str, origin: Origin) -> Self {
        let read = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is not an address and a port"));
        Self { source: read(source), destination: read(destination), protocol, origin, interface: 1 }
    }
}

/// What becomes of the flow in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It goes where its destination is.
    Passed,
    /// Gone without an answer.
    Dropped,
    /// Gone with an answer.
    Refused(Reject),
    /// Sent as it is to this neighbour, before anything else has seen it.
    Forwarded(IpAddr),
}

/// One possible end of the way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// Passed, dropped or refused.
    pub fate: Fate,
    /// Where it goes: translated, or the packet's own.
    pub destination: SocketAddr,
    /// Whom it seems to come from: translated, or the packet's own. The port is the packet's: the kernel chooses another
    /// when it must, or when the translation says `fully-random`.
    pub source: SocketAddr,
    /// The connection's mark.
    pub ct_mark: u32,
    /// The packet's mark.
    pub mark: u32,
    /// Not tracked as a connection.
    pub untracked: bool,
}

/// Why a packet could not be followed: the ruleset is not one that the kernel would have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TraceError {
    #[error("table {table} has no chain {chain}")]
    NoChain { table: TableId, chain: String },
    #[error("table {table} has no set {set} of the kind that a rule asks for")]
    NoSet { table: TableId, set: String },
    #[error("the rule `{rule}` of table {table} cannot be followed")]
    Unknown { table: TableId, rule: String },
    #[error("chains of table {table} go deeper than the kernel's 16 jumps")]
    TooDeep { table: TableId },
}

/// Every end that the packet may come to. `local` are the box's own addresses: they decide between input and forward.
///
/// # Errors
/// The ruleset refers to something that is not there or that the tracer does not know.
pub fn trace(ruleset: &Ruleset, packet: &Packet, local: &[IpAddr]) -> Result<BTreeSet<Outcome>, TraceError> {
    let start =
        Flow { packet: packet.clone(), fate: Fate::Passed, ct_mark: 0, mark: 0, untracked: false, translated: None };
    let first = match packet.origin {
        Origin::Network => {
            through(ruleset, Hook::Ingress, vec![start]).and_then(|flows| through(ruleset, Hook::Prerouting, flows))?
        }
        Origin::Box => through(ruleset, Hook::Output, vec![start])?,
    };
    let mut ends = BTreeSet::new();
    for flow in first {
        let rest: &[Hook] = match packet.origin {
            Origin::Box => &[Hook::Postrouting],
            Origin::Network if local.contains(&flow.packet.destination.ip()) => &[Hook::Input],
            Origin::Network => &[Hook::Forward, Hook::Postrouting],
        };
        let mut flows = vec![flow];
        for hook in rest {
            flows = through(ruleset, *hook, flows)?;
        }
        ends.extend(flows.into_iter().map(Flow::end));
    }
    Ok(ends)
}

/// A packet on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    packet: Packet,
    fate: Fate,
    ct_mark: u32,
    mark: u32,
    untracked: bool,
    /// The hook whose translation is done.
    translated: Option<Hook>,
}

impl Flow {
    fn end(self) -> Outcome {
        Outcome {
            fate: self.fate,
            destination: self.packet.destination,
            source: self.packet.source,
            ct_mark: self.ct_mark,
            mark: self.mark,
            untracked: self.untracked,
        }
    }

    fn is_ipv6(&self) -> bool {
        self.packet.destination.is_ipv6()
    }
}

/// How a rule or a chain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// Go on with the next rule.
    Next,
    /// Back to the chain before.
    Return,
    /// The base chain is done with it.
    Accept,
    /// The packet is gone.
    Gone,
}

type Ends = Vec<(End, Flow)>;

/// Through all base chains of a hook.
fn through(ruleset: &Ruleset, hook: Hook, flows: Vec<Flow>) -> Result<Vec<Flow>, TraceError> {
    let mut chains = Vec::new();
    for (id, table) in ruleset.tables.iter().filter(|(_, table)| !table.dormant) {
        for chain in table.chains.values() {
            if let Some(base) = chain.base.as_ref().filter(|base| base.hook == hook) {
                chains.push((base.priority, base.kind, Tracer { id, table, hook }, chain));
            }
        }
    }
    chains.sort_by_key(|(priority, ..)| *priority);
    let mut flows = flows;
    for (_, kind, tracer, chain) in chains {
        let mut next = Vec::new();
        for flow in flows {
            let nothing_to_translate = kind == ChainKind::Nat && (flow.translated == Some(hook) || flow.untracked);
            if flow.fate != Fate::Passed || nothing_to_translate || !tracer.sees(&flow) {
                next.push(flow);
                continue;
            }
            for (_, flow) in tracer.chain(chain, flow, 0)? {
                if !next.contains(&flow) {
                    next.push(flow);
                }
            }
        }
        flows = next;
    }
    Ok(flows)
}

/// Follows the chains of one table.
struct Tracer<'a> {
    id: &'a TableId,
    table: &'a Table,
    hook: Hook,
}

impl Tracer<'_> {
    fn sees(&self, flow: &Flow) -> bool {
        match self.id.family {
            Family::Inet => true,
            Family::Ip => !flow.is_ipv6(),
            Family::Ip6 => flow.is_ipv6(),
            // Its chains are at ingress only.
            Family::Netdev => true,
        }
    }

    fn chain(&self, chain: &Chain, flow: Flow, depth: usize) -> Result<Ends, TraceError> {
        /// `NFT_JUMP_STACK_SIZE`, include/net/netfilter/nf_tables.h.
        const DEEPEST: usize = 16;
        if depth > DEEPEST {
            return Err(TraceError::TooDeep { table: self.id.clone() });
        }
        let (mut going, mut ended) = (vec![flow], Ends::new());
        for rule in &chain.rules {
            let mut next: Vec<Flow> = Vec::new();
            for flow in going {
                for (end, flow) in self.rule(rule, flow, depth)? {
                    match end {
                        End::Next if next.contains(&flow) => {}
                        End::Next => next.push(flow),
                        end if ended.contains(&(end.clone(), flow.clone())) => {}
                        end => ended.push((end, flow)),
                    }
                }
            }
            going = next;
        }
        ended.extend(going.into_iter().map(|flow| (End::Return, flow)));
        Ok(ended)
    }

    fn rule(&self, rule: &Rule, flow: Flow, depth: usize) -> Result<Ends, TraceError> {
        let (mut going, mut ended) = (vec![flow], Ends::new());
        for statement in &rule.statements {
            let mut next = Vec::new();
            for flow in going {
                for (end, flow) in self.statement(rule, statement, flow, depth)? {
                    match end {
                        None => next.push(flow),
                        Some(end) => ended.push((end, flow)),
                    }
                }
            }
            going = next;
        }
        ended.extend(going.into_iter().map(|flow| (End::Next, flow)));
        Ok(ended)
    }

    /// `None`: on to the next statement.
    fn statement(
        &self,
        rule: &Rule,
        statement: &Statement,
        mut flow: Flow,
        depth: usize,
    ) -> Result<Vec<(Option<End>, Flow)>, TraceError> {
        let go_on = |holds: bool| if holds { None } else { Some(End::Next) };
        Ok(match statement {
            Statement::Counter | Statement::Log { .. } | Statement::FlowAdd { .. } => vec![(None, flow)],
            Statement::Object { .. } => vec![(None, flow)],
            Statement::ObjectMap { key, map, .. } => {
                let set = self.set(map)?;
                let values = self.values(key, &flow)?;
                let hits = values.iter().map(|key| key.as_ref().is_some_and(|key| find(set, key).is_some()));
                hits.map(|hit| (go_on(hit), flow.clone())).collect()
            }
            // Both ways: what came before this packet is not followed.
            Statement::Limit(_) | Statement::Connlimit { .. } | Statement::Dynset(_) => {
                vec![(None, flow.clone()), (Some(End::Next), flow)]
            }
            Statement::Notrack => {
                flow.untracked = true;
                vec![(None, flow)]
            }
            Statement::Verdict(verdict) => self.verdict(verdict, flow, depth)?,
            Statement::Reject(reject) => {
                flow.fate = Fate::Refused(*reject);
                vec![(Some(End::Gone), flow)]
            }
            Statement::Match { value, operator, constant } => {
                let holds = |bytes: &[u8]| (bytes == constant.as_slice()) == (*operator == Operator::Equal);
                let values = self.values(value, &flow)?;
                values.iter().map(|value| (go_on(value.as_deref().is_some_and(holds)), flow.clone())).collect()
            }
            Statement::InSet { value, set, invert } => {
                let set = self.set(set)?;
                let holds = |key: &Vec<u8>| find(set, key).is_some() != *invert;
                let values = self.values(value, &flow)?;
                values.iter().map(|key| (go_on(key.as_ref().is_some_and(holds)), flow.clone())).collect()
            }
            Statement::VerdictMap { key, map } => {
                let set = self.set(map)?;
                let mut ends = Vec::new();
                for key in self.values(key, &flow)? {
                    match key.and_then(|key| find(set, &key)) {
                        None => ends.push((Some(End::Next), flow.clone())),
                        Some(Data::Verdict(verdict)) => ends.extend(self.verdict(verdict, flow.clone(), depth)?),
                        Some(Data::Value(_) | Data::Object(_)) => return Err(self.no_set(map)),
                    }
                }
                ends
            }
            Statement::Set { target, value } => {
                self.values(value, &flow)?.into_iter().map(|value| write(*target, value, flow.clone())).collect()
            }
            Statement::Nat(nat) if nat.ipv6 != flow.is_ipv6() => vec![(None, flow)],
            Statement::Nat(nat) => {
                let values = self.values(&nat.to, &flow)?;
                values.into_iter().map(|to| self.translate(nat.kind, nat.port, to, flow.clone())).collect()
            }
            Statement::Fwd { ipv6, device, address } if *ipv6 == flow.is_ipv6() => {
                let devices = self.values(device, &flow)?;
                let mut ends = Vec::new();
                for address in self.values(address, &flow)? {
                    let sent =
                        address.as_deref().and_then(read_address).filter(|_| devices.iter().all(Option::is_some));
                    let fate = sent.map(Fate::Forwarded);
                    let flow = Flow { fate: fate.unwrap_or(flow.fate), ..flow.clone() };
                    ends.push((Some(if fate.is_some() { End::Gone } else { End::Next }), flow));
                }
                ends
            }
            Statement::Fwd { .. } => vec![(Some(End::Next), flow)],
            Statement::Queue { .. } | Statement::Synproxy { .. } | Statement::Unknown { .. } => {
                return Err(TraceError::Unknown { table: self.id.clone(), rule: rule.to_string() });
            }
        })
    }

    fn verdict(&self, verdict: &Verdict, mut flow: Flow, depth: usize) -> Result<Vec<(Option<End>, Flow)>, TraceError> {
        let (chain, then) = match verdict {
            Verdict::Accept => return Ok(vec![(Some(End::Accept), flow)]),
            Verdict::Return => return Ok(vec![(Some(End::Return), flow)]),
            Verdict::Drop => {
                flow.fate = Fate::Dropped;
                return Ok(vec![(Some(End::Gone), flow)]);
            }
            // What falls out of a chain that was gone to goes back behind the last jump.
            Verdict::Goto(chain) => (chain, End::Return),
            Verdict::Jump(chain) => (chain, End::Next),
        };
        let target = self.table.chains.get(chain);
        let target = target.ok_or_else(|| TraceError::NoChain { table: self.id.clone(), chain: chain.to_string() })?;
        let ends = self.chain(target, flow, depth + 1)?;
        Ok(ends
            .into_iter()
            .map(|(end, flow)| (Some(if end == End::Return { then.clone() } else { end }), flow))
            .collect())
    }

    /// Writes the new address, and the port behind it. A miss of the map ends the rule.
    fn translate(&self, kind: NatKind, port: bool, to: Option<Vec<u8>>, mut flow: Flow) -> (Option<End>, Flow) {
        let Some(to) = to else { return (Some(End::Next), flow) };
        let end = match kind {
            NatKind::Source => &mut flow.packet.source,
            NatKind::Destination => &mut flow.packet.destination,
        };
        let width = if end.is_ipv6() { 16 } else { 4 };
        let address = to.get(..width).and_then(read_address);
        let (Some(address), Some(number)) = (address, if port { to.get(width..width + 2) } else { Some(&[][..]) })
        else {
            return (Some(End::Next), flow);
        };
        end.set_ip(address);
        if let &[high, low] = number {
            end.set_port(u16::from_be_bytes([high, low]));
        }
        flow.translated = Some(self.hook);
        (Some(End::Accept), flow)
    }

    fn set(&self, name: &str) -> Result<&Set, TraceError> {
        self.table.sets.get(name).ok_or_else(|| self.no_set(name))
    }

    fn no_set(&self, name: &str) -> TraceError {
        TraceError::NoSet { table: self.id.clone(), set: name.to_owned() }
    }

    /// Every value that is possible; `None` where a map misses.
    fn values(&self, value: &Value, flow: &Flow) -> Result<Vec<Option<Vec<u8>>>, TraceError> {
        let any = |modulus: u32, offset: u32| {
            (0..modulus).map(|number| Some(number.wrapping_add(offset).to_ne_bytes().to_vec())).collect()
        };
        Ok(match value {
            Value::Constant(bytes) => vec![Some(bytes.to_vec())],
            Value::Field(field) => vec![field_of(*field, flow)],
            Value::Numgen(numgen) => any(numgen.modulus, numgen.offset),
            Value::Jhash { modulus, offset, .. } => any(*modulus, *offset),
            Value::And(value, mask) => {
                let masked = |value: Vec<u8>| value.iter().zip(mask).map(|(a, b)| a & b).collect();
                self.values(value, flow)?.into_iter().map(|value| value.map(masked)).collect()
            }
            Value::Concat(values) => {
                let mut whole = vec![Some(Vec::new())];
                for value in values {
                    let next = self.values(value, flow)?;
                    let join =
                        |left: &Option<Vec<u8>>| next.iter().map(|right| joined(left, right)).collect::<Vec<_>>();
                    whole = whole.iter().flat_map(join).collect();
                }
                whole
            }
            Value::Map { key, map } => {
                let set = self.set(map)?;
                let mut found = Vec::new();
                for key in self.values(key, flow)? {
                    found.push(match key.and_then(|key| find(set, &key)) {
                        None => None,
                        Some(Data::Value(bytes)) => Some(bytes.to_vec()),
                        Some(Data::Verdict(_) | Data::Object(_)) => return Err(self.no_set(map)),
                    });
                }
                found.sort();
                found.dedup();
                found
            }
        })
    }
}

/// Writes a mark or into the packet. A miss of the map ends the rule.
fn write(target: Target, value: Option<Vec<u8>>, mut flow: Flow) -> (Option<End>, Flow) {
    let Some(value) = value else { return (Some(End::Next), flow) };
    let mark = value.get(..4).and_then(|value| value.try_into().ok()).map(u32::from_ne_bytes);
    let port = value.get(..2).and_then(|value| value.try_into().ok()).map(u16::from_be_bytes);
    let address = |length| value.get(..length).and_then(read_address);
    let Packet { source, destination, .. } = &mut flow.packet;
    let written = match target {
        Target::CtMark => mark.map(|mark| flow.ct_mark = mark),
        Target::Mark => mark.map(|mark| flow.mark = mark),
        Target::Ip4Saddr => address(4).map(|address| source.set_ip(address)),
        Target::Ip4Daddr => address(4).map(|address| destination.set_ip(address)),
        Target::Ip6Saddr => address(16).map(|address| source.set_ip(address)),
        Target::Ip6Daddr => address(16).map(|address| destination.set_ip(address)),
        Target::TcpSport | Target::UdpSport | Target::SctpSport => port.map(|port| source.set_port(port)),
        Target::TcpDport | Target::UdpDport | Target::SctpDport => port.map(|port| destination.set_port(port)),
        Target::Nftrace | Target::UdpChecksum => Some(()),
    };
    (if written.is_some() { None } else { Some(End::Next) }, flow)
}

/// Two fields of a concatenation, each padded to 4 bytes.
fn joined(left: &Option<Vec<u8>>, right: &Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut bytes = left.clone()?;
    bytes.extend(right.as_ref()?);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Some(bytes)
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let short = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    short.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The bytes of a field; `None` when the packet has none, which ends the rule.
fn field_of(field: Field, flow: &Flow) -> Option<Vec<u8>> {
    /// Bits of `ct state`.
    const NEW: u32 = 8;
    const UNTRACKED: u32 = 64;
    /// Bit of `tcp flags`.
    const SYN: u8 = 2;
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let of_family = |ipv6: bool, end: SocketAddr| (flow.is_ipv6() == ipv6).then(|| octets(end.ip()));
    let Packet { source, destination, protocol, interface, .. } = &flow.packet;
    match field {
        Field::Nfproto => Some(vec![if flow.is_ipv6() { 10 } else { 2 }]),
        Field::Protocol => Some(if flow.is_ipv6() { [0x86, 0xdd] } else { [0x08, 0x00] }.to_vec()),
        Field::L4proto => Some(vec![*protocol]),
        Field::Mark => Some(flow.mark.to_ne_bytes().to_vec()),
        Field::CtMark => (!flow.untracked).then(|| flow.ct_mark.to_ne_bytes().to_vec()),
        Field::CtState => Some(if flow.untracked { UNTRACKED } else { NEW }.to_ne_bytes().to_vec()),
        Field::Iif => Some(interface.to_ne_bytes().to_vec()),
        Field::Ip4Saddr => of_family(false, *source),
        Field::Ip4Daddr => of_family(false, *destination),
        Field::Ip6Saddr => of_family(true, *source),
        Field::Ip6Daddr => of_family(true, *destination),
        Field::Sport => Some(source.port().to_be_bytes().to_vec()),
        Field::Dport => Some(destination.port().to_be_bytes().to_vec()),
        // The first packet of a flow.
        Field::CtDirection => (!flow.untracked).then(|| vec![0]),
        Field::TcpFlags => Some(vec![SYN]),
        // Neither links nor routes nor payloads are followed.
        Field::Oif | Field::Iifname | Field::IcmpType => None,
        Field::UdpChecksum | Field::EtherSaddr | Field::EtherDaddr | Field::FibDaddrType => None,
    }
}

/// The data of the element that has this key, or an empty verdict-less datum for plain sets.
fn find<'a>(set: &'a Set, key: &[u8]) -> Option<&'a Data> {
    /// What a set without data yields.
    static THERE: Data = Data::Verdict(Verdict::Accept);
    let holds = |start: &[u8], end: &[u8]| {
        let mut at = 0;
        set.key.iter().all(|datatype| {
            let field = at..at + datatype.bytes();
            at += datatype.bytes().next_multiple_of(4);
            match (start.get(field.clone()), key.get(field.clone()), end.get(field)) {
                (Some(low), Some(key), Some(high)) => low <= key && key <= high,
                _ => false,
            }
        })
    };
    let exact = headgate_nft::Key { start: key.into(), end: None };
    let range = || {
        let mut elements = set.elements.iter().filter(|_| set.interval);
        elements.find(|(one, _)| holds(&one.start, one.end.as_deref().unwrap_or(&one.start))).map(|(_, one)| one)
    };
    let element = set.elements.get(&exact).or_else(range)?;
    Some(element.data.as_ref().unwrap_or(&THERE))
}

#[cfg(test)]
mod tests;
