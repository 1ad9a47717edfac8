// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel that fails on purpose, for tests: a share of all operations by seed, or everything after the n-th,
//! as if the agent had been killed there.

use proxy_ebpf::abi::{
    Backend, Frontend, LocalAddr, LocalTask, Scope, SlotKey, SourceKey, TableBlock, TableKey,
};

use super::{
    datapath::{Datapath, DatapathError, Realized},
    fake::{Fake, datapath_by_ops},
    key::FrontKey,
    ops::Op,
};

/// A fake with faults.
#[derive(Debug)]
pub struct Faulty {
    inner: Fake,
    percent: u64,
    seed: u64,
    operations_left: Option<usize>,
    fails: fn(&Op) -> bool,
}

impl Faulty {
    /// Fails `percent` of all operations.
    pub fn sometimes(inner: Fake, percent: u64, seed: u64) -> Self {
        Self {
            inner,
            percent,
            seed,
            operations_left: None,
            fails: |_| false,
        }
    }

    /// Performs `operations` and nothing after that.
    pub fn crash_after(inner: Fake, operations: usize) -> Self {
        Self {
            operations_left: Some(operations),
            ..Self::sometimes(inner, 0, 0)
        }
    }

    /// Fails what `fails` says.
    pub fn on(inner: Fake, fails: fn(&Op) -> bool) -> Self {
        Self {
            fails,
            ..Self::sometimes(inner, 0, 0)
        }
    }

    fn apply(&mut self, op: Op) -> Result<(), DatapathError> {
        let refused = Err(DatapathError::Syscall {
            operation: "injected",
            object: op.to_string(),
            source: std::io::Error::other("fault"),
        });
        if let Some(left) = &mut self.operations_left {
            if *left == 0 {
                return refused;
            }
            *left -= 1;
        }
        // xorshift64 (Marsaglia): enough to spread faults, the same everywhere.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        if self.seed % 100 < self.percent || (self.fails)(&op) {
            return refused;
        }
        op.perform(&mut self.inner)
    }

    fn read_back(&mut self) -> Result<Realized, DatapathError> {
        self.inner.dump()
    }
}

datapath_by_ops!(Faulty);
