// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checks, in the order of the table. Each reads /proc or /sys, or asks the engine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Check;
use crate::{
    cli::Exit,
    engine::{Address, Client, VERSION_MIN},
    kernel::{clsact, netlink, xdp::is_card},
    providers::docker,
};

/// Oldest kernel supported.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// What the agent needs (capabilities(7)): name, bit.
const CAPABILITIES: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// Everything.
pub(super) fn all(docker: &str, bpffs: &Path, socket: &Path) -> Vec<Check> {
    vec![
        kernel(),
        capabilities(),
        cgroup2(),
        bpffs_mount(bpffs),
        btf(),
        tcx(),
        xdp(),
        mesh(),
        engine(docker),
        agent(socket),
    ]
}

/// Refuses to go on without the capabilities that the agent needs.
pub fn require_capabilities() -> Result<(), Exit> {
    let check = capabilities();
    if check.ok {
        Ok(())
    } else {
        Err(Exit::Lacks {
            what: format!("not enough privileges: {}", check.found),
            how: check.follows,
        })
    }
}

/// Where cgroup v2 is mounted.
pub fn cgroup2_mount() -> Option<PathBuf> {
    mount_of(
        "cgroup2",
        &fs::read_to_string("/proc/self/mounts").unwrap_or_default(),
    )
}

fn mount_of(kind: &str, mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let path = fields.nth(1)?;
        (fields.next()? == kind).then(|| path.into())
    })
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned();
    let (major, minor) = KERNEL_MIN;
    let ok = version(&release).is_some_and(|version| version >= KERNEL_MIN);
    Check {
        name: "kernel",
        ok,
        required: true,
        follows: if ok {
            "supported".into()
        } else {
            format!("boot Linux {major}.{minor} or later")
        },
        found: release,
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn capabilities() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    let ok = missing.is_empty();
    Check {
        name: "privileges",
        ok,
        required: true,
        found: if ok {
            "all capabilities there".into()
        } else {
            format!("without {}", missing.join(", "))
        },
        follows: if ok {
            "the agent may load programs and enter namespaces".into()
        } else {
            "run as root (sudo portico …), or give these capabilities to the service".into()
        },
    }
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(_, bit)| effective >> bit & 1 == 0)
        .map(|(name, _)| *name)
        .collect()
}

fn cgroup2() -> Check {
    let mount = cgroup2_mount();
    Check {
        name: "cgroup2",
        ok: mount.is_some(),
        required: true,
        follows: match mount {
            Some(_) => "socket hooks attach at its root".into(),
            None => "mkdir -p /sys/fs/cgroup/unified; mount -t cgroup2 none /sys/fs/cgroup/unified".into(),
        },
        found: mount.map_or_else(|| "not mounted".into(), |path| path.display().to_string()),
    }
}

/// The innermost mount that holds the directory must be a BPF file system.
fn bpffs_mount(folder: &Path) -> Check {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let holder = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let path = fields.nth(1)?;
            Some((path, fields.next()?))
        })
        .filter(|(path, _)| folder.starts_with(path))
        .max_by_key(|(path, _)| path.len());
    let ok = holder.is_some_and(|(_, kind)| kind == "bpf");
    Check {
        name: "bpffs",
        ok,
        required: true,
        found: match holder {
            Some((path, kind)) => format!("{} is on {kind} at {path}", folder.display()),
            None => "no mounts readable".into(),
        },
        follows: if ok {
            "maps and links outlive the agent".into()
        } else {
            "mount -t bpf bpf /sys/fs/bpf, or name a folder on one with --bpffs".into()
        },
    }
}

fn btf() -> Check {
    let ok = Path::new("/sys/kernel/btf/vmlinux").exists();
    Check {
        name: "btf",
        ok,
        required: false,
        found: if ok {
            "/sys/kernel/btf/vmlinux".into()
        } else {
            "no /sys/kernel/btf/vmlinux".into()
        },
        follows: if ok {
            "fine".into()
        } else {
            "loads without it; tracing shows less".into()
        },
    }
}

