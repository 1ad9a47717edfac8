// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The maps, and the library's view of them.

use core::arch::asm;

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use proxy_ebpf::{
    abi::{
        Backend, Counter, Flow, FlowKey, Frontend, FrontendKey, LocalAddr, LocalTask, Scope, Settings,
        SlotKey, SockKey, SockPeer, counter::COUNTERS_MAX, limits::*,
    },
    datapath::Maps,
};

#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> = Global::new(Settings {
    tunnel_ifindex: 0,
    node_be: 0,
    tunnel_mss: 0,
    _pad: 0,
});

#[map]
static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(FRONTENDS_MAX, BPF_F_NO_PREALLOC);
#[map]
static SLOTS: HashMap<SlotKey, u32> = HashMap::with_max_entries(SLOTS_MAX, BPF_F_NO_PREALLOC);
#[map]
static BACKENDS: HashMap<u32, Backend> = HashMap::with_max_entries(BACKENDS_MAX, BPF_F_NO_PREALLOC);
#[map]
static SCOPES: HashMap<u64, Scope> = HashMap::with_max_entries(SCOPES_MAX, BPF_F_NO_PREALLOC);
#[map]
static LOCAL_ADDRS: HashMap<u32, LocalAddr> = HashMap::with_max_entries(LOCAL_ADDRS_MAX, BPF_F_NO_PREALLOC);
#[map]
static LOCAL_TASKS: HashMap<u32, LocalTask> = HashMap::with_max_entries(LOCAL_TASKS_MAX, BPF_F_NO_PREALLOC);
/// Round-robin counters by frontend id.
#[map]
static NEXT: Array<u64> = Array::with_max_entries(FRONTENDS_MAX, 0);
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(FLOWS_MAX, 0);
#[map]
static SOCKS: LruHashMap<SockKey, SockPeer> = LruHashMap::with_max_entries(SOCKS_MAX, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);

/// The settings that the agent put in when it loaded the object.
#[inline(always)]
pub fn settings() -> Settings {
    SETTINGS.load()
}

/// [`Maps`] on the kernel's maps.
pub struct Kernel;

impl Maps for Kernel {
    #[inline(always)]
    fn scope(&self, cookie: u64) -> Option<&Scope> {
        // SAFETY: entries are replaced, never written in place, and the program runs under RCU.
        unsafe { SCOPES.get(cookie) }
    }

    #[inline(always)]
    fn is_local_addr(&self, addr_be: u32) -> bool {
        LOCAL_ADDRS.get_ptr(addr_be).is_some()
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        // SAFETY: as above.
        unsafe { FRONTENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        // SAFETY: as above.
        unsafe { SLOTS.get(key) }.copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend> {
        // SAFETY: as above.
        unsafe { BACKENDS.get(id) }.copied()
    }

    #[inline(always)]
    fn local_task(&self, id: u32) -> Option<LocalTask> {
        // SAFETY: as above.
        unsafe { LOCAL_TASKS.get(id) }.copied()
    }

    #[inline(always)]
    fn next(&self, frontend: u32) -> u32 {
        match NEXT.get_ptr_mut(frontend) {
            Some(counter) => {
                let mut n: u64 = 1;
                // SAFETY: an aligned u64 in the map's value, shared between CPUs only by this instruction
                // (Linux 5.12). Rust has no fetch_add for this target: it declares no atomic read-modify-write.
                unsafe {
                    asm!("{n} = atomic_fetch_add((u64 *)({p} + 0), {n})", n = inout(reg) n, p = in(reg) counter);
                }
                n as u32
            }
            None => 0,
        }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        // SAFETY: an entry may be reused while it is read; a torn flow is one packet sent to a live task's
        // address of an older flow, which the task answers with RST.
        unsafe { FLOWS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        FLOWS.insert(key, flow, 0).is_ok()
    }

    #[inline(always)]
    fn sock(&self, key: &SockKey) -> Option<SockPeer> {
        // SAFETY: as for flows; the key contains the socket's cookie, so only its own entries are read.
        unsafe { SOCKS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_sock(&self, key: &SockKey, peer: &SockPeer) {
        // An LRU map refuses only under memory pressure; then getpeername shows the backend.
        let _ = SOCKS.insert(key, peer, 0);
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: this CPU's own slot; programs are not preempted by programs that count.
            unsafe { *value += 1 };
        }
    }
}
