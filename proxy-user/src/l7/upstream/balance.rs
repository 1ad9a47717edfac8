// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which task is next. Pure: what is known of the tasks, a cursor, a random number and a key are arguments.
//!
//! All methods look at each task at most a few times and allocate nothing. A task whose share is still growing
//! (slow start) is passed over as often as its share is short of a whole one, or counts as busier than it is.

use std::cell::Cell;

/// How requests are shared among the tasks of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// To the one with the fewest requests in flight.
    LeastRequests,
    /// To the less busy of two that were picked at random: nearly as good as the least, without looking at all.
    TwoChoices,
    /// The same key to the same task, by the highest random weight: a task that comes or goes moves only its own share.
    Hash(HashKey),
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The client's address.
    Client,
    /// The value of a field; requests without it go by the client's address.
    Header(hyper::header::HeaderName),
}

/// What the choice looks at.
pub trait Candidate {
    /// May get requests.
    fn is_usable(&self) -> bool;
    /// Requests in flight.
    fn load(&self) -> u32;
    /// Its share in percent of a whole one, at least 1.
    fn share(&self) -> u32;
    /// What it is known by, evenly distributed.
    fn token(&self) -> u64;
}

/// A source of random numbers.
pub trait Random {
    /// The next one.
    fn next(&self) -> u32;
}

/// The task for a request, or none if none is usable.
pub fn choose<'a, C: Candidate>(
    balance: &Balance,
    all: &'a [C],
    cursor: &Cell<usize>,
    random: &impl Random,
    key: u64,
) -> Option<&'a C> {
    match balance {
        // Most services have one task.
        _ if all.len() == 1 => all.first().filter(|task| task.is_usable()),
        Balance::RoundRobin => in_turn(all, cursor, random),
        Balance::LeastRequests => least(all, cursor),
        Balance::TwoChoices => two_choices(all, cursor, random),
        Balance::Hash(_) => all
            .iter()
            .filter(|task| task.is_usable())
            .max_by_key(|task| mix(task.token() ^ key)),
    }
}

fn in_turn<'a, C: Candidate>(all: &'a [C], cursor: &Cell<usize>, random: &impl Random) -> Option<&'a C> {
    let mut passed_over = None;
    for _ in 0..all.len() {
        let at = cursor.get() % all.len();
        cursor.set(at + 1);
        let task = &all[at];
        if !task.is_usable() {
            continue;
        }
        let share = task.share();
        if share >= 100 || random.next() % 100 < share {
            return Some(task);
        }
        passed_over = Some(task);
    }
    passed_over
}

/// Begins at another task each time, so that equals take turns.
fn least<'a, C: Candidate>(all: &'a [C], cursor: &Cell<usize>) -> Option<&'a C> {
    let from = cursor.get() % all.len().max(1);
    cursor.set(from + 1);
    let (before, after) = all.split_at(from);
    after
        .iter()
        .chain(before)
        .filter(|task| task.is_usable())
        .min_by_key(|task| cost(*task))
}

fn two_choices<'a, C: Candidate>(all: &'a [C], cursor: &Cell<usize>, random: &impl Random) -> Option<&'a C> {
    let len = all.len();
    if len == 0 {
        return None;
    }
    let first = random.next() as usize % len;
    // Another one, each with the same chance.
    let second = (first + 1 + random.next() as usize % (len - 1).max(1)) % len;
    let picked = [&all[first], &all[second]];
    picked
        .into_iter()
        .filter(|task| task.is_usable())
        .min_by_key(|task| cost(*task))
        .or_else(|| in_turn(all, cursor, random))
}

/// Requests in flight with the new one, as if the task had its whole share.
fn cost<C: Candidate>(task: &C) -> u64 {
    (u64::from(task.load()) + 1) * 100 / u64::from(task.share().max(1))
}

