//! The schedule: weights become an order of slots.
//!
//! A packet path that counts slots up, or draws one at random, needs no arithmetic over weights; all of it is done here,
//! once, and so it can be the best order and not the cheapest one: after any number of flows each backend is less than one
//! flow away from its share. A backend of weight 8 beside two of weight 1 serves `a a a a b a a a a c`. (The usual algorithm,
//! nginx's, serves `a a a b a a c a a a`, six in a row around the end of the cycle.)

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Most slots of a schedule before weights are approximated. 4,096 slots are 400 KiB of kernel memory, for one farm.
pub const CYCLE_MAX: usize = 4096;

/// The order of one cycle: indices into `weights`, each as often as its weight, all weights divided by their greatest
/// common divisor. Weights of 0 do not occur.
///
/// A cycle longer than [`CYCLE_MAX`] (or than the number of weights, when these are more) is cut to that length by largest
/// remainders: the share of each is then off by less than 1/4096, and one that deserves less than a slot may have none.
pub fn order(weights: &[u16]) -> Vec<u32> {
    let counts = counts(weights);
    let cycle: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    // Each slot of a backend has a window: the j-th of w in a cycle of n begins at ⌊jn/w⌋ and ends at ⌈(j+1)n/w⌉. Whoever's
    // window ends first goes first; that this always fits is Tijdeman's theorem (The chairman assignment problem, 1980).
    let begin = |index: u32, done: u64| done * cycle / u64::from(counts[index as usize]);
    let end = |index: u32, done: u64| ((done + 1) * cycle).div_ceil(u64::from(counts[index as usize]));
    let mut done = vec![0u64; counts.len()];
    let mut waiting: BinaryHeap<_> =
        (0u32..).zip(&counts).filter(|&(_, &count)| count > 0).map(|(index, _)| Reverse((0, index))).collect();
    let mut open = BinaryHeap::new();
    let mut order = Vec::with_capacity(cycle as usize);
    for now in 0..cycle {
        while let Some(&Reverse((at, index))) = waiting.peek()
            && at <= now
        {
            waiting.pop();
            open.push(Reverse((end(index, done[index as usize]), index)));
        }
        let Reverse((_, index)) = open.pop().expect("as many windows have begun as there were slots before");
        order.push(index);
        let done = &mut done[index as usize];
        *done += 1;
        if *done < u64::from(counts[index as usize]) {
            waiting.push(Reverse((begin(index, *done), index)));
        }
    }
    order
}

/// How often each weight occurs in a cycle.
fn counts(weights: &[u16]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, u32::from(b))).max(1);
    let exact: Vec<u32> = weights.iter().map(|&weight| u32::from(weight) / divisor).collect();
    let total: u64 = exact.iter().map(|&count| u64::from(count)).sum();
    let cycle = CYCLE_MAX.max(exact.iter().filter(|&&count| count > 0).count()) as u64;
    if total <= cycle {
        return exact;
    }
    let mut counts: Vec<u32> = exact.iter().map(|&count| (u64::from(count) * cycle / total) as u32).collect();
    let missing = cycle - counts.iter().map(|&count| u64::from(count)).sum::<u64>();
    let mut by_remainder: Vec<usize> = (0..exact.len()).collect();
    by_remainder.sort_by_key(|&index| std::cmp::Reverse(u64::from(exact[index]) * cycle % total));
    for &index in by_remainder.iter().take(missing as usize) {
        counts[index] += 1;
    }
    counts
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
