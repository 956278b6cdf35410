//! Numbers out of many numbers.

/// The middle of a distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// A quarter of the values are below.
    pub low: f64,
    /// Half of them are below.
    pub median: f64,
    /// A quarter of them are above.
    pub high: f64,
}

impl Spread {
    /// Of any values in any order; `None` of no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&values, share);
        Some(Self { low: at(0.25)?, median: at(0.5)?, high: at(0.75)? })
    }
}

/// Below which value this share of the sorted values lies; between two values in proportion.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// Pearson's χ² of counts against the shares that the weights give them; the weights are not all 0.
pub fn chi_square(counts: &[u64], weights: &[u32]) -> f64 {
    let (total, weight) = (counts.iter().sum::<u64>() as f64, weights.iter().sum::<u32>() as f64);
    let of_one = |(&count, &share): (&u64, &u32)| {
        let expected = total * f64::from(share) / weight;
        (count as f64 - expected).powi(2) / expected
    };
    counts.iter().zip(weights).map(of_one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_values() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0, 5.0]), Some(Spread { low: 2.0, median: 3.0, high: 4.0 }));
        assert_eq!(Spread::of([1.0, 2.0]), Some(Spread { low: 1.25, median: 1.5, high: 1.75 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { low: 7.0, median: 7.0, high: 7.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn chi_square_of_a_die() {
        // 60 throws: expected are 10 each.
        assert_eq!(chi_square(&[5, 8, 9, 8, 10, 20], &[1; 6]), 13.4);
        assert_eq!(chi_square(&[30, 10], &[3, 1]), 0.0);
    }
}
