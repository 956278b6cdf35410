//! Attributes into values.
//!
//! The registers are followed symbolically: a load puts a [`Value`] into a register, and whatever reads the register takes
//! it out again. A rule is understood only if every value is taken exactly once; so a rule of somebody else never passes
//! for one of ours. What is not understood becomes [`Statement::Unknown`] or [`Datatype::Other`] and never an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustables::sys;

use super::encode::{FIELDS, Load, VERDICT_TYPE, type_id};
use super::{
    Attributes, NF_ACCEPT, NF_DROP, NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_RANDOM_FULLY,
    NF_NAT_RANGE_PROTO_SPECIFIED, NFT_BITWISE_MASK_XOR, element_flag, set_flag, text, user_data,
};
use crate::expr::{Field, Nat, NatKind, Numgen, Operator, Reject, Statement, Target, Value, Verdict};
use crate::model::{
    BaseChain, Bytes, Chain, ChainKind, Data, Datatype, Element, Family, Hook, Key, Rule, Set, SetData, width,
};

/// Expressions and user data of a rule; see [`super::decode_rule`].
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

/// The comment in user data.
fn comment(mut bytes: &[u8]) -> Option<Arc<str>> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == user_data::COMMENT {
            return text(value).map(Arc::from);
        }
        bytes = &rest[usize::from(*length)..];
    }
    None
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
            "payload" => {
                let at = register(data, sys::NFTA_PAYLOAD_DREG)?;
                let base = data.number(sys::NFTA_PAYLOAD_BASE)?;
                let offset = data.number(sys::NFTA_PAYLOAD_OFFSET)?;
                let length = data.number(sys::NFTA_PAYLOAD_LEN)?;
                let is = |load: &Load| matches!(load, Load::Payload(b, o, l) if (*b, *o, *l) == (base, offset, length));
                return self.field(at, is);
            }
            "immediate" => return self.immediate(data),
            "numgen" => return self.numgen(data),
            "hash" => return self.hash(data),
            "bitwise" => return self.bitwise(data),
            "lookup" => return self.lookup(data),
            "cmp" => self.comparison(data)?,
            "nat" => self.nat(data)?,
            "reject" => reject(data)?,
            "counter" => Statement::Counter,
            "notrack" => Statement::Notrack,
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
        if key != sys::NFT_META_MARK {
            return None;
        }
        let value = self.take(from, 4)?;
        self.statements.push(Statement::Set { target: Target::Mark, value });
        Some(())
    }

    fn conntrack(&mut self, data: Attributes<'_>) -> Option<()> {
        let key = data.number(sys::NFTA_CT_KEY)?;
        let Some(from) = register(data, sys::NFTA_CT_SREG) else {
            let at = register(data, sys::NFTA_CT_DREG)?;
            return self.field(at, |load| matches!(load, Load::Conntrack(one) if *one == key));
        };
        if key != sys::NFT_CT_MARK {
            return None;
        }
        let value = self.take(from, 4)?;
        self.statements.push(Statement::Set { target: Target::CtMark, value });
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

fn verdict(data: Attributes<'_>) -> Option<Verdict> {
    let chain = || data.string(sys::NFTA_VERDICT_CHAIN).map(Arc::from);
    Some(match data.number(sys::NFTA_VERDICT_CODE)? as i32 {
        NF_ACCEPT => Verdict::Accept,
        NF_DROP => Verdict::Drop,
        sys::NFT_RETURN => Verdict::Return,
        sys::NFT_GOTO => Verdict::Goto(chain()?),
        sys::NFT_JUMP => Verdict::Jump(chain()?),
        _ => return None,
    })
}

/// Table, name and definition of a chain. `None`: without a name, or a nameless chain inside a rule, which goes with it.
pub(crate) fn chain(family: Family, attributes: Attributes<'_>) -> Option<(&str, &str, Chain)> {
    /// `NFT_CHAIN_HW_OFFLOAD` and `NFT_CHAIN_BINDING` (linux/netfilter/nf_tables.h).
    const OFFLOAD: u32 = 2;
    const BINDING: u32 = 4;
    let flags = attributes.number(sys::NFTA_CHAIN_FLAGS).unwrap_or_default();
    if flags & BINDING != 0 {
        return None;
    }
    let base = attributes.nested(sys::NFTA_CHAIN_HOOK).map(|hook| {
        let known = match attributes.string(sys::NFTA_CHAIN_TYPE) {
            Some("filter") => ChainKind::Filter,
            Some("nat") => ChainKind::Nat,
            Some("route") => ChainKind::Route,
            _ => ChainKind::Foreign,
        };
        let accepts = attributes.number(sys::NFTA_CHAIN_POLICY).is_none_or(|policy| policy == NF_ACCEPT as u32);
        let number = hook.number(sys::NFTA_HOOK_HOOKNUM).and_then(|number| hook_of(family, number));
        let ours = accepts && flags & OFFLOAD == 0 && number.is_some();
        BaseChain {
            kind: if ours { known } else { ChainKind::Foreign },
            hook: number.unwrap_or(Hook::Ingress),
            priority: hook.number(sys::NFTA_HOOK_PRIORITY).unwrap_or_default() as i32,
            device: hook.string(sys::NFTA_HOOK_DEV).map(Arc::from),
        }
    });
    let name = attributes.string(sys::NFTA_CHAIN_NAME)?;
    Some((attributes.string(sys::NFTA_CHAIN_TABLE)?, name, Chain { base, rules: Vec::new() }))
}

fn hook_of(family: Family, number: u32) -> Option<Hook> {
    Some(match (family, number) {
        (Family::Netdev, 0) | (_, 5) => Hook::Ingress,
        (Family::Netdev, _) => return None,
        (_, 0) => Hook::Prerouting,
        (_, 1) => Hook::Input,
        (_, 2) => Hook::Forward,
        (_, 3) => Hook::Output,
        (_, 4) => Hook::Postrouting,
        _ => return None,
    })
}

/// Name and definition of a set. `None`: without a name, or a nameless set inside a rule, which goes with it.
pub(crate) fn set(attributes: Attributes<'_>) -> Option<(&str, Set)> {
    use set_flag::{ANONYMOUS, CONCAT, EVAL, INTERVAL, MAP, OBJECT, TIMEOUT};
    let flags = attributes.number(sys::NFTA_SET_FLAGS).unwrap_or_default();
    if flags & ANONYMOUS != 0 {
        return None;
    }
    let key_length = attributes.number(sys::NFTA_SET_KEY_LEN)?;
    let mut key = types(attributes.number(sys::NFTA_SET_KEY_TYPE).unwrap_or_default(), key_length);
    if flags & !(INTERVAL | CONCAT | MAP | TIMEOUT | EVAL) != 0 {
        // Objects, element counters and the like: it must not pass for a set of ours.
        key = vec![other(0, key_length)];
    }
    let data = (flags & (MAP | OBJECT) != 0).then(|| match attributes.number(sys::NFTA_SET_DATA_TYPE) {
        Some(VERDICT_TYPE) => SetData::Verdict,
        id => {
            let length = attributes.number(sys::NFTA_SET_DATA_LEN).unwrap_or_default();
            SetData::Value(types(id.unwrap_or_default(), length))
        }
    });
    let set = Set {
        key,
        data,
        interval: flags & INTERVAL != 0,
        dynamic: flags & EVAL != 0,
        timeout_ms: (flags & TIMEOUT != 0).then(|| attributes.long(sys::NFTA_SET_TIMEOUT).unwrap_or_default()),
        size: attributes.nested(sys::NFTA_SET_DESC).and_then(|desc| desc.number(sys::NFTA_SET_DESC_SIZE)),
        elements: BTreeMap::new(),
    };
    Some((attributes.string(sys::NFTA_SET_NAME)?, set))
}

fn other(id: u32, length: u32) -> Datatype {
    Datatype::Other { id: id as u8, len: u8::try_from(length).unwrap_or(u8::MAX) }
}

/// The fields of a type number. What does not add up to `length` is one field of an unknown type.
fn types(id: u32, length: u32) -> Vec<Datatype> {
    const KNOWN: [Datatype; 8] = [
        Datatype::Ipv4Addr,
        Datatype::Ipv6Addr,
        Datatype::EtherAddr,
        Datatype::InetProto,
        Datatype::InetService,
        Datatype::Mark,
        Datatype::IfIndex,
        Datatype::IfName,
    ];
    let known = |id: u32| KNOWN.into_iter().find(|datatype| type_id(*datatype) == id);
    let ids = (0..5).rev().map(|field| id >> (6 * field) & 0x3f).skip_while(|id| *id == 0);
    match ids.map(known).collect::<Option<Vec<_>>>() {
        Some(fields) if width(&fields) == length as usize && !fields.is_empty() => fields,
        _ => vec![other(id & 0x3f, length)],
    }
}

/// Collects the elements of one set as the kernel sends them, in any order.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    whole: Vec<(Key, Element)>,
    /// In sets of single-field ranges: where something begins, or where the one before it ends.
    borders: Vec<(Bytes, Option<Element>)>,
}

