// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scopes: which networks a network namespace is in, and which addresses are the node's own.

use super::limits::SCOPE_NETWORKS_MAX;

abi! {
    /// What a namespace may address, by its netns cookie (`u64`). A namespace that has no scope is left alone:
    /// several agents on one kernel do not disturb each other.
    pub struct Scope: 64 {
        /// Valid entries of `networks`.
        count: u32,
        /// [`HOST`] for the node's own namespace.
        flags: u32,
        /// Networks whose VIPs are visible here.
        networks: [u32; SCOPE_NETWORKS_MAX],
    }
}

/// [`Scope::flags`]: the node's own namespace: published ports on local addresses are served by socket hooks.
pub const HOST: u32 = 1;

abi! {
    /// An address of this node, by address (`u32`, network order): published ports answer on it.
    pub struct LocalAddr: 4 {
        /// None yet; zero.
        flags: u32,
    }
}
