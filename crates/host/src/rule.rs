//! Routing rules. Ours carry [`RULE_PROTOCOL`] as their `FRA_PROTOCOL`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use headgate_plan::names::RULE_PROTOCOL;
use headgate_plan::state::{MarkMatch, RoutingRule};
use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Netlink, Request};

/// Our rules of both families.
pub(crate) fn list(netlink: &mut Netlink) -> io::Result<Vec<RoutingRule>> {
    let mut rules = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let messages = match netlink.dump(RouteNetlinkMessage::GetRule(request)) {
            // A kernel without rules of the family has none of ours.
            Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => continue,
            other => other?,
        };
        rules.extend(messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => decode(&rule),
            _ => None,
        }));
    }
    Ok(rules)
}

/// `None`: it is not ours.
pub(crate) fn decode(message: &RuleMessage) -> Option<RoutingRule> {
    let header = &message.header;
    let anywhere = match header.family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if header.action != RuleAction::ToTable || header.flags.contains(RuleFlags::Invert) {
        return None;
    }
    let (mut from, mut to, mut ours) = (anywhere, anywhere, false);
    let (mut value, mut mask) = (0, None);
    let (mut priority, mut link, mut table) = (0, None, u32::from(header.table));
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => from = *address,
            RuleAttribute::Destination(address) => to = *address,
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::FwMark(mark) => value = *mark,
            RuleAttribute::FwMask(bits) => mask = Some(*bits),
            RuleAttribute::Iifname(name) => link = Some(name.clone()),
            RuleAttribute::Protocol(protocol) => ours = *protocol == RouteProtocol::Other(RULE_PROTOCOL),
            _ => {}
        }
    }
    ours.then_some(())?;
    let mark = mask.map(|mask| MarkMatch { value, mask });
    let from = IpNet::new(from, header.src_len).ok()?;
    let to = IpNet::new(to, header.dst_len).ok()?;
    Some(RoutingRule { priority, from, to, mark, link, table })
}

fn message(rule: &RoutingRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.from.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.src_len = rule.from.prefix_len();
    message.header.dst_len = rule.to.prefix_len();
    message.header.action = RuleAction::ToTable;
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Table(rule.table));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(RULE_PROTOCOL)));
    if rule.from.prefix_len() > 0 {
        attributes.push(RuleAttribute::Source(rule.from.addr()));
    }
    if rule.to.prefix_len() > 0 {
        attributes.push(RuleAttribute::Destination(rule.to.addr()));
    }
    if let Some(MarkMatch { value, mask }) = rule.mark {
        attributes.push(RuleAttribute::FwMark(value));
        attributes.push(RuleAttribute::FwMask(mask));
    }
    attributes.extend(rule.link.clone().map(RuleAttribute::Iifname));
    message
}

/// A request that adds a rule of ours. One that is the same but for its protocol may stand beside it (`rule_exists`).
pub(crate) fn add(rule: &RoutingRule) -> Request {
    Request { message: RouteNetlinkMessage::NewRule(message(rule)), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// A request that removes a rule of ours. The kernel takes the first that has all that is said (`rule_find`): priority,
/// table and protocol are always said, so nobody else's is found by it. Fails with ENOENT when there is none.
pub(crate) fn remove(rule: &RoutingRule) -> Request {
    Request { message: RouteNetlinkMessage::DelRule(message(rule)), flags: 0 }
}
