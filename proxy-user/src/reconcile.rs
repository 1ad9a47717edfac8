// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables -> plan -> kernel.
//!
//! One pass: [`desired`] turns the tables into map entries, [`plan`] compares them with what is known to be in
//! the kernel (the mirror) and yields operations as data, a group at a time, [`apply`] performs them and changes
//! the mirror only after the kernel did. Nothing else is remembered: ids, slots and the owner of every backend follow from the
//! mirror, and the mirror is read back from the kernel at the start, so that a restarted agent plans nothing
//! when nothing has changed.
//!
//! Order of writes. Shared things first (scopes, own addresses, the reply program on a task's veth, the task as
//! the tunnel knows it). Then per frontend: its backends; its slots in place, each naming an existing backend
//! before and after; its table of turns and its list of prefixes, if it needs any, under a number that nobody uses; the
//! master entry, the moment the change becomes visible; what was the table and the list before;
//! slots above the new count; backends that no slot names any more. A frontend goes backwards: master entry, slots, backends. What is shared goes
//! last. A crash between any two operations leaves the old or the new set of slots, never one that names a
//! missing backend, and the next pass repairs the rest, because every operation may be repeated.
//!
//! Identity. A backend is the same backend when it is the same address and port (VIPs) or the same task
//! (published ports). One that drains has no slot but keeps its entry, and with it its flows, until the provider
//! drops it. After a restart such an entry has no slot that tells whose it is; it is found again by identity,
//! and if two frontends have equal ones it does not matter which gets which.
//!
//! Pruning. What an earlier agent left and this provider does not mention is removed only once the Writer says
//! so ([`crate::model::Tables::prune`]); until then it is protected. Things that this agent itself wanted are
//! removed as soon as it does not.

pub mod apply;
pub mod datapath;
pub mod desired;
pub mod follow;
pub mod ids;
pub mod ipvs;
pub mod key;
pub mod ops;
pub mod plan;
pub mod spread;

#[cfg(test)]
pub mod fake;
#[cfg(test)]
pub mod faulty;

pub use apply::{Pass, Reconciler, Status};
pub use follow::Follow;

#[cfg(test)]
mod tests;
