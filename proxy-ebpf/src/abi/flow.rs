// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows of published ports: what a node remembers so that a client's packets keep their task and the task's
//! replies find their way back.

abi! {
    /// A flow as seen from one side. Every flow of a published port has two entries where the task is local
    /// (one per side) and one ([`ENTRY`]) on a node that sends it through the tunnel.
    pub struct FlowKey: 16 {
        /// The client, network order.
        client_be: u32,
        /// [`ENTRY`]: the node's address that the client used. [`TASK`]: the task's gateway address.
        local_be: u32,
        /// Network order.
        client_port_be: u16,
        /// [`ENTRY`]: the published port. [`TASK`]: the task's port. Network order.
        local_port_be: u16,
        /// IP protocol.
        protocol: u8,
        /// [`ENTRY`] or [`TASK`].
        side: u8,
        /// Zero.
        _pad: u16,
    }
}

/// [`FlowKey::side`]: client -> node's address and published port.
pub const ENTRY: u8 = 0;
/// [`FlowKey::side`]: task -> client.
pub const TASK: u8 = 1;

abi! {
    /// What is known of a flow.
    pub struct Flow: 32 {
        /// Monotonic time of the last packet from this side.
        last_seen_ns: u64,
        /// The backend that serves it; on the task's node for a tunnelled flow 0.
        backend: u32,
        /// [`ENTRY`] side: the interface that the client's packets came in through; replies leave there.
        ifindex: u32,
        /// [`TASK`] side: the address that the client used, put back as the source of replies. Network order.
        /// [`ENTRY`] side: the task's address.
        nat_addr_be: u32,
        /// [`TASK`] side: the node that the client entered through, 0 when it is this one. Network order.
        node_be: u32,
        /// [`TASK`] side: the published port. [`ENTRY`] side: the task's port. Network order.
        nat_port_be: u16,
        /// [`OPEN`] or [`CLOSING`].
        state: u8,
        /// Zero.
        _pad: [u8; 5],
    }
}

/// [`Flow::state`]: packets flow.
pub const OPEN: u8 = 0;
/// [`Flow::state`]: a FIN or RST was seen; a new SYN with the same addresses is a new flow.
pub const CLOSING: u8 = 1;
