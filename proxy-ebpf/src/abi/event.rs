// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs tell somebody who observes: flows that were opened and ended, packets and connects that were
//! refused.

abi! {
    /// One event. Addresses and ports in network order, IPv4 addresses in their mapped form (RFC 4291 section 2.5.5.2);
    /// what is not known is 0.
    pub struct Event: 88 {
        /// Netns cookie of the socket that asked; 0 = it is about a packet.
        namespace: u64,
        /// Who sent it; 0 for a socket.
        from: [u32; 4],
        /// The address that was used.
        to: [u32; 4],
        /// The task's address.
        task: [u32; 4],
        /// Id of the backend that was chosen; 0 for what came through the tunnel.
        backend: u32,
        /// The other node: where the task is, or where the client came in.
        node_be: u32,
        /// The VIP's network; 0 = a published port, or none.
        network: u32,
        /// Interface that the packet came in through.
        ifindex: u32,
        /// Port of `from`.
        from_port_be: u16,
        /// Port of `to`.
        to_port_be: u16,
        /// Port of `task`.
        task_port_be: u16,
        /// IP protocol.
        protocol: u8,
        /// Number of the [`super::Counter`] that counted it.
        reason: u8,
        /// TCP flags of the packet.
        tcp_flags: u8,
        /// Of an end, 1 if the task sent the packet and not the client.
        by_task: u8,
        /// Zero.
        _pad: [u8; 2],
        /// A hash of the flow or socket, by which [`is_sampled`] knows it.
        chance: u32,
    }
}

abi! {
    /// What somebody wants to be told; all zero = nothing.
    ///
    /// Written by the agent while somebody observes, again and again: an agent that was killed leaves one that runs out.
    pub struct Watch: 16 {
        /// One of so many flows; 1 = all, 0 = none.
        flows: u32,
        /// Not 0: whatever is dropped or refused.
        drops: u32,
        /// The tick in which it runs out.
        until: u32,
        /// Zero.
        _pad: u32,
    }
}

/// Whether a flow with this [`Event::chance`] is one of so many. Who asks for fewer gets a part of what who asks for
/// more gets, and the end of each flow whose beginning he got.
#[inline(always)]
pub const fn is_sampled(chance: u32, one_of: u32) -> bool {
    (chance as u64 * one_of as u64) >> 32 == 0
}

impl Watch {
    /// How long a watch is good for, in ticks: the agent renews it every second and may be late.
    pub const TICKS: u32 = 5;
}
