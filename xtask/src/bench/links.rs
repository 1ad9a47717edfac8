// SPDX-License-Identifier: MIT OR Apache-2.0
//! The network of a site.
//!
//! Near: `client - lb - origins`, so that what balances is on the only way.
//! Far: `client`, `lb` and `far` are on one bridge (`lan`), as nodes of a cluster are, and the origins are behind
//! `far`. Without a balancer, packets pass both nodes there and back, as those do that a node passes on.

use std::{fmt::Write as _, io, os::fd::AsRawFd as _};

use anyhow::{Result, ensure};

use super::{
    pass,
    plan::Contestant,
    site::{BALANCER, FAR, Site},
};
use crate::cmd;

/// The client's address, the other node's, and the prefix that all of that side share.
pub const CLIENT: &str = "10.1.0.2";
pub const FAR_ADDRESS: &str = "10.1.0.3";
/// The origins' network.
const ORIGINS: &str = "172.18.0.0/16";
/// The nodes' address on it.
const GATEWAY: &str = "172.18.0.1";

impl Site {
    /// Makes all namespaces and the links between them.
    pub(super) fn links(&mut self) -> Result<()> {
        let mut text = String::new();
        let far: &[&str] = if self.row.far { &["lan", FAR] } else { &[] };
        let origins = self.origins();
        let names = origins.iter().map(|(name, _)| name.as_str());
        for name in ["client", "lb", "node"].iter().chain(far).copied().chain(names) {
            writeln!(text, "netns add {}", self.namespace(name))?;
        }
        cmd::feed(cmd::lab("ip").args(["-batch", "-"]), &text)?;
        for name in ["lb"].iter().chain(far).copied() {
            self.no_ipv6(name);
        }
        for (name, _) in &origins {
            self.no_ipv6(name);
        }
        if self.row.far {
            self.lan()?;
        } else {
            let client = self.namespace("client");
            self.batch(
                "lb",
                &format!("link add up0 type veth peer name eth0 netns {client}\n"),
            )?;
        }
        self.batch(
            "lb",
            &format!("link set lo up\naddr add {BALANCER}/24 dev up0\nlink set up0 up\n"),
        )?;
        self.batch(
            "client",
            &format!(
                "link set lo up\naddr add {CLIENT}/24 dev eth0\nlink set eth0 up\nroute add default via {BALANCER}\n"
            ),
        )?;
        if self.row.flows > 0 {
            let clients = Site::clients().into_iter();
            let more: String = clients
                .map(|address| format!("addr add {address}/24 dev eth0\n"))
                .collect();
            self.batch("client", &more)?;
        }
        self.origins_behind(self.gateway())?;
        for name in ["lb", self.gateway()] {
            self.setting(name, "ipv4/ip_forward", "1")?;
        }
        if self.row.far {
            self.routes_over_both()?;
        }
        if self.row.contestant == Contestant::PorticoXdp {
            // What a veth's driver sends back, its other end takes only if it has a program of its own.
            self.taker = Some(self.on_thread("lan", || pass::attach("to-lb"))?);
        }
        // Every port is used often: connections that have ended must not block theirs.
        for name in ["client", "lb"] {
            self.setting(name, "ipv4/ip_local_port_range", "1024 65535")?;
            self.setting(name, "ipv4/tcp_tw_reuse", "1")?;
        }
        Ok(())
    }

    /// What a hundred ports of a bridge tell each other about their IPv6 addresses is nobody's cost. A kernel without
    /// IPv6 has no such setting.
    fn no_ipv6(&self, name: &str) {
        let _ = self.setting(name, "ipv6/conf/all/disable_ipv6", "1");
    }

    /// Where the origins' bridge is.
    pub fn gateway(&self) -> &'static str {
        if self.row.far { FAR } else { "lb" }
    }

    /// A bridge with the client and both nodes.
    fn lan(&self) -> Result<()> {
        let mut text = "link add br0 type bridge mcast_snooping 0\nlink set br0 up\n".to_owned();
        for (name, interface) in [("client", "eth0"), ("lb", "up0"), (FAR, "up0")] {
            let namespace = self.namespace(name);
            writeln!(
                text,
                "link add to-{name} type veth peer name {interface} netns {namespace}\n\
                 link set to-{name} master br0\nlink set to-{name} up"
            )?;
        }
        self.batch("lan", &text)?;
        self.batch(
            FAR,
            &format!("link set lo up\naddr add {FAR_ADDRESS}/24 dev up0\nlink set up0 up\n"),
        )?;
        // From a card, packets come with their checksums; a program in a driver is given those of a veth without.
        self.on_thread("client", || whole_checksums("eth0"))?;
        Ok(())
    }

    /// A node that is no router's shortest way says so (ICMP redirect), and the client would leave it out next time.
    fn routes_over_both(&self) -> Result<()> {
        for name in ["lb", FAR] {
            for interface in ["all", "up0"] {
                self.setting(name, &format!("ipv4/conf/{interface}/send_redirects"), "0")?;
            }
        }
        self.batch("lb", &format!("route add {ORIGINS} via {FAR_ADDRESS}\n"))?;
        if self.row.contestant == Contestant::Direct {
            self.batch(FAR, &format!("route add {CLIENT}/32 via {BALANCER}\n"))?;
        }
        Ok(())
    }

    fn origins_behind(&self, node: &str) -> Result<()> {
        let mut text = format!(
            "link add gwbr type bridge mcast_snooping 0\naddr add {GATEWAY}/16 dev gwbr\nlink set gwbr up\n"
        );
        let origins = self.origins();
        for (number, (name, _)) in origins.iter().enumerate() {
            let namespace = self.namespace(name);
            writeln!(
                text,
                "link add vg{number} type veth peer name eth0 netns {namespace}\n\
                 link set vg{number} master gwbr\nlink set vg{number} up"
            )?;
        }
        self.batch(node, &text)?;
        for (name, address) in &origins {
            self.batch(
                name,
                &format!(
                    "link set lo up\naddr add {address}/16 dev eth0\nlink set eth0 up\n\
                     route add default via {GATEWAY}\n"
                ),
            )?;
        }
        Ok(())
    }
}

/// linux/ethtool.h: `ETHTOOL_STXCSUM` with `struct ethtool_value`.
const ETHTOOL_STXCSUM: u32 = 0x17;

/// Makes the sender compute checksums, as `ethtool -K … tx off` does.
fn whole_checksums(interface: &str) -> Result<()> {
    let mut value: [u32; 2] = [ETHTOOL_STXCSUM, 0];
    // SAFETY: plain integers and a pointer, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // Of the namespace that the thread is in; nothing is sent.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: the request and what it points to live until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    ensure!(
        done == 0,
        "checksums of {interface}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}
