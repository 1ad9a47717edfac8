// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looks at the engine again and again.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    enabled::{self, Enabled},
    memory::Memory,
    translate::{Container, Engine, own_address, translate},
};
use crate::{
    backoff::Backoff,
    cli::Exit,
    engine::{Address, Client, VERSION_MIN, filters},
    model::{NodeAddr, Snapshot},
    providers::Report,
    unix_http::Error,
};

/// Longest time between two looks: remote tasks come and go without an event.
const POLL: Duration = Duration::from_secs(1);
/// One `docker stack deploy` makes many events; look once for all of them.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// First wait when the engine does not answer.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest wait when the engine does not answer.
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Looks without an ingress network that are not believed after there was one: an engine that starts up
/// answers before it has its networks back.
const DOUBTS_MAX: u32 = 30;

/// Watches one engine.
pub struct Watcher {
    client: Client,
    /// What to call this node instead of the engine's host name.
    called: Option<String>,
    node: String,
    services: Option<Value>,
    had_ingress: bool,
    doubts: u32,
    memory: Memory,
    last: Option<Snapshot>,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("docker: {0}")]
    Engine(#[from] Error),
    #[error("docker: this node is not in a Swarm at the moment (state '{0}')")]
    NoSwarm(String),
    #[error("docker: the engine has no ingress network at the moment")]
    NoIngress,
}

impl Watcher {
    /// Connects and looks once; says what is missing when that does not work.
    pub async fn connect(
        socket: &Path,
        called: Option<String>,
    ) -> Result<(Self, Option<NodeAddr>, Snapshot), Exit> {
        let client = Client::connect(Address::Unix(socket.into()))
            .await
            .map_err(|error| Exit::Lacks {
                what: format!("the Docker Engine does not answer: {error}"),
                how:
                    "start it (systemctl start docker), name its socket with --docker, or use --config FILE \
                  to run without Docker"
                        .into(),
            })?;
        if client.version() < VERSION_MIN {
            return Err(Exit::Lacks {
                what: format!("Docker Engine {} is older than 20.10", client.engine()),
                how: "upgrade the engine".into(),
            });
        }
        let mut watcher = Self {
            client,
            called,
            node: String::new(),
            services: None,
            had_ingress: false,
            doubts: 0,
            memory: Memory::default(),
            last: None,
        };
        let engine = watcher.look().await.map_err(|error| match error {
            LookError::NoSwarm(_) => Exit::Lacks {
                what: "this node's engine is not part of a Swarm".into(),
                how: "docker swarm init, or docker swarm join …, or use --config FILE".into(),
            },
            error => Exit::Lacks {
                what: error.to_string(),
                how: "see the engine's log".into(),
            },
        })?;
        let address = own_address(&engine).and_then(|text| NodeAddr::parse(&text).ok());
        let snapshot = watcher.snapshot(&engine);
        watcher.node.clone_from(&snapshot.node);
        watcher.last = Some(snapshot.clone());
        Ok((watcher, address, snapshot))
    }

    /// The socket.
    pub fn source(&self) -> String {
        self.client.socket().display().to_string()
    }

    /// This node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Looks forever.
    pub async fn run(mut self, put: impl Fn(Report)) {
        let wake = Notify::new();
        let events = self.client.clone();
        tokio::join!(follow_events(events, &wake), async {
            let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
            let mut unreadable = false;
            loop {
                let pause = match self.look().await {
                    Ok(engine) => {
                        backoff.succeeded();
                        let snapshot = self.snapshot(&engine);
                        if unreadable || self.last.as_ref() != Some(&snapshot) {
                            put(Report::Snapshot(snapshot.clone()));
                            self.last = Some(snapshot);
                        }
                        unreadable = false;
                        POLL
                    }
                    Err(error) => {
                        unreadable = true;
                        put(Report::Unreadable(error.to_string()));
                        self.reconnect().await;
                        backoff.failed()
                    }
                };
                if tokio::time::timeout(pause, wake.notified()).await.is_ok() {
                    tokio::time::sleep(DEBOUNCE).await;
                }
            }
        });
    }

    /// The engine that comes back may be another version.
    async fn reconnect(&mut self) {
        let socket: PathBuf = self.client.socket().into();
        if let Ok(client) = Client::connect(Address::Unix(socket)).await {
            self.client = client;
        }
    }

    fn snapshot(&mut self, engine: &Engine) -> Snapshot {
        let mut snapshot = translate(engine);
        self.memory.recall(engine, &mut snapshot, Instant::now());
        snapshot
    }

