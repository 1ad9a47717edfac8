// SPDX-License-Identifier: MIT OR Apache-2.0
//! Health checks: what is to be asked, of whom, and from where. The asking is done elsewhere (`health`); what
//! comes back is one more input of the Writer: a member that is down gets no new flow, as if it were draining.
//!
//! When all members of a service that are not draining are down, all are used: either every one of them is
//! broken, and then nothing is lost, or the check is, and then the service goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use super::{
    NetworkId, Place, Service, ServiceName, Task, TaskAddr, TaskName,
    limits::{HEALTH_COUNT_MAX, HEALTH_INTERVAL_MAX, HEALTH_INTERVAL_MIN},
    snapshot::{HealthParams, Problem},
};

/// A health check of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Where, if not at the backend's own port.
    pub port: Option<u16>,
    /// From the end of one check to the start of the next.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// So many good checks in a row bring a member back.
    pub rise: u32,
    /// So many bad checks in a row take a member out.
    pub fall: u32,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether somebody accepts a connection.
    Tcp,
    /// What a GET answers.
    Http {
        /// The path, with a query if need be.
        path: String,
        /// The Host field; the address and port when empty.
        host: String,
        /// First and last of each range of good status codes.
        expect: Vec<(u16, u16)>,
    },
    /// What `grpc.health.v1.Health/Check` answers.
    Grpc {
        /// The service to ask for; empty = the whole server.
        service: String,
    },
}

/// Who is checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// A task.
    Task(TaskName),
    /// A plain backend.
    Plain(TaskAddr, u16),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Task(name) => name.fmt(f),
            Member::Plain(address, port) => write!(f, "{address}:{port}"),
        }
    }
}

/// One member of one service.
pub type MemberKey = (ServiceName, Member);

/// One thing to ask, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub check: HealthCheck,
    /// Where.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The namespace to ask from; `None` = the agent's own.
    pub netns: Option<PathBuf>,
}

/// Members that are down.
pub type Down = BTreeMap<ServiceName, BTreeSet<Member>>;

impl HealthCheck {
    /// Checks what a provider read.
    pub fn new(params: &HealthParams) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut wrong = |field: &str, message: String| {
            problems.push(Problem::new(format!("health.{field}"), message));
        };
        let probe = match params.kind.as_str() {
            "tcp" => Probe::Tcp,
            "http" => Probe::Http {
                path: params.path.clone(),
                host: params.host.clone(),
                expect: ranges(&params.expect).unwrap_or_else(|why| {
                    wrong("expect", why);
                    Vec::new()
                }),
            },
            "grpc" => Probe::Grpc {
                service: params.service.clone(),
            },
            other => {
                wrong("kind", format!("'{other}' is none of tcp, http, grpc"));
                Probe::Tcp
            }
        };
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !params.path.starts_with('/') || !printable(&params.path) {
            wrong("path", format!("'{}' is not a path", params.path));
        }
        for (field, text) in [("host", &params.host), ("service", &params.service)] {
            if !printable(text) {
                wrong(field, "has white space or control characters in it".into());
            }
        }
        let port = match u16::try_from(params.port) {
            Ok(0) => None,
            Ok(port) => Some(port),
            Err(_) => {
                wrong("port", format!("{} is not a port (0 to 65535)", params.port));
                None
            }
        };
        let mut duration = |field: &str, value: i64| {
            let found = u64::try_from(value)
                .map(Duration::from_millis)
                .unwrap_or_default();
            if !(HEALTH_INTERVAL_MIN..=HEALTH_INTERVAL_MAX).contains(&found) {
                let (min, max) = (HEALTH_INTERVAL_MIN.as_millis(), HEALTH_INTERVAL_MAX.as_millis());
                wrong(field, format!("{value} is not between {min} and {max}"));
            }
            found
        };
        let interval = duration("interval_ms", params.interval_ms);
        let timeout = duration("timeout_ms", params.timeout_ms);
        let mut count = |field: &str, value: i64| {
            let found = u32::try_from(value).unwrap_or_default();
            if !(1..=HEALTH_COUNT_MAX).contains(&found) {
                wrong(field, format!("{value} is not between 1 and {HEALTH_COUNT_MAX}"));
            }
            found
        };
        let (rise, fall) = (count("rise", params.rise), count("fall", params.fall));
        if problems.is_empty() {
            Ok(Self {
                probe,
                port,
                interval,
                timeout,
                rise,
                fall,
            })
        } else {
            Err(problems)
        }
    }
}

/// `200`, `200-299`, or several of these with commas.
fn ranges(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (100 <= first && first <= last && last <= 599).then_some((first, last))
    };
    let parts: Option<Vec<(u16, u16)>> = text.split(',').map(range).collect();
    parts.ok_or_else(|| format!("'{text}' is not a list of status codes (for example 200-299,404)"))
}

/// Who of a service is to be asked, and from where. A member that nobody on this node has the network for is left
/// out: it counts as up, and its own node asks it.
pub(super) fn targets<'a>(
    service: &'a Service,
    namespaces: &'a BTreeMap<NetworkId, PathBuf>,
    host: NetworkId,
) -> impl Iterator<Item = (MemberKey, Target)> + 'a {
    let check = service.health.as_deref();
    let from = |network: NetworkId| {
        if network == host {
            Some(None)
        } else {
            namespaces.get(&network).cloned().map(Some)
        }
    };
    let vip_network = service.vips.iter().find_map(|vip| from(vip.network));
    let plain = service.backends.iter().filter_map(move |backend| {
        let check = check?.clone();
        Some((
            Member::Plain(backend.address, backend.port),
            Target {
                address: backend.address.0,
                port: check.port.unwrap_or(backend.port),
                netns: vip_network.clone()?,
                check,
            },
        ))
    });
    let port = service.ports.first().map(|port| port.target);
    let tasks = service.tasks.iter().filter_map(move |task| {
        let check = check?.clone();
        let (address, netns) = task_target(task, namespaces)?;
        Some((
            Member::Task(task.name.clone()),
            Target {
                address: address.0,
                port: check.port.or(port)?,
                netns: Some(netns),
                check,
            },
        ))
    });
    let name = &service.name;
    plain
        .chain(tasks)
        .map(|(member, target)| ((name.clone(), member), target))
}

/// A task of this node is asked in its own namespace, another one from a namespace that shares a network with it.
fn task_target(task: &Task, namespaces: &BTreeMap<NetworkId, PathBuf>) -> Option<(TaskAddr, PathBuf)> {
    if let Place::Here { netns } = &task.place {
        return Some((task.ingress, netns.clone()?));
    }
    task.networks
        .iter()
        .find_map(|((network, _), address)| Some((*address, namespaces.get(network)?.clone())))
}

/// Whether a service is used as if no member were down, because all are.
pub fn all_down(service: &Service, down: &Down) -> bool {
    let Some(down) = down.get(&service.name) else {
        return false;
    };
    let tasks = service.tasks.iter().filter(|task| !task.draining);
    let tasks = tasks.map(|task| Member::Task(task.name.clone()));
    let plain = service.backends.iter().filter(|backend| !backend.draining);
    let plain = plain.map(|backend| Member::Plain(backend.address, backend.port));
    tasks.chain(plain).all(|member| down.contains(&member))
}

#[cfg(test)]
mod tests;