/// Spreads the bits of a number (the finisher of SplitMix64).
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// A key of some bytes (FNV-1a, spread).
pub fn key(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        usable: bool,
        load: Cell<u32>,
        share: u32,
        token: u64,
    }

    impl Candidate for Fake {
        fn is_usable(&self) -> bool {
            self.usable
        }
        fn load(&self) -> u32 {
            self.load.get()
        }
        fn share(&self) -> u32 {
            self.share
        }
        fn token(&self) -> u64 {
            self.token
        }
    }

    struct Xorshift(Cell<u32>);

    impl Random for Xorshift {
        fn next(&self) -> u32 {
            let mut bits = self.0.get();
            bits ^= bits << 13;
            bits ^= bits >> 17;
            bits ^= bits << 5;
            self.0.set(bits);
            bits
        }
    }

    fn fakes(count: u64) -> Vec<Fake> {
        (0..count)
            .map(|n| Fake {
                usable: true,
                load: Cell::new(0),
                share: 100,
                token: mix(n + 1),
            })
            .collect()
    }

    /// How often each was chosen in a thousand requests that never end.
    fn shares(balance: &Balance, all: &[Fake]) -> Vec<u32> {
        let (cursor, random) = (Cell::new(0), Xorshift(Cell::new(7)));
        let before: Vec<u32> = all.iter().map(|task| task.load.get()).collect();
        for request in 0..1000 {
            let task = choose(balance, all, &cursor, &random, mix(request)).unwrap();
            assert!(task.usable);
            task.load.set(task.load.get() + 1);
        }
        all.iter()
            .zip(before)
            .map(|(task, before)| task.load.get() - before)
            .collect()
    }

    const ALL: [Balance; 4] = [
        Balance::RoundRobin,
        Balance::LeastRequests,
        Balance::TwoChoices,
        Balance::Hash(HashKey::Client),
    ];

    #[test]
    fn every_method_uses_every_task_and_no_unusable_one() {
        for balance in &ALL {
            let mut all = fakes(5);
            all[2].usable = false;
            let shares = shares(balance, &all);
            assert_eq!(shares[2], 0, "{balance:?}");
            for at in [0, 1, 3, 4] {
                assert!((150..=350).contains(&shares[at]), "{balance:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn nothing_is_chosen_where_nothing_is_usable() {
        for balance in &ALL {
            for count in [0, 1, 3] {
                let mut all = fakes(count);
                all.iter_mut().for_each(|task| task.usable = false);
                let (cursor, random) = (Cell::new(0), Xorshift(Cell::new(7)));
                assert!(
                    choose(balance, &all, &cursor, &random, 1).is_none(),
                    "{balance:?} {count}"
                );
            }
        }
    }

    #[test]
    fn turns_are_exact_and_a_busy_task_gets_less() {
        assert_eq!(shares(&Balance::RoundRobin, &fakes(5)), [200; 5]);
        for balance in [Balance::LeastRequests, Balance::TwoChoices] {
            let all = fakes(4);
            all[1].load.set(10_000);
            let shares = shares(&balance, &all);
            assert!(shares[1] <= 100, "{balance:?}: {shares:?}");
        }
    }

    #[test]
    fn a_young_task_gets_its_smaller_share() {
        for balance in [Balance::RoundRobin, Balance::LeastRequests] {
            let mut all = fakes(5);
            all[0].share = 20;
            let shares = shares(&balance, &all);
            // A fifth of a whole share: 1000 / 4.2 × 0.2 ≈ 48.
            assert!((25..=80).contains(&shares[0]), "{balance:?}: {shares:?}");
        }
    }

    #[test]
    fn a_task_that_goes_moves_only_its_own_keys() {
        let balance = Balance::Hash(HashKey::Client);
        let all = fakes(10);
        let mut fewer = fakes(10);
        let gone = fewer.remove(4).token;
        let (cursor, random) = (Cell::new(0), Xorshift(Cell::new(7)));
        let mut moved = 0;
        for number in 0..1000u64 {
            let key = key(&number.to_be_bytes());
            let before = choose(&balance, &all, &cursor, &random, key).unwrap().token;
            let after = choose(&balance, &fewer, &cursor, &random, key).unwrap().token;
            assert!(before == after || before == gone);
            moved += u32::from(before != after);
        }
        assert!((50..=150).contains(&moved), "{moved}");
    }
}
