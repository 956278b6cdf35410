//! Least connections: how many of a farm's slots each backend gets, from how many flows each one has.
//!
//! The packet path only counts slots up; who owns them is moved, a few at a time, by whoever counts flows. So a new flow
//! pays nothing for the choice, and a supervisor that is gone leaves a schedule that still serves everybody.
//!
//! The control loop has one gain and one delay. A backend with a share `1 + d` of the mean load is meant to get
//! `1 / (1 + d)³` of what its weight deserves, at most twice (`FLOOD`), and each step goes a quarter of the way, in the
//! logarithm. The flows of a backend follow its share with the time `τ` that flows live, so the loop has the
//! damping `(4T + τ) / (2 √(4 · 4Tτ))` for a period `T`, least at `τ = 4T`, where it is 1/2: it settles whatever `τ` is, which
//! is not known here. Controllers that add up the error settle without a rest, but swing for minutes when flows live for
//! minutes. The rest is small: backends that need twice as long for a flow have 1.19 times as many of them, not 2.

/// Fewest slots of a steered farm.
const SLOTS_LEAST: u32 = 64;
/// Slots for each backend: a step of a sixteenth of its share. A change of the schedule writes as many elements as slots move.
const SLOTS_EACH: u32 = 16;
/// Most slots, unless there are more backends: 400 KiB of kernel memory.
const SLOTS_MOST: u32 = 4096;
/// At most so many times what its weight deserves does a backend get, however few flows it has: one that has just come back has
/// cold caches, and the one with the fewest flows is often the one that fails all of them at once.
const FLOOD: f64 = 2.0;
/// At least this part of what its weight deserves does it get, before all parts are made to add up to the whole.
const DROUGHT: f64 = 1.0 / 16.0;
/// How far a step goes towards the goal.
const STEP: f64 = 0.25;

/// A backend that takes new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Its share among the others; not 0.
    pub weight: u16,
    /// Its flows now.
    pub flows: u64,
    /// Its slots now.
    pub slots: u32,
}

/// How many slots a steered farm has that has so many backends of one family, whatever their states: while these change, the
/// rule that counts slots stays as it is. A power of two.
pub fn slot_count(backends: usize) -> u32 {
    let backends = u32::try_from(backends).unwrap_or(u32::MAX).clamp(1, 1 << 15);
    let wanted = (backends * SLOTS_EACH).next_power_of_two();
    wanted.clamp(SLOTS_LEAST, SLOTS_MOST).max(backends.next_power_of_two())
}

/// The slots of each backend where some have had theirs (`known`, none of them 0 in all) and others are new: these get
/// what their weights deserve, and the others keep their proportions in the rest.
pub fn settle(weights: &[u16], known: &[Option<u32>], slots: u32) -> Vec<u32> {
    let weight = |of: &dyn Fn(&Option<u32>) -> bool| -> f64 {
        weights.iter().zip(known).filter(|(_, known)| of(known)).map(|(&weight, _)| f64::from(weight)).sum()
    };
    let (all, theirs) = (weight(&|_| true), weight(&Option::is_some));
    let held: f64 = known.iter().flatten().map(|&slots| f64::from(slots)).sum();
    let wanted = weights.iter().zip(known).map(|(&weight, known)| match known {
        Some(known) if held > 0.0 => f64::from(*known) / held * theirs / all,
        _ => f64::from(weight) / all,
    });
    apportion(&wanted.collect::<Vec<f64>>(), slots)
}

/// The next slots of each backend. Their sum stays.
pub fn steer(lanes: &[Lane]) -> Vec<u32> {
    let slots: u32 = lanes.iter().map(|lane| lane.slots).sum();
    let goals = goals(lanes);
    let next = lanes.iter().zip(&goals).map(|(lane, goal)| {
        let (now, goal) = (f64::from(lane.slots), goal * f64::from(slots));
        // Half a slot stands for none, whose logarithm is not a number.
        let next = now.max(0.5).powf(1.0 - STEP) * goal.max(0.5).powf(STEP);
        // What is less than a slot away from its goal rests. What is more moves by one at least, or few slots would rest
        // far from it.
        if (goal - now).abs() < 1.0 {
            now
        } else if (next - now).abs() < 1.0 {
            now + (goal - now).signum()
        } else {
            next
        }
    });
    apportion(&next.collect::<Vec<f64>>(), slots)
}

/// What part of the new flows each backend should get, by its flows. The sum is 1.
fn goals(lanes: &[Lane]) -> Vec<f64> {
    let weights: f64 = lanes.iter().map(|lane| f64::from(lane.weight)).sum();
    let flows: f64 = lanes.iter().map(|lane| lane.flows as f64).sum();
    // One more flow for each backend, by weight: with hardly any flows their number says little.
    let unit = lanes.len() as f64 / weights;
    let mean = flows / weights + unit;
    let fair = |lane: &Lane| f64::from(lane.weight) / weights;
    let mut goals: Vec<f64> = lanes
        .iter()
        .map(|lane| {
            let load = lane.flows as f64 / f64::from(lane.weight) + unit;
            fair(lane) * (mean / load).powi(3).max(DROUGHT)
        })
        .collect();
    let mut flooded = vec![false; lanes.len()];
    loop {
        // What those at the limit leave is divided among the others in their proportions.
        let sum = |which: bool| -> f64 {
            goals.iter().zip(&flooded).filter(|(_, flooded)| **flooded == which).map(|(goal, _)| goal).sum()
        };
        let scale = (1.0 - sum(true)) / sum(false);
        let mut more = false;
        for ((lane, goal), flooded) in lanes.iter().zip(&mut goals).zip(&mut flooded).filter(|(_, flooded)| !**flooded)
        {
            *goal *= scale;
            if *goal > FLOOD * fair(lane) {
                (*goal, *flooded, more) = (FLOOD * fair(lane), true, true);
            }
        }
        if !more || flooded.iter().all(|flooded| *flooded) {
            return goals;
        }
    }
}

/// Whole slots in these proportions, by largest remainders. Of equal ones the first has it.
fn apportion(wanted: &[f64], slots: u32) -> Vec<u32> {
    let sum: f64 = wanted.iter().sum();
    let exact: Vec<f64> = wanted.iter().map(|wanted| wanted / sum * f64::from(slots)).collect();
    let mut counts: Vec<u32> = exact.iter().map(|exact| exact.floor() as u32).collect();
    let missing = slots.saturating_sub(counts.iter().sum());
    let mut by_remainder: Vec<usize> = (0..exact.len()).collect();
    by_remainder.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    for &index in by_remainder.iter().cycle().take(missing as usize) {
        counts[index] += 1;
    }
    counts
}

/// Slot → index of the backend, for slots in a power of two. Each backend has a piece of the range, and slots are read
/// from it in the order of their reversed bits: so its slots lie far apart whatever their number is, and those of its neighbours
/// that come or go are few.
pub fn order(counts: &[u32]) -> Vec<u32> {
    let slots: u32 = counts.iter().sum();
    if slots < 2 {
        return counts.iter().position(|&count| count > 0).map(|index| index as u32).into_iter().collect();
    }
    let pieces: Vec<u32> =
        (0u32..).zip(counts).flat_map(|(index, &count)| std::iter::repeat_n(index, count as usize)).collect();
    let bits = slots.ilog2();
    (0..slots).map(|slot| pieces[(slot.reverse_bits() >> (u32::BITS - bits)) as usize]).collect()
}

#[cfg(test)]
mod tests;
