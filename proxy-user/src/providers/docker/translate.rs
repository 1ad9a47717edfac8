// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine's answers -> snapshot. Pure.
//!
//! Two sources overlap. The verbose answer about a network has who serves there, but a service without a task is
//! not in it, and protocols never are. A manager's service list has VIPs, ports and protocols of every service,
//! with or without tasks. Rule: of a service that is in a manager's list, VIPs and ports are the list's.
//!
//! Where nobody says the protocol, a published port is programmed for TCP and UDP. Where two entries of unknown
//! protocol want one port for different targets or services, the first (in the order of service names, then of
//! the engine's list) gets TCP and the second UDP, and `status` says that this was a guess; a third gets nothing.

mod labels;
mod listed;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
};

use listed::Listed;
use serde_json::Value;

use super::enabled::Enabled;
use crate::model::{
    Snapshot,
    snapshot::{
        INGRESS, NetworkParams, NodeParams, PolicyParams, PortParams, Problem, ServiceParams, TaskParams,
    },
};

/// What an engine answered at one moment.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    /// `/info`.
    pub info: Value,
    /// `/networks/{id}?verbose=true` of every overlay network.
    pub networks: Vec<Value>,
    /// Containers on overlay networks.
    pub containers: Vec<Container>,
    /// Ports of this node that containers hold themselves (`mode=host`, `-p` without a Swarm).
    pub host_ports: BTreeSet<(i64, String)>,
    /// `/services`, on managers.
    pub services: Option<Value>,
    /// `/tasks` whose desired state is running, on managers.
    pub running: Option<Value>,
    /// What the engine's DNS names, on workers.
    pub enabled: Enabled,
}

/// A container.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// `/containers/{id}/json`.
    pub inspect: Value,
    /// Its namespace.
    pub netns: Option<PathBuf>,
}

