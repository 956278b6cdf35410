//! Requests of the generic netlink family `ethtool`.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use ethtool::{EthtoolAttr, EthtoolMessage};
use netlink_packet_generic::{GenlFamily, GenlHeader};
use nix::errno::Errno;
use rtnetlink::packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLA_TYPE_MASK, NlasIterator, ParseableParametrized};

use crate::netlink::Netlink;

pub(crate) const NETLINK_GENERIC: isize = 16;
/// `nlmsghdr` and `genlmsghdr`.
const HEADER_BYTES: usize = 16;
const GENL_HEADER_BYTES: usize = 4;
const VERSION: u8 = 1;
/// The controller, which knows the numbers of families: `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `_NAME`.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `CTRL_ATTR_MCAST_GROUPS`, and of a group `CTRL_ATTR_MCAST_GRP_NAME`, `_ID`.
const FAMILY_GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;
/// `ETHTOOL_MCGRP_MONITOR_NAME`.
const MONITOR: &str = "monitor";
/// Every request's header with the name of the interface.
const HEADER: u16 = 1;
const HEADER_NAME: u16 = 2;
/// `ETHTOOL_A_BITSET_BITS`, `_BITS_BIT`, and of a bit `_NAME` and `_VALUE`.
const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// The attributes of the answer, as the `ethtool` crate understands them.
pub(super) fn get(request: &EthtoolMessage) -> io::Result<Vec<EthtoolAttr>> {
    let mut body = vec![0; request.buffer_len()];
    request.emit(&mut body);
    let Some((command, answer)) = ask(family()?, request.command(), &body)? else { return Ok(Vec::new()) };
    let header = GenlHeader { cmd: command, version: VERSION };
    let message = EthtoolMessage::parse_with_param(&answer, header).map_err(invalid)?;
    Ok(message.nlas)
}

/// The attributes of the answer to a request that the crate does not know: kind and value.
pub(super) fn get_raw(link: &str, command: u8) -> io::Result<Vec<(u16, Vec<u8>)>> {
    let answer = ask(family()?, command, &emit(&[header(link)]))?;
    answer.map_or(Ok(Vec::new()), |(_, answer)| attributes(&answer))
}

/// Sends a message of the crate that sets something.
pub(super) fn set_message(message: &EthtoolMessage) -> io::Result<()> {
    let mut body = vec![0; message.buffer_len()];
    message.emit(&mut body);
    ask(family()?, message.command(), &body).map(drop)
}

/// Sends a request that sets `attributes` of an interface.
pub(super) fn set(link: &str, command: u8, attributes: &[DefaultNla]) -> io::Result<()> {
    let mut body = emit(&[header(link)]);
    body.extend(emit(attributes));
    ask(family()?, command, &body).map(drop)
}

/// Fields as attributes of 32 bits.
pub(super) fn numbers(fields: &BTreeMap<String, i64>, known: &[(&str, u16)]) -> io::Result<Vec<DefaultNla>> {
    attributes_of(fields, known, |_| false)
}

/// Fields as attributes of one byte.
pub(super) fn switches(fields: &BTreeMap<String, i64>, known: &[(&str, u16)]) -> io::Result<Vec<DefaultNla>> {
    attributes_of(fields, known, |_| true)
}

/// Fields whose name begins with `adaptive` as one byte, the others as 32 bits.
pub(super) fn numbers_and_switches(
    fields: &BTreeMap<String, i64>,
    known: &[(&str, u16)],
) -> io::Result<Vec<DefaultNla>> {
    attributes_of(fields, known, |name| name.starts_with("adaptive"))
}

fn attributes_of(
    fields: &BTreeMap<String, i64>,
    known: &[(&str, u16)],
    is_switch: impl Fn(&str) -> bool,
) -> io::Result<Vec<DefaultNla>> {
    let attribute = |(name, number): (&String, &i64)| {
        let (_, kind) = known.iter().find(|(known, _)| known == name).ok_or(Errno::EINVAL)?;
        let number = u32::try_from(*number).map_err(|_| Errno::EINVAL)?;
        let value = if is_switch(name) { vec![u8::from(number != 0)] } else { number.to_ne_bytes().to_vec() };
        Ok(DefaultNla::new(*kind, value))
    };
    fields.iter().map(attribute).collect()
}

