// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a tc program does with a packet.

use crate::abi::Counter;

/// Which end of the packet is translated, and to what (network order).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Nothing.
    None,
    /// Destination address and port.
    Destination(u32, u16),
    /// Source address and port.
    Source(u32, u16),
}

/// Where the packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// On to the node's stack, unchanged: not ours.
    Pass,
    /// Dropped without an answer.
    Drop(Counter),
    /// Answered to its sender: TCP with RST, UDP with ICMP port unreachable.
    Refuse(Counter),
    /// Into a task's gateway veth.
    Veth {
        /// Host side of the veth.
        ifindex: u32,
        /// The task's MAC.
        mac: [u8; 6],
        /// Source MAC.
        gateway_mac: [u8; 6],
    },
    /// Through the tunnel.
    Tunnel {
        /// The other node, network order.
        node_be: u32,
        /// The task there; 0 = a reply on its way to the client.
        task: u32,
    },
    /// Out of an interface, to whatever neighbour the routing table says.
    Neighbour {
        /// The interface.
        ifindex: u32,
    },
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// Translation, done before the packet leaves.
    pub nat: Nat,
    /// Lower the MSS option to the tunnel's, if the packet is a SYN.
    pub clamp_mss: bool,
    /// Where to.
    pub out: Out,
}

impl Action {
    /// Not ours.
    pub const PASS: Action = Action {
        nat: Nat::None,
        clamp_mss: false,
        out: Out::Pass,
    };

    /// Dropped, with its reason.
    #[inline(always)]
    pub const fn drop(reason: Counter) -> Action {
        Action {
            nat: Nat::None,
            clamp_mss: false,
            out: Out::Drop(reason),
        }
    }

    /// Refused, with its reason.
    #[inline(always)]
    pub const fn refuse(reason: Counter) -> Action {
        Action {
            nat: Nat::None,
            clamp_mss: false,
            out: Out::Refuse(reason),
        }
    }
}
