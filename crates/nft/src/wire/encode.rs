//! Values into attributes.
//!
//! A value is evaluated *at* a register: the expressions leave it there and may overwrite any register behind. So the key
//! of a map and its result can share a register, and the fields of a concatenation come to lie side by side, which is
//! what the kernel's lookups want. The registers are the 16 of 4 bytes (`NFT_REG32_00`…).

use rustables::sys;

use super::fields::{Load, load};
use super::{NF_ACCEPT, NF_DROP, Writer, user_data};
use crate::expr::{Field, Numgen, Value, Verdict};
use crate::model::{BaseChain, Bytes, ChainKind, Family, Hook};

mod object;
mod set;
mod statement;

pub(crate) use object::{HELPER_FAMILIES, flowtable, flowtable_devices, object};
pub(crate) use set::{element, set, type_id};
pub(crate) use statement::rule;

/// `NFT_DATA_VERDICT`: the "type" of verdicts.
pub(crate) const VERDICT_TYPE: u32 = 0xffff_ff00;

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
    writer.nest(sys::NFTA_LIST_ELEM, |writer| named(writer, name, body));
}

fn named(writer: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    writer.string(sys::NFTA_EXPR_NAME, name);
    writer.nest(sys::NFTA_EXPR_DATA, body);
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
        Load::Fib(result, flags) => expression(writer, "fib", |writer| {
            register(writer, sys::NFTA_FIB_DREG, at);
            writer.number(sys::NFTA_FIB_RESULT, result);
            writer.number(sys::NFTA_FIB_FLAGS, flags);
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

fn comment(writer: &mut Writer, attribute: impl Into<u32>, text: &str) {
    let text = crate::model::comment(text);
    let mut value = Vec::with_capacity(text.len() + 3);
    // At most COMMENT_BYTES and the zero: fits the one byte of length.
    value.extend_from_slice(&[user_data::COMMENT, (text.len() + 1) as u8]);
    value.extend_from_slice(text.as_bytes());
    value.push(0);
    writer.bytes(attribute, &value);
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
        match base.devices.first() {
            Some(device) if base.devices.len() == 1 => writer.string(sys::NFTA_HOOK_DEV, device),
            Some(_) => object::devices(writer, sys::NFTA_HOOK_DEVS, &base.devices),
            None => {}
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
