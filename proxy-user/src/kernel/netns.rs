// SPDX-License-Identifier: MIT OR Apache-2.0
//! Facts about a network namespace, read from inside on a thread of its own.

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    path::Path,
};

use super::netlink::{self, Link};

/// What the agent needs to know of a task's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// `SO_NETNS_COOKIE` of a socket opened inside (socket(7), Linux 5.14).
    pub cookie: u64,
    /// Its way out; `None` while the namespace has no default route through a veth of the agent's namespace.
    pub gateway: Option<GatewayPort>,
    /// IPv4 addresses of all its interfaces.
    pub addresses: Vec<Ipv4Addr>,
}

/// A task's gateway interface, both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayPort {
    /// The task's address on the gateway bridge.
    pub address: Ipv4Addr,
    /// MAC of the task's interface.
    pub mac: [u8; 6],
    /// Interface index of the veth's other end, in the agent's namespace.
    pub host_ifindex: u32,
    /// MAC of the bridge (or of the other end, when it is in no bridge).
    pub gateway_mac: [u8; 6],
}

/// Why a namespace could not be read.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {path}: {operation}: {source}")]
pub struct NetnsError {
    /// The path given.
    pub path: String,
    /// The step that failed.
    pub operation: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// Linux 5.14, include/uapi/asm-generic/socket.h; newer than the libc crate's list for some targets.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// What is read inside.
struct Inside {
    cookie: u64,
    gateway: Option<(Link, Ipv4Addr)>,
    addresses: Vec<Ipv4Addr>,
}

/// Enters the namespace at `path` on a thread of its own and reads its facts.
pub fn inspect(path: &Path) -> Result<NamespaceFacts, NetnsError> {
    let error = |operation| {
        move |source| NetnsError {
            path: path.display().to_string(),
            operation,
            source,
        }
    };
    let namespace = File::open(path).map_err(error("open"))?;
    let inside = within(namespace.as_fd(), read_inside).map_err(error("read"))?;
    let gateway = match inside.gateway {
        Some((task, address)) => other_end(&task)
            .map_err(error("gateway"))?
            .map(|(host, gateway_mac)| GatewayPort {
                address,
                mac: task.mac,
                host_ifindex: host.ifindex,
                gateway_mac,
            }),
        None => None,
    };
    Ok(NamespaceFacts {
        cookie: inside.cookie,
        gateway,
        addresses: inside.addresses,
    })
}

/// A TCP socket that belongs to the namespace at `path`, or to the agent's own; not connected.
pub fn tcp_socket(path: Option<&Path>) -> io::Result<std::net::TcpStream> {
    let make = || {
        let kind = socket2::Type::STREAM.nonblocking();
        socket2::Socket::new(socket2::Domain::IPV4, kind, Some(socket2::Protocol::TCP)).map(Into::into)
    };
    match path {
        None => make(),
        Some(path) => within(File::open(path)?.as_fd(), make),
    }
}

/// Runs `work` in the namespace, on a thread that ends with it: no other thread ever changes its namespace.
pub(super) fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: changes the calling thread's namespace only.
                if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                work()
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")))
    })
}

fn read_inside() -> io::Result<Inside> {
    let cookie = own_cookie()?;
    let addresses = netlink::addresses()?;
    let gateway_name = netlink::default_route_interfaces()?.into_iter().next();
    let gateway = match gateway_name {
        None => None,
        Some(name) => {
            let links = netlink::run(async |handle| netlink::links(&handle).await)?;
            let link = links.into_iter().find(|l| l.name == name);
            let address = addresses.iter().find(|(n, _)| *n == name).map(|(_, a)| *a);
            link.zip(address)
        }
    };
    let addresses = addresses
        .into_iter()
        .map(|(_, a)| a)
        .filter(|a| !a.is_loopback())
        .collect();
    Ok(Inside {
        cookie,
        gateway,
        addresses,
    })
}

/// The agent's end of a task's veth, and the MAC that the task expects its gateway to have.
fn other_end(task: &Link) -> io::Result<Option<(Link, [u8; 6])>> {
    let Some(peer) = task.peer else { return Ok(None) };
    netlink::run(async |handle| {
        // The index is only meaningful if that interface points back at the task's.
        let host = netlink::link_at(&handle, peer).await?;
        let Some(host) = host.filter(|host| host.peer == Some(task.ifindex)) else {
            return Ok(None);
        };
        let bridge = match host.master {
            Some(master) => netlink::link_at(&handle, master).await?,
            None => None,
        };
        let mac = bridge.map_or(host.mac, |bridge| bridge.mac);
        Ok(Some((host, mac)))
    })
}

/// Netns cookie of the calling thread's namespace.
pub fn own_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and length are valid for the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}
