// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Maps` made of hash tables: for host tests, and for the test that compares the kernel with them.

use std::{cell::RefCell, collections::HashMap};

use super::{
    Maps, Packet,
    table::{self, Stored},
};
use crate::abi::{schedule::BLOCK, settings::Timeouts, *};

/// Buckets of the flow table, minus one.
pub const MASK: u32 = 511;

/// Address, port, protocol.
pub type Gate = (u32, u16, u8);

/// The world of a test.
pub struct World {
    /// Scopes by netns cookie.
    pub scopes: HashMap<u64, Scope>,
    /// The node's addresses.
    pub local_addrs: Vec<u32>,
    /// The network whose VIPs clients outside may use; 0 = none.
    pub vip_network: u32,
    /// This node's address, network order; 0 = unknown.
    pub node_be: u32,
    /// Master entries.
    pub frontends: HashMap<FrontendKey, Frontend>,
    /// Those with an IPv6 address.
    pub frontends6: HashMap<FrontendKey6, Frontend>,
    /// Backend ids.
    pub slots: HashMap<SlotKey, u32>,
    /// Backends by id.
    pub backends: HashMap<u32, Backend>,
    /// This node's tasks by tunnel name.
    pub local_tasks: HashMap<u32, LocalTask>,
    /// What was counted.
    pub counters: RefCell<HashMap<Counter, u64>>,
    /// Buckets of the flow table.
    pub flows: RefCell<Vec<Bucket>>,
    /// The deny list.
    pub denied: Vec<u32>,
    /// SYNs by prefix: tick and number.
    pub syns: RefCell<HashMap<u32, (u32, u32)>>,
    /// Sockets' translations.
    pub socks: RefCell<HashMap<SockKey, SockPeer>>,
    /// Those of IPv6 addresses.
    pub socks6: RefCell<HashMap<SockKey6, SockPeer6>>,
    /// Round-robin counters by frontend.
    pub next: RefCell<HashMap<u32, u32>>,
    /// Blocks of tables.
    pub tables: HashMap<TableKey, TableBlock>,
    /// What is counted of each backend ([`tally`]).
    pub active: RefCell<HashMap<u32, u64>>,
    /// Clients that keep a backend.
    pub affinity: RefCell<HashMap<AffinityKey, Affinity>>,
    /// Ports of datagrams in fragments.
    pub fragments: RefCell<HashMap<FragmentKey, Fragment>>,
    /// (list, client) -> verdict.
    pub sources: HashMap<(u32, u32), u8>,
    /// Generation, and whether it is a published port.
    pub gates: RefCell<HashMap<Gate, (u16, bool)>>,
    /// What somebody wants to be told.
    pub watch: Watch,
    /// What was told.
    pub told: RefCell<Vec<Event>>,
    /// State of what stands for chance; moves with every use.
    pub random: RefCell<u64>,
}

impl Default for World {
    fn default() -> Self {
        World {
            scopes: HashMap::new(),
            local_addrs: Vec::new(),
            vip_network: 0,
            node_be: 0,
            frontends: HashMap::new(),
            frontends6: HashMap::new(),
            slots: HashMap::new(),
            backends: HashMap::new(),
            local_tasks: HashMap::new(),
            counters: RefCell::default(),
            flows: RefCell::new(vec![Bucket::default(); MASK as usize + 1]),
            denied: Vec::new(),
            syns: RefCell::default(),
            socks: RefCell::default(),
            socks6: RefCell::default(),
            next: RefCell::default(),
            tables: HashMap::new(),
            active: RefCell::default(),
            affinity: RefCell::default(),
            fragments: RefCell::default(),
            sources: HashMap::new(),
            gates: RefCell::default(),
            watch: Watch::default(),
            told: RefCell::default(),
            random: RefCell::new(0x9e37_79b9_7f4a_7c15),
        }
    }
}

impl World {
    /// What is counted of a backend.
    pub fn tally_of(&self, backend: u32) -> Tally {
        Tally::of(self.active.borrow().get(&backend).copied().unwrap_or_default())
    }

    /// How often.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters.borrow().get(&counter).copied().unwrap_or_default()
    }

    /// Gives a frontend this table.
    pub fn set_table(&mut self, table: u32, backends: &[u32]) {
        for (i, part) in backends.chunks(BLOCK).enumerate() {
            let mut block = TableBlock::default();
            block.backends[..part.len()].copy_from_slice(part);
            self.tables.insert(
                TableKey {
                    table,
                    block: i as u32,
                },
                block,
            );
        }
    }
}

