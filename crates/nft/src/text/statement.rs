//! Statements.

use std::fmt::{self, Display, Formatter};

use super::datum::datum;
use super::rule::{STATES, write_constant, write_flags, write_new};
use super::{Milliseconds, Name};
use crate::expr::{
    Dynset, DynsetOp, Field, Limit, Nat, NatKind, ObjectKind, Operator, Reject, Stateful, Statement, Value, log_prefix,
};
use crate::model::Datatype;

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
                    Value::Constant(bytes) => write_new(f, *target, bytes),
                    value => value.fmt(f),
                }
            }
            Self::Nat(nat) => nat.fmt(f),
            Self::Reject(Reject::TcpReset) => f.write_str("reject with tcp reset"),
            Self::Reject(Reject::PortUnreachable) => f.write_str("reject with icmpx port-unreachable"),
            Self::Counter => f.write_str("counter"),
            Self::Notrack => f.write_str("notrack"),
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Dynset(dynset) => dynset.fmt(f),
            Self::Limit(limit) => limit.fmt(f),
            Self::Connlimit { count, over } => write!(f, "ct count {}{count}", if *over { "over " } else { "" }),
            Self::Log { group, prefix, snaplen } => {
                f.write_str("log ")?;
                if !prefix.is_empty() {
                    write!(f, "prefix \"{}\" ", log_prefix(prefix))?;
                }
                write!(f, "group {group}")?;
                snaplen.map_or(Ok(()), |bytes| write!(f, " snaplen {bytes}"))
            }
            Self::Queue { number, bypass } => {
                write!(f, "queue {}to {number}", if *bypass { "flags bypass " } else { "" })
            }
            Self::Fwd { ipv6, device, address } => write_fwd(f, *ipv6, device, address),
            Self::FlowAdd { flowtable } => write!(f, "flow add @{}", Name(flowtable)),
            Self::Synproxy { mss, wscale, timestamp, sack } => {
                write!(f, "synproxy mss {mss} wscale {wscale}")?;
                f.write_str(if *timestamp { " timestamp" } else { "" })?;
                f.write_str(if *sack { " sack-perm" } else { "" })
            }
            Self::Object { kind, name } => write!(f, "{} \"{}\"", uses(*kind), Name(name)),
            Self::ObjectMap { kind, key, map } => write!(f, "{} {key} map @{}", uses(*kind), Name(map)),
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
        return write_flags(f, &STATES, mask, ",");
    }
    let operator = match (operator, value) {
        (Operator::NotEqual, _) => "!= ",
        (Operator::Equal, Value::And(..) | Value::Field(Field::CtState | Field::TcpFlags)) => "== ",
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

impl Display for Dynset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            DynsetOp::Add => "add",
            DynsetOp::Update => "update",
            DynsetOp::Delete => "delete",
        };
        write!(f, "{op} @{} {{ {}", Name(&self.set), self.key)?;
        if let Some(timeout) = self.timeout_ms {
            write!(f, " timeout {}", Milliseconds(timeout))?;
        }
        match self.stateful {
            Some(Stateful::Counter) => f.write_str(" counter")?,
            Some(Stateful::Limit(limit)) => write!(f, " {limit}")?,
            Some(Stateful::Connlimit { count, over }) => write!(f, " {}", Statement::Connlimit { count, over })?,
            None => {}
        }
        match &self.data {
            Some(Value::Constant(bytes)) => {
                f.write_str(" : ")?;
                write_constant(f, &Value::Field(Field::Mark), bytes)?;
            }
            Some(data) => write!(f, " : {data}")?,
            None => {}
        }
        f.write_str(" }")
    }
}

impl Display for Limit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let over = if self.over { "over " } else { "" };
        write!(f, "limit rate {over}{}/", self.rate)?;
        match self.per_s {
            1 => f.write_str("second")?,
            60 => f.write_str("minute")?,
            3_600 => f.write_str("hour")?,
            86_400 => f.write_str("day")?,
            604_800 => f.write_str("week")?,
            seconds => write!(f, "{seconds}s")?,
        }
        write!(f, " burst {} packets", self.burst)
    }
}

impl Display for ObjectKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Helper => "ct helper",
            Self::Tunnel => "tunnel",
            Self::Synproxy => "synproxy",
            Self::Other(number) => return write!(f, "object-{number}"),
        })
    }
}

/// What stands before an object's name in a rule.
fn uses(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Other(_) => "object name",
        ObjectKind::Counter => "counter name",
        ObjectKind::Helper => "ct helper set",
        ObjectKind::Tunnel => "tunnel name",
        ObjectKind::Synproxy => "synproxy name",
    }
}

fn write_fwd(f: &mut Formatter<'_>, ipv6: bool, device: &Value, address: &Value) -> fmt::Result {
    let (family, like) = if ipv6 { ("ip6", Field::Ip6Daddr) } else { ("ip", Field::Ip4Daddr) };
    let operand = |f: &mut Formatter<'_>, value: &Value, like: Field| match value {
        Value::Constant(bytes) => write_constant(f, &Value::Field(like), bytes),
        value => value.fmt(f),
    };
    write!(f, "fwd {family} to ")?;
    operand(f, address, like)?;
    f.write_str(" device ")?;
    operand(f, device, Field::Oif)
}
