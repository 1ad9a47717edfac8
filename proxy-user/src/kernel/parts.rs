// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start of the kernel side: what the machine must have, and the parts that the agent works with.

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use proxy_ebpf::abi::{
    Settings,
    limits::flow_buckets,
    settings::{TCP_IP_HEADERS, TUNNEL_OVERHEAD, Timeouts},
};
use serde_json::{Value, json};

use super::{
    attach,
    dataplane::{self, Dataplane},
    echo::{self, Echo},
    events,
    guard::Guard,
    mirror::Mirror,
    netlink,
    netns::{self, NamespaceFacts, NetnsError},
    object::{Object, SOCK_PROGRAMS},
    pins::{Pins, is_bpffs},
    reset::{self, Reset},
    xdp,
};
use crate::{
    cli::Exit,
    reconcile::{
        datapath::Datapath,
        ipvs::{self, Ipvs},
    },
};

/// What the operator may set of the kernel side.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on a BPF file system for this agent's pins.
    pub bpffs: PathBuf,
    /// Root of the cgroup v2 hierarchy.
    pub cgroup: PathBuf,
    /// Interfaces that clients come in through; empty = those of the default routes.
    pub uplinks: Vec<String>,
    /// Whether XDP runs on them.
    pub xdp: xdp::Choice,
    /// This node's address as the other nodes know it; `None` = no tunnel.
    pub node_address: Option<Ipv4Addr>,
    /// The agent's state directory.
    pub state: PathBuf,
    /// Flows of published ports that there is room for.
    pub flows: u32,
    /// How long flows are remembered.
    pub timeouts: Timeouts,
    /// The network whose VIPs clients outside may use; 0 = none.
    pub vip_network: u32,
    /// What uplinks drop before all else.
    pub guard: Guard,
}

/// Reads a task's namespace.
pub type Inspect = Box<dyn Fn(&Path) -> Result<NamespaceFacts, NetnsError> + Send + Sync>;

/// Who forwards.
pub enum Engine {
    /// Our programs: maps and task links.
    Maps(Box<dyn Datapath>),
    /// The kernel's own balancer.
    Ipvs(Box<dyn Ipvs>, ipvs::Options),
}

impl From<Box<dyn Datapath>> for Engine {
    fn from(datapath: Box<dyn Datapath>) -> Self {
        Engine::Maps(datapath)
    }
}

impl From<(Box<dyn Ipvs>, ipvs::Options)> for Engine {
    fn from((kernel, options): (Box<dyn Ipvs>, ipvs::Options)) -> Self {
        Engine::Ipvs(kernel, options)
    }
}

/// The kernel side, as the daemon wires it.
pub struct KernelParts<D = Box<dyn Datapath>> {
    /// Who forwards: maps and task links, or IPVS.
    pub datapath: D,
    /// Netns cookie of the agent's own namespace.
    pub own_cookie: u64,
    /// The node's own addresses, now.
    pub local_addrs: Box<dyn Fn() -> Vec<Ipv4Addr> + Send + Sync>,
    /// Reads a task's namespace.
    pub inspect: Inspect,
    /// Ends connections of backends that are gone.
    pub reset: Reset,
    /// Lets tasks' namespaces answer echo to VIPs.
    pub echo: Echo,
    /// Counters by name.
    pub counters: Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>,
    /// The maps, for looking.
    pub mirror: Option<Mirror>,
    /// For `status`: uplinks, tunnel, object, attachments.
    pub info: Value,
}

