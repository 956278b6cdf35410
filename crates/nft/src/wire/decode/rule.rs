//! Rules: registers followed through their expressions.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustables::sys;

use super::{comment, verdict};
use crate::expr::{Dynset, DynsetOp, Field, Limit, Nat, NatKind, Numgen, Operator, Reject, Stateful, Statement, Value};
use crate::model::{Bytes, Rule, Set, SetData, width};
use crate::wire::fields::{FIELDS, Load, PayloadWrite, Store, TARGETS, object_kind};
use crate::wire::{
    Attributes, NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_RANDOM_FULLY, NF_NAT_RANGE_PROTO_SPECIFIED,
    NFT_BITWISE_MASK_XOR, synproxy_options,
};

/// Expressions and user data of a rule; as [`super`] says.
pub(crate) fn rule(attributes: Attributes<'_>, sets: &BTreeMap<Arc<str>, Set>) -> Rule {
    let comment = attributes.get(sys::NFTA_RULE_USERDATA).and_then(comment);
    let mut reader = Reader { sets, registers: Default::default(), statements: Vec::new() };
    for (_, expression) in attributes.nested(sys::NFTA_RULE_EXPRESSIONS).into_iter().flatten() {
        let expression = Attributes(expression);
        let name = expression.string(sys::NFTA_EXPR_NAME).unwrap_or_default();
        let data = expression.nested(sys::NFTA_EXPR_DATA).unwrap_or(Attributes(&[]));
        if reader.expression(name, data).is_none() {
            return Rule { statements: vec![Statement::Unknown { name: name.into() }], comment };
        }
    }
    let statements = match reader.registers.iter().flatten().next() {
        Some(_) => vec![Statement::Unknown { name: "unused-value".into() }],
        None => reader.statements,
    };
    Rule { statements, comment }
}

/// A value in registers and its length in bytes.
struct Slot {
    value: Value,
    width: usize,
}

struct Reader<'a> {
    sets: &'a BTreeMap<Arc<str>, Set>,
    /// By the first register of a value.
    registers: [Option<Slot>; 16],
    statements: Vec<Statement>,
}

/// The kernel says registers of 16 bytes (1 to 4) where a value begins at one, and registers of 4 bytes (8 to 23) else
/// (`nft_dump_register`).
fn register(attributes: Attributes<'_>, attribute: impl Into<u32>) -> Option<usize> {
    match attributes.number(attribute)? {
        number @ 1..=4 => Some((number as usize - 1) * 4),
        number @ 8..=23 => Some(number as usize - 8),
        _ => None,
    }
}

