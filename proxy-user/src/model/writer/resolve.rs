// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks objects one by one and resolves what they refer to.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    super::{
        Family, HealthCheck, NetworkId, NodeAddr, Place, PlainBackend, Policy, Protocol, PublishedPort,
        Service, ServiceName, Snapshot, Task, TaskAddr, TaskId, TaskName, Vip, limits,
        policy::weight,
        refusal::Kind,
        snapshot::{HOST, INGRESS, Problem, ServiceParams, TaskParams},
    },
    Report,
};

/// What the objects of one snapshot may refer to.
pub(super) struct Resolver {
    node: String,
    nodes: BTreeMap<String, NodeAddr>,
    networks: BTreeMap<Arc<str>, NetworkId>,
    keys: BTreeMap<NetworkId, String>,
    refused_tasks: BTreeMap<String, Problem>,
}

impl Resolver {
    /// Reads nodes and networks. `known` are the networks in force: they keep their numbers when a newcomer's
    /// hash collides.
    pub(super) fn new(
        snapshot: &Snapshot,
        known: &BTreeMap<NetworkId, String>,
        report: &mut Report<'_>,
    ) -> Self {
        let mut resolver = Self {
            node: snapshot.node.clone(),
            nodes: BTreeMap::new(),
            networks: BTreeMap::new(),
            keys: BTreeMap::new(),
            refused_tasks: BTreeMap::new(),
        };
        for node in &snapshot.nodes {
            let duplicate = resolver.nodes.contains_key(&node.name);
            match check_node(&node.name, &node.address, &node.problems, duplicate) {
                Ok(address) => {
                    resolver.nodes.insert(node.name.clone(), address);
                }
                Err(problems) => {
                    problems
                        .iter()
                        .for_each(|problem| report.add(Kind::Node, &node.name, problem, false));
                }
            }
        }
        let declared: BTreeSet<&str> = snapshot
            .networks
            .iter()
            .map(|network| network.name.as_str())
            .collect();
        for name in [INGRESS, HOST]
            .into_iter()
            .filter(|name| !declared.contains(name))
        {
            resolver.networks.insert(name.into(), NetworkId::of(name));
            resolver.keys.insert(NetworkId::of(name), name.into());
        }
        let (old, new): (Vec<_>, Vec<_>) = snapshot
            .networks
            .iter()
            .partition(|network| known.get(&NetworkId::of(&network.key)) == Some(&network.key));
        for network in old.into_iter().chain(new) {
            match resolver.check_network(&network.name, &network.key, &network.problems) {
                Ok(id) => {
                    resolver.networks.insert(network.name.as_str().into(), id);
                    resolver.keys.insert(id, network.key.clone());
                }
                Err(problems) => {
                    problems
                        .iter()
                        .for_each(|problem| report.add(Kind::Network, &network.name, problem, false));
                }
            }
        }
        resolver
    }

    /// What the networks are called, with their numbers.
    pub(super) fn names(&self) -> BTreeMap<Arc<str>, NetworkId> {
        self.networks.clone()
    }

    /// The networks that have a number now.
    pub(super) fn networks_in_force(&self) -> BTreeMap<NetworkId, String> {
        self.keys.clone()
    }

    fn check_network(&self, name: &str, key: &str, read: &[Problem]) -> Result<NetworkId, Vec<Problem>> {
        let mut problems = read.to_vec();
        problems.extend(check_name(name));
        if self.networks.contains_key(name) {
            problems.push(Problem::new(
                "name",
                "is used by an earlier network; the first one counts",
            ));
        } else if let Some(other) = self.keys.get(&NetworkId::of(key)) {
            problems.push(Problem::new(
                "name",
                format!("its number collides with that of network '{other}'"),
            ));
        }
        if problems.is_empty() {
            Ok(NetworkId::of(key))
        } else {
            Err(problems)
        }
    }

