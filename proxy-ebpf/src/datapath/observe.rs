// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is told to somebody who observes, and how much of it.
//!
//! Nobody asks whether somebody observes but who opens or ends a flow or refuses something: the other packets of known
//! flows do not come by here.

use super::{
    Bytes, Maps, Packet,
    hash::{mix, mix2},
    ip::Ip,
    ipv6::{IP_LEN, PROTOCOL, SOURCE},
    packet::{ETH_LEN, TCP_RST},
    published::{Env, Stage, target_port},
    sock::{Address, Caller},
};
use crate::abi::{Counter, Event, Flow, FlowKey, Watch, event::is_sampled, limits::EVENTS_MAX};

/// What one CPU has told in one tick.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    tick: u32,
    told: u32,
}

impl Budget {
    /// Whether one more may be told: [`EVENTS_MAX`] in a tick.
    #[inline(always)]
    pub fn admit(&mut self, now: u32) -> bool {
        if self.tick != now {
            self.tick = now;
            self.told = 0;
        }
        self.told += 1;
        self.told <= EVENTS_MAX
    }
}

#[inline(always)]
fn holds(watch: &Watch, now: u32) -> bool {
    watch.until.wrapping_sub(now) as i32 > 0
}

#[inline(always)]
fn wants_flows<M: Maps>(maps: &M, now: u32) -> bool {
    let watch = maps.watch();
    watch.flows != 0 && holds(&watch, now)
}

#[inline(always)]
fn wants_flow<M: Maps>(maps: &M, chance: u32) -> bool {
    is_sampled(chance, maps.watch().flows)
}

/// The same for all packets of a flow, here and at its task's node, so its end is told if its beginning was.
#[inline(always)]
fn chance(protocol: u8, client: (u32, u16), used: (u32, u16)) -> u32 {
    let addresses = u64::from(client.0) << 32 | u64::from(used.0);
    let ports = u64::from(client.1) << 32 | u64::from(used.1) << 16 | u64::from(protocol);
    (mix2(addresses, ports) >> 32) as u32
}

#[inline(always)]
fn wants_drops<M: Maps>(maps: &M, now: u32) -> bool {
    let watch = maps.watch();
    watch.drops != 0 && holds(&watch, now)
}

/// Counts a flow of a published port that was opened, and tells it.
#[inline(always)]
pub fn opened<M: Maps>(maps: &M, counter: Counter, env: &Env, packet: &Packet, stage: &Stage) {
    maps.count(counter);
    if wants_flows(maps, env.now) {
        tell_flow(maps, counter, env, packet, stage);
    }
}

#[inline(never)]
fn tell_flow<M: Maps>(maps: &M, counter: Counter, env: &Env, packet: &Packet, stage: &Stage) {
    let chance = chance(packet.protocol, packet.source(), packet.destination());
    if wants_flow(maps, chance) {
        maps.tell(env.now, || Event {
            backend: stage.flow.backend,
            task: stage.backend.addr_be.words(),
            task_port_be: target_port(&stage.frontend, packet.dst_port_be),
            node_be: stage.backend.node_be | stage.flow.node_be,
            chance,
            ..about(counter as u32, env, packet)
        });
    }
}

/// Counts the end of a flow, which is the first FIN or RST of either side, and tells it.
#[inline(always)]
pub fn closed<M: Maps>(maps: &M, env: &Env, packet: &Packet, key: &FlowKey, flow: &Flow) {
    let reset = packet.tcp_flags & TCP_RST != 0;
    maps.count_number(if reset {
        Counter::FlowReset
    } else {
        Counter::FlowClosed
    } as u32);
    if wants_flows(maps, env.now) {
        tell_end(maps, env, packet, key, flow);
    }
}

