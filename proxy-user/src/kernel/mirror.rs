// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pinned maps as the programs see them, for looking: the decisions' own code runs over them and changes
//! nothing. And the flow table, read and flushed through shared memory.
//!
//! Reading takes no lock: a flow that changes meanwhile may be shown half old. Flushing takes each bucket's lock
//! as the programs do, for as long as it takes to clear some tags; a packet that comes just then goes on, and its
//! flow is remembered with the next one.

use std::{
    cell::RefCell,
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Pod,
    maps::{
        Array, HashMap, Map, MapData, MapError,
        lpm_trie::{Key, LpmTrie},
    },
};
use proxy_ebpf::{
    abi::{
        Affinity, AffinityKey, Backend, Bucket, Counter, Event, Flow, FlowKey, Fragment, FragmentKey,
        Frontend, FrontendKey, FrontendKey6, LocalAddr, LocalTask, Scope, Settings, SlotKey, SockKey,
        SockKey6, SockPeer, SockPeer6, TableBlock, TableKey, Tally, Watch,
        backend::DRAINING,
        flow::{CLOSING, ENTRY, WAYS},
        schedule::BLOCK,
        settings::TICK_SHIFT,
    },
    datapath::{
        Maps, Packet,
        table::{self, Stored},
    },
};

use super::{events::Ring, pins::Pins, shared::Shared};
use crate::reconcile::key::FrontKey;

/// How often a flush asks for a bucket's lock; a program holds it for some hundred nanoseconds.
const LOCK_TRIES: u32 = 1_000_000;

/// The maps of one agent, for looking.
#[derive(Clone, Debug)]
pub struct Mirror {
    pins: Pins,
    settings: Settings,
}

/// A flow and its key.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The key.
    pub key: FlowKey,
    /// What is known of it.
    pub flow: Flow,
    /// Seconds since its last packet.
    pub idle_s: u64,
}

impl Mirror {
    /// The maps below these pins, and the settings that the programs were loaded with.
    pub fn new(pins: Pins, settings: Settings) -> Self {
        Self { pins, settings }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Now, as the programs count it.
    pub fn now() -> u32 {
        // SAFETY: timespec is plain old data; the call fills it.
        let now = unsafe {
            let mut now: libc::timespec = std::mem::zeroed();
            libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now);
            now
        };
        ((now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) >> TICK_SHIFT) as u32
    }

    /// Visits every flow that is alive.
    pub fn flows(&self, mut visit: impl FnMut(Row)) -> io::Result<()> {
        let table = self.table()?;
        let now = Self::now();
        for bucket in table.values() {
            // SAFETY: inside the mapping; the programs write it meanwhile, hence volatile.
            let bucket = unsafe { bucket.as_ptr().read_volatile() };
            self.alive(&bucket, now).for_each(|(_, row)| visit(row));
        }
        Ok(())
    }

    /// Forgets the flows that `wanted` names; their number.
    pub fn flush(&self, wanted: impl Fn(&Row) -> bool) -> io::Result<u64> {
        let table = self.table()?;
        let active: Option<Shared<AtomicU64>> = Shared::map(&self.pins, "ACTIVE").ok();
        let now = Self::now();
        let mut flushed = 0;
        for bucket in table.values() {
            // SAFETY: as above.
            let seen = unsafe { bucket.as_ptr().read_volatile() };
            if !self.alive(&seen, now).any(|(_, row)| wanted(&row)) {
                continue;
            }
            // SAFETY: the bucket's first field is an aligned u64, which everybody changes atomically.
            let lock = unsafe { &*bucket.as_ptr().cast::<AtomicU64>() };
            let mut tries = 0;
            while lock.swap(1, Ordering::AcqRel) != 0 {
                tries += 1;
                if tries == LOCK_TRIES {
                    return Err(io::Error::other("a bucket of the flow table stays locked"));
                }
                std::hint::spin_loop();
            }
            // SAFETY: inside the mapping; the lock is held, so only headers of living flows may change.
            let held = unsafe { bucket.as_ptr().read_volatile() };
            for (way, row) in self.alive(&held, now).filter(|(_, row)| wanted(row)) {
                // SAFETY: a tag of this bucket; writers of tags hold the lock.
                unsafe { (&raw mut (*bucket.as_ptr()).tags[way]).write_volatile(0) };
                flushed += 1;
                let counts = row.key.side == ENTRY && row.flow.state != CLOSING && row.flow.backend != 0;
                if let (true, Some(active)) = (counts, &active)
                    && let Some(counter) = active.get(row.flow.backend as usize)
                {
                    counter.fetch_sub(1, Ordering::Relaxed);
                }
            }
            lock.store(0, Ordering::Release);
        }
        Ok(flushed)
    }

