// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only door for changes of the desired state.
//!
//! Life of a snapshot: (1) networks, nodes and tasks are checked one by one; (2) every service is resolved into
//! a version that is complete in itself; (3) services that claim the same thing (a published port, a VIP, a
//! tunnel id) are told apart: what is in force already keeps it, among newcomers the first in the source's
//! order gets it; (4) what was refused on the way keeps its last good version, and nobody else may claim what
//! that version holds. The result is consistent because every kept version was in force a moment ago together
//! with all the others.

mod changes;
mod claims;
mod edit;
mod marks;
mod resolve;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
};

use changes::Changes;
use claims::Claims;
use edit::Flawless;
use resolve::Resolver;

use super::{
    Cookie, Facts, NetworkId, Protocol, Service, ServiceName, Snapshot, Tables, Task, TaskName,
    health::{self, Down, Member, MemberKey, Target},
    limits,
    refusal::{Kind, Refusal},
    snapshot::{HOST, Problem},
    tables::{self, Inputs},
};
use crate::shared_map::SharedMap;

/// Validates snapshots and holds what is in force.
///
/// *Who writes it:* the control loop, from one provider and the namespace watcher. *Lifetime:* the agent's.
/// *Limits:* [`limits`].
#[derive(Debug)]
pub struct Writer {
    own_cookie: Cookie,
    services: SharedMap<ServiceName, Arc<Service>>,
    tasks: BTreeMap<TaskName, Arc<Task>>,
    networks: BTreeMap<NetworkId, String>,
    /// What they are called.
    network_names: Arc<BTreeMap<Arc<str>, NetworkId>>,
    facts: BTreeMap<PathBuf, Facts>,
    local_addrs: BTreeSet<Ipv4Addr>,
    /// Members whose checks fail.
    down: Down,
    /// Draining members whose time is over.
    overdue: Down,
    refusals: Vec<Refusal>,
    prune: bool,
    /// What `services` hold.
    claims: Claims,
    /// Tasks of this node.
    here: usize,
    /// The last snapshot, if nothing was refused of it.
    flawless: Option<Flawless>,
    /// The namespaces of this node's tasks, once somebody has asked.
    namespaces: Option<BTreeMap<PathBuf, Namespace>>,
    /// What the next picture differs in from `tables`.
    changes: Changes,
    /// The last picture.
    tables: Tables,
}

impl Writer {
    /// A Writer with empty tables for the node whose own namespace has this cookie.
    pub fn new(own_cookie: Cookie) -> Self {
        Self {
            own_cookie,
            services: SharedMap::new(),
            tasks: BTreeMap::new(),
            networks: BTreeMap::new(),
            network_names: Arc::default(),
            facts: BTreeMap::new(),
            local_addrs: BTreeSet::new(),
            down: Down::new(),
            overdue: Down::new(),
            refusals: Vec::new(),
            prune: false,
            claims: Claims::default(),
            here: 0,
            flawless: None,
            namespaces: None,
            changes: Changes::default(),
            tables: Tables::default(),
        }
    }

    /// Takes what is right of a snapshot and returns what is not.
    pub fn apply(&mut self, snapshot: &Snapshot) -> &[Refusal] {
        if self.edit(snapshot) {
            self.refusals.clear();
            return &self.refusals;
        }
        self.changes = Changes::Everything;
        self.namespaces = None;
        let mut report = Report::new(snapshot);
        for problem in &snapshot.problems {
            report.add(Kind::Source, "", problem, false);
        }
        let mut resolver = Resolver::new(snapshot, &self.networks, &mut report);
        self.tasks = resolver.tasks(snapshot, &self.tasks, &mut report);
        self.networks = resolver.networks_in_force();
        self.network_names = Arc::new(resolver.names());

        let mut wanted: Vec<(ServiceName, Arc<Service>)> = Vec::new();
        let mut refused: BTreeMap<ServiceName, Vec<Problem>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for params in snapshot.all_services() {
            let name = ServiceName::new(&params.name);
            if !seen.insert(name.clone()) {
                let first_stays = Problem::new("name", "is used by an earlier service; the first one counts");
                report.add(Kind::Service, &params.name, &first_stays, false);
                continue;
            }
            match resolver.service(params, &self.tasks) {
                Ok(service) => wanted.push((name, Arc::new(service))),
                Err(problems) => {
                    refused.insert(name, problems);
                }
            }
        }
        let missing_stay = if snapshot.partial { Some(&seen) } else { None };
        (self.services, self.claims) = self.settle(wanted, &mut refused, missing_stay);
        self.here = self.tasks.values().filter(|task| task.netns().is_some()).count();
        let mut lost = false;
        for (name, problems) in &refused {
            let kept = self.services.contains_key(name);
            lost |= !kept;
            for problem in problems {
                report.add(Kind::Service, name.as_str(), problem, kept);
            }
        }
        // Once allowed it stays so: from then on this Writer knows every good version there has been.
        self.prune |= !snapshot.partial && !lost && !report.any_without_kept(Kind::Task);
        let flawless = report.refusals.is_empty() && !snapshot.partial;
        self.flawless = flawless.then(|| Flawless::of(snapshot));
        self.refusals = report.refusals;
        self.refusals.truncate(limits::REFUSALS_MAX);
        &self.refusals
    }

