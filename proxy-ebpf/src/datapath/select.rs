// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frontend -> backend, for a new flow.
//!
//! A frontend with affinity gives a client that was here lately the backend that it had, if that one still takes
//! new flows; otherwise the client's hash chooses, over a table that every node computes alike, so that all entry
//! nodes agree without telling each other. Then by scheduler: by hash over the table; in turn or by chance over the
//! table (weights) or the slots; or the fewest flows. Whatever the table cannot answer, the slots do.

use super::{
    Maps,
    hash::{mix, mix2, reduce},
};
use crate::abi::{
    Affinity, AffinityKey, Backend, Counter, Frontend, SlotKey,
    backend::DRAINING,
    frontend::{FLOW_HASH, LEAST, RANDOM, SOURCE_HASH},
    limits::LEAST_LOOK,
    schedule::ADDRESS,
};

/// Who opens a flow.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    /// An address in host order, or a netns cookie.
    pub client: u64,
    /// What tells two flows of one client apart: port and published port, or socket cookie.
    pub flow: u64,
    /// [`ADDRESS`] or [`crate::abi::schedule::NAMESPACE`].
    pub kind: u32,
    /// Now, in ticks.
    pub now: u32,
    /// A backend that has just failed this client, taken only if there is no other; 0 = none.
    pub avoid: u32,
}

impl Who {
    /// A client of a published port; address and ports in network order.
    #[inline(always)]
    pub fn address(client_be: u32, client_port_be: u16, port_be: u16, protocol: u8, now: u32) -> Who {
        Who {
            client: u64::from(u32::from_be(client_be)),
            flow: u64::from(client_port_be) | u64::from(port_be) << 16 | u64::from(protocol) << 32,
            kind: ADDRESS,
            now,
            avoid: 0,
        }
    }

    /// The client as the frontend tells clients apart.
    #[inline(always)]
    fn client(&self, frontend: &Frontend) -> u64 {
        if self.kind == ADDRESS && frontend.client_bits < 32 {
            let host = u32::MAX.checked_shr(u32::from(frontend.client_bits)).unwrap_or(0);
            self.client & !u64::from(host)
        } else {
            self.client
        }
    }
}

/// Whether a flow's backend follows from its addresses, so that it can be found again without memory.
#[inline(always)]
pub fn by_hash(frontend: &Frontend) -> bool {
    frontend.table_size != 0
        && (frontend.affinity != 0 || matches!(frontend.scheduler, SOURCE_HASH | FLOW_HASH))
}

/// Chooses a backend for a new flow; `None` when the frontend has none.
#[inline(always)]
pub fn select<'a, M: Maps>(maps: &'a M, frontend: &Frontend, who: &Who) -> Option<(u32, &'a Backend)> {
    let id = choose(maps, frontend, who);
    if id == 0 {
        return None;
    }
    maps.backend(id).map(|backend| (id, backend))
}

/// The chosen backend's id; 0 = none.
#[inline(never)]
fn choose<M: Maps>(maps: &M, frontend: &Frontend, who: &Who) -> u32 {
    if frontend.slots == 0 {
        return 0;
    }
    let key = AffinityKey {
        client: who.client(frontend),
        frontend: frontend.id,
        kind: who.kind,
    };
    if frontend.affinity != 0
        && let Some(kept) = maps.affinity(&key)
        && who.now.wrapping_sub(kept.seen) <= frontend.affinity
        && let Some(backend) = maps.backend(kept.backend)
        && backend.flags & DRAINING == 0
    {
        if kept.seen != who.now {
            let seen = who.now;
            maps.set_affinity(&key, &Affinity { seen, ..kept });
        }
        maps.count(Counter::AffinityKept);
        return kept.backend;
    }
    // Sockets are not counted: for them it is a round.
    let chosen = if frontend.scheduler == LEAST && who.kind == ADDRESS && frontend.affinity == 0 {
        least(maps, frontend, who.avoid)
    } else {
        spread(maps, frontend, who, key.client)
    };
    if frontend.affinity != 0 && chosen != 0 {
        let seen = who.now;
        let backend = chosen;
        maps.set_affinity(&key, &Affinity { backend, seen });
    }
    chosen
}

#[inline(always)]
fn spread<M: Maps>(maps: &M, frontend: &Frontend, who: &Who, client: u64) -> u32 {
    // A backend that is named and missing is counted and skipped once: the agent writes backends before slots, so
    // it can only be seen while a backend is being replaced.
    for _ in 0..2 {
        let size = if frontend.table_size == 0 {
            frontend.slots
        } else {
            frontend.table_size
        };
        let index = if by_hash(frontend) {
            let hash = if frontend.affinity == 0 && frontend.scheduler == FLOW_HASH {
                mix2(client, who.flow)
            } else {
                mix(client)
            };
            reduce(hash, size)
        } else if frontend.scheduler == RANDOM {
            reduce(u64::from(maps.random()) << 32, size)
        } else {
            maps.next(frontend.id) % size
        };
        let id = if frontend.table_size == 0 {
            let frontend = frontend.id;
            maps.slot(&SlotKey { frontend, index })
        } else {
            maps.table(frontend.table, index)
        };
        if let Some(id) = id
            && maps.backend(id).is_some()
        {
            if id != who.avoid {
                return id;
            }
            continue;
        }
        maps.count(Counter::SlotWithoutBackend);
    }
    let mut slot = SlotKey {
        frontend: frontend.id,
        index: maps.next(frontend.id) % frontend.slots,
    };
    let id = maps.slot(&slot).unwrap_or(0);
    if id == 0 || id != who.avoid {
        return id;
    }
    slot.index = (slot.index + 1) % frontend.slots;
    maps.slot(&slot).unwrap_or(0)
}

/// The backend with the fewest open flows for its weight, the new one counted in.
///
/// Load and id are one number, of which the least wins: the verifier follows every branch of every round, and this
/// leaves it one.
#[inline(always)]
fn least<M: Maps>(maps: &M, frontend: &Frontend, avoid: u32) -> u32 {
    let mut index = maps.next(frontend.id) % frontend.slots;
    let mut best = u64::MAX;
    for look in 0..LEAST_LOOK {
        if look >= frontend.slots {
            break;
        }
        let slot = SlotKey {
            frontend: frontend.id,
            index,
        };
        index = (index + 1) % frontend.slots;
        let Some(id) = maps.slot(&slot) else { continue };
        let Some(backend) = maps.backend(id) else {
            continue;
        };
        let load = (u64::from(maps.active(id)) + 1) * LOAD_UNIT;
        let by_weight = (load / u64::from(backend.weight | u16::from(backend.weight == 0))) << 32;
        if id != avoid {
            best = best.min(by_weight | u64::from(id));
        }
    }
    if best == u64::MAX { avoid } else { best as u32 }
}

/// Parts of a flow in a load, so that weights up to 255 make a difference; 2^24 flows of one backend fit in 32 bits.
const LOAD_UNIT: u64 = 256;
