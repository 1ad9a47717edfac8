// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the reconciler may ask of the kernel: the maps and the per-task attachments, behind one trait.
//!
//! `kernel::dataplane` implements it for pinned BPF maps; tests use a fake and one that fails on purpose.
//! Every operation is idempotent: setting what is there succeeds, deleting what is absent succeeds.

use std::collections::{BTreeMap, BTreeSet};

use proxy_ebpf::abi::{
    Backend, Frontend, LocalAddr, LocalTask, Scope, SlotKey, SourceKey, TableBlock, TableKey,
};

use super::key::FrontKey;
use crate::shared_map::SharedMap;

/// Why the kernel refused an operation.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The map has as many entries as it was created for.
    #[error("map {map} is full ({limit} entries, limits::{constant})")]
    Full {
        /// Map name.
        map: &'static str,
        /// Its size.
        limit: u32,
        /// The constant that sets it.
        constant: &'static str,
    },
    /// A system call failed.
    #[error("{operation} on {object}: {source}")]
    Syscall {
        /// What was attempted (`update`, `delete`, `attach`, …).
        operation: &'static str,
        /// Map, program or interface.
        object: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Everything that is in the kernel, as read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Realized {
    /// Frontend master entries.
    pub frontends: SharedMap<FrontKey, Frontend>,
    /// Slot -> backend id.
    pub slots: SharedMap<SlotKey, u32>,
    /// Blocks of the tables that spread flows.
    pub tables: SharedMap<TableKey, TableBlock>,
    /// Prefixes of clients -> verdict.
    pub sources: SharedMap<SourceKey, u32>,
    /// Backend id -> backend.
    pub backends: SharedMap<u32, Backend>,
    /// Netns cookie -> scope.
    pub scopes: BTreeMap<u64, Scope>,
    /// Own addresses, network order.
    pub local_addrs: BTreeMap<u32, LocalAddr>,
    /// Task id -> task of this node.
    pub local_tasks: BTreeMap<u32, LocalTask>,
    /// Host-side gateway veths (ifindex) that have the reply program.
    pub task_links: BTreeSet<u32>,
}

/// Keys under which the kernel may have something else than a picture of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Of frontends.
    pub frontends: Vec<FrontKey>,
    /// Of slots.
    pub slots: Vec<SlotKey>,
    /// Of blocks of tables.
    pub tables: Vec<TableKey>,
    /// Of backends.
    pub backends: Vec<u32>,
    /// Of what there is not much of, something.
    pub few: bool,
}

/// Compares a picture with the kernel, which changes meanwhile.
pub type Comparer = Box<dyn FnOnce(&Realized) -> Result<Suspects, DatapathError> + Send>;

/// The kernel as the reconciler sees it.
pub trait Datapath: Send {
    /// Writes a frontend's master entry.
    fn set_frontend(&mut self, key: FrontKey, value: Frontend) -> Result<(), DatapathError>;
    /// Removes a frontend's master entry.
    fn delete_frontend(&mut self, key: FrontKey) -> Result<(), DatapathError>;
    /// Points a slot at a backend.
    fn set_slot(&mut self, key: SlotKey, backend: u32) -> Result<(), DatapathError>;
    /// Removes a slot.
    fn delete_slot(&mut self, key: SlotKey) -> Result<(), DatapathError>;
    /// Writes a block of a table.
    fn set_table(&mut self, key: TableKey, value: TableBlock) -> Result<(), DatapathError>;
    /// Removes a block of a table.
    fn delete_table(&mut self, key: TableKey) -> Result<(), DatapathError>;
    /// Writes the verdict about a prefix of clients.
    fn set_source(&mut self, key: SourceKey, verdict: u32) -> Result<(), DatapathError>;
    /// Removes it.
    fn delete_source(&mut self, key: SourceKey) -> Result<(), DatapathError>;
    /// Writes a backend.
    fn set_backend(&mut self, id: u32, value: Backend) -> Result<(), DatapathError>;
    /// Removes a backend.
    fn delete_backend(&mut self, id: u32) -> Result<(), DatapathError>;
    /// Gives a namespace its networks.
    fn set_scope(&mut self, cookie: u64, value: Scope) -> Result<(), DatapathError>;
    /// Takes a namespace out.
    fn delete_scope(&mut self, cookie: u64) -> Result<(), DatapathError>;
    /// Adds an own address (network order).
    fn set_local_addr(&mut self, addr_be: u32, value: LocalAddr) -> Result<(), DatapathError>;
    /// Removes an own address.
    fn delete_local_addr(&mut self, addr_be: u32) -> Result<(), DatapathError>;
    /// Makes a task of this node reachable through the tunnel.
    fn set_local_task(&mut self, id: u32, value: LocalTask) -> Result<(), DatapathError>;
    /// Removes a task of this node.
    fn delete_local_task(&mut self, id: u32) -> Result<(), DatapathError>;
    /// Attaches the reply program to a task's host-side gateway veth.
    fn attach_task_link(&mut self, ifindex: u32) -> Result<(), DatapathError>;
    /// Detaches it; the interface may be gone already.
    fn detach_task_link(&mut self, ifindex: u32) -> Result<(), DatapathError>;
    /// The network whose VIPs clients outside may use; 0 = none.
    fn vip_network(&self) -> u32 {
        0
    }
    /// What compares a picture with the kernel in a thread of its own; none where everything is read back in a
    /// moment.
    fn comparer(&self) -> Option<Comparer> {
        None
    }
    /// Whether the kernel has what a picture has, as far as it was suspected not to.
    fn is_as(&mut self, picture: &Realized, _: &Suspects) -> Result<bool, DatapathError> {
        Ok(self.dump()? == *picture)
    }
    /// Reads everything back.
    fn dump(&mut self) -> Result<Realized, DatapathError>;
}
