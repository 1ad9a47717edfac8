// SPDX-License-Identifier: MIT OR Apache-2.0
//! An ordered map whose copies share what is the same in them.
//!
//! Entries stand in pieces. A copy is one reference; a change of a map that has copies copies the list of pieces
//! and the piece that changes; a map without copies changes in place. Two maps of which one was made from the
//! other are compared by the pieces that they do not share. And a piece is a plain list without free room, so a
//! million small entries take little more than their own bytes.

use std::{
    borrow::Borrow,
    fmt,
    ops::{Bound, Index, RangeBounds},
    sync::Arc,
};

/// Entries of one piece: a change among 100 000 entries copies at most 128 of them and 100 000 / 64 references.
const PIECE_MAX: usize = 128;

/// An ordered map of which copies are cheap.
pub struct SharedMap<K, V> {
    pieces: Arc<Vec<Arc<Piece<K, V>>>>,
    entries: usize,
}

/// Entries in their order; never empty.
type Piece<K, V> = Vec<(K, V)>;

/// Where an entry stands or would stand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    piece: usize,
    at: usize,
}

impl<K, V> SharedMap<K, V> {
    /// A map without entries.
    pub fn new() -> Self {
        Self {
            pieces: Arc::default(),
            entries: 0,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Everything, in order.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.between(Place { piece: 0, at: 0 }, self.end())
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entry with the least key.
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// The entry with the greatest key.
    pub fn last_key_value(&self) -> Option<(&K, &V)> {
        self.iter().next_back()
    }

    fn end(&self) -> Place {
        Place {
            piece: self.pieces.len(),
            at: 0,
        }
    }

    /// What stands from one place up to another.
    fn between(&self, from: Place, to: Place) -> Iter<'_, K, V> {
        Iter {
            pieces: &self.pieces,
            from,
            to: to.max(from),
        }
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// A key as it stands here, and its value.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let place = self.find(key).ok()?;
        let (key, value) = &self.pieces[place.piece][place.at];
        Some((key, value))
    }

    /// Whether a key is there.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// The entries whose keys are in a range, in order.
    pub fn range(&self, range: impl RangeBounds<K>) -> Iter<'_, K, V> {
        let from = match range.start_bound() {
            Bound::Included(key) => self.first(|other| other >= key),
            Bound::Excluded(key) => self.first(|other| other > key),
            Bound::Unbounded => Place { piece: 0, at: 0 },
        };
        let to = match range.end_bound() {
            Bound::Included(key) => self.first(|other| other > key),
            Bound::Excluded(key) => self.first(|other| other >= key),
            Bound::Unbounded => self.end(),
        };
        self.between(from, to)
    }

    /// The first entry whose key is `beyond`, as all after it are.
    fn first(&self, beyond: impl Fn(&K) -> bool) -> Place {
        // The last piece that begins before it, or the next one's beginning.
        let piece = self.pieces.partition_point(|piece| !beyond(&piece[0].0));
        let Some(before) = piece.checked_sub(1) else {
            return Place { piece, at: 0 };
        };
        let at = self.pieces[before].partition_point(|(key, _)| !beyond(key));
        if at == self.pieces[before].len() {
            Place { piece, at: 0 }
        } else {
            Place { piece: before, at }
        }
    }

    /// Where a key stands, or where it would: never at a place behind the last entry of a piece that another one
    /// follows in order to begin it.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<Place, Place>
    where
        K: Borrow<Q>,
    {
        let after = self.pieces.partition_point(|piece| piece[0].0.borrow() <= key);
        let piece = after.saturating_sub(1);
        let Some(entries) = self.pieces.get(piece) else {
            return Err(Place { piece: 0, at: 0 });
        };
        match entries.binary_search_by(|(other, _)| other.borrow().cmp(key)) {
            Ok(at) => Ok(Place { piece, at }),
            Err(at) => Err(Place { piece, at }),
        }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Sets the value of a key; the value that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(place) => {
                let piece = own(&mut Arc::make_mut(&mut self.pieces)[place.piece]);
                Some(std::mem::replace(&mut piece[place.at].1, value))
            }
            Err(place) => {
                self.add(place, key, value);
                self.entries += 1;
                None
            }
        }
    }

    fn add(&mut self, place: Place, key: K, value: V) {
        let pieces = Arc::make_mut(&mut self.pieces);
        let count = pieces.len();
        let Some(piece) = pieces.get_mut(place.piece) else {
            pieces.push(Arc::new(vec![(key, value)]));
            return;
        };
        // What comes in order leaves full pieces.
        if piece.len() == PIECE_MAX && place.piece + 1 == count && place.at == PIECE_MAX {
            pieces.push(Arc::new(vec![(key, value)]));
            return;
        }
        let piece = own(piece);
        if piece.len() == piece.capacity() {
            piece.reserve_exact(piece.len().min(PIECE_MAX + 1 - piece.len()).max(1));
        }
        piece.insert(place.at, (key, value));
        if piece.len() > PIECE_MAX {
            let rest = piece.split_off(PIECE_MAX / 2);
            piece.shrink_to_fit();
            pieces.insert(place.piece + 1, Arc::new(rest));
        }
    }

    /// Removes a key; the value that it had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.find(key).ok()?;
        let pieces = Arc::make_mut(&mut self.pieces);
        let piece = own(&mut pieces[place.piece]);
        let (_, value) = piece.remove(place.at);
        self.entries -= 1;
        if piece.is_empty() {
            pieces.remove(place.piece);
            return Some(value);
        }
        // Few entries go to a neighbour with few, so that pieces do not become many and small.
        let few = |first: &usize| {
            let two = pieces.get(*first..*first + 2);
            two.is_some_and(|two| two[0].len() + two[1].len() <= PIECE_MAX / 2)
        };
        let first = [Some(place.piece), place.piece.checked_sub(1)];
        if let Some(first) = first.into_iter().flatten().find(few) {
            let second = pieces.remove(first + 1);
            own(&mut pieces[first]).extend(second.iter().cloned());
        }
        Some(value)
    }
}

