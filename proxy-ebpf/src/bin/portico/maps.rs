// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The maps, and the library's view of them.

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_prandom_u32, generated::bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie},
};
use proxy_ebpf::{
    abi::{
        Affinity, AffinityKey, Backend, Bucket, Counter, Event, Flow, FlowKey, Fragment, FragmentKey,
        Frontend, FrontendKey, FrontendKey6, LocalAddr, LocalTask, Scope, Settings, SlotKey, SockKey,
        SockKey6, SockPeer, SockPeer6, SourceKey, TableBlock, TableKey, Watch, counter::COUNTERS_MAX,
        limits::*, schedule::BLOCK, settings::TICK_SHIFT,
    },
    datapath::{
        Maps, Packet,
        observe::Budget,
        table::{self, Stored},
    },
};

/// How often a writer asks for a bucket's lock: a holder needs it for some hundred nanoseconds.
const LOCK_TRIES: u32 = 128;

#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> = Global::new(Settings {
    tunnel_ifindex: 0,
    node_be: 0,
    tunnel_mss: 0,
    uplink_ifindex: 0,
    flow_mask: 0,
    guard: 0,
    syn_rate: 0,
    syn_mask_be: 0,
    vip_network: 0,
    timeouts: [0; 8],
});

#[map]
static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(FRONTENDS_MAX, BPF_F_NO_PREALLOC);
#[map]
static FRONTENDS6: HashMap<FrontendKey6, Frontend> =
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
/// What is counted of each backend, by its id ([`proxy_ebpf::abi::tally`]). In the agent's memory as well: it counts
/// what it flushes.
#[map]
static ACTIVE: Array<u64> = Array::with_max_entries(BACKENDS_MAX, BPF_F_MMAPABLE);
#[map]
static TABLES: HashMap<TableKey, TableBlock> = HashMap::with_max_entries(TABLE_BLOCKS_MAX, BPF_F_NO_PREALLOC);
#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(AFFINITIES_MAX, 0);
/// The agent creates it with as many buckets as `Settings::flow_mask` says, and has it in its memory as well when it
/// lists or flushes flows.
#[map]
static FLOWS: Array<Bucket> = Array::with_max_entries(1024, BPF_F_MMAPABLE);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, Fragment> = LruHashMap::with_max_entries(FRAGMENTS_MAX, 0);
/// (list, client's address) -> verdict, by longest prefix.
#[map]
static SOURCES: LpmTrie<[u8; 8], u32> = LpmTrie::with_max_entries(SOURCES_MAX, BPF_F_NO_PREALLOC);
/// The deny list: longest prefix, though any is enough.
#[map]
static DENIED: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(DENIED_MAX, BPF_F_NO_PREALLOC);
/// SYNs of a prefix of clients: the tick in the upper half, their number in the lower.
#[map]
static SYNS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(SYN_SOURCES_MAX, 0);
#[map]
static SOCKS: LruHashMap<SockKey, SockPeer> = LruHashMap::with_max_entries(SOCKS_MAX, 0);
#[map]
static SOCKS6: LruHashMap<SockKey6, SockPeer6> = LruHashMap::with_max_entries(SOCKS6_MAX, 0);
/// The tables' generation, which the agent counts in its memory with every change of what gates and flows keep.
#[map]
static GENERATION: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Whether an address and port are a published port's, as was found out.
#[repr(C)]
struct Gate {
    /// Destination address, port and protocol, and 1 in the highest byte if they are.
    what: u64,
    generation: u64,
}

/// Places for answers; two that share one take turns in it. A node has few published ports, and scanners pay for
/// their look-ups as they did.
const GATES_MAX: u32 = 256;
/// A program runs to its end before another one does on the same CPU.
#[map]
static GATES: PerCpuArray<Gate> = PerCpuArray::with_max_entries(GATES_MAX, 0);

const GATE_OURS: u64 = 1 << 56;

