// SPDX-License-Identifier: MIT OR Apache-2.0
//! The service table: what is configured, and the one writer that turns it into a snapshot.
//!
//! A change compiles one service, orders all of them and swaps one pointer; workers never wait for it. A service
//! that does not compile leaves the table, the snapshot and its own last good version as they are.
//!
//! Several sources may speak of one name. A call wins over labels, and labels win over the environment, whoever came
//! first. A removal by a call hides what the others say until they say something new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::compile::{Context, Upstreams, compile};
use super::limits;
use super::listen::{NoPorts, Ports};
use super::params::{Params, Problem, read_service};
use super::router::{CompiledService, Snapshot};
use super::settings::{ServiceDefaults, Settings};
use super::slots::Slots;
use super::source::{Clock, Kept, KeptService, Source};
use super::spec::ServiceSpec;
use super::stats::Backends;
use super::stats::checks::Checks;
use super::tls;
use super::upstream::{Target, Upstream};

/// All services. *Lifetime*: the process. *Limits*: [`limits::REMOVALS_MAX`] remembered removals; services cost a few
/// KiB each and are as many as memory holds.
pub struct Table {
    services: BTreeMap<String, Service>,
    upstreams: UpstreamSlots,
    backends: Backends,
    snapshot: Arc<ArcSwap<Snapshot>>,
    settings: Settings,
    certificates: Option<Arc<tls::Store>>,
    clock: Clock,
    ports: Box<dyn Ports>,
}

/// A name, and what every source says of it.
#[derive(Default)]
struct Service {
    layers: BTreeMap<Source, Entry>,
    /// When a call removed it; a layer counts if it changed after that.
    removed: u64,
    /// Why a source's last word on it is not in force.
    problem: Option<(Source, String)>,
}

struct Entry {
    changed: u64,
    params: Arc<Params>,
    spec: ServiceSpec,
    compiled: Arc<CompiledService>,
}

impl Service {
    /// What is in force.
    fn visible(&self) -> Option<(Source, &Entry)> {
        (self.layers.iter())
            .find(|(_, entry)| entry.changed > self.removed)
            .map(|(source, entry)| (*source, entry))
    }

    fn compiled(&self) -> Option<Arc<CompiledService>> {
        self.visible().map(|(_, entry)| entry.compiled.clone())
    }
}

