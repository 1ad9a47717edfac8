// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands while things go wrong: the tour's services, a published port of go-demo, and a task on every node
//! that asks for go-demo's VIP.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::load::Lane;
use crate::{
    lab::{
        Lab,
        net::{self, CLIENT, NODES, node_address},
        spec,
    },
    tour,
};

/// Replicas of go-demo at the beginning and at the end of every event.
pub const REPLICAS: usize = 5;
/// go-demo's own published port, beside the proxy's.
const PUBLISHED: u16 = 8083;
/// Where go-demo listens.
const TARGET: u16 = 8080;
/// The network that go-demo shares with those who ask for its VIP.
const NETWORK: &str = "go-demo";

/// go-demo with a published port of its own.
pub fn go_demo(replicas: usize) -> spec::Service {
    spec::Service {
        ports: vec![spec::Port {
            published: PUBLISHED,
            target: TARGET,
            protocol: "tcp".to_owned(),
        }],
        replicas,
        ..spec::go_demo()
    }
}

/// Creates everything and waits until it answers.
pub fn create(lab: &mut Lab) -> Result<()> {
    for network in spec::NETWORKS {
        lab.create_network(network)?;
    }
    let database = spec::Service {
        replicas: NODES.len(),
        ..spec::go_demo_db()
    };
    for service in [database, go_demo(REPLICAS), spec::proxy()] {
        let (name, replicas) = (service.name.clone(), service.replicas);
        lab.create_service(service)?;
        lab.wait_running(&name, replicas)?;
    }
    lab.wait_agents()?;
    tour::wait_published(lab)?;
    tour::check_reconfigured(lab)?;
    NODES
        .into_iter()
        .try_for_each(|node| tour::eventually("hello", || tour::check_hello(lab, node).map(|_| ())))
}

/// The client has another address for each node that it enters by. From one address, two connections by two nodes may
/// have the same port (the kernel sees two destinations); a task that both reach takes them for one (docs/services.md,
/// "One client by two nodes"), which is not what the events are about.
fn separate() -> Result<()> {
    let routes: String = (0..NODES.len())
        .map(|index| {
            let own = format!("192.168.99.{}", 11 + index);
            let node = node_address(index);
            format!("addr replace {own}/24 dev eth0\nroute replace {node}/32 dev eth0 src {own}\n")
        })
        .collect();
    net::batch(CLIENT, &routes)
}

/// Brings a lab that has all services to as many tasks as there are here.
pub fn raise(lab: &mut Lab) -> Result<()> {
    lab.scale("go-demo-db", NODES.len())?;
    lab.scale("go-demo", REPLICAS)?;
    lab.wait_agents()
}

/// Every way to go-demo as things stand: through the proxy and through its own port by every node, and to its VIP
/// from a task on every node; each with a connection that is kept and with one per request.
pub fn lanes(lab: &Lab) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    let mut add = |way, node, namespace: &str, address: &str, port| -> Result<()> {
        let target = SocketAddr::new(
            address.parse().with_context(|| format!("address {address}"))?,
            port,
        );
        lanes.extend([true, false].map(|keep| Lane {
            way,
            node,
            keep,
            namespace: namespace.to_owned(),
            target,
        }));
        Ok(())
    };
    separate()?;
    let client = net::namespace_path(CLIENT);
    for (index, node) in NODES.into_iter().enumerate() {
        add("proxy", node, &client, &node_address(index), 80)?;
        add("port", node, &client, &node_address(index), PUBLISHED)?;
    }
    let vip = lab.vip("go-demo", NETWORK)?;
    let askers = lab.tasks("go-demo-db")?;
    for node in NODES {
        // An engine that lost its node may have its task elsewhere since.
        if let Some(task) = askers.iter().find(|task| task.node == node) {
            add("vip", node, &task.namespace, &vip, TARGET)?;
        }
    }
    Ok(lanes)
}

/// A node that can be lost: not the only manager, and not the one with the only proxy, whose loss is another story.
pub fn expendable(lab: &Lab) -> Result<&'static str> {
    let proxies = lab.tasks("proxy")?;
    let candidates = NODES.into_iter().skip(1);
    let mut free = candidates.filter(|node| proxies.iter().all(|task| task.node != *node));
    free.next().context("every worker has a proxy")
}