#[inline(always)]
fn gate_of(packet: &Packet) -> (u64, u32) {
    let ports = u64::from(packet.dst_port_be) << 32 | u64::from(packet.protocol) << 48;
    let what = u64::from(packet.dst_be) | ports;
    let place = (what.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u32;
    (what, place)
}

/// The tables' generation now; 0 = nobody counts.
#[inline(always)]
pub fn generation() -> u16 {
    // SAFETY: an aligned u64 that others write whole.
    GENERATION
        .get_ptr(0)
        .map_or(0, |n| unsafe { n.read_volatile() } as u16)
}

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);

/// What somebody who observes wants to be told.
#[map]
static WATCH: Array<Watch> = Array::with_max_entries(1, 0);
/// Minimum kernel: 5.8.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);
#[map]
static BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

/// The settings that the agent put in when it loaded the object. Read one by one: together they are a large part of
/// the stack.
#[inline(always)]
pub fn settings() -> *const Settings {
    (&raw const SETTINGS).cast()
}

/// One of them. Volatile: the compiler must not take the zeros that are there now for what will be.
macro_rules! setting {
    ($field:ident) => {
        // SAFETY: a field of a static that lives as long as the program.
        unsafe { (&raw const (*$crate::maps::settings()).$field).read_volatile() }
    };
}
pub(crate) use setting;

/// Monotonic time in ticks.
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: no arguments. The coarse clock (Linux 5.11) is some nanoseconds cheaper and exact to a jiffy.
    (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
}

/// Exchanges a bucket's lock word.
///
/// # Safety
/// `lock` points to an aligned u64 in a map's value.
#[inline(always)]
unsafe fn exchange(lock: *mut u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: as the caller promises; the instruction (Linux 5.12) is a full barrier.
    unsafe {
        asm!("{v} = xchg_64({p} + 0, {v})", v = inout(reg) value, p = in(reg) lock);
    }
    value
}

/// Where [`portico_flow`] puts what it has found. Not on the stack, which would have to be cleared first, by a loop over
/// its bytes.
#[map]
static FOUND: PerCpuArray<Flow> = PerCpuArray::with_max_entries(1, 0);

/// Answer of [`portico_set_flow`]: other CPUs held the lock.
const BUSY: u64 = u64::MAX;

// The flow table's two functions are global ones of the object: the verifier looks at them once, instead of along
// every path that leads to them.

/// Copies a flow out; 0 when there is none.
///
/// # Safety
/// Both pointers are valid or null, which is what the verifier makes of them.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn portico_flow(key: *const FlowKey, out: *mut Flow) -> u64 {
    if key.is_null() || out.is_null() {
        return 0;
    }
    // SAFETY: not null, and so valid.
    let key = unsafe { &*key };
    let place = table::place(key, setting!(flow_mask));
    let Some(bucket) = FLOWS.get_ptr(place.bucket) else {
        return 0;
    };
    // SAFETY: the value outlives the program. Writers change it meanwhile: the tag is looked at again after the copy,
    // so what is returned was whole when the tag was written; if the entry changed twice in between, one packet goes
    // to a live task's address of another flow, which answers it with RST.
    unsafe {
        let Some(way) = table::find(&*bucket, place.tag, key) else {
            return 0;
        };
        *out = table::read(&*bucket, way);
        let tag = (&raw const (*bucket).tags)
            .cast::<u16>()
            .add(way & 7)
            .read_volatile();
        u64::from(tag == place.tag)
    }
}

