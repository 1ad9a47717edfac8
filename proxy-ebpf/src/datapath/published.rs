// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports: client -> any node -> a task on any node, and back, with the client's address kept.
//!
//! Life of a flow. The entry node sees the first packet at its uplink ([`from_client`]), chooses a task and
//! writes the ENTRY side. A local task gets the packet at once and the TASK side is written with it. A remote
//! task's node gets the packet unchanged through the tunnel ([`from_tunnel`]) with the task's name in the tunnel
//! key, and writes the TASK side there, with the entry node in it. The task's reply ([`from_task`]) gets back the
//! address that the client used, and leaves through the interface that the client came in by, or through the
//! tunnel to the entry node, which sends it out ([`from_tunnel`] again, task 0). FIN or RST from either side
//! marks the flow CLOSING: a SYN that uses the same addresses again is a new flow. States and timeouts are in
//! [`super::flows`], what is forgotten for lack of room in [`super::table`].
//!
//! A backend that does not answer a SYN is not asked again by the next one: see [`unanswered`].
//!
//! A task that is gone (no backend entry any more) is noticed by the entry node: a SYN or a datagram chooses
//! again, anything else is answered with RST so that the client reconnects. A segment of a flow that nobody here
//! knows is reset as well, unless the frontend chooses by hash: then it goes where every node sends it.
//!
//! Variants per frontend. DSR: the task's node sends replies out itself. MASQUERADE: the task sees the address of
//! the entry node and a port that is free there; a second ENTRY entry, marked BACK, leads replies to the client.
//! A task that calls its own node's published port and is given itself is masqueraded as well, because it would not
//! take a packet from its own address.
//!
//! ICMP errors are parsed into packets of the flow that they are about, in their own direction: they take the same
//! way and never open a flow.

use super::{
    Action, DENY, Maps, Nat, Out, Packet,
    direct::{self, is_direct},
    flows::{
        advance, alive, answered_state, complete, first_state, live, next_state, note_fragment, put, still,
    },
    observe::opened,
    select::{Who, by_hash, select},
};
use crate::abi::{
    Backend, Counter, Flow, FlowKey, Frontend, FrontendKey, PROTO_TCP,
    backend::{LOCAL, REMOTE, task_id},
    flow::{AS_IS, BACK, CLAMP, CLOSING, DIRECT, ENTRY, SYN, TASK},
    frontend::{DSR, MASQUERADE, PUBLISHED},
    limits::MASQUERADE_TRIES,
    tally,
};
use crate::datapath::packet::{Kind, TCP_RST};

/// What a program knows beside the packet.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    /// [`crate::abi::Settings::tunnel_ifindex`].
    pub tunnel_ifindex: u32,
    /// [`crate::abi::Settings::uplink_ifindex`].
    pub uplink_ifindex: u32,
    /// Interface that the packet came in through, or that replies to it have to leave by.
    pub ifindex: u32,
    /// Monotonic time in ticks.
    pub now: u32,
    /// The tables' generation ([`crate::abi::flow::GENERATION_MAX`]); 0 = nobody counts them, so nothing that was
    /// found is kept.
    pub generation: u16,
}

/// What the stages of a decision hand to each other: the object keeps it in a map and makes each stage a function of
/// its own, because the kernel's stack of 512 bytes has no room for all of them at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stage {
    /// The frontend that the client used.
    pub frontend: Frontend,
    /// Who serves the flow.
    pub backend: Backend,
    /// The ENTRY side; for what came through the tunnel, what the TASK side shall be.
    pub flow: Flow,
    /// What [`recognise`] has found out: [`UNKNOWN`] to [`FOUND`].
    pub known: u32,
    /// The backend of a flow that a new one takes the place of, if it still counts as open there; 0 = none.
    pub previous: u32,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: this is the answer.
    Answer(Action),
    /// [`open`], then [`remember`], then [`deliver`].
    Open,
    /// [`deliver`].
    Deliver,
}

/// A packet that arrived at an uplink.
#[inline(always)]
pub fn from_client<M: Maps>(maps: &M, env: &Env, packet: &mut Packet) -> Action {
    let mut stage = Stage::default();
    let step = recognise(maps, env, packet, &mut stage);
    match step.unwrap_or_else(|| look_up(maps, env, packet, &mut stage)) {
        Step::Answer(action) => return action,
        Step::Open => {
            let unserved = open(maps, env, packet, &mut stage);
            if let Some(reason) = unserved.or_else(|| remember(maps, env, packet, &mut stage)) {
                return refuse(packet, reason);
            }
        }
        Step::Deliver => {}
    }
    deliver(maps, env, packet, &mut stage)
}

