// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico node`.

mod guard;
mod ipvs;
mod uninstall;

use std::{net::SocketAddr, path::PathBuf};

use proxy_ebpf::abi::{
    limits::{FLOWS_DEFAULT, FLOWS_MAX},
    settings::Timeouts,
};

use super::{Exit, doctor};
use crate::{
    admin::Socket,
    daemon, kernel,
    model::{NetworkId, NodeAddr, Snapshot, snapshot::HOST},
    providers::{Provider, Report, api, docker, file},
};

/// Longest time that a silent flow can be remembered: a year.
const TIMEOUT_MAX: u32 = 365 * 24 * 3600;

/// Flags of `portico node`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Read services from this file instead of the Docker Engine (see /etc/portico/portico.toml)
    #[arg(long, value_name = "FILE", env = "PORTICO_CONFIG")]
    config: Option<PathBuf>,
    /// The engine's unix socket, as path or unix:// URL; `none` = no engine, services come from the operator's
    /// verbs alone (portico service add)
    #[arg(long, value_name = "SOCKET", env = "PORTICO_DOCKER", default_value = docker::SOCKET)]
    docker: String,
    /// Name of this node; overrides the file's `node` or the engine's host name
    #[arg(long, value_name = "NAME", env = "PORTICO_NODE")]
    node: Option<String>,
    /// Interface that clients come in through; repeat or separate by commas [default: those with a default route]
    #[arg(long, value_name = "IF", env = "PORTICO_UPLINK", value_delimiter = ',')]
    uplink: Vec<String>,
    /// XDP in front of tc on the uplinks
    #[arg(long, value_name = "MODE", env = "PORTICO_XDP", value_enum, default_value_t)]
    xdp: kernel::xdp::Choice,
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
    #[arg(long, value_name = "PATH", env = "PORTICO_SOCKET", default_value = super::ask::SOCKET)]
    socket: PathBuf,
    /// Flows of published ports that there is room for; each takes 100 bytes of kernel memory, at once
    #[arg(long, value_name = "N", env = "PORTICO_FLOWS", default_value_t = FLOWS_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    flows: u32,
    /// Seconds after which silent flows are forgotten, by state
    #[arg(long, value_name = "STATE=SECONDS,…", env = "PORTICO_FLOW_TIMEOUTS",
        default_value = "syn=63,established=432000,fin=120,udp=120,udp-stream=300", value_parser = timeouts)]
    flow_timeouts: Timeouts,
    /// Serve VIPs of the node's own network (`portico service add --vip`) to clients that come in through an uplink as
    /// well; without it only the node's own processes have them
    #[arg(long, env = "PORTICO_SERVE_VIPS")]
    serve_vips: bool,
    #[command(flatten)]
    guard: guard::Args,
    #[command(flatten)]
    ipvs: ipvs::Args,
    /// Serve Prometheus metrics on this address (for example 127.0.0.1:9464) [default: none]
    #[arg(long, value_name = "ADDR", env = "PORTICO_METRICS")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    uninstall: uninstall::Args,
}

impl Args {
    /// Whether it is not for running an agent.
    pub(super) fn uninstalls(&self) -> bool {
        self.uninstall.uninstall
    }
}

/// Runs the verb.
pub fn run(args: Args) -> Result<(), Exit> {
    super::log::init();
    doctor::require_capabilities()?;
    if args.uninstalls() {
        return args.uninstall.run(&args.bpffs, &args.state, &args.socket);
    }
    let cgroup = match args.cgroup {
        Some(ref path) => path.clone(),
        // IPVS needs none.
        None if args.ipvs.forwards() => PathBuf::new(),
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
    let api = api::Store::open(&args.state).map_err(|error| {
        Exit::Failed(format!(
            "what the operator's verbs have said cannot be read: {error} (repair or remove the file; what is in the kernel stays)"
        ))
    })?;
    let (provider, node_address, first) = match &args.config {
        Some(path) => from_file(path.clone(), args.node.clone())?,
        None if args.docker == NO_ENGINE => alone(&api, args.node.clone()),
        None => from_docker(&args.docker, args.node.clone()).await?,
    };
    let uplinks: Vec<String> = args.uplink.into_iter().filter(|name| !name.is_empty()).collect();
    if args.ipvs.forwards() {
        if args.guard.is_any() || args.serve_vips {
            let why = "--deny, --drop-malformed, --syn-rate and --serve-vips are for Portico's own programs, which \
                       --dataplane ipvs does not load";
            return Err(Exit::Usage(why.into()));
        }
        let options = args.ipvs.options(uplinks, args.state);
        let parts = tokio::task::spawn_blocking(move || kernel::ipvs::start(&options))
            .await
            .map_err(|error| Exit::Failed(format!("kernel side: {error}")))??;
        return daemon::run(parts, provider, api, first, socket, args.metrics).await;
    }
    let options = kernel::Options {
        bpffs: args.bpffs,
        cgroup,
        uplinks,
        xdp: args.xdp,
        node_address: node_address.map(|address| address.0),
        state: args.state,
        flows: args.flows,
        timeouts: args.flow_timeouts,
        vip_network: if args.serve_vips {
            NetworkId::of(HOST).get()
        } else {
            0
        },
        guard: args.guard.rules(),
    };
    // On a thread of its own: it makes blocking system calls and may want a runtime of its own for netlink.
    let parts = tokio::task::spawn_blocking(move || kernel::start(&options))
        .await
        .map_err(|error| Exit::Failed(format!("kernel side: {error}")))??;
    daemon::run(parts, provider, api, first, socket, args.metrics).await
}

/// `--docker none`.
const NO_ENGINE: &str = "none";

/// Nothing but the operator's verbs: no nodes, so no tunnel.
fn alone(api: &api::Store, node: Option<String>) -> Chosen {
    let host_name = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let node = node.unwrap_or_else(|| host_name().trim().to_owned());
    let nothing = Snapshot {
        source: api::KIND.into(),
        node: node.clone(),
        ..Snapshot::default()
    };
    let source = api.path().display().to_string();
    (
        Provider::Alone { source, node },
        None,
        Some(Report::Snapshot(nothing)),
    )
}

/// `state=seconds` pairs; what is not named keeps its default.
fn timeouts(text: &str) -> Result<Timeouts, String> {
    let mut found = Timeouts::DEFAULT;
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (state, seconds) = pair
            .split_once('=')
            .ok_or(format!("'{pair}' is not STATE=SECONDS"))?;
        let seconds = match seconds.parse::<u32>() {
            Ok(seconds) if (1..=TIMEOUT_MAX).contains(&seconds) => seconds,
            _ => return Err(format!("'{seconds}' is not between 1 and {TIMEOUT_MAX} seconds")),
        };
        match state {
            "syn" => found.syn = seconds,
            "established" => found.established = seconds,
            "fin" => found.fin = seconds,
            "udp" => found.udp = seconds,
            "udp-stream" => found.udp_stream = seconds,
            other => {
                return Err(format!(
                    "'{other}' is none of syn, established, fin, udp, udp-stream"
                ));
            }
        }
    }
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_named_and_the_rest_keeps_its_default() {
        let some = timeouts("fin=7,udp-stream=9").unwrap();
        assert_eq!(
            (some.fin, some.udp_stream, some.syn),
            (7, 9, Timeouts::DEFAULT.syn)
        );
        for wrong in ["fin", "fin=0", "fin=-1", "close=3", "fin=31536001"] {
            assert!(timeouts(wrong).is_err(), "{wrong}");
        }
    }
}
