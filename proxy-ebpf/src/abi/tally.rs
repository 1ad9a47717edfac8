// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is counted of each backend: one word, so that a new flow costs one atomic addition and a lost race costs
//! neither half anything.
//!
//! The low half is the number of open flows, signed; the high half how many were ever opened. Changes are added as
//! whole words: what the low half borrows when it goes below 0, [`Tally::of`] gives back.

/// A connection whose end nobody will see: a socket that was given a backend.
pub const OPENED: u64 = 1 << 32;
/// A flow of a published port, which is open until [`ENDED`].
pub const FLOW: u64 = OPENED + 1;
/// One open flow less.
pub const ENDED: u64 = u64::MAX;

/// A word, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Flows and connections that were given this backend; begins again at 0 after 2^32.
    pub opened: u32,
    /// Flows that are open. Below 0 for a moment when two CPUs see the end of one.
    pub open: i32,
}

impl Tally {
    /// Reads a word.
    pub const fn of(word: u64) -> Tally {
        let open = word as u32 as i32;
        Tally {
            opened: (word.wrapping_sub(open as i64 as u64) >> 32) as u32,
            open,
        }
    }
}

/// What has to be added to a word so that it says 0 opened: for the next backend that gets its number.
pub const fn forget_opened(word: u64) -> u64 {
    (Tally::of(word).opened as u64).wrapping_neg() << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_count_for_themselves() {
        let changes = |list: &[u64]| Tally::of(list.iter().fold(0, |word: u64, n| word.wrapping_add(*n)));
        let says = |opened, open| Tally { opened, open };
        assert_eq!(changes(&[FLOW, FLOW, ENDED]), says(2, 1));
        assert_eq!(changes(&[OPENED, FLOW]), says(2, 1));
        assert_eq!(changes(&[FLOW, ENDED, ENDED]), says(1, -1), "counted out twice");
        assert_eq!(changes(&[FLOW, ENDED, ENDED, FLOW, FLOW]), says(3, 1));
        assert_eq!(changes(&[ENDED]), says(0, -1));
        assert_eq!(Tally::of(u64::from(u32::MAX) << 32 | 5).opened, u32::MAX);
    }

    #[test]
    fn what_was_opened_is_forgotten_and_what_is_open_is_not() {
        for word in [
            0,
            FLOW * 7,
            FLOW * 7 + OPENED * 9,
            ENDED,
            FLOW.wrapping_add(ENDED.wrapping_mul(2)),
        ] {
            let after = Tally::of(word.wrapping_add(forget_opened(word)));
            assert_eq!(
                after,
                Tally {
                    opened: 0,
                    ..Tally::of(word)
                },
                "{word:x}"
            );
        }
    }
}
