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
    /// Source, then destination.
    Both((u32, u16), (u32, u16)),
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
    /// To where the node's routes lead, if they lead out of it.
    Route {
        /// The next hop, network order; 0 = what the routes say of the destination.
        next_be: u32,
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

/// An [`Action`] without bytes of no meaning: the verifier refuses a program that copies what nobody wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flat {
    /// [`PASS`] to [`ROUTE`].
    pub out: u32,
    /// [`SOURCE`] and [`DESTINATION`]: which ends are translated.
    pub nat: u32,
    /// Not 0: [`Action::clamp_mss`].
    pub clamp_mss: u32,
    /// Number of the counter, interface or node.
    pub to: u32,
    /// The tunnel's task.
    pub task: u32,
    /// Destination MAC, source MAC.
    pub macs: [u8; 12],
    /// New source.
    pub source: (u32, u32),
    /// New destination.
    pub destination: (u32, u32),
}

/// [`Out::Pass`].
pub const PASS: u32 = 0;
/// [`Out::Drop`].
pub const DROP: u32 = 1;
/// [`Out::Refuse`].
pub const REFUSE: u32 = 2;
/// [`Out::Veth`].
pub const VETH: u32 = 3;
/// [`Out::Tunnel`].
pub const TUNNEL: u32 = 4;
/// [`Out::Neighbour`].
pub const NEIGHBOUR: u32 = 5;
/// [`Out::Route`].
pub const ROUTE: u32 = 6;
/// [`Flat::nat`]: the source is.
pub const SOURCE: u32 = 1;
/// [`Flat::nat`]: the destination is.
pub const DESTINATION: u32 = 2;

impl Flat {
    /// Takes the meaning of an action.
    #[inline(always)]
    pub fn set(&mut self, action: &Action) {
        self.clamp_mss = u32::from(action.clamp_mss);
        let ends = |addr: u32, port: u16| (addr, u32::from(port));
        match action.nat {
            Nat::None => self.nat = 0,
            Nat::Source(addr, port) => {
                self.nat = SOURCE;
                self.source = ends(addr, port);
            }
            Nat::Destination(addr, port) => {
                self.nat = DESTINATION;
                self.destination = ends(addr, port);
            }
            Nat::Both(source, destination) => {
                self.nat = SOURCE | DESTINATION;
                self.source = ends(source.0, source.1);
                self.destination = ends(destination.0, destination.1);
            }
        }
        match action.out {
            Out::Pass => self.out = PASS,
            Out::Drop(reason) => {
                self.out = DROP;
                self.to = reason as u32;
            }
            Out::Refuse(reason) => {
                self.out = REFUSE;
                self.to = reason as u32;
            }
            Out::Veth {
                ifindex,
                mac,
                gateway_mac,
            } => {
                self.out = VETH;
                self.to = ifindex;
                self.macs[..6].copy_from_slice(&mac);
                self.macs[6..].copy_from_slice(&gateway_mac);
            }
            Out::Tunnel { node_be, task } => {
                self.out = TUNNEL;
                self.to = node_be;
                self.task = task;
            }
            Out::Neighbour { ifindex } => {
                self.out = NEIGHBOUR;
                self.to = ifindex;
            }
            Out::Route { next_be } => {
                self.out = ROUTE;
                self.to = next_be;
            }
        }
    }
}
