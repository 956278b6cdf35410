use proptest::prelude::*;

use super::*;

/// Backends whose flows live for a while each, under a constant rate of new flows: a model of a farm in which counting and
/// steering happen once a period.
struct Farm {
    weights: Vec<u16>,
    /// How long a flow lives, in periods.
    lifetimes: Vec<f64>,
    flows: Vec<f64>,
    slots: Vec<u32>,
    /// New flows a period.
    rate: f64,
}

impl Farm {
    fn new(weights: &[u16], lifetime: f64, rate: f64) -> Self {
        let slots = settle(weights, &vec![None; weights.len()], slot_count(weights.len()));
        let lifetimes = vec![lifetime; weights.len()];
        Self { weights: weights.to_vec(), lifetimes, flows: vec![0.0; weights.len()], slots, rate }
    }

    fn period(&mut self) {
        let lanes: Vec<Lane> = (0..self.weights.len())
            .map(|at| Lane { weight: self.weights[at], flows: self.flows[at].round() as u64, slots: self.slots[at] })
            .collect();
        self.slots = steer(&lanes);
        let sum: u32 = self.slots.iter().sum();
        for (at, flows) in self.flows.iter_mut().enumerate() {
            let new = self.rate * f64::from(self.slots[at]) / f64::from(sum);
            let left = (-1.0 / self.lifetimes[at]).exp();
            *flows = *flows * left + new * self.lifetimes[at] * (1.0 - left);
        }
    }

    /// How far the flows for each weight are from their mean at most, as a part of it.
    fn spread(&self) -> f64 {
        let load = |at: usize| self.flows[at] / f64::from(self.weights[at]);
        let weights: f64 = self.weights.iter().map(|&weight| f64::from(weight)).sum();
        let mean = self.flows.iter().sum::<f64>() / weights;
        (0..self.flows.len()).map(|at| (load(at) / mean - 1.0).abs()).fold(0.0, f64::max)
    }
}

fn counts(order: &[u32], backends: usize) -> Vec<u32> {
    let mut counts = vec![0; backends];
    order.iter().for_each(|&index| counts[index as usize] += 1);
    counts
}

#[test]
fn equal_loads_keep_what_weights_deserve() {
    for weights in [&[1, 1, 1][..], &[5, 2, 1], &[7], &[100, 1, 50, 3]] {
        let mut farm = Farm::new(weights, 10.0, 1000.0);
        let before = farm.slots.clone();
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        farm.flows = weights.iter().map(|&weight| 10_000.0 * f64::from(weight) / total).collect();
        farm.period();
        let moved: u32 = before.iter().zip(&farm.slots).map(|(a, b)| a.abs_diff(*b)).sum();
        assert!(moved <= 2, "{weights:?}: {before:?} became {:?}", farm.slots);
    }
}

#[test]
fn unequal_loads_even_out_whatever_flows_live_and_do_not_swing() {
    for lifetime in [0.1, 1.0, 2.0, 4.0, 10.0, 100.0, 1000.0] {
        let mut farm = Farm::new(&[1, 1, 1, 1], lifetime, 4000.0);
        // As if one had been away: the others have all flows.
        let all = 4000.0 * lifetime;
        farm.flows = vec![all / 3.0, all / 3.0, all / 3.0, 0.0];
        // Nothing evens out sooner than flows come and go.
        let settled = 20 + (4.0 * lifetime) as usize;
        for _ in 0..settled {
            farm.period();
        }
        assert!(farm.spread() < 0.1, "after {settled} periods, lifetime {lifetime}: {:?}", farm.flows);
        for _ in 0..200 {
            farm.period();
            assert!(farm.spread() < 0.1, "it swings, lifetime {lifetime}: {:?}", farm.flows);
        }
    }
}

#[test]
fn the_overshoot_is_bounded() {
    for lifetime in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0] {
        let mut farm = Farm::new(&[1, 1], lifetime, 2000.0);
        farm.flows = vec![2000.0 * lifetime, 0.0];
        let mut most = 0.0_f64;
        for _ in 0..300 {
            farm.period();
            most = most.max(farm.flows[1] / (farm.flows[0] + farm.flows[1]));
        }
        assert!(most < 0.7, "lifetime {lifetime}: the empty one had {most} of all");
    }
}

