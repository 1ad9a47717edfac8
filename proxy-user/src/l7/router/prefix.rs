// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of many keys a text begins with.

use std::collections::BTreeMap;

/// Keys in order, each with the longest other key that it begins with. Bytes of all keys lie behind one another, because
/// a search that misses the cache at every step costs more than a request has.
#[derive(Debug)]
pub struct PrefixMap<T> {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    parents: Vec<u32>,
    values: Vec<T>,
}

const NONE: u32 = u32::MAX;

impl<T> PrefixMap<T> {
    /// These keys. Together they are shorter than 4 GiB: they came in requests of the API.
    pub fn new<V: Into<T>>(map: BTreeMap<Vec<u8>, V>) -> Self {
        let mut made = PrefixMap {
            bytes: Vec::new(),
            ends: Vec::with_capacity(map.len()),
            parents: Vec::with_capacity(map.len()),
            values: Vec::with_capacity(map.len()),
        };
        // The keys that the last one begins with, and itself.
        let mut open: Vec<usize> = Vec::new();
        for (at, (key, value)) in map.into_iter().enumerate() {
            while open.last().is_some_and(|&last| !key.starts_with(made.key(last))) {
                open.pop();
            }
            made.parents.push(open.last().map_or(NONE, |&last| last as u32));
            made.bytes.extend_from_slice(&key);
            made.ends.push(made.bytes.len() as u32);
            made.values.push(value.into());
            open.push(at);
        }
        made
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Calls `visit` for every key that `text` begins with, the longest first, and says whether it is all of it.
    pub fn visit<'a>(&'a self, text: &[u8], mut visit: impl FnMut(&'a T, bool)) {
        // What sorts between a key and a text that begins with it begins with it, too: so the last key that is not
        // after the text is the longest that it begins with, or begins with that one itself.
        let (mut low, mut high) = (0, self.values.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.key(middle) <= text {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let mut at = match low.checked_sub(1) {
            Some(at) => at as u32,
            None => return,
        };
        while at != NONE {
            let key = self.key(at as usize);
            if text.starts_with(key) {
                visit(&self.values[at as usize], key.len() == text.len());
            }
            at = self.parents[at as usize];
        }
    }

    fn key(&self, at: usize) -> &[u8] {
        let from = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.bytes[from..self.ends[at] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_that_a_text_begins_with_are_found() {
        let keys = ["", "/", "/a", "/a/b", "/a/bc", "/ab", "/b/", "/b/c/d", "x"];
        let map: BTreeMap<Vec<u8>, &str> = keys.iter().map(|key| (key.as_bytes().to_vec(), *key)).collect();
        let map: PrefixMap<&str> = PrefixMap::new(map);
        for text in [
            "", "/", "/a", "/a/", "/a/b/c", "/a/bd", "/ac", "/b", "/b/c", "/b/c/d", "w", "xyz", "\u{ff}",
        ] {
            let mut found = Vec::new();
            map.visit(text.as_bytes(), |key, is_all| {
                assert_eq!(is_all, *key == text);
                found.push(*key);
            });
            let mut want: Vec<&str> = keys.iter().copied().filter(|key| text.starts_with(key)).collect();
            want.reverse();
            assert_eq!(found, want, "{text}");
        }
    }
}
