// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The stages of a decision, the same for tc and XDP: each asks the library and keeps its answer in [`Work`].

use core::mem::MaybeUninit;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use proxy_ebpf::datapath::{
    Packet,
    action::Flat,
    direct,
    guard::{self, Rules},
    observe,
    published::{
        Env, Stage, Step, Unpacked, deliver, from_task, look_up, open, recognise, refuse, remember,
        reply_from_tunnel, to_task, unpack,
    },
};

use crate::maps::{Kernel, setting};

/// What the parts of a program hand to each other. In a map, because the stack is for all of them together.
pub struct Work {
    /// What was read of it.
    pub packet: Packet,
    /// What is known beside it.
    pub env: Env,
    /// What the stages hand to each other.
    pub stage: Stage,
    /// The answer.
    pub action: Flat,
    /// From the tunnel key.
    pub task: u32,
    /// Who sent it through the tunnel, network order.
    pub node_be: u32,
}

/// A program runs to its end before another one does on the same CPU.
#[map]
static WORK: PerCpuArray<MaybeUninit<Work>> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's own.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: nobody else uses it until the program ends. The map starts as zeros, which every field may be.
    Some(unsafe { (*WORK.get_ptr_mut(0)?).assume_init_mut() })
}

#[inline(always)]
fn rules() -> Rules {
    Rules {
        flags: setting!(guard),
        syn_rate: setting!(syn_rate),
        syn_mask_be: setting!(syn_mask_be),
    }
}

/// What XDP does before all else: whether the packet is dropped, or left to tc.
#[inline(never)]
pub fn guarded_early(work: &mut Work) -> u32 {
    let rules = rules();
    if let Some(reason) = guard::early(&Kernel, &rules, &work.packet, work.env.now) {
        refused(work, reason as u32);
        return GUARD_DROPS;
    }
    if guard::is_limited(&rules, &work.packet) {
        return GUARD_LEAVES;
    }
    GUARD_PASSES
}

/// What tc does before all else: whether the packet is dropped.
#[inline(never)]
pub fn guarded(work: &mut Work) -> bool {
    match guard::counted(&Kernel, &rules(), &work.packet, work.env.now) {
        Some(reason) => {
            refused(work, reason as u32);
            true
        }
        None => false,
    }
}

/// Whether there is any rule: known when the programs are loaded, so the verifier takes the rest away where there is
/// none.
#[inline(always)]
pub fn has_guard() -> bool {
    setting!(guard) | setting!(syn_rate) != 0
}

/// Answers of [`guarded_early`].
pub const GUARD_PASSES: u32 = 0;
/// To be dropped.
pub const GUARD_DROPS: u32 = 1;
/// For tc to decide.
pub const GUARD_LEAVES: u32 = 2;

/// A packet of a client: whose is it, and where does it go?
#[inline(always)]
pub fn client(work: &mut Work) {
    let step = match recognised(work) {
        LOOK_UP => looked_up(work),
        step => step,
    };
    match step {
        OPEN if !opened(work) || !remembered(work) => {}
        OPEN | DELIVER => delivered(work),
        _ => {}
    }
}

/// [`Work::action`] is the answer.
pub const ANSWERED: u32 = 0;
/// A new flow.
pub const OPEN: u32 = 1;
/// To the task.
pub const DELIVER: u32 = 2;
/// To the client.
pub const REPLY: u32 = 3;
/// Not known yet.
pub const LOOK_UP: u32 = 4;

// Each stage is a function of its own, so that no stack holds more than one.

#[inline(never)]
fn recognised(work: &mut Work) -> u32 {
    match recognise(&Kernel, &work.env, &work.packet, &mut work.stage) {
        Some(step) => next(&mut work.action, &step),
        None => LOOK_UP,
    }
}

#[inline(never)]
fn looked_up(work: &mut Work) -> u32 {
    let step = look_up(&Kernel, &work.env, &mut work.packet, &mut work.stage);
    next(&mut work.action, &step)
}

#[inline(always)]
fn next(answer: &mut Flat, step: &Step) -> u32 {
    match step {
        Step::Answer(action) => {
            answer.set(action);
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

/// Counts a packet that is dropped or refused, and tells it. A function of its own, or every packet pays for its
/// registers.
#[inline(never)]
pub fn refused(work: &Work, reason: u32) {
    observe::refused(&Kernel, reason, &work.env, &work.packet);
}

/// Whether it is a task's reply.
#[inline(never)]
pub fn reply(work: &mut Work) -> bool {
    match from_task(&Kernel, &work.env, &mut work.packet, 0) {
        Some(action) => {
            work.action.set(&action);
            true
        }
        None => false,
    }
}

/// Whether clients outside may use VIPs: known when the programs are loaded, as [`has_guard`].
#[inline(always)]
pub fn has_vips() -> bool {
    setting!(vip_network) != 0
}

/// Whether it is the reply of a VIP's backend.
#[inline(never)]
pub fn direct_reply(work: &mut Work) -> bool {
    match direct::reply(&Kernel, &work.env, &mut work.packet) {
        Some(action) => {
            work.action.set(&action);
            true
        }
        None => false,
    }
}

/// What came through the tunnel.
#[inline(never)]
pub fn tunnelled(work: &mut Work) -> u32 {
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

/// A task's reply at the entry node.
#[inline(never)]
pub fn replied(work: &mut Work) {
    let action = reply_from_tunnel(&Kernel, &work.env, &work.packet);
    work.action.set(&action);
}

/// A packet for a task of this node.
#[inline(never)]
pub fn to_veth(work: &mut Work) {
    let action = to_task(&Kernel, &work.env, &work.packet, &mut work.stage);
    work.action.set(&action);
}
