// SPDX-License-Identifier: MIT OR Apache-2.0
//! All that the datapath may ask of the world.

use crate::abi::{
    Backend, Counter, Flow, FlowKey, Frontend, FrontendKey, LocalTask, Scope, SlotKey, SockKey, SockPeer,
};

/// The maps. Every method is one map operation; none blocks.
pub trait Maps {
    /// Scope of a namespace.
    fn scope(&self, cookie: u64) -> Option<&Scope>;
    /// Whether the address (network order) is this node's own.
    fn is_local_addr(&self, addr_be: u32) -> bool;
    /// Master entry of a frontend.
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// Backend id in a slot.
    fn slot(&self, key: &SlotKey) -> Option<u32>;
    /// A backend by id.
    fn backend(&self, id: u32) -> Option<Backend>;
    /// A task of this node by its tunnel name.
    fn local_task(&self, id: u32) -> Option<LocalTask>;
    /// Next value of a frontend's round-robin counter; wraps.
    fn next(&self, frontend: u32) -> u32;
    /// A flow.
    fn flow(&self, key: &FlowKey) -> Option<Flow>;
    /// Writes a flow; false when the table takes no more.
    fn set_flow(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// A socket's translation.
    fn sock(&self, key: &SockKey) -> Option<SockPeer>;
    /// Writes a socket's translation; a full table forgets the least recently used.
    fn set_sock(&self, key: &SockKey, peer: &SockPeer);
    /// Adds one to a counter.
    fn count(&self, counter: Counter);
}
