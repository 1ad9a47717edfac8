// SPDX-License-Identifier: MIT OR Apache-2.0
//! The services of the tour, for both engines.

use serde::{Deserialize, Serialize};

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub published: u16,
    pub target: u16,
    pub protocol: String,
}

/// A service as `docker service create` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub image: String,
    pub networks: Vec<String>,
    pub ports: Vec<Port>,
    pub env: Vec<(String, String)>,
    pub args: Vec<String>,
    pub replicas: usize,
    /// What is said to Portico of it: labels `portico.KEY`, keys of `portico.toml`.
    #[serde(default)]
    pub policy: Vec<(String, String)>,
}

/// Networks that the tour creates; ingress is there already.
pub const NETWORKS: [&str; 2] = ["proxy", "go-demo"];

/// Replicas of go-demo before it is scaled.
pub const REPLICAS: usize = 3;

fn service(name: &str, image: &str, networks: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        image: image.to_owned(),
        networks: networks.iter().map(|network| (*network).to_owned()).collect(),
        ports: Vec::new(),
        env: Vec::new(),
        args: Vec::new(),
        replicas: 1,
        policy: Vec::new(),
    }
}

fn port(published: u16, target: u16, protocol: &str) -> Port {
    Port {
        published,
        target,
        protocol: protocol.to_owned(),
    }
}

/// The database of go-demo.
pub fn go_demo_db() -> Service {
    service("go-demo-db", "go-demo-db", &["go-demo"])
}

/// The service that everything is about.
pub fn go_demo() -> Service {
    Service {
        env: vec![("DB".to_owned(), "go-demo-db".to_owned())],
        replicas: REPLICAS,
        ..service("go-demo", "vfarcic/go-demo", &["go-demo", "proxy"])
    }
}

/// The L7 proxy.
pub fn proxy() -> Service {
    Service {
        ports: [80, 443, 8080]
            .into_iter()
            .map(|number| port(number, number, "tcp"))
            .collect(),
        env: vec![("MODE".to_owned(), "swarm".to_owned())],
        ..service("proxy", "portico", &["proxy"])
    }
}

/// Not of the tour: published UDP, and a published TCP port that the tests take the backends away from.
pub fn echo() -> Service {
    Service {
        ports: vec![port(8081, 8081, "udp"), port(8082, 8080, "tcp")],
        replicas: 2,
        ..service("echo", "vfarcic/go-demo", &["go-demo"])
    }
}

/// Not of the tour: a service with a policy, on a port of its own, with a task on every node.
pub fn with_policy(name: &str, published: u16, key: &str, value: &str) -> Service {
    Service {
        ports: vec![port(published, 8080, "tcp")],
        replicas: REPLICAS,
        policy: vec![(key.to_owned(), value.to_owned())],
        ..service(name, "vfarcic/go-demo", &["go-demo"])
    }
}
