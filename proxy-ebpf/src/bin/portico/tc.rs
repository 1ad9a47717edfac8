// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! tc programs: parse, ask the library, carry out its action.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    helpers::{bpf_ktime_get_ns, bpf_redirect, generated::bpf_redirect_neigh},
    programs::TcContext,
};
use proxy_ebpf::{
    abi::Counter,
    datapath::{
        Action, Maps, Out, Packet,
        packet::parse,
        published::{Env, from_client, from_task, from_tunnel},
    },
};

use crate::{
    frame::Frame,
    maps::{Kernel, settings},
};

#[inline(always)]
pub fn uplink(ctx: &TcContext) -> i32 {
    let frame = Frame(ctx);
    let Some(packet) = parse(&frame) else {
        return TC_ACT_OK;
    };
    let env = env(ctx);
    let action = from_client(&Kernel, &env, &packet);
    apply(&frame, &env, &packet, action, Back::Interface)
}

#[inline(always)]
pub fn task(ctx: &TcContext) -> i32 {
    let frame = Frame(ctx);
    let Some(packet) = parse(&frame) else {
        return TC_ACT_OK;
    };
    let env = env(ctx);
    let action = from_task(&Kernel, &packet);
    apply(&frame, &env, &packet, action, Back::Interface)
}

#[inline(always)]
pub fn tunnel(ctx: &TcContext) -> i32 {
    let frame = Frame(ctx);
    let (Some(packet), Some((task, node_be))) = (parse(&frame), frame.tunnel()) else {
        // The device carries nothing but our packets: the stack has no business with what is left.
        Kernel.count(Counter::TunnelNotOurs);
        return TC_ACT_SHOT;
    };
    let env = env(ctx);
    let action = from_tunnel(&Kernel, &env, &packet, task, node_be);
    apply(&frame, &env, &packet, action, Back::Tunnel { node_be })
}

/// How a refusal gets back to the sender.
#[derive(Clone, Copy)]
enum Back {
    /// Out of the interface that the packet came in through.
    Interface,
    /// Through the tunnel to the node that sent it.
    Tunnel { node_be: u32 },
}

#[inline(always)]
fn env(ctx: &TcContext) -> Env {
    // SAFETY: the kernel passes a valid context for the duration of the program.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: no arguments.
    Env {
        settings: settings(),
        ifindex,
        now_ns: unsafe { bpf_ktime_get_ns() },
    }
}

#[inline(always)]
fn apply(frame: &Frame, env: &Env, packet: &Packet, action: Action, back: Back) -> i32 {
    if action.out == Out::Pass {
        return TC_ACT_OK;
    }
    match carry_out(frame, env, packet, action, back) {
        Ok(verdict) => verdict,
        Err(_) => {
            Kernel.count(Counter::Malformed);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn carry_out(frame: &Frame, env: &Env, packet: &Packet, action: Action, back: Back) -> Result<i32, i64> {
    if action.clamp_mss && env.settings.tunnel_mss != 0 && frame.clamp_mss(packet, env.settings.tunnel_mss)? {
        Kernel.count(Counter::MssClamped);
    }
    frame.translate(packet, action.nat)?;
    Ok(match action.out {
        Out::Pass => TC_ACT_OK,
        Out::Drop(reason) => {
            Kernel.count(reason);
            TC_ACT_SHOT
        }
        Out::Refuse(reason) => {
            Kernel.count(reason);
            frame.become_refusal(packet)?;
            match back {
                Back::Interface => redirect(env.ifindex),
                Back::Tunnel { node_be } => {
                    frame.set_tunnel(node_be, 0)?;
                    redirect(env.settings.tunnel_ifindex)
                }
            }
        }
        Out::Veth {
            ifindex,
            mac,
            gateway_mac,
        } => {
            frame.set_macs(mac, gateway_mac)?;
            redirect(ifindex)
        }
        Out::Tunnel { node_be, task } => {
            frame.set_tunnel(node_be, task)?;
            redirect(env.settings.tunnel_ifindex)
        }
        // SAFETY: no parameters are passed: the kernel looks the neighbour up by the packet's destination.
        Out::Neighbour { ifindex } => unsafe {
            bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32
        },
    })
}

#[inline(always)]
fn redirect(ifindex: u32) -> i32 {
    // SAFETY: integers only; a missing interface drops the packet.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
