// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short way for a snapshot that is the last one with some objects changed, added or removed.
//!
//! It is taken only where nothing can be said against anything: the last snapshot was taken as a whole, and so
//! is this one. Then what is in force is what was said, object by object, and only what differs has to be
//! checked; the cost is that of the change, plus, for a list that was made anew, one look at each pointer. At the first doubt nothing has been
//! changed that the long way would not change as well, and the long way begins.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::{Service, ServiceName, Snapshot, Task, TaskName, limits, snapshot::ServiceParams},
    Report, Writer,
    resolve::Resolver,
};

/// A snapshot of which every object is in force.
#[derive(Debug)]
pub(super) struct Flawless(Snapshot);

impl Flawless {
    /// What is kept of a snapshot that was taken as a whole.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Self(snapshot.clone())
    }

    /// Whether names of nodes and networks mean the same in both.
    fn same_ground(&self, snapshot: &Snapshot) -> bool {
        let last = &self.0;
        last.node == snapshot.node && last.nodes == snapshot.nodes && last.networks == snapshot.networks
    }
}

impl Writer {
    /// Takes the snapshot the short way; false if that cannot be done.
    pub(super) fn edit(&mut self, snapshot: &Snapshot) -> bool {
        self.try_edit(snapshot).is_some()
    }

    fn try_edit(&mut self, snapshot: &Snapshot) -> Option<()> {
        let last = self.flawless.take()?;
        if snapshot.partial || !snapshot.problems.is_empty() || !last.same_ground(snapshot) {
            return None;
        }
        let mut report = Report::new(snapshot);
        let resolver = Resolver::new(snapshot, &self.networks, &mut report);
        if !report.refusals.is_empty() {
            return None;
        }
        let (old_tasks, new_tasks) = last.0.tasks.differing(&snapshot.tasks);
        // Where everybody has what he says it does not matter who speaks first, nor who says it.
        let (old, new) = last.0.services.differing(&snapshot.services);
        let (old_added, new_added) = last.0.added.services.differing(&snapshot.added.services);
        let old_services = old.iter().chain(old_added);
        let new_services = new.iter().chain(new_added);

        // What the differing objects say; nothing of it is in force yet.
        let mut tasks: BTreeMap<TaskName, Arc<Task>> = BTreeMap::new();
        for params in new_tasks {
            let task = Arc::new(resolver.task(params).ok()?);
            if tasks.insert(task.name.clone(), task).is_some() {
                return None;
            }
        }
        let gone: Vec<TaskName> = old_tasks.iter().map(|task| TaskName::new(&task.name)).collect();
        let gone: BTreeMap<TaskName, Arc<Task>> = gone
            .into_iter()
            .filter_map(|name| self.tasks.get(&name).map(|task| (name.clone(), task.clone())))
            .collect();
        let taken = |name: &TaskName| self.tasks.contains_key(name) && !gone.contains_key(name);
        if tasks.keys().any(taken) {
            return None;
        }
        let here = |tasks: &BTreeMap<TaskName, Arc<Task>>| {
            tasks.values().filter(|task| task.netns().is_some()).count()
        };
        let here_after = (self.here + here(&tasks)).checked_sub(here(&gone))?;
        if here_after > limits::LOCAL_TASKS_MAX {
            return None;
        }
        let services = self.affected(snapshot, &gone, old_services, new_services)?;

        // From here on only what is right in itself changes: a task that was checked may be in force.
        let mut local = here(&tasks) + here(&gone) > 0;
        for name in gone.keys() {
            self.tasks.remove(name);
        }
        self.tasks.extend(tasks);
        self.here = here_after;
        let mut resolved: Vec<(ServiceName, Service)> = Vec::with_capacity(services.wanted.len());
        for params in services.wanted {
            let service = resolver.service(params, &self.tasks).ok()?;
            resolved.push((service.name.clone(), service));
        }

        // All of the old before any of the new: an address may go from one service to another.
        let names = resolved.iter().map(|(name, _)| name).chain(&services.removed);
        let names: BTreeSet<ServiceName> = names.cloned().collect();
        for old in names.iter().filter_map(|name| self.services.get(name)) {
            self.claims.release(old);
            local |= is_local(old);
        }
        for (_, service) in &resolved {
            // A half-taken claim is of no account: the long way counts everything again.
            self.claims.claim(service).ok()?;
            local |= is_local(service);
        }
        self.changes.note(&names, local);
        if local {
            self.namespaces = None;
        }
        for name in &services.removed {
            self.services.remove(name.as_str());
        }
        self.services.extend(
            resolved
                .into_iter()
                .map(|(name, service)| (name, Arc::new(service))),
        );
        self.flawless = Some(Flawless::of(snapshot));
        Some(())
    }

    /// The services to look at: those that differ, and those that use a task that does.
    fn affected<'a>(
        &self,
        snapshot: &'a Snapshot,
        gone: &BTreeMap<TaskName, Arc<Task>>,
        old: impl Iterator<Item = &'a Arc<ServiceParams>>,
        new: impl Iterator<Item = &'a Arc<ServiceParams>>,
    ) -> Option<Affected<'a>> {
        let mut affected = Affected::default();
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for params in new {
            if !names.insert(&params.name) {
                return None;
            }
            affected.wanted.push(params);
        }
        let old_names: BTreeSet<&str> = old.map(|params| &params.name[..]).collect();
        let newcomers = names.difference(&old_names);
        if newcomers
            .into_iter()
            .any(|name| self.services.contains_key(*name))
        {
            return None;
        }
        let removed = old_names.difference(&names);
        affected.removed = removed.map(|name| ServiceName::new(name)).collect();
        if gone.is_empty() {
            return Some(affected);
        }
        // By name: a service that was kept while a task went and came back has an older allocation of it.
        let users: BTreeSet<&str> = self
            .services
            .values()
            .filter(|service| service.tasks.iter().any(|task| gone.contains_key(&task.name)))
            .map(|service| service.name.as_str())
            .filter(|name| !names.contains(name) && !old_names.contains(name))
            .collect();
        if !users.is_empty() {
            let of_users = snapshot
                .all_services()
                .filter(|params| users.contains(&params.name[..]));
            affected.wanted.extend(of_users.map(|params| &**params));
        }
        Some(affected)
    }
}

fn is_local(service: &Service) -> bool {
    service.tasks.iter().any(|task| task.netns().is_some())
}

/// Services to look at.
#[derive(Default)]
struct Affected<'a> {
    wanted: Vec<&'a ServiceParams>,
    removed: Vec<ServiceName>,
}

#[cfg(test)]
mod tests;
