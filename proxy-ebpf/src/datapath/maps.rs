// SPDX-License-Identifier: MIT OR Apache-2.0
//! All that the datapath may ask of the world.

use super::{Packet, table::Stored};
use crate::abi::{
    Affinity, AffinityKey, Backend, Counter, Event, Flow, FlowKey, Fragment, FragmentKey, Frontend,
    FrontendKey, FrontendKey6, LocalTask, Scope, SlotKey, SockKey, SockKey6, SockPeer, SockPeer6, Watch,
};

/// The maps. Every method is one map operation; none blocks.
pub trait Maps {
    /// Scope of a namespace.
    fn scope(&self, cookie: u64) -> Option<&Scope>;
    /// Whether the address (network order) is this node's own.
    fn is_local_addr(&self, addr_be: u32) -> bool;
    /// The network whose VIPs clients outside may use; 0 = none.
    fn vip_network(&self) -> u32;
    /// This node's address, network order; 0 = unknown.
    fn node_be(&self) -> u32;
    /// Master entry of a frontend.
    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend>;
    /// Master entry of a frontend with an IPv6 address.
    fn frontend6(&self, key: &FrontendKey6) -> Option<&Frontend>;
    /// Backend id in a slot.
    fn slot(&self, key: &SlotKey) -> Option<u32>;
    /// Backend id in a table; `None` when the block is not there.
    fn table(&self, table: u32, index: u32) -> Option<u32>;
    /// A backend by id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// A task of this node by its tunnel name.
    fn local_task(&self, id: u32) -> Option<&LocalTask>;
    /// Next value of a frontend's round-robin counter; wraps.
    fn next(&self, frontend: u32) -> u32;
    /// Chance.
    fn random(&self) -> u32;
    /// Open flows of a backend.
    fn active(&self, backend: u32) -> u32;
    /// Counts flows of a backend: adds one of the words of [`crate::abi::tally`].
    fn tally(&self, backend: u32, change: u64);
    /// The backend that a client keeps.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Remembers it; a full table forgets the least recently used.
    fn set_affinity(&self, key: &AffinityKey, value: &Affinity);
    /// Whether packets to this address and port are a published port's, if that was found out under this generation
    /// of the tables and is still remembered.
    fn gate(&self, generation: u16, packet: &Packet) -> Option<bool>;
    /// Remembers it; another address and port may be forgotten for it.
    fn set_gate(&self, generation: u16, packet: &Packet, ours: bool);
    /// Ticks after which a flow in this state is forgotten.
    fn timeout(&self, state: u8) -> u32;
    /// A flow, whether it has timed out or not.
    fn flow(&self, key: &FlowKey) -> Option<Flow>;
    /// Writes a flow; `None` when its bucket was busy.
    fn set_flow(&self, key: &FlowKey, flow: &Flow) -> Option<Stored>;
    /// Ports of a datagram in fragments.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Remembers them; a full table forgets the least recently used.
    fn set_fragment(&self, key: &FragmentKey, value: &Fragment);
    /// What a list of prefixes says of a client (network order): [`super::ALLOW`] or [`super::DENY`];
    /// `None` when no prefix matches.
    fn source(&self, list: u32, client_be: u32) -> Option<u8>;
    /// Whether the deny list has an address (network order).
    fn denied(&self, addr_be: u32) -> bool;
    /// SYNs that a prefix of clients (network order) has sent, and in which tick.
    fn syns(&self, prefix_be: u32) -> (u32, u32);
    /// Counts one more in this tick; its number.
    fn count_syn(&self, prefix_be: u32, tick: u32) -> u32;
    /// A socket's translation.
    fn sock(&self, key: &SockKey) -> Option<SockPeer>;
    /// Writes a socket's translation; a full table forgets the least recently used.
    fn set_sock(&self, key: &SockKey, peer: &SockPeer);
    /// An IPv6 socket's translation.
    fn sock6(&self, key: &SockKey6) -> Option<SockPeer6>;
    /// Writes it; as above.
    fn set_sock6(&self, key: &SockKey6, peer: &SockPeer6);
    /// What somebody wants to be told.
    fn watch(&self) -> Watch;
    /// Tells it, or counts that it could not be told.
    fn tell(&self, now: u32, event: impl FnOnce() -> Event);
    /// Adds one to a counter.
    fn count(&self, counter: Counter) {
        self.count_number(counter as u32);
    }
    /// Adds one to the counter with this number.
    fn count_number(&self, number: u32);
}
