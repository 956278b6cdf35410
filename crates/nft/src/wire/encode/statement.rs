//! Statements and rules.

use rustables::sys;

use super::{comment, data, evaluate, expression, lookup, named, register, verdict, width};
use crate::expr::{
    Dynset, DynsetOp, Limit, Nat, NatKind, Operator, Reject, Stateful, Statement, Target, Value, log_prefix,
};
use crate::model::{Family, Rule};
use crate::wire::fields::{PayloadWrite, Store, object_number, store};
use crate::wire::{NF_NAT_RANGE_PROTO_RANDOM_FULLY, Writer, synproxy_flag};

fn statement(writer: &mut Writer, statement: &Statement) {
    match statement {
        Statement::Match { value, operator, constant } => compare(writer, value, *operator, constant),
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
            write(writer, *target);
        }
        Statement::Nat(nat) => translate(writer, nat),
        Statement::Reject(reject) => refuse(writer, *reject),
        Statement::Counter => stateful(writer, Stateful::Counter),
        Statement::Limit(limit) => stateful(writer, Stateful::Limit(*limit)),
        Statement::Connlimit { count, over } => stateful(writer, Stateful::Connlimit { count: *count, over: *over }),
        Statement::Notrack => expression(writer, "notrack", |_| {}),
        Statement::Verdict(decision) => expression(writer, "immediate", |writer| {
            writer.number(sys::NFTA_IMMEDIATE_DREG, sys::NFT_REG_VERDICT);
            verdict(writer, sys::NFTA_IMMEDIATE_DATA, decision);
        }),
        Statement::Dynset(dynset) => add_element(writer, dynset),
        Statement::Fwd { ipv6, device, address } => {
            evaluate(writer, device, 0);
            evaluate(writer, address, 1);
            expression(writer, "fwd", |writer| {
                register(writer, sys::NFTA_FWD_SREG_DEV, 0);
                register(writer, sys::NFTA_FWD_SREG_ADDR, 1);
                writer.number(sys::NFTA_FWD_NFPROTO, if *ipv6 { Family::Ip6 } else { Family::Ip } as u32);
            });
        }
        Statement::ObjectMap { key, map, .. } => {
            evaluate(writer, key, 0);
            expression(writer, "objref", |writer| {
                register(writer, sys::NFTA_OBJREF_SET_SREG, 0);
                writer.string(sys::NFTA_OBJREF_SET_NAME, map);
            });
        }
        Statement::Log { .. }
        | Statement::Queue { .. }
        | Statement::FlowAdd { .. }
        | Statement::Synproxy { .. }
        | Statement::Object { .. }
        | Statement::Unknown { .. } => without_values(writer, statement),
    }
}

/// Statements that are one expression and read no register.
fn without_values(writer: &mut Writer, statement: &Statement) {
    let name = match statement {
        Statement::Log { .. } => "log",
        Statement::Queue { .. } => "queue",
        Statement::FlowAdd { .. } => "flow_offload",
        Statement::Synproxy { .. } => "synproxy",
        Statement::Object { .. } => "objref",
        // The kernel refuses it, which is right: nobody can say what it was. Batches leave such rules out.
        Statement::Unknown { name } => name,
        _ => return,
    };
    expression(writer, name, |writer| match statement {
        Statement::Log { group, prefix, snaplen } => {
            writer.short(sys::NFTA_LOG_GROUP, *group);
            if !prefix.is_empty() {
                writer.string(sys::NFTA_LOG_PREFIX, &log_prefix(prefix));
            }
            snaplen.iter().for_each(|bytes| writer.number(sys::NFTA_LOG_SNAPLEN, *bytes));
        }
        Statement::Queue { number, bypass } => {
            writer.short(sys::NFTA_QUEUE_NUM, *number);
            writer.short(sys::NFTA_QUEUE_TOTAL, 1);
            writer.short(sys::NFTA_QUEUE_FLAGS, if *bypass { sys::NFT_QUEUE_FLAG_BYPASS as u16 } else { 0 });
        }
        Statement::FlowAdd { flowtable } => writer.string(sys::NFTA_FLOW_TABLE_NAME, flowtable),
        Statement::Synproxy { mss, wscale, timestamp, sack } => {
            writer.short(sys::NFTA_SYNPROXY_MSS, *mss);
            writer.bytes(sys::NFTA_SYNPROXY_WSCALE, &[*wscale]);
            writer.number(sys::NFTA_SYNPROXY_FLAGS, synproxy_flag::of(*timestamp, *sack));
        }
        Statement::Object { kind, name } => {
            writer.number(sys::NFTA_OBJREF_IMM_TYPE, object_number(*kind));
            writer.string(sys::NFTA_OBJREF_IMM_NAME, name);
        }
        _ => {}
    });
}