#[test]
fn a_slow_backend_gets_fewer_new_flows() {
    // Four times as long for each flow.
    let mut farm = Farm::new(&[1, 1, 1], 0.5, 3000.0);
    farm.lifetimes[0] = 2.0;
    for _ in 0..100 {
        farm.period();
    }
    let ratio = farm.flows[0] / farm.flows[1];
    assert!((1.2..1.6).contains(&ratio), "4 to the power of 1/4 is 1.41: {ratio}, {:?}", farm.slots);
    let before = farm.slots.clone();
    for _ in 0..20 {
        farm.period();
        assert!(farm.slots.iter().zip(&before).all(|(a, b)| a.abs_diff(*b) <= 2), "{before:?}, {:?}", farm.slots);
    }
}

#[test]
fn a_backend_that_comes_back_is_not_flooded() {
    let mut farm = Farm::new(&[1, 1, 1, 1], 1000.0, 400.0);
    farm.flows = vec![1e5, 1e5, 1e5, 0.0];
    let sum: u32 = farm.slots.iter().sum();
    for _ in 0..50 {
        farm.period();
        assert!(farm.slots[3] * 4 <= sum * 2 + 8, "more than twice its share: {:?}", farm.slots);
    }
    assert!(farm.slots[3] * 4 >= sum * 3 / 2, "it has yet to catch up: {:?}", farm.slots);
}

#[test]
fn a_steered_schedule_spreads_each_backend_evenly() {
    let order = order(&[32, 16, 8, 8]);
    assert_eq!(counts(&order, 4), [32, 16, 8, 8]);
    let gaps = |index: u32| {
        let at: Vec<usize> = (0..64).filter(|&slot| order[slot] == index).collect();
        at.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<usize>>()
    };
    assert!(gaps(0).iter().all(|&gap| gap == 2), "{order:?}");
    assert!(gaps(1).iter().all(|&gap| gap == 4), "{order:?}");
    assert!(gaps(3).iter().all(|&gap| gap == 8), "{order:?}");
}

#[test]
fn the_number_of_slots_follows_the_number_of_backends() {
    assert_eq!(
        [0, 1, 4, 5, 8, 100, 256, 257, 5000, 40_000].map(slot_count),
        [64, 64, 64, 128, 128, 2048, 4096, 4096, 8192, 32_768]
    );
}

fn lanes() -> impl Strategy<Value = Vec<Lane>> {
    let lane = (1..=u16::MAX, prop_oneof![0..20u64, 0..5_000_000u64], 0..200u32);
    prop::collection::vec(lane, 1..40).prop_map(|lanes| {
        let slots = slot_count(lanes.len());
        let known: Vec<Option<u32>> = lanes.iter().map(|&(_, _, slots)| Some(slots)).collect();
        let weights: Vec<u16> = lanes.iter().map(|&(weight, _, _)| weight).collect();
        let settled = settle(&weights, &known, slots);
        let lanes = lanes.iter().zip(settled);
        lanes.map(|(&(weight, flows, _), slots)| Lane { weight, flows, slots }).collect()
    })
}

proptest! {
    #[test]
    fn no_slot_is_lost_or_made(lanes in lanes()) {
        let slots = slot_count(lanes.len());
        let next = steer(&lanes);
        prop_assert_eq!(next.iter().sum::<u32>(), slots);
        prop_assert_eq!(counts(&order(&next), lanes.len()), next);
    }

    #[test]
    fn what_is_known_is_kept_as_it_is(lanes in lanes()) {
        let weights: Vec<u16> = lanes.iter().map(|lane| lane.weight).collect();
        let known: Vec<Option<u32>> = lanes.iter().map(|lane| Some(lane.slots)).collect();
        let settled = settle(&weights, &known, slot_count(lanes.len()));
        prop_assert_eq!(settled, lanes.iter().map(|lane| lane.slots).collect::<Vec<u32>>());
    }

    #[test]
    fn of_two_alike_the_one_with_fewer_flows_gets_no_fewer_slots(weight in 1..=u16::MAX, a in 0..100_000u64, b in 0..100_000u64) {
        let lane = |flows| Lane { weight, flows, slots: 32 };
        let next = steer(&[lane(a.min(b)), lane(a.max(b))]);
        prop_assert!(next[0] >= next[1], "{:?}", next);
        prop_assert!(next[1] > 0, "nobody is starved in one step");
    }

    #[test]
    fn moving_one_slot_writes_few(lanes in lanes()) {
        let before: Vec<u32> = lanes.iter().map(|lane| lane.slots).collect();
        let (Some(from), to) = (before.iter().position(|&slots| slots > 0), before.len() - 1) else { return Ok(()) };
        let mut after = before.clone();
        after[from] -= 1;
        after[to] += 1;
        let moved = order(&before).iter().zip(order(&after)).filter(|(a, b)| **a != *b).count();
        prop_assert!(moved <= to - from, "a boundary between two moves by one slot: {} of {}", moved, before.len());
    }
}
