// SPDX-License-Identifier: MIT OR Apache-2.0
//! Performs plans, remembers what worked, records what did not.
//!
//! Life of a failure: the operation's group is left where it stands, which is safe by the order of writes; the
//! frontend's status says why; the other groups go on; the next pass, after a backoff, plans the rest again
//! from what is really there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    datapath::{Datapath, DatapathError, Realized},
    desired::{Desired, desired},
    key::FrontKey,
    ops::Op,
    plan::{Plan, Protected, Subject, plan},
};
use crate::{
    backoff::Backoff,
    model::{Frontend, FrontendAddr, Tables},
};

/// Shortest wait before a failed operation is tried again.
pub const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Longest wait before a failed operation is tried again.
pub const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// What became of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not tried yet.
    Pending,
    /// The kernel has it.
    Done,
    /// The kernel refused something; it is tried again.
    Error(String),
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Operations performed.
    pub done: usize,
    /// Operations that failed.
    pub failed: usize,
    /// Backends that are gone.
    pub gone: usize,
    /// When to try again, if anything failed.
    pub retry: Option<Duration>,
}

/// Keeps the kernel as the tables say.
///
/// *Lifetime:* the control loop's. *Memory:* one copy of what is in the maps.
pub struct Reconciler {
    datapath: Box<dyn Datapath>,
    mirror: Realized,
    /// What the kernel is known to have, exactly and nothing else: the next pass looks at what differs only.
    settled: Option<BTreeMap<FrontendAddr, Arc<Frontend>>>,
    /// Backends without a slot, while `settled`.
    unslotted: BTreeMap<FrontKey, Vec<u32>>,
    protected: Protected,
    next_backend: u32,
    statuses: BTreeMap<FrontKey, Status>,
    errors: BTreeMap<String, String>,
    backoff: Backoff,
}

