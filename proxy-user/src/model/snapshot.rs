// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a provider read, unchecked: text and numbers as its source has them, plus what it could not even read.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};

use super::List;

/// Name of the network that has the tasks' addresses for published ports; exists without being declared.
pub const INGRESS: &str = "ingress";
/// Name of the network whose VIPs are seen in the node's own namespace; exists without being declared.
pub const HOST: &str = "host";

/// Everything that one source says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// File, or `docker`: the first word of every error.
    pub source: String,
    /// The name of this node in `tasks[].node`.
    pub node: String,
    /// Nodes of the cluster.
    pub nodes: Vec<NodeParams>,
    /// Networks.
    pub networks: Vec<NetworkParams>,
    /// Tasks on all nodes. What has not changed since the last snapshot may be the same allocation: then nobody
    /// looks at it again.
    pub tasks: List<TaskParams>,
    /// Services; as tasks.
    pub services: List<ServiceParams>,
    /// What is wrong with the source itself.
    pub problems: Vec<Problem>,
    /// Services that another source says besides; they come after `services`.
    pub added: Added,
    /// Something could not be read so badly that its name is unknown: what is missing may be just that, so
    /// nothing is removed because it is missing.
    pub partial: bool,
}

/// Services that come from another source than the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// The other source: the first word of errors in these services.
    pub source: String,
    /// What it says.
    pub services: List<ServiceParams>,
}

impl Snapshot {
    /// The snapshot with another source's services behind its own.
    pub fn with(&self, source: &str, services: &List<ServiceParams>) -> Self {
        Self {
            added: Added {
                source: source.into(),
                services: services.clone(),
            },
            ..self.clone()
        }
    }

    /// The services of both sources, in their order.
    pub fn all_services(&self) -> impl Iterator<Item = &Arc<ServiceParams>> {
        self.services.iter().chain(&self.added.services)
    }
}

/// A field that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as a path.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Problem {
    /// A problem with a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeParams {
    /// Its name.
    pub name: String,
    /// Its end of the tunnel.
    pub address: String,
    /// What the provider could not read.
    pub problems: Vec<Problem>,
}

/// A network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkParams {
    /// How tasks and services refer to it.
    pub name: String,
    /// What its number is made from: the name (file) or the id (Swarm).
    pub key: String,
    /// What the provider could not read.
    pub problems: Vec<Problem>,
}

/// A task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskParams {
    /// Its name.
    pub name: String,
    /// The name of its node.
    pub node: String,
    /// Its network namespace on its node.
    pub netns: Option<PathBuf>,
    /// Network name -> address.
    pub networks: Vec<(String, String)>,
    /// Its share of new flows; `None` = 1.
    pub weight: Option<i64>,
    /// Gets no new flow.
    pub draining: bool,
    /// What the provider could not read.
    pub problems: Vec<Problem>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceParams {
    /// Its name.
    pub name: String,
    /// Network name -> VIP, with `:PORT/PROTOCOL` if it is only one port of it.
    pub vips: Vec<(String, String)>,
    /// Published ports.
    pub ports: Vec<PortParams>,
    /// Names of its tasks.
    pub tasks: Vec<String>,
    /// Plain backends of its VIPs.
    pub backends: Vec<BackendParams>,
    /// How its members are checked.
    pub health: Option<Box<HealthParams>>,
    /// How its flows are spread, and who may open them.
    pub policy: Arc<PolicyParams>,
    /// Its source does not list it any more; it is kept so that clients are refused at once.
    pub remembered: bool,
    /// What the provider could not read.
    pub problems: Vec<Problem>,
}

/// How a service's flows are spread, and who may open them. What is not said has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyParams {
    /// `rr`, `wrr`, `lc`, `wlc`, `sh`, `mh` or `random`.
    pub scheduler: Option<String>,
    /// `NUMBER[s|m|h|d][/PREFIX]`.
    pub affinity: Option<String>,
    /// `preserve`, `dsr` or `masquerade`.
    pub client: Option<String>,
    /// Prefixes that may open flows to published ports.
    pub allow: Vec<String>,
    /// Prefixes that may not.
    pub deny: Vec<String>,
    /// `NUMBER[s|m|h|d]` or `none`.
    pub drain: Option<String>,
}

impl PolicyParams {
    /// To be kept: nearly all services say nothing, and then it is the same nothing.
    pub fn shared(self) -> Arc<Self> {
        static NOTHING: LazyLock<Arc<PolicyParams>> = LazyLock::new(Arc::default);
        if self == **NOTHING {
            NOTHING.clone()
        } else {
            Arc::new(self)
        }
    }
}

/// A published port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortParams {
    /// Port on the nodes.
    pub published: i64,
    /// Port of the tasks.
    pub target: i64,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The source does not say the protocol; this one is served because it may be it.
    pub guessed: bool,
}

/// A plain backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendParams {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: i64,
    /// Its share of new flows; `None` = 1.
    pub weight: Option<i64>,
    /// Gets no new flow.
    pub draining: bool,
}

/// A health check. The operator's API has it as it stands here, so the names are a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthParams {
    /// `tcp`, `http` or `grpc`.
    pub kind: String,
    /// Port; 0 = the backend's, for tasks the first published port's target.
    pub port: i64,
    /// HTTP: path.
    pub path: String,
    /// HTTP: Host field; empty = address and port.
    pub host: String,
    /// HTTP: good status codes.
    pub expect: String,
    /// gRPC: the service to ask for; empty = the whole server.
    pub service: String,
    /// Milliseconds from the end of one check to the start of the next.
    pub interval_ms: i64,
    /// Milliseconds that one check may take.
    pub timeout_ms: i64,
    /// Good checks in a row that bring a member back.
    pub rise: i64,
    /// Bad checks in a row that take a member out.
    pub fall: i64,
}

impl Default for HealthParams {
    fn default() -> Self {
        Self {
            kind: "tcp".into(),
            port: 0,
            path: "/".into(),
            host: String::new(),
            expect: "200-399".into(),
            service: String::new(),
            interval_ms: 2_000,
            timeout_ms: 1_000,
            rise: 2,
            fall: 3,
        }
    }
}
