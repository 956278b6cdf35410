//! Where fields and targets are in the kernel's words: one table each for both directions.

use rustables::sys;

use crate::expr::{Field, ObjectKind, Target};

/// How a field is loaded.
pub(crate) enum Load {
    /// `meta`, by key.
    Meta(u32),
    /// `ct`, by key.
    Conntrack(u32),
    /// `payload`: base, offset, length.
    Payload(u32, u32, u32),
    /// `fib`: result, flags.
    Fib(u32, u32),
}

const LINK: u32 = sys::NFT_PAYLOAD_LL_HEADER;
const NETWORK: u32 = sys::NFT_PAYLOAD_NETWORK_HEADER;
const TRANSPORT: u32 = sys::NFT_PAYLOAD_TRANSPORT_HEADER;

/// Every field with its load and its length in bytes.
pub(crate) const FIELDS: [(Field, Load, usize); 22] = [
    (Field::Nfproto, Load::Meta(sys::NFT_META_NFPROTO), 1),
    (Field::Protocol, Load::Meta(sys::NFT_META_PROTOCOL), 2),
    (Field::L4proto, Load::Meta(sys::NFT_META_L4PROTO), 1),
    (Field::Mark, Load::Meta(sys::NFT_META_MARK), 4),
    (Field::Iif, Load::Meta(sys::NFT_META_IIF), 4),
    (Field::Iifname, Load::Meta(sys::NFT_META_IIFNAME), 16),
    (Field::Oif, Load::Meta(sys::NFT_META_OIF), 4),
    (Field::CtMark, Load::Conntrack(sys::NFT_CT_MARK), 4),
    (Field::CtState, Load::Conntrack(sys::NFT_CT_STATE), 4),
    (Field::CtDirection, Load::Conntrack(sys::NFT_CT_DIRECTION), 1),
    (Field::Ip4Saddr, Load::Payload(NETWORK, 12, 4), 4),
    (Field::Ip4Daddr, Load::Payload(NETWORK, 16, 4), 4),
    (Field::Ip6Saddr, Load::Payload(NETWORK, 8, 16), 16),
    (Field::Ip6Daddr, Load::Payload(NETWORK, 24, 16), 16),
    (Field::Sport, Load::Payload(TRANSPORT, 0, 2), 2),
    (Field::Dport, Load::Payload(TRANSPORT, 2, 2), 2),
    (Field::TcpFlags, Load::Payload(TRANSPORT, 13, 1), 1),
    (Field::IcmpType, Load::Payload(TRANSPORT, 0, 1), 1),
    (Field::UdpChecksum, Load::Payload(TRANSPORT, 6, 2), 2),
    (Field::EtherSaddr, Load::Payload(LINK, 6, 6), 6),
    (Field::EtherDaddr, Load::Payload(LINK, 0, 6), 6),
    (Field::FibDaddrType, Load::Fib(sys::NFT_FIB_RESULT_ADDRTYPE, sys::NFTA_FIB_F_DADDR), 4),
];

/// How a target is written.
pub(crate) enum Store {
    /// `meta`, by key.
    Meta(u32),
    /// `ct`, by key.
    Conntrack(u32),
    /// `payload` with a source.
    Payload(PayloadWrite),
}

/// A write into the packet, with the checksum to correct, as nft(8) says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PayloadWrite {
    /// `NFT_PAYLOAD_*_HEADER`.
    pub(crate) base: u32,
    /// Bytes from the base.
    pub(crate) offset: u32,
    /// Bytes.
    pub(crate) length: u32,
    /// `NFT_PAYLOAD_CSUM_*`: the checksum of the base's header, which covers the bytes.
    pub(crate) checksum: u32,
    /// Its bytes from the base.
    pub(crate) checksum_offset: u32,
    /// `NFT_PAYLOAD_L4CSUM_PSEUDOHDR`: the transport's checksum covers them too.
    pub(crate) flags: u32,
}

const INET: u32 = sys::NFT_PAYLOAD_CSUM_INET;
const PSEUDO_HEADER: u32 = sys::NFT_PAYLOAD_L4CSUM_PSEUDOHDR;

/// An address; the header of IPv6 has no checksum.
const fn address(offset: u32, length: u32) -> Store {
    let (checksum, checksum_offset) = if length == 4 { (INET, 10) } else { (sys::NFT_PAYLOAD_CSUM_NONE, 0) };
    Store::Payload(PayloadWrite { base: NETWORK, offset, length, checksum, checksum_offset, flags: PSEUDO_HEADER })
}

/// Two bytes of a transport header.
const fn transport(offset: u32, checksum_offset: u32) -> Store {
    Store::Payload(PayloadWrite { base: TRANSPORT, offset, length: 2, checksum: INET, checksum_offset, flags: 0 })
}

/// Two bytes of SCTP's header; its checksum is a CRC32c, 8 bytes into it.
const fn sctp(offset: u32) -> Store {
    let checksum = sys::NFT_PAYLOAD_CSUM_SCTP;
    Store::Payload(PayloadWrite { base: TRANSPORT, offset, length: 2, checksum, checksum_offset: 8, flags: 0 })
}

/// Every target with its store and its length in bytes.
pub(crate) const TARGETS: [(Target, Store, usize); 14] = [
    (Target::CtMark, Store::Conntrack(sys::NFT_CT_MARK), 4),
    (Target::Mark, Store::Meta(sys::NFT_META_MARK), 4),
    (Target::Nftrace, Store::Meta(sys::NFT_META_NFTRACE), 1),
    (Target::Ip4Saddr, address(12, 4), 4),
    (Target::Ip4Daddr, address(16, 4), 4),
    (Target::Ip6Saddr, address(8, 16), 16),
    (Target::Ip6Daddr, address(24, 16), 16),
    (Target::TcpSport, transport(0, 16), 2),
    (Target::TcpDport, transport(2, 16), 2),
    (Target::UdpSport, transport(0, 6), 2),
    (Target::UdpDport, transport(2, 6), 2),
    (Target::UdpChecksum, transport(6, 6), 2),
    (Target::SctpSport, sctp(0), 2),
    (Target::SctpDport, sctp(2), 2),
];

/// `NFT_OBJECT_*`.
const OBJECT_KINDS: [(ObjectKind, u32); 4] = [
    (ObjectKind::Counter, sys::NFT_OBJECT_COUNTER),
    (ObjectKind::Helper, sys::NFT_OBJECT_CT_HELPER),
    (ObjectKind::Tunnel, sys::NFT_OBJECT_TUNNEL),
    (ObjectKind::Synproxy, sys::NFT_OBJECT_SYNPROXY),
];

pub(crate) fn load(field: Field) -> &'static (Field, Load, usize) {
    FIELDS.iter().find(|(one, ..)| *one == field).expect("FIELDS has every field")
}

pub(crate) fn store(target: Target) -> &'static Store {
    &TARGETS.iter().find(|(one, ..)| *one == target).expect("TARGETS has every target").1
}

pub(crate) fn object_number(kind: ObjectKind) -> u32 {
    match kind {
        ObjectKind::Other(number) => number,
        kind => OBJECT_KINDS.iter().find(|(one, _)| *one == kind).expect("OBJECT_KINDS has every other kind").1,
    }
}

pub(crate) fn object_kind(number: u32) -> ObjectKind {
    let known = OBJECT_KINDS.iter().find(|(_, one)| *one == number);
    known.map_or(ObjectKind::Other(number), |(kind, _)| *kind)
}
