//! Named objects and flowtables.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustables::sys;

use crate::model::Family;
use crate::object::{Flowtable, Object, Tunnel};
use crate::wire::{Writer, synproxy_flag};

/// `NFTA_OBJ_DATA` of an object.
pub(crate) fn object(writer: &mut Writer, object: &Object) {
    writer.nest(sys::NFTA_OBJ_DATA, |writer| match object {
        // Never sent: batches leave it out.
        Object::Counter | Object::Foreign => {}
        Object::Helper { helper, protocol, family } => {
            writer.string(sys::NFTA_CT_HELPER_NAME, helper);
            writer.short(sys::NFTA_CT_HELPER_L3PROTO, *family as u16);
            writer.bytes(sys::NFTA_CT_HELPER_L4PROTO, &[*protocol]);
        }
        Object::Tunnel(one) => tunnel(writer, one),
        Object::Synproxy { mss, wscale, timestamp, sack } => {
            writer.short(sys::NFTA_SYNPROXY_MSS, *mss);
            writer.bytes(sys::NFTA_SYNPROXY_WSCALE, &[*wscale]);
            writer.number(sys::NFTA_SYNPROXY_FLAGS, synproxy_flag::of(*timestamp, *sack));
        }
    });
}

fn tunnel(writer: &mut Writer, tunnel: &Tunnel) {
    writer.number(sys::NFTA_TUNNEL_KEY_ID, tunnel.id);
    match (tunnel.source, tunnel.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => writer.nest(sys::NFTA_TUNNEL_KEY_IP, |writer| {
            writer.bytes(sys::NFTA_TUNNEL_KEY_IP_SRC, &source.octets());
            writer.bytes(sys::NFTA_TUNNEL_KEY_IP_DST, &destination.octets());
        }),
        (IpAddr::V6(source), IpAddr::V6(destination)) => writer.nest(sys::NFTA_TUNNEL_KEY_IP6, |writer| {
            writer.bytes(sys::NFTA_TUNNEL_KEY_IP6_SRC, &source.octets());
            writer.bytes(sys::NFTA_TUNNEL_KEY_IP6_DST, &destination.octets());
        }),
        // Without addresses the kernel says EINVAL.
        _ => {}
    }
    writer.bytes(sys::NFTA_TUNNEL_KEY_TTL, &[tunnel.ttl]);
    let flags = if tunnel.zero_checksum { sys::NFT_TUNNEL_F_ZERO_CSUM_TX } else { 0 };
    writer.number(sys::NFTA_TUNNEL_KEY_FLAGS, flags);
}

/// Hook, devices and flags of a flowtable.
pub(crate) fn flowtable(writer: &mut Writer, flowtable: &Flowtable) {
    writer.nest(sys::NFTA_FLOWTABLE_HOOK, |writer| {
        // NF_NETDEV_INGRESS.
        writer.number(sys::NFTA_FLOWTABLE_HOOK_NUM, 0);
        writer.number(sys::NFTA_FLOWTABLE_HOOK_PRIORITY, flowtable.priority as u32);
        if !flowtable.devices.is_empty() {
            devices(writer, sys::NFTA_FLOWTABLE_HOOK_DEVS, &flowtable.devices);
        }
    });
    let flags = [(flowtable.hardware, sys::NFT_FLOWTABLE_HW_OFFLOAD), (flowtable.counters, sys::NFT_FLOWTABLE_COUNTER)];
    writer.number(sys::NFTA_FLOWTABLE_FLAGS, flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum());
}

/// The devices that a flowtable loses.
pub(crate) fn flowtable_devices(writer: &mut Writer, gone: &BTreeSet<Arc<str>>) {
    writer.nest(sys::NFTA_FLOWTABLE_HOOK, |writer| devices(writer, sys::NFTA_FLOWTABLE_HOOK_DEVS, gone));
}

/// A list of device names.
pub(super) fn devices(writer: &mut Writer, attribute: impl Into<u32>, devices: &BTreeSet<Arc<str>>) {
    writer.nest(attribute, |writer| {
        devices.iter().for_each(|device| writer.string(sys::NFTA_DEVICE_NAME, device));
    });
}

/// What `NFTA_CT_HELPER_L3PROTO` says, and our families.
pub(crate) const HELPER_FAMILIES: [Family; 3] = [Family::Inet, Family::Ip, Family::Ip6];