/// Programs the parts of the kernel that do not depend on services, and opens those that do.
///
/// What is in place already is left alone; a second start changes nothing.
pub fn start(options: &Options) -> Result<KernelParts, Exit> {
    let pins = open_pins(&options.bpffs)?;
    let cgroup = File::open(&options.cgroup).map_err(|e| Exit::Lacks {
        what: format!("cgroup v2 root {}: {e}", options.cgroup.display()),
        how: "mount -t cgroup2 none DIR, and name it with --cgroup".into(),
    })?;
    let uplinks = uplinks(&options.uplinks)?;
    let tunnel_ifindex = match options.node_address {
        Some(_) => netlink::ensure_tunnel().map_err(|e| Exit::Lacks {
            what: format!("tunnel device {} (vxlan): {e}", netlink::TUNNEL_DEVICE),
            how: "load the vxlan module (modprobe vxlan); UDP port 4790 must be free".into(),
        })?,
        None => 0,
    };
    let mtu = uplinks.iter().map(|u| u.mtu).min().unwrap_or(0);
    let mut settings = Settings {
        tunnel_ifindex,
        node_be: own_address(options, &uplinks).map_or(0, |a| u32::from(a).to_be()),
        tunnel_mss: mtu.saturating_sub(TUNNEL_OVERHEAD + TCP_IP_HEADERS),
        uplink_ifindex: uplinks.first().map_or(0, |u| u.ifindex),
        flow_mask: flow_buckets(options.flows) - 1,
        timeouts: options.timeouts.by_state(),
        guard: 0,
        syn_rate: 0,
        syn_mask_be: 0,
        vip_network: options.vip_network,
    };
    options.guard.put(&mut settings);
    pins.match_flow_table(&settings)
        .map_err(|e| Exit::Failed(format!("pins: {e}")))?;
    let object = Object::open(&pins, &settings).map_err(|e| match e {
        super::object::ObjectError::Pins(_) | super::object::ObjectError::NotBuilt => {
            Exit::Failed(e.to_string())
        }
        other => Exit::Lacks {
            what: chain(&other),
            how: "Linux 6.1 or later with BPF, cgroup BPF and BTF".into(),
        },
    })?;
    options
        .guard
        .fill(&pins)
        .map_err(|e| Exit::Failed(format!("deny list: {e}")))?;
    events::quiet(&pins).map_err(|e| Exit::Failed(format!("pins: {e}")))?;
    let mut changed = attach_all(&pins, &object, &cgroup, &uplinks, tunnel_ifindex)?;
    let xdp = attach_xdp(&pins, &object, options.xdp, &uplinks, &mut changed)?;
    pins.forget_other_programs(&object.hash)
        .map_err(|e| Exit::Failed(format!("pins: {e}")))?;
    for version in pins
        .forget_other_versions()
        .map_err(|e| Exit::Failed(format!("pins: {e}")))?
    {
        tracing::warn!(
            version,
            "removed the pins of another version; lost: its flows of published ports (open connections are reset, \
             clients reconnect), what UDP sockets remembered of VIPs, and its counters"
        );
    }

    let info = json!({
        "uplinks": uplinks.iter().zip(&xdp).map(|(u, xdp)| {
            json!({"name": u.name, "ifindex": u.ifindex, "mtu": u.mtu, "xdp": xdp.text()})
        }).collect::<Vec<_>>(),
        "tunnel": (tunnel_ifindex != 0).then(|| json!({
            "device": netlink::TUNNEL_DEVICE,
            "ifindex": tunnel_ifindex,
            "port": proxy_ebpf::abi::settings::TUNNEL_PORT,
            "mss": settings.tunnel_mss,
        })),
        "cgroup": options.cgroup,
        "bpffs": options.bpffs,
        "object": object.hash,
        "adopted_programs": object.adopted,
        "links_changed": changed,
    });
    let own_cookie = netns::own_cookie().map_err(|e| Exit::Lacks {
        what: format!("SO_NETNS_COOKIE: {e}"),
        how: "Linux 5.14 or later".into(),
    })?;
    let counter_pins = pins.clone();
    let (reset, ended) =
        reset::start(pins.clone()).map_err(|e| Exit::Failed(format!("reset thread: {e}")))?;
    Ok(KernelParts {
        mirror: Some(Mirror::new(pins.clone(), settings)),
        datapath: Box::new(
            Dataplane::open(&pins, object, options.vip_network)
                .map_err(|e| Exit::Failed(format!("pinned maps: {e}")))?,
        ),
        own_cookie,
        local_addrs: Box::new(|| {
            let addresses = netlink::addresses().unwrap_or_default();
            addresses
                .into_iter()
                .map(|(_, a)| a)
                .filter(|a| !a.is_loopback())
                .collect()
        }),
        inspect: Box::new(netns::inspect),
        reset,
        echo: echo::start().map_err(|e| Exit::Failed(format!("echo thread: {e}")))?,
        counters: Box::new(move || {
            let mut counters = dataplane::counters(&counter_pins).unwrap_or_default();
            counters.push(("sockets_reset".into(), ended.load(Ordering::Relaxed)));
            counters
        }),
        info,
    })
}

/// What other nodes know this one by, or, where there are none, backends.
fn own_address(options: &Options, uplinks: &[netlink::Link]) -> Option<Ipv4Addr> {
    let of_uplink = || {
        let name = &uplinks.first()?.name;
        let addresses = netlink::addresses().ok()?;
        addresses
            .into_iter()
            .find(|(of, _)| of == name)
            .map(|(_, address)| address)
    };
    options
        .node_address
        .or_else(|| (options.vip_network != 0).then(of_uplink)?)
}

