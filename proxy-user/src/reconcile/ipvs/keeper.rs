// SPDX-License-Identifier: MIT OR Apache-2.0
//! Performs plans, remembers what worked and what is Portico's, records what did not.

use std::collections::BTreeMap;

use super::{
    desired::{Options, desired},
    plan::plan,
    table::{Ipvs, Owned, Realized},
};
use crate::{
    backoff::Backoff,
    model::Tables,
    reconcile::{
        Follow, Pass, Status,
        apply::{RETRY_FIRST, RETRY_LONGEST},
        datapath::DatapathError,
        key::FrontKey,
    },
    shared_map::SharedMap,
};

/// Keeps IPVS as the tables say.
pub struct Keeper {
    kernel: Box<dyn Ipvs>,
    options: Options,
    mirror: Realized,
    /// `mirror` was read since the last pass.
    looked: bool,
    owned: Owned,
    statuses: SharedMap<FrontKey, Status>,
    errors: BTreeMap<String, String>,
    backoff: Backoff,
}

impl Keeper {
    /// Reads back what is in the kernel and what of it is Portico's.
    pub fn restore(mut kernel: Box<dyn Ipvs>, options: Options) -> Result<Self, DatapathError> {
        Ok(Self {
            mirror: kernel.dump()?,
            looked: false,
            owned: kernel.owned()?,
            kernel,
            options,
            statuses: SharedMap::new(),
            errors: BTreeMap::new(),
            backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST),
        })
    }

    /// Writes down what is Portico's, if that has changed.
    fn remember(&mut self, owned: Owned) -> Result<(), DatapathError> {
        if owned != self.owned {
            self.kernel.remember(&owned)?;
            self.owned = owned;
        }
        Ok(())
    }

    /// Makes IPVS as the tables say, as far as it lets itself.
    fn follow(&mut self, tables: &Tables) -> Pass {
        let mut pass = Pass::default();
        let want = desired(tables, &self.options);
        let plan = plan(&want, &self.mirror, &self.owned, tables.prune);
        self.errors.clone_from(&want.notes);
        self.statuses = want
            .frontends
            .into_iter()
            .map(|(key, outcome)| (key, outcome.map_or_else(Status::Error, |()| Status::Done)))
            .collect();
        for (key, why) in plan.foreign {
            self.statuses.insert(key, Status::Error(why));
        }
        // First everything that will be ours besides what is: a crash in between loses nothing from sight.
        let both = Owned {
            services: &self.owned.services | &plan.owned.services,
            addresses: &self.owned.addresses | &plan.owned.addresses,
        };
        if let Err(error) = self.remember(both) {
            tracing::warn!(%error, "nothing is programmed that could not be found again");
            self.errors.insert("remember".into(), error.to_string());
            pass.failed = 1;
            pass.retry = Some(self.backoff.failed());
            return pass;
        }
        for group in &plan.groups {
            for op in &group.ops {
                match self.kernel.perform(op) {
                    Ok(()) => {
                        op.record(&mut self.mirror);
                        pass.done += 1;
                    }
                    Err(error) => {
                        pass.failed += 1;
                        tracing::warn!(%op, %error, "the kernel refused");
                        let why = format!("{op}: {error}");
                        match group.frontend {
                            Some(key) => drop(self.statuses.insert(key, Status::Error(why))),
                            None => drop(self.errors.insert(op.to_string(), error.to_string())),
                        }
                        break;
                    }
                }
            }
        }
        if pass.failed > 0 {
            // What the kernel did not give up is still ours.
            pass.retry = Some(self.backoff.failed());
            return pass;
        }
        match self.remember(plan.owned) {
            Ok(()) => self.backoff.succeeded(),
            Err(error) => {
                tracing::warn!(%error, "cannot write down what is Portico's");
                pass.failed = 1;
                pass.retry = Some(self.backoff.failed());
            }
        }
        pass
    }
}

impl Follow for Keeper {
    fn look(&mut self) -> Result<(), DatapathError> {
        self.mirror = self.kernel.dump()?;
        self.looked = true;
        Ok(())
    }

    fn disturbed(&mut self) -> Result<bool, DatapathError> {
        Ok(std::mem::take(&mut self.looked))
    }

    fn pass(&mut self, tables: &Tables) -> Pass {
        let mut pass = self.follow(tables);
        let wrong = self.statuses.values().filter(|status| **status != Status::Done);
        pass.wrong = wrong.count();
        pass
    }

    fn statuses(&self) -> &SharedMap<FrontKey, Status> {
        &self.statuses
    }

    fn errors(&self) -> &BTreeMap<String, String> {
        &self.errors
    }
}
