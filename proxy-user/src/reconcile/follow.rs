// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the control loop needs of a data plane, whichever it is.

use std::collections::BTreeMap;

use super::{Pass, Reconciler, Status, datapath::DatapathError, key::FrontKey};
use crate::{model::Tables, shared_map::SharedMap};

/// Keeps a kernel as the tables say.
pub trait Follow: Send {
    /// Reads the kernel again, in case somebody else changed it.
    fn resync(&mut self) -> Result<(), DatapathError>;
    /// Makes the kernel as the tables say, as far as it lets itself.
    fn pass(&mut self, tables: &Tables) -> Pass;
    /// What became of each frontend.
    fn statuses(&self) -> &SharedMap<FrontKey, Status>;
    /// What else there is to say of the last pass: subject -> why.
    fn errors(&self) -> &BTreeMap<String, String>;
}

impl Follow for Reconciler {
    fn resync(&mut self) -> Result<(), DatapathError> {
        self.resync()
    }

    fn pass(&mut self, tables: &Tables) -> Pass {
        self.pass(tables)
    }

    fn statuses(&self) -> &SharedMap<FrontKey, Status> {
        self.statuses()
    }

    fn errors(&self) -> &BTreeMap<String, String> {
        self.errors()
    }
}
