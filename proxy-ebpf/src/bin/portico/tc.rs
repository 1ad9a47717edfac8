// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! tc programs: parse, ask the library, carry out its action.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, bpf_redir_neigh},
    helpers::{bpf_redirect, generated::bpf_redirect_neigh},
    programs::TcContext,
};
use proxy_ebpf::{
    abi::Counter,
    datapath::{
        Maps,
        action::{DESTINATION, DROP, NEIGHBOUR, PASS, REFUSE, ROUTE, SOURCE, TUNNEL, VETH},
        ipv6::opens_published,
        observe::{refused_ipv6, refused_unread},
        packet::parse_into,
        published::Env,
    },
};

use crate::{
    frame::{End, Frame},
    maps::{Kernel, generation, setting, ticks},
    stages::{
        DELIVER, REPLY, Work, client, direct_reply, guarded, has_guard, has_vips, refused, replied, reply,
        to_veth, tunnelled, work,
    },
};

/// Family of IPv4 addresses.
const AF_INET: u32 = 2;

#[inline(always)]
pub fn uplink(ctx: &TcContext) -> i32 {
    let Some(work) = begin(ctx) else {
        return ipv6(ctx);
    };
    if has_guard() && guarded(work) {
        return TC_ACT_SHOT;
    }
    if !has_vips() || !direct_reply(work) {
        client(work);
    }
    finish(ctx, work, 0)
}

/// What is not IPv4: nothing but a refusal is done about it.
#[inline(never)]
fn ipv6(ctx: &TcContext) -> i32 {
    let frame = Frame(ctx);
    if !opens_published(&Kernel, &frame) || !frame.is_for_this_node() {
        return TC_ACT_OK;
    }
    refused_ipv6(&Kernel, Counter::PublishedIpv6, &env(ctx), &frame);
    match frame.become_unreachable() {
        Ok(()) => redirect(frame.ifindex()),
        Err(_) => {
            refused_unread(&Kernel, Counter::Malformed, &env(ctx));
            TC_ACT_SHOT
        }
    }
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
        return not_ours(ctx);
    };
    if !from_node(ctx, work) {
        return not_ours(ctx);
    }
    match tunnelled(work) {
        REPLY => replied(work),
        DELIVER => to_veth(work),
        _ => {}
    }
    finish(ctx, work, work.node_be)
}

#[inline(never)]
fn not_ours(ctx: &TcContext) -> i32 {
    refused_unread(&Kernel, Counter::TunnelNotOurs, &env(ctx));
    TC_ACT_SHOT
}

/// Parses.
#[inline(always)]
fn begin(ctx: &TcContext) -> Option<&'static mut Work> {
    let work = work()?;
    read(ctx, work).then_some(work)
}

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
        generation: generation(),
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
            refused(work, Counter::Malformed as u32);
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
            refused(work, action.to);
            TC_ACT_SHOT
        }
        REFUSE => {
            refused(work, action.to);
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
        ROUTE => route(frame, work),
        _ => TC_ACT_OK,
    })
}

/// Out of the interface that leads to the next hop, or to the destination.
#[inline(never)]
fn route(frame: &Frame, work: &Work) -> i32 {
    let (next_be, translated) = (work.action.to, work.action.destination.0);
    let to_be = if next_be == 0 { translated } else { next_be };
    // A node that does not forward has no answer for us: then it is where the client is.
    let ifindex = frame.interface_to(to_be).unwrap_or(work.env.ifindex);
    if next_be == 0 {
        // SAFETY: as above.
        return unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 };
    }
    // SAFETY: plain integers; all zero is valid.
    let mut next: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    next.nh_family = AF_INET;
    next.__bindgen_anon_1.ipv4_nh = next_be;
    let len = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the parameters live for the call.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut next, len, 0) as i32 }
}

#[inline(always)]
fn redirect(ifindex: u32) -> i32 {
    // SAFETY: integers only; a missing interface drops the packet.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