    /// Who stays with what when several want the same (essay, steps 3 and 4).
    fn settle(
        &self,
        wanted: Vec<(ServiceName, Arc<Service>)>,
        refused: &mut BTreeMap<ServiceName, Vec<Problem>>,
        missing_stay: Option<&BTreeSet<ServiceName>>,
    ) -> (SharedMap<ServiceName, Arc<Service>>, Claims) {
        let by_name: BTreeMap<&ServiceName, &Arc<Service>> =
            wanted.iter().map(|(name, new)| (name, new)).collect();
        // Each round moves at least one newcomer to the refused, so this ends.
        loop {
            let mut claims = Claims::default();
            let mut in_force = SharedMap::new();
            for (name, old) in &self.services {
                let missing = missing_stay.is_some_and(|named| !named.contains(name));
                let same = by_name.get(name).is_some_and(|new| *new == old);
                if refused.contains_key(name) || missing || same {
                    claims.hold(old);
                    in_force.insert(name.clone(), old.clone());
                }
            }
            let mut again = false;
            for (name, new) in &wanted {
                if refused.contains_key(name) || in_force.contains_key(name) {
                    continue;
                }
                match claims.claim(new) {
                    Ok(()) => {
                        in_force.insert(name.clone(), new.clone());
                    }
                    Err(problem) => {
                        refused.insert(name.clone(), vec![problem]);
                        // Only a version to fall back to can take something away from the others.
                        again |= self.services.contains_key(name);
                    }
                }
                if again {
                    break;
                }
            }
            if !again {
                return (in_force, claims);
            }
        }
    }

    /// What was refused of the last snapshot.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// The namespaces of this node's tasks, with what they are for.
    pub fn namespaces(&mut self) -> &BTreeMap<PathBuf, Namespace> {
        let (tasks, services) = (&self.tasks, &self.services);
        self.namespaces.get_or_insert_with(|| namespaces(tasks, services))
    }

    /// Replaces the facts about namespaces; true if they differ.
    pub fn set_facts(&mut self, facts: BTreeMap<PathBuf, Facts>) -> bool {
        let differ = self.facts != facts;
        if differ {
            self.facts = facts;
            self.changes = Changes::Everything;
        }
        differ
    }

    /// Who is to be asked for their health, and from where.
    pub fn targets(&self) -> BTreeMap<MemberKey, Target> {
        let checked = &self.claims.marks().checked;
        if checked.is_empty() {
            return BTreeMap::new();
        }
        let mut namespaces: BTreeMap<NetworkId, PathBuf> = BTreeMap::new();
        for task in self.tasks.values() {
            for (network, _) in task.networks.keys() {
                if let Some(path) = task.netns() {
                    namespaces.entry(*network).or_insert_with(|| path.clone());
                }
            }
        }
        let host = NetworkId::of(HOST);
        let checked = checked.iter().filter_map(|name| self.services.get(name));
        checked
            .flat_map(|service| health::targets(service, &namespaces, host))
            .take(limits::HEALTH_TARGETS_MAX)
            .collect()
    }

    /// Replaces the members whose checks fail; true if they differ.
    pub fn set_down(&mut self, down: Down) -> bool {
        let names = differing(&self.down, &down);
        self.down = down;
        self.changes.note(&names, false);
        !names.is_empty()
    }

    /// Replaces the draining members whose time is over: they are no backends any more. True if they differ.
    pub fn set_overdue(&mut self, overdue: Down) -> bool {
        let names = differing(&self.overdue, &overdue);
        self.overdue = overdue;
        self.changes.note(&names, false);
        !names.is_empty()
    }

    /// Services in force of which a member drains.
    pub fn draining(&self) -> impl Iterator<Item = &Service> {
        let draining = self.claims.marks().draining.iter();
        draining.filter_map(|name| self.services.get(name).map(Arc::as_ref))
    }

