//! What happened to a packet, in words: from the kernel's steps to one sentence.
//!
//! [`Packets`] sorts the steps of many packets; [`tell`] is a pure function from the steps of one to a [`Story`]:
//! `client 172.16.1.10:4711 → 172.16.1.1:80/tcp → farm web → scheduler chose b2 → dnat 172.16.2.12:80 → out eth1`.
//!
//! What was decided is read from the packet, not from the rules: the addresses at a later hook say where a translation sent it.
//! The rules say why: each name of a chain of ours has one meaning ([`names::owner_of_chain`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use headgate_config::model::{DsrVia, Farm, FarmState, Mode};
use headgate_config::types::BackendName;
use headgate_nft::trace::{Event, Headers, Ruling, Step};
use headgate_nft::{Rule, Statement, TableId, Target, Value};
use serde::Serialize;

use crate::follow;
use crate::ids::Ids;
use crate::maps;
use crate::names;
use crate::tunnel::{self, Device};

/// What a story is told with.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The farm that is looked at.
    pub farm: &'a Farm,
    /// Whose mark is whose.
    pub ids: &'a Ids,
    /// Rules by table and handle, those of other people's tables too.
    pub rules: &'a BTreeMap<(TableId, u64), (Arc<str>, Rule)>,
    /// Names of interfaces.
    pub links: &'a BTreeMap<u32, String>,
    /// The name of the tables that trace ([`follow::table_name`]).
    pub table: &'a str,
}

/// What happened to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Story {
    /// Who sent it.
    pub client: String,
    /// What it asked for.
    pub destination: String,
    /// The backend that it was given.
    pub backend: Option<String>,
    /// What became of it.
    pub end: End,
    /// The same and all between, one after the other.
    pub steps: Vec<String>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It left by an interface.
    Sent,
    /// It is for the box itself.
    Delivered,
    /// A rule of ours did not want it.
    Refused,
    /// A rule of somebody else did not want it.
    Dropped,
    /// It was not seen any more.
    Lost,
}

impl std::fmt::Display for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.steps.join(" → "))
    }
}

/// The steps of packets that are on their way. `now` is the time since some begin, which the caller reads.
#[derive(Debug, Default)]
pub struct Packets {
    open: BTreeMap<u32, (Duration, Vec<Event>)>,
}

/// A packet that was not seen for so long will not be seen again.
pub const QUIET: Duration = Duration::from_millis(500);
/// Most packets that are remembered; the oldest goes first.
const OPEN_MAX: usize = 4096;

impl Packets {
    /// Takes a step. Returns all of the packet's when it is the last; those of packets that somebody else traces never are.
    pub fn push(&mut self, event: Event, table: &str, now: Duration) -> Option<Vec<Event>> {
        let id = event.packet;
        // A packet begins with what it is like; its last chain has a policy yet to tell.
        let begins = event.headers.is_some() && *event.table.name == *table;
        if !self.open.contains_key(&id) && !begins {
            return None;
        }
        let last = is_last(&event, table);
        let (seen, events) = self.open.entry(id).or_insert_with(|| (now, Vec::new()));
        *seen = now;
        events.push(event);
        if last {
            return self.open.remove(&id).map(|(_, events)| events);
        }
        if self.open.len() > OPEN_MAX {
            let oldest = self.open.iter().min_by_key(|(_, (seen, _))| *seen).map(|(id, _)| *id);
            return oldest.and_then(|id| self.open.remove(&id)).map(|(_, events)| events);
        }
        None
    }

    /// The packets that were not seen for a while.
    pub fn lost(&mut self, now: Duration) -> Vec<Vec<Event>> {
        let is_lost = |_: &u32, (seen, _): &mut (Duration, Vec<Event>)| now.saturating_sub(*seen) >= QUIET;
        self.open.extract_if(.., is_lost).map(|(_, (_, events))| events).collect()
    }
}

/// Nothing follows: the packet is gone, or has come to the end of its way.
fn is_last(event: &Event, table: &str) -> bool {
    let (Step::Rule { ruling, .. } | Step::Policy(ruling)) = &event.step else { return false };
    match ruling {
        Ruling::Drop | Ruling::Stolen | Ruling::Queue => true,
        _ => *event.table.name == *table && [follow::IN, follow::OUT].contains(&&*event.chain),
    }
}

