//! Values into attributes.
//!
//! A value is evaluated *at* a register: the expressions leave it there and may overwrite any register behind. So the key
//! of a map and its result can share a register, and the fields of a concatenation come to lie side by side, which is
//! what the kernel's lookups want. The registers are the 16 of 4 bytes (`NFT_REG32_00`…).

use rustables::sys;

use super::{NF_ACCEPT, NF_DROP, NF_NAT_RANGE_PROTO_RANDOM_FULLY, Writer, element_flag, set_flag, user_data};
use crate::expr::{Field, Nat, NatKind, Numgen, Operator, Reject, Statement, Target, Value, Verdict};
use crate::model::{BaseChain, Bytes, ChainKind, Data, Datatype, Element, Family, Hook, Key, Rule, Set, SetData};

/// `NFT_DATA_VERDICT`: the "type" of verdicts.
pub(crate) const VERDICT_TYPE: u32 = 0xffff_ff00;

/// How a field is loaded.
pub(crate) enum Load {
    /// `meta`, by key.
    Meta(u32),
    /// `ct`, by key.
    Conntrack(u32),
    /// `payload`: base, offset, length.
    Payload(u32, u32, u32),
}

/// Every field with its load and its length in bytes: one table for both directions.
pub(crate) const FIELDS: [(Field, Load, usize); 12] = [
    (Field::Nfproto, Load::Meta(sys::NFT_META_NFPROTO), 1),
    (Field::L4proto, Load::Meta(sys::NFT_META_L4PROTO), 1),
    (Field::Mark, Load::Meta(sys::NFT_META_MARK), 4),
    (Field::Iif, Load::Meta(sys::NFT_META_IIF), 4),
    (Field::CtMark, Load::Conntrack(sys::NFT_CT_MARK), 4),
    (Field::CtState, Load::Conntrack(sys::NFT_CT_STATE), 4),
    (Field::Ip4Saddr, Load::Payload(sys::NFT_PAYLOAD_NETWORK_HEADER, 12, 4), 4),
    (Field::Ip4Daddr, Load::Payload(sys::NFT_PAYLOAD_NETWORK_HEADER, 16, 4), 4),
    (Field::Ip6Saddr, Load::Payload(sys::NFT_PAYLOAD_NETWORK_HEADER, 8, 16), 16),
    (Field::Ip6Daddr, Load::Payload(sys::NFT_PAYLOAD_NETWORK_HEADER, 24, 16), 16),
    (Field::Sport, Load::Payload(sys::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2), 2),
    (Field::Dport, Load::Payload(sys::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2), 2),
];

fn load(field: Field) -> &'static (Field, Load, usize) {
    FIELDS.iter().find(|(one, ..)| *one == field).expect("FIELDS has every field")
}

/// The bytes that a value has in the registers. A map's are taken for 4: see [`Value::Concat`].
pub(crate) fn width(value: &Value) -> usize {
    match value {
        Value::Constant(bytes) => bytes.len(),
        Value::Field(field) => load(*field).2,
        Value::Concat(values) => values.iter().map(|value| width(value).next_multiple_of(4)).sum(),
        Value::And(value, _) => width(value),
        Value::Numgen(_) | Value::Jhash { .. } | Value::Map { .. } => 4,
    }
}

/// A register of 4 bytes, counted from 0.
type Register = u32;

fn register(writer: &mut Writer, attribute: impl Into<u32>, register: Register) {
    writer.number(attribute, sys::NFT_REG32_00 + register);
}

fn expression(writer: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    writer.nest(sys::NFTA_LIST_ELEM, |writer| {
        writer.string(sys::NFTA_EXPR_NAME, name);
        writer.nest(sys::NFTA_EXPR_DATA, body);
    });
}

fn data(writer: &mut Writer, attribute: impl Into<u32>, bytes: &[u8]) {
    writer.nest(attribute, |writer| writer.bytes(sys::NFTA_DATA_VALUE, bytes));
}