/// One bit of a bitset, by its name; the kernel leaves the bits that are not named as they are.
pub(super) fn bit(kind: u16, name: &str, on: bool) -> DefaultNla {
    let mut bit = vec![DefaultNla::new(BIT_NAME, text(name))];
    if on {
        bit.push(DefaultNla::new(BIT_VALUE, Vec::new()));
    }
    let nested = |kind, inside: &[DefaultNla]| DefaultNla::new(kind | NLA_F_NESTED, emit(inside));
    nested(kind, &[nested(BITSET_BITS, &[nested(BITSET_BIT, &bit)])])
}

fn header(link: &str) -> DefaultNla {
    DefaultNla::new(HEADER | NLA_F_NESTED, emit(&[DefaultNla::new(HEADER_NAME, text(link))]))
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn emit(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

fn attributes(bytes: &[u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
    let attribute = |nla: Result<rtnetlink::packet_core::NlaBuffer<&[u8]>, _>| {
        nla.map(|nla| (nla.kind() & NLA_TYPE_MASK, nla.value().to_vec())).map_err(invalid)
    };
    NlasIterator::new(bytes).map(attribute).collect()
}

fn invalid(error: rtnetlink::packet_core::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// The number of the family. It is built into the kernel, and so the same while this runs and in every network namespace.
fn family() -> io::Result<u16> {
    static FAMILY: OnceLock<u16> = OnceLock::new();
    if let Some(family) = FAMILY.get() {
        return Ok(*family);
    }
    let found = described()?.into_iter().find(|(kind, _)| *kind == FAMILY_ID);
    let id = found.and_then(|(_, value)| Some(u16::from_ne_bytes(*value.first_chunk()?))).ok_or(Errno::EOPNOTSUPP)?;
    Ok(*FAMILY.get_or_init(|| id))
}

/// What the controller says of the family.
fn described() -> io::Result<Vec<(u16, Vec<u8>)>> {
    let name = DefaultNla::new(FAMILY_NAME, text(EthtoolMessage::family_name()));
    let (_, answer) = ask(CONTROLLER, GET_FAMILY, &emit(&[name]))?.ok_or(Errno::EOPNOTSUPP)?;
    attributes(&answer)
}

/// The multicast group that is told of every change of a setting, whether it was made by netlink or by the older ioctl
/// (`ethtool_notify`, net/ethtool).
pub(crate) fn monitor_group() -> io::Result<u32> {
    let described = described()?;
    let groups = described.iter().find(|(kind, _)| *kind == FAMILY_GROUPS).ok_or(Errno::EOPNOTSUPP)?;
    for (_, group) in attributes(&groups.1)? {
        let group = attributes(&group)?;
        let value = |wanted| group.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| value.as_slice());
        if value(GROUP_NAME) == Some(&text(MONITOR)) {
            let id = value(GROUP_ID).and_then(|id| id.first_chunk()).ok_or(Errno::EOPNOTSUPP)?;
            return Ok(u32::from_ne_bytes(*id));
        }
    }
    Err(Errno::EOPNOTSUPP.into())
}

/// Sends a request in the network namespace of this thread; the answer's command and attributes, if there is more than an
/// acknowledgement.
fn ask(family: u16, command: u8, body: &[u8]) -> io::Result<Option<(u8, Vec<u8>)>> {
    let length = HEADER_BYTES + GENL_HEADER_BYTES + body.len();
    let mut request = vec![0; HEADER_BYTES];
    request[..4].copy_from_slice(&u32::try_from(length).map_err(|_| Errno::EMSGSIZE)?.to_ne_bytes());
    request[4..6].copy_from_slice(&family.to_ne_bytes());
    request.extend([command, VERSION, 0, 0]);
    request.extend(body);
    let mut answer = None;
    Netlink::open(NETLINK_GENERIC)?.query(&request, |message| {
        if let Some((header, attributes)) = message.body().split_first_chunk::<GENL_HEADER_BYTES>() {
            answer = Some((header[0], attributes.to_vec()));
        }
    })?;
    Ok(answer)
}
