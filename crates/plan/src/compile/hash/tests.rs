use std::collections::BTreeSet;

use super::*;
use proptest::prelude::*;

fn backends(farm: &str, weights: &[u16]) -> Vec<(u64, u16)> {
    let site = Site::new(Some("correct horse battery"));
    weights.iter().enumerate().map(|(n, &weight)| (site.backend_key(farm, &format!("b{n}")), weight)).collect()
}

/// The keys of the backends, slot by slot.
fn table(backends: &[(u64, u16)], slots: usize) -> Vec<u64> {
    consistent(backends, slots).into_iter().map(|index| backends[index as usize].0).collect()
}

/// Of slots that were somebody's who stays: how many are somebody else's now.
fn survivors_moved(before: &[u64], after: &[u64], gone: u64) -> usize {
    before.iter().zip(after).filter(|(a, b)| a != b && **a != gone).count()
}

/// 400 sets of 2 to 20 backends, the same in every run: a bound in probability must not fail by chance.
#[test]
fn one_that_leaves_or_comes_moves_two_percent_of_the_others_at_most() {
    const SLOTS: usize = 1021;
    let mut sum = 0;
    for round in 0..400u64 {
        let count = 2 + mix(round) % 19;
        let heaviest = 1 + mix(round + 1000) % 10;
        let weights: Vec<u16> = (0..count).map(|n| 1 + (mix(round * 100 + n) % heaviest) as u16).collect();
        let all = backends(&format!("farm{round}"), &weights);
        let mut left = all.clone();
        let (gone, weight) = left.remove((mix(round + 2000) % count) as usize);
        let (before, after) = (table(&all, SLOTS), table(&left, SLOTS));
        let moved = survivors_moved(&before, &after, gone);
        assert!(moved * 50 <= SLOTS, "round {round}: {moved} of those who stay moved, {weights:?}");
        let total: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
        let held = before.iter().filter(|&&key| key == gone).count();
        let all_moved = (moved + held) as f64 / SLOTS as f64;
        let share = f64::from(weight) / total as f64;
        assert!(all_moved <= share + 0.02, "round {round}: {all_moved} moved for a share of {share}, {weights:?}");
        let most = most(weight, total as u64, SLOTS);
        assert!(held <= most, "round {round}: {held} slots of {most}");
        sum += moved;
    }
    assert!(sum * 400 < 400 * SLOTS, "{sum}: more than 0.25 % on average");
}

#[test]
fn weights_are_followed() {
    for (weights, slots) in [(&[1u16, 1, 1][..], 1021), (&[5, 2, 1], 1021), (&[100, 100], 1021), (&[1, 9], 65537)] {
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let table = consistent(&backends("web", weights), slots);
        for (index, &weight) in (0u32..).zip(weights) {
            let held = table.iter().filter(|&&one| one == index).count() as f64;
            let share = slots as f64 * f64::from(weight) / total as f64;
            assert!((0.8..=1.2).contains(&(held / share)), "{weights:?}: {held} of {share}");
        }
    }
}

#[test]
fn logarithms_are_right() {
    for bits in [1, 2, 3, 1000, 1 << 32, (1 << 63) - 1, 1 << 63, 0xdead_beef_dead_beef, u64::MAX] {
        let exact = 64.0 - (bits as f64).log2();
        let ours = negative_log2(bits) as f64 / f64::from(2u32).powi(32);
        assert!((ours - exact).abs() < 1e-6, "{bits:#x}: {ours} {exact}");
    }
}

/// Written down: a version that seeds otherwise moves every client of every site.
#[test]
fn seeds_stay_what_they_are() {
    let (none, site) = (Site::default(), Site::new(Some("correct horse battery")));
    assert_eq!([none.seed("web"), site.seed("web"), site.seed("dns")], [298092311, 167191549, 2649238643]);
    let keys = [none.backend_key("web", "b1"), site.backend_key("web", "b1"), site.backend_key("we", "bb1")];
    assert_eq!(keys.into_iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(consistent(&[(keys[0], 2), (keys[1], 1)], 13), [0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1]);
}

#[test]
fn the_fields_of_the_family() {
    use HashField::*;
    let of = |fields: &[HashField], version| key(fields, version).unwrap().to_string();
    assert_eq!(of(&[SourceAddress], IpVersion::V4), "ip saddr");
    assert_eq!(of(&[SourceAddress, SourcePort], IpVersion::V6), "ip6 saddr . th sport");
    assert_eq!(of(&[DestinationAddress, DestinationPort], IpVersion::V4), "ip daddr . th dport");
    let hashed = |fields: &[HashField]| {
        let keys = keys(fields, IpVersion::V4);
        keys.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(hashed(&[SourceAddress]), ["ip saddr"]);
    assert_eq!(hashed(&[SourceMac]), ["ip saddr", "ether saddr"]);
    assert_eq!(hashed(&[DestinationMac, SourcePort]), ["th sport", "ether daddr . th sport"]);
}

proptest! {
    #[test]
    fn every_part_of_an_even_table_is_near_its_share(weights in prop::collection::vec(1u16..200, 1..10), slots in 1..300usize) {
        let table = even(&weights, slots);
        prop_assert_eq!(table.len(), slots);
        let total: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
        for (index, &weight) in (0u32..).zip(&weights) {
            let held = table.iter().filter(|&&one| one == index).count();
            prop_assert!((held * total).abs_diff(slots * usize::from(weight)) < total);
        }
    }

    #[test]
    fn the_order_of_backends_does_not_matter(weights in prop::collection::vec(1u16.., 1..20), slots in 1..200usize) {
        let all = backends("web", &weights);
        let turned: Vec<_> = all.iter().rev().copied().collect();
        prop_assert_eq!(table(&all, slots), table(&turned, slots));
    }
}