impl Reconciler {
    /// Reads back what is in the kernel. All of it is protected until the provider has said what it wants.
    pub fn restore(mut datapath: Box<dyn Datapath>) -> Result<Self, DatapathError> {
        let mirror = datapath.dump()?;
        Ok(Self {
            protected: Protected::all(&mirror),
            next_backend: mirror
                .backends
                .last_key_value()
                .map_or(1, |(id, _)| id.saturating_add(1)),
            mirror,
            datapath,
            settled: None,
            unslotted: BTreeMap::new(),
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST),
        })
    }

    /// Reads the kernel again, in case somebody else changed it.
    pub fn resync(&mut self) -> Result<(), DatapathError> {
        self.settled = None;
        self.mirror = self.datapath.dump()?;
        Ok(())
    }

    /// What is known to be in the kernel.
    pub fn mirror(&self) -> &Realized {
        &self.mirror
    }

    /// What became of each frontend.
    pub fn statuses(&self) -> &BTreeMap<FrontKey, Status> {
        &self.statuses
    }

    /// What failed in the last pass besides frontends: operation -> why.
    pub fn errors(&self) -> &BTreeMap<String, String> {
        &self.errors
    }

    /// What a pass would do.
    pub fn plan(&self, tables: &Tables) -> Plan {
        plan(
            &desired(tables, &BTreeSet::new(), None),
            &self.mirror,
            &self.protected,
            self.next_backend,
        )
    }

    /// Makes the kernel as the tables say, as far as it lets itself.
    pub fn pass(&mut self, tables: &Tables) -> Pass {
        let mut pass = Pass::default();
        let mut blocked = BTreeSet::new();
        self.errors.clear();
        let mut only = self
            .settled
            .take()
            .map(|settled| differing(&settled, &tables.frontends));
        // Every round but the last blocks one more interface, so this ends.
        loop {
            let mut want = desired(tables, &blocked, only.as_ref());
            if let Some(only) = &mut want.only {
                let held = only.keys.iter().filter_map(|key| self.unslotted.get(key));
                only.unslotted = held.flatten().copied().collect();
            }
            self.protected.release(&want);
            if tables.prune {
                self.protected = Protected::default();
            }
            let plan = plan(&want, &self.mirror, &self.protected, self.next_backend);
            self.next_backend = plan.next_backend;
            match self.perform(&plan, &mut pass) {
                Ok(failed) => {
                    match &want.only {
                        Some(only) => self.unslotted.retain(|key, _| !only.keys.contains(key)),
                        None => self.unslotted.clear(),
                    }
                    self.unslotted.extend(plan.unslotted);
                    self.record(&want, failed);
                    break;
                }
                Err(ifindex) => {
                    blocked.insert(ifindex);
                    only = None;
                }
            }
        }
        if pass.failed == 0 {
            self.backoff.succeeded();
            self.settled = tables.prune.then(|| tables.frontends.clone());
        } else {
            pass.retry = Some(self.backoff.failed());
        }
        pass
    }

    /// Performs a plan. Returns the frontends that failed, or the interface that cannot get its reply program:
    /// then the plan must be made anew without it.
    fn perform(&mut self, plan: &Plan, pass: &mut Pass) -> Result<BTreeMap<FrontKey, String>, u32> {
        let mut failed = BTreeMap::new();
        for group in &plan.groups {
            for op in &group.ops {
                if !failed.is_empty() && self.still_needed(op) {
                    continue;
                }
                match op.perform(self.datapath.as_mut()) {
                    Ok(()) => {
                        op.record(&mut self.mirror);
                        pass.done += 1;
                        pass.gone += usize::from(matches!(op, Op::DeleteBackend(_)));
                    }
                    Err(error) => {
                        pass.failed += 1;
                        tracing::warn!(%op, %error, "the kernel refused");
                        match group.subject {
                            Subject::Frontend(key) => {
                                failed.insert(key, format!("{op}: {error}"));
                            }
                            _ => {
                                self.errors.insert(op.to_string(), error.to_string());
                            }
                        }
                        if let Subject::Link(ifindex) = group.subject {
                            return Err(ifindex);
                        }
                        break;
                    }
                }
            }
        }
        Ok(failed)
    }

    /// Whether a backend that could not be removed still replies through what this operation takes away.
    fn still_needed(&self, op: &Op) -> bool {
        let ifindex = match op {
            Op::DetachTaskLink(ifindex) => *ifindex,
            Op::DeleteLocalTask(id) => self.mirror.local_tasks.get(id).map_or(0, |task| task.ifindex),
            _ => 0,
        };
        ifindex != 0
            && self
                .mirror
                .backends
                .values()
                .any(|backend| backend.ifindex == ifindex)
    }

    fn record(&mut self, want: &Desired, mut failed: BTreeMap<FrontKey, String>) {
        match &want.only {
            Some(only) => self.statuses.retain(|key, _| !only.keys.contains(key)),
            None => self.statuses.clear(),
        }
        self.statuses.extend(
            want.frontends
                .keys()
                .map(|key| (*key, failed.remove(key).map_or(Status::Done, Status::Error))),
        );
        // What is left failed to go away.
        for (key, why) in failed {
            self.errors.insert(key.to_string(), why);
        }
    }
}

/// The addresses that are in one of two pictures only, or not the same in both.
fn differing(
    old: &BTreeMap<FrontendAddr, Arc<Frontend>>,
    new: &BTreeMap<FrontendAddr, Arc<Frontend>>,
) -> BTreeSet<FrontendAddr> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut differing = BTreeSet::new();
    loop {
        let (before, after) = (old.peek().copied(), new.peek().copied());
        let Some(first) = before.into_iter().chain(after).map(|(address, _)| *address).min() else {
            return differing;
        };
        let before = old.next_if(|(address, _)| **address == first);
        let after = new.next_if(|(address, _)| **address == first);
        // Comparing two Arcs compares pointers first.
        if before != after {
            differing.insert(first);
        }
    }
}
