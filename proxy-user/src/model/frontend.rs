// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frontends: the addresses that clients use.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::{Backend, NetworkId, Policy, ServiceName, VipAddr};

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Lower-case name, as in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl Protocol {
    /// Reads a name from configuration.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one port that a VIP serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipPort {
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for VipPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// Where a frontend is reached; its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendAddr {
    /// A VIP, for every port and protocol or for one.
    Vip {
        /// The network that it belongs to.
        network: NetworkId,
        /// The address.
        address: VipAddr,
        /// `None` = every port and protocol.
        port: Option<VipPort>,
    },
    /// A port on every address of the node.
    Published {
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
}

impl fmt::Display for FrontendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrontendAddr::Vip {
                network,
                address,
                port: None,
            } => write!(f, "{address}@{:08x}", network.get()),
            FrontendAddr::Vip {
                network,
                address,
                port: Some(port),
            } => {
                let with_port = SocketAddr::new(address.0, port.port);
                write!(f, "{with_port}/{}@{:08x}", port.protocol, network.get())
            }
            FrontendAddr::Published { port, protocol } => write!(f, "*:{port}/{protocol}"),
        }
    }
}

/// A frontend and who serves it. Derived by the Writer from a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The service that it belongs to.
    pub service: ServiceName,
    /// Port of the tasks; 0 = as the client sent it.
    pub target_port: u16,
    /// How flows are spread, and who may open them.
    pub policy: Arc<Policy>,
    /// Who serves it, draining ones included.
    pub backends: Vec<Backend>,
}
