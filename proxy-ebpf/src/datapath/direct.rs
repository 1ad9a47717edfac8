// SPDX-License-Identifier: MIT OR Apache-2.0
//! VIPs of the node's own network for clients outside: client -> this node -> a backend that is no task, by the
//! node's routes, and back. Only where the operator has asked for it ([`crate::abi::Settings::vip_network`]).
//!
//! The flow's ENTRY side is that of a published port. Its TASK side, marked DIRECT, is what the backend's replies are
//! found by when they come in through an uplink ([`reply`]). PRESERVE: the backend sees the client, so its replies
//! must have this node on their way. MASQUERADE: it sees this node and a port that no other flow to it has. DSR: it
//! gets the packet as it is, has the VIP itself, and answers the client without us: there is no TASK side.

use super::{
    Action, Maps, Nat, Out, Packet,
    flows::live,
    published::{Env, from_task},
};
use crate::abi::{
    Backend, Flow, FlowKey, Frontend, FrontendKey,
    backend::{LOCAL, REMOTE},
    flow::{AS_IS, CLOSING, DIRECT, TASK},
    frontend::{DSR, VIP},
    limits::MASQUERADE_TRIES,
};

/// Whether a backend is no task.
#[inline(always)]
pub fn is_direct(backend: &Backend) -> bool {
    backend.flags & (LOCAL | REMOTE) == 0
}

/// The VIP's frontend that a packet is for: of its port, or of every port.
#[inline(always)]
pub fn frontend<'a, M: Maps>(maps: &'a M, packet: &Packet) -> Option<&'a Frontend> {
    let network = maps.vip_network();
    if network == 0 {
        return None;
    }
    let mut key = FrontendKey {
        network,
        addr_be: packet.dst_be,
        port_be: packet.dst_port_be,
        protocol: packet.protocol,
        kind: VIP,
    };
    if let Some(found) = maps.frontend(&key) {
        return Some(found);
    }
    key.port_be = 0;
    key.protocol = 0;
    maps.frontend(&key)
}

/// What a new flow keeps of how its backend is reached.
#[inline(always)]
pub fn flags(frontend: &Frontend, backend: &Backend) -> u8 {
    if is_direct(backend) && frontend.flags & DSR != 0 {
        AS_IS
    } else {
        0
    }
}

/// A port of this node under which a backend shall see the client, network order; 0 = there is none, or the node
/// has no address.
#[inline(always)]
pub fn masquerade<M: Maps>(maps: &M, env: &Env, packet: &Packet, flow: &Flow) -> u16 {
    let mut port_be = packet.src_port_be;
    if maps.node_be() == 0 {
        return 0;
    }
    for _ in 0..MASQUERADE_TRIES {
        let key = FlowKey::new(
            TASK,
            packet.protocol,
            (maps.node_be(), port_be),
            (flow.nat_addr_be, flow.nat_port_be),
        );
        let free = match live(maps, env, &key) {
            None => true,
            Some(owner) => {
                owner.state == CLOSING
                    || ((owner.peer_be, owner.peer_port_be) == packet.source()
                        && (owner.nat_addr_be, owner.nat_port_be) == packet.destination())
            }
        };
        if free {
            return port_be;
        }
        port_be = ((maps.random() as u16) | 0x8000).to_be();
    }
    0
}

/// To a backend that takes the packet as it is.
#[inline(always)]
pub fn as_is(flow: &Flow) -> Action {
    Action {
        nat: Nat::None,
        clamp_mss: false,
        out: Out::Route {
            next_be: flow.nat_addr_be,
        },
    }
}

/// A packet that came in through an uplink, if it is a backend's reply.
#[inline(always)]
pub fn reply<M: Maps>(maps: &M, env: &Env, packet: &mut Packet) -> Option<Action> {
    from_task(maps, env, packet, DIRECT)
}
