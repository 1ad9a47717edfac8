// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! tc programs: parse, ask the library, carry out its action.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    helpers::{bpf_redirect, generated::bpf_redirect_neigh},
    macros::map,
    maps::PerCpuArray,
    programs::TcContext,
};
use proxy_ebpf::{
    abi::Counter,
    datapath::{
        Maps, Packet,
        action::{DESTINATION, DROP, Flat, NEIGHBOUR, PASS, REFUSE, SOURCE, TUNNEL, VETH},
        packet::parse_into,
        published::{
            Env, Stage, Step, Unpacked, deliver, from_task, look_up, open, refuse, remember,
            reply_from_tunnel, to_task, unpack,
        },
    },
};

use crate::{
    frame::{End, Frame},
    maps::{Kernel, setting, ticks},
};

/// What the parts of a program hand to each other. In a map, because the stack is for all of them together.
pub struct Work {
    packet: Packet,
    env: Env,
    stage: Stage,
    action: Flat,
    task: u32,
    node_be: u32,
}

/// A program runs to its end before another one does on the same CPU.
#[map]
static WORK: PerCpuArray<MaybeUninit<Work>> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn uplink(ctx: &TcContext) -> i32 {
    let Some(work) = begin(ctx) else {
        return TC_ACT_OK;
    };
    client(work);
    finish(ctx, work, 0)
}

#[inline(always)]
pub fn task(ctx: &TcContext) -> i32 {
    let Some(work) = begin(ctx) else {
        return TC_ACT_OK;
    };
    if !reply(work) {
        // No reply: perhaps a call of a published port on this node, whose replies have to come back to the task.
        if !Kernel.is_local_addr(work.packet.dst_be) {
            return TC_ACT_OK;
        }
        route_back(ctx, work);
        client(work);
    }
    finish(ctx, work, 0)
}

#[inline(always)]
pub fn tunnel(ctx: &TcContext) -> i32 {
    // The device carries nothing but our packets: the stack has no business with what is left.
    let Some(work) = begin(ctx) else {
        Kernel.count(Counter::TunnelNotOurs);
        return TC_ACT_SHOT;
    };
    if !from_node(ctx, work) {
        Kernel.count(Counter::TunnelNotOurs);
        return TC_ACT_SHOT;
    }
    match tunnelled(work) {
        REPLY => replied(work),
        DELIVER => to_veth(work),
        _ => {}
    }
    finish(ctx, work, work.node_be)
}

/// Parses.
#[inline(always)]
fn begin(ctx: &TcContext) -> Option<&'static mut Work> {
    // SAFETY: this CPU's own, and nobody else uses it until the program ends. The map starts as zeros, which every
    // field may be.
    let work = unsafe { (*WORK.get_ptr_mut(0)?).assume_init_mut() };
    read(ctx, work).then_some(work)
}

#[inline(always)]
fn client(work: &mut Work) {
    match looked_up(work) {
        OPEN if !opened(work) || !remembered(work) => {}
        OPEN | DELIVER => delivered(work),
        _ => {}
    }
}

const ANSWERED: u32 = 0;
const OPEN: u32 = 1;
const DELIVER: u32 = 2;
const REPLY: u32 = 3;

// Each stage is a function of its own, so that no stack holds more than one.

#[inline(never)]
fn read(ctx: &TcContext, work: &mut Work) -> bool {
    work.env = env(ctx);
    parse_into(&Frame(ctx), &mut work.packet).is_some()
}

/// Reads the tunnel key.
#[inline(never)]
fn from_node(ctx: &TcContext, work: &mut Work) -> bool {
    let Some((task, node_be)) = Frame(ctx).tunnel() else {
        return false;
    };
    work.task = task;
    work.node_be = node_be;
    true
}

#[inline(never)]
fn looked_up(work: &mut Work) -> u32 {
    match look_up(&Kernel, &work.env, &mut work.packet, &mut work.stage) {
        Step::Answer(action) => {
            work.action.set(&action);
            ANSWERED
        }
        Step::Open => OPEN,
        Step::Deliver => DELIVER,
    }
}

#[inline(never)]
fn opened(work: &mut Work) -> bool {
    match open(&Kernel, &work.env, &work.packet, &mut work.stage) {
        Some(reason) => {
            work.action.set(&refuse(&work.packet, reason));
            false
        }
        None => true,
    }
}

