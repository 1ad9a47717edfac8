// SPDX-License-Identifier: MIT OR Apache-2.0
//! Backends: who serves a frontend, and how to get there.

use super::{Gateway, NodeAddr, TaskAddr, TaskId};

/// A backend of one frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address on the frontend's network (published ports: on the ingress network).
    pub address: TaskAddr,
    /// Its port; 0 = the frontend's target port, or as the client sent it.
    pub port: u16,
    /// The way to it.
    pub reach: Reach,
    /// Its share of new flows, 1 to 255.
    pub weight: u8,
    /// Gets no new flow, keeps the old ones.
    pub draining: bool,
}

/// The way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The network routes to its address (VIPs).
    Direct,
    /// Through its gateway interface on this node (published ports).
    Local {
        /// The tunnel's name for it.
        task: TaskId,
        /// The interface.
        gateway: Gateway,
    },
    /// Through the tunnel to its node (published ports).
    Remote {
        /// The tunnel's name for it.
        task: TaskId,
        /// Its node.
        node: NodeAddr,
    },
}
