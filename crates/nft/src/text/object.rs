//! Named objects and flowtables.

use std::net::IpAddr;

use super::datum::Protocol;
use super::{Devices, Name};
use crate::object::{Flowtable, Object, Tunnel};

/// What stands between the braces of an object, line by line.
pub(super) fn options(object: &Object) -> Vec<String> {
    match object {
        Object::Counter => Vec::new(),
        Object::Helper { helper, protocol, family } => {
            vec![format!("type \"{}\" protocol {}", Name(helper), Protocol(*protocol)), format!("l3proto {family}")]
        }
        Object::Tunnel(one) => tunnel(one),
        Object::Synproxy { mss, wscale, timestamp, sack } => {
            let flags = [(*timestamp, "timestamp"), (*sack, "sack-perm")];
            let flags: Vec<&str> = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
            let mut lines = vec![format!("mss {mss}"), format!("wscale {wscale}")];
            lines.extend((!flags.is_empty()).then(|| flags.join(" ")));
            lines
        }
        Object::Foreign => vec!["# not understood".to_owned()],
    }
}

/// As nft(8) has it since 1.1.4.
fn tunnel(tunnel: &Tunnel) -> Vec<String> {
    let family = |address: IpAddr| if address.is_ipv4() { "ip" } else { "ip6" };
    let Tunnel { id, source, destination, ttl, zero_checksum } = *tunnel;
    let mut lines = vec![
        format!("id {id}"),
        format!("{} saddr {source}", family(source)),
        format!("{} daddr {destination}", family(destination)),
        format!("ttl {ttl}"),
    ];
    // The word is ours: nft(8) has none for it.
    lines.extend(zero_checksum.then(|| "zero-checksum".to_owned()));
    lines
}

/// What stands between the braces of a flowtable, line by line.
pub(super) fn flowtable(flowtable: &Flowtable) -> Vec<String> {
    let mut lines = vec![format!("hook ingress priority {}", flowtable.priority)];
    if !flowtable.devices.is_empty() {
        lines.push(format!("devices = {{ {} }}", Devices(&flowtable.devices)));
    }
    lines.extend(flowtable.hardware.then(|| "flags offload".to_owned()));
    lines.extend(flowtable.counters.then(|| "counter".to_owned()));
    lines
}
