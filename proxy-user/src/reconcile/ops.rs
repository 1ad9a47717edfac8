// SPDX-License-Identifier: MIT OR Apache-2.0
//! One change of the kernel, as data.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

use proxy_ebpf::abi::{
    Backend, Frontend, LocalAddr, LocalTask, Scope, SlotKey, SourceKey, TableBlock, TableKey,
};

use super::{
    datapath::{Datapath, DatapathError, Realized},
    desired::address_of,
    key::FrontKey,
};

/// One change. Performing it twice is the same as once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "one variant per method of Datapath, documented there")]
pub enum Op {
    SetScope(u64, Scope),
    DeleteScope(u64),
    SetLocalAddr(u32, LocalAddr),
    DeleteLocalAddr(u32),
    AttachTaskLink(u32),
    DetachTaskLink(u32),
    SetLocalTask(u32, LocalTask),
    DeleteLocalTask(u32),
    SetBackend(u32, Backend),
    DeleteBackend(u32),
    SetSlot(SlotKey, u32),
    DeleteSlot(SlotKey),
    SetTable(TableKey, TableBlock),
    DeleteTable(TableKey),
    SetSource(SourceKey, u32),
    DeleteSource(SourceKey),
    SetFrontend(FrontKey, Frontend),
    DeleteFrontend(FrontKey),
}

impl Op {
    /// Does it in the kernel.
    pub fn perform(&self, datapath: &mut dyn Datapath) -> Result<(), DatapathError> {
        match *self {
            Op::SetScope(cookie, value) => datapath.set_scope(cookie, value),
            Op::DeleteScope(cookie) => datapath.delete_scope(cookie),
            Op::SetLocalAddr(address, value) => datapath.set_local_addr(address, value),
            Op::DeleteLocalAddr(address) => datapath.delete_local_addr(address),
            Op::AttachTaskLink(ifindex) => datapath.attach_task_link(ifindex),
            Op::DetachTaskLink(ifindex) => datapath.detach_task_link(ifindex),
            Op::SetLocalTask(id, value) => datapath.set_local_task(id, value),
            Op::DeleteLocalTask(id) => datapath.delete_local_task(id),
            Op::SetBackend(id, value) => datapath.set_backend(id, value),
            Op::DeleteBackend(id) => datapath.delete_backend(id),
            Op::SetSlot(key, backend) => datapath.set_slot(key, backend),
            Op::DeleteSlot(key) => datapath.delete_slot(key),
            Op::SetTable(key, value) => datapath.set_table(key, value),
            Op::DeleteTable(key) => datapath.delete_table(key),
            Op::SetSource(key, verdict) => datapath.set_source(key, verdict),
            Op::DeleteSource(key) => datapath.delete_source(key),
            Op::SetFrontend(key, value) => datapath.set_frontend(key, value),
            Op::DeleteFrontend(key) => datapath.delete_frontend(key),
        }
    }

    /// Does it in a picture of the kernel.
    pub fn record(&self, realized: &mut Realized) {
        match *self {
            Op::SetScope(cookie, value) => drop(realized.scopes.insert(cookie, value)),
            Op::DeleteScope(cookie) => drop(realized.scopes.remove(&cookie)),
            Op::SetLocalAddr(address, value) => drop(realized.local_addrs.insert(address, value)),
            Op::DeleteLocalAddr(address) => drop(realized.local_addrs.remove(&address)),
            Op::AttachTaskLink(ifindex) => drop(realized.task_links.insert(ifindex)),
            Op::DetachTaskLink(ifindex) => drop(realized.task_links.remove(&ifindex)),
            Op::SetLocalTask(id, value) => drop(realized.local_tasks.insert(id, value)),
            Op::DeleteLocalTask(id) => drop(realized.local_tasks.remove(&id)),
            Op::SetBackend(id, value) => drop(realized.backends.insert(id, value)),
            Op::DeleteBackend(id) => drop(realized.backends.remove(&id)),
            Op::SetSlot(key, backend) => drop(realized.slots.insert(key, backend)),
            Op::DeleteSlot(key) => drop(realized.slots.remove(&key)),
            Op::SetTable(key, value) => drop(realized.tables.insert(key, value)),
            Op::DeleteTable(key) => drop(realized.tables.remove(&key)),
            Op::SetSource(key, verdict) => drop(realized.sources.insert(key, verdict)),
            Op::DeleteSource(key) => drop(realized.sources.remove(&key)),
            Op::SetFrontend(key, value) => drop(realized.frontends.insert(key, value)),
            Op::DeleteFrontend(key) => drop(realized.frontends.remove(&key)),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Op::SetScope(cookie, value) => {
                let networks = value
                    .networks
                    .get(..value.count as usize)
                    .unwrap_or(&value.networks);
                write!(
                    f,
                    "set scope {cookie} networks {networks:08x?} flags {}",
                    value.flags
                )
            }
            Op::DeleteScope(cookie) => write!(f, "delete scope {cookie}"),
            Op::SetLocalAddr(address, _) => write!(f, "set address {}", dotted(address)),
            Op::DeleteLocalAddr(address) => write!(f, "delete address {}", dotted(address)),
            Op::AttachTaskLink(ifindex) => write!(f, "attach link {ifindex}"),
            Op::DetachTaskLink(ifindex) => write!(f, "detach link {ifindex}"),
            Op::SetLocalTask(id, value) => {
                write!(
                    f,
                    "set task {id:06x} {} link {}",
                    dotted(value.addr_be),
                    value.ifindex
                )
            }
            Op::DeleteLocalTask(id) => write!(f, "delete task {id:06x}"),
            Op::SetBackend(id, value) => {
                write!(
                    f,
                    "set backend {id} {}",
                    SocketAddr::new(address_of(&value), u16::from_be(value.port_be))
                )?;
                if value.task != 0 {
                    write!(f, " task {:06x}", value.task)?;
                }
                if value.node_be != 0 {
                    write!(f, " node {}", dotted(value.node_be))?;
                }
                Ok(())
            }
            Op::DeleteBackend(id) => write!(f, "delete backend {id}"),
            Op::SetSlot(key, backend) => {
                write!(f, "set slot {}[{}] backend {backend}", key.frontend, key.index)
            }
            Op::DeleteSlot(key) => write!(f, "delete slot {}[{}]", key.frontend, key.index),
            Op::SetTable(key, _) => write!(f, "set table {}[{}]", key.table, key.block),
            Op::DeleteTable(key) => write!(f, "delete table {}[{}]", key.table, key.block),
            Op::SetSource(key, verdict) => {
                write!(
                    f,
                    "set source {} {}/{} {verdict}",
                    key.list,
                    dotted(key.addr_be),
                    key.bits
                )
            }
            Op::DeleteSource(key) => {
                write!(
                    f,
                    "delete source {} {}/{}",
                    key.list,
                    dotted(key.addr_be),
                    key.bits
                )
            }
            Op::SetFrontend(key, value) => {
                write!(f, "set frontend {} {} slots {}", value.id, key, value.slots)
            }
            Op::DeleteFrontend(key) => write!(f, "delete frontend {}", key),
        }
    }
}

fn dotted(address_be: u32) -> Ipv4Addr {
    Ipv4Addr::from(address_be.to_ne_bytes())
}
