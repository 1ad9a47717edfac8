// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only one service can have, and how much of everything there is.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::{IpAddr, Ipv4Addr},
};

use super::{
    super::{
        NetworkId, Protocol, Service, ServiceName, Task, TaskId, TaskName, Vip, VipAddr, VipPort, limits,
        snapshot::Problem,
    },
    marks::Marks,
};

/// Who has what.
#[derive(Debug, Default)]
pub(super) struct Claims {
    ports: BTreeMap<(Protocol, u16), ServiceName>,
    /// A VIP without a port (`None`, which orders first) is every port.
    vips: BTreeMap<(NetworkId, VipAddr, Option<VipPort>), ServiceName>,
    /// With the number of services that publish the task.
    tunnel_ids: BTreeMap<TaskId, (TaskName, usize)>,
    services: usize,
    backends: usize,
    marks: Marks,
}

impl Claims {
    /// Takes everything that a service needs, or nothing.
    pub(super) fn claim(&mut self, service: &Service) -> Result<(), Problem> {
        self.check(service)?;
        self.hold(service);
        Ok(())
    }

    /// Takes everything that a service needs, without asking: it has it already.
    pub(super) fn hold(&mut self, service: &Service) {
        for port in &service.ports {
            self.ports
                .insert((port.protocol, port.published), service.name.clone());
        }
        for vip in &service.vips {
            self.vips
                .insert((vip.network, vip.address, vip.port), service.name.clone());
        }
        if !service.ports.is_empty() {
            for (task, id) in published(service) {
                let entry = self.tunnel_ids.entry(id);
                entry.or_insert_with(|| (task.name.clone(), 0)).1 += 1;
            }
        }
        self.services += 1;
        self.backends += backends(service);
        self.marks.add(service);
    }

    /// Gives back what a service holds.
    pub(super) fn release(&mut self, service: &Service) {
        for port in &service.ports {
            self.ports.remove(&(port.protocol, port.published));
        }
        for vip in &service.vips {
            self.vips.remove(&(vip.network, vip.address, vip.port));
        }
        if !service.ports.is_empty() {
            for (_, id) in published(service) {
                if let Entry::Occupied(mut entry) = self.tunnel_ids.entry(id) {
                    entry.get_mut().1 -= 1;
                    if entry.get().1 == 0 {
                        entry.remove();
                    }
                }
            }
        }
        self.services -= 1;
        self.backends -= backends(service);
        self.marks.remove(service);
    }

    /// Which of those that have something are out of the ordinary.
    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Whether somebody has a VIP in a network.
    pub(super) fn is_used(&self, network: NetworkId) -> bool {
        let least = VipAddr(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let next = self.vips.range((network, least, None)..).next();
        next.is_some_and(|((found, ..), _)| *found == network)
    }

    /// Who has the VIP: the same port of it, all ports of it, or a port of it when all are wanted.
    fn overlaps(&self, vip: &Vip) -> Option<&ServiceName> {
        let all = (vip.network, vip.address, None);
        if vip.port.is_some() {
            let same = (vip.network, vip.address, vip.port);
            return self.vips.get(&same).or_else(|| self.vips.get(&all));
        }
        let mut from_here = self.vips.range(all..);
        let (next, owner) = from_here.next()?;
        ((next.0, next.1) == (vip.network, vip.address)).then_some(owner)
    }

    fn check(&self, service: &Service) -> Result<(), Problem> {
        for (i, port) in service.ports.iter().enumerate() {
            if let Some(owner) = self.ports.get(&(port.protocol, port.published)) {
                return Err(Problem::new(
                    format!("ports[{i}].published"),
                    format!(
                        "{}/{} is published by service '{owner}'",
                        port.published, port.protocol
                    ),
                ));
            }
        }
        for vip in &service.vips {
            if let Some(owner) = self.overlaps(vip) {
                return Err(Problem::new(
                    format!("vips.{}", vip.network_name),
                    format!("{} is the VIP of service '{owner}'", vip.text()),
                ));
            }
        }
        if !service.ports.is_empty() {
            for (i, task) in service.tasks.iter().enumerate() {
                let claimed = task.id.and_then(|id| self.tunnel_ids.get(&id));
                if let Some((owner, _)) = claimed.filter(|(owner, _)| *owner != task.name) {
                    return Err(Problem::new(
                        format!("tasks[{i}]"),
                        format!(
                            "the address {} of task '{}' has the same low 24 bits as that of task '{owner}'",
                            task.ingress, task.name
                        ),
                    ));
                }
            }
        }
        for (field, have, max, constant) in [
            ("name", self.services + 1, limits::SERVICES_MAX, "SERVICES_MAX"),
            (
                "vips",
                self.ports.len() + self.vips.len() + service.ports.len() + service.vips.len(),
                limits::FRONTENDS_MAX,
                "FRONTENDS_MAX",
            ),
            (
                "tasks",
                self.backends + backends(service),
                limits::BACKENDS_MAX,
                "BACKENDS_MAX",
            ),
        ] {
            if have > max {
                return Err(Problem::new(
                    field,
                    format!("more than {max} in all services (limits::{constant})"),
                ));
            }
        }
        Ok(())
    }
}

/// The tasks that other nodes send to, with the tunnel's names for them.
fn published(service: &Service) -> impl Iterator<Item = (&Task, TaskId)> {
    let tasks = service.tasks.iter();
    tasks.filter_map(|task| Some((&**task, task.id?)))
}

/// An upper bound of the backends that a service needs.
fn backends(service: &Service) -> usize {
    service.vips.len() * (service.tasks.len() + service.backends.len())
        + service.ports.len() * service.tasks.len()
}
