// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables that spread flows over the backends of a frontend. Pure.
//!
//! A table names backends by their place in a list. Two kinds: the turns of a weighted round, and Maglev's hash table
//! (Eisenbud et al. 2016, section 3.4). The second must be the same on every node: it depends on the backends'
//! identities and weights only, not on their order, and not on what this node calls them.

use proxy_ebpf::{abi::limits::TABLE_ENTRIES_MAX, datapath::hash::mix2};

use super::desired::Ident;

/// Sizes of hash tables: primes, each four times the one before. A backend of average weight has at least
/// [`SHARE`] entries, so that shares are right to about a hundredth, until the largest size is reached.
const SIZES: [u32; 4] = [1_021, 4_093, 16_381, TABLE_ENTRIES_MAX];
/// Least entries of an average backend.
const SHARE: u32 = 100;

/// A backend, as a table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What makes it the same one on every node.
    pub ident: Ident,
    /// Its share, 1 to 255.
    pub weight: u16,
}

/// The turns of a round: each member as often as its weight says, as far from itself as possible (the smooth weighted
/// round robin of nginx).
pub fn turns(members: &[Member]) -> Vec<u32> {
    let divisor = members
        .iter()
        .fold(0, |all, member| gcd(all, member.weight.into()));
    let mut weights: Vec<i64> = members
        .iter()
        .map(|member| i64::from(member.weight) / i64::from(divisor.max(1)))
        .collect();
    // More backends than turns fit: weights become coarser, and nobody's becomes 0.
    let total: i64 = weights.iter().sum();
    if total > i64::from(TABLE_ENTRIES_MAX) {
        let room = i64::from(TABLE_ENTRIES_MAX) - members.len() as i64;
        for weight in &mut weights {
            *weight = 1 + (*weight * room.max(0) / total);
        }
    }
    let total: i64 = weights.iter().sum();
    // A turn per pop of the one that is owed most; ties to the first. O(total log members).
    let mut queue: std::collections::BinaryHeap<Turn> = weights
        .iter()
        .enumerate()
        .map(|(place, weight)| Turn::first(place as u32, *weight, total))
        .collect();
    let mut turns = Vec::with_capacity(total.max(0) as usize);
    while turns.len() < total as usize {
        let Some(turn) = queue.pop() else { break };
        turns.push(turn.place);
        queue.push(turn.next(total));
    }
    turns
}

/// The k-th turn of a member is due in the middle of the k-th of its equal parts of the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    /// Due time times twice the weight.
    due: i64,
    weight: i64,
    place: u32,
}

impl Turn {
    fn first(place: u32, weight: i64, total: i64) -> Turn {
        Turn {
            due: total,
            weight,
            place,
        }
    }