    fn alive<'a>(&'a self, bucket: &'a Bucket, now: u32) -> impl Iterator<Item = (usize, Row)> + 'a {
        (0..WAYS)
            .filter(|way| bucket.tags[*way] != 0)
            .filter_map(move |way| {
                let flow = table::read(bucket, way);
                let timeout = self.settings.timeouts[usize::from(flow.state & 7)];
                let idle = now.wrapping_sub(flow.seen);
                // The programs' clock is coarse and may be a tick ahead of what was read here.
                let idle = if idle > u32::MAX / 2 { 0 } else { idle };
                (idle <= timeout).then(|| {
                    let row = Row {
                        key: bucket.entries[way].key,
                        flow,
                        idle_s: (u64::from(idle) << TICK_SHIFT) / 1_000_000_000,
                    };
                    (way, row)
                })
            })
    }

    fn table(&self) -> io::Result<Shared<Bucket>> {
        Shared::map(&self.pins, "FLOWS")
    }

    /// Opens the programs' events.
    pub fn events(&self) -> io::Result<Ring> {
        Ring::open(&self.pins)
    }

    /// Opens the maps for one look.
    pub fn look(&self) -> io::Result<Look> {
        Ok(Look {
            scopes: self.hash("SCOPES")?,
            local_addrs: self.hash("LOCAL_ADDRS")?,
            frontends: self.hash("FRONTENDS")?,
            frontends6: self.hash("FRONTENDS6")?,
            slots: self.hash("SLOTS")?,
            tables: self.hash("TABLES")?,
            backends: self.hash("BACKENDS")?,
            local_tasks: self.hash("LOCAL_TASKS")?,
            affinity: self.hash("AFFINITY")?,
            socks: self.hash("SOCKS")?,
            socks6: self.hash("SOCKS6")?,
            next: self.array("NEXT")?,
            active: self.array("ACTIVE")?,
            sources: LpmTrie::try_from(Map::LpmTrie(self.data("SOURCES")?)).map_err(io::Error::other)?,
            flows: self.table()?,
            settings: self.settings,
            kept: Kept::default(),
            counted: RefCell::default(),
            found: RefCell::default(),
        })
    }

    fn data(&self, name: &str) -> io::Result<MapData> {
        MapData::from_pin(self.pins.maps().join(name)).map_err(io::Error::other)
    }

    fn hash<K: Pod, V: Pod>(&self, name: &str) -> io::Result<HashMap<MapData, K, V>> {
        let map = match name {
            "AFFINITY" | "SOCKS" | "SOCKS6" => Map::LruHashMap(self.data(name)?),
            _ => Map::HashMap(self.data(name)?),
        };
        HashMap::try_from(map).map_err(io::Error::other)
    }

    fn array(&self, name: &str) -> io::Result<Array<MapData, u64>> {
        Array::try_from(Map::Array(self.data(name)?)).map_err(io::Error::other)
    }
}

/// Values that were read for one look, at addresses that stay: the decisions take references, as in the kernel.
#[expect(
    clippy::vec_box,
    reason = "what was handed out stays where it is while a list grows"
)]
#[derive(Default)]
struct Kept {
    scopes: RefCell<Vec<Box<Scope>>>,
    frontends: RefCell<Vec<Box<Frontend>>>,
    backends: RefCell<Vec<Box<Backend>>>,
    local_tasks: RefCell<Vec<Box<LocalTask>>>,
}

fn keep<T>(list: &RefCell<Vec<Box<T>>>, value: T) -> &T {
    let boxed = Box::new(value);
    let pointer: *const T = &raw const *boxed;
    list.borrow_mut().push(boxed);
    // SAFETY: the box is in the list, which only grows and lives as long as the reference; moving a box does not
    // move its content.
    unsafe { &*pointer }
}

/// The maps at one moment: what is asked is read, what would be written is not.
pub struct Look {
    scopes: HashMap<MapData, u64, Scope>,
    local_addrs: HashMap<MapData, u32, LocalAddr>,
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    frontends6: HashMap<MapData, FrontendKey6, Frontend>,
    slots: HashMap<MapData, SlotKey, u32>,
    tables: HashMap<MapData, TableKey, TableBlock>,
    backends: HashMap<MapData, u32, Backend>,
    local_tasks: HashMap<MapData, u32, LocalTask>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    socks: HashMap<MapData, SockKey, SockPeer>,
    socks6: HashMap<MapData, SockKey6, SockPeer6>,
    next: Array<MapData, u64>,
    active: Array<MapData, u64>,
    sources: LpmTrie<MapData, [u8; 8], u32>,
    flows: Shared<Bucket>,
    settings: Settings,
    kept: Kept,
    counted: RefCell<Vec<u32>>,
    /// What the decision found last.
    found: RefCell<(Option<FrontKey>, u32)>,
}

impl Look {
    /// The frontend and the backend that the decision found last; 0 = none.
    pub fn found(&self) -> (Option<FrontKey>, u32) {
        *self.found.borrow()
    }

    /// What is counted of a backend.
    pub fn tally_of(&self, backend: u32) -> Tally {
        Tally::of(found(self.active.get(&backend, 0)).unwrap_or_default())
    }

    /// Backends that get no new flow, with their ids: those that no slot may name.
    pub fn draining(&self) -> Vec<(u32, Backend)> {
        let all = self.backends.iter().filter_map(Result::ok);
        all.filter(|(_, backend)| backend.flags & DRAINING != 0).collect()
    }

