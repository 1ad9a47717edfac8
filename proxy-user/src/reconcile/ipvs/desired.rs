// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables -> the virtual services that they mean. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

use super::table::{Affinity, Destination, Forward, Key, Scheduler, Service, Virtual};
use crate::{
    model::{
        Backend, Frontend, FrontendAddr, Protocol, Reach, Tables,
        policy::{self, Policy},
    },
    reconcile::{desired::frontend_key, key::FrontKey},
};

/// What holds for every service that does not say otherwise. (A service that says `rr`, which is also what services
/// have that say nothing, has the scheduler from here.)
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Who chooses.
    pub scheduler: Scheduler,
    /// Whether a client keeps its destination.
    pub affinity: Option<Affinity>,
    /// How packets get there.
    pub forward: Forward,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            scheduler: Scheduler::Rr,
            affinity: None,
            forward: Forward::Nat,
        }
    }
}

impl Options {
    /// What a service with this policy has, and what of the policy IPVS does not know.
    fn of(&self, policy: &Policy) -> (Options, Option<String>) {
        let scheduler = match policy.scheduler {
            policy::Scheduler::RoundRobin => Ok(self.scheduler),
            policy::Scheduler::WeightedRoundRobin => Ok(Scheduler::Wrr),
            policy::Scheduler::Least => Ok(Scheduler::Lc),
            policy::Scheduler::WeightedLeast => Ok(Scheduler::Wlc),
            policy::Scheduler::SourceHash => Ok(Scheduler::Sh),
            policy::Scheduler::Maglev => Ok(Scheduler::Mh),
            policy::Scheduler::Random => Err(format!(
                "IPVS has no scheduler random: {} is used",
                self.scheduler.name()
            )),
        };
        let affinity = policy.affinity.map(|affinity| Affinity {
            seconds: affinity.seconds,
            prefix: affinity.prefix,
        });
        let options = Options {
            scheduler: *scheduler.as_ref().unwrap_or(&self.scheduler),
            affinity: affinity.or(self.affinity),
            forward: self.forward,
        };
        (options, scheduler.err())
    }
}

/// A virtual service and the frontend that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The frontend.
    pub frontend: FrontKey,
    /// The service.
    pub is: Virtual,
}

/// Everything that should be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Virtual services.
    pub services: BTreeMap<Key, Wanted>,
    /// VIPs, which the namespace must have to get their packets.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Every frontend of the tables; what IPVS cannot do, with the reason.
    pub frontends: BTreeMap<FrontKey, Result<(), String>>,
    /// What is left out of frontends that are served.
    pub notes: BTreeMap<String, String>,
}

/// What the tables mean.
pub fn desired(tables: &Tables, options: &Options) -> Desired {
    let mut desired = Desired::default();
    for (address, frontend) in &tables.frontends {
        let key = frontend_key(*address);
        let outcome = add(&mut desired, tables, *address, frontend, options);
        desired.frontends.insert(key, outcome);
    }
    desired
}

fn add(
    desired: &mut Desired,
    tables: &Tables,
    address: FrontendAddr,
    frontend: &Frontend,
    options: &Options,
) -> Result<(), String> {
    if frontend.policy.is_filtered() && matches!(address, FrontendAddr::Published { .. }) {
        return Err("IPVS cannot tell who may open flows (allow, deny)".into());
    }
    let (own, note) = options.of(&frontend.policy);
    let options = &own;
    let (keys, vip) = keys(address, tables, options)?;
    let mut notes: Vec<String> = note.into_iter().collect();
    let remote = frontend
        .backends
        .iter()
        .filter(|backend| is_remote(backend))
        .count();
    if remote > 0 && remote == frontend.backends.len() {
        return Err(format!(
            "all {remote} tasks are on other nodes, and IPVS has no tunnel to them; use the node of a task"
        ));
    }
    if remote > 0 {
        notes.push(format!(
            "{remote} tasks on other nodes are left out: IPVS has no tunnel to them"
        ));
    }
    if let Some(taken) = keys.iter().find(|key| desired.services.contains_key(key)) {
        return Err(format!(
            "{taken} is another frontend's too, and IPVS knows no networks"
        ));
    }
    for key in keys {
        let is = Virtual {
            service: Service::new(options.scheduler, options.affinity),
            destinations: destinations(key, frontend, options)?,
        };
        let frontend = frontend_key(address);
        desired.services.insert(key, Wanted { frontend, is });
    }
    desired.addresses.extend(vip);
    if !notes.is_empty() {
        desired.notes.insert(address.to_string(), notes.join("; "));
    }
    Ok(())
}

/// The virtual services of a frontend, and the address that the namespace needs for them.
fn keys(
    address: FrontendAddr,
    tables: &Tables,
    options: &Options,
) -> Result<(Vec<Key>, Option<Ipv4Addr>), String> {
    match address {
        FrontendAddr::Vip {
            address,
            port: Some(port),
            ..
        } => {
            let address = v4(address.0)?;
            let key = Key {
                protocol: port.protocol,
                address: SocketAddrV4::new(address, port.port),
            };
            Ok((vec![key], Some(address)))
        }
        // The kernel takes port 0 of persistent services only.
        FrontendAddr::Vip { address, .. } if options.affinity.is_some() => {
            let address = v4(address.0)?;
            let all = [Protocol::Tcp, Protocol::Udp].map(|protocol| Key {
                protocol,
                address: SocketAddrV4::new(address, 0),
            });
            Ok((all.to_vec(), Some(address)))
        }
        FrontendAddr::Vip { .. } => Err(
            "IPVS serves every port of an address only with affinity; name the port (ADDRESS:PORT/PROTOCOL) or \
             give --ipvs-affinity"
                .into(),
        ),
        FrontendAddr::Published { port, protocol } => {
            let keys: Vec<Key> = tables
                .local_addrs
                .iter()
                .map(|address| Key {
                    protocol,
                    address: SocketAddrV4::new(*address, port),
                })
                .collect();
            if keys.is_empty() {
                return Err("no uplink has an address".into());
            }
            Ok((keys, None))
        }
    }
}

fn v4(address: IpAddr) -> Result<Ipv4Addr, String> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => Err(format!(
            "{address} is an IPv6 address; Portico programs IPVS with IPv4 only (--dataplane ebpf has both)"
        )),
    }
}

fn is_remote(backend: &Backend) -> bool {
    matches!(backend.reach, Reach::Remote { .. })
}

fn destinations(
    key: Key,
    frontend: &Frontend,
    options: &Options,
) -> Result<BTreeMap<SocketAddrV4, Destination>, String> {
    let mut found = BTreeMap::new();
    for backend in &frontend.backends {
        let address = match backend.reach {
            Reach::Direct => v4(backend.address.0)?,
            Reach::Local { gateway, .. } => gateway.address,
            Reach::Remote { .. } => continue,
        };
        let ports = [backend.port, frontend.target_port, key.address.port()];
        let port = ports.into_iter().find(|port| *port != 0).unwrap_or(0);
        if options.forward == Forward::Dr && port != key.address.port() {
            return Err(format!(
                "direct routing cannot change the port {} to {port}; use --ipvs-forward nat",
                key.address.port()
            ));
        }
        let destination = Destination {
            forward: options.forward,
            weight: if backend.draining {
                0
            } else {
                backend.weight.into()
            },
        };
        // Two tasks may share a namespace, and with it an address: one that still takes connections decides.
        let entry = found
            .entry(SocketAddrV4::new(address, port))
            .or_insert(destination);
        entry.weight = entry.weight.max(destination.weight);
    }
    Ok(found)
}