/// First stage, the short way of most packets: their flow was found good under these tables and in this tick, and
/// they change nothing of what is remembered. Then the tables have nothing to say that the flow does not, and
/// [`look_up`] would come to the same. None: ask it.
#[inline(always)]
pub fn recognise<M: Maps>(maps: &M, env: &Env, packet: &Packet, stage: &mut Stage) -> Option<Step> {
    stage.known = UNKNOWN;
    if env.generation == 0 || packet.kind != Kind::Whole {
        return None;
    }
    match maps.gate(env.generation, packet) {
        None => return None,
        Some(false) => return Some(Step::Answer(Action::PASS)),
        Some(true) => stage.known = OURS,
    }
    let flow = maps.flow(&entry_key(packet))?;
    let same = flow.generation == env.generation
        && flow.seen == env.now
        && flow.ifindex == env.ifindex
        && flow.flags & BACK == 0
        && !packet.has_mss()
        && next_state(flow.state, packet) == flow.state;
    stage.known = FOUND;
    stage.flow = flow;
    if !same {
        return None;
    }
    if flow.node_be != 0 && flow.peer_be == 0 && env.tunnel_ifindex != 0 {
        return Some(Step::Answer(Action {
            nat: Nat::None,
            clamp_mss: false,
            out: Out::Tunnel {
                node_be: flow.node_be,
                task: task_id(flow.nat_addr_be),
            },
        }));
    }
    stage.backend = *maps.backend(flow.backend)?;
    stage.frontend.target_port_be = flow.nat_port_be;
    Some(Step::Deliver)
}

/// [`Stage::known`]: nothing.
pub const UNKNOWN: u32 = 0;
/// [`Stage::known`]: the packet is for a published port.
pub const OURS: u32 = 1;
/// [`Stage::known`]: and [`Stage::flow`] is what is remembered of its flow, timed out or not.
pub const FOUND: u32 = 2;

/// Second stage: whose packet is it?
#[inline(always)]
pub fn look_up<M: Maps>(maps: &M, env: &Env, packet: &mut Packet, stage: &mut Stage) -> Step {
    let vips = maps.vip_network() != 0;
    let local = stage.known != UNKNOWN && !vips || maps.is_local_addr(packet.dst_be);
    if stage.known == UNKNOWN && (!(local || vips) || !complete(maps, packet)) {
        note_gate(maps, env, packet, false);
        return Step::Answer(Action::PASS);
    }
    let mut found = None;
    if local {
        found = published(maps, packet.protocol, packet.dst_port_be);
    }
    if found.is_none() {
        found = direct::frontend(maps, packet);
    }
    let Some(frontend) = found else {
        note_gate(maps, env, packet, false);
        return Step::Answer(Action::PASS);
    };
    let key = entry_key(packet);
    if stage.known == UNKNOWN {
        note_gate(maps, env, packet, true);
        note_fragment(maps, packet);
        if let Some(flow) = maps.flow(&key) {
            stage.flow = flow;
            stage.known = FOUND;
        }
    }
    stage.frontend = *frontend;
    let mut gone = false;
    if stage.known == FOUND {
        let mut flow = stage.flow;
        if alive(maps, env, &flow) && flow.flags & BACK == 0 {
            gone = true;
            let begins = packet.is_syn() && flow.state == CLOSING;
            if !(begins || unanswered(env, frontend, &flow, packet))
                && let Some(backend) = maps.backend(flow.backend)
            {
                stage.backend = *backend;
                if packet.can_open() {
                    let state = next_state(flow.state, packet);
                    lead(&mut flow, frontend, backend, packet);
                    advance(
                        maps,
                        env,
                        packet,
                        &key,
                        &mut flow,
                        (state, env.ifindex),
                        env.generation,
                    );
                }
                stage.flow = flow;
                return Step::Deliver;
            }
        }
    }
    if !packet.can_open() {
        return Step::Answer(Action::PASS);
    }
    if packet.protocol == PROTO_TCP && !packet.is_syn() {
        if gone {
            return Step::Answer(refuse(packet, Counter::FlowBackendGone));
        }
        if !by_hash(frontend) || packet.tcp_flags & TCP_RST != 0 {
            return Step::Answer(refuse(packet, Counter::FlowUnknown));
        }
        maps.count(Counter::FlowAdopted);
    }
    if frontend.sources != 0 && maps.source(frontend.sources, packet.src_be) == Some(DENY) {
        return Step::Answer(Action::drop(Counter::SourceDenied));
    }
    Step::Open
}