/// Attaches socket hooks, uplinks and tunnel; the number of links that changed.
fn attach_all(
    pins: &Pins,
    object: &Object,
    cgroup: &File,
    uplinks: &[netlink::Link],
    tunnel_ifindex: u32,
) -> Result<u32, Exit> {
    let links = pins.links();
    let failed = |e: attach::AttachError| {
        Exit::Lacks {
        what: chain(&e),
        how: "Linux 6.1 or later with cgroup v2, and sch_clsact and cls_bpf where it has no tcx; see `portico doctor`".into(),
    }
    };
    let object_failed = |e: super::object::ObjectError| Exit::Failed(chain(&e));
    let mut changed = 0;
    let mut wanted = Vec::new();
    for name in uplinks
        .iter()
        .map(|u| (format!("uplink-{}", u.ifindex), "portico_uplink", u.ifindex))
        .chain((tunnel_ifindex != 0).then(|| {
            (
                format!("tunnel-{tunnel_ifindex}"),
                "portico_tunnel",
                tunnel_ifindex,
            )
        }))
    {
        let (link, program, ifindex) = name;
        let mut program = object.tc(program).map_err(object_failed)?;
        changed += u32::from(attach::ingress(&links, &link, &mut program, ifindex).map_err(failed)?);
        wanted.push(link);
    }
    for (name, kind) in SOCK_PROGRAMS {
        let mut program = object.sock(name, kind).map_err(object_failed)?;
        changed += u32::from(attach::cgroup(&links, name, &mut program, cgroup).map_err(failed)?);
    }
    // Task links run the same object: replaced here so that no old program outlives an upgrade.
    for name in attach::names(&links).map_err(|e| Exit::Failed(format!("pins: {e}")))? {
        if let Some(ifindex) = name.strip_prefix("task-").and_then(|n| n.parse().ok()) {
            if attach::is_attached(&links, &name, ifindex) {
                let mut program = object.tc("portico_task").map_err(object_failed)?;
                changed += u32::from(attach::ingress(&links, &name, &mut program, ifindex).map_err(failed)?);
            }
        } else if (name.starts_with("uplink-") || name.starts_with("tunnel-")) && !wanted.contains(&name) {
            attach::detach(&links, &name).map_err(|e| Exit::Failed(format!("pins: {e}")))?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// XDP on every uplink as wanted, and on nothing else.
fn attach_xdp(
    pins: &Pins,
    object: &Object,
    choice: xdp::Choice,
    uplinks: &[netlink::Link],
    changed: &mut u32,
) -> Result<Vec<xdp::Outcome>, Exit> {
    let links = pins.links();
    let mut program = object.xdp().map_err(|e| Exit::Failed(chain(&e)))?;
    let mut outcomes = Vec::new();
    for uplink in uplinks {
        let (outcome, new) = xdp::uplink(&links, choice, uplink, &mut program).map_err(|e| Exit::Lacks {
            what: chain(&e),
            how: "an interface without another XDP program and with a driver that has XDP; or --xdp auto, \
                      which does without"
                .into(),
        })?;
        *changed += u32::from(new);
        outcomes.push(outcome);
    }
    let wanted: Vec<String> = uplinks
        .iter()
        .map(|u| format!("{}-", xdp::link_name(u.ifindex)))
        .collect();
    for name in attach::names(&links).map_err(|e| Exit::Failed(format!("pins: {e}")))? {
        if name.starts_with("xdp-") && !wanted.iter().any(|w| name.starts_with(w)) {
            attach::detach(&links, &name).map_err(|e| Exit::Failed(format!("pins: {e}")))?;
            *changed += 1;
        }
    }
    Ok(outcomes)
}

fn open_pins(bpffs: &Path) -> Result<Pins, Exit> {
    if !is_bpffs(bpffs).unwrap_or(false) {
        return Err(Exit::Lacks {
            what: format!("{} is not on a BPF file system", bpffs.display()),
            how: "mount -t bpf bpf /sys/fs/bpf, or name another mount with --bpffs".into(),
        });
    }
    Pins::open(bpffs).map_err(|e| Exit::Lacks {
        what: format!("pin directory {}: {e}", bpffs.display()),
        how: "run as root on a writable BPF file system, or name another directory with --bpffs".into(),
    })
}

/// The interfaces that clients come in through.
pub(super) fn uplinks(names: &[String]) -> Result<Vec<netlink::Link>, Exit> {
    let lacks = |what: String| Exit::Lacks {
        what,
        how: "name the interfaces that clients use with --uplink".into(),
    };
    let names = match names {
        [] => netlink::default_route_interfaces().map_err(|e| lacks(format!("default route: {e}")))?,
        names => names.to_vec(),
    };
    if names.is_empty() {
        return Err(lacks("no default route, so no uplink".into()));
    }
    let all = netlink::run(async |handle| netlink::links(&handle).await)
        .map_err(|e: io::Error| Exit::Failed(format!("netlink: {e}")))?;
    names
        .iter()
        .map(|name| {
            all.iter()
                .find(|l| l.name == *name)
                .cloned()
                .ok_or_else(|| lacks(format!("no interface {name}")))
        })
        .collect()
}

/// An error with its sources: the verifier's log is in the last one.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}