/// The address under which the other nodes reach this one: the one that gossip gives for this node's own
/// ingress endpoint (the data path's, which may differ from the advertised one), else the advertised one.
pub fn own_address(engine: &Engine) -> Option<String> {
    let of_data_path = || {
        let ingress = engine
            .networks
            .iter()
            .find(|network| network["Ingress"] == true)?;
        let own = ingress["Containers"]["ingress-sbox"]["IPv4Address"].as_str()?;
        let own = own.split('/').next()?;
        let endpoints = ingress["Services"][""]["Tasks"].as_array()?;
        let endpoint = endpoints.iter().find(|endpoint| endpoint["EndpointIP"] == own)?;
        endpoint["Info"]["Host IP"].as_str()
    };
    let advertised = || engine.info["Swarm"]["NodeAddr"].as_str();
    of_data_path()
        .or_else(advertised)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// Translates.
pub fn translate(engine: &Engine) -> Snapshot {
    let mut builder = Builder {
        own: own_address(engine),
        node: engine.info["Name"].as_str().unwrap_or("this-node").to_owned(),
        running: engine.running.as_ref().and_then(Value::as_array).map(|tasks| {
            tasks
                .iter()
                .filter_map(|task| task["ID"].as_str())
                .map(str::to_owned)
                .collect()
        }),
        ..Builder::default()
    };
    for network in &engine.networks {
        builder.network(network);
    }
    for container in &engine.containers {
        builder.container(container);
    }
    let mut networks: Vec<&Value> = engine.networks.iter().collect();
    networks.sort_by_key(|network| network["Name"].as_str());
    for network in networks {
        builder.services(network);
        builder.disabled(engine, network);
    }
    let listed = listed::read(engine.services.as_ref());
    builder.listed_vips(&listed, &engine.networks);
    builder.policies(&listed, &engine.containers);
    builder.finish(&listed)
}

#[derive(Default)]
struct Builder {
    own: Option<String>,
    node: String,
    running: Option<BTreeSet<String>>,
    /// Network id -> name in the snapshot.
    names: BTreeMap<String, String>,
    networks: Vec<NetworkParams>,
    tasks: BTreeMap<String, TaskParams>,
    /// (network, address) -> task.
    addresses: BTreeMap<(String, String), String>,
    nodes: BTreeSet<String>,
    services: BTreeMap<String, Draft>,
    problems: Vec<Problem>,
}

#[derive(Default)]
struct Draft {
    vips: Vec<(String, String)>,
    tasks: BTreeSet<String>,
    /// (target, published) in the engine's order, of unknown protocol.
    ports: Vec<(i64, i64)>,
    /// From a manager's list.
    known: Vec<PortParams>,
    policy: PolicyParams,
}

impl Builder {
    fn network(&mut self, network: &Value) {
        let (Some(id), Some(name)) = (network["Id"].as_str(), network["Name"].as_str()) else {
            return;
        };
        let name = if network["Ingress"] == true { INGRESS } else { name };
        self.names.insert(id.into(), name.into());
        self.networks.push(NetworkParams {
            name: name.into(),
            key: id.into(),
            problems: Vec::new(),
        });
    }

    fn container(&mut self, container: &Container) {
        let inspect = &container.inspect;
        let label = inspect["Config"]["Labels"]["com.docker.swarm.task.name"].as_str();
        let own = inspect["Name"].as_str().map(|name| name.trim_start_matches('/'));
        let (Some(name), Some(netns)) = (label.or(own).filter(|name| !name.is_empty()), &container.netns)
        else {
            return;
        };
        let mut networks = Vec::new();
        for attached in inspect["NetworkSettings"]["Networks"]
            .as_object()
            .into_iter()
            .flat_map(|of| of.values())
        {
            let id = attached["NetworkID"].as_str().unwrap_or_default();
            let address = attached["IPAddress"].as_str().unwrap_or_default();
            let Some(network) = self.names.get(id).filter(|_| is_v4(address)) else {
                continue;
            };
            self.addresses
                .insert((network.clone(), address.into()), name.into());
            networks.push((network.clone(), address.to_owned()));
        }
        if networks.is_empty() {
            return;
        }
        networks.sort();
        let task = TaskParams {
            name: name.into(),
            node: self.node.clone(),
            netns: Some(netns.clone()),
            networks,
            weight: None,
            draining: label.is_some() && self.leaving(name),
            problems: Vec::new(),
        };
        self.tasks.insert(name.into(), task);
    }

    /// Whether a manager says that the task is not wanted any more. Tasks are named `service.slot.id`.
    fn leaving(&self, task: &str) -> bool {
        match (&self.running, task.rsplit('.').next()) {
            (Some(running), Some(id)) => !running.contains(id),
            _ => false,
        }
    }

    fn services(&mut self, network: &Value) {
        let Some(name) = network["Id"].as_str().and_then(|id| self.names.get(id)).cloned() else {
            return;
        };
        // The key "" has the load balancers' own endpoints.
        let services = network["Services"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| !name.is_empty());
        for (service, entry) in services {
            let tasks: Vec<String> = entry["Tasks"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|task| self.task(service, &name, task))
                .collect();
            let draft = self.services.entry(service.clone()).or_default();
            draft.tasks.extend(tasks);
            // "<nil>" up to 28, "" from 29: DNS round robin. Nobody connects to a VIP on the ingress network.
            let vip = entry["VIP"]
                .as_str()
                .filter(|vip| !vip.is_empty() && *vip != "<nil>");
            if let Some(vip) = vip.filter(|_| name != INGRESS) {
                draft.vips.push((name.clone(), vip.into()));
            }
            for text in entry["Ports"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                match parse_port(text) {
                    Some(port) => draft.ports.push(port),
                    None => self.problems.push(Problem::new(
                        format!("networks.{name}.Services.{service}.Ports"),
                        format!("cannot read '{text}'"),
                    )),
                }
            }
        }
    }

    /// The task's name, if it is usable.
    fn task(&mut self, service: &str, network: &str, task: &Value) -> Option<String> {
        let name = task["Name"].as_str().filter(|name| !name.is_empty())?;
        let address = task["EndpointIP"].as_str().unwrap_or_default();
        if self.tasks.get(name).is_some_and(|known| known.node == self.node) {
            return Some(name.into());
        }
        if !is_v4(address) {
            let field = format!("networks.{network}.Services.{service}.Tasks");
            self.problems.push(Problem::new(
                field,
                format!("task '{name}': '{address}' is no IPv4 address"),
            ));
            return None;
        }
        let key = (network.to_owned(), address.to_owned());
        if let Some(other) = self.addresses.get(&key).filter(|other| *other != name).cloned() {
            // An entry that gossip has not forgotten yet, or a container whose label differs.
            let here = self
                .tasks
                .get(&other)
                .is_some_and(|known| known.node == self.node);
            if here || !self.leaving(&other) || self.leaving(name) {
                return here.then_some(other);
            }
            self.tasks.remove(&other);
            for draft in self.services.values_mut() {
                draft.tasks.remove(&other);
            }
        }
        let host = task["Info"]["Host IP"].as_str().unwrap_or_default();
        if self.own.as_deref() == Some(host) {
            // On this node, but without a container: it has just ended, or has not started.
            return None;
        }
        if !is_v4(host) {
            let field = format!("networks.{network}.Services.{service}.Tasks");
            self.problems.push(Problem::new(
                field,
                format!("task '{name}': node '{host}' is no IPv4 address"),
            ));
            return None;
        }
        self.addresses.insert(key, name.into());
        self.nodes.insert(host.into());
        let draining = self.leaving(name);
        let entry = self.tasks.entry(name.into()).or_insert_with(|| TaskParams {
            name: name.into(),
            node: host.into(),
            draining,
            ..TaskParams::default()
        });
        if entry.networks.iter().all(|(known, _)| known != network) {
            entry.networks.push((network.into(), address.into()));
        }
        Some(name.into())
    }

    /// Tasks that the engine's DNS does not name any more are on their way out, on every network that they are on.
    fn disabled(&mut self, engine: &Engine, network: &Value) {
        let id = network["Id"].as_str().unwrap_or_default();
        for (service, entry) in network["Services"].as_object().into_iter().flatten() {
            for task in entry["Tasks"].as_array().into_iter().flatten() {
                let address = task["EndpointIP"].as_str().unwrap_or_default();
                let known = task["Name"].as_str().and_then(|name| self.tasks.get_mut(name));
                if let Some(known) = known.filter(|_| engine.is_disabled(id, service, address)) {
                    known.draining = true;
                }
            }
        }
    }

    /// VIPs of the services that a manager lists, in the networks that this node takes part in: also of those
    /// without any task, so that their clients are refused at once.
    fn listed_vips(&mut self, listed: &BTreeMap<String, Listed>, networks: &[Value]) {
        let mut holders: BTreeMap<(String, String), &String> = BTreeMap::new();
        for (service, entry) in listed {
            for (id, address) in &entry.vips {
                // Nobody connects to a VIP on the ingress network; an unknown network is not on this node.
                let Some(network) = self.names.get(id).filter(|name| *name != INGRESS).cloned() else {
                    continue;
                };
                let verbose = networks.iter().find(|network| network["Id"] == **id);
                let attached = || self.addresses.keys().any(|(on, _)| *on == network);
                if !verbose.is_some_and(|network| network["Services"].is_object()) && !attached() {
                    continue;
                }
                holders.insert((network.clone(), address.clone()), service);
                let vips = &mut self.services.entry(service.clone()).or_default().vips;
                vips.retain(|(on, _)| *on != network);
                vips.push((network, address.clone()));
            }
        }
        // Gossip may still have a service that is gone, with an address that is another one's by now.
        for (service, draft) in &mut self.services {
            draft
                .vips
                .retain(|vip| holders.get(vip).is_none_or(|holder| *holder == service));
        }
    }

    /// What labels say. A service that only labels know is none.
    fn policies(&mut self, listed: &BTreeMap<String, Listed>, containers: &[Container]) {
        for (service, entry) in listed {
            if let Some(draft) = self.services.get_mut(service) {
                let place = format!("services.{service}.labels");
                labels::read(&entry.labels, &place, &mut draft.policy, &mut self.problems);
            }
        }
        // In the order of names, so that two containers that differ say the same at every look.
        let mut by_name: Vec<&Value> = containers.iter().map(|container| &container.inspect).collect();
        by_name.sort_by_key(|inspect| inspect["Name"].as_str());
        for inspect in by_name {
            let labels = &inspect["Config"]["Labels"];
            let service = labels["com.docker.swarm.service.name"]
                .as_str()
                .unwrap_or_default();
            if let Some(draft) = self.services.get_mut(service) {
                let name = inspect["Name"]
                    .as_str()
                    .unwrap_or_default()
                    .trim_start_matches('/');
                labels::read(
                    labels,
                    &format!("containers.{name}.labels"),
                    &mut draft.policy,
                    &mut self.problems,
                );
            }
        }
    }

    fn finish(mut self, listed: &BTreeMap<String, Listed>) -> Snapshot {
        let mut taken: BTreeMap<(i64, String), String> = BTreeMap::new();
        let mut drafts: Vec<(String, Draft, Vec<PortParams>)> = Vec::new();
        for (name, entry) in listed.iter().filter(|(_, entry)| !entry.ports.is_empty()) {
            let draft = self.services.entry(name.clone()).or_default();
            draft.ports.clear();
            for (published, target, protocol) in &entry.ports {
                if protocol == "sctp" {
                    self.problems.push(Problem::new(
                        format!("services.{name}.ports"),
                        format!("{published}/sctp: SCTP is not supported; left out"),
                    ));
                    continue;
                }
                taken.insert((*published, protocol.clone()), name.clone());
                draft.known.push(PortParams {
                    published: *published,
                    target: *target,
                    protocol: protocol.clone(),
                    guessed: false,
                });
            }
        }
        for (name, mut draft) in std::mem::take(&mut self.services) {
            if listed.contains_key(&name) {
                draft.ports.clear();
            }
            let known = std::mem::take(&mut draft.known);
            drafts.push((name, draft, known));
        }
        let mut wanted: BTreeMap<i64, usize> = BTreeMap::new();
        for (_, draft, _) in &drafts {
            for (_, published) in dedup(&draft.ports) {
                *wanted.entry(published).or_default() += 1;
            }
        }
        for (name, draft, ports) in &mut drafts {
            for (target, published) in dedup(&draft.ports) {
                let mut free: Vec<&str> = ["tcp", "udp"]
                    .into_iter()
                    .filter(|protocol| !taken.contains_key(&(published, (*protocol).to_owned())))
                    .collect();
                if wanted.get(&published).is_some_and(|count| *count > 1) {
                    free.truncate(1);
                    self.problems.push(Problem::new(
                        format!("services.{name}.ports"),
                        match free.first() {
                            Some(protocol) => format!(
                                "{published} -> {target}: several want this port and a worker cannot see \
                                 protocols; taken as {protocol}"
                            ),
                            None => format!(
                                "{published} -> {target}: several want this port and a worker cannot see \
                                 protocols; left out"
                            ),
                        },
                    ));
                }
                for protocol in free {
                    taken.insert((published, protocol.into()), name.clone());
                    ports.push(PortParams {
                        published,
                        target,
                        protocol: protocol.into(),
                        guessed: true,
                    });
                }
            }
        }
        self.networks.sort_by(|a, b| a.name.cmp(&b.name));
        for task in self.tasks.values_mut() {
            task.networks.sort();
        }
        Snapshot {
            added: Default::default(),
            source: "docker".into(),
            node: self.node,
            nodes: self
                .nodes
                .into_iter()
                .map(|address| NodeParams {
                    name: address.clone(),
                    address,
                    problems: Vec::new(),
                })
                .collect(),
            networks: self.networks,
            tasks: self.tasks.into_values().map(Arc::new).collect(),
            services: drafts
                .into_iter()
                .map(|(name, draft, ports)| {
                    Arc::new(ServiceParams {
                        name,
                        vips: draft.vips,
                        ports,
                        tasks: draft.tasks.into_iter().collect(),
                        policy: draft.policy.shared(),
                        ..ServiceParams::default()
                    })
                })
                .collect(),
            problems: self.problems,
            partial: false,
        }
    }
}

/// `Target: 8080, Publish: 80`.
fn parse_port(text: &str) -> Option<(i64, i64)> {
    let (target, published) = text.split_once(',')?;
    let target = target.trim().strip_prefix("Target:")?.trim().parse().ok()?;
    let published = published.trim().strip_prefix("Publish:")?.trim().parse().ok()?;
    Some((target, published))
}

/// One port for two protocols is listed twice.
fn dedup(ports: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut found: Vec<(i64, i64)> = Vec::new();
    for port in ports {
        if !found.contains(port) {
            found.push(*port);
        }
    }
    found
}

fn is_v4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests;