impl Maps for World {
    fn scope(&self, cookie: u64) -> Option<&Scope> {
        self.scopes.get(&cookie)
    }
    fn is_local_addr(&self, addr_be: u32) -> bool {
        self.local_addrs.contains(&addr_be)
    }
    fn vip_network(&self) -> u32 {
        self.vip_network
    }
    fn node_be(&self) -> u32 {
        self.node_be
    }
    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        self.frontends.get(key)
    }
    fn frontend6(&self, key: &FrontendKey6) -> Option<&Frontend> {
        self.frontends6.get(key)
    }
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        self.slots.get(key).copied()
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id)
    }
    fn local_task(&self, id: u32) -> Option<&LocalTask> {
        self.local_tasks.get(&id)
    }
    fn next(&self, frontend: u32) -> u32 {
        let mut next = self.next.borrow_mut();
        let n = next.entry(frontend).or_default();
        *n += 1;
        *n - 1
    }
    fn table(&self, table: u32, index: u32) -> Option<u32> {
        let block = index / BLOCK as u32;
        let found = self.tables.get(&TableKey { table, block })?;
        Some(found.backends[index as usize % BLOCK])
    }
    fn random(&self) -> u32 {
        let mut state = self.random.borrow_mut();
        *state = super::hash::mix(*state);
        (*state >> 32) as u32
    }
    fn active(&self, backend: u32) -> u32 {
        self.active.borrow().get(&backend).map_or(0, |n| *n as u32)
    }
    fn tally(&self, backend: u32, change: u64) {
        let mut active = self.active.borrow_mut();
        let word = active.entry(backend).or_default();
        *word = word.wrapping_add(change);
    }
    fn watch(&self) -> Watch {
        self.watch
    }
    fn tell(&self, _: u32, event: impl FnOnce() -> Event) {
        self.told.borrow_mut().push(event());
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.borrow().get(key).copied()
    }
    fn set_affinity(&self, key: &AffinityKey, value: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *value);
    }
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        let place = table::place(key, MASK);
        let bucket = &self.flows.borrow()[place.bucket as usize];
        table::find(bucket, place.tag, key).map(|way| table::read(bucket, way))
    }
    fn set_flow(&self, key: &FlowKey, flow: &Flow) -> Option<Stored> {
        let place = table::place(key, MASK);
        let bucket = &mut self.flows.borrow_mut()[place.bucket as usize];
        Some(table::store(bucket, place.tag, key, flow, |state| {
            self.timeout(state)
        }))
    }
    fn gate(&self, generation: u16, packet: &Packet) -> Option<bool> {
        let gates = self.gates.borrow();
        let (of, ours) = gates.get(&(packet.dst_be, packet.dst_port_be, packet.protocol))?;
        (*of == generation).then_some(*ours)
    }
    fn set_gate(&self, generation: u16, packet: &Packet, ours: bool) {
        let key = (packet.dst_be, packet.dst_port_be, packet.protocol);
        self.gates.borrow_mut().insert(key, (generation, ours));
    }
    fn timeout(&self, state: u8) -> u32 {
        Timeouts::DEFAULT.by_state()[usize::from(state)]
    }
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }
    fn set_fragment(&self, key: &FragmentKey, value: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *value);
    }
    fn source(&self, list: u32, client_be: u32) -> Option<u8> {
        self.sources.get(&(list, client_be)).copied()
    }
    fn denied(&self, addr_be: u32) -> bool {
        self.denied.contains(&addr_be)
    }
    fn syns(&self, prefix_be: u32) -> (u32, u32) {
        self.syns.borrow().get(&prefix_be).copied().unwrap_or_default()
    }
    fn count_syn(&self, prefix_be: u32, tick: u32) -> u32 {
        let mut all = self.syns.borrow_mut();
        let entry = all.entry(prefix_be).or_default();
        *entry = if entry.0 == tick {
            (tick, entry.1 + 1)
        } else {
            (tick, 1)
        };
        entry.1
    }
    fn sock(&self, key: &SockKey) -> Option<SockPeer> {
        self.socks.borrow().get(key).copied()
    }
    fn set_sock(&self, key: &SockKey, peer: &SockPeer) {
        self.socks.borrow_mut().insert(*key, *peer);
    }
    fn sock6(&self, key: &SockKey6) -> Option<SockPeer6> {
        self.socks6.borrow().get(key).copied()
    }
    fn set_sock6(&self, key: &SockKey6, peer: &SockPeer6) {
        self.socks6.borrow_mut().insert(*key, *peer);
    }
    fn count_number(&self, number: u32) {
        let mut all = Counter::ALL.iter().copied();
        let counter = all.find(|c| *c as u32 == number).expect("a counter's number");
        *self.counters.borrow_mut().entry(counter).or_default() += 1;
    }
}
