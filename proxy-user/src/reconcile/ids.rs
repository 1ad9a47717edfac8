// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which numbers of frontends are taken: a bit each, so that all of them are copied and searched in a moment.

use proxy_ebpf::abi::limits::FRONTENDS_MAX;

use super::datapath::Realized;

/// A set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids(Vec<u64>);

impl Ids {
    /// Those of all frontends in the kernel.
    pub fn of(realized: &Realized) -> Self {
        let mut ids = Self::default();
        // Nobody gives a greater one; maps can be edited.
        let given = realized
            .frontends
            .values()
            .filter(|frontend| frontend.id < FRONTENDS_MAX);
        for frontend in given {
            ids.insert(frontend.id);
        }
        ids
    }

    /// Takes a number; false if it was taken.
    pub fn insert(&mut self, id: u32) -> bool {
        let (word, bit) = place(id);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let free = self.0[word] & bit == 0;
        self.0[word] |= bit;
        free
    }

    /// Gives a number back.
    pub fn remove(&mut self, id: u32) {
        let (word, bit) = place(id);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Whether a number is taken.
    pub fn contains(&self, id: u32) -> bool {
        let (word, bit) = place(id);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The least number that is not taken.
    pub fn first_free(&self) -> u32 {
        let full = self.0.iter().take_while(|word| **word == u64::MAX).count();
        let bits = self.0.get(full).map_or(0, |word| word.trailing_ones());
        full as u32 * u64::BITS + bits
    }
}

fn place(id: u32) -> (usize, u64) {
    ((id / u64::BITS) as usize, 1 << (id % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_free_number_is_found_also_between_others() {
        let mut ids = Ids::default();
        assert_eq!(ids.first_free(), 0);
        for id in 0..200 {
            assert_eq!(ids.first_free(), id);
            assert!(ids.insert(id) && !ids.insert(id));
        }
        for id in [131, 64, 3] {
            ids.remove(id);
            assert_eq!((ids.first_free(), ids.contains(id)), (id, false));
        }
        ids.remove(100_000);
        assert!(!ids.contains(100_000) && ids.insert(100_000) && ids.contains(100_000));
    }
}
