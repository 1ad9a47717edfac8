// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Maps` made of hash tables, for host tests.

use std::{cell::RefCell, collections::HashMap};

use super::Maps;
use crate::abi::*;

/// The world of a test.
#[derive(Default)]
pub struct World {
    pub scopes: HashMap<u64, Scope>,
    pub local_addrs: Vec<u32>,
    pub frontends: HashMap<FrontendKey, Frontend>,
    pub slots: HashMap<SlotKey, u32>,
    pub backends: RefCell<HashMap<u32, Backend>>,
    pub local_tasks: HashMap<u32, LocalTask>,
    pub counters: RefCell<HashMap<Counter, u64>>,
    pub flows: RefCell<HashMap<FlowKey, Flow>>,
    pub socks: RefCell<HashMap<SockKey, SockPeer>>,
    pub next: RefCell<HashMap<u32, u32>>,
}

impl World {
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters.borrow().get(&counter).copied().unwrap_or_default()
    }
}

impl Maps for World {
    fn scope(&self, cookie: u64) -> Option<&Scope> {
        self.scopes.get(&cookie)
    }
    fn is_local_addr(&self, addr_be: u32) -> bool {
        self.local_addrs.contains(&addr_be)
    }
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }
    fn slot(&self, key: &SlotKey) -> Option<u32> {
        self.slots.get(key).copied()
    }
    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.borrow().get(&id).copied()
    }
    fn local_task(&self, id: u32) -> Option<LocalTask> {
        self.local_tasks.get(&id).copied()
    }
    fn next(&self, frontend: u32) -> u32 {
        let mut next = self.next.borrow_mut();
        let n = next.entry(frontend).or_default();
        *n += 1;
        *n - 1
    }
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.borrow().get(key).copied()
    }
    fn set_flow(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.flows.borrow_mut().insert(*key, *flow);
        true
    }
    fn sock(&self, key: &SockKey) -> Option<SockPeer> {
        self.socks.borrow().get(key).copied()
    }
    fn set_sock(&self, key: &SockKey, peer: &SockPeer) {
        self.socks.borrow_mut().insert(*key, *peer);
    }
    fn count(&self, counter: Counter) {
        *self.counters.borrow_mut().entry(counter).or_default() += 1;
    }
}
