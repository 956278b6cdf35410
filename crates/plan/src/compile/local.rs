//! Mode `local`: limits and policies for a service of the box itself.
//!
//! Nothing is translated. The input hook sees every packet, so established flows are let through by its first rule, and only
//! what would open a flow is asked whose it is.

use std::sync::Arc;

use headgate_config::model::{Farm, FarmState, LogEvent};
use headgate_config::types::{Listen, Ports};
use headgate_nft::{Bytes, Chain, Data, Element, Field, Key, Rule, Statement, Value, Verdict};

use super::contents::Contents;
use super::farm::{Ground, is_anywhere, listener, versions};
use super::guard::{self, Post};
use super::hooks::{base, lookups};
use super::inspect;
use super::queue;
use super::refuse;
use super::terms::{ESTABLISHED, RELATED, exactly, in_state, is, nfproto, push_field, rule};
use crate::features::Feature;
use crate::logged::Logged;
use crate::maps::{Door, Map, Place, Reach};
use crate::names::{self, IpVersion};

/// Adds all that one farm needs.
pub(super) fn add(contents: &mut Contents, farm: &Farm, ground: Ground<'_>) {
    for version in versions(farm) {
        let chain = names::farm_chain(version, &farm.name);
        let post = Post { place: Place::Inet, version, ground };
        let entrance = guard::entrance(contents, farm, post, &chain);
        for listen in farm.listen.iter().filter(|listen| IpVersion::of(listen.address) == version) {
            let (map, key) = match is_anywhere(listen) {
                true => anywhere(listen, version),
                false => {
                    let (reach, key) = listener(listen);
                    (Map::Listeners(Door::Input, version, reach), key)
                }
            };
            let verdict = Verdict::Goto(entrance.clone());
            contents.add(map, key, Element { data: Some(Data::Verdict(verdict)), ..Element::default() });
        }
        inspect::add(contents, farm, post);
        let rules = match farm.state {
            FarmState::Down => refuse::empty(contents, farm, post),
            _ => served(contents, farm, post),
        };
        contents.add_chain(Place::Inet, chain, rules);
    }
}

/// What a new flow meets that nothing refused: its end in a queue's hands, told before.
fn served(contents: &mut Contents, farm: &Farm, post: Post<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    let tells = farm.log.contains(&LogEvent::New) && post.ground.has(Feature::Log, contents, farm);
    if let Some(id) = post.ground.ids.farm(&farm.name).filter(|_| tells) {
        rules.push(rule(Logged::Local(id).statements()));
    }
    rules.extend(queue::statement(contents, farm, post).map(|queue| rule([queue])));
    rules
}

/// A listener on every address of the box: its key has none.
pub(super) fn anywhere(listen: &Listen, version: IpVersion) -> (Map, Key) {
    let of_protocol = |number: u8| {
        let mut key = Bytes::new();
        push_field(&mut key, &[number]);
        key
    };
    let with_port = |number, port: u16| {
        let mut key = of_protocol(number);
        push_field(&mut key, &port.to_be_bytes());
        key
    };
    let (reach, key) = match (listen.protocol.number(), listen.ports) {
        (None, _) => {
            let all = |number: u8| Bytes::from_slice(&[number]);
            (Reach::AllProtocols, Key { start: all(0), end: Some(all(u8::MAX).into()) })
        }
        (Some(number), Ports::All) => (Reach::AllPorts, exactly(Bytes::from_slice(&[number]))),
        (Some(number), Ports::One(port)) => (Reach::Port, exactly(with_port(number, port))),
        (Some(number), Ports::Range(first, last)) => {
            (Reach::Range, Key { start: with_port(number, first), end: Some(with_port(number, last).into()) })
        }
    };
    (Map::Anywhere(version, reach), key)
}

/// The input hook: what is known passes, what is new is asked for its farm, an address before all addresses.
pub(super) fn chains(contents: &Contents) -> Vec<(Arc<str>, Chain)> {
    let mut rules = vec![known()];
    rules.extend(lookups(contents, Door::Input));
    for (version, reach) in IpVersion::ALL.into_iter().flat_map(|version| Reach::ALL.map(|reach| (version, reach))) {
        let map = Map::Anywhere(version, reach);
        if !contents.uses(map) {
            continue;
        }
        let key = match reach {
            Reach::Port | Reach::Range => Value::Concat([Field::L4proto, Field::Dport].map(Value::Field).into()),
            Reach::AllPorts | Reach::AllProtocols => Value::Field(Field::L4proto),
        };
        let lookup = Statement::VerdictMap { key, map: map.name() };
        rules.push(rule([is(Field::Nfproto, nfproto(version)), lookup]));
    }
    vec![base(names::INPUT, rules)]
}

fn known() -> Rule {
    rule([in_state(ESTABLISHED | RELATED), Statement::Verdict(Verdict::Accept)])
}
