// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings: read-only globals of the programs, fixed when they are loaded.

use super::flow::{ANSWERED, CLOSING, DATAGRAM, OPEN, STATES, STREAM, SYN};

abi! {
    /// The programs' configuration.
    pub struct Settings: 68 {
        /// Interface of the tunnel; 0 = no tunnel (remote backends cannot be reached).
        tunnel_ifindex: u32,
        /// This node as the other nodes know it (tunnel source), network order; 0 = unknown.
        node_be: u32,
        /// Largest TCP MSS of a tunnelled flow, bytes; 0 = do not clamp.
        tunnel_mss: u32,
        /// Interface that direct replies of tunnelled flows leave through; 0 = they go back through the tunnel.
        uplink_ifindex: u32,
        /// Number of flow buckets minus 1; the number is a power of two.
        flow_mask: u32,
        /// What uplinks drop before all else: [`DENY_LIST`], [`IMPOSSIBLE`].
        guard: u32,
        /// SYNs to published ports that a prefix of clients may send in a tick; 0 = any number.
        syn_rate: u32,
        /// The bits of an address that make such a prefix, network order.
        syn_mask_be: u32,
        /// The network whose VIPs clients outside may use; 0 = none. They are sent from `node_be`.
        vip_network: u32,
        /// Ticks after which a flow is forgotten, by [`super::Flow::state`].
        timeouts: [u32; STATES],
    }
}

/// [`Settings::guard`]: addresses of the deny list.
pub const DENY_LIST: u32 = 1;
/// [`Settings::guard`]: packets that no honest sender makes.
pub const IMPOSSIBLE: u32 = 2;

/// A tick is 2^30 ns, 1.07 s: the programs divide by shifting.
pub const TICK_SHIFT: u32 = 30;

/// Ticks in a number of seconds, rounded up.
pub const fn ticks(seconds: u32) -> u32 {
    ((seconds as u64 * 1_000_000_000).div_ceil(1 << TICK_SHIFT)) as u32
}

/// How long flows are remembered after their last packet, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A SYN that nobody followed up: longer than a client's retransmissions take (RFC 6298: 1 + 2 + 4 + … + 32).
    pub syn: u32,
    /// Open connections: as long as the kernel's own connection tracking remembers them, five days.
    pub established: u32,
    /// After a FIN or RST: two maximum segment lifetimes of 60 s (RFC 9293 has 2 minutes, systems use 30 to 60 s).
    pub fin: u32,
    /// One datagram: 2 minutes (RFC 4787 REQ-5).
    pub udp: u32,
    /// More than one: 5 minutes, what RFC 4787 recommends.
    pub udp_stream: u32,
}

impl Timeouts {
    /// What is used unless the operator says otherwise.
    pub const DEFAULT: Timeouts = Timeouts {
        syn: 63,
        established: 432_000,
        fin: 120,
        udp: 120,
        udp_stream: 300,
    };

    /// As the programs want them.
    pub const fn by_state(&self) -> [u32; STATES] {
        let mut found = [0; STATES];
        found[SYN as usize] = ticks(self.syn);
        found[ANSWERED as usize] = ticks(self.syn);
        found[OPEN as usize] = ticks(self.established);
        found[CLOSING as usize] = ticks(self.fin);
        found[DATAGRAM as usize] = ticks(self.udp);
        found[STREAM as usize] = ticks(self.udp_stream);
        found
    }
}

impl Settings {
    /// No tunnel, default timeouts, and flow buckets for a handful of flows: for tests.
    pub const SMALL: Settings = Settings {
        tunnel_ifindex: 0,
        node_be: 0,
        tunnel_mss: 0,
        uplink_ifindex: 0,
        flow_mask: 1023,
        guard: 0,
        syn_rate: 0,
        syn_mask_be: 0,
        vip_network: 0,
        timeouts: Timeouts::DEFAULT.by_state(),
    };
}

/// Bytes that the tunnel adds to a packet: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348).
pub const TUNNEL_OVERHEAD: u32 = 20 + 8 + 8 + 14;
/// Bytes of IPv4 and TCP header without options: what MSS leaves out of the MTU (RFC 9293 section 3.7.1).
pub const TCP_IP_HEADERS: u32 = 20 + 20;
/// UDP port of the tunnel. Not 4789: an external-mode device there collides with Docker's own.
pub const TUNNEL_PORT: u16 = 4790;