/// Leaves `value` at register `at`.
fn evaluate(writer: &mut Writer, value: &Value, at: Register) {
    match value {
        Value::Constant(bytes) => expression(writer, "immediate", |writer| {
            register(writer, sys::NFTA_IMMEDIATE_DREG, at);
            data(writer, sys::NFTA_IMMEDIATE_DATA, bytes);
        }),
        Value::Field(field) => load_field(writer, *field, at),
        Value::Concat(values) => {
            let mut at = at;
            for value in values {
                evaluate(writer, value, at);
                at += width(value).div_ceil(4) as Register;
            }
        }
        Value::Numgen(numgen) => generate(writer, *numgen, at),
        Value::Jhash { key, modulus, seed, offset } => {
            evaluate(writer, key, at);
            expression(writer, "hash", |writer| {
                register(writer, sys::NFTA_HASH_SREG, at);
                register(writer, sys::NFTA_HASH_DREG, at);
                writer.number(sys::NFTA_HASH_LEN, width(key) as u32);
                writer.number(sys::NFTA_HASH_MODULUS, *modulus);
                writer.number(sys::NFTA_HASH_SEED, *seed);
                writer.number(sys::NFTA_HASH_OFFSET, *offset);
                writer.number(sys::NFTA_HASH_TYPE, sys::NFT_HASH_JENKINS);
            });
        }
        Value::And(value, mask) => {
            evaluate(writer, value, at);
            mask_at(writer, mask, at);
        }
        Value::Map { key, map } => {
            evaluate(writer, key, at);
            lookup(writer, map, at, |writer| register(writer, sys::NFTA_LOOKUP_DREG, at));
        }
    }
}

fn load_field(writer: &mut Writer, field: Field, at: Register) {
    match load(field).1 {
        Load::Meta(key) => expression(writer, "meta", |writer| {
            writer.number(sys::NFTA_META_KEY, key);
            register(writer, sys::NFTA_META_DREG, at);
        }),
        Load::Conntrack(key) => expression(writer, "ct", |writer| {
            writer.number(sys::NFTA_CT_KEY, key);
            register(writer, sys::NFTA_CT_DREG, at);
        }),
        Load::Payload(base, offset, length) => expression(writer, "payload", |writer| {
            register(writer, sys::NFTA_PAYLOAD_DREG, at);
            writer.number(sys::NFTA_PAYLOAD_BASE, base);
            writer.number(sys::NFTA_PAYLOAD_OFFSET, offset);
            writer.number(sys::NFTA_PAYLOAD_LEN, length);
        }),
    }
}

fn generate(writer: &mut Writer, numgen: Numgen, at: Register) {
    expression(writer, "numgen", |writer| {
        register(writer, sys::NFTA_NG_DREG, at);
        writer.number(sys::NFTA_NG_MODULUS, numgen.modulus);
        let kind = if numgen.random { sys::NFT_NG_RANDOM } else { sys::NFT_NG_INCREMENTAL };
        writer.number(sys::NFTA_NG_TYPE, kind);
        writer.number(sys::NFTA_NG_OFFSET, numgen.offset);
    });
}

fn mask_at(writer: &mut Writer, mask: &Bytes, at: Register) {
    expression(writer, "bitwise", |writer| {
        register(writer, sys::NFTA_BITWISE_SREG, at);
        register(writer, sys::NFTA_BITWISE_DREG, at);
        writer.number(sys::NFTA_BITWISE_LEN, mask.len() as u32);
        data(writer, sys::NFTA_BITWISE_MASK, mask);
        data(writer, sys::NFTA_BITWISE_XOR, &Bytes::from_elem(0, mask.len()));
    });
}

