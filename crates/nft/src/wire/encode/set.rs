//! Sets and their elements.

use rustables::sys;

use super::statement::stateful_body;
use super::{VERDICT_TYPE, comment, data, verdict};
use crate::expr::Stateful;
use crate::model::{Data, Datatype, Element, Key, Own, Set, SetData};
use crate::wire::fields::object_number;
use crate::wire::{Writer, element_flag, set_flag, user_data};

/// Numbers of `enum datatypes` of nft(8): the kernel keeps them, nft prints by them.
pub(crate) fn type_id(datatype: Datatype) -> u32 {
    match datatype {
        Datatype::Number => 4,
        Datatype::Ipv4Addr => 7,
        Datatype::Ipv6Addr => 8,
        Datatype::EtherAddr => 9,
        Datatype::InetProto => 12,
        Datatype::InetService => 13,
        Datatype::Mark => 19,
        Datatype::IfIndex => 20,
        Datatype::IfName => 41,
        Datatype::Other { id, .. } => u32::from(id),
    }
}

/// A concatenation's type: 6 bits a field, the first field highest.
fn type_ids(fields: &[Datatype]) -> u32 {
    fields.iter().fold(0, |ids, field| ids << 6 | type_id(*field))
}

/// `BYTEORDER_*` of nft(8): 0 none (a concatenation), 1 host, 2 big endian.
fn byte_order(fields: &[Datatype]) -> u32 {
    match fields {
        [Datatype::Mark | Datatype::Number | Datatype::IfIndex | Datatype::IfName] => 1,
        [_] => 2,
        _ => 0,
    }
}

/// Whether ranges are given field by field (kernel: pipapo), not as pairs of a start and an end element (rbtree).
fn is_ranged_concatenation(set: &Set) -> bool {
    set.interval && set.key.len() > 1
}

/// Everything of a set but table, name and elements. `id` is any number that no other set of the batch has.
pub(crate) fn set(writer: &mut Writer, set: &Set, id: u32) {
    let ranged = is_ranged_concatenation(set);
    let flags = [
        (set.interval, set_flag::INTERVAL),
        (ranged, set_flag::CONCAT),
        (matches!(set.data, Some(SetData::Verdict | SetData::Value(_))), set_flag::MAP),
        (matches!(set.data, Some(SetData::Objects(_))), set_flag::OBJECT),
        (set.timeout_ms.is_some(), set_flag::TIMEOUT),
        (set.dynamic, set_flag::EVAL),
    ];
    let flags = flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum();
    writer.number(sys::NFTA_SET_FLAGS, flags);
    writer.number(sys::NFTA_SET_KEY_TYPE, type_ids(&set.key));
    writer.number(sys::NFTA_SET_KEY_LEN, crate::model::width(&set.key) as u32);
    match &set.data {
        Some(SetData::Verdict) => writer.number(sys::NFTA_SET_DATA_TYPE, VERDICT_TYPE),
        Some(SetData::Value(fields)) => {
            writer.number(sys::NFTA_SET_DATA_TYPE, type_ids(fields));
            writer.number(sys::NFTA_SET_DATA_LEN, crate::model::width(fields) as u32);
        }
        Some(SetData::Objects(kind)) => writer.number(sys::NFTA_SET_OBJ_TYPE, object_number(*kind)),
        None => {}
    }
    if ranged || set.size.is_some() {
        writer.nest(sys::NFTA_SET_DESC, |writer| {
            if let Some(size) = set.size {
                writer.number(sys::NFTA_SET_DESC_SIZE, size);
            }
            if ranged {
                writer.nest(sys::NFTA_SET_DESC_CONCAT, |writer| field_lengths(writer, &set.key));
            }
        });
    }
    writer.number(sys::NFTA_SET_ID, id);
    if let Some(timeout) = set.timeout_ms.filter(|timeout| *timeout > 0) {
        writer.long(sys::NFTA_SET_TIMEOUT, timeout);
    }
    if set.counters {
        writer.nest(sys::NFTA_SET_EXPR, |writer| stateful_body(writer, Stateful::Counter));
    }
    let mut orders = vec![(user_data::KEY_BYTE_ORDER, byte_order(&set.key))];
    if let Some(SetData::Value(fields)) = &set.data {
        orders.push((user_data::DATA_BYTE_ORDER, byte_order(fields)));
    }
    let orders: Vec<u8> = orders.iter().flat_map(|(kind, order)| user_number(*kind, *order)).collect();
    writer.bytes(sys::NFTA_SET_USERDATA, &orders);
}

fn field_lengths(writer: &mut Writer, fields: &[Datatype]) {
    for field in fields {
        writer.nest(sys::NFTA_LIST_ELEM, |writer| writer.number(sys::NFTA_SET_FIELD_LEN, field.bytes() as u32));
    }
}

fn user_number(kind: u8, number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_ne_bytes();
    [kind, 4, a, b, c, d]
}

/// One element of `set`, which counts for its definition only. Written by hand, not by rustables: it has no maps, and this
/// is the hot path (a farm is a dozen elements).
pub(crate) fn element(writer: &mut Writer, set: &Set, key: &Key, element: &Element) {
    writer.nest(sys::NFTA_LIST_ELEM, |writer| {
        if key.start.is_empty() {
            writer.number(sys::NFTA_SET_ELEM_FLAGS, element_flag::CATCHALL);
        } else {
            data(writer, sys::NFTA_SET_ELEM_KEY, &key.start);
        }
        if is_ranged_concatenation(set) && !key.start.is_empty() {
            data(writer, sys::NFTA_SET_ELEM_KEY_END, key.end.as_deref().unwrap_or(&key.start));
        }
        match &element.data {
            Some(Data::Value(bytes)) => data(writer, sys::NFTA_SET_ELEM_DATA, bytes),
            Some(Data::Verdict(decision)) => verdict(writer, sys::NFTA_SET_ELEM_DATA, decision),
            Some(Data::Object(name)) => writer.string(sys::NFTA_SET_ELEM_OBJREF, name),
            None => {}
        }
        if let Some(Own { timeout_ms, limit }) = element.own.as_deref().copied() {
            timeout_ms.iter().for_each(|timeout| writer.long(sys::NFTA_SET_ELEM_TIMEOUT, *timeout));
            if let Some(limit) = limit {
                writer.nest(sys::NFTA_SET_ELEM_EXPR, |writer| stateful_body(writer, Stateful::Limit(limit)));
            }
        }
        if let Some(text) = &element.comment {
            comment(writer, sys::NFTA_SET_ELEM_USERDATA, text);
        }
    });
    if set.interval && !is_ranged_concatenation(set) {
        interval_end(writer, key);
    }
}

/// A range of a single field ends with an element of its own, one past the last value; a range up to the highest value
/// has none.
fn interval_end(writer: &mut Writer, key: &Key) {
    let mut end = key.end.as_deref().unwrap_or(&key.start).clone();
    for byte in end.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            writer.nest(sys::NFTA_LIST_ELEM, |writer| {
                data(writer, sys::NFTA_SET_ELEM_KEY, &end);
                writer.number(sys::NFTA_SET_ELEM_FLAGS, element_flag::INTERVAL_END);
            });
            return;
        }
    }
}
