use proptest::prelude::*;

use super::*;

fn ranges(nets: &[&str]) -> Ranges {
    nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect()
}

#[test]
fn what_overlaps_or_touches_is_one_range() {
    let joined =
        ranges(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.3.0/24", "255.255.255.0/24", "::/0", "::1/128"]);
    let v4: Vec<String> = joined.v4().map(|(first, last)| format!("{first}-{last}")).collect();
    assert_eq!(v4, ["10.0.0.0-10.0.1.255", "10.0.3.0-10.0.3.255", "255.255.255.0-255.255.255.255"]);
    assert_eq!(joined.v6().len(), 1);
    assert!(ranges(&["0.0.0.0/0", "10.0.0.0/8"]).v4().len() == 1);
}

proptest! {
    #[test]
    fn an_address_is_in_it_when_a_prefix_has_it(
        nets in proptest::collection::vec((0u32..1024, 22u8..=32), 0..40),
        probe in 0u32..1100,
    ) {
        let nets: Vec<IpNet> =
            nets.iter().map(|&(bits, len)| IpNet::new(Ipv4Addr::from(bits).into(), len).unwrap().trunc()).collect();
        let address = IpAddr::V4(probe.into());
        let ranges: Ranges = nets.iter().copied().collect();
        prop_assert_eq!(ranges.contains(address), nets.iter().any(|net| net.contains(&address)));
        let pairs: Vec<_> = ranges.v4().collect();
        prop_assert!(pairs.windows(2).all(|pair| pair[0].1.to_bits() + 1 < pair[1].0.to_bits()), "{:?}", pairs);
    }
}
