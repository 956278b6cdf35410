use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes.extend([2, 0, 0, 0]);
    bytes.extend(attributes.concat());
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes
}

fn segment() -> Vec<u8> {
    let mut packet = vec![0x46, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend([1, 1, 1, 1]);
    packet.extend([0x12, 0x67, 0, 80]);
    packet
}

#[test]
fn packets_of_both_families_are_read() {
    let mut six = vec![0x60, 0, 0, 0, 0, 12, 60, 64];
    six.extend([1; 16]);
    six.extend([2; 16]);
    six.extend([17, 0, 1, 4, 0, 0, 0, 0]);
    six.extend([0, 53, 0, 54]);
    let four = message(
        PACKET,
        &[
            attribute(NFULA_MARK, &7_u32.to_be_bytes()),
            attribute(NFULA_PREFIX, b"a word\0"),
            attribute(NFULA_PAYLOAD, &segment()),
        ],
    );
    let both = [four, message(PACKET, &[attribute(NFULA_PREFIX, b"b\0"), attribute(NFULA_PAYLOAD, &six)])].concat();
    let told = told(&both);
    assert_eq!(told.len(), 2);
    assert_eq!((told[0].prefix.as_str(), told[0].mark, told[0].protocol), ("a word", 7, 6), "with options of IPv4");
    assert_eq!(told[0].source, ("10.0.0.1".parse().expect("an address"), 0x1267));
    assert_eq!(told[0].destination, ("10.0.0.2".parse().expect("an address"), 80));
    assert_eq!((told[1].protocol, told[1].source.1, told[1].destination.1), (17, 53, 54), "behind its options");
    for length in 0..both.len() {
        let _ = super::told(&both[..length]);
    }
}

#[test]
fn what_is_no_packet_is_passed_over() {
    assert!(told(&message(ERROR, &[attribute(NFULA_PREFIX, b"a")])).is_empty());
    assert!(told(&message(PACKET, &[attribute(NFULA_PREFIX, b"a\0")])).is_empty(), "no payload");
    assert!(told(&message(PACKET, &[attribute(NFULA_PAYLOAD, &segment())])).is_empty(), "no prefix");
    let wrong = [attribute(NFULA_PREFIX, &[0xff, 0]), attribute(NFULA_PAYLOAD, &segment())];
    assert!(told(&message(PACKET, &wrong)).is_empty(), "no text");
    for first in 0..=u8::MAX {
        let _ = told(&message(PACKET, &[attribute(NFULA_PREFIX, b"a\0"), attribute(NFULA_PAYLOAD, &[first; 30])]));
    }
}
