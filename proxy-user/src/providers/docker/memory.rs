// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses of services that a worker's engine lists no more.
//!
//! The engine names a service only while gossip has a task of it. A service that was scaled to nothing, or whose
//! tasks all died, is just absent, on a worker as if it had never been; its clients would then run into a timeout
//! instead of being refused. So what was listed is remembered, without tasks.
//!
//! Life of an entry: a VIP or a published port was in the last look and is not in this one. It is forgotten when
//! the service is listed there again (whatever it has then is true), its network leaves the node, somebody else
//! turns up with its address or port, [`REMEMBER`] has passed, or there are too many. Managers need none of this,
//! because they list every service; they take note all the same, in case they are demoted. An agent that starts
//! again begins with an empty memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::translate::Engine;
use crate::model::{
    Snapshot,
    snapshot::{PortParams, ServiceParams},
};

/// How long a service that is not listed is remembered. Long enough for a service that is to come back, short
/// enough for one that was removed, which looks the same.
pub const REMEMBER: Duration = Duration::from_secs(600);
/// VIPs and ports remembered; beyond it those that went first are forgotten. 1 000 services of one network and
/// one port (two protocols), all gone at once, are 3 000.
pub const REMEMBERED_MAX: usize = 4_096;

/// What is and what was listed.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// As of the last look.
    listed: BTreeSet<Entry>,
    /// Not listed since.
    gone: BTreeMap<Entry, Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Vip {
        service: String,
        /// The network's id, because another network may get its name.
        network: String,
        address: String,
    },
    Port {
        service: String,
        published: i64,
        target: i64,
        protocol: String,
        guessed: bool,
    },
}

impl Memory {
    /// Takes note of what the engine lists, and adds to the snapshot what it has stopped to list.
    pub(super) fn recall(&mut self, engine: &Engine, snapshot: &mut Snapshot, now: Instant) {
        let listed = entries(snapshot);
        for entry in std::mem::replace(&mut self.listed, listed) {
            self.gone.entry(entry).or_insert(now);
        }
        let present = Present::of(engine, &self.listed);
        self.gone
            .retain(|entry, since| now.duration_since(*since) < REMEMBER && !present.refutes(entry));
        let excess = self.gone.len().saturating_sub(REMEMBERED_MAX);
        if excess > 0 {
            let gone = std::mem::take(&mut self.gone);
            let mut by_age: Vec<(Instant, Entry)> =
                gone.into_iter().map(|(entry, since)| (since, entry)).collect();
            by_age.sort_unstable();
            let kept = by_age.into_iter().skip(excess);
            self.gone = kept.map(|(since, entry)| (entry, since)).collect();
        }
        if engine.services.is_none() {
            self.gone.keys().for_each(|entry| add(snapshot, entry));
        }
    }
}

/// Everything that a snapshot has of VIPs and ports.
fn entries(snapshot: &Snapshot) -> BTreeSet<Entry> {
    let ids: BTreeMap<&str, &str> = snapshot
        .networks
        .iter()
        .map(|network| (&network.name[..], &network.key[..]))
        .collect();
    let mut found = BTreeSet::new();
    for service in &snapshot.services {
        for (network, address) in &service.vips {
            if let Some(id) = ids.get(&network[..]) {
                found.insert(Entry::Vip {
                    service: service.name.clone(),
                    network: (*id).to_owned(),
                    address: address.clone(),
                });
            }
        }
        for port in &service.ports {
            found.insert(Entry::Port {
                service: service.name.clone(),
                published: port.published,
                target: port.target,
                protocol: port.protocol.clone(),
                guessed: port.guessed,
            });
        }
    }
    found
}

/// What speaks against a remembered entry.
struct Present<'a> {
    /// By network id.
    networks: BTreeMap<&'a str, Network<'a>>,
    /// (published, protocol) that somebody has.
    ports: BTreeSet<(i64, &'a str)>,
    /// Services with tasks on the ingress network: all their ports are known.
    publishing: BTreeSet<&'a str>,
}