impl Reader<'_> {
    /// Puts a value into registers that are free.
    fn put(&mut self, at: usize, value: Value, width: usize) -> Option<()> {
        let words = width.div_ceil(4).max(1);
        if self.registers.get(at..at + words)?.iter().any(Option::is_some) {
            return None;
        }
        self.registers[at] = Some(Slot { value, width });
        Some(())
    }

    /// Takes `width` bytes: one value, or several that lie side by side.
    fn take(&mut self, at: usize, width: usize) -> Option<Value> {
        let first = self.registers.get_mut(at)?.take()?;
        // An address may be taken from a map that yields an address and a port.
        if first.width == width || (first.width > width && matches!(first.value, Value::Map { .. })) {
            return Some(first.value);
        }
        let mut taken = first.width.next_multiple_of(4);
        let mut values = vec![first.value];
        while taken < width {
            let next = self.registers.get_mut(at + taken / 4)?.take()?;
            taken += next.width.next_multiple_of(4);
            values.push(next.value);
        }
        (taken == width && values.len() > 1).then_some(Value::Concat(values))
    }

    /// `None`: not understood.
    fn expression(&mut self, name: &str, data: Attributes<'_>) -> Option<()> {
        let statement = match name {
            "meta" => return self.meta(data),
            "ct" => return self.conntrack(data),
            "payload" => return self.payload(data),
            "fib" => {
                let (result, flags) = (data.number(sys::NFTA_FIB_RESULT)?, data.number(sys::NFTA_FIB_FLAGS)?);
                let at = register(data, sys::NFTA_FIB_DREG)?;
                return self.field(at, |load| matches!(load, Load::Fib(r, f) if (*r, *f) == (result, flags)));
            }
            "immediate" => return self.immediate(data),
            "numgen" => return self.numgen(data),
            "hash" => return self.hash(data),
            "bitwise" => return self.bitwise(data),
            "lookup" => return self.lookup(data),
            "cmp" => self.comparison(data)?,
            "nat" => self.nat(data)?,
            "reject" => reject(data)?,
            "notrack" => Statement::Notrack,
            "dynset" => self.dynset(data)?,
            "fwd" => self.fwd(data)?,
            "objref" => self.object(data)?,
            "log" => log(data)?,
            "queue" => queue(data)?,
            "flow_offload" => Statement::FlowAdd { flowtable: data.string(sys::NFTA_FLOW_TABLE_NAME)?.into() },
            "synproxy" => synproxy(data)?,
            "counter" | "limit" | "connlimit" => match stateful(name, data)? {
                Stateful::Counter => Statement::Counter,
                Stateful::Limit(limit) => Statement::Limit(limit),
                Stateful::Connlimit { count, over } => Statement::Connlimit { count, over },
            },
            _ => return None,
        };
        self.statements.push(statement);
        Some(())
    }

    fn field(&mut self, at: usize, is: impl Fn(&Load) -> bool) -> Option<()> {
        let (field, _, width): &(Field, Load, usize) = FIELDS.iter().find(|(_, load, _)| is(load))?;
        self.put(at, Value::Field(*field), *width)
    }

    fn meta(&mut self, data: Attributes<'_>) -> Option<()> {
        let key = data.number(sys::NFTA_META_KEY)?;
        let Some(from) = register(data, sys::NFTA_META_SREG) else {
            let at = register(data, sys::NFTA_META_DREG)?;
            return self.field(at, |load| matches!(load, Load::Meta(one) if *one == key));
        };
        self.target(from, |store| matches!(store, Store::Meta(one) if *one == key))
    }

    fn conntrack(&mut self, data: Attributes<'_>) -> Option<()> {
        let key = data.number(sys::NFTA_CT_KEY)?;
        let Some(from) = register(data, sys::NFTA_CT_SREG) else {
            let at = register(data, sys::NFTA_CT_DREG)?;
            // A direction in here asks for one side of the flow.
            let whole = data.get(sys::NFTA_CT_DIRECTION).is_none();
            return self.field(at, |load| whole && matches!(load, Load::Conntrack(one) if *one == key));
        };
        self.target(from, |store| matches!(store, Store::Conntrack(one) if *one == key))
    }

    fn payload(&mut self, data: Attributes<'_>) -> Option<()> {
        let base = data.number(sys::NFTA_PAYLOAD_BASE)?;
        let offset = data.number(sys::NFTA_PAYLOAD_OFFSET)?;
        let length = data.number(sys::NFTA_PAYLOAD_LEN)?;
        let Some(from) = register(data, sys::NFTA_PAYLOAD_SREG) else {
            let at = register(data, sys::NFTA_PAYLOAD_DREG)?;
            let is = |load: &Load| matches!(load, Load::Payload(b, o, l) if (*b, *o, *l) == (base, offset, length));
            return self.field(at, is);
        };
        let written = PayloadWrite {
            base,
            offset,
            length,
            checksum: data.number(sys::NFTA_PAYLOAD_CSUM_TYPE).unwrap_or_default(),
            checksum_offset: data.number(sys::NFTA_PAYLOAD_CSUM_OFFSET).unwrap_or_default(),
            flags: data.number(sys::NFTA_PAYLOAD_CSUM_FLAGS).unwrap_or_default(),
        };
        self.target(from, |store| matches!(store, Store::Payload(one) if *one == written))
    }

    fn target(&mut self, from: usize, is: impl Fn(&Store) -> bool) -> Option<()> {
        let (target, _, width) = TARGETS.iter().find(|(_, store, _)| is(store))?;
        let value = self.take(from, *width)?;
        self.statements.push(Statement::Set { target: *target, value });
        Some(())
    }

    fn immediate(&mut self, data: Attributes<'_>) -> Option<()> {
        let value = data.nested(sys::NFTA_IMMEDIATE_DATA)?;
        if data.number(sys::NFTA_IMMEDIATE_DREG)? == sys::NFT_REG_VERDICT {
            let verdict = verdict(value.nested(sys::NFTA_DATA_VERDICT)?)?;
            self.statements.push(Statement::Verdict(verdict));
            return Some(());
        }
        let bytes = Bytes::from_slice(value.get(sys::NFTA_DATA_VALUE)?);
        let width = bytes.len();
        self.put(register(data, sys::NFTA_IMMEDIATE_DREG)?, Value::Constant(bytes), width)
    }

    fn numgen(&mut self, data: Attributes<'_>) -> Option<()> {
        let random = match data.number(sys::NFTA_NG_TYPE)? {
            sys::NFT_NG_INCREMENTAL => false,
            sys::NFT_NG_RANDOM => true,
            _ => return None,
        };
        let modulus = data.number(sys::NFTA_NG_MODULUS)?;
        let offset = data.number(sys::NFTA_NG_OFFSET).unwrap_or_default();
        let value = Value::Numgen(Numgen { random, modulus, offset });
        self.put(register(data, sys::NFTA_NG_DREG)?, value, 4)
    }

    fn hash(&mut self, data: Attributes<'_>) -> Option<()> {
        if data.number(sys::NFTA_HASH_TYPE).unwrap_or_default() != sys::NFT_HASH_JENKINS {
            return None;
        }
        let length = data.number(sys::NFTA_HASH_LEN)? as usize;
        let key = Box::new(self.take(register(data, sys::NFTA_HASH_SREG)?, length)?);
        let value = Value::Jhash {
            key,
            modulus: data.number(sys::NFTA_HASH_MODULUS)?,
            // Not said when the kernel drew it.
            seed: data.number(sys::NFTA_HASH_SEED)?,
            // Not said when it is 0.
            offset: data.number(sys::NFTA_HASH_OFFSET).unwrap_or_default(),
        };
        self.put(register(data, sys::NFTA_HASH_DREG)?, value, 4)
    }

    fn bitwise(&mut self, data: Attributes<'_>) -> Option<()> {
        let mask = data.nested(sys::NFTA_BITWISE_MASK)?.get(sys::NFTA_DATA_VALUE)?;
        let xor = data.nested(sys::NFTA_BITWISE_XOR)?.get(sys::NFTA_DATA_VALUE)?;
        let operation = data.number(sys::NFTA_BITWISE_OP).unwrap_or_default();
        if operation != NFT_BITWISE_MASK_XOR || xor.iter().any(|byte| *byte != 0) {
            return None;
        }
        let value = self.take(register(data, sys::NFTA_BITWISE_SREG)?, mask.len())?;
        let value = Value::And(Box::new(value), Bytes::from_slice(mask));
        self.put(register(data, sys::NFTA_BITWISE_DREG)?, value, mask.len())
    }

    fn lookup(&mut self, data: Attributes<'_>) -> Option<()> {
        let (name, set) = self.sets.get_key_value(data.string(sys::NFTA_LOOKUP_SET)?)?;
        let key = self.take(register(data, sys::NFTA_LOOKUP_SREG)?, width(&set.key))?;
        let invert = data.number(sys::NFTA_LOOKUP_FLAGS).unwrap_or_default() & sys::NFT_LOOKUP_F_INV != 0;
        let statement = match (data.number(sys::NFTA_LOOKUP_DREG), &set.data) {
            (None, _) => Statement::InSet { value: key, set: name.clone(), invert },
            (Some(sys::NFT_REG_VERDICT), Some(SetData::Verdict)) => Statement::VerdictMap { key, map: name.clone() },
            (Some(_), Some(SetData::Value(fields))) => {
                let value = Value::Map { key: Box::new(key), map: name.clone() };
                return self.put(register(data, sys::NFTA_LOOKUP_DREG)?, value, width(fields));
            }
            _ => return None,
        };
        self.statements.push(statement);
        Some(())
    }

    fn comparison(&mut self, data: Attributes<'_>) -> Option<Statement> {
        let constant = data.nested(sys::NFTA_CMP_DATA)?.get(sys::NFTA_DATA_VALUE)?;
        let operator = match data.number(sys::NFTA_CMP_OP)? {
            sys::NFT_CMP_EQ => Operator::Equal,
            sys::NFT_CMP_NEQ => Operator::NotEqual,
            _ => return None,
        };
        let value = self.take(register(data, sys::NFTA_CMP_SREG)?, constant.len())?;
        Some(Statement::Match { value, operator, constant: Bytes::from_slice(constant) })
    }

    fn dynset(&mut self, data: Attributes<'_>) -> Option<Statement> {
        let (name, set) = self.sets.get_key_value(data.string(sys::NFTA_DYNSET_SET_NAME)?)?;
        let op = match data.number(sys::NFTA_DYNSET_OP)? {
            sys::NFT_DYNSET_OP_ADD => DynsetOp::Add,
            sys::NFT_DYNSET_OP_UPDATE => DynsetOp::Update,
            sys::NFT_DYNSET_OP_DELETE => DynsetOp::Delete,
            _ => return None,
        };
        // Inverted, or with several statements for each element.
        if data.number(sys::NFTA_DYNSET_FLAGS).unwrap_or_default() != 0
            || data.get(sys::NFTA_DYNSET_EXPRESSIONS).is_some()
        {
            return None;
        }
        let key = self.take(register(data, sys::NFTA_DYNSET_SREG_KEY)?, width(&set.key))?;
        let yielded = match (register(data, sys::NFTA_DYNSET_SREG_DATA), &set.data) {
            (Some(at), Some(SetData::Value(fields))) => Some(self.take(at, width(fields))?),
            (None, _) => None,
            _ => return None,
        };
        let stateful = match data.nested(sys::NFTA_DYNSET_EXPR) {
            Some(expression) => Some(stateful_body(expression)?),
            None => None,
        };
        let timeout_ms = data.long(sys::NFTA_DYNSET_TIMEOUT).filter(|timeout| *timeout > 0);
        Some(Dynset { op, set: name.clone(), key, data: yielded, timeout_ms, stateful }.into())
    }

    fn fwd(&mut self, data: Attributes<'_>) -> Option<Statement> {
        let (ipv6, length) = match data.number(sys::NFTA_FWD_NFPROTO)? {
            2 => (false, 4),
            10 => (true, 16),
            _ => return None,
        };
        let device = self.take(register(data, sys::NFTA_FWD_SREG_DEV)?, 4)?;
        let address = self.take(register(data, sys::NFTA_FWD_SREG_ADDR)?, length)?;
        Some(Statement::Fwd { ipv6, device: Box::new(device), address })
    }

    fn object(&mut self, data: Attributes<'_>) -> Option<Statement> {
        if let Some(kind) = data.number(sys::NFTA_OBJREF_IMM_TYPE) {
            let name = data.string(sys::NFTA_OBJREF_IMM_NAME)?.into();
            return Some(Statement::Object { kind: object_kind(kind), name });
        }
        let (map, set) = self.sets.get_key_value(data.string(sys::NFTA_OBJREF_SET_NAME)?)?;
        let Some(SetData::Objects(kind)) = set.data else { return None };
        let key = self.take(register(data, sys::NFTA_OBJREF_SET_SREG)?, width(&set.key))?;
        Some(Statement::ObjectMap { kind, key, map: map.clone() })
    }

    fn nat(&mut self, data: Attributes<'_>) -> Option<Statement> {
        /// What the kernel sets by itself when there is an address or a port.
        const IMPLIED: u32 = NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED;
        let kind = match data.number(sys::NFTA_NAT_TYPE)? {
            sys::NFT_NAT_SNAT => NatKind::Source,
            sys::NFT_NAT_DNAT => NatKind::Destination,
            _ => return None,
        };
        let (ipv6, address) = match data.number(sys::NFTA_NAT_FAMILY)? {
            2 => (false, 4),
            10 => (true, 16),
            _ => return None,
        };
        let fully_random = match data.number(sys::NFTA_NAT_FLAGS).unwrap_or_default() & !IMPLIED {
            0 => false,
            NF_NAT_RANGE_PROTO_RANDOM_FULLY => true,
            _ => return None,
        };
        let single = |min: u16, max: u16| data.get(max).is_none_or(|value| data.get(min) == Some(value));
        if !single(sys::NFTA_NAT_REG_ADDR_MIN, sys::NFTA_NAT_REG_ADDR_MAX)
            || !single(sys::NFTA_NAT_REG_PROTO_MIN, sys::NFTA_NAT_REG_PROTO_MAX)
        {
            return None;
        }
        let at = register(data, sys::NFTA_NAT_REG_ADDR_MIN)?;
        let port = data.get(sys::NFTA_NAT_REG_PROTO_MIN).is_some();
        let to = if !port {
            self.take(at, address)?
        } else {
            let port_at = register(data, sys::NFTA_NAT_REG_PROTO_MIN)?;
            if port_at == at + address / 4 {
                self.take(at, address + 4)?
            } else {
                Value::Concat(vec![self.take(at, address)?, self.take(port_at, 2)?])
            }
        };
        Some(Statement::Nat(Nat { kind, ipv6, to, port, fully_random }))
    }
}