/// Sets are found by name: the kernel looks among those that this transaction adds too, and never among those that it
/// deletes, so no ids are needed to tell them apart.
fn lookup(writer: &mut Writer, set: &str, at: Register, more: impl FnOnce(&mut Writer)) {
    expression(writer, "lookup", |writer| {
        writer.string(sys::NFTA_LOOKUP_SET, set);
        register(writer, sys::NFTA_LOOKUP_SREG, at);
        more(writer);
    });
}

fn verdict(writer: &mut Writer, attribute: impl Into<u32>, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Return => (sys::NFT_RETURN, None),
        Verdict::Goto(chain) => (sys::NFT_GOTO, Some(chain)),
        Verdict::Jump(chain) => (sys::NFT_JUMP, Some(chain)),
    };
    writer.nest(attribute, |writer| {
        writer.nest(sys::NFTA_DATA_VERDICT, |writer| {
            writer.number(sys::NFTA_VERDICT_CODE, code as u32);
            if let Some(chain) = chain {
                writer.string(sys::NFTA_VERDICT_CHAIN, chain);
            }
        });
    });
}

fn statement(writer: &mut Writer, statement: &Statement) {
    match statement {
        Statement::Match { value, operator, constant } => {
            evaluate(writer, value, 0);
            expression(writer, "cmp", |writer| {
                register(writer, sys::NFTA_CMP_SREG, 0);
                let operator = match operator {
                    Operator::Equal => sys::NFT_CMP_EQ,
                    Operator::NotEqual => sys::NFT_CMP_NEQ,
                };
                writer.number(sys::NFTA_CMP_OP, operator);
                data(writer, sys::NFTA_CMP_DATA, constant);
            });
        }
        Statement::InSet { value, set, invert } => {
            evaluate(writer, value, 0);
            let flags = if *invert { sys::NFT_LOOKUP_F_INV } else { 0 };
            lookup(writer, set, 0, |writer| writer.number(sys::NFTA_LOOKUP_FLAGS, flags));
        }
        Statement::VerdictMap { key, map } => {
            evaluate(writer, key, 0);
            lookup(writer, map, 0, |writer| writer.number(sys::NFTA_LOOKUP_DREG, sys::NFT_REG_VERDICT));
        }
        Statement::Set { target, value } => {
            evaluate(writer, value, 0);
            match target {
                Target::CtMark => expression(writer, "ct", |writer| {
                    writer.number(sys::NFTA_CT_KEY, sys::NFT_CT_MARK);
                    register(writer, sys::NFTA_CT_SREG, 0);
                }),
                Target::Mark => expression(writer, "meta", |writer| {
                    writer.number(sys::NFTA_META_KEY, sys::NFT_META_MARK);
                    register(writer, sys::NFTA_META_SREG, 0);
                }),
            }
        }
        Statement::Nat(nat) => translate(writer, nat),
        Statement::Reject(reject) => expression(writer, "reject", |writer| match reject {
            Reject::TcpReset => {
                writer.number(sys::NFTA_REJECT_TYPE, sys::NFT_REJECT_TCP_RST);
                writer.bytes(sys::NFTA_REJECT_ICMP_CODE, &[0]);
            }
            Reject::PortUnreachable => {
                writer.number(sys::NFTA_REJECT_TYPE, sys::NFT_REJECT_ICMPX_UNREACH);
                writer.bytes(sys::NFTA_REJECT_ICMP_CODE, &[sys::NFT_REJECT_ICMPX_PORT_UNREACH as u8]);
            }
        }),
        Statement::Counter => expression(writer, "counter", |_| {}),
        Statement::Notrack => expression(writer, "notrack", |_| {}),
        Statement::Verdict(decision) => expression(writer, "immediate", |writer| {
            writer.number(sys::NFTA_IMMEDIATE_DREG, sys::NFT_REG_VERDICT);
            verdict(writer, sys::NFTA_IMMEDIATE_DATA, decision);
        }),
        // The kernel refuses it, which is right: nobody can say what it was. Batches leave such rules out.
        Statement::Unknown { name } => expression(writer, name, |_| {}),
    }
}

