//! Rules, statements and values.

use std::fmt::{self, Display, Formatter};

use super::Name;
use super::datum::{datum, fields, hexadecimal};
use crate::expr::{Field, Nat, NatKind, Operator, Reject, Statement, Target, Value, Verdict};
use crate::model::{Data, Datatype, Rule};

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, statement) in self.statements.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{statement}")?;
        }
        match &self.comment {
            Some(comment) => write!(f, " comment \"{}\"", crate::model::comment(comment)),
            None => Ok(()),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Goto(chain) => write!(f, "goto {}", Name(chain)),
            Self::Jump(chain) => write!(f, "jump {}", Name(chain)),
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nfproto => "meta nfproto",
            Self::L4proto => "meta l4proto",
            Self::Mark => "meta mark",
            Self::Iif => "meta iif",
            Self::CtMark => "ct mark",
            Self::CtState => "ct state",
            Self::Ip4Saddr => "ip saddr",
            Self::Ip4Daddr => "ip daddr",
            Self::Ip6Saddr => "ip6 saddr",
            Self::Ip6Daddr => "ip6 daddr",
            Self::Sport => "th sport",
            Self::Dport => "th dport",
        })
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CtMark => "ct mark",
            Self::Mark => "meta mark",
        })
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(bytes) => hexadecimal(f, bytes),
            Self::Field(field) => field.fmt(f),
            Self::Concat(values) => {
                for (index, value) in values.iter().enumerate() {
                    let dot = if index == 0 { "" } else { " . " };
                    write!(f, "{dot}{value}")?;
                }
                Ok(())
            }
            Self::Numgen(numgen) => {
                let kind = if numgen.random { "random" } else { "inc" };
                write!(f, "numgen {kind} mod {}", numgen.modulus)?;
                write_offset(f, numgen.offset)
            }
            Self::Jhash { key, modulus, seed, offset } => {
                write!(f, "jhash {key} mod {modulus} seed 0x{seed:x}")?;
                write_offset(f, *offset)
            }
            Self::And(value, mask) => {
                write!(f, "{value} & ")?;
                write_constant(f, value, mask)
            }
            Self::Map { key, map } => write!(f, "{key} map @{}", Name(map)),
        }
    }
}

fn write_offset(f: &mut Formatter<'_>, offset: u32) -> fmt::Result {
    if offset == 0 { Ok(()) } else { write!(f, " offset {offset}") }
}

/// A constant by the type of what it is compared or combined with.
fn write_constant(f: &mut Formatter<'_>, with: &Value, bytes: &[u8]) -> fmt::Result {
    let field = match with {
        Value::Field(field) => *field,
        Value::And(value, _) => return write_constant(f, value, bytes),
        Value::Numgen(_) | Value::Jhash { .. } => Field::Mark,
        _ => return hexadecimal(f, bytes),
    };
    let datatype = match field {
        Field::Nfproto => {
            return match bytes {
                [2] => f.write_str("ipv4"),
                [10] => f.write_str("ipv6"),
                _ => hexadecimal(f, bytes),
            };
        }
        Field::L4proto => Datatype::InetProto,
        Field::Mark | Field::CtMark => Datatype::Mark,
        Field::CtState => return write_state(f, bytes, "|"),
        Field::Iif => Datatype::IfIndex,
        Field::Ip4Saddr | Field::Ip4Daddr => Datatype::Ipv4Addr,
        Field::Ip6Saddr | Field::Ip6Daddr => Datatype::Ipv6Addr,
        Field::Sport | Field::Dport => Datatype::InetService,
    };
    datum(f, datatype, bytes)
}

/// Connection states, by name when all bits have one.
fn write_state(f: &mut Formatter<'_>, bytes: &[u8], between: &str) -> fmt::Result {
    const NAMES: [(u32, &str); 5] = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
    let Ok(bits) = bytes.try_into().map(u32::from_ne_bytes) else { return hexadecimal(f, bytes) };
    let names: Vec<&str> = NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    let named: u32 = NAMES.iter().map(|(bit, _)| bits & bit).sum();
    if bits == 0 || named != bits {
        return write!(f, "0x{bits:x}");
    }
    match names.as_slice() {
        [one] => f.write_str(one),
        many if between == "|" => write!(f, "({})", many.join("|")),
        many => f.write_str(&many.join(between)),
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Match { value, operator, constant } => write_match(f, value, *operator, constant),
            Self::InSet { value, set, invert } => {
                let not = if *invert { "!= " } else { "" };
                write!(f, "{value} {not}@{}", Name(set))
            }
            Self::VerdictMap { key, map } => write!(f, "{key} vmap @{}", Name(map)),
            Self::Set { target, value } => {
                write!(f, "{target} set ")?;
                match value {
                    Value::Constant(bytes) => write_constant(f, &Value::Field(Field::Mark), bytes),
                    value => value.fmt(f),
                }
            }
            Self::Nat(nat) => nat.fmt(f),
            Self::Reject(Reject::TcpReset) => f.write_str("reject with tcp reset"),
            Self::Reject(Reject::PortUnreachable) => f.write_str("reject with icmpx port-unreachable"),
            Self::Counter => f.write_str("counter"),
            Self::Notrack => f.write_str("notrack"),
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Unknown { name } => write!(f, "# not understood: {}", Name(name)),
        }
    }
}

fn write_match(f: &mut Formatter<'_>, value: &Value, operator: Operator, constant: &[u8]) -> fmt::Result {
    // `ct state a,b` is nft's word for "some of these bits".
    if let Value::And(inner, mask) = value
        && **inner == Value::Field(Field::CtState)
        && operator == Operator::NotEqual
        && constant.iter().all(|byte| *byte == 0)
    {
        f.write_str("ct state ")?;
        return write_state(f, mask, ",");
    }
    let operator = match (operator, value) {
        (Operator::NotEqual, _) => "!= ",
        (Operator::Equal, Value::And(..) | Value::Field(Field::CtState)) => "== ",
        (Operator::Equal, _) => "",
    };
    write!(f, "{value} {operator}")?;
    write_constant(f, value, constant)
}

impl Display for Nat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            NatKind::Source => "snat",
            NatKind::Destination => "dnat",
        };
        let (family, address) = if self.ipv6 { ("ip6", Datatype::Ipv6Addr) } else { ("ip", Datatype::Ipv4Addr) };
        write!(f, "{kind} {family} to ")?;
        match &self.to {
            Value::Constant(bytes) => datum(f, address, bytes)?,
            Value::Concat(values) => match values.as_slice() {
                [Value::Constant(to), Value::Constant(port)] => {
                    f.write_str(if self.ipv6 { "[" } else { "" })?;
                    datum(f, address, to)?;
                    f.write_str(if self.ipv6 { "]:" } else { ":" })?;
                    datum(f, Datatype::InetService, port)?;
                }
                _ => self.to.fmt(f)?,
            },
            value => value.fmt(f)?,
        }
        f.write_str(if self.fully_random { " fully-random" } else { "" })
    }
}

/// ` : DATA` of an element.
pub(super) fn write_data(f: &mut Formatter<'_>, types: &[Datatype], data: Option<&Data>) -> fmt::Result {
    match data {
        None => Ok(()),
        Some(Data::Verdict(verdict)) => write!(f, " : {verdict}"),
        Some(Data::Value(bytes)) => {
            for (index, (datatype, field)) in fields(types, bytes).iter().enumerate() {
                f.write_str(if index == 0 { " : " } else { " . " })?;
                datum(f, *datatype, field)?;
            }
            Ok(())
        }
    }
}
