// SPDX-License-Identifier: MIT OR Apache-2.0
//! The key of a frontend, whichever table it stands in.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use proxy_ebpf::{
    abi::{Frontend, FrontendKey, FrontendKey6, PROTO_TCP, PROTO_UDP, frontend::PUBLISHED},
    datapath::Maps,
};

use crate::model::addr::{be, be6, ip6};

/// A frontend's identity in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontKey {
    /// A published port, or a VIP with an IPv4 address.
    V4(FrontendKey),
    /// A VIP with an IPv6 address.
    V6(FrontendKey6),
}

impl FrontKey {
    /// A VIP's. `port_be` in network order; 0 with protocol 0 = every port.
    pub fn vip(network: u32, address: IpAddr, port_be: u16, protocol: u8) -> FrontKey {
        let kind = proxy_ebpf::abi::frontend::VIP;
        match address {
            IpAddr::V4(address) => FrontKey::V4(FrontendKey {
                network,
                addr_be: be(address),
                port_be,
                protocol,
                kind,
            }),
            IpAddr::V6(address) => FrontKey::V6(FrontendKey6 {
                network,
                addr: be6(address),
                port_be,
                protocol,
                kind,
            }),
        }
    }

    /// A published port's.
    pub fn published(port_be: u16, protocol: u8) -> FrontKey {
        FrontKey::V4(FrontendKey {
            port_be,
            protocol,
            kind: PUBLISHED,
            ..FrontendKey::default()
        })
    }

    /// Whether it is a published port's.
    pub fn is_published(&self) -> bool {
        matches!(self, FrontKey::V4(key) if key.kind == PUBLISHED)
    }

    /// Whether it is an IPv4 VIP's of this network; network 0 has none.
    pub fn is_vip_of(&self, network: u32) -> bool {
        matches!(self, FrontKey::V4(key) if network != 0 && key.kind != PUBLISHED && key.network == network)
    }

    /// Its master entry.
    pub fn entry<'a, M: Maps>(&self, maps: &'a M) -> Option<&'a Frontend> {
        match self {
            FrontKey::V4(key) => maps.frontend(key),
            FrontKey::V6(key) => maps.frontend6(key),
        }
    }
}

impl From<FrontendKey> for FrontKey {
    fn from(key: FrontendKey) -> FrontKey {
        FrontKey::V4(key)
    }
}

impl fmt::Display for FrontKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = |number| match number {
            0 => "any".to_owned(),
            PROTO_TCP => "tcp".to_owned(),
            PROTO_UDP => "udp".to_owned(),
            other => other.to_string(),
        };
        match self {
            FrontKey::V4(key) if key.kind == PUBLISHED => {
                write!(f, "*:{}/{}", u16::from_be(key.port_be), protocol(key.protocol))
            }
            FrontKey::V4(key) => {
                let address = Ipv4Addr::from(key.addr_be.to_ne_bytes());
                write!(f, "{address}@{:08x}", key.network)
            }
            FrontKey::V6(key) => {
                write!(f, "{}@{:08x}", ip6(key.addr), key.network)
            }
        }
    }
}
