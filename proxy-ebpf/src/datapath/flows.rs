// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a packet does to its flow's entry.
//!
//! TCP: SYN, ANSWERED with the task's SYN-ACK, OPEN with the client's next packet, CLOSING with the first FIN or RST of either side. UDP: DATAGRAM,
//! STREAM with the client's second. Each state has its timeout. An entry is written when its state changes and
//! otherwise at most once in a tick, so that most packets write nothing. Errors and later fragments change nothing.

use super::{
    Maps,
    observe::closed,
    packet::{Kind, Packet},
    published::Env,
    table::expired,
};
use crate::abi::{
    Counter, Flow, FlowKey, Fragment, FragmentKey, PROTO_TCP,
    flow::{ANSWERED, CLOSING, DATAGRAM, ENTRY, OPEN, STREAM, SYN},
    tally::ENDED,
};

/// The state of a flow that begins with this packet.
#[inline(always)]
pub fn first_state(packet: &Packet) -> u8 {
    if packet.protocol != PROTO_TCP {
        DATAGRAM
    } else if packet.is_closing() {
        CLOSING
    } else if packet.is_syn() {
        SYN
    } else {
        OPEN
    }
}

/// The state after a packet of the client.
#[inline(always)]
pub fn next_state(state: u8, packet: &Packet) -> u8 {
    if packet.is_closing() {
        CLOSING
    } else if matches!(state, SYN | ANSWERED) && !packet.is_syn() {
        OPEN
    } else if state == DATAGRAM {
        STREAM
    } else {
        state
    }
}

/// The state after a packet of the task.
#[inline(always)]
pub fn answered_state(state: u8, packet: &Packet) -> u8 {
    if packet.is_closing() {
        CLOSING
    } else if state == SYN && packet.is_syn_ack() {
        ANSWERED
    } else {
        state
    }
}

/// A flow that has not timed out.
#[inline(always)]
pub fn live<M: Maps>(maps: &M, env: &Env, key: &FlowKey) -> Option<Flow> {
    maps.flow(key).filter(|flow| alive(maps, env, flow))
}

/// Whether a flow has not timed out.
#[inline(always)]
pub fn alive<M: Maps>(maps: &M, env: &Env, flow: &Flow) -> bool {
    !expired(env.now, flow.seen, maps.timeout(flow.state))
}

/// Writes a flow and accounts for the one that had to go.
#[inline(always)]
pub fn put<M: Maps>(maps: &M, key: &FlowKey, flow: &Flow) {
    let Some(stored) = maps.set_flow(key, flow) else {
        maps.count(Counter::FlowTableBusy);
        return;
    };
    if stored.evicted {
        maps.count(Counter::FlowEvicted);
    }
    if stored.backend != 0 {
        maps.tally(stored.backend, ENDED);
    }
}

/// The generation under which a flow is still known to be good when a packet comes that did not ask the tables. What
/// was silent for more than a tick may have missed so many that the numbers begin again.
#[inline(always)]
pub fn still(env: &Env, flow: &Flow) -> u16 {
    if flow.generation == env.generation && env.now.wrapping_sub(flow.seen) <= 1 {
        flow.generation
    } else {
        0
    }
}

/// Brings an entry up to date with a packet that it has seen: state and interface, and the generation of the tables
/// that the flow was found good under. Nothing is written as long as a tick brings nothing new but the last.
#[inline(always)]
pub fn advance<M: Maps>(
    maps: &M,
    env: &Env,
    packet: &Packet,
    key: &FlowKey,
    flow: &mut Flow,
    (state, ifindex): (u8, u32),
    generation: u16,
) {
    if flow.state == state && flow.seen == env.now && flow.ifindex == ifindex {
        return;
    }
    // Where it was copied from `flow.state`, the verifier of Linux 6.1 to 6.4 takes the two for the same on every way
    // to here and the next branch away (fixed by commit 1ffc85d9298e); a byte of memory is nobody's copy.
    let state = core::hint::black_box(state);
    if state == CLOSING && flow.state != CLOSING && key.side == ENTRY && flow.backend != 0 {
        maps.tally(flow.backend, ENDED);
        closed(maps, env, packet, key, flow);
    }
    flow.state = state;
    flow.seen = env.now;
    flow.ifindex = ifindex;
    flow.generation = generation;
    put(maps, key, flow);
}

/// Gives a later fragment the ports that its datagram's first one had; false when that was not seen.
#[inline(always)]
pub fn complete<M: Maps>(maps: &M, packet: &mut Packet) -> bool {
    let Kind::Later(id_be) = packet.kind else {
        return true;
    };
    let Some(ports) = maps.fragment(&fragment_key(packet, id_be)) else {
        return false;
    };
    packet.src_port_be = ports.src_port_be;
    packet.dst_port_be = ports.dst_port_be;
    true
}

/// Remembers the ports of a datagram whose first fragment this is.
#[inline(always)]
pub fn note_fragment<M: Maps>(maps: &M, packet: &Packet) {
    if let Kind::First(id_be) = packet.kind {
        let ports = Fragment {
            src_port_be: packet.src_port_be,
            dst_port_be: packet.dst_port_be,
        };
        maps.set_fragment(&fragment_key(packet, id_be), &ports);
    }
}

#[inline(always)]
fn fragment_key(packet: &Packet, id_be: u16) -> FragmentKey {
    FragmentKey {
        src_be: packet.src_be,
        dst_be: packet.dst_be,
        id_be,
        protocol: packet.protocol,
        _pad: 0,
    }
}