    async fn look(&mut self) -> Result<Engine, LookError> {
        let mut info = self.client.get("/info").await?;
        let state = info["Swarm"]["LocalNodeState"].as_str().unwrap_or("unknown");
        if state != "active" {
            return Err(LookError::NoSwarm(state.into()));
        }
        if let Some(called) = &self.called {
            info["Name"] = called.as_str().into();
        }
        let networks = self.networks().await?;
        let ingress = networks.iter().any(|network| network["Ingress"] == true);
        if ingress {
            (self.had_ingress, self.doubts) = (true, 0);
        } else if self.had_ingress && self.doubts < DOUBTS_MAX {
            self.doubts += 1;
            return Err(LookError::NoIngress);
        }
        let (containers, host_ports) = self.containers(&networks).await?;
        let manager = info["Swarm"]["ControlAvailable"] == true;
        let (services, running) = if manager {
            self.manager().await
        } else {
            (None, None)
        };
        // What a manager says of a task is more: that it is to leave, before its node has been told.
        let enabled = match &running {
            Some(_) => Enabled::new(),
            None => enabled::ask(&networks, &containers).await,
        };
        Ok(Engine {
            info,
            networks,
            containers,
            host_ports,
            services,
            running,
            enabled,
        })
    }

    async fn networks(&self) -> Result<Vec<Value>, LookError> {
        let list = self
            .client
            .get(&format!(
                "/networks?{}",
                filters(&json!({ "driver": ["overlay"] }))
            ))
            .await?;
        let mut found = Vec::new();
        for network in list
            .as_array()
            .into_iter()
            .flatten()
            .filter(|network| network["Scope"] == "swarm")
        {
            let Some(id) = network["Id"].as_str() else {
                continue;
            };
            match self.client.get(&format!("/networks/{id}?verbose=true")).await {
                Ok(network) => found.push(network),
                Err(error) if gone(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// Containers on overlay networks, of services or not: whoever is attached may use the network's VIPs. And
    /// the node's ports that any container holds.
    async fn containers(
        &self,
        networks: &[Value],
    ) -> Result<(Vec<Container>, BTreeSet<(i64, String)>), LookError> {
        let query = filters(&json!({ "status": ["created", "running", "paused"] }));
        let list = self
            .client
            .get(&format!("/containers/json?all=true&{query}"))
            .await?;
        let mut host_ports = BTreeSet::new();
        let mut found = Vec::new();
        for container in list.as_array().into_iter().flatten() {
            for port in container["Ports"].as_array().into_iter().flatten() {
                if let (Some(port), Some(protocol)) = (port["PublicPort"].as_i64(), port["Type"].as_str()) {
                    host_ports.insert((port, protocol.to_owned()));
                }
            }
            let attached = container["NetworkSettings"]["Networks"]
                .as_object()
                .is_some_and(|of| {
                    of.values()
                        .any(|one| networks.iter().any(|network| network["Id"] == one["NetworkID"]))
                });
            let Some(id) = container["Id"].as_str().filter(|_| attached) else {
                continue;
            };
            match self.client.get(&format!("/containers/{id}/json")).await {
                Ok(inspect) => found.push(Container {
                    netns: netns(&inspect),
                    inspect,
                }),
                Err(error) if gone(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((found, host_ports))
    }

    /// Services and running tasks. A manager without a quorum refuses: then the services as last seen count,
    /// and nothing is said about tasks.
    async fn manager(&mut self) -> (Option<Value>, Option<Value>) {
        match self.client.get("/services").await {
            Ok(services) => self.services = Some(services),
            Err(error) => tracing::debug!(%error, "manager"),
        }
        let query = filters(&json!({ "desired-state": ["running"] }));
        let running = self.client.get(&format!("/tasks?{query}")).await;
        (
            self.services.clone(),
            running
                .inspect_err(|error| tracing::debug!(%error, "manager"))
                .ok(),
        )
    }
}

fn gone(error: &Error) -> bool {
    matches!(
        error,
        Error::Refused {
            status: StatusCode::NOT_FOUND,
            ..
        }
    )
}

/// The namespace of a container. Through its process where there is one, because the engine may keep its
/// namespace files in a mount namespace of its own.
fn netns(inspect: &Value) -> Option<PathBuf> {
    let of_process = inspect["State"]["Pid"]
        .as_u64()
        .filter(|pid| *pid != 0)
        .map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
    let key = inspect["NetworkSettings"]["SandboxKey"]
        .as_str()
        .filter(|key| !key.is_empty());
    match (of_process, key.map(PathBuf::from)) {
        (Some(path), key) => Some(if path.exists() { path } else { key.unwrap_or(path) }),
        (None, key) => key,
    }
}

/// Wakes the watcher at every event. What the event says does not matter.
async fn follow_events(client: Client, wake: &Notify) {
    let query = filters(&json!({ "type": ["container", "network", "service", "node"] }));
    loop {
        if let Ok(mut response) = client.open(&format!("/events?{query}")).await {
            while let Some(Ok(_)) = response.body_mut().frame().await {
                wake.notify_one();
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests;
