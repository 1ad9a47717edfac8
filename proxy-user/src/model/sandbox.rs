// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of a task's network namespace. Found out by the daemon, handed to the Writer as one more
//! source; a task of this node without facts has no scope and serves no published port.

use std::net::Ipv4Addr;

use super::Cookie;

/// What the data plane must know of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's number of the namespace.
    pub cookie: Cookie,
    /// Its way out; a task without one cannot serve published ports.
    pub gateway: Option<Gateway>,
}

/// Both ends of a task's gateway interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The task's address on the gateway bridge.
    pub address: Ipv4Addr,
    /// MAC of the task's interface.
    pub mac: [u8; 6],
    /// Interface index of the other end, in the node's namespace.
    pub host_ifindex: u32,
    /// MAC of the bridge.
    pub gateway_mac: [u8; 6],
}