#[inline(never)]
fn remembered(work: &mut Work) -> bool {
    match remember(&Kernel, &work.env, &work.packet, &mut work.stage) {
        Some(reason) => {
            work.action.set(&refuse(&work.packet, reason));
            false
        }
        None => true,
    }
}

#[inline(never)]
fn delivered(work: &mut Work) {
    let action = deliver(&Kernel, &work.env, &work.packet, &mut work.stage);
    work.action.set(&action);
}

#[inline(never)]
fn reply(work: &mut Work) -> bool {
    match from_task(&Kernel, &work.env, &mut work.packet) {
        Some(action) => {
            work.action.set(&action);
            true
        }
        None => false,
    }
}

#[inline(never)]
fn tunnelled(work: &mut Work) -> u32 {
    let from = (work.task, work.node_be);
    match unpack(&Kernel, &work.env, &mut work.packet, from, &mut work.stage) {
        Unpacked::Answer(action) => {
            work.action.set(&action);
            ANSWERED
        }
        Unpacked::Reply => REPLY,
        Unpacked::ForTask => DELIVER,
    }
}

#[inline(never)]
fn replied(work: &mut Work) {
    let action = reply_from_tunnel(&Kernel, &work.env, &work.packet);
    work.action.set(&action);
}

#[inline(never)]
fn to_veth(work: &mut Work) {
    let action = to_task(&Kernel, &work.env, &work.packet, &mut work.stage);
    work.action.set(&action);
}

#[inline(never)]
fn route_back(ctx: &TcContext, work: &mut Work) {
    if let Some(ifindex) = Frame(ctx).interface_to(work.packet.src_be) {
        work.env.ifindex = ifindex;
    }
}

#[inline(always)]
fn env(ctx: &TcContext) -> Env {
    // SAFETY: the kernel passes a valid context for the duration of the program.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    Env {
        tunnel_ifindex: setting!(tunnel_ifindex),
        uplink_ifindex: setting!(uplink_ifindex),
        ifindex,
        now: ticks(),
    }
}

/// Carries the answer out. `tunnel_be` is the node that the packet came from through the tunnel, or 0: a refusal goes
/// back the way that the packet came.
#[inline(never)]
fn finish(ctx: &TcContext, work: &Work, tunnel_be: u32) -> i32 {
    if work.action.out == PASS {
        return TC_ACT_OK;
    }
    match carry_out(&Frame(ctx), work, tunnel_be) {
        Ok(verdict) => verdict,
        Err(_) => {
            Kernel.count(Counter::Malformed);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn carry_out(frame: &Frame, work: &Work, tunnel_be: u32) -> Result<i32, i64> {
    let (packet, action) = (&work.packet, &work.action);
    if action.clamp_mss != 0 {
        let max = setting!(tunnel_mss);
        if max != 0 && frame.clamp_mss(packet, max)? {
            Kernel.count(Counter::MssClamped);
        }
    }
    if action.nat & SOURCE != 0 {
        let new = (action.source.0, action.source.1 as u16);
        frame.translate(packet, End::Source, packet.source(), new)?;
    }
    if action.nat & DESTINATION != 0 {
        let new = (action.destination.0, action.destination.1 as u16);
        frame.translate(packet, End::Destination, packet.destination(), new)?;
    }
    if packet.is_error() {
        Kernel.count(Counter::IcmpError);
    }
    Ok(match action.out {
        DROP => {
            Kernel.count_number(action.to);
            TC_ACT_SHOT
        }
        REFUSE => {
            Kernel.count_number(action.to);
            frame.become_refusal(packet)?;
            if tunnel_be == 0 {
                redirect(frame.ifindex())
            } else {
                frame.set_tunnel(tunnel_be, 0)?;
                redirect(work.env.tunnel_ifindex)
            }
        }
        VETH => {
            frame.set_macs(&action.macs)?;
            redirect(action.to)
        }
        TUNNEL => {
            frame.set_tunnel(action.to, action.task)?;
            redirect(work.env.tunnel_ifindex)
        }
        // SAFETY: no parameters are passed: the kernel looks the neighbour up by the packet's destination.
        NEIGHBOUR => unsafe { bpf_redirect_neigh(action.to, core::ptr::null_mut(), 0, 0) as i32 },
        _ => TC_ACT_OK,
    })
}

#[inline(always)]
fn redirect(ifindex: u32) -> i32 {
    // SAFETY: integers only; a missing interface drops the packet.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