    /// The tasks in force after this snapshot.
    pub(super) fn tasks(
        &mut self,
        snapshot: &Snapshot,
        last_good: &BTreeMap<TaskName, Arc<Task>>,
        report: &mut Report<'_>,
    ) -> BTreeMap<TaskName, Arc<Task>> {
        let mut in_force: BTreeMap<TaskName, Arc<Task>> = BTreeMap::new();
        let mut seen: HashSet<&str> = HashSet::with_capacity(snapshot.tasks.len());
        let mut here = 0;
        for params in &snapshot.tasks {
            let name = TaskName::new(&params.name);
            if !seen.insert(&params.name) {
                let problem = Problem::new("name", "is used by an earlier task; the first one counts");
                report.add(Kind::Task, &params.name, &problem, last_good.contains_key(&name));
                continue;
            }
            let checked = self.task(params).and_then(|task| {
                here += usize::from(task.netns().is_some());
                if here > limits::LOCAL_TASKS_MAX {
                    return Err(vec![Problem::new(
                        "netns",
                        format!(
                            "more than {} tasks on this node (limits::LOCAL_TASKS_MAX)",
                            limits::LOCAL_TASKS_MAX
                        ),
                    )]);
                }
                Ok(task)
            });
            match checked {
                Ok(task) => {
                    // The old allocation, when nothing changed: most of every snapshot is as it was.
                    let same = last_good.get(&name).filter(|old| ***old == task).cloned();
                    in_force.insert(name, same.unwrap_or_else(|| Arc::new(task)));
                }
                Err(problems) => {
                    let kept = last_good.get(&name);
                    for problem in &problems {
                        report.add(Kind::Task, &params.name, problem, kept.is_some());
                    }
                    match kept {
                        Some(old) => {
                            in_force.insert(name, old.clone());
                        }
                        None => {
                            self.refused_tasks.extend(
                                problems
                                    .into_iter()
                                    .next()
                                    .map(|problem| (params.name.clone(), problem)),
                            );
                        }
                    }
                }
            }
        }
        if snapshot.partial {
            for (name, old) in last_good.iter().filter(|(name, _)| !seen.contains(name.as_str())) {
                in_force.insert(name.clone(), old.clone());
            }
        }
        in_force
    }

    pub(super) fn task(&self, params: &TaskParams) -> Result<Task, Vec<Problem>> {
        let mut problems = params.problems.clone();
        problems.extend(check_name(&params.name));
        let place = if params.node == self.node {
            Some(Place::Here {
                netns: params.netns.clone(),
            })
        } else if let Some(node) = self.nodes.get(&params.node) {
            Some(Place::There { node: *node })
        } else {
            if !has_field(&problems, "node") {
                problems.push(Problem::new("node", format!("unknown node '{}'", params.node)));
            }
            None
        };
        let mut networks = BTreeMap::new();
        for (network, address) in &params.networks {
            let field = || format!("networks.{network}");
            match (self.networks.get(network.as_str()), TaskAddr::parse(address)) {
                (None, _) => problems.push(Problem::new(field(), format!("unknown network '{network}'"))),
                (_, Err(error)) => problems.push(Problem::new(field(), error.to_string())),
                (Some(id), Ok(address)) => {
                    let family = Family::of(address.0);
                    if networks.insert((*id, family), address).is_some() {
                        problems.push(Problem::new(field(), format!("two {family} addresses")));
                    }
                }
            }
        }
        let different: BTreeSet<NetworkId> = networks.keys().map(|(network, _)| *network).collect();
        if different.len() > limits::TASK_NETWORKS_MAX {
            problems.push(Problem::new(
                "networks",
                format!(
                    "more than {} (limits::SCOPE_NETWORKS_MAX)",
                    limits::TASK_NETWORKS_MAX
                ),
            ));
        }
        let first_by_name = params
            .networks
            .iter()
            .filter_map(|(network, address)| Some((network, address.parse().ok().map(Family::of)?)))
            .min_by_key(|(network, family)| (*family, *network != INGRESS, *network))
            .and_then(|(network, family)| {
                networks
                    .get(&(*self.networks.get(network.as_str())?, family))
                    .copied()
            });
        if params.networks.is_empty() && !has_field(&problems, "networks") {
            problems.push(Problem::new("networks", "is missing: a task needs an address"));
        }
        let weight = check_weight(params.weight, "weight".into(), &mut problems);
        match (place, first_by_name) {
            (Some(place), Some(ingress)) if problems.is_empty() => Ok(Task {
                name: TaskName::new(&params.name),
                place,
                networks,
                ingress,
                id: TaskId::of(ingress),
                weight,
                draining: params.draining,
            }),
            _ => Err(problems),
        }
    }

    /// Resolves a service against the tasks in force.
    pub(super) fn service(
        &self,
        params: &ServiceParams,
        tasks: &BTreeMap<TaskName, Arc<Task>>,
    ) -> Result<Service, Vec<Problem>> {
        let mut problems = params.problems.clone();
        problems.extend(check_name(&params.name));
        let service = Service {
            name: ServiceName::new(&params.name),
            vips: self.vips(params, &mut problems),
            ports: ports(params, &mut problems),
            tasks: self.tasks_of(params, tasks, &mut problems),
            backends: backends(params, &mut problems),
            health: health(params, &mut problems),
            policy: policy(params, &mut problems),
            remembered: params.remembered,
        };
        check_loops(&service, &mut problems);
        if problems.is_empty() {
            Ok(service)
        } else {
            Err(problems)
        }
    }

