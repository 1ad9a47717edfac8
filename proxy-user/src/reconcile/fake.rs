// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel in memory, for tests. Cheap to clone: all clones are the same kernel, as after a restart.

use std::sync::{Arc, Mutex, MutexGuard};

use proxy_ebpf::abi::{
    Backend, Frontend, LocalAddr, LocalTask, Scope, SlotKey, SourceKey, TableBlock, TableKey,
};

use super::{
    datapath::{Datapath, DatapathError, Realized},
    key::FrontKey,
    ops::Op,
};

/// A kernel that accepts everything.
#[derive(Clone, Debug, Default)]
pub struct Fake(Arc<Mutex<Realized>>);

impl Fake {
    /// What is in it.
    pub fn state(&self) -> MutexGuard<'_, Realized> {
        self.0.lock().expect("no test panics while it holds this")
    }

    fn apply(&self, op: Op) -> Result<(), DatapathError> {
        op.record(&mut self.state());
        Ok(())
    }
}

/// Implements the trait by turning every call into an [`Op`] for a function `apply(&mut self, Op)`; what else there is
/// to implement may follow the type.
macro_rules! datapath_by_ops {
    ($type:ty, $($more:tt)*) => {
        impl Datapath for $type {
            fn set_frontend(&mut self, key: FrontKey, value: Frontend) -> Result<(), DatapathError> {
                self.apply(Op::SetFrontend(key, value))
            }
            fn delete_frontend(&mut self, key: FrontKey) -> Result<(), DatapathError> {
                self.apply(Op::DeleteFrontend(key))
            }
            fn set_slot(&mut self, key: SlotKey, backend: u32) -> Result<(), DatapathError> {
                self.apply(Op::SetSlot(key, backend))
            }
            fn delete_slot(&mut self, key: SlotKey) -> Result<(), DatapathError> {
                self.apply(Op::DeleteSlot(key))
            }
            fn set_table(&mut self, key: TableKey, value: TableBlock) -> Result<(), DatapathError> {
                self.apply(Op::SetTable(key, value))
            }
            fn delete_table(&mut self, key: TableKey) -> Result<(), DatapathError> {
                self.apply(Op::DeleteTable(key))
            }
            fn set_source(&mut self, key: SourceKey, verdict: u32) -> Result<(), DatapathError> {
                self.apply(Op::SetSource(key, verdict))
            }
            fn delete_source(&mut self, key: SourceKey) -> Result<(), DatapathError> {
                self.apply(Op::DeleteSource(key))
            }
            fn set_backend(&mut self, id: u32, value: Backend) -> Result<(), DatapathError> {
                self.apply(Op::SetBackend(id, value))
            }
            fn delete_backend(&mut self, id: u32) -> Result<(), DatapathError> {
                self.apply(Op::DeleteBackend(id))
            }
            fn set_scope(&mut self, cookie: u64, value: Scope) -> Result<(), DatapathError> {
                self.apply(Op::SetScope(cookie, value))
            }
            fn delete_scope(&mut self, cookie: u64) -> Result<(), DatapathError> {
                self.apply(Op::DeleteScope(cookie))
            }
            fn set_local_addr(&mut self, addr_be: u32, value: LocalAddr) -> Result<(), DatapathError> {
                self.apply(Op::SetLocalAddr(addr_be, value))
            }
            fn delete_local_addr(&mut self, addr_be: u32) -> Result<(), DatapathError> {
                self.apply(Op::DeleteLocalAddr(addr_be))
            }
            fn set_local_task(&mut self, id: u32, value: LocalTask) -> Result<(), DatapathError> {
                self.apply(Op::SetLocalTask(id, value))
            }
            fn delete_local_task(&mut self, id: u32) -> Result<(), DatapathError> {
                self.apply(Op::DeleteLocalTask(id))
            }
            fn attach_task_link(&mut self, ifindex: u32) -> Result<(), DatapathError> {
                self.apply(Op::AttachTaskLink(ifindex))
            }
            fn detach_task_link(&mut self, ifindex: u32) -> Result<(), DatapathError> {
                self.apply(Op::DetachTaskLink(ifindex))
            }
            fn dump(&mut self) -> Result<Realized, DatapathError> {
                self.read_back()
            }
            $($more)*
        }
    };
    ($type:ty) => {
        datapath_by_ops!($type,);
    };
}
pub(super) use datapath_by_ops;

impl Fake {
    fn read_back(&self) -> Result<Realized, DatapathError> {
        Ok(self.state().clone())
    }
}

datapath_by_ops!(Fake);
