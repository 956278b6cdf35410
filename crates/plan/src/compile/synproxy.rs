//! `limits.syn-proxy`: the box shakes hands with a client before a backend hears of it.
//!
//! A SYN for such a farm is kept from connection tracking, so it comes to the input hook (its address is the box's own), where the
//! kernel answers it with a cookie and forgets it. The packet that ends the handshake belongs to no connection either
//! (`nf_conntrack_tcp_loose` is 0, or connection tracking would take it for the middle of one). When its cookie is right, the
//! kernel sends a SYN of the client's from the output hook: that is the first packet of the flow for the nat hooks, so limits,
//! schedule, persistence and translation are those of any other flow, and clients are none but those that can be reached. From
//! then on the kernel translates sequence numbers (net/netfilter/nf_synproxy_core.c, net/netfilter/nft_synproxy.c).

use std::sync::Arc;

use headgate_config::model::Farm;
use headgate_config::types::{Listen, Protocol};
use headgate_nft::{Chain, Field, Operator, Reject, Rule, Statement, Verdict};

use super::contents::Contents;
use super::farm::add_listener;
use super::guard::{self, Post};
use super::hooks::{base, lookups};
use super::routing::Routing;
use super::terms::{ACK, FIN, INVALID, PSH, RST, SYN, TCP, UNTRACKED, flags, in_state, is_tcp, mark_bytes, rule};
use crate::maps::Door;
use crate::names::{self, IpVersion};

/// What clients are told of the backends' window scale, which the proxy cannot know: that of Linux with `tcp_rmem` as it was for
/// fifteen years. A client that is told less than a backend means takes its window for smaller, which costs speed of uploads at
/// the most; told more, it would send what the backend drops.
const WINDOW_SCALE: u8 = 7;
/// IPv4 and IPv6 header with TCP's, bytes: what a segment is less than the MTU.
const HEADERS: [u32; 2] = [40, 60];
/// RFC 1122 and RFC 8200: no MTU is less, bytes.
const MTU_LEAST: [u32; 2] = [576, 1280];

/// Adds what one farm needs in one family; `refuses` is what a new flow meets when nobody can serve.
pub(super) fn add(contents: &mut Contents, farm: &Farm, post: Post<'_>, refuses: Option<Vec<Rule>>) {
    let (chain, untrack) = (names::proxy_chain(post.version, &farm.name), Arc::from(names::UNTRACK));
    let has_tcp = |listen: &&Listen| matches!(listen.protocol, Protocol::Tcp | Protocol::Any);
    let own = |listen: &&Listen| IpVersion::of(listen.address) == post.version;
    for listen in farm.listen.iter().filter(own).filter(has_tcp) {
        add_listener(contents, listen, Door::Syn, &untrack);
        add_listener(contents, listen, Door::Input, &chain);
    }
    let accept = || Statement::Verdict(Verdict::Accept);
    let not_tcp = Statement::Match {
        value: headgate_nft::Value::Field(Field::L4proto),
        operator: Operator::NotEqual,
        constant: headgate_nft::Bytes::from_slice(&[TCP]),
    };
    let mut rules = vec![rule([not_tcp, accept()])];
    // Who is out is told at the first packet. How often a client comes is counted behind the handshake, where it is proven.
    rules.extend(guard::admission(contents, farm, post));
    // Before the handshake is over no client has anything to send: its window is closed. These are of connections that are gone,
    // and the proxy would drop them in silence.
    rules.push(rule([
        is_tcp(),
        in_state(INVALID),
        flags(FIN | PSH, Operator::NotEqual, 0),
        Statement::Reject(Reject::TcpReset),
    ]));
    rules.extend(refuses.unwrap_or_else(|| {
        let mss = segment(farm, post.version, post.ground.routing);
        let answer = Statement::Synproxy { mss, wscale: WINDOW_SCALE, timestamp: true, sack: true };
        vec![rule([in_state(INVALID | UNTRACKED), answer])]
    }));
    contents.add_chain(post.place, chain, rules);
}

/// The largest segment that every backend of a family takes, as far as the box's own interfaces say, bytes.
fn segment(farm: &Farm, version: IpVersion, routing: &Routing) -> u16 {
    let index = usize::from(version == IpVersion::V6);
    let addresses = farm.backends.values().map(|backend| backend.address.address);
    let mtus = addresses.filter(|address| IpVersion::of(*address) == version);
    let least = mtus.filter_map(|address| routing.mtu_towards(address)).min().unwrap_or(1500);
    let segment = least.max(MTU_LEAST[index]) - HEADERS[index];
    u16::try_from(segment).unwrap_or(u16::MAX)
}

/// What opens a connection to one of these farms is not tracked, if its address is the box's own: elsewhere nobody would answer it.
pub(super) fn chains(contents: &Contents) -> Vec<(Arc<str>, Chain)> {
    /// `RTN_LOCAL`, linux/rtnetlink.h.
    const LOCAL: u32 = 2;
    let opens = || [is_tcp(), flags(FIN | SYN | RST | ACK, Operator::Equal, SYN)];
    let looked_up = lookups(contents, Door::Syn).into_iter().map(|mut rule| {
        // Behind the family: what is cheap and mostly says no comes before the lookup.
        rule.statements.splice(1..1, opens());
        rule
    });
    let local = Statement::Match {
        value: headgate_nft::Value::Field(Field::FibDaddrType),
        operator: Operator::Equal,
        constant: mark_bytes(LOCAL),
    };
    let untrack = vec![rule([local, Statement::Notrack])];
    vec![base(names::SYN, looked_up.collect()), (names::UNTRACK.into(), Chain { base: None, rules: untrack })]
}
