// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings: read-only globals of the programs, fixed when they are loaded.

abi! {
    /// The programs' configuration.
    pub struct Settings: 16 {
        /// Interface of the tunnel; 0 = no tunnel (remote backends cannot be reached).
        tunnel_ifindex: u32,
        /// This node as the other nodes know it (tunnel source), network order; 0 = unknown.
        node_be: u32,
        /// Largest TCP MSS of a tunnelled flow, bytes; 0 = do not clamp.
        tunnel_mss: u32,
        /// Zero.
        _pad: u32,
    }
}

/// Bytes that the tunnel adds to a packet: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348).
pub const TUNNEL_OVERHEAD: u32 = 20 + 8 + 8 + 14;
/// Bytes of IPv4 and TCP header without options: what MSS leaves out of the MTU (RFC 9293 section 3.7.1).
pub const TCP_IP_HEADERS: u32 = 20 + 20;
/// UDP port of the tunnel. Not 4789: an external-mode device there collides with Docker's own.
pub const TUNNEL_PORT: u16 = 4790;
