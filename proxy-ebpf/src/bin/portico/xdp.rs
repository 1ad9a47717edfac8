// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! XDP on an uplink: the tc program's decision, taken before the kernel has made an skb.
//!
//! What goes to another node is sent from here, in the tunnel's headers. What is dropped without an answer is dropped.
//! All else goes on to the tc program: local tasks (a veth takes no XDP frames unless its other end wants them),
//! refusals, masquerade, ICMP errors, fragments, frames that would be too long, and what needs a neighbour that the
//! kernel does not know yet. A flow that was opened here is known there, so it is counted and balanced once.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    macros::map,
    maps::PerCpuArray,
    programs::XdpContext,
};
use proxy_ebpf::{
    abi::{
        Counter,
        settings::{TCP_IP_HEADERS, TUNNEL_OVERHEAD},
    },
    datapath::{
        Bytes as _, Maps,
        action::{DROP, TUNNEL},
        encap::{Outer, outer, source_port},
        packet::{ETH_LEN, Kind, parse_into},
        published::Env,
    },
};

use crate::{
    maps::{Kernel, generation, setting, ticks},
    stages::{
        GUARD_DROPS, GUARD_LEAVES, Work, client, direct_reply, guarded_early, has_guard, has_vips, refused,
        work,
    },
    xdp_frame::XdpFrame,
};

/// The way to a node, kept for one tick: a lookup in the routing table costs more than all the rest.
#[repr(C)]
struct Hop {
    node_be: u32,
    seen: u32,
    ifindex: u32,
    macs: [u32; 3],
    /// Identification of the next outer header: any, but not the same for 65 536 packets (RFC 6864 section 4.1).
    id: u32,
}

/// Places for ways; two nodes that share one take turns in it. A Swarm of 256 nodes has few such pairs in use.
const HOPS: u32 = 256;
#[map]
static NEXT_HOPS: PerCpuArray<Hop> = PerCpuArray::with_max_entries(HOPS, 0);

#[inline(always)]
pub fn uplink(ctx: &XdpContext) -> u32 {
    let Some(work) = work() else {
        return XDP_PASS;
    };
    if !read(ctx, work) {
        return XDP_PASS;
    }
    if has_guard() {
        match guarded_early(work) {
            GUARD_DROPS => return XDP_DROP,
            GUARD_LEAVES => return XDP_PASS,
            _ => {}
        }
    }
    if has_vips() && direct_reply(work) {
        return XDP_PASS;
    }
    client(work);
    match work.action.out {
        DROP => {
            refused(work, work.action.to);
            XDP_DROP
        }
        TUNNEL => send(ctx, work),
        _ => XDP_PASS,
    }
}

#[inline(never)]
fn read(ctx: &XdpContext, work: &mut Work) -> bool {
    work.env = Env {
        tunnel_ifindex: setting!(tunnel_ifindex),
        uplink_ifindex: setting!(uplink_ifindex),
        ifindex: ctx.ingress_ifindex() as u32,
        now: ticks(),
        generation: generation(),
    };
    parse_into(&XdpFrame(ctx), &mut work.packet).is_some()
}

/// Into the tunnel, if that can be done here.
#[inline(never)]
fn send(ctx: &XdpContext, work: &Work) -> u32 {
    let frame = XdpFrame(ctx);
    let (packet, action) = (&work.packet, &work.action);
    let len = frame.len();
    let mtu = (setting!(tunnel_mss) + TUNNEL_OVERHEAD + TCP_IP_HEADERS) as usize;
    if action.nat != 0
        || !matches!(packet.kind, Kind::Whole)
        || len - ETH_LEN + TUNNEL_OVERHEAD as usize > mtu
    {
        return XDP_PASS;
    }
    let Some(tos) = frame.load::<1>(ETH_LEN + 1) else {
        return XDP_PASS;
    };
    let Some(hop) = hop(&frame, work) else {
        return XDP_PASS;
    };
    hop.id = hop.id.wrapping_add(1);
    let headers = outer(&Outer {
        macs: hop.macs,
        from_be: setting!(node_be),
        to_be: action.to,
        task: action.task,
        inner_len: len as u16,
        tos: tos[0],
        id: hop.id as u16,
        source_port: source_port(packet),
    });
    if action.clamp_mss != 0 && clamp(&frame, work) {
        Kernel.count(Counter::MssClamped);
    }
    if !frame.grow() {
        return XDP_PASS;
    }
    // Cannot fail: the room was made a line above.
    if frame.store_outer(&headers).is_none() {
        return XDP_ABORTED;
    }
    Kernel.count(Counter::XdpSent);
    XDP_TX
}

#[inline(never)]
fn clamp(frame: &XdpFrame, work: &Work) -> bool {
    let max = setting!(tunnel_mss);
    max != 0 && frame.clamp_mss(&work.packet, max) == Some(true)
}

#[inline(always)]
fn hop(frame: &XdpFrame, work: &Work) -> Option<&'static mut Hop> {
    let node_be = work.action.to;
    let place = node_be.wrapping_mul(0x9e37_79b1) >> 24;
    // SAFETY: this CPU's own until the program ends.
    let hop = unsafe { &mut *NEXT_HOPS.get_ptr_mut(place)? };
    if hop.node_be != node_be || hop.seen != work.env.now || hop.ifindex != work.env.ifindex {
        look(frame, node_be, hop).then_some(())?;
        hop.id = Kernel.random();
        hop.seen = work.env.now;
        hop.ifindex = work.env.ifindex;
        hop.node_be = node_be;
    }
    Some(hop)
}

#[inline(never)]
fn look(frame: &XdpFrame, node_be: u32, hop: &mut Hop) -> bool {
    let Some(macs) = frame.next_hop(setting!(node_be), node_be) else {
        return false;
    };
    hop.macs = macs;
    true
}