/// Whether a client says its SYN again because the backend that it was given has not answered: it is dead, or out of
/// reach, and the provider does not know yet. Not where the backend follows from the addresses, nor where its answers
/// do not pass here.
#[inline(always)]
fn unanswered(env: &Env, frontend: &Frontend, flow: &Flow, packet: &Packet) -> bool {
    flow.state == SYN
        && packet.is_syn()
        && flow.seen != env.now
        && frontend.flags & DSR == 0
        && !by_hash(frontend)
}

#[inline(always)]
fn entry_key(packet: &Packet) -> FlowKey {
    FlowKey::new(ENTRY, packet.protocol, packet.source(), packet.destination())
}

#[inline(always)]
fn note_gate<M: Maps>(maps: &M, env: &Env, packet: &Packet, ours: bool) {
    if env.generation != 0 && packet.kind == Kind::Whole {
        maps.set_gate(env.generation, packet, ours);
    }
}

/// Third stage, for a flow's first packet: chooses who serves it. The reason, if nobody can.
#[inline(always)]
pub fn open<M: Maps>(maps: &M, env: &Env, packet: &Packet, stage: &mut Stage) -> Option<Counter> {
    let frontend = &stage.frontend;
    let mut who = Who::address(
        packet.src_be,
        packet.src_port_be,
        packet.dst_port_be,
        packet.protocol,
        env.now,
    );
    // A timed out flow is none; one that is not has come here because its backend did not answer.
    let again = stage.known == FOUND
        && alive(maps, env, &stage.flow)
        && unanswered(env, frontend, &stage.flow, packet);
    if again {
        who.avoid = stage.flow.backend;
        maps.count(Counter::FlowRetried);
    }
    let Some((id, backend)) = select(maps, frontend, &who) else {
        return Some(Counter::PublishedNoBackend);
    };
    let old = &stage.flow;
    let counts = stage.known == FOUND && old.state != CLOSING && old.flags & BACK == 0;
    stage.previous = if counts { old.backend } else { 0 };
    stage.backend = *backend;
    stage.flow = Flow {
        seen: env.now,
        backend: id,
        ifindex: env.ifindex,
        state: first_state(packet),
        flags: direct::flags(frontend, backend),
        generation: env.generation,
        ..Default::default()
    };
    lead(&mut stage.flow, frontend, backend, packet);
    None
}

/// What a flow keeps of its frontend and backend.
#[inline(always)]
fn lead(flow: &mut Flow, frontend: &Frontend, backend: &Backend, packet: &Packet) {
    flow.nat_addr_be = backend.addr_be;
    flow.nat_port_be = match backend.port_be {
        0 => target_port(frontend, packet.dst_port_be),
        port_be => port_be,
    };
    let named = backend.flags & REMOTE != 0 && backend.task == task_id(backend.addr_be);
    flow.node_be = if named { backend.node_be } else { 0 };
}

/// Fourth stage, for a flow's first packet: remembers the flow. The reason, if that cannot be done.
#[inline(always)]
pub fn remember<M: Maps>(maps: &M, env: &Env, packet: &Packet, stage: &mut Stage) -> Option<Counter> {
    let local = stage.backend.flags & LOCAL != 0;
    let itself = local && stage.backend.addr_be == packet.src_be;
    let direct = is_direct(&stage.backend);
    if direct && stage.frontend.flags & MASQUERADE != 0 {
        let port_be = direct::masquerade(maps, env, packet, &stage.flow);
        if port_be == 0 {
            return Some(Counter::MasqueradeFull);
        }
        stage.flow.peer_be = maps.node_be();
        stage.flow.peer_port_be = port_be;
    } else if stage.frontend.flags & MASQUERADE != 0 || itself {
        let port_be = masquerade(maps, env, packet, &stage.flow);
        if port_be == 0 {
            return Some(Counter::MasqueradeFull);
        }
        stage.flow.peer_be = packet.dst_be;
        stage.flow.peer_port_be = port_be;
    }
    let key = FlowKey::new(ENTRY, packet.protocol, packet.source(), packet.destination());
    let flow = stage.flow;
    put(maps, &key, &flow);
    maps.tally(flow.backend, tally::FLOW);
    if stage.previous != 0 {
        maps.tally(stage.previous, tally::ENDED);
    }
    let counter = if local {
        Counter::FlowLocal
    } else if direct {
        Counter::FlowDirect
    } else {
        Counter::FlowRemote
    };
    opened(maps, counter, env, packet, stage);
    None
}

