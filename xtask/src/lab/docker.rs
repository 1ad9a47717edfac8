// SPDX-License-Identifier: MIT OR Apache-2.0
//! Three real Docker engines in the nodes' namespaces, and a Swarm of them.

use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    Engine,
    net::{self, NODES, node_address},
    process::{CONTAINER_CGROUP, Process},
    spec,
    state::{self, State},
};
use crate::{
    cmd, image,
    progress::{Poll, step, wait},
};

/// How long an engine may take to answer.
const ENGINE_START: Duration = Duration::from_secs(60);
/// How long a service may take until all its tasks run.
const CONVERGED: Duration = Duration::from_secs(120);

/// The engine's unix socket.
pub fn socket(node: &str) -> PathBuf {
    state::folder(Engine::Docker).join(node).join("docker.sock")
}

/// The engine's log.
pub fn log(node: &str) -> PathBuf {
    state::folder(Engine::Docker)
        .join("logs")
        .join(format!("dockerd-{node}.log"))
}

/// Docker's client, talking to the engine of a node.
pub fn client(node: &str) -> Command {
    // The distribution's client fits the distribution's engine; a newer one elsewhere in PATH may refuse it.
    let program = if std::path::Path::new("/usr/bin/docker").exists() {
        "/usr/bin/docker"
    } else {
        "docker"
    };
    let mut command = cmd::lab(program);
    for variable in [
        "DOCKER_HOST",
        "DOCKER_CONTEXT",
        "DOCKER_TLS_VERIFY",
        "DOCKER_CERT_PATH",
    ] {
        command.env_remove(variable);
    }
    // The user's own configuration may name registries, credentials and proxies.
    command.env("DOCKER_CONFIG", state::folder(Engine::Docker).join("client"));
    command
        .arg("--host")
        .arg(format!("unix://{}", socket(node).display()));
    command
}

/// Starts the engines, makes the Swarm, imports the images.
pub fn create(state: &mut State) -> Result<()> {
    for node in NODES {
        start_engine(state, node)?;
    }
    NODES.into_iter().try_for_each(|node| wait_engine(state, node))?;
    step("docker swarm init on node-1, join on node-2 and node-3");
    cmd::text(client("node-1").args(["swarm", "init", "--advertise-addr", &node_address(0)]))?;
    let token = cmd::text(client("node-1").args(["swarm", "join-token", "--quiet", "worker"]))?;
    for (index, node) in NODES.iter().enumerate().skip(1) {
        let join = [
            "swarm",
            "join",
            "--token",
            token.trim(),
            "--advertise-addr",
            &node_address(index),
        ];
        cmd::text(client(node).args(join).arg(format!("{}:2377", node_address(0))))?;
    }
    wait_nodes_ready()?;
    import_images()
}

/// Waits until an engine answers.
fn wait_engine(state: &State, node: &str) -> Result<()> {
    let process = &state.processes[&engine_name(node)];
    wait(&format!("engine of {node}"), ENGINE_START, || {
        if !process.is_alive() {
            bail!(
                "the engine of {node} has ended; {} says:\n{}",
                log(node).display(),
                super::tail(&log(node))
            );
        }
        let output = cmd::output(client(node).arg("version"))?;
        let answer = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok(if output.status.success() {
            Poll::Ready(())
        } else {
            Poll::Pending(answer)
        })
    })
}

