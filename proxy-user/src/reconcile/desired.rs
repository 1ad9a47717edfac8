// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables -> the map entries that they mean. Pure; ids are not given here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use proxy_ebpf::{
    abi::{
        Backend, Frontend, LocalAddr, LocalTask, PROTO_TCP, PROTO_UDP, Scope,
        backend::{DRAINING, IPV6, LOCAL, REMOTE},
        frontend::{DSR, FLOW_HASH, LEAST, MASQUERADE, RANDOM, ROUND_ROBIN, SOURCE_HASH},
        limits::SCOPE_NETWORKS_MAX,
        scope::HOST,
        settings::ticks,
    },
    datapath::{ALLOW, DENY},
};

use super::{
    ids::Ids,
    key::FrontKey,
    spread::{self, Member},
};
use crate::model::{
    self, ClientMode, FrontendAddr, Gateway, Policy, Protocol, Reach, Scheduler, ServiceName, Tables,
    addr::{be, be6, ip6},
    tables,
};

/// What makes two backends of a frontend the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ident {
    /// Address and port, network order.
    Address(u32, u16),
    /// The same with an IPv6 address.
    Address6([u32; 4], u16),
    /// The tunnel's name of a task.
    Task(u32),
}

/// The identity of a backend entry.
pub fn ident(backend: &Backend) -> Ident {
    if backend.flags & (LOCAL | REMOTE) != 0 {
        Ident::Task(backend.task)
    } else if backend.flags & IPV6 != 0 {
        Ident::Address6(backend.addr6(), backend.port_be)
    } else {
        Ident::Address(backend.addr_be, backend.port_be)
    }
}

/// The address of a backend entry.
pub fn address_of(backend: &Backend) -> IpAddr {
    if backend.flags & IPV6 != 0 {
        ip6(backend.addr6()).into()
    } else {
        Ipv4Addr::from(backend.addr_be.to_ne_bytes()).into()
    }
}

/// The identity of a backend's entry.
pub fn ident_of(backend: &model::Backend) -> Ident {
    ident(&self::backend(backend))
}

/// A frontend as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFrontend {
    /// Whose it is, for status.
    pub service: ServiceName,
    /// Port of the tasks, network order.
    pub target_port_be: u16,
    /// Scheduler, affinity and flags of the master entry; its other fields are 0.
    pub master: Frontend,
    /// Places in `active`, in the order of the table that spreads flows; empty = none is needed.
    pub table: Vec<u32>,
    /// Prefixes of clients (address in network order, bits) with their verdict; empty = everyone may.
    pub sources: Vec<(u32, u32, u32)>,
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
    /// By key; what each means for the kernel is worked out when it is compared ([`Desired::frontend`]).
    pub frontends: BTreeMap<FrontKey, Arc<model::Frontend>>,
    /// Interfaces where the reply program could not be attached.
    pub blocked: BTreeSet<u32>,
    /// The network whose VIPs clients outside may use, as published ports; 0 = none.
    pub vip_network: u32,
    /// If set, `frontends` speaks of these only: every other frontend is in the kernel as it should be, and
    /// nothing else is.
    pub only: Option<Focus>,
}

/// What has to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Focus {
    /// Frontends, those to remove as well.
    pub keys: BTreeSet<FrontKey>,
    /// Backends without a slot that these frontends hold because they are draining.
    pub unslotted: Vec<u32>,
    /// The numbers of all frontends.
    pub taken: Ids,
}

impl Desired {
    /// What a frontend means for the kernel.
    pub fn frontend(&self, key: FrontKey, frontend: &model::Frontend) -> DesiredFrontend {
        let outside = key.is_published() || key.is_vip_of(self.vip_network);
        desired_frontend(frontend, outside, &self.blocked)
    }
}

/// The key of a frontend.
pub fn frontend_key(address: FrontendAddr) -> FrontKey {
    match address {
        FrontendAddr::Vip {
            network,
            address,
            port,
        } => FrontKey::vip(
            network.get(),
            address.0,
            port.map_or(0, |port| port.port.to_be()),
            port.map_or(0, |port| number(port.protocol)),
        ),
        FrontendAddr::Published { port, protocol } => FrontKey::published(port.to_be(), number(protocol)),
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
pub fn desired(tables: &Tables, blocked: &BTreeSet<u32>, only: Option<&[FrontendAddr]>) -> Desired {
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
            ..Focus::default()
        }),
        blocked: blocked.clone(),
        ..Desired::default()
    };
    for (id, gateway) in &tables.local_tasks {
        if !blocked.contains(&gateway.host_ifindex) {
            desired.local_tasks.insert(id.get(), local_task(gateway));
            desired.task_links.insert(gateway.host_ifindex);
        }
    }
    let entry = |(address, frontend): (&FrontendAddr, &Arc<model::Frontend>)| {
        (frontend_key(*address), frontend.clone())
    };
    desired.frontends = match only {
        Some(only) => {
            let found = only
                .iter()
                .filter_map(|address| tables.frontends.get_key_value(address));
            found.map(entry).collect()
        }
        None => tables.frontends.iter().map(entry).collect(),
    };
    desired
}