#[derive(Default)]
struct Network<'a> {
    /// Addresses that somebody has.
    addresses: BTreeSet<&'a str>,
    /// Services that are listed there.
    services: BTreeSet<&'a str>,
}

impl<'a> Present<'a> {
    fn of(engine: &'a Engine, listed: &'a BTreeSet<Entry>) -> Self {
        let mut networks: BTreeMap<&str, Network<'_>> = BTreeMap::new();
        let mut publishing = BTreeSet::new();
        for network in &engine.networks {
            let Some(id) = network["Id"].as_str() else {
                continue;
            };
            let entry = networks.entry(id).or_default();
            for (service, of) in object(&network["Services"]) {
                entry.services.insert(service);
                if network["Ingress"] == true {
                    publishing.insert(&service[..]);
                }
                entry.addresses.extend(of["VIP"].as_str());
                let tasks = of["Tasks"].as_array().into_iter().flatten();
                entry
                    .addresses
                    .extend(tasks.filter_map(|task| task["EndpointIP"].as_str()));
            }
            let endpoints = object(&network["Containers"]);
            entry.addresses.extend(
                endpoints.filter_map(|(_, endpoint)| endpoint["IPv4Address"].as_str()?.split('/').next()),
            );
        }
        for container in &engine.containers {
            for (_, attached) in object(&container.inspect["NetworkSettings"]["Networks"]) {
                let id = attached["NetworkID"].as_str().unwrap_or_default();
                if let Some(entry) = networks.get_mut(id) {
                    entry.addresses.extend(attached["IPAddress"].as_str());
                }
            }
        }
        let of_containers = engine
            .host_ports
            .iter()
            .map(|(port, protocol)| (*port, &protocol[..]));
        let mut ports: BTreeSet<(i64, &str)> = of_containers.collect();
        for entry in listed {
            match entry {
                Entry::Port {
                    published, protocol, ..
                } => {
                    ports.insert((*published, protocol));
                }
                // A manager knows VIPs that gossip does not.
                Entry::Vip { network, address, .. } => {
                    if let Some(entry) = networks.get_mut(&network[..]) {
                        entry.addresses.insert(address);
                    }
                }
            }
        }
        Self {
            networks,
            ports,
            publishing,
        }
    }

    fn refutes(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Vip {
                service,
                network,
                address,
            } => self.networks.get(&network[..]).is_none_or(|network| {
                network.services.contains(&service[..]) || network.addresses.contains(&address[..])
            }),
            Entry::Port {
                service,
                published,
                protocol,
                ..
            } => self.ports.contains(&(*published, protocol)) || self.publishing.contains(&service[..]),
        }
    }
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn add(snapshot: &mut Snapshot, entry: &Entry) {
    let (Entry::Vip { service, .. } | Entry::Port { service, .. }) = entry;
    let known = snapshot.services.iter().position(|known| known.name == *service);
    let into = match known {
        Some(known) => Arc::make_mut(&mut snapshot.services[known]),
        None => {
            snapshot.services.push(Arc::new(ServiceParams {
                name: service.clone(),
                remembered: true,
                ..ServiceParams::default()
            }));
            let last = snapshot.services.len() - 1;
            Arc::make_mut(&mut snapshot.services[last])
        }
    };
    match entry {
        Entry::Vip { network, address, .. } => {
            let named = snapshot.networks.iter().find(|known| known.key == *network);
            if let Some(network) = named {
                into.vips.push((network.name.clone(), address.clone()));
            }
        }
        // With tasks elsewhere it would not be refused but sent there, where nobody may listen any more.
        Entry::Port { .. } if !into.tasks.is_empty() => {}
        Entry::Port {
            published,
            target,
            protocol,
            guessed,
            ..
        } => into.ports.push(PortParams {
            published: *published,
            target: *target,
            protocol: protocol.clone(),
            guessed: *guessed,
        }),
    }
}

#[cfg(test)]
mod tests;
