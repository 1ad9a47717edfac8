// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the control loop needs of a data plane, whichever it is.

use std::collections::BTreeMap;

use super::{Pass, Reconciler, Status, datapath::DatapathError, key::FrontKey};
use crate::{model::Tables, shared_map::SharedMap};

/// Keeps a kernel as the tables say.
pub trait Follow: Send {
    /// Begins to look whether somebody else has changed the kernel.
    fn look(&mut self) -> Result<(), DatapathError>;
    /// Whether a look that is over has found that somebody may have: the next pass will look at everything.
    fn disturbed(&mut self) -> Result<bool, DatapathError>;
    /// Makes the kernel as the tables say, as far as it lets itself.
    fn pass(&mut self, tables: &Tables) -> Pass;
    /// What became of each frontend.
    fn statuses(&self) -> &SharedMap<FrontKey, Status>;
    /// What else there is to say of the last pass: subject -> why.
    fn errors(&self) -> &BTreeMap<String, String>;
}

impl Follow for Reconciler {
    fn look(&mut self) -> Result<(), DatapathError> {
        self.look()
    }

    fn disturbed(&mut self) -> Result<bool, DatapathError> {
        self.disturbed()
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
