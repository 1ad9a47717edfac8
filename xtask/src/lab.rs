// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask lab`: three nodes on this machine, to play with and to test on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    build, cmd,
    progress::{Poll, step, wait},
    signals,
};

pub mod agent;
pub mod docker;
pub mod down;
pub mod embedded;
pub mod net;
pub mod process;
pub mod spec;
pub mod state;

use net::NODES;
use state::State;

/// Who runs the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Processes in namespaces; no Docker
    Embedded,
    /// Three real Docker engines
    Docker,
}

impl Engine {
    /// As on the command line and in paths.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Embedded => "embedded",
            Engine::Docker => "docker",
        }
    }
}

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Make the nodes, start agents and the tour's services
    Up {
        #[arg(long, value_enum, default_value = "embedded")]
        engine: Engine,
        /// Without node agents: published ports and VIPs answer nothing, the rest works
        #[arg(long)]
        no_agent: bool,
    },
    /// Remove everything, also what a crashed run left
    Down {
        /// Only if it is this lab that stands
        #[arg(long, value_enum)]
        engine: Option<Engine>,
    },
    /// Run a command on node-1, node-2, node-3, client, or in a task (go-demo.1)
    Exec {
        node: String,
        #[arg(long, value_enum)]
        engine: Option<Engine>,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Change the number of a service's tasks: go-demo=5
    Scale {
        #[arg(value_name = "SERVICE=N")]
        change: String,
        #[arg(long, value_enum)]
        engine: Option<Engine>,
    },
    /// What stands
    Status {
        #[arg(long, value_enum)]
        engine: Option<Engine>,
    },
}

