// SPDX-License-Identifier: MIT OR Apache-2.0
//! The embedded cluster: Swarm's topology without Docker.
//!
//! As on a Swarm node, each network has an overlay namespace of its own per node (bridge and VXLAN), a task has
//! one interface per network and one to the node's gateway bridge, which is its way out. Tasks are processes in
//! namespaces; the agents read what runs where from `portico.toml`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    Engine,
    net::{self, NODES, node_address},
    process::Process,
    spec,
    state::{self, State, write_atomically},
};
use crate::{
    cmd, paths,
    progress::{Poll, wait},
};

pub mod trouble;

/// Networks with their first three octets, in order of their VXLAN network identifiers.
const NETWORKS: [(&str, &str); 3] = [("ingress", "10.0.0"), ("proxy", "10.0.1"), ("go-demo", "10.0.2")];
/// Swarm's first VXLAN network identifier.
const FIRST_VNI: usize = 4096;
/// What VXLAN over IPv4 leaves of 1500.
const OVERLAY_MTU: usize = 1450;
/// Docker's docker_gwbridge has this subnet; the same on every node.
const GATEWAY_PREFIX: &str = "172.18.0";
/// How long a task may take to end when it is removed.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long a task may take until it listens, on a busy machine.
const LISTENING: Duration = Duration::from_secs(15);

/// What runs in the embedded cluster.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Cluster {
    pub services: Vec<Service>,
    /// Last host number given out, per network and per node's gateway bridge.
    last_address: BTreeMap<String, u8>,
    /// The node that the cluster takes for dead: its tasks are in no file, and its own file stays as it is.
    #[serde(default)]
    lost: Option<String>,
}

/// A service with what the cluster gave it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Service {
    pub spec: spec::Service,
    pub vips: BTreeMap<String, String>,
    pub tasks: Vec<Task>,
}

/// A replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub name: String,
    slot: usize,
    pub node: String,
    pub networks: BTreeMap<String, String>,
    gateway_address: String,
    draining: bool,
    process: Option<Process>,
}

impl Task {
    /// Its namespace, without the lab's prefix.
    pub fn namespace(&self) -> String {
        format!("t-{}", self.name.replace('.', "-"))
    }

    /// Its output.
    pub fn log(&self) -> PathBuf {
        state::folder(Engine::Embedded)
            .join("logs")
            .join(format!("task-{}.log", self.name))
    }

    fn folder(&self) -> PathBuf {
        state::folder(Engine::Embedded).join("tasks").join(&self.name)
    }
}

impl Cluster {
    fn service(&mut self, name: &str) -> Result<&mut Service> {
        self.services
            .iter_mut()
            .find(|service| service.spec.name == name)
            .with_context(|| format!("no service {name}"))
    }

    fn next_address(&mut self, of: &str, prefix: &str) -> Result<String> {
        let last = self.last_address.entry(of.to_owned()).or_insert(1);
        *last = last
            .checked_add(1)
            .filter(|host| *host < 255)
            .with_context(|| format!("{of} has no address left"))?;
        Ok(format!("{prefix}.{last}"))
    }

    /// The node with the fewest tasks of the service, then with the fewest tasks at all, as Swarm spreads them.
    fn place(&self, service: &str) -> &'static str {
        let load = |node: &str, of: Option<&str>| {
            let services = self
                .services
                .iter()
                .filter(|service| of.is_none_or(|name| service.spec.name == name));
            services
                .flat_map(|service| &service.tasks)
                .filter(|task| task.node == node && !task.draining)
                .count()
        };
        let least = NODES
            .into_iter()
            .min_by_key(|node| (load(node, Some(service)), load(node, None)));
        least.unwrap_or(NODES[0])
    }
}

fn prefix(network: &str) -> Result<&'static str> {
    let found = NETWORKS.iter().find(|(name, _)| *name == network);
    found
        .map(|(_, prefix)| *prefix)
        .with_context(|| format!("no network {network}"))
}

// --- the nodes -----------------------------------------------------------------------------------------------

