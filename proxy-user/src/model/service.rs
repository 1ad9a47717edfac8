// SPDX-License-Identifier: MIT OR Apache-2.0
//! Services and tasks in force: checked, resolved, and complete in themselves, so that a kept version does not
//! depend on anything that has changed around it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{NetworkId, NodeAddr, Protocol, ServiceName, TaskAddr, TaskId, TaskName, VipAddr};

/// A service in force. Written by the Writer only; lives until its provider drops it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Virtual addresses, at most one per network.
    pub vips: Vec<Vip>,
    /// Ports published on every node.
    pub ports: Vec<PublishedPort>,
    /// Who serves it.
    pub tasks: Vec<Arc<Task>>,
    /// Who serves its VIPs besides the tasks.
    pub backends: Vec<PlainBackend>,
    /// Its source does not list it any more; kept so that clients are refused at once.
    pub remembered: bool,
}

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The network that it belongs to.
    pub network: NetworkId,
    /// That network's name, for people.
    pub network_name: String,
    /// The address, for every port and protocol.
    pub address: VipAddr,
}

/// A port that every node of the cluster answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// The port on the nodes.
    pub published: u16,
    /// The port of the tasks.
    pub target: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The source does not say the protocol; this one is served because it may be it.
    pub guessed: bool,
}

/// A backend that is no task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlainBackend {
    /// Its address.
    pub address: TaskAddr,
    /// Its port, whatever port the client used.
    pub port: u16,
}

/// A task in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub name: TaskName,
    /// Where it runs.
    pub place: Place,
    /// Its address on each of its networks.
    pub networks: BTreeMap<NetworkId, TaskAddr>,
    /// The address that names it in the tunnel.
    pub ingress: TaskAddr,
    /// The tunnel's name for it.
    pub id: TaskId,
    /// Gets no new flow, keeps the old ones.
    pub draining: bool,
}

/// Where a task runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this node.
    Here {
        /// Path of its network namespace.
        netns: Option<PathBuf>,
    },
    /// On another one.
    There {
        /// That node's end of the tunnel.
        node: NodeAddr,
    },
}

impl Task {
    /// The namespace path, when the task runs on this node and has one of its own.
    pub fn netns(&self) -> Option<&PathBuf> {
        match &self.place {
            Place::Here { netns } => netns.as_ref(),
            Place::There { .. } => None,
        }
    }
}
