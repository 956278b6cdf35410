//! The schedule: weights become an order of slots.
//!
//! A packet path that counts slots up, or draws one at random, needs no arithmetic over weights; all of it is done here,
//! once. The order is smooth (nginx's algorithm): a backend of weight 5 beside two of weight 1 serves `a a b a c a a`, never
//! five times in a row.

/// Most slots of a schedule before weights are approximated. 4,096 slots are 400 KiB of kernel memory, for one farm.
pub const CYCLE_MAX: usize = 4096;

/// The order of one cycle: indices into `weights`, each as often as its weight, all weights divided by their greatest
/// common divisor. Weights of 0 do not occur.
///
/// A cycle longer than [`CYCLE_MAX`] (or than the number of weights, when these are more) is cut to that length by largest
/// remainders: the share of each is then off by less than 1/4096, and one that deserves less than a slot may have none.
pub fn order(weights: &[u16]) -> Vec<u32> {
    let counts = counts(weights);
    let total: i64 = counts.iter().map(|&count| i64::from(count)).sum();
    if counts.iter().all(|&count| count <= 1) {
        return (0u32..).zip(&counts).filter(|&(_, &count)| count == 1).map(|(index, _)| index).collect();
    }
    let mut current = vec![0i64; counts.len()];
    let mut order = Vec::with_capacity(total as usize);
    for _ in 0..total {
        let mut best = 0;
        for (index, &count) in counts.iter().enumerate() {
            current[index] += i64::from(count);
            if current[index] > current[best] {
                best = index;
            }
        }
        current[best] -= total;
        order.push(best as u32);
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