/// Finds a port under which the task shall see the client, and remembers whose it is; 0 = there is none.
#[inline(always)]
fn masquerade<M: Maps>(maps: &M, env: &Env, packet: &Packet, flow: &Flow) -> u16 {
    let mut port_be = packet.src_port_be;
    for _ in 0..MASQUERADE_TRIES {
        let key = back_key(packet, port_be);
        let free = match live(maps, env, &key) {
            None => true,
            Some(owner) => {
                owner.state == CLOSING
                    || (owner.peer_be == packet.src_be && owner.peer_port_be == packet.src_port_be)
            }
        };
        if free {
            break;
        }
        // Above the well-known ports, anywhere; the last one is not asked for but taken if it was free above.
        port_be = ((maps.random() as u16) | 0x8000).to_be();
    }
    let key = back_key(packet, port_be);
    let taken = live(maps, env, &key).is_some_and(|owner| {
        owner.state != CLOSING && (owner.peer_be != packet.src_be || owner.peer_port_be != packet.src_port_be)
    });
    if taken {
        return 0;
    }
    let back = Flow {
        // Counted under the client's own key.
        backend: 0,
        node_be: 0,
        peer_be: packet.src_be,
        peer_port_be: packet.src_port_be,
        flags: BACK,
        generation: 0,
        ..*flow
    };
    put(maps, &key, &back);
    port_be
}

#[inline(always)]
fn back_key(packet: &Packet, port_be: u16) -> FlowKey {
    FlowKey::new(
        ENTRY,
        packet.protocol,
        (packet.dst_be, port_be),
        packet.destination(),
    )
}

/// Last stage: to the task, here or through the tunnel.
#[inline(always)]
pub fn deliver<M: Maps>(maps: &M, env: &Env, packet: &Packet, stage: &mut Stage) -> Action {
    let (backend, flow) = (&stage.backend, &stage.flow);
    let direct = is_direct(backend);
    if direct && flow.flags & AS_IS != 0 {
        return direct::as_is(flow);
    }
    if !direct && backend.flags & LOCAL == 0 {
        if env.tunnel_ifindex == 0 {
            return refuse(packet, Counter::NoTunnel);
        }
        let nat = if flow.peer_be == 0 {
            Nat::None
        } else {
            Nat::Source(flow.peer_be, flow.peer_port_be)
        };
        return Action {
            nat,
            clamp_mss: packet.has_mss(),
            out: Out::Tunnel {
                node_be: backend.node_be,
                task: backend.task,
            },
        };
    }
    if direct {
        stage.frontend.target_port_be = flow.nat_port_be;
    }
    stage.flow = Flow {
        backend: flow.backend,
        ifindex: env.ifindex,
        peer_be: flow.peer_be,
        peer_port_be: flow.peer_port_be,
        flags: if direct { DIRECT } else { 0 },
        ..Default::default()
    };
    to_task(maps, env, packet, stage)
}