/// Makes gateway bridges and overlays on every node.
pub fn create() -> Result<()> {
    for node in NODES {
        net::batch(
            node,
            &format!(
                "link add gwbr type bridge mcast_snooping 0\naddr add {GATEWAY_PREFIX}.1/16 dev gwbr\nlink set gwbr up\n"
            ),
        )?;
        // What a task sends out leaves with the node's address, as behind docker_gwbridge.
        let masquerade = format!(
            "table ip lab {{\n chain out {{\n  type nat hook postrouting priority srcnat;\n  \
             ip saddr {GATEWAY_PREFIX}.0/16 oifname != \"gwbr\" masquerade\n }}\n}}\n"
        );
        cmd::feed(
            cmd::lab("nsenter")
                .arg(format!("--net={}", net::namespace_path(node)))
                .args(["nft", "-f", "-"]),
            &masquerade,
        )?;
        for (index, (network, prefix)) in NETWORKS.iter().enumerate() {
            create_overlay(node, network, prefix, FIRST_VNI + index)?;
        }
    }
    Ok(())
}

fn create_overlay(node: &str, network: &str, prefix: &str, vni: usize) -> Result<()> {
    let overlay = overlay_namespace(node, network);
    net::add_namespace(&overlay)?;
    let own = NODES.iter().position(|name| *name == node).unwrap_or_default();
    // Made in the node's namespace and then moved, as dockerd does: the UDP socket stays with the node.
    net::batch(
        node,
        &format!(
            "link add vx{vni} type vxlan id {vni} dstport 4789 local {}\nlink set vx{vni} netns {} name vxlan0\n",
            node_address(own),
            net::namespace(&overlay)
        ),
    )?;
    net::batch(
        &overlay,
        &format!(
            "link add br0 type bridge mcast_snooping 0\nlink set vxlan0 mtu {OVERLAY_MTU} master br0\n\
             addr add {prefix}.1/24 dev br0\nlink set vxlan0 up\nlink set br0 up\n"
        ),
    )?;
    // Unknown destinations go to every other node; learning does the rest.
    for other in (0..NODES.len()).filter(|other| *other != own) {
        let arguments = ["fdb", "append", "00:00:00:00:00:00", "dev", "vxlan0", "dst"];
        cmd::text(
            cmd::lab("bridge")
                .args(["-n", &net::namespace(&overlay)])
                .args(arguments)
                .arg(node_address(other)),
        )?;
    }
    Ok(())
}

fn overlay_namespace(node: &str, network: &str) -> String {
    format!("ov-{node}-{network}")
}

// --- services ------------------------------------------------------------------------------------------------

/// Creates a service: addresses, tasks, processes, then the agents' files.
pub fn create_service(state: &mut State, spec: spec::Service) -> Result<()> {
    if state
        .cluster
        .services
        .iter()
        .any(|service| service.spec.name == spec.name)
    {
        bail!("service {} exists", spec.name);
    }
    let mut vips = BTreeMap::new();
    for network in &spec.networks {
        vips.insert(
            network.clone(),
            state.cluster.next_address(network, prefix(network)?)?,
        );
    }
    let (name, replicas) = (spec.name.clone(), spec.replicas);
    state.cluster.services.push(Service {
        spec,
        vips,
        tasks: Vec::new(),
    });
    scale(state, &name, replicas)
}

/// Starts or removes tasks until there are `replicas`.
pub fn scale(state: &mut State, name: &str, replicas: usize) -> Result<()> {
    let running = state.cluster.service(name)?.tasks.len();
    for _ in running..replicas {
        let task = new_task(&mut state.cluster, name)?;
        state.cluster.service(name)?.tasks.push(task);
    }
    // Names first: a task finds every other task in its hosts file from its first line on.
    write_hosts(&state.cluster)?;
    let mut started: Vec<Task> = state
        .cluster
        .service(name)?
        .tasks
        .iter()
        .skip(running)
        .cloned()
        .collect();
    for task in &mut started {
        start_again(state, name, task)?;
    }
    started.iter().try_for_each(wait_listening)?;
    let service = state.cluster.service(name)?;
    let surplus: Vec<String> = service
        .tasks
        .iter()
        .skip(replicas)
        .map(|task| task.name.clone())
        .collect();
    remove_tasks(state, name, &surplus)?;
    state.save()?;
    write_config(&state.cluster)
}

/// Starts a task's process and remembers it.
fn start_again(state: &mut State, service: &str, task: &mut Task) -> Result<()> {
    task.process = Some(start_task(&state.cluster, service, task)?);
    let tasks = &mut state.cluster.service(service)?.tasks;
    if let Some(known) = tasks.iter_mut().find(|known| known.name == task.name) {
        known.process.clone_from(&task.process);
    }
    state.save()
}

