// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ping VIP` is answered: in the namespace of each of this node's tasks, its own kernel has the VIPs of its networks
//! that serve every port.
//!
//! Sockets that connect to a VIP are given a backend by the hooks before the kernel looks for a way. What is no socket
//! of TCP or UDP finds nobody: no machine has the address. So each namespace gets a route of type local for it, marked
//! with a number of our own, and the task's kernel answers ICMP echo itself, as the load balancer's namespace of an
//! engine with IPVS does.
//!
//! Life: the control thread says what is wanted; a thread of its own makes it so, namespace by namespace, and looks
//! again once in [`RECHECK`]. Routes are found by their mark, so an agent that was restarted knows those of an earlier
//! one. They go with the VIP, with the task's namespace, and with an uninstall ([`forget`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::File,
    io,
    net::IpAddr,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{netlink, netns};

/// Who made a route (rtm_protocol, rtnetlink(7)): a number that neither the kernel's rtnetlink.h nor iproute2's
/// rt_protos gives to anybody.
pub const PROTOCOL: u8 = 149;
/// The table of a namespace's own addresses.
const TABLE_LOCAL: u8 = 255;
/// `lo` is a namespace's first interface.
const LOOPBACK: u32 = 1;
/// How often a namespace is looked at although nothing has changed.
pub const RECHECK: Duration = Duration::from_secs(60);
/// How often one that could not be entered or changed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What one namespace should answer for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its netns cookie: another one under the same path is another one.
    pub cookie: u64,
    /// The addresses, shared among namespaces of the same networks.
    pub addresses: Arc<BTreeSet<IpAddr>>,
}

/// By path.
pub type Wanted = BTreeMap<PathBuf, Namespace>;
/// What is wrong, by path.
pub type Problems = Arc<Mutex<BTreeMap<PathBuf, String>>>;

/// The thread's other end; the thread ends with it.
pub struct Echo {
    tell: Option<Sender<Wanted>>,
    problems: Problems,
}

impl Echo {
    /// Does nothing: where somebody else has the VIPs.
    pub fn none() -> Self {
        Self {
            tell: None,
            problems: Problems::default(),
        }
    }

    /// Whether anything is done.
    pub fn is_active(&self) -> bool {
        self.tell.is_some()
    }

    /// Says what is wanted from now on. Returns at once.
    pub fn want(&self, wanted: Wanted) {
        // Without the thread nobody listens, and nothing is answered: forwarding does not depend on it.
        let _ = self.tell.as_ref().map(|tell| tell.send(wanted));
    }