/// What happened to the packet whose steps these are; nothing when they do not say who sent it.
pub fn tell(events: &[Event], scene: &Scene<'_>) -> Option<Story> {
    let first = events.iter().find(|event| event.headers.is_some())?;
    let headers = first.headers?;
    let from_here = *first.table.name == *scene.table && *first.chain == *follow::FROM_HERE;
    let who = if from_here { "this box" } else { "client" };
    let (client, destination) = (source(&headers), listener(&headers));
    let steps = vec![format!("{who} {client}"), destination.clone()];
    let story = Story { client, destination, backend: None, end: End::Lost, steps };
    let mut teller = Teller { scene, story, headers, farm: None, choice: None, known: false, policy: None, mark: 0 };
    for event in events {
        teller.step(event);
    }
    Some(teller.finish())
}

/// A story as far as it is told.
struct Teller<'a> {
    scene: &'a Scene<'a>,
    story: Story,
    /// As they were seen last.
    headers: Headers,
    /// The farm that has taken the packet.
    farm: Option<String>,
    /// Who chose the backend.
    choice: Option<&'static str>,
    /// The packet is of a flow that is known already.
    known: bool,
    /// The policy that was asked last.
    policy: Option<String>,
    /// The packet's mark as it was told last.
    mark: u32,
}