/// Waits until the manager takes all nodes for ready.
pub fn wait_nodes_ready() -> Result<()> {
    wait("three ready nodes", ENGINE_START, || {
        let nodes =
            cmd::text(client("node-1").args(["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]))?;
        let ready = nodes.lines().filter(|line| line.ends_with("Ready")).count();
        Ok(if ready == NODES.len() {
            Poll::Ready(())
        } else {
            Poll::Pending(nodes.replace('\n', "; "))
        })
    })
}

/// How long an engine may take to stop its containers.
const ENGINE_STOP: Duration = Duration::from_secs(60);

/// Stops a node's engine as its service manager would: its containers end with it.
pub fn stop_engine(state: &State, node: &str) -> Result<()> {
    let process = state.processes.get(&engine_name(node));
    process
        .with_context(|| format!("no engine on {node}"))?
        .stop(ENGINE_STOP)
}

/// Starts an engine that was stopped, with what it had.
pub fn start_engine_again(state: &mut State, node: &str) -> Result<()> {
    start_engine(state, node)?;
    wait_engine(state, node)
}

fn engine_name(node: &str) -> String {
    format!("dockerd {node}")
}

/// Becomes dockerd in a mount namespace of its own with /run/docker to itself and the node's name as its own.
/// (`ip netns exec` would not do: it mounts /sys anew, and dockerd then misses its cgroups.)
const BECOME_ENGINE: &str = "echo $1 > /proc/sys/kernel/hostname; shift; mkdir -p /run/docker; \
    mount -t tmpfs tmpfs /run/docker; exec dockerd \"$@\"";

fn start_engine(state: &mut State, node: &str) -> Result<()> {
    let folder = state::folder(Engine::Docker).join(node);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut command = cmd::lab("nsenter");
    command.arg(format!("--net={}", net::namespace_path(node)));
    command.args([
        "unshare",
        "--mount",
        "--uts",
        "sh",
        "-ec",
        BECOME_ENGINE,
        "sh",
        node,
    ]);
    command.arg("--data-root").arg(folder.join("data"));
    command.arg("--exec-root").arg(folder.join("exec"));
    command.arg("--pidfile").arg(folder.join("dockerd.pid"));
    command
        .arg("--host")
        .arg(format!("unix://{}", socket(node).display()));
    // No file of the machine's own engine is read; containers get a cgroup that `lab down` can find.
    command.arg("--config-file").arg(folder.join("daemon.json"));
    std::fs::write(folder.join("daemon.json"), "{}\n")?;
    command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
    command.arg(format!("--cgroup-parent=/{CONTAINER_CGROUP}"));
    let process = Process::spawn(&mut command, &log(node))?;
    state.processes.insert(engine_name(node), process);
    state.save()
}

fn import_images() -> Result<()> {
    let images = image::make_all(&state::folder(Engine::Docker))?;
    step("import the images into the three engines");
    for (name, tar, entrypoint) in &images {
        for node in NODES {
            let change = format!("ENTRYPOINT {entrypoint}");
            cmd::text(
                client(node)
                    .args(["import", "--change", &change])
                    .arg(tar)
                    .arg(name),
            )?;
        }
    }
    Ok(())
}

// --- services ------------------------------------------------------------------------------------------------

/// `docker network create` as the tour has it.
pub fn network_command(name: &str) -> Vec<String> {
    ["network", "create", "--driver", "overlay", name]
        .map(str::to_owned)
        .to_vec()
}

/// `docker service create` as the tour has it.
pub fn service_command(service: &spec::Service) -> Vec<String> {
    let mut words: Vec<String> = ["service", "create", "--name", &service.name]
        .map(str::to_owned)
        .to_vec();
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    for port in &service.ports {
        let protocol = if port.protocol == "tcp" {
            String::new()
        } else {
            format!("/{}", port.protocol)
        };
        add("-p", format!("{}:{}{protocol}", port.published, port.target));
    }
    for network in &service.networks {
        add("--network", network.clone());
    }
    for (key, value) in &service.env {
        add("-e", format!("{key}={value}"));
    }
    for (key, value) in &service.policy {
        // Managers see the one, nodes with a task the other.
        for flag in ["--label", "--container-label"] {
            add(flag, format!("portico.{key}={value}"));
        }
    }
    if service.replicas != 1 {
        add("--replicas", service.replicas.to_string());
    }
    // The images are on every node and in no registry.
    words.extend(["--detach", "--no-resolve-image"].map(str::to_owned));
    words.push(service.image.clone());
    words.extend(service.args.iter().cloned());
    words
}

/// Waits until as many tasks of a service run as it should have.
pub fn wait_converged(name: &str, replicas: usize) -> Result<()> {
    let wanted = format!("{replicas}/{replicas}");
    let converged = wait(&format!("service {name} with {wanted} tasks"), CONVERGED, || {
        let found =
            cmd::text(client("node-1").args(["service", "ls", "--format", "{{.Name}} {{.Replicas}}"]))?;
        let line = found
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        let shown = line.unwrap_or("no such service").to_owned();
        if shown.split_whitespace().next() != Some(&wanted) {
            return Ok(Poll::Pending(shown));
        }
        // A task that was scaled away is still listed by its engine until it has ended.
        let running = tasks(name)?.len();
        Ok(if running == replicas {
            Poll::Ready(())
        } else {
            Poll::Pending(format!("{running} containers"))
        })
    });
    converged.map_err(|error| {
        let tasks =
            cmd::text(client("node-1").args(["service", "ps", "--no-trunc", name])).unwrap_or_default();
        error.context(tasks)
    })
}

/// How long a rolling update may take.
const UPDATED: Duration = Duration::from_secs(180);

/// Replaces every task of a service, as an update of its image does.
pub fn update(name: &str) -> Result<()> {
    let status = || {
        let format = "{{if .UpdateStatus}}{{.UpdateStatus.State}} {{.UpdateStatus.StartedAt}}{{end}}";
        cmd::text(client("node-1").args(["service", "inspect", "--format", format, name]))
    };
    let before = status()?;
    cmd::text(client("node-1").args(["service", "update", "--force", "--detach", name]))?;
    wait(&format!("update of {name}"), UPDATED, || {
        let now = status()?;
        match now.split_whitespace().next() {
            Some("completed") if now != before => Ok(Poll::Ready(())),
            Some("paused" | "rollback_started" | "rollback_paused") => bail!("the update is {}", now.trim()),
            _ => Ok(Poll::Pending(now.trim().to_owned())),
        }
    })
}

/// How many tasks of a service an engine lists on another node, in the ingress network.
pub fn tasks_listed(engine: &str, service: &str, node: &str) -> Result<usize> {
    let text = cmd::text(client(engine).args(["network", "inspect", "--verbose", "ingress"]))?;
    let networks: Value = serde_json::from_str(&text).context("docker network inspect")?;
    let index = NODES.iter().position(|name| *name == node).unwrap_or_default();
    let address = node_address(index);
    let tasks = networks[0]["Services"][service]["Tasks"].as_array();
    let there = |task: &&Value| task["Info"]["Host IP"] == address.as_str();
    Ok(tasks.into_iter().flatten().filter(there).count())
}

/// A running container of a service.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub node: &'static str,
    pub pid: i32,
    pub hostname: String,
    pub addresses: BTreeMap<String, String>,
}

/// The running containers of a service, on all nodes.
pub fn tasks(name: &str) -> Result<Vec<Container>> {
    let mut containers = Vec::new();
    for node in NODES {
        let label = format!("label=com.docker.swarm.service.name={name}");
        let ids = cmd::text(client(node).args(["ps", "--quiet", "--filter", &label]))?;
        for id in ids.lines() {
            const FORMAT: &str = "{{.Id}} {{.Name}} {{.State.Pid}} {{.Config.Hostname}}\
                {{range $name, $network := .NetworkSettings.Networks}} {{$name}}={{$network.IPAddress}}{{end}}";
            // A container may end between the list and the look at it.
            let Ok(line) = cmd::text(client(node).args(["inspect", "--format", FORMAT, id])) else {
                continue;
            };
            containers.extend(parse_container(node, &line));
        }
    }
    Ok(containers)
}

fn parse_container(node: &'static str, line: &str) -> Option<Container> {
    let mut words = line.split_whitespace();
    let id = words.next()?.to_owned();
    let name = words.next()?.trim_start_matches('/').to_owned();
    let pid = words.next()?.parse().ok().filter(|pid| *pid != 0)?;
    let hostname = words.next()?.to_owned();
    let addresses = words
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    Some(Container {
        id,
        name,
        node,
        pid,
        hostname,
        addresses: addresses.collect(),
    })
}

/// Lines of a task's log that are looked at.
const LOG_LINES: &str = "2000";

/// What the running tasks of a service have printed lately, from their own engines: `docker service logs` asks
/// the manager to collect it from all nodes, and may wait for one without end.
pub fn service_log(name: &str) -> Result<String> {
    let mut log = String::new();
    for container in tasks(name)? {
        let output = cmd::output(client(container.node).args(["logs", "--tail", LOG_LINES, &container.id]))?;
        log += &super::text_of(&output);
    }
    Ok(log)
}

/// A service's VIP on a network.
pub fn vip(service: &str, network: &str) -> Result<String> {
    let id = cmd::text(client("node-1").args(["network", "inspect", "--format", "{{.ID}}", network]))?;
    const FORMAT: &str = "{{range .Endpoint.VirtualIPs}}{{.NetworkID}} {{.Addr}}\n{{end}}";
    let vips = cmd::text(client("node-1").args(["service", "inspect", "--format", FORMAT, service]))?;
    let line = vips.lines().find_map(|line| line.strip_prefix(id.trim()));
    let address = line
        .and_then(|rest| rest.trim().split('/').next())
        .filter(|address| !address.is_empty());
    address
        .map(str::to_owned)
        .with_context(|| format!("service {service} has no VIP on {network}: {vips}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_created_as_the_article_does() {
        assert_eq!(
            service_command(&spec::proxy()).join(" "),
            "service create --name proxy -p 80:80 -p 443:443 -p 8080:8080 --network proxy -e MODE=swarm \
             --detach --no-resolve-image portico"
        );
    }

    #[test]
    fn a_container_that_has_ended_has_no_pid_and_is_none() {
        let line = "f00d /go-demo.1.abc 4711 f00 go-demo=10.0.2.3 ingress=10.0.0.4";
        let container = parse_container("node-1", line).unwrap();
        assert_eq!((container.name.as_str(), container.pid), ("go-demo.1.abc", 4711));
        assert_eq!(container.addresses["ingress"], "10.0.0.4");
        assert!(parse_container("node-1", "f00d /go-demo.1.abc 0 f00").is_none());
    }
}
