// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables -> the map entries that they mean. Pure; ids are not given here.

use std::collections::{BTreeMap, BTreeSet};

use proxy_ebpf::abi::{
    Backend, FrontendKey, LocalAddr, LocalTask, PROTO_TCP, PROTO_UDP, Scope,
    backend::{LOCAL, REMOTE},
    frontend::{PUBLISHED, VIP},
    limits::SCOPE_NETWORKS_MAX,
    scope::HOST,
};

use crate::model::{self, FrontendAddr, Gateway, Protocol, Reach, ServiceName, Tables, addr::be, tables};

/// What makes two backends of a frontend the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ident {
    /// Address and port, network order.
    Address(u32, u16),
    /// The tunnel's name of a task.
    Task(u32),
}

/// The identity of a backend entry.
pub fn ident(backend: &Backend) -> Ident {
    if backend.flags & (LOCAL | REMOTE) != 0 {
        Ident::Task(backend.task)
    } else {
        Ident::Address(backend.addr_be, backend.port_be)
    }
}

/// A frontend as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFrontend {
    /// Whose it is, for status.
    pub service: ServiceName,
    /// Port of the tasks, network order.
    pub target_port_be: u16,
    /// Backends with a slot.
    pub active: Vec<Backend>,
    /// Backends without a slot that keep their entry if they have one.
    pub draining: Vec<Backend>,
}

/// Everything that should be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By netns cookie.
    pub scopes: BTreeMap<u64, Scope>,
    /// By address, network order.
    pub local_addrs: BTreeMap<u32, LocalAddr>,
    /// By task id.
    pub local_tasks: BTreeMap<u32, LocalTask>,
    /// By interface index.
    pub task_links: BTreeSet<u32>,
    /// By key.
    pub frontends: BTreeMap<FrontendKey, DesiredFrontend>,
    /// If set, `frontends` speaks of these only: every other frontend is in the kernel as it should be, and
    /// nothing else is.
    pub only: Option<Focus>,
}

/// What has to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Focus {
    /// Frontends, those to remove as well.
    pub keys: BTreeSet<FrontendKey>,
    /// Backends without a slot that these frontends hold because they are draining.
    pub unslotted: Vec<u32>,
}

/// The key of a frontend.
pub fn frontend_key(address: FrontendAddr) -> FrontendKey {
    match address {
        FrontendAddr::Vip {
            network,
            address,
            port,
        } => FrontendKey {
            network: network.get(),
            addr_be: address.be(),
            port_be: port.map_or(0, |port| port.port.to_be()),
            protocol: port.map_or(0, |port| number(port.protocol)),
            kind: VIP,
        },
        FrontendAddr::Published { port, protocol } => FrontendKey {
            network: 0,
            addr_be: 0,
            port_be: port.to_be(),
            protocol: number(protocol),
            kind: PUBLISHED,
        },
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => PROTO_TCP,
        Protocol::Udp => PROTO_UDP,
    }
}

/// What the tables mean. Local backends behind an interface in `blocked` (the reply program could not be
/// attached there, so that replies would leave with the wrong source) get no new flow. With `only`, frontends
/// other than these are taken to be in the kernel already.
pub fn desired(tables: &Tables, blocked: &BTreeSet<u32>, only: Option<&BTreeSet<FrontendAddr>>) -> Desired {
    let mut desired = Desired {
        scopes: tables
            .scopes
            .iter()
            .map(|(cookie, s)| (cookie.0, scope(s)))
            .collect(),
        local_addrs: tables
            .local_addrs
            .iter()
            .map(|a| (be(*a), LocalAddr { flags: 0 }))
            .collect(),
        only: only.map(|only| Focus {
            keys: only.iter().map(|address| frontend_key(*address)).collect(),
            unslotted: Vec::new(),
        }),
        ..Desired::default()
    };
    for (id, gateway) in &tables.local_tasks {
        if !blocked.contains(&gateway.host_ifindex) {
            desired.local_tasks.insert(id.get(), local_task(gateway));
            desired.task_links.insert(gateway.host_ifindex);
        }
    }
    let mut add = |address: &FrontendAddr, frontend: &model::Frontend| {
        let value = desired_frontend(frontend, blocked);
        desired.frontends.insert(frontend_key(*address), value);
    };
    match only {
        Some(only) => only
            .iter()
            .filter_map(|address| tables.frontends.get_key_value(address))
            .for_each(|(address, frontend)| add(address, frontend)),
        None => tables
            .frontends
            .iter()
            .for_each(|(address, frontend)| add(address, frontend)),
    }
    desired
}

fn desired_frontend(frontend: &model::Frontend, blocked: &BTreeSet<u32>) -> DesiredFrontend {
    let mut active = Vec::with_capacity(frontend.backends.len());
    let mut draining = Vec::new();
    for model in &frontend.backends {
        let value = backend(model);
        let unreachable = value.ifindex != 0 && blocked.contains(&value.ifindex);
        if model.draining || unreachable {
            draining.push(value)
        } else {
            active.push(value)
        }
    }
    DesiredFrontend {
        service: frontend.service.clone(),
        target_port_be: frontend.target_port.to_be(),
        active,
        draining,
    }
}

fn scope(scope: &tables::Scope) -> Scope {
    let mut networks = [0; SCOPE_NETWORKS_MAX];
    let mut count = 0;
    for (slot, network) in networks.iter_mut().zip(&scope.networks) {
        *slot = network.get();
        count += 1;
    }
    Scope {
        count,
        flags: if scope.host { HOST } else { 0 },
        networks,
    }
}

fn local_task(gateway: &Gateway) -> LocalTask {
    LocalTask {
        addr_be: be(gateway.address),
        ifindex: gateway.host_ifindex,
        mac: gateway.mac,
        gateway_mac: gateway.gateway_mac,
    }
}

fn backend(backend: &model::Backend) -> Backend {
    let direct = Backend {
        addr_be: backend.address.be(),
        port_be: backend.port.to_be(),
        ..Backend::default()
    };
    match backend.reach {
        Reach::Direct => direct,
        Reach::Local { task, gateway } => Backend {
            addr_be: be(gateway.address),
            ifindex: gateway.host_ifindex,
            task: task.get(),
            flags: LOCAL,
            mac: gateway.mac,
            gateway_mac: gateway.gateway_mac,
            ..direct
        },
        Reach::Remote { task, node } => Backend {
            node_be: node.be(),
            task: task.get(),
            flags: REMOTE,
            ..direct
        },
    }
}
