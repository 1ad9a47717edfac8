// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flow table's buckets: where a flow is, and which one is forgotten when a bucket has no room.
//!
//! Life of an entry. A new flow takes a free place of its bucket; without one it takes the place of a flow that has
//! timed out, then of one that is closing, then of one that has shown nothing but a first packet (so a flood of
//! SYNs drives out SYNs), then of the one that was silent longest. So a new flow is always served. A forgotten
//! flow's next segment is answered with RST, or follows its hash where the frontend chooses by hash.
//!
//! Tags are looked at first: a wrong match costs a comparison of keys, never a wrong flow. Writers hold the bucket's
//! lock; readers do not, and check the tag again after they have copied.

use super::hash::{mix2, reduce};
use crate::abi::{
    Bucket, Flow, FlowKey,
    flow::{ANSWERED, CLOSING, DATAGRAM, ENTRY, Entry, SYN, WAYS},
};

/// Where a flow may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bucket.
    pub bucket: u32,
    /// Its tag there.
    pub tag: u16,
}

/// Hashes a key. `mask` is the number of buckets minus one.
#[inline(always)]
pub fn place(key: &FlowKey, mask: u32) -> Place {
    let addresses = u64::from(key.client_be) << 32 | u64::from(key.local_be);
    let rest = u64::from(key.client_port_be)
        | u64::from(key.local_port_be) << 16
        | u64::from(key.protocol) << 32
        | u64::from(key.side) << 40;
    let hash = mix2(addresses, rest);
    Place {
        bucket: reduce(hash, mask.wrapping_add(1)) & mask,
        tag: hash as u16 | 1,
    }
}

/// What storing did to another flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// A flow that was alive had to go.
    pub evicted: bool,
    /// The backend that lost an open flow by it, for the count of flows; 0 = none.
    pub backend: u32,
}

/// Whether a flow that was silent since `seen` is forgotten.
#[inline(always)]
pub fn expired(now: u32, seen: u32, timeout: u32) -> bool {
    is_expired(now, seen, timeout) != 0
}

/// 1 or 0, without a branch. A clock read on another CPU may be a tick behind: then the difference is huge.
#[inline(always)]
fn is_expired(now: u32, seen: u32, timeout: u32) -> u64 {
    let silent = u64::from(now.wrapping_sub(seen));
    let over = u64::from(timeout).wrapping_sub(silent) >> 63;
    over & (!silent >> 31)
}

/// Finds a flow in its bucket.
///
/// Tags are compared four at a time; what looks like a match is one when the keys are the same. Nothing here depends
/// on which of the eight it is, so that the kernel's verifier follows one path and not eight.
#[inline(always)]
pub fn find(bucket: &Bucket, tag: u16, key: &FlowKey) -> Option<usize> {
    let mut hits = equal(bucket, 0, tag) | equal(bucket, 4, tag) << 4;
    for _ in 0..WAYS {
        if hits == 0 {
            return None;
        }
        let lowest = hits & hits.wrapping_neg();
        let way = some(lowest & 0xaa) | some(lowest & 0xcc) << 1 | some(lowest & 0xf0) << 2;
        // The compiler sees that this is less than eight and drops the mask; the verifier of 6.1 does not.
        let way = core::hint::black_box(way as usize) & (WAYS - 1);
        if same(&bucket.entries[way].key, key) {
            return Some(way);
        }
        hits &= hits - 1;
    }
    None
}

/// Four bits, one per tag from `first`, set where it is this one; a bit above a set one may be wrong.
#[inline(always)]
fn equal(bucket: &Bucket, first: usize, tag: u16) -> u64 {
    const ONES: u64 = 0x0001_0001_0001_0001;
    let tags = &bucket.tags;
    let four = u64::from(tags[first])
        | u64::from(tags[first + 1]) << 16
        | u64::from(tags[first + 2]) << 32
        | u64::from(tags[first + 3]) << 48;
    let differ = four ^ (u64::from(tag) * ONES);
    // The classic test for a zero in parallel: borrows reach the top bit of a part that was zero.
    let zero = differ.wrapping_sub(ONES) & !differ & (ONES << 15);
    (zero >> 15 | zero >> 30 | zero >> 45 | zero >> 60) & 0xf
}

/// 1 if any of the low eight bits is set.
#[inline(always)]
fn some(bits: u64) -> u64 {
    (bits + 0xff) >> 8
}

