// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two kinds of address that a socket may ask for, as the socket hooks see them.
//!
//! An IPv6 socket reaches IPv4 by mapped addresses (RFC 4291 section 2.5.5.2), which is how Java and .NET open every
//! connection. The kernel asks the hooks of IPv6 about these, and only for connect() and getpeername(): datagrams with
//! an address go through sendmsg4. So what is remembered of mapped addresses stands in the table of IPv4, where both
//! find it.

use super::{
    Maps,
    sock::{Address, Caller},
};
use crate::abi::{
    Backend, Frontend, FrontendKey, FrontendKey6, SockKey, SockKey6, SockPeer, SockPeer6, backend::IPV6,
    frontend::VIP,
};

/// The other side of a socket's translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer<A> {
    /// Where it is.
    pub address: Address<A>,
    /// The backend's id.
    pub backend: u32,
}

/// An address in network order.
pub trait Ip: Copy + Eq {
    /// Whether a datagram with an address may be sent to the mapped form of another one. The kernel refuses that
    /// (udpv6_sendmsg: ENOTSUPP).
    const SENDS_MAPPED: bool;

    /// The form that an IPv4 address has here.
    fn from_v4(addr_be: u32) -> Self;
    /// The form that it has in [`crate::abi::Event`].
    fn words(self) -> [u32; 4];
    /// A VIP frontend's backend.
    fn of(backend: &Backend) -> Self;
    /// Whether published ports answer on it.
    fn is_own<M: Maps>(self, maps: &M) -> bool;
    /// The frontend that it is in this network.
    fn vip<M: Maps>(self, maps: &M, network: u32, port_be: u16, protocol: u8) -> Option<&Frontend>;
    /// What is remembered at it.
    fn peer<M: Maps>(self, maps: &M, caller: Caller, side: u8, port_be: u16) -> Option<Peer<Self>>;
    /// Remembers it.
    fn set_peer<M: Maps>(self, maps: &M, caller: Caller, side: u8, port_be: u16, peer: Peer<Self>);
}

/// IPv4.
impl Ip for u32 {
    const SENDS_MAPPED: bool = true;

    #[inline(always)]
    fn from_v4(addr_be: u32) -> u32 {
        addr_be
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [0, 0, MAPPED, self]
    }

    #[inline(always)]
    fn of(backend: &Backend) -> u32 {
        backend.addr_be
    }

    #[inline(always)]
    fn is_own<M: Maps>(self, maps: &M) -> bool {
        u32::from_be(self) >> 24 == 127 || maps.is_local_addr(self)
    }

    #[inline(always)]
    fn vip<M: Maps>(self, maps: &M, network: u32, port_be: u16, protocol: u8) -> Option<&Frontend> {
        maps.frontend(&FrontendKey {
            network,
            addr_be: self,
            port_be,
            protocol,
            kind: VIP,
        })
    }

    #[inline(always)]
    fn peer<M: Maps>(self, maps: &M, caller: Caller, side: u8, port_be: u16) -> Option<Peer<u32>> {
        let peer = maps.sock(&key(caller, self, side, port_be))?;
        Some(Peer {
            address: Address {
                addr: peer.addr_be,
                port_be: peer.port_be,
            },
            backend: peer.backend,
        })
    }

    #[inline(always)]
    fn set_peer<M: Maps>(self, maps: &M, caller: Caller, side: u8, port_be: u16, peer: Peer<u32>) {
        let value = SockPeer {
            addr_be: peer.address.addr,
            backend: peer.backend,
            port_be: peer.address.port_be,
            _pad: 0,
        };
        maps.set_sock(&key(caller, self, side, port_be), &value);
    }
}

#[inline(always)]
fn key(caller: Caller, addr_be: u32, side: u8, port_be: u16) -> SockKey {
    SockKey {
        cookie: caller.socket,
        addr_be,
        port_be,
        protocol: caller.protocol,
        side,
    }
}

/// An IPv6 address: four words in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6(pub [u32; 4]);

impl V6 {
    /// `::1`.
    pub const LOOPBACK: V6 = V6([0, 0, 0, 1_u32.to_be()]);

    /// The IPv4 address that it is the mapped form of.
    #[inline(always)]
    pub fn mapped(self) -> Option<u32> {
        let [a, b, c, addr_be] = self.0;
        (a | b == 0 && c == MAPPED).then_some(addr_be)
    }
}

/// Third word of `::ffff:0:0/96`.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Ip for V6 {
    const SENDS_MAPPED: bool = false;

    #[inline(always)]
    fn from_v4(addr_be: u32) -> V6 {
        V6(addr_be.words())
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        self.0
    }

    #[inline(always)]
    fn of(backend: &Backend) -> V6 {
        if backend.flags & IPV6 != 0 {
            V6(backend.addr6())
        } else {
            V6::from_v4(backend.addr_be)
        }
    }

    /// Of the node's own IPv6 addresses only the loopback one: a socket that the hooks send from it to an IPv4 task
    /// takes the source that fits, which it would not if it asked for another address of the node's.
    #[inline(always)]
    fn is_own<M: Maps>(self, maps: &M) -> bool {
        match self.mapped() {
            Some(addr_be) => addr_be.is_own(maps),
            None => self == V6::LOOPBACK,
        }
    }

    #[inline(always)]
    fn vip<M: Maps>(self, maps: &M, network: u32, port_be: u16, protocol: u8) -> Option<&Frontend> {
        if let Some(addr_be) = self.mapped() {
            return addr_be.vip(maps, network, port_be, protocol);
        }
        maps.frontend6(&FrontendKey6 {
            network,
            addr: self.0,
            port_be,
            protocol,
            kind: VIP,
        })
    }

    #[inline(always)]
    fn peer<M: Maps>(self, maps: &M, caller: Caller, side: u8, port_be: u16) -> Option<Peer<V6>> {
        if let Some(addr_be) = self.mapped()
            && let Some(peer) = addr_be.peer(maps, caller, side, port_be)
        {
            return Some(Peer {
                address: Address {
                    addr: V6::from_v4(peer.address.addr),
                    port_be: peer.address.port_be,
                },
                backend: peer.backend,
            });
        }
        let peer = maps.sock6(&key6(caller, self, side, port_be))?;
        Some(Peer {
            address: Address {
                addr: V6(peer.addr),
                port_be: peer.port_be,
            },
            backend: peer.backend,
        })
    }

    #[inline(always)]
    fn set_peer<M: Maps>(self, maps: &M, caller: Caller, side: u8, port_be: u16, peer: Peer<V6>) {
        // `::1` at the mapped address of a task is the one pair of two kinds.
        if let Some(addr_be) = self.mapped()
            && let Some(other_be) = peer.address.addr.mapped()
        {
            let address = Address {
                addr: other_be,
                port_be: peer.address.port_be,
            };
            let backend = peer.backend;
            return addr_be.set_peer(maps, caller, side, port_be, Peer { address, backend });
        }
        let value = SockPeer6 {
            addr: peer.address.addr.0,
            backend: peer.backend,
            port_be: peer.address.port_be,
            _pad: 0,
        };
        maps.set_sock6(&key6(caller, self, side, port_be), &value);
    }
}

#[inline(always)]
fn key6(caller: Caller, address: V6, side: u8, port_be: u16) -> SockKey6 {
    SockKey6 {
        cookie: caller.socket,
        addr: address.0,
        port_be,
        protocol: caller.protocol,
        side,
        _pad: 0,
    }
}