/// Writes the TASK side when it is new or differs, and sends the packet into the task's veth. The stage's flow says
/// where replies go, and in `peer` what the task sees as the client, if not the client.
#[inline(always)]
pub fn to_task<M: Maps>(maps: &M, env: &Env, packet: &Packet, stage: &mut Stage) -> Action {
    let reply = &stage.flow;
    let to = (
        stage.backend.addr_be,
        target_port(&stage.frontend, packet.dst_port_be),
    );
    let masked = reply.peer_be != 0;
    let seen_as = if masked {
        (reply.peer_be, reply.peer_port_be)
    } else {
        packet.source()
    };
    let key = FlowKey::new(TASK, packet.protocol, seen_as, to);
    let found = live(maps, env, &key);
    // All of it has a value in any case: the verifier of older kernels refuses a copy of what an Option has not.
    let (known, old) = (found.is_some(), found.unwrap_or_default());
    if packet.can_open() {
        let state = if known && !(packet.is_syn() && old.state == CLOSING) {
            next_state(old.state, packet)
        } else {
            first_state(packet)
        };
        let flow = Flow {
            seen: env.now,
            nat_addr_be: packet.dst_be,
            nat_port_be: packet.dst_port_be,
            peer_be: if masked { packet.src_be } else { 0 },
            peer_port_be: if masked { packet.src_port_be } else { 0 },
            state,
            ..*reply
        };
        if !known || old != flow {
            put(maps, &key, &flow);
        }
        if !known && reply.backend == 0 {
            opened(maps, Counter::FlowTunnel, env, packet, stage);
        }
    } else if !known {
        return Action::drop(Counter::TunnelUnknownFlow);
    }
    let backend = &stage.backend;
    Action {
        nat: if masked {
            Nat::Both(seen_as, to)
        } else {
            Nat::Destination(to.0, to.1)
        },
        clamp_mss: false,
        out: if is_direct(backend) {
            Out::Route { next_be: 0 }
        } else {
            Out::Veth {
                ifindex: backend.ifindex,
                mac: backend.mac,
                gateway_mac: backend.gateway_mac,
            }
        },
    }
}

/// A packet that a task sent through its gateway veth; `None` when it is no reply of a published port, or of a flow
/// without these flags.
#[inline(always)]
pub fn from_task<M: Maps>(maps: &M, env: &Env, packet: &mut Packet, flags: u8) -> Option<Action> {
    if !complete(maps, packet) {
        return None;
    }
    let key = FlowKey::new(TASK, packet.protocol, packet.destination(), packet.source());
    let mut flow = live(maps, env, &key)?;
    if flow.flags & flags != flags {
        return None;
    }
    note_fragment(maps, packet);
    let used = (flow.nat_addr_be, flow.nat_port_be);
    let client = if flow.peer_be == 0 {
        packet.destination()
    } else {
        (flow.peer_be, flow.peer_port_be)
    };
    let state = answered_state(flow.state, packet);
    let stale = flow.seen != env.now || state != flow.state;
    if stale && packet.can_open() {
        let ifindex = flow.ifindex;
        let found = still(env, &flow);
        advance(maps, env, packet, &key, &mut flow, (state, ifindex), found);
        if flow.node_be == 0 && flow.flags & CLAMP == 0 {
            touch_entry(maps, env, packet, client, used);
        }
    }
    let nat = if flow.peer_be == 0 {
        Nat::Source(used.0, used.1)
    } else {
        Nat::Both(used, client)
    };
    let out = if flow.node_be == 0 {
        Out::Neighbour {
            ifindex: flow.ifindex,
        }
    } else {
        Out::Tunnel {
            node_be: flow.node_be,
            task: 0,
        }
    };
    Some(Action {
        nat,
        clamp_mss: packet.has_mss() && (flow.node_be != 0 || flow.flags & CLAMP != 0),
        out,
    })
}

/// A packet that another node sent through the tunnel: `task` from the tunnel key, `node_be` its sender.
#[inline(always)]
pub fn from_tunnel<M: Maps>(maps: &M, env: &Env, packet: &mut Packet, task: u32, node_be: u32) -> Action {
    let mut stage = Stage::default();
    match unpack(maps, env, packet, (task, node_be), &mut stage) {
        Unpacked::Answer(action) => action,
        Unpacked::Reply => reply_from_tunnel(maps, env, packet),
        Unpacked::ForTask => to_task(maps, env, packet, &mut stage),
    }
}

/// What came through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// Nothing that could be delivered: this is the answer.
    Answer(Action),
    /// A reply: [`reply_from_tunnel`].
    Reply,
    /// A packet for a task: [`to_task`].
    ForTask,
}

