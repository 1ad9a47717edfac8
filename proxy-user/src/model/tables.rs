// SPDX-License-Identifier: MIT OR Apache-2.0
//! The immutable picture of what is in force, derived by the Writer, read by reconciler and admin views.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
};

use crate::shared_map::SharedMap;

use super::{
    Backend, Cookie, Facts, Frontend, FrontendAddr, Gateway, NetworkId, Reach, Service, ServiceName, TaskId,
    VipAddr, VipPort,
    health::{self, Down, Member},
    limits,
    service::{Place, Task, vip_text},
    snapshot::HOST,
};

/// What a namespace may address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The node's own namespace.
    pub host: bool,
    /// Networks whose VIPs it sees.
    pub networks: BTreeSet<NetworkId>,
}

/// Everything in force at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Services.
    pub services: SharedMap<ServiceName, Arc<Service>>,
    /// Frontends, each with its backends.
    pub frontends: SharedMap<FrontendAddr, Arc<Frontend>>,
    /// What networks are called.
    pub networks: Arc<BTreeMap<Arc<str>, NetworkId>>,
    /// Namespaces.
    pub scopes: BTreeMap<Cookie, Scope>,
    /// Tasks of this node that other nodes may send to.
    pub local_tasks: BTreeMap<TaskId, Gateway>,
    /// The node's own addresses.
    pub local_addrs: BTreeSet<Ipv4Addr>,
    /// Draining members whose time is over; they are no backends.
    pub overdue: Down,
    /// Whether what is in the kernel and not here may be removed: only after the provider has once said
    /// everything, with nothing refused that an earlier agent may have had a good version of.
    pub prune: bool,
}

impl Tables {
    /// Who has an address in a network, or the one port of it that is asked for, with what each has of it.
    pub fn owners_of_vip(
        &self,
        network: &str,
        address: VipAddr,
        wanted: Option<VipPort>,
    ) -> impl Iterator<Item = (String, &Frontend)> {
        let known = self.networks.get(network);
        let all = known.map(|network| FrontendAddr::Vip {
            network: *network,
            address,
            // Orders before every port.
            port: None,
        });
        let from_here = all.into_iter().flat_map(|all| self.frontends.range(all..));
        let of_it = from_here.map_while(move |(found, frontend)| match found {
            FrontendAddr::Vip {
                network,
                address: same,
                port,
            } if Some(network) == known && *same == address => Some((*port, &**frontend)),
            _ => None,
        });
        of_it
            .filter(move |(port, _)| port.is_none() || wanted.is_none() || *port == wanted)
            .map(move |(port, frontend)| (vip_text(address, port), frontend))
    }
}

/// What [`derive`] needs.
pub(super) struct Inputs<'a> {
    pub services: &'a SharedMap<ServiceName, Arc<Service>>,
    pub tasks: &'a BTreeMap<super::TaskName, Arc<Task>>,
    pub networks: &'a Arc<BTreeMap<Arc<str>, NetworkId>>,
    pub facts: &'a BTreeMap<PathBuf, Facts>,
    pub down: &'a Down,
    pub overdue: &'a Down,
    pub local_addrs: &'a BTreeSet<Ipv4Addr>,
    pub own_cookie: Cookie,
    /// Whether a service has a VIP in the node's own network.
    pub host_used: bool,
    pub prune: bool,
}

/// Builds the tables from what is in force.
pub(super) fn derive(inputs: &Inputs<'_>) -> Tables {
    let mut tables = Tables {
        services: inputs.services.clone(),
        networks: inputs.networks.clone(),
        local_addrs: inputs.local_addrs.clone(),
        overdue: inputs.overdue.clone(),
        prune: inputs.prune,
        ..Tables::default()
    };
    for service in inputs.services.values() {
        add_service(&mut tables, service, inputs);
    }
    // A kept version of a service may have tasks that the task table has no more; they still need their scope.
    let of_services = inputs.services.values().flat_map(|service| &service.tasks);
    for task in inputs.tasks.values().chain(of_services) {
        let Some(facts) = facts_of(task, inputs.facts) else {
            continue;
        };
        let scope = tables.scopes.entry(facts.cookie).or_default();
        scope
            .networks
            .extend(task.networks.keys().map(|(network, _)| network));
    }
    let own = tables.scopes.entry(inputs.own_cookie).or_default();
    own.host = true;
    if inputs.host_used {
        own.networks.insert(NetworkId::of(HOST));
    }
    // Several tasks may share a namespace; each has few enough networks, all together may have too many.
    for scope in tables.scopes.values_mut() {
        while scope.networks.len() > limits::TASK_NETWORKS_MAX {
            scope.networks.pop_last();
        }
    }
    tables
}