/// How tc programs are attached. Asking the kernel takes the agent's privileges.
fn tcx() -> Check {
    let ok = clsact::has_tcx();
    let (found, follows) = match (ok, capabilities().ok) {
        (true, _) => ("tcx", "tc programs attach through links of their own"),
        (false, true) => (
            "no tcx (Linux before 6.6)",
            "tc programs attach as filters of the clsact qdisc",
        ),
        (false, false) => ("not known without privileges", "run doctor as root to find out"),
    };
    Check {
        name: "tcx",
        ok,
        required: false,
        found: found.into(),
        follows: follows.into(),
    }
}

/// Where XDP can run in front of tc. Whether the driver takes the program shows when the agent attaches it.
fn xdp() -> Check {
    let uplinks = netlink::default_route_interfaces().unwrap_or_default();
    let links = netlink::run(async |handle| netlink::links(&handle).await).unwrap_or_default();
    let cards: Vec<&str> = links
        .iter()
        .filter(|link| uplinks.contains(&link.name) && is_card(link))
        .map(|link| link.name.as_str())
        .collect();
    let (found, follows) = if cards.is_empty() {
        let none = match uplinks.is_empty() {
            true => "no default route".into(),
            false => format!("no network card behind {}", uplinks.join(", ")),
        };
        (none, "tc does all the work; --xdp native tries it anyway".into())
    } else {
        (
            cards.join(", "),
            "XDP runs in the driver if that has it (see `portico status`); tc does the rest".into(),
        )
    };
    Check {
        name: "xdp",
        ok: !cards.is_empty(),
        required: false,
        found,
        follows,
    }
}

/// Which mesh there is already, and what Portico does beside it.
fn mesh() -> Check {
    let ipvs = Path::new("/proc/net/ip_vs").exists() || Path::new("/proc/sys/net/ipv4/vs").exists();
    Check {
        name: "mesh",
        ok: true,
        required: false,
        found: if ipvs {
            "ip_vs is loaded".into()
        } else {
            "no ip_vs".into()
        },
        follows: if ipvs {
            "Swarm's IPVS stays as a safety net; VIPs by socket hooks, published ports by tc in front of it"
                .into()
        } else {
            "Swarm's own mesh does nothing here; Portico takes over VIPs and published ports fully".into()
        },
    }
}

fn engine(socket: &str) -> Check {
    let found = docker::socket_path(socket).and_then(|path| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let client = Client::connect(Address::Unix(path))
                .await
                .map_err(|error| error.to_string())?;
            let info = client.get("/info").await.map_err(|error| error.to_string())?;
            let swarm = info["Swarm"]["LocalNodeState"]
                .as_str()
                .unwrap_or("unknown")
                .to_owned();
            let manager = info["Swarm"]["ControlAvailable"] == true;
            let (major, minor) = client.version();
            let engine = client.engine();
            Ok((
                format!("engine {engine}, API {major}.{minor}, swarm {swarm}, manager {manager}"),
                swarm == "active" && client.version() >= VERSION_MIN,
            ))
        })
    });
    let ok = matches!(&found, Ok((_, true)));
    Check {
        name: "docker",
        ok,
        required: false,
        found: found.map_or_else(|error| error, |(text, _)| text),
        follows: if ok {
            "the docker provider works".into()
        } else {
            "only the file provider works (--config FILE); for Swarm: an engine of 20.10 or later in a Swarm"
                .into()
        },
    }
}

fn agent(socket: &Path) -> Check {
    let ok = std::os::unix::net::UnixStream::connect(socket).is_ok();
    Check {
        name: "agent",
        ok,
        required: false,
        found: format!(
            "{} on {}",
            if ok { "answers" } else { "no agent" },
            socket.display()
        ),
        follows: if ok {
            "portico status tells more".into()
        } else {
            "start it with: portico node".into()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("6.18"), Some((6, 18)));
        assert_eq!(version("5.15.0+"), Some((5, 15)));
        assert_eq!(version(""), None);
    }

    #[test]
    fn capabilities_are_named() {
        assert_eq!(
            missing_capabilities("CapEff:\t000001ffffffffff\n"),
            Vec::<&str>::new()
        );
        assert_eq!(
            missing_capabilities("CapEff:\t0000000000001000\n"),
            ["CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]
        );
        assert_eq!(missing_capabilities("").len(), 4);
    }

    #[test]
    fn the_first_mount_of_a_kind_is_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_of("cgroup2", mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_of("bpf", mounts), None);
    }
}