/// Nobody is sent to a task before it can answer: an orchestrator knows that by its health check, the lab by looking.
fn wait_listening(task: &Task) -> Result<()> {
    /// The state of a listening socket in proc_net_tcp(5), the fourth field.
    const LISTEN: &str = "0A";
    wait(&format!("{} listens", task.name), LISTENING, || {
        if task.process.as_ref().is_some_and(|process| !process.is_alive()) {
            bail!("{} has ended: {}", task.name, super::tail(&task.log()));
        }
        let sockets = net::inside(&task.namespace(), &["cat", "/proc/net/tcp", "/proc/net/tcp6"])?;
        let listens = |line: &str| line.split_whitespace().nth(3) == Some(LISTEN);
        Ok(if sockets.lines().any(listens) {
            Poll::Ready(())
        } else {
            Poll::Pending("nothing listens".to_owned())
        })
    })
}

/// Takes tasks away in the order in which Swarm does: no new flows, then told to end, then gone for the agents.
fn remove_tasks(state: &mut State, name: &str, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let chosen = |task: &Task| names.contains(&task.name);
    for task in &mut state.cluster.service(name)?.tasks {
        task.draining |= chosen(task);
    }
    write_config(&state.cluster)?;
    write_hosts(&state.cluster)?;
    let tasks = &state.cluster.service(name)?.tasks;
    let leaving: Vec<Task> = tasks.iter().filter(|task| chosen(task)).cloned().collect();
    let processes = || leaving.iter().filter_map(|task| task.process.as_ref());
    // All are told before one is waited for.
    processes().for_each(|process| process.signal(libc::SIGTERM));
    processes().try_for_each(|process| process.stop(STOP_GRACE))?;
    state.cluster.service(name)?.tasks.retain(|task| !chosen(task));
    write_config(&state.cluster)?;
    leaving
        .iter()
        .try_for_each(|task| net::delete_namespace(&net::namespace(&task.namespace())))
}

fn new_task(cluster: &mut Cluster, name: &str) -> Result<Task> {
    let node = cluster.place(name).to_owned();
    let service = cluster.service(name)?;
    let slot = (1..)
        .find(|slot| service.tasks.iter().all(|task| task.slot != *slot))
        .unwrap_or(1);
    let mut networks = service.spec.networks.clone();
    if !service.spec.ports.is_empty() {
        networks.push("ingress".to_owned());
    }
    let mut addresses = BTreeMap::new();
    for network in networks {
        let address = cluster.next_address(&network, prefix(&network)?)?;
        addresses.insert(network, address);
    }
    let gateway_address = cluster.next_address(&format!("gateway of {node}"), GATEWAY_PREFIX)?;
    let task = Task {
        name: format!("{name}.{slot}"),
        slot,
        node,
        networks: addresses,
        gateway_address,
        draining: false,
        process: None,
    };
    connect(&task)?;
    Ok(task)
}

/// Makes the task's namespace with an interface per network and one to the gateway bridge.
fn connect(task: &Task) -> Result<()> {
    let namespace = task.namespace();
    net::add_namespace(&namespace)?;
    let mut inside = String::new();
    for (index, (network, address)) in task.networks.iter().enumerate() {
        let overlay = overlay_namespace(&task.node, network);
        let peer = format!("veth{}", last_octet(address));
        let mac = mac(address)?;
        writeln!(
            inside,
            "link add eth{index} mtu {OVERLAY_MTU} address {mac} type veth peer name {peer} mtu {OVERLAY_MTU} netns {}",
            net::namespace(&overlay)
        )?;
        writeln!(
            inside,
            "addr add {address}/24 dev eth{index}\nlink set eth{index} up"
        )?;
    }
    let (index, gateway) = (task.networks.len(), &task.gateway_address);
    let peer = format!("vg{}", last_octet(gateway));
    writeln!(
        inside,
        "link add eth{index} address {} type veth peer name {peer} netns {}",
        mac(gateway)?,
        net::namespace(&task.node)
    )?;
    writeln!(
        inside,
        "addr add {gateway}/16 dev eth{index}\nlink set eth{index} up"
    )?;
    // The other ends first, or the route below has no carrier to go by.
    let (links, rest): (Vec<&str>, Vec<&str>) = inside.lines().partition(|line| line.starts_with("link add"));
    net::batch(&namespace, &(links.join("\n") + "\n"))?;
    for (network, address) in &task.networks {
        let peer = format!("veth{}", last_octet(address));
        net::batch(
            &overlay_namespace(&task.node, network),
            &format!("link set {peer} master br0\nlink set {peer} up\n"),
        )?;
    }
    net::batch(
        &task.node,
        &format!("link set {peer} master gwbr\nlink set {peer} up\n"),
    )?;
    net::batch(
        &namespace,
        &format!("{}\nroute add default via {GATEWAY_PREFIX}.1\n", rest.join("\n")),
    )
}