/// Whether the named services change nothing but frontends: no task of this node, nothing that was not and is now
/// seen in the node's own namespace, or the reverse.
pub(super) fn only_frontends(tables: &Tables, inputs: &Inputs<'_>, names: &BTreeSet<ServiceName>) -> bool {
    let host_was_used = tables.scopes.get(&inputs.own_cookie);
    let host_was_used = host_was_used.is_some_and(|own| own.networks.contains(&NetworkId::of(HOST)));
    let old = names.iter().filter_map(|name| tables.services.get(name));
    let new = names.iter().filter_map(|name| inputs.services.get(name));
    let mut tasks = old.chain(new).flat_map(|service| &service.tasks);
    host_was_used == inputs.host_used && tasks.all(|task| task.netns().is_none())
}

/// Makes the named services in the tables as they are in force.
pub(super) fn update(tables: &mut Tables, inputs: &Inputs<'_>, names: &BTreeSet<ServiceName>) {
    tables.prune = inputs.prune;
    tables.overdue.clone_from(inputs.overdue);
    // All of the old before any of the new: an address may go from one service to another.
    for old in names.iter().filter_map(|name| tables.services.get(name)) {
        for address in old.frontends() {
            tables.frontends.remove(&address);
        }
    }
    tables.services = inputs.services.clone();
    for new in names.iter().filter_map(|name| inputs.services.get(name)) {
        add_service(tables, new, inputs);
    }
}

fn facts_of<'a>(task: &Task, facts: &'a BTreeMap<PathBuf, Facts>) -> Option<&'a Facts> {
    facts.get(task.netns()?)
}

/// Members of a service that get no new flow because their checks say so.
fn members_down<'a>(service: &Service, down: &'a Down) -> impl Fn(&Member) -> bool + use<'a> {
    let down = if health::all_down(service, down) {
        None
    } else {
        down.get(&service.name)
    };
    move |member| down.is_some_and(|down| down.contains(member))
}

fn add_service(tables: &mut Tables, service: &Service, inputs: &Inputs<'_>) {
    let down = members_down(service, inputs.down);
    let overdue = inputs.overdue.get(&service.name);
    let serves = |member: &Member| !overdue.is_some_and(|members| members.contains(member));
    let task_serves = |task: &&Arc<Task>| serves(&Member::Task(task.name.clone()));
    for vip in &service.vips {
        let of_tasks = service.tasks.iter().filter(task_serves).filter_map(|task| {
            let address = *task.networks.get(&(vip.network, vip.family()))?;
            Some(Backend {
                address,
                port: 0,
                reach: Reach::Direct,
                weight: task.weight.max(1),
                draining: task.draining || task.weight == 0 || down(&Member::Task(task.name.clone())),
            })
        });
        let plain = service.backends.iter();
        let plain = plain.filter(|backend| serves(&Member::Plain(backend.address, backend.port)));
        let plain = plain.map(|backend| Backend {
            address: backend.address,
            port: backend.port,
            reach: Reach::Direct,
            weight: backend.weight.max(1),
            draining: backend.draining
                || backend.weight == 0
                || down(&Member::Plain(backend.address, backend.port)),
        });
        let mut backends = Vec::with_capacity(service.tasks.len() + service.backends.len());
        backends.extend(of_tasks.chain(plain));
        tables.frontends.insert(
            vip.frontend(),
            Arc::new(Frontend {
                service: service.name.clone(),
                target_port: 0,
                policy: service.policy.clone(),
                backends,
            }),
        );
    }
    if service.ports.is_empty() {
        return;
    }
    let reachable: Vec<(&Arc<Task>, Backend)> = service
        .tasks
        .iter()
        .filter_map(|task| Some((task, published(task, inputs.facts)?)))
        .collect();
    // Whose time is over is no backend any more, and still gets what other nodes have for it.
    for (_, backend) in &reachable {
        if let Reach::Local { task, gateway } = backend.reach {
            tables.local_tasks.insert(task, gateway);
        }
    }
    let backends = reachable.into_iter().filter(|(task, _)| task_serves(task));
    let backends: Vec<Backend> = backends
        .map(|(task, mut backend)| {
            backend.draining |= down(&Member::Task(task.name.clone()));
            backend
        })
        .collect();
    for port in &service.ports {
        tables.frontends.insert(
            FrontendAddr::Published {
                port: port.published,
                protocol: port.protocol,
            },
            Arc::new(Frontend {
                service: service.name.clone(),
                target_port: port.target,
                policy: service.policy.clone(),
                backends: backends.clone(),
            }),
        );
    }
}

/// A task as the backend of a published port; none while its gateway is not known.
fn published(task: &Task, facts: &BTreeMap<PathBuf, Facts>) -> Option<Backend> {
    let id = task.id?;
    let reach = match task.place {
        Place::There { node } => Reach::Remote { task: id, node },
        Place::Here { .. } => Reach::Local {
            task: id,
            gateway: facts_of(task, facts).and_then(|facts| facts.gateway)?,
        },
    };
    Some(Backend {
        address: task.ingress,
        port: 0,
        reach,
        weight: task.weight.max(1),
        draining: task.draining || task.weight == 0,
    })
}
