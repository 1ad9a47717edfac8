// SPDX-License-Identifier: MIT OR Apache-2.0
//! Performs plans, remembers what worked, records what did not.
//!
//! Life of a failure: the operation's group is left where it stands, which is safe by the order of writes; the
//! frontend's status says why; the other groups go on; the next pass, after a backoff, plans the rest again
//! from what is really there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{self, Receiver, TryRecvError},
    },
    time::Duration,
};

use super::{
    datapath::{Datapath, DatapathError, Realized, Suspects},
    desired::{Desired, desired},
    ids::Ids,
    key::FrontKey,
    ops::Op,
    plan::{Plan, Planner, Protected, Subject, plan},
};
use crate::{
    backoff::Backoff,
    model::{Frontend, FrontendAddr, Tables},
    shared_map::SharedMap,
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
    /// Frontends that the kernel does not have as they should be.
    pub wrong: usize,
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
    settled: Option<SharedMap<FrontendAddr, Arc<Frontend>>>,
    /// Backends without a slot, while `settled`.
    unslotted: BTreeMap<FrontKey, Vec<u32>>,
    /// The numbers of all frontends, while `settled`.
    taken: Ids,
    protected: Protected,
    next_backend: u32,
    statuses: SharedMap<FrontKey, Status>,
    /// Those of them that are errors.
    wrong: usize,
    errors: BTreeMap<String, String>,
    backoff: Backoff,
    /// A look at the kernel that is on its way.
    looking: Option<Receiver<Result<Suspects, DatapathError>>>,
    /// The mirror was read anew since the last pass.
    disturbed: bool,
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
            taken: Ids::default(),
            statuses: SharedMap::new(),
            wrong: 0,
            errors: BTreeMap::new(),
            backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST),
            looking: None,
            disturbed: false,
        })
    }

    /// Reads the kernel again, in case somebody else changed it.
    pub fn resync(&mut self) -> Result<(), DatapathError> {
        self.settled = None;
        self.mirror = self.datapath.dump()?;
        Ok(())
    }

    /// Begins to look whether somebody else has changed the kernel, beside everything else: a million entries take
    /// seconds to read.
    pub fn look(&mut self) -> Result<(), DatapathError> {
        let Some(compare) = self.datapath.comparer() else {
            self.disturbed = true;
            return self.resync();
        };
        // A look that is still on its way is as good.
        if self.looking.is_none() {
            let (picture, (sender, receiver)) = (self.mirror.clone(), mpsc::channel());
            let looking = std::thread::Builder::new().name("portico-look".into());
            // Nobody to tell it to: the agent ends.
            let begun = looking.spawn(move || drop(sender.send(compare(&picture))));
            begun.map_err(|source| DatapathError::Syscall {
                operation: "begin",
                object: "a look at the maps".into(),
                source,
            })?;
            self.looking = Some(receiver);
        }
        Ok(())
    }

    /// Whether a look is on its way or has not been asked for what came of it.
    pub fn is_looking(&self) -> bool {
        self.looking.is_some()
    }

    /// Whether a look that is over has found something: then the next pass looks at everything. What has changed
    /// while it looked is looked at again, where nothing changes meanwhile.
    pub fn disturbed(&mut self) -> Result<bool, DatapathError> {
        let told = self.looking.as_ref().map(Receiver::try_recv);
        match told {
            None | Some(Err(TryRecvError::Empty)) => {}
            Some(Err(TryRecvError::Disconnected)) => self.looking = None,
            Some(Ok(suspects)) => {
                self.looking = None;
                if !self.datapath.is_as(&self.mirror, &suspects?)? {
                    self.resync()?;
                    self.disturbed = true;
                }
            }
        }
        Ok(std::mem::take(&mut self.disturbed))
    }

    /// What is known to be in the kernel.
    pub fn mirror(&self) -> &Realized {
        &self.mirror
    }

    /// What became of each frontend.
    pub fn statuses(&self) -> &SharedMap<FrontKey, Status> {
        &self.statuses
    }

    /// What failed in the last pass besides frontends: operation -> why.
    pub fn errors(&self) -> &BTreeMap<String, String> {
        &self.errors
    }

    fn desired(&self, tables: &Tables, blocked: &BTreeSet<u32>, only: Option<&[FrontendAddr]>) -> Desired {
        Desired {
            vip_network: self.datapath.vip_network(),
            ..desired(tables, blocked, only)
        }
    }

    /// What a pass would do.
    pub fn plan(&self, tables: &Tables) -> Plan {
        plan(
            &self.desired(tables, &BTreeSet::new(), None),
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
            .map(|settled| settled.differing(&tables.frontends));
        // Every round but the last blocks one more interface, so this ends.
        loop {
            let mut want = self.desired(tables, &blocked, only.as_deref());
            if let Some(only) = &mut want.only {
                let held = only.keys.iter().filter_map(|key| self.unslotted.get(key));
                only.unslotted = held.flatten().copied().collect();
                only.taken.clone_from(&self.taken);
            }
            self.protected.release(&want);
            if tables.prune {
                self.protected = Protected::default();
            }
            let ids_before = self.ids_of(&want);
            let mut planner = Planner::new(&want, &self.mirror, self.next_backend);
            let outcome = self.perform(&mut planner, &want, &mut pass);
            self.next_backend = planner.next_backend();
            match outcome {
                Ok(failed) => {
                    self.remember(&want, planner.unslotted(), &ids_before);
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
        pass.wrong = self.wrong;
        pass
    }

    /// The numbers of the frontends that the pass is about, where it is not about all.
    fn ids_of(&self, want: &Desired) -> Vec<u32> {
        let keys = want.only.iter().flat_map(|only| &only.keys);
        keys.filter_map(|key| Some(self.mirror.frontends.get(key)?.id))
            .collect()
    }

    /// Keeps what the next pass has to know of frontends that it does not look at.
    fn remember(&mut self, want: &Desired, unslotted: BTreeMap<FrontKey, Vec<u32>>, ids_before: &[u32]) {
        match &want.only {
            Some(only) => {
                for key in &only.keys {
                    self.unslotted.remove(key);
                }
                for id in ids_before {
                    self.taken.remove(*id);
                }
                for id in self.ids_of(want) {
                    self.taken.insert(id);
                }
            }
            None => {
                self.unslotted.clear();
                self.taken = Ids::of(&self.mirror);
            }
        }
        self.unslotted.extend(unslotted);
    }

    /// Performs what is planned. Returns the frontends that failed, or the interface that cannot get its reply
    /// program: then the plan must be made anew without it.
    fn perform(
        &mut self,
        planner: &mut Planner,
        want: &Desired,
        pass: &mut Pass,
    ) -> Result<BTreeMap<FrontKey, String>, u32> {
        let mut failed = BTreeMap::new();
        while let Some(group) = planner.next(want, &self.mirror, &self.protected) {
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
        let is_wrong = |status: &Status| usize::from(*status != Status::Done);
        let mut outcome = |key: &FrontKey| failed.remove(key).map_or(Status::Done, Status::Error);
        let now = want.frontends.keys().map(|key| (*key, outcome(key)));
        match &want.only {
            Some(only) => {
                let gone = only.keys.iter().filter(|key| !want.frontends.contains_key(key));
                for key in gone {
                    self.wrong -= self.statuses.remove(key).as_ref().map_or(0, is_wrong);
                }
                for (key, status) in now {
                    self.wrong += is_wrong(&status);
                    self.wrong -= self.statuses.insert(key, status).as_ref().map_or(0, is_wrong);
                }
            }
            None => {
                self.statuses = now.collect();
                self.wrong = self.statuses.values().map(is_wrong).sum();
            }
        }
        // What is left failed to go away.
        for (key, why) in failed {
            self.errors.insert(key.to_string(), why);
        }
    }
}