    fn next(self, total: i64) -> Turn {
        Turn {
            due: self.due + 2 * total,
            ..self
        }
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The earlier one is the greater one; due / weight without division.
        let (mine, others) = (
            i128::from(self.due) * i128::from(other.weight),
            i128::from(other.due) * i128::from(self.weight),
        );
        others.cmp(&mine).then(other.place.cmp(&self.place))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Maglev's table: each member walks its own permutation of the places and takes the next free one, in rounds, in the
/// order of identities, as often as its weight says. Empty without members.
pub fn maglev(members: &[Member]) -> Vec<u32> {
    if members.is_empty() {
        return Vec::new();
    }
    let wanted = (members.len() as u32).saturating_mul(SHARE);
    let size = SIZES
        .into_iter()
        .find(|size| *size >= wanted)
        .unwrap_or(TABLE_ENTRIES_MAX);
    let heaviest = members
        .iter()
        .map(|member| u32::from(member.weight))
        .max()
        .unwrap_or(1)
        .max(1);
    let mut walks: Vec<Walk> = members
        .iter()
        .enumerate()
        .map(|(place, member)| Walk::new(place as u32, member, size))
        .collect();
    walks.sort_by_key(|walk| walk.ident);
    const FREE: u32 = u32::MAX;
    let mut table = vec![FREE; size as usize];
    let mut filled = 0;
    loop {
        for walk in &mut walks {
            walk.credit += walk.weight;
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            // Ends: a free place is left, and the walk visits them all, because the size is a prime.
            while table[walk.at as usize] != FREE {
                walk.step(size);
            }
            table[walk.at as usize] = walk.place;
            filled += 1;
            if filled == size {
                return table;
            }
        }
    }
}

struct Walk {
    ident: Ident,
    place: u32,
    weight: u32,
    credit: u32,
    at: u32,
    skip: u32,
}

impl Walk {
    fn new(place: u32, member: &Member, size: u32) -> Walk {
        let (first, second) = match member.ident {
            Ident::Address6(words, port_be) => {
                let [a, b, c, d] = words.map(u32::from_be).map(u64::from);
                // The interface's part and the network's, which for tasks of one network differ in the former.
                let address = (c << 32 | d) ^ (a << 32 | b).rotate_left(17);
                (address, u64::from(u16::from_be(port_be)) | 1 << 16)
            }
            Ident::Address(addr_be, port_be) => {
                (u64::from(u32::from_be(addr_be)), u64::from(u16::from_be(port_be)))
            }
            Ident::Task(task) => (u64::from(task), 1 << 16),
        };
        let hash = mix2(first, second);
        Walk {
            ident: member.ident,
            place,
            weight: u32::from(member.weight.max(1)),
            credit: 0,
            at: (hash % u64::from(size)) as u32,
            skip: (mix2(hash, 1) % u64::from(size - 1)) as u32 + 1,
        }
    }

    fn step(&mut self, size: u32) {
        self.at = (self.at + self.skip) % size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u16]) -> Vec<Member> {
        weights
            .iter()
            .enumerate()
            .map(|(i, weight)| Member {
                ident: Ident::Task(0x1_0005 + i as u32),
                weight: *weight,
            })
            .collect()
    }

    fn shares(table: &[u32], of: usize) -> Vec<usize> {
        (0..of as u32)
            .map(|i| table.iter().filter(|place| **place == i).count())
            .collect()
    }

    #[test]
    fn a_round_has_every_weight_spread_out() {
        assert_eq!(turns(&members(&[1, 1, 1])), [0, 1, 2]);
        assert_eq!(turns(&members(&[2, 2])), [0, 1]);
        let table = turns(&members(&[5, 1, 1]));
        assert_eq!(shares(&table, 3), [5, 1, 1]);
        assert!(!table.windows(4).any(|four| four == [0; 4]), "{table:?}");
        assert_eq!(turns(&members(&[255])), [0]);
        assert!(turns(&[]).is_empty());
    }

    #[test]
    fn a_round_is_no_longer_than_a_table_and_nobody_is_left_out() {
        let weights: Vec<u16> = (0..1_000).map(|i| 1 + i % 255).collect();
        let table = turns(&members(&weights));
        assert!(table.len() <= TABLE_ENTRIES_MAX as usize, "{}", table.len());
        let shares = shares(&table, weights.len());
        assert!(shares.iter().all(|share| *share > 0));
        assert!(shares[254] > 100 * shares[0], "{} {}", shares[254], shares[0]);
    }

    #[test]
    fn every_order_of_the_members_makes_the_same_table() {
        let mut dice = 7u64;
        for size in [1, 2, 7, 40, 100] {
            let weights: Vec<u16> = (0..size).map(|i| 1 + i % 9).collect();
            let members = members(&weights);
            let named = |members: &[Member]| -> Vec<Ident> {
                maglev(members)
                    .into_iter()
                    .map(|place| members[place as usize].ident)
                    .collect()
            };
            let expected = named(&members);
            for _ in 0..8 {
                let mut shuffled = members.clone();
                for i in (1..shuffled.len()).rev() {
                    dice = mix2(dice, i as u64);
                    shuffled.swap(i, (dice % (i as u64 + 1)) as usize);
                }
                assert!(named(&shuffled) == expected, "{size} members");
            }
        }
    }

    #[test]
    fn shares_of_a_hash_table_are_even_or_as_weighted() {
        for count in [1, 3, 10, 11, 200] {
            let table = maglev(&members(&vec![1; count]));
            let even = table.len() / count;
            assert!(
                shares(&table, count)
                    .iter()
                    .all(|share| share.abs_diff(even) <= 1),
                "{count}"
            );
        }
        let table = maglev(&members(&[1, 2, 7]));
        let unit = table.len() as f64 / 10.0;
        for (share, weight) in shares(&table, 3).into_iter().zip([1.0, 2.0, 7.0]) {
            assert!(
                (share as f64 - unit * weight).abs() < unit * 0.03 * weight,
                "{share} of {weight}"
            );
        }
    }

    /// Who leaves takes only his own share with him, nearly: Maglev moves a little more than it must (section 5.3 of
    /// the paper has 1 to 2 % for 1 of 1 000 in a table of this size).
    #[test]
    fn one_that_leaves_moves_little_else() {
        for count in [3usize, 10, 30] {
            let all = members(&vec![1; count]);
            let before = maglev(&all);
            for gone in 0..count {
                let mut rest = all.clone();
                rest.remove(gone);
                let after = maglev(&rest);
                if after.len() != before.len() {
                    continue;
                }
                let moved = before
                    .iter()
                    .zip(&after)
                    .filter(|(old, new)| {
                        **old as usize != gone && all[**old as usize].ident != rest[**new as usize].ident
                    })
                    .count();
                assert!(
                    moved * 100 < before.len() * 15,
                    "{moved} of {} moved without need",
                    before.len()
                );
            }
        }
    }

    #[test]
    fn known_answer() {
        // A table is a contract between nodes that may run different versions: it must not change by accident.
        let table = maglev(&members(&[1, 1, 2]));
        let sum = table.iter().fold(0u64, |sum, place| mix2(sum, u64::from(*place)));
        assert_eq!((table.len(), sum), (1_021, 14_621_973_397_209_831_226));
    }
}
