// SPDX-License-Identifier: MIT OR Apache-2.0
//! Medians, and how far they can be trusted.

/// Resamples of the bootstrap: the interval's ends then move by less than a twentieth of its width.
const RESAMPLES: usize = 2000;
/// Share of the resampled medians inside the interval.
const CONFIDENCE: f64 = 0.95;
/// The same figures give the same interval.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// A figure with the interval that it lies in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// Whether a value cannot be told from this one.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The middle one, or the mean of the two in the middle; none of nothing.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Median with its bootstrap interval.
pub fn estimate(samples: &[f64]) -> Option<Estimate> {
    bootstrap(&[samples], |resampled| median(&resampled[0]))
}

/// `f` of the medians of two sets, for instance their ratio or difference; each set is resampled on its own.
pub fn of_two(first: &[f64], second: &[f64], f: impl Fn(f64, f64) -> f64) -> Option<Estimate> {
    bootstrap(&[first, second], |sets| {
        Some(f(median(&sets[0])?, median(&sets[1])?))
    })
}

fn bootstrap(sets: &[&[f64]], statistic: impl Fn(&[Vec<f64>]) -> Option<f64>) -> Option<Estimate> {
    let originals: Vec<Vec<f64>> = sets.iter().map(|set| set.to_vec()).collect();
    let value = statistic(&originals)?;
    let mut random = SEED;
    let mut found = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let draw = |set: &&[f64]| {
            (0..set.len())
                .map(|_| set[below(&mut random, set.len())])
                .collect()
        };
        let resampled: Vec<Vec<f64>> = sets.iter().map(draw).collect();
        found.extend(statistic(&resampled));
    }
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found[((found.len() - 1) as f64 * share).round() as usize];
    let outside = (1.0 - CONFIDENCE) / 2.0;
    Some(Estimate {
        value,
        low: at(outside),
        high: at(1.0 - outside),
    })
}

/// Another order.
pub fn shuffle<T>(items: &mut [T], random: &mut u64) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(random, last + 1));
    }
}

/// A number below `limit`, by Marsaglia's xorshift64.
fn below(random: &mut u64, limit: usize) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random % limit as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_interval_holds_the_median_and_grows_with_the_spread() {
        let quiet = estimate(&[10.0, 10.1, 9.9, 10.0, 10.05]).unwrap();
        let noisy = estimate(&[10.0, 14.0, 6.0, 12.0, 8.0]).unwrap();
        assert!(quiet.contains(10.0) && noisy.contains(10.0));
        assert!(noisy.high - noisy.low > 10.0 * (quiet.high - quiet.low));
        assert_eq!(
            estimate(&[5.0]).unwrap(),
            Estimate {
                value: 5.0,
                low: 5.0,
                high: 5.0
            }
        );
    }

    #[test]
    fn equal_sets_have_a_ratio_that_cannot_be_told_from_one() {
        let (a, b) = ([10.0, 11.0, 9.0, 10.5, 9.5], [10.2, 9.8, 10.4, 9.4, 10.1]);
        assert!(of_two(&a, &b, |a, b| a / b).unwrap().contains(1.0));
        let twice: Vec<f64> = b.iter().map(|b| b * 2.0).collect();
        assert!(!of_two(&twice, &a, |a, b| a / b).unwrap().contains(1.0));
    }
}