    /// Where tasks of this node whose time is over serve published TCP ports: namespace, address, port.
    pub fn overdue_servers(&self) -> Vec<(PathBuf, Ipv4Addr, u16)> {
        let mut servers = Vec::new();
        for (name, members) in &self.overdue {
            let Some(service) = self.services.get(name) else {
                continue;
            };
            let ports = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
            let ports: BTreeSet<u16> = ports.map(|port| port.target).collect();
            for task in &service.tasks {
                if !members.contains(&Member::Task(task.name.clone())) {
                    continue;
                }
                let Some(netns) = task.netns() else { continue };
                if let Some(gateway) = self.facts.get(netns).and_then(|facts| facts.gateway) {
                    servers.extend(ports.iter().map(|port| (netns.clone(), gateway.address, *port)));
                }
            }
        }
        servers
    }

    /// Services that are used as if nobody were down, because all their members are.
    pub fn all_down(&self) -> Vec<ServiceName> {
        let services = self.down.keys().filter_map(|name| self.services.get(name));
        let services = services.filter(|service| health::all_down(service, &self.down));
        services.map(|service| service.name.clone()).collect()
    }

    /// Replaces the node's own addresses; what is beyond the limit is left out. True if they differ.
    pub fn set_local_addrs(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) -> bool {
        let addresses: BTreeSet<Ipv4Addr> = addresses
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .take(limits::LOCAL_ADDRS_MAX)
            .collect();
        let differ = self.local_addrs != addresses;
        if differ {
            self.local_addrs = addresses;
            self.changes = Changes::Everything;
        }
        differ
    }

    /// The picture of what is in force now.
    pub fn tables(&mut self) -> Tables {
        let inputs = Inputs {
            services: &self.services,
            tasks: &self.tasks,
            networks: &self.network_names,
            facts: &self.facts,
            down: &self.down,
            overdue: &self.overdue,
            local_addrs: &self.local_addrs,
            own_cookie: self.own_cookie,
            host_used: self.claims.is_used(NetworkId::of(HOST)),
            prune: self.prune,
        };
        match std::mem::replace(&mut self.changes, Changes::none()) {
            Changes::Some(names) if tables::only_frontends(&self.tables, &inputs, &names) => {
                tables::update(&mut self.tables, &inputs, &names);
            }
            _ => self.tables = tables::derive(&inputs),
        }
        self.tables.clone()
    }
}

/// Services that do not have the same members in both.
fn differing(old: &Down, new: &Down) -> BTreeSet<ServiceName> {
    let names = old.keys().chain(new.keys());
    let differ = |name: &&ServiceName| old.get(*name) != new.get(*name);
    names.filter(differ).cloned().collect()
}

fn namespaces(
    tasks: &BTreeMap<TaskName, Arc<Task>>,
    services: &SharedMap<ServiceName, Arc<Service>>,
) -> BTreeMap<PathBuf, Namespace> {
    let mut wanted: BTreeMap<PathBuf, Namespace> = BTreeMap::new();
    let mut add = |task: &Task, publishes: bool| {
        if let Some(path) = task.netns() {
            let entry = wanted.entry(path.clone()).or_insert_with(|| Namespace {
                task: task.name.clone(),
                publishes: false,
            });
            entry.publishes |= publishes;
        }
    };
    for task in tasks.values() {
        add(task, false);
    }
    for service in services.values() {
        for task in &service.tasks {
            add(task, !service.ports.is_empty());
        }
    }
    wanted
}

/// What a namespace is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// A task in it.
    pub task: TaskName,
    /// Whether it must have a gateway, because the task serves published ports.
    pub publishes: bool,
}

/// Collects refusals of one snapshot.
struct Report<'a> {
    snapshot: &'a Snapshot,
    /// Names of the services that the other source says, once somebody has asked.
    added: OnceCell<HashSet<&'a str>>,
    refusals: Vec<Refusal>,
}

impl<'a> Report<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            added: OnceCell::new(),
            refusals: Vec::new(),
        }
    }

    fn is_added(&self, service: &str) -> bool {
        let added = &self.snapshot.added.services;
        let names = || added.iter().map(|params| &params.name[..]).collect();
        self.added.get_or_init(names).contains(service)
    }

    fn add(&mut self, kind: Kind, name: &str, problem: &Problem, kept: bool) {
        let added = kind == Kind::Service && self.is_added(name);
        let snapshot = self.snapshot;
        let source = if added {
            &snapshot.added.source
        } else {
            &snapshot.source
        };
        self.refusals.push(Refusal {
            source: source.clone(),
            kind,
            name: name.into(),
            field: problem.field.clone(),
            problem: problem.message.clone(),
            kept,
        });
    }

    fn any_without_kept(&self, kind: Kind) -> bool {
        self.refusals
            .iter()
            .any(|refusal| refusal.kind == kind && !refusal.kept)
    }
}

#[cfg(test)]
mod tests;
