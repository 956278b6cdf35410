use proptest::prelude::*;

use super::*;
use crate::model::{Bytes, Datatype, Element, Family, Key};

fn single(interval: bool, datatype: Datatype) -> Set {
    Set { key: vec![datatype], interval, ..Set::default() }
}

/// What the kernel keeps of these elements comes back, whatever the order in which it sends them.
fn roundtrip(set: &Set, elements: &[(Key, Element)]) -> BTreeMap<Key, Element> {
    let mut writer = Writer::default();
    for (key, element) in elements {
        encode::element(&mut writer, set, key, element);
    }
    let mut parts: Vec<_> = Attributes(&writer.buffer).collect();
    parts.reverse();
    let mut elements = decode::Elements::default();
    parts.into_iter().for_each(|(_, part)| elements.push(set, Attributes(part), decode::element));
    elements.finish()
}

fn range(start: &[u8], end: &[u8]) -> (Key, Element) {
    let end = (start != end).then(|| Bytes::from_slice(end).into());
    (Key { start: Bytes::from_slice(start), end }, Element::default())
}

#[test]
fn ranges_that_touch_stay_apart() {
    let set = single(true, Datatype::InetService);
    let elements = [
        range(&[0, 0], &[0, 0]),
        range(&[0, 1], &[0, 1]),
        range(&[0, 2], &[0, 255]),
        range(&[1, 0], &[2, 0]),
        range(&[255, 254], &[255, 254]),
        range(&[255, 255], &[255, 255]),
    ];
    assert_eq!(roundtrip(&set, &elements), elements.into());
}

#[test]
fn a_range_up_to_the_highest_value_has_no_end_element() {
    let set = single(true, Datatype::Ipv4Addr);
    let all = [range(&[0; 4], &[255; 4])];
    let mut writer = Writer::default();
    encode::element(&mut writer, &set, &all[0].0, &all[0].1);
    assert_eq!(Attributes(&writer.buffer).count(), 1);
    assert_eq!(roundtrip(&set, &all), all.into());
}

#[test]
fn the_end_element_that_nft_puts_first_is_nothing() {
    let set = single(true, Datatype::InetProto);
    let mut writer = Writer::default();
    writer.nest(sys::NFTA_LIST_ELEM, |writer| {
        writer.nest(sys::NFTA_SET_ELEM_KEY, |writer| writer.bytes(sys::NFTA_DATA_VALUE, &[0]));
        writer.number(sys::NFTA_SET_ELEM_FLAGS, element_flag::INTERVAL_END);
    });
    let mut elements = decode::Elements::default();
    Attributes(&writer.buffer).for_each(|(_, part)| elements.push(&set, Attributes(part), decode::element));
    assert!(elements.finish().is_empty());
}

/// What nft(8) 1.0.6 sends for `meta l4proto tcp`, byte by byte, but for the register: it says 1 where we say 8, and both
/// are the first.
#[test]
fn a_comparison_is_laid_out_as_nft_does() {
    use crate::{Field, Operator, Rule, Statement, Value};
    let value = Value::Field(Field::L4proto);
    let statements = vec![Statement::Match { value, operator: Operator::Equal, constant: Bytes::from_slice(&[6]) }];
    let bytes = encode_rule(&Rule { statements, comment: None });
    #[rustfmt::skip]
    let expected = [
        // NFTA_RULE_EXPRESSIONS, nested.
        84, 0, 4, 128,
        // NFTA_LIST_ELEM: the name "meta" and its data: key NFT_META_L4PROTO, destination NFT_REG32_00.
        36, 0, 1, 128, 9, 0, 1, 0, b'm', b'e', b't', b'a', 0, 0, 0, 0,
        20, 0, 2, 128, 8, 0, 2, 0, 0, 0, 0, 16, 8, 0, 1, 0, 0, 0, 0, 8,
        // "cmp": source NFT_REG32_00, operator NFT_CMP_EQ, the value 6 in nested data, padded.
        44, 0, 1, 128, 8, 0, 1, 0, b'c', b'm', b'p', 0,
        32, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 8, 8, 0, 2, 0, 0, 0, 0, 0,
        12, 0, 3, 128, 5, 0, 1, 0, 6, 0, 0, 0,
    ];
    assert_eq!(bytes, expected);
}

#[test]
fn cut_messages_end_the_reading() {
    let mut writer = Writer::default();
    let header = Header { kind: 7, flags: 0, sequence: 1, family: Family::Inet as u8, resource: 0 };
    writer.message(header, |writer| writer.string(1u32, "table"));
    writer.message(Header { sequence: 2, ..header }, |writer| writer.number(2u32, 5));
    assert_eq!(Messages(&writer.buffer).map(|message| message.sequence).collect::<Vec<_>>(), [1, 2]);
    for length in 0..writer.buffer.len() {
        assert!(Messages(&writer.buffer[..length]).count() < 2);
    }
    // Lengths that cannot be.
    for length in [0u32, 15, u32::MAX] {
        writer.buffer[..4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(Messages(&writer.buffer).count(), 0);
    }
}

proptest! {
    /// Whatever arrives is read or left, without a panic.
    #[test]
    fn noise_is_harmless(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        for message in Messages(&noise) {
            message.attributes().for_each(drop);
        }
        let attributes = Attributes(&noise);
        decode::chain(Family::Inet, attributes);
        decode::set(attributes);
        decode::object(attributes);
        decode::named_counts(attributes);
        decode::flowtable(attributes);
        decode::element_state(attributes);
        let mut elements = decode::Elements::default();
        let set = single(true, Datatype::InetService);
        attributes.for_each(|(_, part)| elements.push(&set, Attributes(part), decode::element));
        elements.push(&set, attributes, decode::element);
        elements.finish();
    }

    /// The same with attributes that look right up to their values.
    #[test]
    fn wrong_values_are_harmless(values in prop::collection::vec((1u32..20, prop::collection::vec(any::<u8>(), 0..40)), 0..8)) {
        let mut writer = Writer::default();
        for (kind, value) in &values {
            writer.bytes(*kind, value);
            writer.nest(*kind, |writer| writer.bytes(1u32, value));
        }
        let attributes = Attributes(&writer.buffer);
        decode::chain(Family::Netdev, attributes);
        decode::set(attributes);
        decode::object(attributes);
        decode::named_counts(attributes);
        decode::flowtable(attributes);
        decode::element_state(attributes);
        let mut elements = decode::Elements::default();
        for set in [single(true, Datatype::Ipv4Addr), single(false, Datatype::Mark)] {
            elements.push(&set, attributes, decode::element);
        }
        elements.finish();
    }
}
