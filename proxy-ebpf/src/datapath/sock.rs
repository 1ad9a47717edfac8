// SPDX-License-Identifier: MIT OR Apache-2.0
//! Socket hooks: a VIP becomes a backend when the socket connects, before a packet exists.
//!
//! Nothing is translated per packet and the server sees the client's own address. What a socket asked for is
//! kept in one entry per (socket, backend), so that getpeername and recvmsg answer with it; UDP sockets that do
//! not connect keep their backend in an entry per (socket, VIP) until it goes away.

use super::{
    Maps,
    select::{Who, select},
};
use crate::abi::{
    Backend, Counter, FrontendKey, SockKey, SockPeer,
    backend::REMOTE,
    frontend::{PUBLISHED, VIP},
    limits::SCOPE_NETWORKS_MAX,
    schedule::NAMESPACE,
    scope::HOST,
    sock::{AFFINITY, REVERSE},
    tally::OPENED,
};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Netns cookie of the socket.
    pub namespace: u64,
    /// Socket cookie.
    pub socket: u64,
    /// IP protocol.
    pub protocol: u8,
    /// Now, in ticks.
    pub now: u32,
}

impl Caller {
    /// A namespace is a client; it has no address yet that could be one.
    #[inline(always)]
    fn who(&self) -> Who {
        Who {
            client: self.namespace,
            flow: self.socket,
            kind: NAMESPACE,
            now: self.now,
        }
    }
}

/// An IPv4 address and port, both in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Network order.
    pub addr_be: u32,
    /// Network order.
    pub port_be: u16,
}

/// What the hook does with the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: leave it.
    Pass,
    /// Use this address instead.
    Use(Address),
    /// A VIP or published port without backends: fail with ECONNREFUSED.
    Refuse,
}

/// `connect()`.
#[inline(always)]
pub fn connect<M: Maps>(maps: &M, caller: Caller, to: Address) -> Verdict {
    match choose(maps, caller, to) {
        Choice::NotOurs => Verdict::Pass,
        Choice::None => refuse(maps),
        Choice::Backend(id, address) => {
            remember(maps, caller, REVERSE, address, to, id);
            maps.tally(id, OPENED);
            maps.count(Counter::SockConnect);
            Verdict::Use(address)
        }
    }
}

/// `sendto()`, `sendmsg()` with an address on a UDP socket.
#[inline(always)]
pub fn sendmsg<M: Maps>(maps: &M, caller: Caller, to: Address) -> Verdict {
    let key = key(caller, AFFINITY, to);
    if let Some(peer) = maps.sock(&key)
        && maps.backend(peer.backend).is_some()
    {
        return Verdict::Use(Address {
            addr_be: peer.addr_be,
            port_be: peer.port_be,
        });
    }
    match choose(maps, caller, to) {
        Choice::NotOurs => Verdict::Pass,
        Choice::None => refuse(maps),
        Choice::Backend(id, address) => {
            remember(maps, caller, AFFINITY, to, address, id);
            remember(maps, caller, REVERSE, address, to, id);
            maps.tally(id, OPENED);
            maps.count(Counter::SockSendmsg);
            Verdict::Use(address)
        }
    }
}

/// `recvmsg()` and `getpeername()`: the address that the application knows this peer by.
#[inline(always)]
pub fn reverse<M: Maps>(maps: &M, caller: Caller, from: Address) -> Verdict {
    match maps.sock(&key(caller, REVERSE, from)) {
        Some(peer) => Verdict::Use(Address {
            addr_be: peer.addr_be,
            port_be: peer.port_be,
        }),
        None => Verdict::Pass,
    }
}

enum Choice {
    NotOurs,
    None,
    Backend(u32, Address),
}

#[inline(always)]
fn choose<M: Maps>(maps: &M, caller: Caller, to: Address) -> Choice {
    let Some(scope) = maps.scope(caller.namespace) else {
        return Choice::NotOurs;
    };
    for i in 0..SCOPE_NETWORKS_MAX {
        if i as u32 >= scope.count {
            break;
        }
        let mut key = FrontendKey {
            network: scope.networks[i],
            addr_be: to.addr_be,
            port_be: to.port_be,
            protocol: caller.protocol,
            kind: VIP,
        };
        let mut found = maps.frontend(&key);
        if found.is_none() {
            key.port_be = 0;
            key.protocol = 0;
            found = maps.frontend(&key);
        }
        if let Some(frontend) = found {
            return match select(maps, frontend, &caller.who()) {
                Some((id, backend)) => Choice::Backend(id, vip_target(backend, to)),
                None => Choice::None,
            };
        }
    }
    if scope.flags & HOST != 0 && (is_loopback(to.addr_be) || maps.is_local_addr(to.addr_be)) {
        let key = FrontendKey {
            port_be: to.port_be,
            protocol: caller.protocol,
            kind: PUBLISHED,
            ..Default::default()
        };
        if let Some(frontend) = maps.frontend(&key) {
            return match select(maps, frontend, &caller.who()) {
                Some((id, backend)) => {
                    Choice::Backend(id, published_target(backend, frontend.target_port_be, to))
                }
                None => Choice::None,
            };
        }
    }
    Choice::NotOurs
}

#[inline(always)]
fn vip_target(backend: &Backend, to: Address) -> Address {
    let port_be = if backend.port_be == 0 {
        to.port_be
    } else {
        backend.port_be
    };
    Address {
        addr_be: backend.addr_be,
        port_be,
    }
}

/// The node's own processes reach a local task over the gateway bridge. A remote one is reached through its
/// node's published port, where that node chooses again: the socket layer has no tunnel.
#[inline(always)]
fn published_target(backend: &Backend, target_port_be: u16, to: Address) -> Address {
    if backend.flags & REMOTE != 0 {
        return Address {
            addr_be: backend.node_be,
            port_be: to.port_be,
        };
    }
    let port_be = if target_port_be == 0 {
        to.port_be
    } else {
        target_port_be
    };
    Address {
        addr_be: backend.addr_be,
        port_be,
    }
}

#[inline(always)]
fn is_loopback(addr_be: u32) -> bool {
    u32::from_be(addr_be) >> 24 == 127
}

#[inline(always)]
fn refuse<M: Maps>(maps: &M) -> Verdict {
    maps.count(Counter::SockNoBackend);
    Verdict::Refuse
}

#[inline(always)]
fn key(caller: Caller, side: u8, address: Address) -> SockKey {
    SockKey {
        cookie: caller.socket,
        addr_be: address.addr_be,
        port_be: address.port_be,
        protocol: caller.protocol,
        side,
    }
}

#[inline(always)]
fn remember<M: Maps>(maps: &M, caller: Caller, side: u8, at: Address, peer: Address, backend: u32) {
    maps.set_sock(
        &key(caller, side, at),
        &SockPeer {
            addr_be: peer.addr_be,
            backend,
            port_be: peer.port_be,
            _pad: 0,
        },
    );
}