    /// What is wrong now.
    pub fn problems(&self) -> BTreeMap<PathBuf, String> {
        self.problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Starts the thread.
pub fn start() -> io::Result<Echo> {
    let (tell, told) = mpsc::channel();
    let problems = Problems::default();
    let shown = problems.clone();
    std::thread::Builder::new()
        .name("portico-echo".into())
        .spawn(move || run(&told, &shown))?;
    Ok(Echo {
        tell: Some(tell),
        problems,
    })
}

/// What was done in a namespace, and when it is looked at again.
struct Done {
    namespace: Namespace,
    due: Instant,
}

fn run(told: &Receiver<Wanted>, problems: &Problems) {
    let mut wanted = Wanted::new();
    let mut done: BTreeMap<PathBuf, Done> = BTreeMap::new();
    loop {
        let now = Instant::now();
        let due = done.values().map(|done| done.due).min();
        let wait = due.map_or(RECHECK, |due| due.saturating_duration_since(now));
        match told.recv_timeout(wait) {
            Ok(newer) => wanted = told.try_iter().last().unwrap_or(newer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let mut wrong = BTreeMap::new();
        // A task that is none any more, in a namespace that may live on.
        for (path, _) in done.extract_if(.., |path, _| !wanted.contains_key(path)) {
            let _gone_is_as_good = forget(&path);
        }
        for (path, namespace) in &wanted {
            let now = Instant::now();
            let same = |done: &&Done| done.namespace == *namespace && done.due > now;
            if done.get(path).filter(same).is_some() {
                if let Some(old) = lock(problems).get(path) {
                    wrong.insert(path.clone(), old.clone());
                }
                continue;
            }
            let outcome = keep(path, &namespace.addresses);
            let due = now + if outcome.is_ok() { RECHECK } else { RETRY };
            if let Err(error) = outcome {
                wrong.insert(path.clone(), format!("VIPs do not answer ping here: {error}"));
            }
            let namespace = namespace.clone();
            done.insert(path.clone(), Done { namespace, due });
        }
        *lock(problems) = wrong;
    }
}

fn lock(problems: &Problems) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, String>> {
    problems.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the namespace at a path have these addresses and no others of ours.
pub fn keep(path: &Path, wanted: &BTreeSet<IpAddr>) -> io::Result<()> {
    let namespace = File::open(path)?;
    netns::within(namespace.as_fd(), || {
        netlink::run(async |handle| {
            let found = ours(&handle).await?;
            let have: BTreeSet<IpAddr> = found.iter().filter_map(destination).collect();
            for route in found {
                if destination(&route).is_none_or(|address| !wanted.contains(&address)) {
                    settle(handle.route().del(route).execute().await, libc::ESRCH)?;
                }
            }
            for address in wanted.difference(&have) {
                settle(handle.route().add(route(*address)).execute().await, libc::EEXIST)?;
            }
            Ok(())
        })
    })
}

/// Removes what is ours from the namespace at a path; how many there were.
pub fn forget(path: &Path) -> io::Result<usize> {
    let count = count(path)?;
    if count > 0 {
        keep(path, &BTreeSet::new())?;
    }
    Ok(count)
}

/// How many of ours the namespace at a path has.
pub fn count(path: &Path) -> io::Result<usize> {
    let namespace = File::open(path)?;
    netns::within(namespace.as_fd(), || {
        netlink::run(async |handle| Ok(ours(&handle).await?.len()))
    })
}

/// A way to each network namespace of the machine whose cookie is among these.
pub fn namespaces(cookies: &HashSet<u64>) -> Vec<PathBuf> {
    let children = |folder: &str| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let of_processes = children("/proc").into_iter().filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let named = ["/run/netns", "/run/docker/netns", "/var/run/docker/netns"];
    let mut seen = HashSet::new();
    of_processes
        .map(|process| process.join("ns/net"))
        .chain(named.into_iter().flat_map(children))
        .filter(|path| {
            // A process that has ended, or a name without its mount.
            let identity = std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
            identity.is_ok_and(|identity| seen.insert(identity))
        })
        .filter(|path| {
            let cookie = File::open(path).and_then(|file| netns::within(file.as_fd(), netns::own_cookie));
            cookie.is_ok_and(|cookie| cookies.contains(&cookie))
        })
        .collect()
}

/// All routes of ours in the calling thread's namespace.
async fn ours(handle: &Handle) -> Result<Vec<RouteMessage>, rtnetlink::Error> {
    let mut found = Vec::new();
    for question in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let routes = handle.route().get(question).execute();
        let routes: Vec<RouteMessage> = routes.try_collect().await?;
        found.extend(routes.into_iter().filter(|route| {
            route.header.protocol == RouteProtocol::Other(PROTOCOL) && route.header.kind == RouteType::Local
        }));
    }
    Ok(found)
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some((*address).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    })
}

fn route(address: IpAddr) -> RouteMessage {
    let mut route = match address {
        IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(LOOPBACK)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .output_interface(LOOPBACK)
            .build(),
    };
    route.header.table = TABLE_LOCAL;
    route.header.protocol = RouteProtocol::Other(PROTOCOL);
    route.header.scope = RouteScope::Host;
    route.header.kind = RouteType::Local;
    route
}

/// What is so already is as good.
fn settle(done: Result<(), rtnetlink::Error>, already: i32) -> Result<(), rtnetlink::Error> {
    match done {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -already => Ok(()),
        other => other,
    }
}