/// Writes a flow: [`Stored`] as one number, or [`BUSY`].
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn portico_set_flow(key: *const FlowKey, flow: *const Flow) -> u64 {
    if key.is_null() || flow.is_null() {
        return BUSY;
    }
    // SAFETY: not null, and so valid.
    let (key, flow) = unsafe { (&*key, &*flow) };
    let place = table::place(key, setting!(flow_mask));
    let Some(bucket) = FLOWS.get_ptr_mut(place.bucket) else {
        return BUSY;
    };
    // SAFETY: the lock is the bucket's first field; while it is held nobody else writes tags and entries.
    unsafe {
        let lock = &raw mut (*bucket).lock;
        let mut tries = 0;
        while exchange(lock, 1) != 0 {
            tries += 1;
            if tries == LOCK_TRIES {
                return BUSY;
            }
        }
        let stored = table::store(&mut *bucket, place.tag, key, flow, |state| Kernel.timeout(state));
        exchange(lock, 0);
        u64::from(stored.backend) | u64::from(stored.evicted) << 32
    }
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
    fn vip_network(&self) -> u32 {
        setting!(vip_network)
    }

    #[inline(always)]
    fn node_be(&self) -> u32 {
        setting!(node_be)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        // SAFETY: as above.
        unsafe { FRONTENDS.get(key) }
    }

    #[inline(always)]
    fn frontend6(&self, key: &FrontendKey6) -> Option<&Frontend> {
        // SAFETY: as above.
        unsafe { FRONTENDS6.get(key) }
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        // SAFETY: as above.
        unsafe { SLOTS.get(key) }.copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        // SAFETY: as above.
        unsafe { BACKENDS.get(id) }
    }

    #[inline(always)]
    fn local_task(&self, id: u32) -> Option<&LocalTask> {
        // SAFETY: as above.
        unsafe { LOCAL_TASKS.get(id) }
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
    fn table(&self, table: u32, index: u32) -> Option<u32> {
        let key = TableKey {
            table,
            block: index / BLOCK as u32,
        };
        // SAFETY: as above.
        let block = unsafe { TABLES.get(key) }?;
        block.backends.get(index as usize % BLOCK).copied()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn active(&self, backend: u32) -> u32 {
        // SAFETY: an aligned u64 that is only changed atomically.
        ACTIVE
            .get_ptr(backend)
            .map_or(0, |n| unsafe { n.read_volatile() } as u32)
    }

    #[inline(always)]
    fn tally(&self, backend: u32, change: u64) {
        if let Some(counter) = ACTIVE.get_ptr_mut(backend) {
            // SAFETY: an aligned u64 in the map's value, shared between CPUs only by this instruction.
            unsafe { asm!("lock *(u64 *)({p} + 0) += {n}", n = in(reg) change, p = in(reg) counter) };
        }
    }

    #[inline(always)]
    fn watch(&self) -> Watch {
        let Some(watch) = WATCH.get_ptr(0) else {
            return Watch::default();
        };
        // SAFETY: the value outlives the program. The agent writes all of it; one that is half old is good for an event.
        unsafe {
            Watch {
                flows: (&raw const (*watch).flows).read_volatile(),
                drops: (&raw const (*watch).drops).read_volatile(),
                until: (&raw const (*watch).until).read_volatile(),
                _pad: 0,
            }
        }
    }

    #[inline(always)]
    fn tell(&self, now: u32, event: impl FnOnce() -> Event) {
        let admitted = match BUDGET.get_ptr_mut(0) {
            // SAFETY: this CPU's own.
            Some(budget) => unsafe { (*budget).admit(now) },
            None => false,
        };
        // Made in the ring: the stack has no room for one below the stages.
        let place = if admitted {
            EVENTS.reserve::<Event>(0)
        } else {
            None
        };
        match place {
            Some(mut place) => {
                place.write(event());
                // The agent looks by itself: to wake it for each event would cost more than the event.
                place.submit(u64::from(BPF_RB_NO_WAKEUP));
            }
            None => self.count(Counter::EventsLost),
        }
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: an entry may be reused while it is read; a torn one names a live backend or none.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, value: &Affinity) {
        // An LRU map refuses only under memory pressure; then the hash chooses again, and the same.
        let _ = AFFINITY.insert(key, value, 0);
    }

    #[inline(always)]
    fn gate(&self, generation: u16, packet: &Packet) -> Option<bool> {
        let (what, place) = gate_of(packet);
        // SAFETY: this CPU's own until the program ends.
        let gate = unsafe { &*GATES.get_ptr(place)? };
        (gate.generation == u64::from(generation) && gate.what & !GATE_OURS == what)
            .then_some(gate.what & GATE_OURS != 0)
    }

    #[inline(always)]
    fn set_gate(&self, generation: u16, packet: &Packet, ours: bool) {
        let (what, place) = gate_of(packet);
        if let Some(gate) = GATES.get_ptr_mut(place) {
            // SAFETY: as above.
            unsafe {
                (*gate).what = what | if ours { GATE_OURS } else { 0 };
                (*gate).generation = u64::from(generation);
            }
        }
    }

    #[inline(always)]
    fn timeout(&self, state: u8) -> u32 {
        let all = settings().cast::<u8>();
        let at = offset_of!(Settings, timeouts) + usize::from(state & 7) * 4;
        // SAFETY: inside the static, aligned.
        unsafe { all.add(at).cast::<u32>().read_volatile() }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        let flow = FOUND.get_ptr_mut(0)?;
        // SAFETY: the key lives until the call returns, and the place is this CPU's own until the program ends.
        unsafe { (portico_flow(key, flow) != 0).then_some(*flow) }
    }

    #[inline(always)]
    fn set_flow(&self, key: &FlowKey, flow: &Flow) -> Option<Stored> {
        // SAFETY: as above.
        let answer = unsafe { portico_set_flow(key, flow) };
        (answer != BUSY).then_some(Stored {
            evicted: answer >> 32 != 0,
            backend: answer as u32,
        })
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        // SAFETY: as for affinity; a torn entry loses one datagram.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, value: &Fragment) {
        // Refused under memory pressure: the datagram is lost.
        let _ = FRAGMENTS.insert(key, value, 0);
    }

    #[inline(always)]
    fn source(&self, list: u32, client_be: u32) -> Option<u8> {
        let key = SourceKey {
            list,
            addr_be: client_be,
            bits: 32,
        };
        SOURCES.get(lpm_trie::Key::new(64, key.data())).map(|v| *v as u8)
    }

    #[inline(always)]
    fn denied(&self, addr_be: u32) -> bool {
        DENIED
            .get(lpm_trie::Key::new(32, addr_be.to_ne_bytes()))
            .is_some()
    }

    #[inline(always)]
    fn syns(&self, prefix_be: u32) -> (u32, u32) {
        // SAFETY: an aligned u64 that others write whole.
        let word = SYNS
            .get_ptr(prefix_be)
            .map_or(0, |word| unsafe { word.read_volatile() });
        ((word >> 32) as u32, word as u32)
    }

    #[inline(always)]
    fn count_syn(&self, prefix_be: u32, tick: u32) -> u32 {
        // Two CPUs that count at the same time may count one: a limit needs no exact number.
        let (then, count) = self.syns(prefix_be);
        let count = if then == tick { count.saturating_add(1) } else { 1 };
        let word = u64::from(tick) << 32 | u64::from(count);
        match SYNS.get_ptr_mut(prefix_be) {
            // SAFETY: as above.
            Some(place) => unsafe { place.write_volatile(word) },
            // Refused under memory pressure: not counted.
            None => drop(SYNS.insert(prefix_be, word, 0)),
        }
        count
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
    fn sock6(&self, key: &SockKey6) -> Option<SockPeer6> {
        // SAFETY: as above.
        unsafe { SOCKS6.get(key) }.copied()
    }

    #[inline(always)]
    fn set_sock6(&self, key: &SockKey6, peer: &SockPeer6) {
        // As above.
        let _ = SOCKS6.insert(key, peer, 0);
    }

    #[inline(always)]
    fn count_number(&self, number: u32) {
        if let Some(value) = COUNTERS.get_ptr_mut(number) {
            // SAFETY: this CPU's own slot; programs are not preempted by programs that count.
            unsafe { *value += 1 };
        }
    }
}
