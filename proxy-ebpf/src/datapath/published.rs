// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports: client -> any node -> a task on any node, and back, with the client's address kept.
//!
//! Life of a flow. The entry node sees the first packet at its uplink ([`from_client`]), chooses a task and
//! writes the ENTRY side. A local task gets the packet at once and the TASK side is written with it. A remote
//! task's node gets the packet unchanged through the tunnel ([`from_tunnel`]) with the task's name in the tunnel
//! key, and writes the TASK side there, with the entry node in it. The task's reply ([`from_task`]) gets back the
//! address that the client used, and leaves through the interface that the client came in by, or through the
//! tunnel to the entry node, which sends it out ([`from_tunnel`] again, task 0). FIN or RST from either side
//! marks the flow CLOSING: a SYN that uses the same addresses again is a new flow. Entries are forgotten by the
//! map's own least-recently-used order.
//!
//! A task that is gone (no backend entry any more) is noticed by the entry node: a SYN or a datagram chooses
//! again, anything else is answered with RST so that the client reconnects.

use super::{Action, Maps, Nat, Out, Packet, select::select};
use crate::abi::{
    Backend, Counter, Flow, FlowKey, Frontend, FrontendKey, LocalTask, PROTO_TCP, Settings,
    backend::LOCAL,
    flow::{CLOSING, ENTRY, OPEN, TASK},
    frontend::PUBLISHED,
};
use crate::datapath::packet::TCP_RST;

/// A known flow's time stamp is written at most this often, so that most packets write nothing.
const TOUCH_NS: u64 = 1_000_000_000;

/// What a program knows beside the packet.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    /// The agent's settings.
    pub settings: Settings,
    /// Interface that the packet came in through.
    pub ifindex: u32,
    /// Monotonic time.
    pub now_ns: u64,
}

/// A packet that arrived at an uplink.
#[inline(always)]
pub fn from_client<M: Maps>(maps: &M, env: &Env, packet: &Packet) -> Action {
    if !maps.is_local_addr(packet.dst_be) {
        return Action::PASS;
    }
    let Some(frontend) = published(maps, packet.protocol, packet.dst_port_be) else {
        return Action::PASS;
    };
    let key = entry_key(packet);
    let known = maps.flow(&key);
    if let Some(mut flow) = known
        && !(packet.is_syn() && flow.state == CLOSING)
        && let Some(backend) = maps.backend(flow.backend)
    {
        let stale = env.now_ns.wrapping_sub(flow.last_seen_ns) > TOUCH_NS;
        let closes = packet.is_closing() && flow.state != CLOSING;
        if stale || closes || flow.ifindex != env.ifindex {
            flow.last_seen_ns = env.now_ns;
            flow.ifindex = env.ifindex;
            if closes {
                flow.state = CLOSING;
            }
            maps.set_flow(&key, &flow);
        }
        return deliver(maps, env, packet, &frontend, &backend, flow.state);
    }
    if packet.protocol == PROTO_TCP && !packet.is_syn() {
        // A RST is never answered (RFC 9293 section 3.5.2).
        let reason = if known.is_some() {
            Counter::FlowBackendGone
        } else {
            Counter::FlowUnknown
        };
        return if packet.tcp_flags & TCP_RST != 0 {
            Action::drop(reason)
        } else {
            Action::refuse(reason)
        };
    }
    let Some((id, backend)) = select(maps, &frontend) else {
        return Action::refuse(Counter::PublishedNoBackend);
    };
    let flow = Flow {
        last_seen_ns: env.now_ns,
        backend: id,
        ifindex: env.ifindex,
        nat_addr_be: backend.addr_be,
        nat_port_be: target_port(&frontend, packet.dst_port_be),
        state: OPEN,
        ..Default::default()
    };
    if !maps.set_flow(&key, &flow) {
        maps.count(Counter::FlowTableFull);
    }
    maps.count(if backend.flags & LOCAL != 0 {
        Counter::FlowLocal
    } else {
        Counter::FlowRemote
    });
    deliver(maps, env, packet, &frontend, &backend, OPEN)
}

#[inline(always)]
fn deliver<M: Maps>(
    maps: &M,
    env: &Env,
    packet: &Packet,
    frontend: &Frontend,
    backend: &Backend,
    state: u8,
) -> Action {
    if backend.flags & LOCAL == 0 {
        if env.settings.tunnel_ifindex == 0 {
            return Action::refuse(Counter::NoTunnel);
        }
        return Action {
            nat: Nat::None,
            clamp_mss: packet.has_mss(),
            out: Out::Tunnel {
                node_be: backend.node_be,
                task: backend.task,
            },
        };
    }
    let task = LocalTask {
        addr_be: backend.addr_be,
        ifindex: backend.ifindex,
        mac: backend.mac,
        gateway_mac: backend.gateway_mac,
    };
    to_task(maps, env, packet, frontend, &task, 0, state)
}

