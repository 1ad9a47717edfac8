// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a route to an answer: which task of a service gets a request, over which connection, and what happens when
//! it fails.
//!
//! An [`Upstream`] is what a snapshot says: a host, a port and a [`Target`]'s settings, numbered when the snapshot is
//! compiled so that a worker finds its [`group::Group`] by index. Everything else belongs to one worker and is touched
//! by one thread.
//!
//! **A task** ([`task::Task`]) is an address that the name had when it was last asked ([`discovery`]). It is born when
//! an answer first contains it, grows to its full share ([`Target::slow_start`]), may rest (active [`health`] says it
//! is down, or [`outlier`] has ejected it), and leaves when an answer no longer contains it: from then on it gets
//! nothing new, its idle connections are closed, and what is in flight goes on until it ends by itself. Swarm takes a
//! task out of DNS two seconds before SIGTERM, and names in use are asked every second.
//!
//! **A request** ([`send`]) waits for its turn if the service has a limit ([`queue`]), picks a task ([`balance`],
//! [`sticky`]), takes one of its connections or opens one ([`connect`]), and is exchanged ([`h1`], [`h2`]). A connection
//! that cannot be opened costs another attempt with any method; one that dies before a byte of the answer, only if
//! repeating is harmless. Both pay from a [`budget`], so that a failing service is not hit twice as hard.

pub mod balance;
pub mod budget;
pub mod connect;
pub mod discovery;
mod followed;
pub mod group;
pub mod h1;
pub mod h2;
pub mod health;
pub mod io;
pub mod outlier;
pub mod queue;
pub mod response;
pub mod send;
pub mod sticky;
pub mod target;
pub mod task;
pub mod tls;

use std::sync::Arc;

pub use target::Target;

use super::stats::checks::Checks;

/// A target with a number. *Who writes it*: [`super::table`]. Workers find their group for it by `slot`; a slot is
/// given to another upstream only when nothing refers to the old one any more.
#[derive(Debug)]
pub struct Upstream {
    /// Index of the workers' groups.
    pub slot: usize,
    /// Distinguishes the upstreams that had this slot.
    pub generation: u64,
    /// Where requests go, and how. Equal targets share an upstream.
    pub target: Arc<Target>,
    /// What active checks have found.
    pub checks: Checks,
}