#[inline(never)]
fn tell_end<M: Maps>(maps: &M, env: &Env, packet: &Packet, key: &FlowKey, flow: &Flow) {
    let reset = packet.tcp_flags & TCP_RST != 0;
    let client = (key.client_be, key.client_port_be);
    let used = (key.local_be, key.local_port_be);
    let chance = chance(key.protocol, client, used);
    if wants_flow(maps, chance) {
        maps.tell(env.now, || Event {
            from: client.0.words(),
            to: used.0.words(),
            task: flow.nat_addr_be.words(),
            backend: flow.backend,
            node_be: flow.node_be,
            ifindex: env.ifindex,
            from_port_be: client.1,
            to_port_be: used.1,
            task_port_be: flow.nat_port_be,
            protocol: key.protocol,
            reason: if reset {
                Counter::FlowReset
            } else {
                Counter::FlowClosed
            } as u8,
            tcp_flags: packet.tcp_flags,
            by_task: (packet.source() != client).into(),
            chance,
            ..Event::default()
        });
    }
}

/// Counts a packet that is dropped or refused, by the number of its reason, and tells it.
#[inline(always)]
pub fn refused<M: Maps>(maps: &M, reason: u32, env: &Env, packet: &Packet) {
    maps.count_number(reason);
    if wants_drops(maps, env.now) {
        tell_drop(maps, reason, env, packet);
    }
}

#[inline(never)]
fn tell_drop<M: Maps>(maps: &M, reason: u32, env: &Env, packet: &Packet) {
    maps.tell(env.now, || about(reason, env, packet));
}

/// The same for a packet that could not be read.
#[inline(always)]
pub fn refused_unread<M: Maps>(maps: &M, reason: Counter, env: &Env) {
    maps.count(reason);
    if wants_drops(maps, env.now) {
        maps.tell(env.now, || Event {
            ifindex: env.ifindex,
            reason: reason as u8,
            ..Event::default()
        });
    }
}

/// The same for one of IPv6.
#[inline(always)]
pub fn refused_ipv6<M: Maps, B: Bytes>(maps: &M, reason: Counter, env: &Env, frame: &B) {
    maps.count(reason);
    if wants_drops(maps, env.now) {
        tell_ipv6(maps, reason, env, frame);
    }
}

#[inline(never)]
fn tell_ipv6<M: Maps, B: Bytes>(maps: &M, reason: Counter, env: &Env, frame: &B) -> Option<()> {
    let words = |at| frame.load::<16>(at).map(four);
    let (from, to) = (words(SOURCE)?, words(SOURCE + 16)?);
    let ports = frame.load::<4>(ETH_LEN + IP_LEN)?;
    let [protocol] = frame.load::<1>(PROTOCOL)?;
    maps.tell(env.now, || Event {
        from,
        to,
        ifindex: env.ifindex,
        from_port_be: u16::from_ne_bytes([ports[0], ports[1]]),
        to_port_be: u16::from_ne_bytes([ports[2], ports[3]]),
        protocol,
        reason: reason as u8,
        ..Event::default()
    });
    Some(())
}

#[inline(always)]
fn four(bytes: [u8; 16]) -> [u32; 4] {
    let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}

#[inline(always)]
fn about(reason: u32, env: &Env, packet: &Packet) -> Event {
    Event {
        from: packet.src_be.words(),
        to: packet.dst_be.words(),
        ifindex: env.ifindex,
        from_port_be: packet.src_port_be,
        to_port_be: packet.dst_port_be,
        protocol: packet.protocol,
        reason: reason as u8,
        tcp_flags: packet.tcp_flags,
        ..Event::default()
    }
}

/// Counts what a socket was given, or that it was refused, and tells it.
#[inline(always)]
pub fn socket<M: Maps, A: Ip>(
    maps: &M,
    counter: Counter,
    caller: &Caller,
    to: Address<A>,
    network: u32,
    given: Option<(u32, Address<A>)>,
) {
    maps.count(counter);
    let chance = (mix(caller.socket) >> 32) as u32;
    let wanted = if given.is_some() {
        wants_flows(maps, caller.now) && wants_flow(maps, chance)
    } else {
        wants_drops(maps, caller.now)
    };
    if !wanted {
        return;
    }
    maps.tell(caller.now, || {
        let mut event = Event {
            namespace: caller.namespace,
            to: to.addr.words(),
            to_port_be: to.port_be,
            network,
            protocol: caller.protocol,
            reason: counter as u8,
            chance,
            ..Event::default()
        };
        if let Some((backend, task)) = given {
            event.backend = backend;
            event.task = task.addr.words();
            event.task_port_be = task.port_be;
        }
        event
    });
}
