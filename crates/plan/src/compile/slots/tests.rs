use super::*;
use proptest::prelude::*;

fn letters(weights: &[u16]) -> String {
    order(weights).into_iter().map(|index| (b'a' + index as u8) as char).collect()
}

fn occurrences(order: &[u32], weights: usize) -> Vec<usize> {
    let mut counts = vec![0; weights];
    for &index in order {
        counts[index as usize] += 1;
    }
    counts
}

/// The longest uninterrupted run of one index, around the end of the cycle.
fn longest_run(order: &[u32], index: u32) -> usize {
    let twice = order.iter().chain(order);
    let (mut run, mut longest) = (0, 0);
    for &other in twice {
        run = if other == index { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest.min(order.len())
}

#[test]
fn is_smooth_by_example() {
    assert_eq!(letters(&[8, 1, 1]), "aaaabaaaac");
    assert_eq!(letters(&[5, 1, 1]), "aaabaac");
    assert_eq!(letters(&[2, 1]), "aab");
    assert_eq!(letters(&[1, 1, 1]), "abc");
    assert_eq!(letters(&[7]), "a");
    assert_eq!(letters(&[]), "");
}

#[test]
fn is_reduced_by_the_greatest_common_divisor() {
    assert_eq!(letters(&[100, 50, 50]), letters(&[2, 1, 1]));
    assert_eq!(order(&[65535, 65535]).len(), 2);
}

#[test]
fn long_cycles_are_cut() {
    let order = order(&[65535, 1]);
    assert_eq!(order.len(), CYCLE_MAX);
    assert_eq!(occurrences(&order, 2), [4096, 0], "1/65536 is nearer to none than to one of 4096");
}

#[test]
fn more_backends_than_a_cycle_have_one_slot_each() {
    let weights = vec![1; CYCLE_MAX + 100];
    assert_eq!(occurrences(&order(&weights), weights.len()), vec![1; weights.len()]);
}

proptest! {
    #[test]
    fn short_cycles_are_exact(weights in prop::collection::vec(1u16..100, 1..30)) {
        let order = order(&weights);
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, u32::from(b)));
        let exact: Vec<usize> = weights.iter().map(|&weight| usize::from(weight) / divisor as usize).collect();
        prop_assert_eq!(occurrences(&order, weights.len()), exact);
    }

    #[test]
    fn long_cycles_are_off_by_less_than_a_slot(weights in prop::collection::vec(1u16.., 1..40)) {
        let order = order(&weights);
        prop_assert!(order.len() <= CYCLE_MAX);
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        for (count, &weight) in occurrences(&order, weights.len()).into_iter().zip(&weights) {
            let share = f64::from(weight) / total;
            prop_assert!((count as f64 / order.len() as f64 - share).abs() < 1.0 / CYCLE_MAX as f64);
        }
    }

    /// After any number of slots, across the ends of cycles too, each backend is less than one away from its share, and
    /// nobody gets more than one more in a row than the others make necessary.
    #[test]
    fn is_smooth(weights in prop::collection::vec(1u16..60, 2..12)) {
        let order = order(&weights);
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, u32::from(b))) as usize;
        let mut served = vec![0; weights.len()];
        for (slots, &index) in (1..).zip(&order) {
            served[index as usize] += 1;
            for (&served, &weight) in served.iter().zip(&weights) {
                let share = usize::from(weight) / divisor * slots;
                prop_assert!((served * order.len()).abs_diff(share) < order.len(), "{:?}", order);
            }
        }
        for (index, &weight) in (0u32..).zip(&weights) {
            let weight = usize::from(weight) / divisor;
            let unavoidable = weight.div_ceil(order.len() - weight);
            prop_assert!(longest_run(&order, index) <= unavoidable + 1, "{:?}", order);
        }
    }
}
