// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's own HTTP: JSON for the operator's verbs on a unix socket, metrics on TCP.
//!
//! Life of the socket: before anything else is touched the agent claims its path. If somebody answers there,
//! another agent runs and this one gives up; if nobody does, the file is what a killed agent left and is
//! replaced. At a graceful stop the file is removed.

pub mod api;
mod edits;
mod flows;
pub mod metrics;
mod names;
pub mod observe;
pub mod socket;
mod stats;
mod trace;

pub use socket::Socket;

/// Connections at one time, to the socket and to the metrics each; more wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 64;
