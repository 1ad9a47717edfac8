// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab's LAN: a bridge in a namespace of its own, node and client namespaces on it.
//!
//! Nothing of it touches the machine's own namespace: no interface, no route, no address.

use anyhow::{Context as _, Result};

use crate::cmd;

/// Every network namespace of a lab begins with this, so that they are found after a crash.
pub const PREFIX: &str = "plab-";
/// Nodes of a lab.
pub const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// The machine outside the cluster that asks.
pub const CLIENT: &str = "client";
/// Its address on the LAN.
pub const CLIENT_ADDRESS: &str = "192.168.99.10";

/// A node's address on the LAN; `index` is its place in [`NODES`].
pub fn node_address(index: usize) -> String {
    format!("192.168.99.{}", 101 + index)
}

/// The namespace of a node, the client, a task or an overlay.
pub fn namespace(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Where `ip netns` keeps the namespace.
pub fn namespace_path(name: &str) -> String {
    format!("/run/netns/{PREFIX}{name}")
}

/// `/etc/hosts` of client and nodes: the article's names.
pub fn hosts() -> String {
    let mut hosts = "127.0.0.1 localhost\n".to_owned();
    for (index, node) in NODES.iter().enumerate() {
        hosts += &format!("{} {node}\n", node_address(index));
    }
    hosts
}

/// Makes the LAN with all nodes and the client on it.
pub fn create_lan() -> Result<()> {
    add_namespace("lan")?;
    // Snooping would add a querier delay and floods of its own; STP is off by default.
    batch(
        "lan",
        "link add br-lan type bridge mcast_snooping 0\nlink set br-lan up\n",
    )?;
    let addresses = (0..NODES.len())
        .map(node_address)
        .chain([CLIENT_ADDRESS.to_owned()]);
    for (name, address) in NODES.into_iter().chain([CLIENT]).zip(addresses) {
        add_namespace(name)?;
        let port = format!("p-{name}");
        batch(
            "lan",
            &format!(
                "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br-lan up\n",
                namespace(name)
            ),
        )?;
        batch(
            name,
            &format!("addr add {address}/24 dev eth0\nlink set eth0 up\n"),
        )?;
    }
    for node in NODES {
        // A node forwards for its tasks; a namespace does not inherit this from the machine.
        inside(node, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
    }
    Ok(())
}

/// Pulls a node's cable, or puts it back.
pub fn set_link(node: &str, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    batch("lan", &format!("link set p-{node} {state}\n"))
}

/// Adds a namespace with its loopback up.
pub fn add_namespace(name: &str) -> Result<()> {
    cmd::text(cmd::lab("ip").args(["netns", "add", &namespace(name)]))?;
    batch(name, "link set lo up\n")
}

/// Removes a namespace that is there.
pub fn delete_namespace(full_name: &str) -> Result<()> {
    cmd::text(cmd::lab("ip").args(["netns", "del", full_name])).map(|_| ())
}

/// Every namespace of any lab, full names.
pub fn namespaces() -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Ok(Vec::new());
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<_>, _>>().context("/run/netns")?;
    Ok(names
        .into_iter()
        .filter(|name| name.starts_with(PREFIX))
        .collect())
}

/// Runs `ip` commands inside a namespace; the first that fails ends it.
pub fn batch(name: &str, commands: &str) -> Result<()> {
    cmd::feed(
        cmd::lab("ip").args(["-n", &namespace(name), "-batch", "-"]),
        commands,
    )
}

/// Runs a program inside a namespace and returns what it printed.
pub fn inside(name: &str, program: &[&str]) -> Result<String> {
    cmd::text(
        cmd::lab("nsenter")
            .arg(format!("--net={}", namespace_path(name)))
            .args(program),
    )
}