    /// What would have been counted, by name, in order.
    pub fn counted(&self) -> Vec<Counter> {
        let counted = self.counted.borrow();
        let known = |number: &u32| Counter::ALL.iter().find(|counter| **counter as u32 == *number);
        counted.iter().filter_map(known).copied().collect()
    }
}

fn found<T>(value: Result<T, MapError>) -> Option<T> {
    value.ok()
}

impl Maps for Look {
    fn scope(&self, cookie: u64) -> Option<&Scope> {
        found(self.scopes.get(&cookie, 0)).map(|value| keep(&self.kept.scopes, value))
    }
    fn is_local_addr(&self, addr_be: u32) -> bool {
        self.local_addrs.get(&addr_be, 0).is_ok()
    }
    fn vip_network(&self) -> u32 {
        self.settings.vip_network
    }
    fn node_be(&self) -> u32 {
        self.settings.node_be
    }
    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        let value = found(self.frontends.get(key, 0))?;
        self.found.borrow_mut().0 = Some(FrontKey::V4(*key));
        Some(keep(&self.kept.frontends, value))
    }
    fn frontend6(&self, key: &FrontendKey6) -> Option<&Frontend> {
        let value = found(self.frontends6.get(key, 0))?;
        self.found.borrow_mut().0 = Some(FrontKey::V6(*key));
        Some(keep(&self.kept.frontends, value))
    }
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        found(self.slots.get(key, 0))
    }
    fn table(&self, table: u32, index: u32) -> Option<u32> {
        let block = index / BLOCK as u32;
        let block = found(self.tables.get(&TableKey { table, block }, 0))?;
        block.backends.get(index as usize % BLOCK).copied()
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        let value = found(self.backends.get(&id, 0))?;
        self.found.borrow_mut().1 = id;
        Some(keep(&self.kept.backends, value))
    }
    fn local_task(&self, id: u32) -> Option<&LocalTask> {
        found(self.local_tasks.get(&id, 0)).map(|value| keep(&self.kept.local_tasks, value))
    }
    /// The value that the next new flow gets, if none comes in between.
    fn next(&self, frontend: u32) -> u32 {
        found(self.next.get(&frontend, 0)).unwrap_or_default() as u32
    }
    /// Chance has nothing to show: one of the possible answers.
    fn random(&self) -> u32 {
        0
    }
    fn active(&self, backend: u32) -> u32 {
        found(self.active.get(&backend, 0)).unwrap_or_default() as u32
    }
    fn tally(&self, _: u32, _: u64) {}
    fn watch(&self) -> Watch {
        Watch::default()
    }
    fn tell(&self, _: u32, _: impl FnOnce() -> Event) {}
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        found(self.affinity.get(key, 0))
    }
    fn set_affinity(&self, _: &AffinityKey, _: &Affinity) {}
    /// A look finds everything out itself.
    fn gate(&self, _: u16, _: &Packet) -> Option<bool> {
        None
    }
    fn set_gate(&self, _: u16, _: &Packet, _: bool) {}
    fn timeout(&self, state: u8) -> u32 {
        self.settings.timeouts[usize::from(state & 7)]
    }
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        let place = table::place(key, self.settings.flow_mask);
        let bucket = self.flows.values().nth(place.bucket as usize)?;
        // SAFETY: inside the mapping; the programs write it meanwhile, hence volatile.
        let bucket = unsafe { bucket.as_ptr().read_volatile() };
        table::find(&bucket, place.tag, key).map(|way| table::read(&bucket, way))
    }
    fn set_flow(&self, _: &FlowKey, _: &Flow) -> Option<Stored> {
        Some(Stored::default())
    }
    fn fragment(&self, _: &FragmentKey) -> Option<Fragment> {
        None
    }
    fn set_fragment(&self, _: &FragmentKey, _: &Fragment) {}
    fn source(&self, list: u32, client_be: u32) -> Option<u8> {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&list.to_be_bytes());
        data[4..].copy_from_slice(&client_be.to_ne_bytes());
        found(self.sources.get(&Key::new(64, data), 0)).map(|verdict| verdict as u8)
    }
    /// A look begins behind the guard.
    fn denied(&self, _: u32) -> bool {
        false
    }
    fn syns(&self, _: u32) -> (u32, u32) {
        (0, 0)
    }
    fn count_syn(&self, _: u32, _: u32) -> u32 {
        0
    }
    fn sock(&self, key: &SockKey) -> Option<SockPeer> {
        found(self.socks.get(key, 0))
    }
    fn set_sock(&self, _: &SockKey, _: &SockPeer) {}
    fn sock6(&self, key: &SockKey6) -> Option<SockPeer6> {
        found(self.socks6.get(key, 0))
    }
    fn set_sock6(&self, _: &SockKey6, _: &SockPeer6) {}
    fn count_number(&self, number: u32) {
        self.counted.borrow_mut().push(number);
    }
}
