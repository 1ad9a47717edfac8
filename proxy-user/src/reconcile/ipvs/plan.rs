// SPDX-License-Identifier: MIT OR Apache-2.0
//! What differs -> operations, in an order in which each may be the last one done.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

use super::{
    desired::{Desired, Wanted},
    table::{Destination, Key, Owned, Realized, Service, Virtual},
};
use crate::reconcile::key::FrontKey;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Gives the namespace an address.
    AddAddress(Ipv4Addr),
    /// Takes it away.
    DeleteAddress(Ipv4Addr),
    /// Makes a virtual service without destinations.
    AddService(Key, Service),
    /// Changes scheduler or affinity.
    SetService(Key, Service),
    /// Removes a virtual service and its destinations.
    DeleteService(Key),
    /// Adds a destination.
    AddDestination(Key, SocketAddrV4, Destination),
    /// Changes its weight or the way to it.
    SetDestination(Key, SocketAddrV4, Destination),
    /// Removes a destination.
    DeleteDestination(Key, SocketAddrV4),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::AddAddress(address) => write!(f, "add address {address}"),
            Op::DeleteAddress(address) => write!(f, "delete address {address}"),
            Op::AddService(key, service) => write!(f, "add service {key} {}", service.scheduler.name()),
            Op::SetService(key, service) => write!(f, "set service {key} {}", service.scheduler.name()),
            Op::DeleteService(key) => write!(f, "delete service {key}"),
            Op::AddDestination(key, to, with) => write!(f, "add {key} -> {to} weight {}", with.weight),
            Op::SetDestination(key, to, with) => write!(f, "set {key} -> {to} weight {}", with.weight),
            Op::DeleteDestination(key, to) => write!(f, "delete {key} -> {to}"),
        }
    }
}

impl Op {
    /// Changes the mirror as the kernel was changed.
    pub fn record(&self, mirror: &mut Realized) {
        match self {
            Op::AddAddress(address) => {
                mirror.addresses.insert(*address);
            }
            Op::DeleteAddress(address) => {
                mirror.addresses.remove(address);
            }
            Op::AddService(key, service) => {
                let is = Virtual {
                    service: *service,
                    destinations: BTreeMap::new(),
                };
                mirror.services.insert(*key, is);
            }
            Op::SetService(key, service) => {
                if let Some(found) = mirror.services.get_mut(key) {
                    found.service = *service;
                }
            }
            Op::DeleteService(key) => {
                mirror.services.remove(key);
            }
            Op::AddDestination(key, to, with) | Op::SetDestination(key, to, with) => {
                if let Some(found) = mirror.services.get_mut(key) {
                    found.destinations.insert(*to, *with);
                }
            }
            Op::DeleteDestination(key, to) => {
                if let Some(found) = mirror.services.get_mut(key) {
                    found.destinations.remove(to);
                }
            }
        }
    }
}

/// Operations of which each depends on those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Whose status they are.
    pub frontend: Option<FrontKey>,
    /// What to do.
    pub ops: Vec<Op>,
}

/// What a pass will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub groups: Vec<Group>,
    /// Frontends that stay out because somebody else has their service.
    pub foreign: BTreeMap<FrontKey, String>,
    /// What will be Portico's once the groups are done, and what it still has.
    pub owned: Owned,
}

/// Compares. What is not wanted is removed only if `prune`, and only if it is Portico's.
pub fn plan(desired: &Desired, realized: &Realized, owned: &Owned, prune: bool) -> Plan {
    let mut plan = Plan {
        owned: owned.clone(),
        ..Plan::default()
    };
    for address in &desired.addresses {
        if !realized.addresses.contains(address) {
            plan.owned.addresses.insert(*address);
            plan.groups.push(alone(Op::AddAddress(*address)));
        }
    }
    for (key, wanted) in &desired.services {
        match realized.services.get(key) {
            Some(_) if !owned.services.contains(key) => {
                let why = format!(
                    "{key} is in IPVS already and Portico has not made it; `ipvsadm -D` removes it, or choose another address"
                );
                plan.foreign.insert(wanted.frontend, why);
                continue;
            }
            found => {
                let ops = difference(*key, wanted, found);
                if !ops.is_empty() {
                    let frontend = Some(wanted.frontend);
                    plan.groups.push(Group { frontend, ops });
                }
            }
        }
        plan.owned.services.insert(*key);
    }
    if !prune {
        return plan;
    }
    for key in owned
        .services
        .iter()
        .filter(|key| !desired.services.contains_key(key))
    {
        if realized.services.contains_key(key) {
            plan.groups.push(alone(Op::DeleteService(*key)));
        }
        plan.owned.services.remove(key);
    }
    for address in owned.addresses.difference(&desired.addresses) {
        if realized.addresses.contains(address) {
            plan.groups.push(alone(Op::DeleteAddress(*address)));
        }
        plan.owned.addresses.remove(address);
    }
    plan
}

fn alone(op: Op) -> Group {
    Group {
        frontend: None,
        ops: vec![op],
    }
}

/// From what is there, or from nothing, to what is wanted.
fn difference(key: Key, wanted: &Wanted, found: Option<&Virtual>) -> Vec<Op> {
    let mut ops = Vec::new();
    let nothing = BTreeMap::new();
    let before = found.map_or(&nothing, |found| &found.destinations);
    let after = &wanted.is.destinations;
    let service = wanted.is.service;
    if found.is_none() {
        ops.push(Op::AddService(key, service));
    }
    let comes = after.iter().filter(|(to, _)| !before.contains_key(to));
    ops.extend(comes.map(|(to, with)| Op::AddDestination(key, *to, *with)));
    let changes = after
        .iter()
        .filter(|(to, with)| before.get(*to).is_some_and(|is| is != *with));
    ops.extend(changes.map(|(to, with)| Op::SetDestination(key, *to, *with)));
    if found.is_some_and(|found| found.service != service) {
        ops.push(Op::SetService(key, service));
    }
    let goes = before.keys().filter(|to| !after.contains_key(to));
    ops.extend(goes.map(|to| Op::DeleteDestination(key, *to)));
    ops
}
