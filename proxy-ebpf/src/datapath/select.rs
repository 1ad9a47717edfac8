// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frontend -> backend. Round robin over the slots.

use super::Maps;
use crate::abi::{Backend, Counter, Frontend, SlotKey};

/// Chooses a backend for a new flow; `None` when the frontend has none.
///
/// A slot that names a missing backend is counted and skipped once: the agent writes backends before slots, so
/// it can only be seen while a backend is being replaced.
#[inline(always)]
pub fn select<M: Maps>(maps: &M, frontend: &Frontend) -> Option<(u32, Backend)> {
    if frontend.slots == 0 {
        return None;
    }
    for _ in 0..2 {
        let index = maps.next(frontend.id) % frontend.slots;
        let slot = SlotKey {
            frontend: frontend.id,
            index,
        };
        if let Some(id) = maps.slot(&slot)
            && let Some(backend) = maps.backend(id)
        {
            return Some((id, backend));
        }
        maps.count(Counter::SlotWithoutBackend);
    }
    None
}