/// Writes the TASK side when it is new or differs, and sends the packet into the task's veth.
#[inline(always)]
fn to_task<M: Maps>(
    maps: &M,
    env: &Env,
    packet: &Packet,
    frontend: &Frontend,
    task: &LocalTask,
    node_be: u32,
    state: u8,
) -> Action {
    let port_be = target_port(frontend, packet.dst_port_be);
    let key = FlowKey {
        client_be: packet.src_be,
        local_be: task.addr_be,
        client_port_be: packet.src_port_be,
        local_port_be: port_be,
        protocol: packet.protocol,
        side: TASK,
        _pad: 0,
    };
    let known = maps.flow(&key);
    let same = matches!(known, Some(f) if f.node_be == node_be && f.nat_addr_be == packet.dst_be
        && f.nat_port_be == packet.dst_port_be && f.ifindex == env.ifindex && f.state == state);
    if !same {
        let flow = Flow {
            last_seen_ns: env.now_ns,
            backend: 0,
            ifindex: env.ifindex,
            nat_addr_be: packet.dst_be,
            node_be,
            nat_port_be: packet.dst_port_be,
            state,
            ..Default::default()
        };
        if !maps.set_flow(&key, &flow) {
            maps.count(Counter::FlowTableFull);
        }
        if known.is_none() && node_be != 0 {
            maps.count(Counter::FlowTunnel);
        }
    }
    Action {
        nat: Nat::Destination(task.addr_be, port_be),
        clamp_mss: false,
        out: Out::Veth {
            ifindex: task.ifindex,
            mac: task.mac,
            gateway_mac: task.gateway_mac,
        },
    }
}

/// A packet that a task sent through its gateway veth.
#[inline(always)]
pub fn from_task<M: Maps>(maps: &M, packet: &Packet) -> Action {
    let key = FlowKey {
        client_be: packet.dst_be,
        local_be: packet.src_be,
        client_port_be: packet.dst_port_be,
        local_port_be: packet.src_port_be,
        protocol: packet.protocol,
        side: TASK,
        _pad: 0,
    };
    let Some(flow) = maps.flow(&key) else {
        return Action::PASS;
    };
    let nat = Nat::Source(flow.nat_addr_be, flow.nat_port_be);
    if flow.node_be != 0 {
        return Action {
            nat,
            clamp_mss: packet.has_mss(),
            out: Out::Tunnel {
                node_be: flow.node_be,
                task: 0,
            },
        };
    }
    if packet.is_closing() {
        close_entry(
            maps,
            packet.dst_be,
            packet.dst_port_be,
            flow.nat_addr_be,
            flow.nat_port_be,
            packet.protocol,
        );
    }
    Action {
        nat,
        clamp_mss: false,
        out: Out::Neighbour {
            ifindex: flow.ifindex,
        },
    }
}

/// A packet that another node sent through the tunnel: `task` from the tunnel key, `node_be` its sender.
#[inline(always)]
pub fn from_tunnel<M: Maps>(maps: &M, env: &Env, packet: &Packet, task: u32, node_be: u32) -> Action {
    if task == 0 {
        return reply_from_tunnel(maps, packet);
    }
    let Some(frontend) = published(maps, packet.protocol, packet.dst_port_be) else {
        return refuse_tunnelled(packet);
    };
    let Some(task) = maps.local_task(task) else {
        return refuse_tunnelled(packet);
    };
    let state = if packet.is_closing() { CLOSING } else { OPEN };
    to_task(maps, env, packet, &frontend, &task, node_be, state)
}

/// A task's reply at the entry node.
#[inline(always)]
fn reply_from_tunnel<M: Maps>(maps: &M, packet: &Packet) -> Action {
    let key = FlowKey {
        client_be: packet.dst_be,
        local_be: packet.src_be,
        client_port_be: packet.dst_port_be,
        local_port_be: packet.src_port_be,
        protocol: packet.protocol,
        side: ENTRY,
        _pad: 0,
    };
    let Some(flow) = maps.flow(&key) else {
        return Action::drop(Counter::TunnelUnknownFlow);
    };
    if packet.is_closing() {
        close_entry(
            maps,
            packet.dst_be,
            packet.dst_port_be,
            packet.src_be,
            packet.src_port_be,
            packet.protocol,
        );
    }
    Action {
        nat: Nat::None,
        clamp_mss: false,
        out: Out::Neighbour {
            ifindex: flow.ifindex,
        },
    }
}

#[inline(always)]
fn refuse_tunnelled(packet: &Packet) -> Action {
    // UDP: an ICMP error would need a tunnel form of its own; the client's next datagram chooses again.
    if packet.protocol == PROTO_TCP && packet.tcp_flags & TCP_RST == 0 {
        Action::refuse(Counter::TunnelUnknownTask)
    } else {
        Action::drop(Counter::TunnelUnknownTask)
    }
}

#[inline(always)]
fn close_entry<M: Maps>(
    maps: &M,
    client_be: u32,
    client_port_be: u16,
    local_be: u32,
    local_port_be: u16,
    protocol: u8,
) {
    let key = FlowKey {
        client_be,
        local_be,
        client_port_be,
        local_port_be,
        protocol,
        side: ENTRY,
        _pad: 0,
    };
    if let Some(mut flow) = maps.flow(&key)
        && flow.state != CLOSING
    {
        flow.state = CLOSING;
        maps.set_flow(&key, &flow);
    }
}

#[inline(always)]
fn published<M: Maps>(maps: &M, protocol: u8, port_be: u16) -> Option<Frontend> {
    maps.frontend(&FrontendKey {
        port_be,
        protocol,
        kind: PUBLISHED,
        ..Default::default()
    })
}

#[inline(always)]
fn entry_key(packet: &Packet) -> FlowKey {
    FlowKey {
        client_be: packet.src_be,
        local_be: packet.dst_be,
        client_port_be: packet.src_port_be,
        local_port_be: packet.dst_port_be,
        protocol: packet.protocol,
        side: ENTRY,
        _pad: 0,
    }
}

#[inline(always)]
fn target_port(frontend: &Frontend, published_be: u16) -> u16 {
    if frontend.target_port_be == 0 {
        published_be
    } else {
        frontend.target_port_be
    }
}
