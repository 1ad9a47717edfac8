//! What the agent gets from the kernel module, and what it gives.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::netns::{NamespaceFacts, NetnsError};
use crate::{cli::Exit, reconcile::datapath::Datapath};

/// Where and how to set up the data plane.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the pins.
    pub bpffs: PathBuf,
    /// Root of the cgroup v2 hierarchy.
    pub cgroup: PathBuf,
    /// Interfaces that clients come in through; empty = those with a default route.
    pub uplinks: Vec<String>,
    /// This node's end of the tunnel; `None` = no tunnel.
    pub node_address: Option<Ipv4Addr>,
    /// State directory.
    pub state: PathBuf,
}

/// Reads a task's namespace.
pub type Inspect = Box<dyn Fn(&Path) -> Result<NamespaceFacts, NetnsError> + Send + Sync>;

/// A data plane that runs.
pub struct KernelParts {
    /// The maps and attachments.
    pub datapath: Box<dyn Datapath>,
    /// Netns cookie of the node's own namespace.
    pub own_cookie: u64,
    /// The node's own addresses, read anew at every call.
    pub local_addrs: Box<dyn Fn() -> Vec<Ipv4Addr> + Send>,
    /// Reads a task's namespace.
    pub inspect: Inspect,
    /// The programs' counters by name.
    pub counters: Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>,
    /// Uplinks, tunnel, attachments, features: for `status`.
    pub info: serde_json::Value,
}

/// Loads or adopts the data plane.
pub fn start(_options: &Options) -> Result<KernelParts, Exit> {
    Err(Exit::Failed("built without the kernel side".into()))
}
