// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions per second, from totals that are looked at once a second.

use std::collections::HashMap;

/// Of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// In the last second.
    pub now: u64,
    /// The most there was.
    pub max: u64,
}

/// Of all rows. *Who writes it*: the API, once a second.
#[derive(Debug, Default)]
pub struct Rates(HashMap<(Box<str>, Box<str>), (u64, Rate)>);

impl Rates {
    /// The rate of a row.
    pub fn of(&self, proxy: &str, server: &str) -> Rate {
        let key = (proxy.into(), server.into());
        self.0.get(&key).map_or_else(Rate::default, |(_, rate)| *rate)
    }

    /// A second has passed, and these are the totals. Rows that are not among them are forgotten.
    pub fn tick(&mut self, totals: impl Iterator<Item = ((Box<str>, Box<str>), u64)>) {
        let before = std::mem::take(&mut self.0);
        self.0 = totals
            .map(|(key, total)| {
                // What is new has begun within this second.
                let (last, rate) = before.get(&key).copied().unwrap_or_default();
                let now = total.saturating_sub(last);
                let max = rate.max.max(now);
                (key, (total, Rate { now, max }))
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_added_in_a_second() {
        let mut rates = Rates::default();
        let key = || (Box::from("a"), Box::from("b"));
        for (total, now, max) in [(5, 5, 5), (25, 20, 20), (25, 0, 20), (26, 1, 20)] {
            rates.tick([(key(), total)].into_iter());
            assert_eq!(rates.of("a", "b"), Rate { now, max });
        }
        rates.tick(std::iter::empty());
        assert_eq!(rates.of("a", "b"), Rate::default());
    }
}