impl Elements {
    /// Takes one element of `set`.
    pub(crate) fn push(&mut self, set: &Set, attributes: Attributes<'_>) {
        let flags = attributes.number(sys::NFTA_SET_ELEM_FLAGS).unwrap_or_default();
        let bytes = |attribute: u16| {
            let value = attributes.nested(attribute).and_then(|data: Attributes<'_>| data.get(sys::NFTA_DATA_VALUE));
            value.map(Bytes::from_slice)
        };
        let start = bytes(sys::NFTA_SET_ELEM_KEY).unwrap_or_default();
        if flags & element_flag::INTERVAL_END != 0 {
            self.borders.push((start, None));
            return;
        }
        let data = attributes.nested(sys::NFTA_SET_ELEM_DATA).and_then(|data| {
            let decision = || data.nested(sys::NFTA_DATA_VERDICT).and_then(verdict).map(Data::Verdict);
            data.get(sys::NFTA_DATA_VALUE).map(|value| Data::Value(Bytes::from_slice(value))).or_else(decision)
        });
        let element = Element { data, comment: attributes.get(sys::NFTA_SET_ELEM_USERDATA).and_then(comment) };
        if set.interval && set.key.len() == 1 && flags & element_flag::CATCHALL == 0 {
            self.borders.push((start, Some(element)));
        } else {
            let end = bytes(sys::NFTA_SET_ELEM_KEY_END).filter(|end| *end != start);
            self.whole.push((Key { start, end }, element));
        }
    }

    /// All of them.
    pub(crate) fn finish(mut self) -> BTreeMap<Key, Element> {
        // Where one range ends the next may begin: the end comes first.
        self.borders.sort_by(|(a, begins), (b, ends)| a.cmp(b).then(begins.is_some().cmp(&ends.is_some())));
        let mut open: Option<(Bytes, Element)> = None;
        for (at, begins) in std::mem::take(&mut self.borders) {
            if let Some((start, element)) = open.take() {
                let last = before(&at);
                self.whole.push((range(start, last), element));
            }
            open = begins.map(|element| (at, element));
        }
        if let Some((start, element)) = open {
            let last = Bytes::from_elem(0xff, start.len());
            self.whole.push((range(start, last), element));
        }
        self.whole.into_iter().collect()
    }
}

fn range(start: Bytes, last: Bytes) -> Key {
    let end = (start != last).then_some(last);
    Key { start, end }
}

/// The value before `bytes`, which is not the lowest.
fn before(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.clone();
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            break;
        }
    }
    bytes
}