/// A piece to change: itself, or a copy where others have it too.
fn own<K: Clone, V: Clone>(piece: &mut Arc<Piece<K, V>>) -> &mut Piece<K, V> {
    if Arc::strong_count(piece) > 1 {
        effort::looked(piece.len());
    }
    Arc::make_mut(piece)
}

impl<K: Ord + Clone, V: PartialEq> SharedMap<K, V> {
    /// The keys that only one of both has, or not with equal values. Looks only at pieces that they do not share.
    pub fn differing(&self, other: &Self) -> Vec<K> {
        let (mut mine, mut others) = (self.cursor(), other.cursor());
        let mut differing = Vec::new();
        loop {
            while mine.skip_shared(&mut others) {}
            match (mine.entry(), others.entry()) {
                (None, None) => return differing,
                (Some((key, _)), None) => {
                    differing.push(key.clone());
                    mine.next();
                }
                (None, Some((key, _))) => {
                    differing.push(key.clone());
                    others.next();
                }
                (Some((key, value)), Some((other_key, other))) => {
                    let order = key.cmp(other_key);
                    if order.is_ne() || value != other {
                        differing.push(key.min(other_key).clone());
                    }
                    if order.is_le() {
                        mine.next();
                    }
                    if order.is_ge() {
                        others.next();
                    }
                }
            }
        }
    }
}

impl<K, V> SharedMap<K, V> {
    fn cursor(&self) -> Cursor<'_, K, V> {
        Cursor {
            pieces: &self.pieces,
            place: Place { piece: 0, at: 0 },
        }
    }
}

/// A place in a map that moves on.
struct Cursor<'a, K, V> {
    pieces: &'a [Arc<Piece<K, V>>],
    place: Place,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn entry(&self) -> Option<&'a (K, V)> {
        effort::looked(1);
        self.pieces.get(self.place.piece)?.get(self.place.at)
    }

    fn next(&mut self) {
        self.place.at += 1;
        if self
            .pieces
            .get(self.place.piece)
            .is_some_and(|piece| piece.len() == self.place.at)
        {
            self.place = Place {
                piece: self.place.piece + 1,
                at: 0,
            };
        }
    }

    /// Goes behind a piece at whose beginning both stand.
    fn skip_shared(&mut self, other: &mut Self) -> bool {
        let at_beginning = self.place.at == 0 && other.place.at == 0;
        let both = self
            .pieces
            .get(self.place.piece)
            .zip(other.pieces.get(other.place.piece));
        let shared = at_beginning && both.is_some_and(|(mine, others)| Arc::ptr_eq(mine, others));
        if shared {
            self.place.piece += 1;
            other.place.piece += 1;
        }
        shared
    }
}

/// Entries one after the other.
pub struct Iter<'a, K, V> {
    pieces: &'a [Arc<Piece<K, V>>],
    from: Place,
    to: Place,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        if self.from == self.to {
            return None;
        }
        effort::looked(1);
        let piece = &self.pieces[self.from.piece];
        let (key, value) = &piece[self.from.at];
        self.from.at += 1;
        if self.from.at == piece.len() {
            self.from = Place {
                piece: self.from.piece + 1,
                at: 0,
            };
        }
        Some((key, value))
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.from == self.to {
            return None;
        }
        effort::looked(1);
        if self.to.at == 0 {
            self.to.piece -= 1;
            self.to.at = self.pieces[self.to.piece].len();
        }
        self.to.at -= 1;
        let (key, value) = &self.pieces[self.to.piece][self.to.at];
        Some((key, value))
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Of equal keys the last one counts.
        entries.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        let count = entries.len();
        let mut pieces = Vec::with_capacity(count.div_ceil(PIECE_MAX));
        let mut rest = entries.into_iter();
        while rest.len() > 0 {
            let length = rest.len().min(PIECE_MAX);
            let mut piece = Vec::with_capacity(length);
            piece.extend(rest.by_ref().take(length));
            pieces.push(Arc::new(piece));
        }
        Self {
            pieces: Arc::new(pieces),
            entries: count,
        }
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            pieces: self.pieces.clone(),
            entries: self.entries,
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pieces, &other.pieces) || self.entries == other.entries && self.iter().eq(other)
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<Q: Ord + ?Sized, K: Ord + Borrow<Q>, V> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the key is in the map")
    }
}

/// How many entries of maps this thread has copied or looked at one by one: tests say that a change among many costs
/// no more than one among few.
#[cfg(test)]
pub mod effort {
    use std::cell::Cell;

    thread_local!(static LOOKED: Cell<usize> = const { Cell::new(0) });

    pub(super) fn looked(entries: usize) {
        LOOKED.set(LOOKED.get() + entries);
    }

    /// What has been counted since the last question.
    pub fn taken() -> usize {
        LOOKED.take()
    }
}

#[cfg(not(test))]
mod effort {
    pub(super) fn looked(_: usize) {}
}

#[cfg(test)]
mod tests;
