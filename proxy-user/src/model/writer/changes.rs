// SPDX-License-Identifier: MIT OR Apache-2.0
//! What has changed since the last picture was made.

use std::collections::BTreeSet;

use super::super::ServiceName;

/// What the next picture differs in.
#[derive(Debug, Default)]
pub(super) enum Changes {
    /// In anything.
    #[default]
    Everything,
    /// In these services at most.
    Some(BTreeSet<ServiceName>),
}

impl Changes {
    /// Nothing has changed.
    pub(super) fn none() -> Self {
        Self::Some(BTreeSet::new())
    }

    /// Adds services. What a task of this node is for concerns more than its service: its namespace's scope.
    pub(super) fn note(&mut self, names: &BTreeSet<ServiceName>, local: bool) {
        match self {
            Self::Some(noted) if !local => noted.extend(names.iter().cloned()),
            _ => *self = Self::Everything,
        }
    }
}