    fn vips(&self, params: &ServiceParams, problems: &mut Vec<Problem>) -> Vec<Vip> {
        let mut vips = Vec::with_capacity(params.vips.len());
        for (network, address) in &params.vips {
            let field = format!("vips.{network}");
            match (self.networks.get_key_value(network.as_str()), Vip::parse(address)) {
                (None, _) => problems.push(Problem::new(field, format!("unknown network '{network}'"))),
                (_, Err(error)) => problems.push(Problem::new(field, error)),
                (Some((name, id)), Ok((address, port))) => {
                    let same = |other: &&Vip| (other.network, other.address) == (*id, address);
                    let overlaps = |other: &Vip| port.is_none() || other.port.is_none() || other.port == port;
                    if vips.iter().filter(same).any(overlaps) {
                        problems.push(Problem::new(field, format!("{address} is listed twice")));
                        continue;
                    }
                    vips.push(Vip {
                        network: *id,
                        network_name: name.clone(),
                        address,
                        port,
                    });
                }
            }
        }
        vips
    }

    fn tasks_of(
        &self,
        params: &ServiceParams,
        tasks: &BTreeMap<TaskName, Arc<Task>>,
        problems: &mut Vec<Problem>,
    ) -> Vec<Arc<Task>> {
        let mut found = Vec::with_capacity(params.tasks.len());
        let mut seen = BTreeSet::new();
        for (i, name) in params.tasks.iter().enumerate() {
            let field = || format!("tasks[{i}]");
            if !seen.insert(name) {
                problems.push(Problem::new(field(), format!("task '{name}' is listed twice")));
                continue;
            }
            match (tasks.get(name.as_str()), self.refused_tasks.get(name)) {
                (Some(task), _) => {
                    if !params.ports.is_empty() && matches!(task.place, Place::Here { netns: None }) {
                        let problem = format!("task '{name}' has no netns, which a published port needs");
                        problems.push(Problem::new(field(), problem));
                    }
                    if !params.ports.is_empty() && task.id.is_none() {
                        let problem =
                            format!("task '{name}' has no IPv4 address, which a published port needs");
                        problems.push(Problem::new(field(), problem));
                    }
                    found.push(task.clone());
                }
                (None, Some(why)) => problems.push(Problem::new(
                    field(),
                    format!("task '{name}' is refused: {}: {}", why.field, why.message),
                )),
                (None, None) => problems.push(Problem::new(field(), format!("unknown task '{name}'"))),
            }
        }
        found
    }
}

fn ports(params: &ServiceParams, problems: &mut Vec<Problem>) -> Vec<PublishedPort> {
    let mut ports: Vec<PublishedPort> = Vec::with_capacity(params.ports.len());
    for (i, port) in params.ports.iter().enumerate() {
        let published = check_port(port.published, format!("ports[{i}].published"), problems);
        let target = check_port(port.target, format!("ports[{i}].target"), problems);
        let protocol = Protocol::parse(&port.protocol);
        if protocol.is_none() {
            let problem = format!("'{}' is neither tcp nor udp", port.protocol);
            problems.push(Problem::new(format!("ports[{i}].protocol"), problem));
        }
        let (Some(published), Some(target), Some(protocol)) = (published, target, protocol) else {
            continue;
        };
        if ports
            .iter()
            .any(|other| (other.published, other.protocol) == (published, protocol))
        {
            let problem = format!("{published}/{protocol} is published twice by this service");
            problems.push(Problem::new(format!("ports[{i}].published"), problem));
            continue;
        }
        ports.push(PublishedPort {
            published,
            target,
            protocol,
            guessed: port.guessed,
        });
    }
    ports
}

fn backends(params: &ServiceParams, problems: &mut Vec<Problem>) -> Vec<PlainBackend> {
    let families: BTreeSet<bool> = params
        .backends
        .iter()
        .filter_map(|b| b.address.parse().ok())
        .map(|ip: IpAddr| ip.is_ipv6())
        .collect();
    if families.len() > 1 {
        problems.push(Problem::new(
            "backends",
            "IPv4 and IPv6 in one service; its plain backends have one address family",
        ));
        return Vec::new();
    }
    let mut found: Vec<PlainBackend> = Vec::with_capacity(params.backends.len());
    for (i, backend) in params.backends.iter().enumerate() {
        let port = check_port(backend.port, format!("backends[{i}].port"), problems);
        let weight = check_weight(backend.weight, format!("backends[{i}].weight"), problems);
        let address = match TaskAddr::parse(&backend.address) {
            Ok(address) => address,
            Err(error) => {
                problems.push(Problem::new(format!("backends[{i}].address"), error.to_string()));
                continue;
            }
        };
        let Some(port) = port else { continue };
        let plain = PlainBackend {
            address,
            port,
            weight,
            draining: backend.draining,
        };
        if found
            .iter()
            .any(|other| (other.address, other.port) == (address, port))
        {
            problems.push(Problem::new(
                format!("backends[{i}]"),
                format!("{} is listed twice", SocketAddr::new(address.0, port)),
            ));
            continue;
        }
        found.push(plain);
    }
    if !params.backends.is_empty() && params.vips.is_empty() && !has_field(problems, "vips") {
        problems.push(Problem::new(
            "backends",
            "plain backends serve VIPs, and this service has none",
        ));
    }
    found
}