/// Copies a flow out.
#[inline(always)]
pub fn read(bucket: &Bucket, way: usize) -> Flow {
    let way = way & (WAYS - 1);
    let entry = &bucket.entries[way];
    let state = bucket.states[way];
    Flow {
        backend: entry.backend,
        ifindex: entry.ifindex,
        nat_addr_be: entry.nat_addr_be,
        node_be: entry.node_be,
        peer_be: entry.peer_be,
        seen: bucket.seen[way],
        nat_port_be: entry.nat_port_be,
        peer_port_be: entry.peer_port_be,
        state: state & 0x0f,
        flags: state >> 4,
        generation: entry.key.spare,
    }
}

/// Stores a flow. The caller holds the lock.
#[inline(always)]
pub fn store(
    bucket: &mut Bucket,
    tag: u16,
    key: &FlowKey,
    flow: &Flow,
    timeout: impl Fn(u8) -> u32,
) -> Stored {
    let mut stored = Stored::default();
    let way = match find(bucket, tag, key) {
        Some(way) => way,
        None => {
            let (way, rank) = victim(bucket, flow.seen, timeout);
            let old = &bucket.entries[way & (WAYS - 1)];
            stored.evicted = rank > EXPIRED;
            // What has timed out was counted as well, unless it had closed.
            if rank != FREE && bucket.states[way & (WAYS - 1)] & 0x0f != CLOSING && old.key.side == ENTRY {
                stored.backend = old.backend;
            }
            way
        }
    } & (WAYS - 1);
    // Readers that have found the old flow here see that it is gone.
    bucket.tags[way] = 0;
    bucket.entries[way] = Entry {
        key: FlowKey {
            spare: flow.generation,
            ..*key
        },
        backend: flow.backend,
        ifindex: flow.ifindex,
        nat_addr_be: flow.nat_addr_be,
        node_be: flow.node_be,
        peer_be: flow.peer_be,
        nat_port_be: flow.nat_port_be,
        peer_port_be: flow.peer_port_be,
    };
    bucket.seen[way] = flow.seen;
    bucket.states[way] = (flow.state & 0x0f) | flow.flags << 4;
    bucket.tags[way] = tag;
    stored
}

const FREE: u64 = 0;
const EXPIRED: u64 = 1;
/// How much it hurts to lose a live flow, four bits per state.
const RANKS: u64 = {
    let mut ranks = 0x4444_4444;
    let mut low = [(CLOSING, 2u64), (SYN, 3), (ANSWERED, 3), (DATAGRAM, 3)].as_slice();
    while let [(state, rank), rest @ ..] = low {
        ranks = ranks & !(0xf << (*state * 4)) | *rank << (*state * 4);
        low = rest;
    }
    ranks
};

/// The place to give away, and how much it hurts: the least of (rank, last seen, place), in one number, without a
/// branch that the verifier would have to follow for every place.
#[inline(always)]
fn victim(bucket: &Bucket, now: u32, timeout: impl Fn(u8) -> u32) -> (usize, u64) {
    let mut least = u64::MAX;
    let mut way = 0;
    // A loop that the compiler unrolls takes 200 bytes of stack for what it prepares.
    while way < core::hint::black_box(WAYS) {
        let place = way & (WAYS - 1);
        let state = bucket.states[place] & 0x07;
        let seen = bucket.seen[place];
        let live = RANKS >> (u32::from(state) * 4) & 0xf;
        let gone = is_expired(now, seen, timeout(state));
        let taken = (u64::from(bucket.tags[place]) + 0xffff) >> 16;
        // All ones or none, as masks.
        let rank = (EXPIRED & gone.wrapping_neg() | live & gone.wrapping_sub(1)) & taken.wrapping_neg();
        least = least.min(rank << 40 | u64::from(seen) << 8 | way as u64);
        way += 1;
    }
    (least as usize & (WAYS - 1), least >> 40)
}

/// Whether two keys are the same, with one branch for all of it.
#[inline(always)]
fn same(a: &FlowKey, b: &FlowKey) -> bool {
    let addresses = (a.client_be ^ b.client_be) | (a.local_be ^ b.local_be);
    let ports = (a.client_port_be ^ b.client_port_be) | (a.local_port_be ^ b.local_port_be);
    let rest = (a.protocol ^ b.protocol) | (a.side ^ b.side);
    addresses | u32::from(ports) | u32::from(rest) == 0
}

#[cfg(test)]
mod tests;