impl Table {
    /// An empty table that publishes to `snapshot`.
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, settings: Settings) -> Self {
        Table {
            services: BTreeMap::new(),
            upstreams: UpstreamSlots::default(),
            backends: Backends::new(settings.workers),
            snapshot,
            settings,
            certificates: None,
            clock: Clock::default(),
            ports: Box::new(NoPorts),
        }
    }

    /// Opens the ports of services there.
    #[must_use]
    pub fn with_ports(mut self, ports: Box<dyn Ports>) -> Self {
        self.ports = ports;
        self
    }

    /// Tries again to open the ports that could not be had.
    pub fn retry_ports(&mut self) {
        if self.ports.missing() > 0 {
            self.settle_ports();
        }
    }

    /// Makes the index of routes anew if something has changed since.
    pub fn index_routes(&mut self) {
        if let Some(indexed) = self.snapshot.load_full().indexed() {
            self.snapshot.store(Arc::new(indexed));
        }
    }

    /// Ports of services that cannot be had.
    pub fn ports_missing(&self) -> usize {
        self.ports.missing()
    }

    /// Where the certificates of services go.
    #[must_use]
    pub fn with_certificates(mut self, certificates: Arc<tls::Store>) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// How parameters are read.
    pub fn defaults(&self) -> &ServiceDefaults {
        &self.settings.defaults
    }

    /// What `source` says of a service. A failure leaves everything as it was.
    pub fn put(&mut self, source: Source, params: Params, spec: ServiceSpec) -> Result<(), Problem> {
        let changed = self.clock.now();
        self.check_certificate(&spec)?;
        let certificate = certificate(&spec);
        let name = spec.service_name.clone();
        let before = self.compiled(&name);
        let inserted = self.insert(source, changed, Arc::new(params), spec, true);
        inserted.map_err(|(_, problem)| problem)?;
        if let (Some(store), Some((name, pem))) = (&self.certificates, certificate)
            && let Err(error) = store.put_of_service(&name, &pem)
        {
            tracing::error!(name, %error, "certificate of a service");
        }
        self.publish_one(&name, before);
        Ok(())
    }

    /// Notes that a source's last word on a service cannot be used. Nothing else changes.
    pub fn reject(&mut self, source: Source, name: &str, problem: String) {
        // A call was told, and may name anything; sources that nobody waits for are shown.
        if source != Source::Call {
            self.services.entry(name.to_owned()).or_default().problem = Some((source, problem));
        }
    }

    /// Whether a service would compile; nothing changes.
    pub fn check(&mut self, spec: &ServiceSpec) -> Result<(), Problem> {
        self.check_certificate(spec)?;
        self.compile(spec).map(drop)
    }

    fn check_certificate(&self, spec: &ServiceSpec) -> Result<(), Problem> {
        match (&self.certificates, certificate(spec)) {
            (Some(store), Some((name, pem))) => {
                let checked = store.check(&name, &pem);
                checked
                    .map(drop)
                    .map_err(|error| Problem::new("serviceCert", error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Removes a service, whoever said what of it; false when there is none. A source brings it back by changing.
    pub fn remove(&mut self, name: &str) -> bool {
        let now = self.clock.now();
        let Some(service) = self.services.get_mut(name) else {
            return false;
        };
        let before = service.compiled();
        let existed = before.is_some();
        service.layers.remove(&Source::Call);
        if existed {
            service.removed = now;
            self.forget();
            self.publish_one(name, before);
        }
        existed
    }

    /// `source` has nothing to say of a service any more; false when it had not.
    pub fn withdraw(&mut self, source: Source, name: &str) -> bool {
        let Some(service) = self.services.get_mut(name) else {
            return false;
        };
        if (service.problem.as_ref()).is_some_and(|(of, _)| *of == source) {
            service.problem = None;
        }
        let before = service.compiled();
        let existed = service.layers.remove(&source).is_some();
        self.forget();
        if existed {
            self.publish_one(name, before);
        }
        existed
    }

    /// What a source has said brings services back that calls have removed.
    pub fn restate(&mut self, source: Source) {
        let now = self.clock.now();
        for service in self.services.values_mut() {
            if let Some(entry) = service.layers.get_mut(&source) {
                entry.changed = now;
            }
        }
        self.publish();
    }

    /// Takes over what was kept, here or by another replica: for each name and source the later word counts. Services
    /// that do not compile are left out, with a log line each. Returns how many changed.
    pub fn merge(&mut self, kept: Kept) -> usize {
        let mut merged = 0;
        for (name, removed) in kept.removed {
            self.clock.saw(removed);
            let service = self.services.entry(name).or_default();
            if removed > service.removed {
                service.removed = removed;
                service
                    .layers
                    .retain(|source, entry| *source != Source::Call || entry.changed > removed);
                merged += 1;
            }
        }
        for KeptService {
            source,
            changed,
            params,
        } in kept.services
        {
            self.clock.saw(changed);
            let (spec, problems) = read_service(&params, &self.settings.defaults);
            let known = self.services.get(&spec.service_name);
            let is_news = known.is_none_or(|service| {
                // A removed call is gone; other sources are only hidden.
                let removed = match source {
                    Source::Call => service.removed,
                    _ => 0,
                };
                let said = service.layers.get(&source);
                let said = said.map_or((0, None), |entry| (entry.changed, Some(&*entry.params)));
                // Said in the same millisecond elsewhere: all replicas must choose the same word, no matter which.
                changed > removed && (changed, Some(&*params)) > said
            });
            if !is_news {
                continue;
            }
            if let (Some(store), Some((name, pem))) = (&self.certificates, certificate(&spec))
                && let Err(error) = store.adopt(&name, &pem)
            {
                tracing::error!(name, %error, "certificate of a service");
            }
            let outcome = match problems.into_iter().next() {
                Some(problem) => Err((spec.service_name.clone(), problem)),
                None => self.insert(source, changed, params, spec, false),
            };
            match outcome {
                Ok(()) => merged += 1,
                Err((service, problem)) => tracing::error!(service, %problem, "kept service left out"),
            }
        }
        self.forget();
        self.publish();
        merged
    }

    /// Compiles everything again.
    pub fn recreate(&mut self) -> Result<(), Problem> {
        let mut context = Context {
            settings: &self.settings,
            upstreams: &mut self.upstreams,
            backends: &mut self.backends,
        };
        for entry in self
            .services
            .values_mut()
            .flat_map(|service| service.layers.values_mut())
        {
            entry.compiled = Arc::new(compile(&entry.spec, &mut context)?);
        }
        self.publish();
        Ok(())
    }

    /// What to keep: everything but the environment, which is there at every start.
    pub fn kept(&self) -> Kept {
        kept(self.services.iter())
    }

    /// The same of one service.
    pub fn kept_of(&self, name: &str) -> Kept {
        kept(self.services.get_key_value(name).into_iter())
    }

    /// The services in force by name.
    pub fn specs(&self) -> impl Iterator<Item = &ServiceSpec> {
        (self.services.values())
            .filter_map(Service::visible)
            .map(|(_, entry)| &entry.spec)
    }

    /// Each service in force and where it comes from.
    pub fn sources(&self) -> impl Iterator<Item = (&str, Source)> {
        (self.services.iter()).filter_map(|(name, service)| Some((name.as_str(), service.visible()?.0)))
    }

    /// What is not in force, and why.
    pub fn problems(&self) -> impl Iterator<Item = (&str, Source, &str)> {
        (self.services.iter()).filter_map(|(name, service)| {
            let (source, text) = service.problem.as_ref()?;
            Some((name.as_str(), *source, text.as_str()))
        })
    }

    /// What a source says, in force or not.
    pub fn said(&self, source: Source) -> impl Iterator<Item = (&str, &Params)> {
        (self.services.iter())
            .filter_map(move |(name, service)| Some((name.as_str(), &*service.layers.get(&source)?.params)))
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    fn insert(
        &mut self,
        source: Source,
        changed: u64,
        params: Arc<Params>,
        spec: ServiceSpec,
        must_listen: bool,
    ) -> Result<(), (String, Problem)> {
        let compiled = self.compile(&spec).and_then(|compiled| {
            // What was kept has its place even if a port is taken now: it is tried again.
            if must_listen {
                self.open_ports(&compiled)?;
            }
            Ok(Arc::new(compiled))
        });
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(problem) => return Err((spec.service_name, problem)),
        };
        let service = self.services.entry(spec.service_name.clone()).or_default();
        service.problem = service.problem.take().filter(|(of, _)| *of != source);
        service.layers.insert(
            source,
            Entry {
                changed,
                params,
                spec,
                compiled,
            },
        );
        Ok(())
    }

    /// Lets go of names of which nothing is left, and of the oldest removals beyond the limit.
    fn forget(&mut self) {
        let is_empty = |service: &Service| service.layers.is_empty() && service.problem.is_none();
        self.services
            .retain(|_, service| !is_empty(service) || service.removed > 0);
        let mut removals: Vec<u64> = (self.services.values())
            .filter(|service| is_empty(service))
            .map(|service| service.removed)
            .collect();
        if removals.len() > limits::REMOVALS_MAX {
            removals.sort_unstable_by(|a, b| b.cmp(a));
            let oldest = removals[limits::REMOVALS_MAX - 1];
            self.services
                .retain(|_, service| !is_empty(service) || service.removed >= oldest);
        }
    }

    fn compile(&mut self, spec: &ServiceSpec) -> Result<CompiledService, Problem> {
        let mut context = Context {
            settings: &self.settings,
            upstreams: &mut self.upstreams,
            backends: &mut self.backends,
        };
        compile(spec, &mut context)
    }

    /// Opens the ports of a service before it is in force; a port that cannot be had leaves everything as it is.
    fn open_ports(&mut self, service: &CompiledService) -> Result<(), Problem> {
        let is_other =
            |other: &Entry| other.compiled.name != service.name && !other.compiled.rules.is_empty();
        if let Some(dest) = service.streams.iter().find(|dest| dest.names.is_empty())
            && self.ports.is_http(dest.port)
            && (self.services.values().filter_map(Service::visible)).any(|(_, entry)| is_other(entry))
        {
            let text = format!(
                "{} is a port for HTTP, and there are services that use it; take it out of DEFAULT_PORTS or BIND_PORTS",
                dest.port
            );
            return Err(Problem::new("srcPort", text));
        }
        let wanted: BTreeSet<u16> = service.streams.iter().map(|dest| dest.port).collect();
        self.ports.open(&wanted).map_err(|(port, error)| {
            Problem::ours("srcPort", format!("cannot listen on port {port}: {error}"))
        })
    }

    fn settle_ports(&mut self) {
        let wanted = self
            .snapshot
            .load()
            .streams
            .iter()
            .map(|(port, _)| port)
            .collect();
        self.ports.settle(&wanted);
    }

    fn compiled(&self, name: &str) -> Option<Arc<CompiledService>> {
        self.services.get(name).and_then(Service::compiled)
    }

    /// After a change of one service, of which `before` was in force.
    fn publish_one(&mut self, name: &str, before: Option<Arc<CompiledService>>) {
        let now = self.compiled(name);
        if before.as_ref().map(Arc::as_ptr) != now.as_ref().map(Arc::as_ptr) {
            let changed = self.snapshot.load().changed(before.as_ref(), now.as_ref());
            self.snapshot.store(Arc::new(changed));
        }
        self.settle_ports();
    }

    /// After changes of any number of services.
    fn publish(&mut self) {
        let services = (self.services.values()).filter_map(Service::compiled).collect();
        let before = self.snapshot.load_full();
        self.snapshot.store(Arc::new(Snapshot::after(&before, services)));
        self.settle_ports();
    }
}

/// What `services` are, but for the environment.
fn kept<'a>(services: impl Iterator<Item = (&'a String, &'a Service)>) -> Kept {
    let mut kept = Kept::default();
    for (name, service) in services {
        if service.removed > 0 {
            kept.removed.push((name.clone(), service.removed));
        }
        let layers = service
            .layers
            .iter()
            .filter(|(source, _)| **source != Source::Environment);
        kept.services.extend(layers.map(|(source, entry)| KeptService {
            source: *source,
            changed: entry.changed,
            params: entry.params.clone(),
        }));
    }
    kept
}

/// The file and content of a service's certificate: the first domain names it, or else the service.
fn certificate(spec: &ServiceSpec) -> Option<(String, Vec<u8>)> {
    if spec.service_cert.is_empty() {
        return None;
    }
    let domain = spec.service_dest.first().and_then(|dest| dest.domains().first());
    let name = domain.unwrap_or(&spec.service_name).clone();
    // In a label a line end is written as two characters.
    Some((name, spec.service_cert.reveal().replace("\\n", "\n").into_bytes()))
}

/// The upstreams that are in use.
#[derive(Default)]
struct UpstreamSlots {
    slots: Slots<Arc<Target>, Upstream>,
    generation: u64,
}

impl Upstreams for UpstreamSlots {
    fn intern(&mut self, target: Target) -> Arc<Upstream> {
        let target = Arc::new(target);
        if let Some(upstream) = self.slots.get(&target) {
            return upstream;
        }
        self.generation += 1;
        let generation = self.generation;
        self.slots.add(target.clone(), |slot| Upstream {
            slot,
            generation,
            target,
            checks: Checks::default(),
        })
    }
}

#[cfg(test)]
mod layers;
#[cfg(test)]
mod tests;