fn reject(data: Attributes<'_>) -> Option<Statement> {
    let code = data.get(sys::NFTA_REJECT_ICMP_CODE).and_then(|code| code.first()).copied().unwrap_or_default();
    match data.number(sys::NFTA_REJECT_TYPE)? {
        sys::NFT_REJECT_TCP_RST => Some(Statement::Reject(Reject::TcpReset)),
        sys::NFT_REJECT_ICMPX_UNREACH if u32::from(code) == sys::NFT_REJECT_ICMPX_PORT_UNREACH => {
            Some(Statement::Reject(Reject::PortUnreachable))
        }
        _ => None,
    }
}

/// An expression inside of something: its name and its data.
pub(super) fn stateful_body(expression: Attributes<'_>) -> Option<Stateful> {
    let data = expression.nested(sys::NFTA_EXPR_DATA).unwrap_or(Attributes(&[]));
    stateful(expression.string(sys::NFTA_EXPR_NAME)?, data)
}

fn stateful(name: &str, data: Attributes<'_>) -> Option<Stateful> {
    Some(match name {
        "counter" => Stateful::Counter,
        "limit" => {
            if data.number(sys::NFTA_LIMIT_TYPE).unwrap_or_default() != sys::NFT_LIMIT_PKTS {
                return None;
            }
            Stateful::Limit(Limit {
                rate: data.long(sys::NFTA_LIMIT_RATE)?,
                per_s: data.long(sys::NFTA_LIMIT_UNIT)?,
                burst: data.number(sys::NFTA_LIMIT_BURST).unwrap_or_default(),
                over: data.number(sys::NFTA_LIMIT_FLAGS).unwrap_or_default() & sys::NFT_LIMIT_F_INV != 0,
            })
        }
        "connlimit" => Stateful::Connlimit {
            count: data.number(sys::NFTA_CONNLIMIT_COUNT)?,
            over: data.number(sys::NFTA_CONNLIMIT_FLAGS).unwrap_or_default() & sys::NFT_CONNLIMIT_F_INV != 0,
        },
        _ => return None,
    })
}

