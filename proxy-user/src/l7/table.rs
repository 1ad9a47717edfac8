// SPDX-License-Identifier: MIT OR Apache-2.0
//! The service table: what is configured, and the one writer that turns it into a snapshot.
//!
//! A change compiles one service, orders all of them and swaps one pointer; workers never wait for it. A service
//! that does not compile leaves the table, the snapshot and its own last good version as they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use super::compile::{Context, Upstream, Upstreams, compile};
use super::params::{Params, Problem, read_service};
use super::router::{CompiledService, Snapshot};
use super::settings::{ServiceDefaults, Settings};
use super::spec::ServiceSpec;

/// All services. *Lifetime*: the process. *Limits*: none but memory; each costs a few KiB.
pub struct Table {
    services: BTreeMap<String, Entry>,
    upstreams: UpstreamSlots,
    snapshot: Arc<ArcSwap<Snapshot>>,
    settings: Settings,
}

struct Entry {
    params: Params,
    spec: ServiceSpec,
    compiled: Arc<CompiledService>,
}

impl Table {
    /// An empty table that publishes to `snapshot`.
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, settings: Settings) -> Self {
        Table {
            services: BTreeMap::new(),
            upstreams: UpstreamSlots::default(),
            snapshot,
            settings,
        }
    }

    /// How parameters are read.
    pub fn defaults(&self) -> &ServiceDefaults {
        &self.settings.defaults
    }

    /// Adds or replaces a service.
    pub fn put(&mut self, params: Params, spec: ServiceSpec) -> Result<(), Problem> {
        let compiled = Arc::new(self.compile(&spec)?);
        self.services.insert(
            spec.service_name.clone(),
            Entry {
                params,
                spec,
                compiled,
            },
        );
        self.publish();
        Ok(())
    }

    /// Whether a service would compile; nothing changes.
    pub fn check(&mut self, spec: &ServiceSpec) -> Result<(), Problem> {
        self.compile(spec).map(drop)
    }

    /// Removes a service; false when there is none.
    pub fn remove(&mut self, name: &str) -> bool {
        let existed = self.services.remove(name).is_some();
        if existed {
            self.publish();
        }
        existed
    }

    /// Takes over what was kept. Services that no longer compile are left out, with a log line each.
    pub fn replay(&mut self, kept: Vec<Params>) {
        for params in kept {
            let (spec, problems) = read_service(&params, &self.settings.defaults);
            let name = spec.service_name.clone();
            let compiled = match problems.into_iter().next() {
                Some(problem) => Err(problem),
                None => self.compile(&spec),
            };
            match compiled {
                Ok(compiled) => {
                    self.services.insert(
                        name,
                        Entry {
                            params,
                            spec,
                            compiled: Arc::new(compiled),
                        },
                    );
                }
                Err(problem) => tracing::error!(service = name, %problem, "kept service left out"),
            }
        }
        self.publish();
    }

    /// Compiles everything again.
    pub fn recreate(&mut self) -> Result<(), Problem> {
        let mut context = Context {
            settings: &self.settings,
            upstreams: &mut self.upstreams,
        };
        for entry in self.services.values_mut() {
            entry.compiled = Arc::new(compile(&entry.spec, &mut context)?);
        }
        self.publish();
        Ok(())
    }

    /// What to keep.
    pub fn kept(&self) -> Vec<Params> {
        self.services.values().map(|entry| entry.params.clone()).collect()
    }

    /// The services by name.
    pub fn specs(&self) -> impl Iterator<Item = &ServiceSpec> {
        self.services.values().map(|entry| &entry.spec)
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    fn compile(&mut self, spec: &ServiceSpec) -> Result<CompiledService, Problem> {
        let mut context = Context {
            settings: &self.settings,
            upstreams: &mut self.upstreams,
        };
        compile(spec, &mut context)
    }

    fn publish(&self) {
        let services = self
            .services
            .values()
            .map(|entry| entry.compiled.clone())
            .collect();
        self.snapshot.store(Arc::new(Snapshot::new(services)));
    }
}

/// Numbers the upstreams so that a worker finds its pool by index.
#[derive(Default)]
struct UpstreamSlots {
    by_name: HashMap<(Box<str>, u16), Weak<Upstream>>,
    slots: Vec<Weak<Upstream>>,
    generation: u64,
}

impl Upstreams for UpstreamSlots {
    fn intern(&mut self, host: &str, port: u16) -> Arc<Upstream> {
        let key = (Box::from(host), port);
        if let Some(upstream) = self.by_name.get(&key).and_then(Weak::upgrade) {
            return upstream;
        }
        let slot = match self.slots.iter().position(|slot| slot.strong_count() == 0) {
            Some(free) => free,
            None => {
                self.slots.push(Weak::new());
                self.slots.len() - 1
            }
        };
        self.generation += 1;
        let upstream = Arc::new(Upstream {
            slot,
            generation: self.generation,
            host: key.0.clone(),
            port,
        });
        self.slots[slot] = Arc::downgrade(&upstream);
        self.by_name.retain(|_, upstream| upstream.strong_count() > 0);
        self.by_name.insert(key, Arc::downgrade(&upstream));
        upstream
    }
}

#[cfg(test)]
mod tests;
