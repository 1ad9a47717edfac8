// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links and addresses: what is there, and the tunnel device.

use std::{
    ffi::{CStr, CString},
    io,
    net::Ipv4Addr,
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use proxy_ebpf::abi::settings::TUNNEL_PORT;
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};

/// Name of the tunnel device.
pub const TUNNEL_DEVICE: &str = "portico0";

/// A link, as far as the agent cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Hardware address; zero when it has none.
    pub mac: [u8; 6],
    /// Index of the other end (veth) or lower device, possibly in another namespace.
    pub peer: Option<u32>,
    /// Bridge that it is a port of.
    pub master: Option<u32>,
    /// Maximum transmission unit, bytes.
    pub mtu: u32,
    /// Whether it is a vxlan device in external (metadata) mode on our port.
    pub is_our_tunnel: bool,
    /// Whether the kernel itself made it (veth, bridge, vlan, …): a driver's own interface has no kind
    /// (IFLA_INFO_KIND, rtnetlink(7)). sysfs would say it as well, but of another namespace.
    pub is_virtual: bool,
}

/// Runs netlink requests in the calling thread's namespace.
pub fn run<T>(work: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await.map_err(netlink_error);
        connection.abort();
        result
    })
}

/// All links of the calling thread's namespace.
pub async fn links(handle: &Handle) -> Result<Vec<Link>, rtnetlink::Error> {
    let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    Ok(messages.into_iter().map(link).collect())
}

/// One link of the calling thread's namespace, asked for by its index: a node has hundreds, and a dump of all of them
/// for each task would be the square of that.
pub async fn link_at(handle: &Handle, ifindex: u32) -> Result<Option<Link>, rtnetlink::Error> {
    let mut found = handle.link().get().match_index(ifindex).execute();
    match found.try_next().await {
        Ok(message) => Ok(message.map(link)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        mac: [0; 6],
        peer: None,
        master: None,
        mtu: 0,
        is_our_tunnel: false,
        is_virtual: false,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.is_our_tunnel = is_our_tunnel(&infos);
                link.is_virtual = infos.iter().any(|info| matches!(info, LinkInfo::Kind(_)));
            }
            _ => {}
        }
    }
    link
}

fn is_our_tunnel(infos: &[LinkInfo]) -> bool {
    let vxlan = infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Vxlan)));
    let data = infos.iter().find_map(|i| match i {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    let Some(data) = data else { return false };
    vxlan
        && data.iter().any(|d| matches!(d, InfoVxlan::CollectMetadata(true)))
        && data.iter().any(|d| matches!(d, InfoVxlan::Port(TUNNEL_PORT)))
}

/// The tunnel device: the one that is there, or a new one; up in any case.
pub fn ensure_tunnel() -> io::Result<u32> {
    run(async |handle| {
        let found = links(&handle)
            .await?
            .into_iter()
            .find(|l| l.name == TUNNEL_DEVICE);
        if let Some(link) = found.as_ref().filter(|l| l.is_our_tunnel) {
            handle
                .link()
                .set(LinkUnspec::new_with_index(link.ifindex).up().build())
                .execute()
                .await?;
            return Ok(link.ifindex);
        }
        if let Some(link) = found {
            handle.link().del(link.ifindex).execute().await?;
        }
        let message = LinkVxlan::new(TUNNEL_DEVICE, 0)
            .collect_metadata(true)
            .port(TUNNEL_PORT)
            .learning(false)
            .up()
            .build();
        handle.link().add(message).execute().await?;
        let link = links(&handle)
            .await?
            .into_iter()
            .find(|l| l.name == TUNNEL_DEVICE);
        link.map(|l| l.ifindex).ok_or(rtnetlink::Error::RequestFailed)
    })
}

/// The tunnel device's index, if it is there and ours.
pub fn tunnel() -> io::Result<Option<u32>> {
    let all = run(async |handle| links(&handle).await)?;
    let ours = all
        .into_iter()
        .find(|link| link.name == TUNNEL_DEVICE && link.is_our_tunnel);
    Ok(ours.map(|link| link.ifindex))
}

/// Removes a link.
pub fn remove_link(ifindex: u32) -> io::Result<()> {
    run(async |handle| handle.link().del(ifindex).execute().await)
}

/// IPv4 addresses of every interface of the calling thread's namespace (getifaddrs(3)).
pub fn addresses() -> io::Result<Vec<(String, Ipv4Addr)>> {
    let mut head: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs fills the pointer or fails.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = head;
    while !next.is_null() {
        // SAFETY: a node of the list that getifaddrs made, alive until freeifaddrs.
        let entry = unsafe { &*next };
        // SAFETY: ifa_addr may be null; otherwise its family says what it points to.
        if !entry.ifa_addr.is_null() && unsafe { (*entry.ifa_addr).sa_family } as i32 == libc::AF_INET {
            // SAFETY: AF_INET means sockaddr_in, and ifa_name is a C string.
            let (addr, name) = unsafe {
                (
                    *entry.ifa_addr.cast::<libc::sockaddr_in>(),
                    CStr::from_ptr(entry.ifa_name),
                )
            };
            let name = name.to_string_lossy().into_owned();
            found.push((name, Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr))));
        }
        next = entry.ifa_next;
    }
    // SAFETY: the list came from getifaddrs and is not used any more.
    unsafe { libc::freeifaddrs(head) };
    Ok(found)
}

/// Name of an interface of the calling thread's namespace.
pub fn interface_name(ifindex: u32) -> io::Result<String> {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the call requires.
    if unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled with a C string by the call.
    Ok(unsafe { CStr::from_ptr(name.as_ptr()) }
        .to_string_lossy()
        .into_owned())
}

/// Index of an interface of the calling thread's namespace.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let c_name = CString::new(name)?;
    // SAFETY: a valid C string.
    match unsafe { libc::if_nametoindex(c_name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Interfaces of the IPv4 default routes of the calling thread's namespace.
pub fn default_route_interfaces() -> io::Result<Vec<String>> {
    // thread-self, not self: the thread may be in another namespace than the process.
    let table = std::fs::read_to_string("/proc/thread-self/net/route")?;
    Ok(parse_default_routes(&table))
}

fn parse_default_routes(table: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [name, "00000000", _, _, _, _, _, "00000000", ..] = fields[..]
            && !names.iter().any(|n| n == name)
        {
            names.push(name.to_owned());
        }
    }
    names
}

fn netlink_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_default_routes;

    #[test]
    fn default_routes_are_found_and_subnets_are_not() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth1\t00000000\t010012AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(parse_default_routes(table), ["eth1"]);
    }
}