fn compare(writer: &mut Writer, value: &Value, operator: Operator, constant: &[u8]) {
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

fn refuse(writer: &mut Writer, reject: Reject) {
    expression(writer, "reject", |writer| match reject {
        Reject::TcpReset => {
            writer.number(sys::NFTA_REJECT_TYPE, sys::NFT_REJECT_TCP_RST);
            writer.bytes(sys::NFTA_REJECT_ICMP_CODE, &[0]);
        }
        Reject::PortUnreachable => {
            writer.number(sys::NFTA_REJECT_TYPE, sys::NFT_REJECT_ICMPX_UNREACH);
            writer.bytes(sys::NFTA_REJECT_ICMP_CODE, &[sys::NFT_REJECT_ICMPX_PORT_UNREACH as u8]);
        }
    });
}

/// Writes what register 0 holds.
fn write(writer: &mut Writer, target: Target) {
    match *store(target) {
        Store::Conntrack(key) => expression(writer, "ct", |writer| {
            writer.number(sys::NFTA_CT_KEY, key);
            register(writer, sys::NFTA_CT_SREG, 0);
        }),
        Store::Meta(key) => expression(writer, "meta", |writer| {
            writer.number(sys::NFTA_META_KEY, key);
            register(writer, sys::NFTA_META_SREG, 0);
        }),
        Store::Payload(PayloadWrite { base, offset, length, checksum, checksum_offset, flags }) => {
            expression(writer, "payload", |writer| {
                register(writer, sys::NFTA_PAYLOAD_SREG, 0);
                writer.number(sys::NFTA_PAYLOAD_BASE, base);
                writer.number(sys::NFTA_PAYLOAD_OFFSET, offset);
                writer.number(sys::NFTA_PAYLOAD_LEN, length);
                writer.number(sys::NFTA_PAYLOAD_CSUM_TYPE, checksum);
                writer.number(sys::NFTA_PAYLOAD_CSUM_OFFSET, checksum_offset);
                writer.number(sys::NFTA_PAYLOAD_CSUM_FLAGS, flags);
            });
        }
    }
}

fn add_element(writer: &mut Writer, dynset: &Dynset) {
    let behind = width(&dynset.key).div_ceil(4) as u32;
    evaluate(writer, &dynset.key, 0);
    dynset.data.iter().for_each(|value| evaluate(writer, value, behind));
    expression(writer, "dynset", |writer| {
        writer.string(sys::NFTA_DYNSET_SET_NAME, &dynset.set);
        let op = match dynset.op {
            DynsetOp::Add => sys::NFT_DYNSET_OP_ADD,
            DynsetOp::Update => sys::NFT_DYNSET_OP_UPDATE,
            DynsetOp::Delete => sys::NFT_DYNSET_OP_DELETE,
        };
        writer.number(sys::NFTA_DYNSET_OP, op);
        register(writer, sys::NFTA_DYNSET_SREG_KEY, 0);
        if dynset.data.is_some() {
            register(writer, sys::NFTA_DYNSET_SREG_DATA, behind);
        }
        if let Some(timeout) = dynset.timeout_ms {
            writer.long(sys::NFTA_DYNSET_TIMEOUT, timeout);
        }
        if let Some(one) = dynset.stateful {
            writer.nest(sys::NFTA_DYNSET_EXPR, |writer| stateful_body(writer, one));
        }
    });
}

fn stateful(writer: &mut Writer, stateful: Stateful) {
    writer.nest(sys::NFTA_LIST_ELEM, |writer| stateful_body(writer, stateful));
}

/// Name and data of an expression, which stands among others, in a `dynset` or in an element.
pub(super) fn stateful_body(writer: &mut Writer, stateful: Stateful) {
    match stateful {
        Stateful::Counter => named(writer, "counter", |_| {}),
        Stateful::Limit(Limit { rate, per_s, burst, over }) => named(writer, "limit", |writer| {
            writer.long(sys::NFTA_LIMIT_RATE, rate);
            writer.long(sys::NFTA_LIMIT_UNIT, per_s);
            writer.number(sys::NFTA_LIMIT_BURST, burst);
            writer.number(sys::NFTA_LIMIT_TYPE, sys::NFT_LIMIT_PKTS);
            writer.number(sys::NFTA_LIMIT_FLAGS, if over { sys::NFT_LIMIT_F_INV } else { 0 });
        }),
        Stateful::Connlimit { count, over } => named(writer, "connlimit", |writer| {
            writer.number(sys::NFTA_CONNLIMIT_COUNT, count);
            writer.number(sys::NFTA_CONNLIMIT_FLAGS, if over { sys::NFT_CONNLIMIT_F_INV } else { 0 });
        }),
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

/// Expressions and user data of a rule.
pub(crate) fn rule(writer: &mut Writer, rule: &Rule) {
    writer.nest(sys::NFTA_RULE_EXPRESSIONS, |writer| {
        rule.statements.iter().for_each(|one| statement(writer, one));
    });
    if let Some(text) = &rule.comment {
        comment(writer, sys::NFTA_RULE_USERDATA, text);
    }
}