/// `outside`: clients come in through uplinks.
fn desired_frontend(frontend: &model::Frontend, outside: bool, blocked: &BTreeSet<u32>) -> DesiredFrontend {
    let policy = &frontend.policy;
    let mut active = Vec::with_capacity(frontend.backends.len());
    let mut draining = Vec::new();
    let mut members = Vec::with_capacity(frontend.backends.len());
    for model in &frontend.backends {
        let mut value = backend(model);
        if policy.scheduler == Scheduler::WeightedLeast {
            value.weight = model.weight.into();
        }
        let unreachable = value.ifindex != 0 && blocked.contains(&value.ifindex);
        if model.draining || unreachable {
            // Also a client that keeps its backend has to choose again.
            value.flags |= DRAINING;
            draining.push(value)
        } else {
            members.push(Member {
                ident: ident(&value),
                weight: model.weight.into(),
            });
            active.push(value)
        }
    }
    DesiredFrontend {
        service: frontend.service.clone(),
        target_port_be: frontend.target_port.to_be(),
        master: master(policy, outside),
        table: table(policy, outside, &members),
        sources: if outside { sources(policy) } else { Vec::new() },
        active,
        draining,
    }
}

/// What a policy means for the master entry. The socket hooks do not learn when a connection ends, so where only
/// sockets come the fewest flows are not known: there a round stands in for them.
fn master(policy: &Policy, outside: bool) -> Frontend {
    let scheduler = match policy.scheduler {
        Scheduler::Least | Scheduler::WeightedLeast if outside => LEAST,
        Scheduler::RoundRobin
        | Scheduler::WeightedRoundRobin
        | Scheduler::Least
        | Scheduler::WeightedLeast => ROUND_ROBIN,
        Scheduler::Random => RANDOM,
        Scheduler::SourceHash => SOURCE_HASH,
        Scheduler::Maglev => FLOW_HASH,
    };
    let flags = match policy.client {
        ClientMode::Dsr if outside => DSR,
        ClientMode::Masquerade if outside => MASQUERADE,
        _ => 0,
    };
    Frontend {
        scheduler,
        affinity: policy.affinity.map_or(0, |affinity| ticks(affinity.seconds)),
        client_bits: policy.affinity.map_or(32, |affinity| affinity.prefix),
        flags,
        ..Frontend::default()
    }
}

/// The table that spreads flows. With affinity a new client is spread by its hash, whatever the scheduler.
fn table(policy: &Policy, outside: bool, members: &[Member]) -> Vec<u32> {
    let level = members.windows(2).all(|two| two[0].weight == two[1].weight);
    let same: Vec<Member> = members
        .iter()
        .map(|member| Member { weight: 1, ..*member })
        .collect();
    let members = if policy.scheduler.weighs() { members } else { &same };
    match policy.scheduler {
        _ if policy.affinity.is_some() => spread::maglev(members),
        Scheduler::SourceHash | Scheduler::Maglev => spread::maglev(members),
        Scheduler::WeightedLeast if outside => Vec::new(),
        Scheduler::WeightedRoundRobin | Scheduler::WeightedLeast | Scheduler::Random if !level => {
            spread::turns(members)
        }
        _ => Vec::new(),
    }
}

/// The longest prefix decides; with a list of who may, everyone else may not.
fn sources(policy: &Policy) -> Vec<(u32, u32, u32)> {
    let entry = |prefix: &ipnet::Ipv4Net, verdict: u8| {
        (be(prefix.network()), prefix.prefix_len().into(), verdict.into())
    };
    let everyone = ipnet::Ipv4Net::default();
    let named = policy.allow.contains(&everyone) || policy.deny.contains(&everyone);
    let rest = (!policy.allow.is_empty() && !named).then(|| entry(&everyone, DENY));
    let allow = policy.allow.iter().map(|prefix| entry(prefix, ALLOW));
    let deny = policy.deny.iter().map(|prefix| entry(prefix, DENY));
    allow.chain(deny).chain(rest).collect()
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
    let port_be = backend.port.to_be();
    let direct = match backend.address.0 {
        IpAddr::V4(address) => Backend {
            addr_be: be(address),
            port_be,
            ..Backend::default()
        },
        IpAddr::V6(address) => {
            let [a, b, c, addr_be] = be6(address);
            Backend {
                addr_be,
                port_be,
                flags: IPV6,
                addr_high: [a, b, c],
                ..Backend::default()
            }
        }
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