impl Teller<'_> {
    fn say(&mut self, step: impl Into<String>) {
        self.story.steps.push(step.into());
    }

    fn step(&mut self, event: &Event) {
        if let Some(headers) = event.headers {
            self.look(headers);
        }
        // Of a packet that was sent on the kernel tells none: it is no longer the packet's (`nft_trace_notify`).
        if event.mark != 0 {
            self.mark = event.mark;
        }
        if *event.table.name == *self.scene.table {
            self.own(event);
        } else if maps::tables().contains(&event.table) {
            self.ours(event);
        } else {
            self.foreign(event);
        }
    }

    /// What has changed of the packet since it was seen last.
    fn look(&mut self, headers: Headers) {
        let before = std::mem::replace(&mut self.headers, headers);
        let (was, is) = (destination(&before), destination(&headers));
        if was != is {
            self.chosen(self.backend_at(&headers));
            let word = if self.scene.farm.mode == Mode::Stateless { "rewritten to" } else { "dnat" };
            self.say(format!("{word} {is}"));
        }
        if source(&before) != source(&headers) {
            let word = if self.scene.farm.mode == Mode::Stateless { "rewritten from" } else { "snat" };
            self.say(format!("{word} {}", source(&headers)));
        }
    }

    fn chosen(&mut self, backend: Option<BackendName>) {
        let Some(backend) = backend else { return };
        if self.story.backend.as_deref() == Some(backend.as_str()) {
            return;
        }
        if self.farm.is_none() {
            self.known = true;
            self.say(format!("known flow of {}/{backend}", self.scene.farm.name));
        } else {
            self.say(format!("{} chose {backend}", self.choice.unwrap_or("scheduler")));
        }
        self.story.backend = Some(backend.to_string());
    }

    /// The backend that has this address; one with a port before one that keeps the client's.
    fn backend_at(&self, headers: &Headers) -> Option<BackendName> {
        let port = headers.ports.map(|(_, destination)| destination);
        let at = |exact: bool| {
            self.scene.farm.backends.values().find(|backend| {
                let same_port = if exact { backend.address.port == port } else { backend.address.port.is_none() };
                backend.address.address == headers.destination && same_port
            })
        };
        at(true).or_else(|| at(false)).map(|backend| backend.name.clone())
    }

    /// The end of the way, at a rule of the table that traces.
    fn own(&mut self, event: &Event) {
        let link = |index: Option<u32>| index.map(|index| link(self.scene.links, index));
        match &*event.chain {
            follow::OUT => {
                let to = link(self.headers.oif).unwrap_or_else(|| "an interface".to_owned());
                self.nobody();
                self.say(format!("out {to}"));
                self.story.end = End::Sent;
            }
            follow::IN => {
                let by = link(self.headers.iif).map(|by| format!(", by {by}")).unwrap_or_default();
                self.nobody();
                self.say(format!("to the box itself{by}"));
                self.story.end = End::Delivered;
            }
            _ => {}
        }
    }

    /// Says so when no farm has taken the packet.
    fn nobody(&mut self) {
        if self.farm.is_none() && !self.known {
            self.say("no farm took it");
        }
    }

    /// A step in a chain of ours.
    fn ours(&mut self, event: &Event) {
        self.enter(&event.chain);
        let Step::Rule { handle, ruling } = &event.step else { return self.limit_passed(event) };
        if let Ruling::Goto(chain) | Ruling::Jump(chain) = ruling {
            self.enter(chain);
        }
        let rule = self.scene.rules.get(&(event.table.clone(), *handle)).map(|(_, rule)| rule);
        if let Some(choice) = rule.and_then(choice) {
            self.choice = Some(choice);
        }
        if let Some(policy) = rule.and_then(policy) {
            self.policy = Some(policy.to_owned());
        }
        match ruling {
            Ruling::Drop => {
                let how = if rule.is_some_and(rejects) { "rejected" } else { "dropped" };
                let why = self.why(&event.chain);
                self.say(format!("{how}: {why}"));
                self.story.end = End::Refused;
            }
            Ruling::Stolen
                if names::owner_of_chain(&event.chain).is_some_and(|owner| owner.part == names::Part::Proxy) =>
            {
                self.say("answered by the SYN proxy, in the place of a backend");
                self.story.end = End::Sent;
            }
            Ruling::Stolen => self.sent_on(rule),
            Ruling::Queue => {
                self.say("given to a program (queue)");
                self.story.end = End::Sent;
            }
            Ruling::Accept if *event.chain == *names::INPUT => {
                self.known = true;
                self.say("known flow");
            }
            _ => {}
        }
    }

    /// A limit that only counts comes to the end of its chain.
    fn limit_passed(&mut self, event: &Event) {
        let owner = names::owner_of_chain(&event.chain);
        if let (Step::Return, Some(names::Owner { part: names::Part::Refuse, reason: Some(reason), .. })) =
            (&event.step, owner)
        {
            self.say(format!("over limit {reason}, which only counts"));
        }
    }

    /// A farm's chain: the packet is that farm's.
    fn enter(&mut self, chain: &str) {
        let Some(owner) = names::owner_of_chain(chain) else { return };
        if self.farm.as_deref() != Some(owner.farm.as_str()) {
            self.say(format!("farm {}", owner.farm));
            self.farm = Some(owner.farm.to_string());
        }
    }

    /// Why a chain of ours does not want a packet.
    fn why(&self, chain: &str) -> String {
        match names::owner_of_chain(chain) {
            Some(names::Owner { part: names::Part::Refuse, reason: Some(reason), .. }) => match reason {
                "ban" => "the client is banned for a while (limits.ban)".to_owned(),
                "policies" => match &self.policy {
                    Some(policy) => format!("policy {policy}"),
                    None => "its policies".to_owned(),
                },
                reason => format!("over limit {reason}"),
            },
            Some(names::Owner { part: names::Part::Total, .. }) => "over limit new-connections-total".to_owned(),
            Some(owner) => self.unserved(owner.farm.as_str()),
            None if *chain == *names::ADMIT => "every backend has its max-connections".to_owned(),
            // Behind all that translates.
            None if [names::PREROUTING, names::OUTPUT].contains(&chain) => {
                self.unserved(self.farm.as_deref().unwrap_or_default())
            }
            None => format!("chain {chain}"),
        }
    }

    /// Why a farm gives a packet to nobody.
    fn unserved(&self, name: &str) -> String {
        let farm = self.scene.farm;
        match farm.state {
            _ if name != farm.name.as_str() => format!("farm {name} does not take it"),
            FarmState::Down => "the farm is down (state)".to_owned(),
            _ => "no backend can serve (on-empty)".to_owned(),
        }
    }

    /// `fwd`: sent on at once, by the mark of the packet.
    fn sent_on(&mut self, rule: Option<&Rule>) {
        let is_ours = |(farm, _, mark): &(_, _, u32)| *farm == &self.scene.farm.name && *mark == self.mark;
        let backend = self.scene.ids.marks().find(is_ours).map(|(_, backend, _)| backend.clone());
        let address = backend.as_ref().and_then(|name| self.scene.farm.backends.get(name));
        let address = address.map(|backend| backend.address.address);
        self.chosen(backend);
        let to = address.map(|address| format!(" to {address}")).unwrap_or_default();
        let via = tunnel::via(self.scene.farm);
        let how = match via {
            DsrVia::Ipip => "by ipip",
            DsrVia::Gre => "by gre",
            DsrVia::L2 => "as it is",
        };
        // The device of a tunnel is the only one of its kind; others are where the backends are.
        let out = match address.and_then(|address| Device::to(via, address)) {
            Some(tunnel) => Some(tunnel.name().to_owned()),
            None => rule.and_then(device).map(|index| link(self.scene.links, index)),
        };
        let out = out.map(|name| format!(" → out {name}")).unwrap_or_default();
        self.say(format!("sent on {how}{to}{out}"));
        self.story.end = End::Sent;
    }

    /// A step in somebody else's table.
    fn foreign(&mut self, event: &Event) {
        let (ruling, place) = match &event.step {
            Step::Rule { handle, ruling } => (ruling, format!("rule with handle {handle} of chain {}", event.chain)),
            Step::Policy(ruling) => (ruling, format!("the policy of chain {}", event.chain)),
            Step::Return => return,
        };
        let word = match ruling {
            Ruling::Drop => "dropped",
            Ruling::Stolen => "taken",
            Ruling::Queue => "given to a program",
            _ => return,
        };
        self.nobody();
        self.say(format!("{word} by another table, {}: {place}", event.table));
        self.story.end = End::Dropped;
    }

    fn finish(mut self) -> Story {
        if self.story.end == End::Lost {
            self.nobody();
            self.say("not seen any more: no route, no neighbour, or the kernel's own checks (rp_filter, forwarding)");
        }
        self.story
    }
}