fn log(data: Attributes<'_>) -> Option<Statement> {
    // Of a group only: a log to the kernel's own log has a level instead.
    let group = data.short(sys::NFTA_LOG_GROUP)?;
    if data.short(sys::NFTA_LOG_QTHRESHOLD).unwrap_or_default() != 0 {
        return None;
    }
    let prefix = data.string(sys::NFTA_LOG_PREFIX).unwrap_or_default().into();
    Some(Statement::Log { group, prefix, snaplen: data.number(sys::NFTA_LOG_SNAPLEN) })
}

fn queue(data: Attributes<'_>) -> Option<Statement> {
    let flags = u32::from(data.short(sys::NFTA_QUEUE_FLAGS).unwrap_or_default());
    if data.short(sys::NFTA_QUEUE_TOTAL).unwrap_or(1) != 1 || flags & !sys::NFT_QUEUE_FLAG_BYPASS != 0 {
        return None;
    }
    let number = data.short(sys::NFTA_QUEUE_NUM)?;
    Some(Statement::Queue { number, bypass: flags != 0 })
}

fn synproxy(data: Attributes<'_>) -> Option<Statement> {
    let (mss, wscale, timestamp, sack) = synproxy_options(data)?;
    Some(Statement::Synproxy { mss, wscale, timestamp, sack })
}
