// SPDX-License-Identifier: MIT OR Apache-2.0
//! The map is one of the standard library's, whatever is done to it and however many copies it has.

use std::collections::BTreeMap;

use super::*;

/// A repeatable source of numbers (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

fn check(map: &SharedMap<u32, usize>, known: &BTreeMap<u32, usize>) {
    assert!(map.iter().eq(known), "{map:?}\n{known:?}");
    assert!(map.iter().rev().eq(known.iter().rev()));
    assert_eq!((map.len(), map.is_empty()), (known.len(), known.is_empty()));
    assert_eq!(map.first_key_value(), known.first_key_value());
    assert_eq!(map.last_key_value(), known.last_key_value());
    let sizes = map.pieces.iter().map(|piece| piece.len());
    assert!(sizes.clone().all(|size| (1..=PIECE_MAX).contains(&size)));
    // Neighbours with few entries are one.
    let sizes: Vec<usize> = sizes.collect();
    assert!(
        map.pieces.len() <= 2 + 4 * known.len() / (PIECE_MAX / 2),
        "{sizes:?}"
    );
}

#[test]
fn a_history_of_changes_ends_as_in_the_map_of_the_standard_library() {
    for seed in 1..20 {
        let mut dice = Dice(seed);
        let (mut map, mut known) = (SharedMap::new(), BTreeMap::new());
        let mut copies: Vec<(SharedMap<u32, usize>, BTreeMap<u32, usize>)> = Vec::new();
        let keys = [40, 700, 4_000][seed as usize % 3];
        for step in 0..6_000 {
            let key = dice.roll(keys) as u32;
            // First more come than go, then the reverse.
            if dice.roll(4) > if step < 3_000 { 0 } else { 2 } {
                assert_eq!(map.insert(key, step), known.insert(key, step));
            } else {
                assert_eq!(map.remove(&key), known.remove(&key));
            }
            let other = dice.roll(keys) as u32;
            assert_eq!(map.get(&other), known.get(&other));
            if dice.roll(300) == 0 {
                copies.push((map.clone(), known.clone()));
                check(&map, &known);
                let to = other.max(key);
                let from = other.min(key);
                assert!(map.range(from..to).eq(known.range(from..to)));
                assert!(map.range(from..=to).rev().eq(known.range(from..=to).rev()));
                assert!(map.range(to..).eq(known.range(to..)));
                assert!(map.range(..from).eq(known.range(..from)));
                assert_eq!(map, known.clone().into_iter().collect());
            }
        }
        for (copy, was) in &copies {
            check(copy, was);
            let differing: Vec<u32> = (0..keys as u32)
                .filter(|key| was.get(key) != known.get(key))
                .collect();
            assert_eq!(copy.differing(&map), differing);
            assert_eq!(map.differing(copy), differing);
            assert_eq!(copy == &map, differing.is_empty());
        }
    }
}

#[test]
fn what_comes_in_order_stands_in_full_pieces_and_the_last_of_equal_keys_counts() {
    let in_order = (0..1_000).map(|key| (key, ()));
    let mut one_by_one = SharedMap::new();
    one_by_one.extend(in_order.clone());
    for map in [one_by_one, in_order.collect()] {
        assert_eq!(map.pieces.len(), 1_000_usize.div_ceil(PIECE_MAX));
        assert!(map.pieces.iter().all(|piece| piece.capacity() <= PIECE_MAX + 1));
    }
    let twice: SharedMap<_, _> = [(2, 'a'), (1, 'b'), (2, 'c')].into_iter().collect();
    assert!(twice.iter().eq([(&1, &'b'), (&2, &'c')]));
}

#[test]
fn a_change_of_a_copy_costs_the_same_among_many_entries() {
    let effort = |entries: u32| {
        let mut map: SharedMap<u32, u32> = (0..entries).map(|key| (2 * key, key)).collect();
        let before = map.clone();
        effort::taken();
        map.insert(entries + 1, 7);
        map.remove(&(entries / 2 * 2));
        assert_eq!(before.differing(&map).len(), 2);
        effort::taken()
    };
    let (few, many) = (effort(1_000), effort(100_000));
    assert!(few > 0 && many <= few + PIECE_MAX, "{few} and {many}");
}