fn last_octet(address: &str) -> &str {
    address.rsplit('.').next().unwrap_or(address)
}

/// Docker's way: `02:42:` and the four bytes of the address.
fn mac(address: &str) -> Result<String> {
    let address: std::net::Ipv4Addr = address.parse().with_context(|| format!("address {address}"))?;
    let [a, b, c, d] = address.octets();
    Ok(format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
}

fn start_task(cluster: &Cluster, name: &str, task: &Task) -> Result<Process> {
    let service = cluster
        .services
        .iter()
        .find(|service| service.spec.name == name)
        .context("service")?;
    let folder = task.folder();
    let state_folder = folder.join("state");
    fs::create_dir_all(&state_folder).with_context(|| state_folder.display().to_string())?;
    fs::write(
        folder.join("resolv.conf"),
        "nameserver 127.0.0.11\noptions timeout:1 attempts:1\n",
    )?;
    let mut command = cmd::lab("nsenter");
    command.arg(format!("--net={}", net::namespace_path(&task.namespace())));
    command
        .args(["unshare", "--mount", "sh", "-ec", PRIVATE_ETC, "sh"])
        .arg(&folder);
    match service.spec.image.as_str() {
        "portico" => command
            .arg(paths::binary("portico"))
            .arg("proxy")
            .arg("--state")
            .arg(&state_folder),
        "go-demo-db" => command.arg(paths::binary("go-demo")).arg("db"),
        _ => command.arg(paths::binary("go-demo")),
    };
    command.args(&service.spec.args).env("HOSTNAME", &task.name);
    command.envs(service.spec.env.iter().map(|(key, value)| (key, value)));
    Process::spawn(&mut command, &task.log())
}

/// Gives a process its own hosts and resolv.conf (`$1` is the folder with them), then becomes it.
const PRIVATE_ETC: &str = "folder=$1; shift; for file in hosts resolv.conf; do \
    if [ -e /etc/$file ]; then mount --bind $folder/$file /etc/$file; fi; done; exec \"$@\"";

/// Writes what Docker's DNS would answer: a service's name is its VIP on a network that both are in.
fn write_hosts(cluster: &Cluster) -> Result<()> {
    for task in cluster.services.iter().flat_map(|service| &service.tasks) {
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for service in &cluster.services {
            let shared = service
                .vips
                .iter()
                .find(|(network, _)| task.networks.contains_key(*network));
            let Some((network, vip)) = shared else { continue };
            writeln!(hosts, "{vip} {}", service.spec.name)?;
            for address in service
                .tasks
                .iter()
                .filter(|other| !other.draining)
                .filter_map(|other| other.networks.get(network))
            {
                writeln!(hosts, "{address} tasks.{}", service.spec.name)?;
            }
        }
        fs::create_dir_all(task.folder())?;
        // In place, not by rename: the file is bind-mounted into the task.
        fs::write(task.folder().join("hosts"), hosts)?;
    }
    Ok(())
}

// --- the agents' files ---------------------------------------------------------------------------------------

/// Writes `portico.toml` of every node.
pub fn write_config(cluster: &Cluster) -> Result<()> {
    for node in NODES {
        if cluster.lost.as_deref() == Some(node) {
            continue;
        }
        let folder = state::folder(Engine::Embedded).join(node);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        write_atomically(&folder.join("portico.toml"), config(cluster, node)?.as_bytes())?;
    }
    Ok(())
}

fn config(cluster: &Cluster, node: &str) -> Result<String> {
    let mut toml = format!("node = \"{node}\"\n");
    for (index, name) in NODES.iter().enumerate() {
        write!(
            toml,
            "\n[[nodes]]\nname = \"{name}\"\naddress = \"{}\"\n",
            node_address(index)
        )?;
    }
    for (network, _) in NETWORKS {
        write!(toml, "\n[[networks]]\nname = \"{network}\"\n")?;
    }
    let there = |task: &&Task| cluster.lost.as_ref() != Some(&task.node);
    for service in &cluster.services {
        for task in service.tasks.iter().filter(there) {
            write!(
                toml,
                "\n[[tasks]]\nname = \"{}\"\nnode = \"{}\"\n",
                task.name, task.node
            )?;
            writeln!(toml, "netns = \"{}\"", net::namespace_path(&task.namespace()))?;
            writeln!(
                toml,
                "networks = {}\ndraining = {}",
                inline(&task.networks),
                task.draining
            )?;
        }
    }
    for service in &cluster.services {
        let ports = service.spec.ports.iter().map(|port| {
            format!(
                "{{ published = {}, target = {}, protocol = \"{}\" }}",
                port.published, port.target, port.protocol
            )
        });
        let tasks = service.tasks.iter().filter(there);
        let tasks = tasks.map(|task| format!("\"{}\"", task.name));
        write!(
            toml,
            "\n[[services]]\nname = \"{}\"\nvips = {}\n",
            service.spec.name,
            inline(&service.vips)
        )?;
        writeln!(toml, "ports = [{}]", ports.collect::<Vec<_>>().join(", "))?;
        writeln!(toml, "tasks = [{}]", tasks.collect::<Vec<_>>().join(", "))?;
        for (key, value) in &service.spec.policy {
            writeln!(toml, "{key} = \"{value}\"")?;
        }
    }
    Ok(toml)
}

fn inline(table: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = table
        .iter()
        .map(|(key, value)| format!("{key} = \"{value}\""))
        .collect();
    format!("{{ {} }}", pairs.join(", "))
}

/// Tasks whose process has ended, with the end of what they printed.
pub fn dead_tasks(cluster: &Cluster) -> Vec<String> {
    let tasks = cluster.services.iter().flat_map(|service| &service.tasks);
    let dead = tasks.filter(|task| !task.process.as_ref().is_some_and(Process::is_alive));
    dead.map(|task| format!("{}: {}", task.name, super::tail(&task.log())))
        .collect()
}

/// The embedded cluster's folders.
pub fn create_folders(base: &Path) -> Result<()> {
    for node in NODES {
        fs::create_dir_all(base.join(node)).with_context(|| base.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_spread_over_the_nodes() {
        let mut cluster = Cluster::default();
        cluster.services.push(Service {
            spec: spec::go_demo(),
            vips: BTreeMap::new(),
            tasks: Vec::new(),
        });
        for slot in 1..=5 {
            let node = cluster.place("go-demo").to_owned();
            let task = Task {
                name: format!("go-demo.{slot}"),
                slot,
                node,
                networks: BTreeMap::from([("proxy".to_owned(), format!("10.0.1.{slot}"))]),
                gateway_address: String::new(),
                draining: false,
                process: None,
            };
            cluster.services[0].tasks.push(task);
        }
        let count = |node: &str| {
            cluster.services[0]
                .tasks
                .iter()
                .filter(|task| task.node == node)
                .count()
        };
        assert_eq!(NODES.map(count), [2, 2, 1]);
    }

    #[test]
    fn addresses_begin_after_the_gateway_and_end() {
        let mut cluster = Cluster::default();
        assert_eq!(cluster.next_address("proxy", "10.0.1").unwrap(), "10.0.1.2");
        assert_eq!(cluster.next_address("proxy", "10.0.1").unwrap(), "10.0.1.3");
        cluster.last_address.insert("proxy".to_owned(), 254);
        assert!(cluster.next_address("proxy", "10.0.1").is_err());
    }

    #[test]
    fn a_mac_is_derived_from_the_address() {
        assert_eq!(mac("10.0.1.200").unwrap(), "02:42:0a:00:01:c8");
    }

    #[test]
    fn the_file_names_node_services_and_ports() {
        let mut cluster = Cluster::default();
        let vips = BTreeMap::from([("proxy".to_owned(), "10.0.1.2".to_owned())]);
        cluster.services.push(Service {
            spec: spec::proxy(),
            vips,
            tasks: Vec::new(),
        });
        let toml = config(&cluster, "node-2").unwrap();
        assert!(toml.starts_with("node = \"node-2\"\n"), "{toml}");
        assert!(toml.contains("vips = { proxy = \"10.0.1.2\" }"), "{toml}");
        assert!(
            toml.contains("{ published = 443, target = 443, protocol = \"tcp\" }"),
            "{toml}"
        );
    }
}
