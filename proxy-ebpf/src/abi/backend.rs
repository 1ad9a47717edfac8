// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slots and backends: who serves a frontend.

abi! {
    /// One slot of a frontend; the value is the id of a backend (`u32`).
    pub struct SlotKey: 8 {
        /// [`super::Frontend::id`].
        frontend: u32,
        /// 0 .. [`super::Frontend::slots`].
        index: u32,
    }
}

abi! {
    /// A backend of one frontend. The key is its id (`u32`, never 0).
    pub struct Backend: 48 {
        /// VIP frontends: the task's address on the network. Published, local: its address on the gateway
        /// bridge. Published, remote: its address on the ingress network (information only). Network order.
        /// [`IPV6`]: the address's last word.
        addr_be: u32,
        /// Published, remote: the task's node (tunnel end), network order. 0 otherwise.
        node_be: u32,
        /// Published, local: host side of the task's gateway veth. 0 otherwise.
        ifindex: u32,
        /// Published: the task as the tunnel names it ([`LocalTask`]'s key, 24 bits). 0 otherwise.
        task: u32,
        /// VIP frontends: port, network order; 0 = as the client sent it.
        port_be: u16,
        /// [`LOCAL`], [`REMOTE`], [`DRAINING`], [`IPV6`].
        flags: u16,
        /// Published, local: MAC of the task's gateway interface.
        mac: [u8; 6],
        /// Published, local: MAC of the gateway bridge, the frame's source.
        gateway_mac: [u8; 6],
        /// Share of new flows, 1 to 255, as [`super::frontend::LEAST`] weighs it; 0 counts as 1.
        weight: u16,
        /// Zero.
        _pad: u16,
        /// [`IPV6`]: the address's first three words, network order. Zeros otherwise.
        addr_high: [u32; 3],
    }
}

/// [`Backend::flags`]: the task runs on this node and is reached through its gateway veth.
pub const LOCAL: u16 = 1;
/// [`Backend::flags`]: the task runs on the node `node_be` and is reached through the tunnel.
pub const REMOTE: u16 = 2;

/// [`Backend::flags`]: gets no new flow, not even of a client that had it before.
pub const DRAINING: u16 = 4;

/// [`Backend::flags`]: the address is an IPv6 one (VIP frontends only).
pub const IPV6: u16 = 8;

impl Backend {
    /// An [`IPV6`] backend's address, network order.
    #[inline(always)]
    pub const fn addr6(&self) -> [u32; 4] {
        let [a, b, c] = self.addr_high;
        [a, b, c, self.addr_be]
    }
}

abi! {
    /// A task of this node that other nodes may send to through the tunnel.
    ///
    /// The key is the low 24 bits of the task's ingress address (`u32`, host order), which the entry node puts
    /// into the VXLAN network identifier: unique inside any subnet of at least /8, never 0.
    pub struct LocalTask: 20 {
        /// The task's address on the gateway bridge, network order.
        addr_be: u32,
        /// Host side of the task's gateway veth.
        ifindex: u32,
        /// MAC of the task's gateway interface.
        mac: [u8; 6],
        /// MAC of the gateway bridge.
        gateway_mac: [u8; 6],
    }
}

/// Mask of [`LocalTask`] keys: the width of a VXLAN network identifier (RFC 7348 section 5).
pub const TASK_MASK: u32 = 0x00ff_ffff;

/// The tunnel's name for the task with this ingress address (network order).
pub const fn task_id(ingress_addr_be: u32) -> u32 {
    u32::from_be(ingress_addr_be) & TASK_MASK
}