/// What a rule says about who chooses the backend.
fn choice(rule: &Rule) -> Option<&'static str> {
    rule.statements.iter().find_map(|statement| {
        let Statement::Set { target: Target::CtMark | Target::Mark, value } = statement else { return None };
        match value {
            Value::Numgen(_) => Some("scheduler"),
            Value::Jhash { .. } => Some("hash"),
            Value::Map { map, .. } if map.starts_with("sticky") => Some("persistence"),
            Value::Map { map, .. } if map.starts_with("static") => Some("fixed assignment"),
            Value::Map { map, .. } if ["bindings", "recent", "closing"].iter().any(|stem| map.starts_with(stem)) => {
                Some("known flow")
            }
            _ => None,
        }
    })
}

/// The policy that a rule asks: the names of their sets begin with theirs.
fn policy(rule: &Rule) -> Option<&str> {
    rule.statements.iter().find_map(|statement| {
        let Statement::InSet { set, .. } = statement else { return None };
        let name = set.strip_prefix("policy4-").or_else(|| set.strip_prefix("policy6-"))?;
        name.rsplit_once('/').map(|(name, _)| name)
    })
}

fn rejects(rule: &Rule) -> bool {
    rule.statements.iter().any(|statement| matches!(statement, Statement::Reject(_)))
}

/// The interface of a rule that sends packets on, when it is always the same.
fn device(rule: &Rule) -> Option<u32> {
    rule.statements.iter().find_map(|statement| {
        let Statement::Fwd { device, .. } = statement else { return None };
        let Value::Constant(index) = &**device else { return None };
        <[u8; 4]>::try_from(index.as_slice()).ok().map(u32::from_ne_bytes)
    })
}

fn link(links: &BTreeMap<u32, String>, index: u32) -> String {
    links.get(&index).cloned().unwrap_or_else(|| format!("interface {index}"))
}

fn with_port(address: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}

fn source(headers: &Headers) -> String {
    with_port(headers.source, headers.ports.map(|(source, _)| source))
}

fn destination(headers: &Headers) -> String {
    with_port(headers.destination, headers.ports.map(|(_, destination)| destination))
}

/// As a listener is written.
fn listener(headers: &Headers) -> String {
    let protocol = match headers.protocol {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        132 => "sctp".to_owned(),
        1 | 58 => "icmp".to_owned(),
        number => format!("protocol {number}"),
    };
    format!("{}/{protocol}", destination(headers))
}

#[cfg(test)]
mod tests;
