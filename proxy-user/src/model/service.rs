// SPDX-License-Identifier: MIT OR Apache-2.0
//! Services and tasks in force: checked, resolved, and complete in themselves, so that a kept version does not
//! depend on anything that has changed around it.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use super::{
    Family, FrontendAddr, HealthCheck, NetworkId, NodeAddr, Policy, Protocol, ServiceName, TaskAddr, TaskId,
    TaskName, VipAddr, VipPort,
};

/// A service in force. Written by the Writer only; lives until its provider drops it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Virtual addresses.
    pub vips: Vec<Vip>,
    /// Ports published on every node.
    pub ports: Vec<PublishedPort>,
    /// Who serves it.
    pub tasks: Vec<Arc<Task>>,
    /// Who serves its VIPs besides the tasks.
    pub backends: Vec<PlainBackend>,
    /// How its members are checked.
    pub health: Option<Box<HealthCheck>>,
    /// How its flows are spread, and who may open them.
    pub policy: Arc<Policy>,
    /// Its source does not list it any more; kept so that clients are refused at once.
    pub remembered: bool,
}

impl Service {
    /// The addresses of its frontends.
    pub fn frontends(&self) -> impl Iterator<Item = FrontendAddr> {
        let vips = self.vips.iter().map(Vip::frontend);
        let ports = self.ports.iter().map(|port| FrontendAddr::Published {
            port: port.published,
            protocol: port.protocol,
        });
        vips.chain(ports)
    }
}

/// An address, with the port where there is one.
pub(super) fn vip_text(address: VipAddr, port: Option<VipPort>) -> String {
    match port {
        None => address.to_string(),
        Some(port) => {
            let with_port = SocketAddr::new(address.0, port.port);
            format!("{with_port}/{}", port.protocol)
        }
    }
}

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The network that it belongs to.
    pub network: NetworkId,
    /// That network's name, for people.
    pub network_name: Arc<str>,
    /// The address.
    pub address: VipAddr,
    /// The one port that it serves; `None` = every port and protocol.
    pub port: Option<VipPort>,
}

impl Vip {
    /// Reads `ADDRESS`, `ADDRESS:PORT` (TCP) or `ADDRESS:PORT/PROTOCOL`.
    pub fn parse(text: &str) -> Result<(VipAddr, Option<VipPort>), String> {
        let (head, protocol) = match text.split_once('/') {
            Some((head, protocol)) => (head, Some(protocol)),
            None => (text, None),
        };
        let (address, port) = match head.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, rest)) => (address, Some(rest.strip_prefix(':').unwrap_or(rest))),
            // More than one colon outside brackets is an IPv6 address.
            None if head.matches(':').count() == 1 => {
                let (address, port) = head.split_once(':').unwrap_or((head, ""));
                (address, Some(port))
            }
            None => (head, None),
        };
        // Without a port the text after the slash is a prefix length, or nonsense.
        let Some(port) = port else {
            return VipAddr::parse(if protocol.is_some() { text } else { address })
                .map(|address| (address, None))
                .map_err(|error| error.to_string());
        };
        let address = VipAddr::parse(address).map_err(|error| error.to_string())?;
        let number = port.parse().ok().filter(|port| *port != 0);
        let port = number.ok_or_else(|| format!("'{port}' is not a port (1 to 65535)"))?;
        let name = protocol.unwrap_or("tcp");
        let protocol = Protocol::parse(name).ok_or_else(|| format!("'{name}' is neither tcp nor udp"))?;
        Ok((address, Some(VipPort { port, protocol })))
    }

    /// The address, with the port where there is one.
    pub fn text(&self) -> String {
        vip_text(self.address, self.port)
    }

    /// Its kind of address, which is that of its backends.
    pub fn family(&self) -> Family {
        Family::of(self.address.0)
    }

    /// The frontend that it is.
    pub fn frontend(&self) -> FrontendAddr {
        FrontendAddr::Vip {
            network: self.network,
            address: self.address,
            port: self.port,
        }
    }
}

/// A port that every node of the cluster answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// The port on the nodes.
    pub published: u16,
    /// The port of the tasks.
    pub target: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The source does not say the protocol; this one is served because it may be it.
    pub guessed: bool,
}

/// A backend that is no task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlainBackend {
    /// Its address.
    pub address: TaskAddr,
    /// Its port, whatever port the client used.
    pub port: u16,
    /// Its share of new flows; 0 = none.
    pub weight: u8,
    /// Gets no new flow, keeps the old ones.
    pub draining: bool,
}

/// A task in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub name: TaskName,
    /// Where it runs.
    pub place: Place,
    /// Its addresses on its networks, one of each family.
    pub networks: BTreeMap<(NetworkId, Family), TaskAddr>,
    /// The address that names it in the tunnel: an IPv4 one if it has any.
    pub ingress: TaskAddr,
    /// The tunnel's name for it; without an IPv4 address it has none.
    pub id: Option<TaskId>,
    /// Its share of new flows; 0 = none.
    pub weight: u8,
    /// Gets no new flow, keeps the old ones.
    pub draining: bool,
}

/// Where a task runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this node.
    Here {
        /// Path of its network namespace.
        netns: Option<PathBuf>,
    },
    /// On another one.
    There {
        /// That node's end of the tunnel.
        node: NodeAddr,
    },
}

impl Task {
    /// The namespace path, when the task runs on this node and has one of its own.
    pub fn netns(&self) -> Option<&PathBuf> {
        match &self.place {
            Place::Here { netns } => netns.as_ref(),
            Place::There { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_is_an_address_or_one_port_of_it() {
        let read = |text: &str| {
            Vip::parse(text).map(|(address, port)| (address.to_string(), port.map(|port| port.to_string())))
        };
        let port = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("10.0.1.2", Ok(("10.0.1.2".to_owned(), None))),
            ("10.0.1.2:80", Ok(("10.0.1.2".into(), port("80/tcp")))),
            ("10.0.1.2:53/udp", Ok(("10.0.1.2".into(), port("53/udp")))),
            ("[10.0.1.2]:80", Ok(("10.0.1.2".into(), port("80/tcp")))),
            ("fd00::2", Ok(("fd00::2".into(), None))),
            ("[fd00::2]:80", Ok(("fd00::2".into(), port("80/tcp")))),
            ("[fd00::2]:53/udp", Ok(("fd00::2".into(), port("53/udp")))),
            ("10.0.1.2:0", Err("'0' is not a port (1 to 65535)".to_owned())),
            ("10.0.1.2:", Err("'' is not a port (1 to 65535)".into())),
            ("10.0.1.2:80/xtp", Err("'xtp' is neither tcp nor udp".into())),
            ("10.0.1.2/24", Err("'10.0.1.2/24' is not an address".into())),
            ("10.0.1.2/tcp", Err("'10.0.1.2/tcp' is not an address".into())),
            ("x:80", Err("'x' is not an address".into())),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
