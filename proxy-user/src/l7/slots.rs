// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers for values that workers find by index.
//!
//! Equal keys share a value while anybody holds it. When nobody does, its number is free for another one; free numbers
//! are looked for only after as many values were added as lived at the last look. So adding one costs the same however
//! many there are, and numbers stay below twice the most values that lived at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Values by key. *Who writes it*: the table's one writer. *Lifetime*: the process; values are held by others.
#[derive(Debug)]
pub struct Slots<K, V> {
    by_key: HashMap<K, (usize, Weak<V>)>,
    free: Vec<usize>,
    /// The lowest number that was never given.
    next: usize,
    /// Values that may still be added before the next look.
    left: usize,
}

impl<K, V> Default for Slots<K, V> {
    fn default() -> Self {
        Slots {
            by_key: HashMap::new(),
            free: Vec::new(),
            next: 0,
            left: 0,
        }
    }
}

impl<K: Eq + Hash, V> Slots<K, V> {
    /// The value of this key that somebody holds.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        self.by_key.get(key).and_then(|(_, value)| value.upgrade())
    }

    /// Makes the value of a key that nobody holds.
    pub fn add(&mut self, key: K, make: impl FnOnce(usize) -> V) -> Arc<V> {
        if self.left == 0 {
            self.look();
        }
        self.left -= 1;
        let slot = self.free.pop().unwrap_or(self.next);
        self.next = self.next.max(slot + 1);
        let value = Arc::new(make(slot));
        let before = self.by_key.insert(key, (slot, Arc::downgrade(&value)));
        self.free.extend(before.map(|(slot, _)| slot));
        value
    }

    /// Frees the numbers of values that nobody holds.
    fn look(&mut self) {
        let free = &mut self.free;
        self.by_key.retain(|_, (slot, value)| {
            let held = value.strong_count() > 0;
            if !held {
                free.push(*slot);
            }
            held
        });
        self.left = self.by_key.len().max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_again_only_when_nobody_holds_its_value() {
        let mut slots = Slots::default();
        let a = slots.add("a", |slot| slot);
        assert!(Arc::ptr_eq(&a, &slots.get(&"a").unwrap()));
        let b = slots.add("b", |slot| slot);
        assert_eq!((*a, *b), (0, 1));
        drop(a);
        assert!(slots.get(&"a").is_none());
        let c = slots.add("c", |slot| slot);
        assert_eq!(*c, 0);
        // A key that comes back leaves its old number to others.
        drop(b);
        let b = slots.add("b", |slot| slot);
        let d = slots.add("d", |slot| slot);
        let numbers = [*b, *c, *d];
        assert!(
            numbers[0] != numbers[1] && numbers[1] != numbers[2] && numbers[0] != numbers[2],
            "{numbers:?}"
        );
    }

    #[test]
    fn numbers_stay_below_twice_what_lived_at_once() {
        let mut slots = Slots::default();
        let mut held = std::collections::VecDeque::new();
        for key in 0..10_000 {
            held.push_back(slots.add(key, |slot| slot));
            if held.len() > 100 {
                held.pop_front();
            }
            let mut numbers: Vec<usize> = held.iter().map(|slot| **slot).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), held.len(), "every number once");
            assert!(slots.next <= 2 * 101, "{} after {key}", slots.next);
        }
    }
}
