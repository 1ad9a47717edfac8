// SPDX-License-Identifier: MIT OR Apache-2.0
//! A list of shared objects, which is itself shared: a snapshot that is handed on is one reference, not one to each
//! of its objects. Who changes a list that has copies gets one of their own.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// Objects in the order of their source.
#[derive(Debug, PartialEq, Eq)]
pub struct List<T>(Arc<Vec<Arc<T>>>);

impl<T: Eq> List<T> {
    /// What stands between the first and the last difference of two lists.
    pub fn differing<'a>(&'a self, new: &'a Self) -> (&'a [Arc<T>], &'a [Arc<T>]) {
        if Arc::ptr_eq(&self.0, &new.0) {
            return (&[], &[]);
        }
        // Comparing two Arcs compares pointers first.
        let (old, new) = (&self[..], &new[..]);
        let ahead = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let (old, new) = (&old[ahead..], &new[ahead..]);
        let behind = old.iter().rev().zip(new.iter().rev());
        let behind = behind.take_while(|(old, new)| old == new).count();
        (&old[..old.len() - behind], &new[..new.len() - behind])
    }
}

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Deref for List<T> {
    type Target = Vec<Arc<T>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl<T> From<Vec<Arc<T>>> for List<T> {
    fn from(objects: Vec<Arc<T>>) -> Self {
        Self(Arc::new(objects))
    }
}

impl<T> FromIterator<Arc<T>> for List<T> {
    fn from_iter<I: IntoIterator<Item = Arc<T>>>(objects: I) -> Self {
        Self(Arc::new(objects.into_iter().collect()))
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a Arc<T>;
    type IntoIter = std::slice::Iter<'a, Arc<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