/// First stage of what came through the tunnel.
#[inline(always)]
pub fn unpack<M: Maps>(
    maps: &M,
    env: &Env,
    packet: &mut Packet,
    (task, node_be): (u32, u32),
    stage: &mut Stage,
) -> Unpacked {
    if !complete(maps, packet) {
        return Unpacked::Answer(Action::drop(Counter::FragmentUnknown));
    }
    note_fragment(maps, packet);
    if task == 0 {
        return Unpacked::Reply;
    }
    let Some(frontend) = published(maps, packet.protocol, packet.dst_port_be) else {
        return Unpacked::Answer(refuse_tunnelled(packet));
    };
    let Some(task) = maps.local_task(task) else {
        return Unpacked::Answer(refuse_tunnelled(packet));
    };
    stage.frontend = *frontend;
    stage.backend = Backend {
        addr_be: task.addr_be,
        ifindex: task.ifindex,
        mac: task.mac,
        gateway_mac: task.gateway_mac,
        flags: LOCAL,
        ..Default::default()
    };
    stage.flow = if frontend.flags & DSR != 0 && env.uplink_ifindex != 0 {
        Flow {
            ifindex: env.uplink_ifindex,
            flags: CLAMP,
            ..Default::default()
        }
    } else {
        Flow {
            ifindex: env.ifindex,
            node_be,
            ..Default::default()
        }
    };
    Unpacked::ForTask
}

/// A task's reply at the entry node.
#[inline(always)]
pub fn reply_from_tunnel<M: Maps>(maps: &M, env: &Env, packet: &Packet) -> Action {
    let key = FlowKey::new(ENTRY, packet.protocol, packet.destination(), packet.source());
    let Some(mut flow) = live(maps, env, &key) else {
        return Action::drop(Counter::TunnelUnknownFlow);
    };
    let state = answered_state(flow.state, packet);
    let stale = flow.seen != env.now || state != flow.state;
    let back = flow.flags & BACK != 0;
    let client = (flow.peer_be, flow.peer_port_be);
    if stale && packet.can_open() {
        let ifindex = flow.ifindex;
        let found = still(env, &flow);
        advance(maps, env, packet, &key, &mut flow, (state, ifindex), found);
        if back {
            touch_entry(maps, env, packet, client, packet.source());
        }
    }
    Action {
        nat: if back {
            Nat::Destination(client.0, client.1)
        } else {
            Nat::None
        },
        clamp_mss: false,
        out: Out::Neighbour {
            ifindex: flow.ifindex,
        },
    }
}

/// A reply's part in the client's own entry: it shows that the flow lives, or ends.
#[inline(always)]
fn touch_entry<M: Maps>(maps: &M, env: &Env, packet: &Packet, client: (u32, u16), used: (u32, u16)) {
    let key = FlowKey::new(ENTRY, packet.protocol, client, used);
    if let Some(mut flow) = live(maps, env, &key) {
        let state = answered_state(flow.state, packet);
        let ifindex = flow.ifindex;
        let found = still(env, &flow);
        advance(maps, env, packet, &key, &mut flow, (state, ifindex), found);
    }
}

/// Refused with an answer, if its kind may be answered: never a RST (RFC 9293 section 3.5.2), never an error or a
/// later fragment (RFC 1122 section 3.2.2).
#[inline(always)]
pub fn refuse(packet: &Packet, reason: Counter) -> Action {
    if packet.tcp_flags & TCP_RST != 0 || !packet.can_open() {
        Action::drop(reason)
    } else {
        Action::refuse(reason)
    }
}

/// A packet for a task that is not here. Its client's SYN or datagram comes again, and then the entry node has heard
/// that the task is gone and chooses another, or this one has heard of a new task: an answer would only make a failure
/// of what is a delay. What belongs to a connection is refused, because nothing brings that back.
#[inline(always)]
fn refuse_tunnelled(packet: &Packet) -> Action {
    if packet.protocol == PROTO_TCP && !packet.is_syn() {
        refuse(packet, Counter::TunnelUnknownTask)
    } else {
        Action::drop(Counter::TunnelUnknownTask)
    }
}

#[inline(always)]
fn published<M: Maps>(maps: &M, protocol: u8, port_be: u16) -> Option<&Frontend> {
    maps.frontend(&FrontendKey {
        port_be,
        protocol,
        kind: PUBLISHED,
        ..Default::default()
    })
}

#[inline(always)]
pub(super) fn target_port(frontend: &Frontend, published_be: u16) -> u16 {
    if frontend.target_port_be == 0 {
        published_be
    } else {
        frontend.target_port_be
    }
}
