// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico node`.

use std::{net::SocketAddr, path::PathBuf};

use super::{Exit, doctor};
use crate::{
    admin::Socket,
    daemon, kernel,
    model::NodeAddr,
    providers::{Provider, Report, docker, file},
};

/// Flags of `portico node`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Read services from this file instead of the Docker Engine (see /etc/portico/portico.toml)
    #[arg(long, value_name = "FILE", env = "PORTICO_CONFIG")]
    config: Option<PathBuf>,
    /// The engine's unix socket, as path or unix:// URL
    #[arg(long, value_name = "SOCKET", env = "PORTICO_DOCKER", default_value = docker::SOCKET)]
    docker: String,
    /// Name of this node; overrides the file's `node` or the engine's host name
    #[arg(long, value_name = "NAME", env = "PORTICO_NODE")]
    node: Option<String>,
    /// Interface that clients come in through; repeat or separate by commas [default: those with a default route]
    #[arg(long, value_name = "IF", env = "PORTICO_UPLINK", value_delimiter = ',')]
    uplink: Vec<String>,
    /// Directory of the pinned maps and links, on a BPF file system
    #[arg(
        long,
        value_name = "DIR",
        env = "PORTICO_BPFFS",
        default_value = "/sys/fs/bpf/portico"
    )]
    bpffs: PathBuf,
    /// Root of the cgroup v2 hierarchy [default: where cgroup2 is mounted]
    #[arg(long, value_name = "DIR", env = "PORTICO_CGROUP")]
    cgroup: Option<PathBuf>,
    /// State directory
    #[arg(
        long,
        value_name = "DIR",
        env = "PORTICO_STATE",
        default_value = "/var/lib/portico"
    )]
    state: PathBuf,
    /// Unix socket of the agent's own API
    #[arg(long, value_name = "PATH", env = "PORTICO_SOCKET", default_value = super::status::SOCKET)]
    socket: PathBuf,
    /// Serve Prometheus metrics on this address (for example 127.0.0.1:9464) [default: none]
    #[arg(long, value_name = "ADDR", env = "PORTICO_METRICS")]
    metrics: Option<SocketAddr>,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    super::log::init();
    doctor::require_capabilities()?;
    let cgroup = match args.cgroup {
        Some(ref path) => path.clone(),
        None => doctor::cgroup2_mount().ok_or_else(|| Exit::Lacks {
            what: "no cgroup v2 hierarchy is mounted".into(),
            how: "mount -t cgroup2 none /sys/fs/cgroup/unified (after mkdir), or name one with --cgroup"
                .into(),
        })?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::Failed(format!("runtime: {error}")))?;
    runtime.block_on(start(args, cgroup))
}

async fn start(args: Args, cgroup: PathBuf) -> Result<(), Exit> {
    let socket = Socket::claim(&args.socket)?;
    let (provider, node_address, first) = match &args.config {
        Some(path) => from_file(path.clone(), args.node.clone())?,
        None => from_docker(&args.docker, args.node.clone()).await?,
    };
    let options = kernel::Options {
        bpffs: args.bpffs,
        cgroup,
        uplinks: args.uplink.into_iter().filter(|name| !name.is_empty()).collect(),
        node_address: node_address.map(|address| address.0),
        state: args.state,
    };
    // On a thread of its own: it makes blocking system calls and may want a runtime of its own for netlink.
    let parts = tokio::task::spawn_blocking(move || kernel::start(&options))
        .await
        .map_err(|error| Exit::Failed(format!("kernel side: {error}")))??;
    daemon::run(parts, provider, first, socket, args.metrics).await
}

type Chosen = (Provider, Option<NodeAddr>, Option<Report>);

/// At the start a file that cannot be read is the operator's mistake and ends the agent; what is pinned goes on
/// forwarding. Later it would only show in status.
fn from_file(path: PathBuf, node: Option<String>) -> Result<Chosen, Exit> {
    let snapshot = file::read(&path, node.as_deref()).map_err(|error| Exit::Usage(error.to_string()))?;
    let own = snapshot.nodes.iter().find(|known| known.name == snapshot.node);
    let address = match own {
        Some(own) => Some(NodeAddr::parse(&own.address).map_err(|error| {
            Exit::Usage(format!(
                "{}: node '{}': address: {error}",
                path.display(),
                own.name
            ))
        })?),
        None if snapshot.nodes.is_empty() => None,
        None => {
            return Err(Exit::Usage(format!(
                "{}: node: '{}' is none of the nodes in the file (set `node`, --node or PORTICO_NODE)",
                path.display(),
                snapshot.node
            )));
        }
    };
    let provider = Provider::File {
        source: path.display().to_string(),
        // Who this node is was settled at the start, with the tunnel: a later edit of `node` must not turn all
        // local tasks into remote ones.
        watcher: Box::new(file::watch::Watcher::new(path, Some(snapshot.node.clone()))),
        node: snapshot.node,
    };
    // The watcher's first look reports the file.
    Ok((provider, address, None))
}

async fn from_docker(socket: &str, node: Option<String>) -> Result<Chosen, Exit> {
    let path = docker::socket_path(socket).map_err(Exit::Usage)?;
    let (watcher, address, snapshot) = docker::watch::Watcher::connect(&path, node).await?;
    Ok((
        Provider::Docker(Box::new(watcher)),
        address,
        Some(Report::Snapshot(snapshot)),
    ))
}