/// Runs the verb.
pub fn run(verb: &Verb) -> Result<u8> {
    if let Verb::Up { .. } = verb
        && std::env::var_os(PREPARED).is_none()
    {
        build::binaries()?;
    }
    if !cmd::is_root() {
        let words: Vec<String> = std::env::args().skip(1).collect();
        return cmd::again_as_root(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    signals::install();
    match verb {
        Verb::Up { engine, no_agent } => up_or_clean(*engine, *no_agent).map(|()| 0),
        Verb::Down { engine } => down::down(*engine).map(|()| 0),
        Verb::Exec {
            node,
            engine,
            command,
        } => exec(node, *engine, command),
        Verb::Scale { change, engine } => {
            let (name, replicas) = change
                .split_once('=')
                .context("SERVICE=N, for example go-demo=5")?;
            Lab::standing(*engine)?
                .scale(name, replicas.parse().context("N is a number")?)
                .map(|()| 0)
        }
        Verb::Status { engine } => status(*engine),
    }
}

/// Set for the part that runs as root: what it needs was built by the user.
pub const PREPARED: &str = "PORTICO_XTASK_PREPARED";

fn up_or_clean(engine: Engine, no_agent: bool) -> Result<()> {
    refuse_second()?;
    let built = Lab::up(engine, no_agent).and_then(|mut lab| {
        for network in spec::NETWORKS {
            lab.create_network(network)?;
        }
        let mut services = vec![spec::go_demo_db(), spec::go_demo()];
        if !no_agent {
            // Nothing could reach it without them.
            services.push(spec::proxy());
        }
        for service in services {
            let (name, replicas) = (service.name.clone(), service.replicas);
            lab.create_service(service)?;
            lab.wait_running(&name, replicas)?;
        }
        if !no_agent {
            lab.wait_agents()?;
        }
        Ok(())
    });
    if let Err(error) = built {
        step("failed; removing what was made (logs are lost, run again with `demo --keep` to look at them)");
        signals::uninterrupted(|| down::down(None))?;
        return Err(error);
    }
    step(format!(
        "the {} lab is up; try: cargo xtask lab exec client -- curl -i node-1/demo/hello",
        engine.name()
    ));
    Ok(())
}

/// There is one lab at a time: both kinds have the same names and addresses.
pub fn refuse_second() -> Result<()> {
    if let Some(standing) = State::load(None)? {
        bail!(
            "the {} lab is up; `cargo xtask lab down` removes it",
            standing.engine.name()
        );
    }
    Ok(())
}

/// A lab that stands.
pub struct Lab {
    pub state: State,
}

/// A running task.
pub struct Task {
    pub name: String,
    pub node: String,
    /// Its network namespace, as a path.
    pub namespace: String,
    /// What it calls itself.
    pub hostname: String,
    pub addresses: std::collections::BTreeMap<String, String>,
}

impl Lab {
    /// Makes nodes, engines and agents, without services.
    pub fn up(engine: Engine, no_agent: bool) -> Result<Lab> {
        if let Some(standing) = State::load(None)? {
            bail!(
                "the {} lab is up; `cargo xtask lab down` removes it",
                standing.engine.name()
            );
        }
        let base = state::folder(engine);
        let logs = base.join("logs");
        fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let mut state = State::new(engine);
        state.save()?;
        step("namespaces: a LAN, node-1, node-2, node-3, and a client");
        net::create_lan()?;
        fs::write(base.join("hosts"), net::hosts())?;
        match engine {
            Engine::Embedded => {
                step("overlays and gateway bridges");
                embedded::create_folders(&base)?;
                embedded::create()?;
                embedded::write_config(&state.cluster)?;
            }
            Engine::Docker => {
                step("three Docker engines");
                docker::create(&mut state)?;
            }
        }
        let mut lab = Lab { state };
        if !no_agent {
            step("node agents");
            // After the engines: their private copies of the mount table must not keep it alive.
            mount_bpffs(&base.join("bpffs"))?;
            agent::start_all(&mut lab.state)?;
        }
        Ok(lab)
    }

    /// The lab that another run has left standing.
    pub fn standing(engine: Option<Engine>) -> Result<Lab> {
        let state = State::load(engine)?.context("no lab is up; `cargo xtask lab up` makes one")?;
        Ok(Lab { state })
    }

    /// `docker network create`; the embedded cluster has its networks from the start.
    pub fn create_network(&mut self, name: &str) -> Result<()> {
        match self.state.engine {
            Engine::Embedded => Ok(()),
            Engine::Docker => {
                cmd::text(docker::client("node-1").args(docker::network_command(name))).map(|_| ())
            }
        }
    }

    /// Creates a service, without waiting for its tasks.
    pub fn create_service(&mut self, service: spec::Service) -> Result<()> {
        step(format!(
            "service {} with {} task(s)",
            service.name, service.replicas
        ));
        match self.state.engine {
            Engine::Embedded => embedded::create_service(&mut self.state, service),
            Engine::Docker => {
                cmd::text(docker::client("node-1").args(docker::service_command(&service))).map(|_| ())
            }
        }
    }

    /// Waits until a service has as many running tasks as it should.
    pub fn wait_running(&self, name: &str, replicas: usize) -> Result<()> {
        match self.state.engine {
            Engine::Docker => docker::wait_converged(name, replicas),
            Engine::Embedded => wait(
                &format!("{replicas} tasks of {name}"),
                Duration::from_secs(10),
                || {
                    let dead = embedded::dead_tasks(&self.state.cluster);
                    if !dead.is_empty() {
                        bail!("tasks that have ended:\n{}", dead.join("\n"));
                    }
                    let running = self.tasks(name)?.len();
                    Ok(if running == replicas {
                        Poll::Ready(())
                    } else {
                        Poll::Pending(format!("{running}"))
                    })
                },
            ),
        }
    }

    /// Scales a service and waits until its tasks run.
    pub fn scale(&mut self, name: &str, replicas: usize) -> Result<()> {
        match self.state.engine {
            Engine::Embedded => embedded::scale(&mut self.state, name, replicas)?,
            Engine::Docker => {
                let change = format!("{name}={replicas}");
                cmd::text(docker::client("node-1").args(["service", "scale", "--detach", &change]))?;
            }
        }
        self.wait_running(name, replicas)
    }

    /// The running tasks of a service.
    pub fn tasks(&self, name: &str) -> Result<Vec<Task>> {
        if self.state.engine == Engine::Docker {
            let task = |container: docker::Container| Task {
                name: container.name,
                node: container.node.to_owned(),
                namespace: format!("/proc/{}/ns/net", container.pid),
                hostname: container.hostname,
                addresses: container.addresses,
            };
            return Ok(docker::tasks(name)?.into_iter().map(task).collect());
        }
        let services = self
            .state
            .cluster
            .services
            .iter()
            .filter(|service| service.spec.name == name);
        let task = |task: &embedded::Task| Task {
            name: task.name.clone(),
            node: task.node.clone(),
            namespace: net::namespace_path(&task.namespace()),
            hostname: task.name.clone(),
            addresses: task.networks.clone(),
        };
        Ok(services.flat_map(|service| &service.tasks).map(task).collect())
    }

    /// A service's VIP on a network.
    pub fn vip(&self, service: &str, network: &str) -> Result<String> {
        if self.state.engine == Engine::Docker {
            return docker::vip(service, network);
        }
        let found = self
            .state
            .cluster
            .services
            .iter()
            .find(|candidate| candidate.spec.name == service);
        found
            .and_then(|service| service.vips.get(network).cloned())
            .with_context(|| format!("service {service} has no VIP on {network}"))
    }

    /// What the tasks of a service have printed.
    pub fn service_log(&self, name: &str) -> Result<String> {
        match self.state.engine {
            Engine::Docker => docker::service_log(name),
            Engine::Embedded => {
                let services = self
                    .state
                    .cluster
                    .services
                    .iter()
                    .filter(|service| service.spec.name == name);
                let logs = services
                    .flat_map(|service| &service.tasks)
                    .map(|task| fs::read_to_string(task.log()));
                Ok(logs.collect::<Result<Vec<_>, _>>()?.concat())
            }
        }
    }

    /// Waits until every agent has programmed what it knows.
    pub fn wait_agents(&self) -> Result<()> {
        NODES
            .into_iter()
            .try_for_each(|node| agent::wait_ready(&self.state, node))
    }

    /// A command that runs on a node, the client or in a task; node names resolve.
    pub fn inside(&self, place: &str) -> Result<Command> {
        let namespace = if NODES.contains(&place) || place == net::CLIENT {
            net::namespace_path(place)
        } else {
            let service = place.split('.').next().unwrap_or(place);
            let tasks = self.tasks(service)?;
            let task = tasks
                .into_iter()
                .find(|task| task.name == place || task.name.starts_with(&format!("{place}.")));
            task.with_context(|| format!("{place} is no node, not client and no task (go-demo.1)"))?
                .namespace
        };
        Ok(self.inside_namespace(&namespace))
    }

    /// A command in a namespace given by path.
    pub fn inside_namespace(&self, namespace: &str) -> Command {
        let mut command = cmd::lab("nsenter");
        command.env(process::MARK, "1").arg(format!("--net={namespace}"));
        command.args([
            "unshare",
            "--mount",
            "sh",
            "-ec",
            "mount --bind $1 /etc/hosts; shift; exec \"$@\"",
            "sh",
        ]);
        command.arg(state::folder(self.state.engine).join("hosts"));
        command
    }

    /// All that helps to see why something failed.
    pub fn diagnose(&self) -> String {
        let mut report = String::new();
        for node in NODES {
            let log = agent::log(self.state.engine, node);
            if !log.exists() {
                continue;
            }
            for words in [["status"].as_slice(), &["service", "ls"]] {
                let output = cmd::output(&mut agent::verb(self.state.engine, node, words));
                let output = output.map_or_else(|error| error.to_string(), |output| text_of(&output));
                report += &format!("--- {node}: portico {}\n{}\n", words.join(" "), output.trim_end());
            }
            report += &format!("--- {}\n{}\n", log.display(), tail(&log));
        }
        for service in ["proxy", "go-demo"] {
            let log = self
                .service_log(service)
                .unwrap_or_else(|error| format!("{error:#}"));
            report += &format!("--- log of {service}\n{}\n", last_lines(&log, 15));
        }
        report
    }
}

/// Standard output and error of a program that has ended.
pub fn text_of(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The end of a log.
pub fn tail(path: &Path) -> String {
    last_lines(
        &fs::read_to_string(path).unwrap_or_else(|error| error.to_string()),
        25,
    )
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn mount_bpffs(path: &PathBuf) -> Result<()> {
    fs::create_dir_all(path).with_context(|| path.display().to_string())?;
    cmd::text(cmd::lab("mount").args(["-t", "bpf", "bpf"]).arg(path)).map(|_| ())
}

fn exec(place: &str, engine: Option<Engine>, words: &[String]) -> Result<u8> {
    let lab = Lab::standing(engine)?;
    let mut command = lab.inside(place)?;
    if lab.state.engine == Engine::Docker && NODES.contains(&place) {
        command.env(
            "DOCKER_HOST",
            format!("unix://{}", docker::socket(place).display()),
        );
    }
    let status = command
        .args(words)
        .status()
        .with_context(|| cmd::shown(&command))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1))
}

fn status(engine: Option<Engine>) -> Result<u8> {
    let Some(state) = State::load(engine)? else {
        println!("no lab is up");
        return Ok(1);
    };
    let lab = Lab { state };
    println!("{} lab", lab.state.engine.name());
    for (name, process) in &lab.state.processes {
        let condition = if process.is_alive() { "runs" } else { "has ended" };
        println!("  {name:<18} pid {:<8} {condition}", process.pid);
    }
    for service in ["go-demo-db", "go-demo", "proxy", "echo"] {
        for task in lab.tasks(service)? {
            let addresses: Vec<String> = task
                .addresses
                .iter()
                .map(|(net, address)| format!("{net} {address}"))
                .collect();
            println!("  {:<42} on {}  {}", task.name, task.node, addresses.join(", "));
        }
    }
    Ok(0)
}
