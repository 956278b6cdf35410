//! Named objects and flowtables.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustables::sys;

use crate::expr::ObjectKind;
use crate::object::{Counts, Flowtable, Object, Tunnel};
use crate::wire::encode::HELPER_FAMILIES;
use crate::wire::fields::object_kind;
use crate::wire::{Attributes, synproxy_options, text};

/// Kind, name and value of an object. `None`: without a kind or a name.
pub(crate) fn object(attributes: Attributes<'_>) -> Option<(ObjectKind, &str, Object)> {
    let kind = object_kind(attributes.number(sys::NFTA_OBJ_TYPE)?);
    let data = attributes.nested(sys::NFTA_OBJ_DATA).unwrap_or(Attributes(&[]));
    let object = match kind {
        ObjectKind::Counter => Some(Object::Counter),
        ObjectKind::Helper => helper(data),
        ObjectKind::Tunnel => tunnel(data).map(Object::Tunnel),
        ObjectKind::Synproxy => synproxy_options(data).map(|(mss, wscale, timestamp, sack)| Object::Synproxy {
            mss,
            wscale,
            timestamp,
            sack,
        }),
        ObjectKind::Other(_) => None,
    };
    Some((kind, attributes.string(sys::NFTA_OBJ_NAME)?, object.unwrap_or(Object::Foreign)))
}

/// Name and counts of a counter object.
pub(crate) fn named_counts(attributes: Attributes<'_>) -> Option<(&str, Counts)> {
    let name = attributes.string(sys::NFTA_OBJ_NAME)?;
    Some((name, counts(attributes.nested(sys::NFTA_OBJ_DATA)?)))
}

/// What a counter's data says.
pub(super) fn counts(data: Attributes<'_>) -> Counts {
    Counts {
        packets: data.long(sys::NFTA_COUNTER_PACKETS).unwrap_or_default(),
        bytes: data.long(sys::NFTA_COUNTER_BYTES).unwrap_or_default(),
    }
}

fn helper(data: Attributes<'_>) -> Option<Object> {
    let family = data.short(sys::NFTA_CT_HELPER_L3PROTO)?;
    let &[protocol] = data.get(sys::NFTA_CT_HELPER_L4PROTO)? else { return None };
    Some(Object::Helper {
        helper: data.string(sys::NFTA_CT_HELPER_NAME)?.into(),
        protocol,
        family: HELPER_FAMILIES.into_iter().find(|one| *one as u16 == family)?,
    })
}

fn tunnel(data: Attributes<'_>) -> Option<Tunnel> {
    let address = |nest: Attributes<'_>, attribute: u32| {
        let bytes = nest.get(attribute)?;
        let short = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        short.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
    };
    let (source, destination) = match data.nested(sys::NFTA_TUNNEL_KEY_IP) {
        Some(nest) => {
            (address(nest, sys::NFTA_TUNNEL_KEY_IP_SRC.into())?, address(nest, sys::NFTA_TUNNEL_KEY_IP_DST.into())?)
        }
        None => {
            let nest = data.nested(sys::NFTA_TUNNEL_KEY_IP6)?;
            if nest.number(sys::NFTA_TUNNEL_KEY_IP6_FLOWLABEL).unwrap_or_default() != 0 {
                return None;
            }
            (address(nest, sys::NFTA_TUNNEL_KEY_IP6_SRC)?, address(nest, sys::NFTA_TUNNEL_KEY_IP6_DST)?)
        }
    };
    let flags = data.number(sys::NFTA_TUNNEL_KEY_FLAGS).unwrap_or_default();
    let is_zero = |attribute: u16| data.get(attribute).is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0));
    let plain = is_zero(sys::NFTA_TUNNEL_KEY_TOS)
        && is_zero(sys::NFTA_TUNNEL_KEY_SPORT)
        && is_zero(sys::NFTA_TUNNEL_KEY_DPORT)
        && data.get(sys::NFTA_TUNNEL_KEY_OPTS).is_none_or(<[u8]>::is_empty)
        && flags & !sys::NFT_TUNNEL_F_ZERO_CSUM_TX == 0;
    let &[ttl] = data.get(sys::NFTA_TUNNEL_KEY_TTL)? else { return None };
    let id = data.number(sys::NFTA_TUNNEL_KEY_ID)?;
    plain.then_some(Tunnel { id, source, destination, ttl, zero_checksum: flags != 0 })
}

/// Name and value of a flowtable.
pub(crate) fn flowtable(attributes: Attributes<'_>) -> Option<(&str, Flowtable)> {
    let hook = attributes.nested(sys::NFTA_FLOWTABLE_HOOK).unwrap_or(Attributes(&[]));
    let flags = attributes.number(sys::NFTA_FLOWTABLE_FLAGS).unwrap_or_default();
    let flowtable = Flowtable {
        priority: hook.number(sys::NFTA_FLOWTABLE_HOOK_PRIORITY).unwrap_or_default() as i32,
        devices: hook.nested(sys::NFTA_FLOWTABLE_HOOK_DEVS).map(devices).unwrap_or_default(),
        counters: flags & sys::NFT_FLOWTABLE_COUNTER != 0,
        hardware: flags & sys::NFT_FLOWTABLE_HW_OFFLOAD != 0,
    };
    Some((attributes.string(sys::NFTA_FLOWTABLE_NAME)?, flowtable))
}

/// A list of device names.
pub(super) fn devices(list: Attributes<'_>) -> BTreeSet<Arc<str>> {
    list.filter_map(|(_, device)| text(device).map(Arc::from)).collect()
}