fn translate(writer: &mut Writer, nat: &Nat) {
    evaluate(writer, &nat.to, 0);
    expression(writer, "nat", |writer| {
        let kind = match nat.kind {
            NatKind::Source => sys::NFT_NAT_SNAT,
            NatKind::Destination => sys::NFT_NAT_DNAT,
        };
        let (family, address) = if nat.ipv6 { (Family::Ip6, 16) } else { (Family::Ip, 4) };
        writer.number(sys::NFTA_NAT_TYPE, kind);
        writer.number(sys::NFTA_NAT_FAMILY, family as u32);
        register(writer, sys::NFTA_NAT_REG_ADDR_MIN, 0);
        if nat.port {
            register(writer, sys::NFTA_NAT_REG_PROTO_MIN, address / 4);
        }
        if nat.fully_random {
            writer.number(sys::NFTA_NAT_FLAGS, NF_NAT_RANGE_PROTO_RANDOM_FULLY);
        }
    });
}

fn comment(writer: &mut Writer, attribute: impl Into<u32>, text: &str) {
    let text = crate::model::comment(text);
    let mut value = Vec::with_capacity(text.len() + 3);
    // At most COMMENT_BYTES and the zero: fits the one byte of length.
    value.extend_from_slice(&[user_data::COMMENT, (text.len() + 1) as u8]);
    value.extend_from_slice(text.as_bytes());
    value.push(0);
    writer.bytes(attribute, &value);
}

/// Expressions and user data of a rule.
pub(crate) fn rule(writer: &mut Writer, rule: &Rule) {
    writer.nest(sys::NFTA_RULE_EXPRESSIONS, |writer| {
        rule.statements.iter().for_each(|one| statement(writer, one));
    });
    if let Some(text) = &rule.comment {
        comment(writer, sys::NFTA_RULE_USERDATA, text);
    }
}

/// Hook, policy and type of a base chain.
pub(crate) fn base_chain(writer: &mut Writer, family: Family, base: &BaseChain) {
    let hook = match (base.hook, family) {
        // NF_NETDEV_INGRESS is 0, NF_INET_INGRESS is 5.
        (Hook::Ingress, Family::Netdev) | (Hook::Prerouting, _) => 0,
        (Hook::Input, _) => 1,
        (Hook::Forward, _) => 2,
        (Hook::Output, _) => 3,
        (Hook::Postrouting, _) => 4,
        (Hook::Ingress, _) => 5,
    };
    writer.nest(sys::NFTA_CHAIN_HOOK, |writer| {
        writer.number(sys::NFTA_HOOK_HOOKNUM, hook);
        writer.number(sys::NFTA_HOOK_PRIORITY, base.priority as u32);
        if let Some(device) = &base.device {
            writer.string(sys::NFTA_HOOK_DEV, device);
        }
    });
    writer.number(sys::NFTA_CHAIN_POLICY, NF_ACCEPT as u32);
    let kind = match base.kind {
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
        ChainKind::Filter | ChainKind::Foreign => "filter",
    };
    writer.string(sys::NFTA_CHAIN_TYPE, kind);
}

/// Numbers of `enum datatypes` of nft(8): the kernel keeps them, nft prints by them.
pub(crate) fn type_id(datatype: Datatype) -> u32 {
    match datatype {
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
        [Datatype::Mark | Datatype::IfIndex | Datatype::IfName] => 1,
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
        (set.data.is_some(), set_flag::MAP),
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
            data(writer, sys::NFTA_SET_ELEM_KEY_END, key.end.as_ref().unwrap_or(&key.start));
        }
        match &element.data {
            Some(Data::Value(bytes)) => data(writer, sys::NFTA_SET_ELEM_DATA, bytes),
            Some(Data::Verdict(decision)) => verdict(writer, sys::NFTA_SET_ELEM_DATA, decision),
            None => {}
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
    let mut end = key.end.as_ref().unwrap_or(&key.start).clone();
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
