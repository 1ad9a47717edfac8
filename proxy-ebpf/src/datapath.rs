// SPDX-License-Identifier: MIT OR Apache-2.0
//! The datapath's decisions, free of helpers, maps and clocks.
//!
//! Each entry point of the object asks one function here and carries out its answer:
//!
//! | attachment | function | answer |
//! | --- | --- | --- |
//! | cgroup connect, sendmsg, recvmsg, getpeername | [`sock`] | [`sock::Verdict`] |
//! | uplink, ingress (tc, and XDP for what goes to other nodes) | [`published::from_client`] | [`Action`] |
//! | uplink, ingress, replies of VIPs' backends | [`direct::reply`] | [`Action`] |
//! | uplink, ingress, IPv6 | [`ipv6::opens_published`] | whether it is refused |
//! | uplink, ingress, where the operator wants it | [`guard`] | why it is dropped |
//! | task's veth, ingress | [`published::from_task`] | [`Action`] |
//! | tunnel, ingress | [`published::from_tunnel`] | [`Action`] |
//!
//! The world is a parameter: [`Maps`] for state, `now_ns` for time. The kernel's implementation is in the
//! object; tests use one made of hash tables.

pub mod action;
pub mod checksum;
pub mod direct;
pub mod encap;
pub mod flows;
pub mod guard;
pub mod hash;
pub mod ip;
pub mod ipv6;
pub mod maps;
pub mod observe;
pub mod packet;
pub mod published;
pub mod refuse;
pub mod select;
pub mod sock;
pub mod table;

#[cfg(test)]
mod known;
#[cfg(any(test, feature = "model"))]
pub mod model;
#[cfg(test)]
mod tests;

/// [`Maps::source`]: the client may use the frontend.
pub const ALLOW: u8 = 1;
/// [`Maps::source`]: it may not.
pub const DENY: u8 = 2;

pub use action::{Action, Nat, Out};
pub use maps::Maps;
pub use packet::{Bytes, Packet};