fn health(params: &ServiceParams, problems: &mut Vec<Problem>) -> Option<Box<HealthCheck>> {
    let health = params.health.as_deref()?;
    match HealthCheck::new(health) {
        Ok(check) => {
            if check.port.is_none() && params.ports.is_empty() && !params.tasks.is_empty() {
                let why = "is missing: tasks of a service without published ports have no port of their own";
                problems.push(Problem::new("health.port", why));
            }
            Some(Box::new(check))
        }
        Err(wrong) => {
            problems.extend(wrong);
            None
        }
    }
}

fn policy(params: &ServiceParams, problems: &mut Vec<Problem>) -> Arc<Policy> {
    let policy = Policy::new(&params.policy).unwrap_or_else(|wrong| {
        problems.extend(wrong);
        Policy::default()
    });
    policy.shared()
}

/// A VIP that is the address of one of its own backends would be translated into itself; two tasks with one
/// address or tunnel id would be one backend.
fn check_loops(service: &Service, problems: &mut Vec<Problem>) {
    for vip in &service.vips {
        let of_tasks = service
            .tasks
            .iter()
            .filter_map(|task| task.networks.get(&(vip.network, vip.family())));
        let mut addresses = BTreeSet::new();
        for address in of_tasks {
            if !addresses.insert(*address) {
                let problem = format!(
                    "two tasks have the address {address} on network '{}'",
                    vip.network_name
                );
                problems.push(Problem::new("tasks", problem));
            }
        }
        if let Some(other) = service
            .backends
            .iter()
            .find(|backend| Family::of(backend.address.0) != vip.family())
        {
            let problem = format!(
                "{} is an {} address and the backend {} is not",
                vip.address,
                vip.family(),
                other.address
            );
            problems.push(Problem::new(format!("vips.{}", vip.network_name), problem));
        }
        addresses.extend(service.backends.iter().map(|backend| backend.address));
        if addresses.contains(&TaskAddr(vip.address.0)) {
            let problem = format!("{} is the address of one of its own backends", vip.address);
            problems.push(Problem::new(format!("vips.{}", vip.network_name), problem));
        }
    }
    if !service.ports.is_empty() {
        let mut ids: BTreeMap<TaskId, &Task> = BTreeMap::new();
        for task in &service.tasks {
            if let Some(other) = task.id.and_then(|id| ids.insert(id, task)) {
                let problem = format!(
                    "the addresses {} of '{}' and {} of '{}' have the same low 24 bits",
                    other.ingress, other.name, task.ingress, task.name
                );
                problems.push(Problem::new("tasks", problem));
            }
        }
    }
}

fn check_node(
    name: &str,
    address: &str,
    read: &[Problem],
    duplicate: bool,
) -> Result<NodeAddr, Vec<Problem>> {
    let mut problems = read.to_vec();
    problems.extend(check_name(name));
    if duplicate {
        problems.push(Problem::new(
            "name",
            "is used by an earlier node; the first one counts",
        ));
    }
    match NodeAddr::parse(address) {
        Ok(address) if problems.is_empty() => return Ok(address),
        Ok(_) => {}
        Err(_) if has_field(&problems, "address") => {}
        Err(error) => problems.push(Problem::new("address", error.to_string())),
    }
    Err(problems)
}

fn check_name(name: &str) -> Option<Problem> {
    if name.is_empty() {
        Some(Problem::new("name", "is empty"))
    } else if name.len() > limits::NAME_BYTES_MAX {
        let problem = format!(
            "is longer than {} bytes (limits::NAME_BYTES_MAX)",
            limits::NAME_BYTES_MAX
        );
        Some(Problem::new("name", problem))
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Some(Problem::new(
            "name",
            "has white space or control characters in it",
        ))
    } else {
        None
    }
}

fn check_port(port: i64, field: String, problems: &mut Vec<Problem>) -> Option<u16> {
    match u16::try_from(port) {
        Ok(port) if port != 0 => Some(port),
        _ => {
            problems.push(Problem::new(field, format!("{port} is not a port (1 to 65535)")));
            None
        }
    }
}

fn check_weight(given: Option<i64>, field: String, problems: &mut Vec<Problem>) -> u8 {
    weight(given).unwrap_or_else(|problem| {
        problems.push(Problem::new(field, problem));
        1
    })
}

fn has_field(problems: &[Problem], field: &str) -> bool {
    problems.iter().any(|problem| problem.field == field)
}
