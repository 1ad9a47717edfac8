// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the control thread shows to the admin side: an immutable picture, replaced after every pass.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use crate::{
    model::{Refusal, ServiceName, Tables},
    reconcile::{Status, key::FrontKey},
    shared_map::SharedMap,
};

/// How the source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderState {
    /// It has said nothing yet.
    Waiting,
    /// The last look succeeded.
    Ok,
    /// The last look failed; what it said before stays in force.
    Unreadable(String),
}

/// A namespace that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxProblem {
    /// A task in it.
    pub task: String,
    /// Its path.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

/// Everything to show.
#[derive(Clone, Debug)]
pub struct View {
    /// This node's name.
    pub node: String,
    /// When the agent started.
    pub started: SystemTime,
    /// `file` or `docker`.
    pub provider: &'static str,
    /// Where it reads.
    pub source: String,
    /// How the source is.
    pub state: ProviderState,
    /// What the operator's verbs had said when this was made.
    pub revision: u64,
    /// Services that are used as if none of their members were down, because all are.
    pub all_down: Vec<ServiceName>,
    /// What is in force.
    pub tables: Arc<Tables>,
    /// What became of it.
    pub statuses: SharedMap<FrontKey, Status>,
    /// What else the kernel refused.
    pub errors: BTreeMap<String, String>,
    /// What was not taken.
    pub refusals: Vec<Refusal>,
    /// Namespaces that cannot be used.
    pub sandboxes: Vec<SandboxProblem>,
    /// Passes of the reconciler.
    pub passes: u64,
    /// Operations that the kernel did.
    pub operations: u64,
    /// Operations that it refused.
    pub failures: u64,
}

impl View {
    /// Nothing has happened yet.
    pub fn new(provider: &'static str, source: &str, node: &str) -> Self {
        Self {
            node: node.into(),
            started: SystemTime::now(),
            provider,
            source: source.into(),
            state: ProviderState::Waiting,
            revision: 0,
            all_down: Vec::new(),
            tables: Arc::default(),
            statuses: SharedMap::new(),
            errors: BTreeMap::new(),
            refusals: Vec::new(),
            sandboxes: Vec::new(),
            passes: 0,
            operations: 0,
            failures: 0,
        }
    }
}
