//! Messages as the kernel lays them out, whole and cut.

use super::*;
use crate::wire::{Header, Writer};

/// The first step of a packet to 172.16.1.1:80 in `inet t`, chain `c`: rule 7 went to `d`.
fn message() -> Vec<u8> {
    let mut network = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0];
    network.extend([172, 16, 1, 10, 172, 16, 1, 1]);
    let mut writer = Writer::default();
    let kind = SUBSYSTEM | sys::NFT_MSG_TRACE as u16;
    writer.message(Header { kind, flags: 0, sequence: 0, family: 1, resource: 0 }, |writer| {
        writer.number(sys::NFTA_TRACE_TYPE, sys::NFT_TRACETYPE_RULE);
        writer.number(sys::NFTA_TRACE_ID, 0xabcd);
        writer.string(sys::NFTA_TRACE_CHAIN, "c");
        writer.string(sys::NFTA_TRACE_TABLE, "t");
        writer.long(sys::NFTA_TRACE_RULE_HANDLE, 7);
        writer.nest(sys::NFTA_TRACE_VERDICT, |writer| {
            writer.number(sys::NFTA_VERDICT_CODE, sys::NFT_GOTO as u32);
            writer.string(sys::NFTA_VERDICT_CHAIN, "d");
        });
        writer.number(sys::NFTA_TRACE_MARK, 5);
        writer.number(sys::NFTA_TRACE_IIF, 2);
        writer.bytes(sys::NFTA_TRACE_NETWORK_HEADER, &network);
        writer.bytes(sys::NFTA_TRACE_TRANSPORT_HEADER, &[0x12, 0x67, 0, 80, 0, 0, 0, 0]);
    });
    writer.buffer
}

#[test]
fn a_step_is_read() {
    let expected = Event {
        packet: 0xabcd,
        table: TableId::inet("t"),
        chain: "c".into(),
        step: Step::Rule { handle: 7, ruling: Ruling::Goto("d".into()) },
        headers: Some(Headers {
            source: [172, 16, 1, 10].into(),
            destination: [172, 16, 1, 1].into(),
            protocol: 6,
            ports: Some((4711, 80)),
            iif: Some(2),
            oif: None,
        }),
        mark: 5,
    };
    assert_eq!(events(&message()), [expected]);
}

#[test]
fn what_is_cut_or_garbled_is_passed_over() {
    let whole = message();
    for length in 0..whole.len() {
        assert!(events(&whole[..length]).is_empty(), "{length}");
        let mut cut = whole[..length].to_vec();
        if length >= 4 {
            cut[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        }
        let _ = events(&cut);
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut garbled = whole.clone();
            garbled[at] = value;
            let _ = events(&garbled);
        }
    }
}

#[test]
fn verdicts_have_more_in_their_upper_bits() {
    assert_eq!([code(0), code(1), code(2)], [Ruling::Drop, Ruling::Accept, Ruling::Stolen]);
    assert_eq!(code(3 | 5 << 16), Ruling::Queue);
    assert_eq!([code(-1), code(-5), code(-77)], [Ruling::Continue, Ruling::Return, Ruling::Other(-77)]);
}
