// SPDX-License-Identifier: MIT OR Apache-2.0
//! Socket hooks: a VIP becomes a backend when the socket connects, before a packet exists.
//!
//! Nothing is translated per packet and the server sees the client's own address. What a socket asked for is
//! kept in one entry per (socket, backend), so that getpeername and recvmsg answer with it; UDP sockets that do
//! not connect keep their backend in an entry per (socket, VIP) until it goes away.
//!
//! The hooks of IPv4 and IPv6 sockets are the same code over two kinds of address ([`Ip`]).

use super::{
    Maps,
    ip::{Ip, Peer},
    observe,
    select::{Who, select},
};
use crate::abi::{
    Backend, Counter, FrontendKey,
    backend::REMOTE,
    frontend::PUBLISHED,
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
            avoid: 0,
        }
    }
}

/// An address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<A> {
    /// Network order.
    pub addr: A,
    /// Network order.
    pub port_be: u16,
}

/// What the hook does with the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<A> {
    /// Not ours: leave it.
    Pass,
    /// Use this address instead.
    Use(Address<A>),
    /// A VIP or published port without backends: fail with ECONNREFUSED.
    Refuse,
}

/// `connect()`.
#[inline(always)]
pub fn connect<M: Maps, A: Ip>(maps: &M, caller: Caller, to: Address<A>) -> Verdict<A> {
    match choose(maps, caller, to, to.addr.is_own(maps)) {
        Choice::NotOurs => Verdict::Pass,
        Choice::None(network) => refuse(maps, caller, to, network),
        Choice::Backend(id, address, network) => {
            remember(maps, caller, REVERSE, address, to, id);
            maps.tally(id, OPENED);
            let given = Some((id, address));
            observe::socket(maps, Counter::SockConnect, &caller, to, network, given);
            Verdict::Use(address)
        }
    }
}

/// `sendto()`, `sendmsg()` with an address on a UDP socket.
#[inline(always)]
pub fn sendmsg<M: Maps, A: Ip>(maps: &M, caller: Caller, to: Address<A>) -> Verdict<A> {
    if let Some(peer) = to.addr.peer(maps, caller, AFFINITY, to.port_be)
        && maps.backend(peer.backend).is_some()
    {
        return Verdict::Use(peer.address);
    }
    let own = A::SENDS_MAPPED && to.addr.is_own(maps);
    match choose(maps, caller, to, own) {
        Choice::NotOurs => Verdict::Pass,
        Choice::None(network) => refuse(maps, caller, to, network),
        Choice::Backend(id, address, network) => {
            remember(maps, caller, AFFINITY, to, address, id);
            remember(maps, caller, REVERSE, address, to, id);
            maps.tally(id, OPENED);
            let given = Some((id, address));
            observe::socket(maps, Counter::SockSendmsg, &caller, to, network, given);
            Verdict::Use(address)
        }
    }
}

/// `recvmsg()` and `getpeername()`: the address that the application knows this peer by.
#[inline(always)]
pub fn reverse<M: Maps, A: Ip>(maps: &M, caller: Caller, from: Address<A>) -> Verdict<A> {
    match from.addr.peer(maps, caller, REVERSE, from.port_be) {
        Some(peer) => Verdict::Use(peer.address),
        None => Verdict::Pass,
    }
}

enum Choice<A> {
    NotOurs,
    /// Nobody serves it; its network, 0 = a published port.
    None(u32),
    /// Id, address, network.
    Backend(u32, Address<A>, u32),
}

/// `own`: whether published ports answer on the address.
#[inline(always)]
fn choose<M: Maps, A: Ip>(maps: &M, caller: Caller, to: Address<A>, own: bool) -> Choice<A> {
    let Some(scope) = maps.scope(caller.namespace) else {
        return Choice::NotOurs;
    };
    for i in 0..SCOPE_NETWORKS_MAX {
        if i as u32 >= scope.count {
            break;
        }
        let network = scope.networks[i];
        let mut found = to.addr.vip(maps, network, to.port_be, caller.protocol);
        if found.is_none() {
            found = to.addr.vip(maps, network, 0, 0);
        }
        if let Some(frontend) = found {
            return match select(maps, frontend, &caller.who()) {
                Some((id, backend)) => Choice::Backend(id, vip_target(backend, to), network),
                None => Choice::None(network),
            };
        }
    }
    if scope.flags & HOST != 0 && own {
        let key = FrontendKey {
            port_be: to.port_be,
            protocol: caller.protocol,
            kind: PUBLISHED,
            ..Default::default()
        };
        if let Some(frontend) = maps.frontend(&key) {
            return match select(maps, frontend, &caller.who()) {
                Some((id, backend)) => {
                    Choice::Backend(id, published_target(backend, frontend.target_port_be, to), 0)
                }
                None => Choice::None(0),
            };
        }
    }
    Choice::NotOurs
}

#[inline(always)]
fn vip_target<A: Ip>(backend: &Backend, to: Address<A>) -> Address<A> {
    let port_be = if backend.port_be == 0 {
        to.port_be
    } else {
        backend.port_be
    };
    Address {
        addr: A::of(backend),
        port_be,
    }
}

/// The node's own processes reach a local task over the gateway bridge. A remote one is reached through its
/// node's published port, where that node chooses again: the socket layer has no tunnel.
#[inline(always)]
fn published_target<A: Ip>(backend: &Backend, target_port_be: u16, to: Address<A>) -> Address<A> {
    if backend.flags & REMOTE != 0 {
        return Address {
            addr: A::from_v4(backend.node_be),
            port_be: to.port_be,
        };
    }
    let port_be = if target_port_be == 0 {
        to.port_be
    } else {
        target_port_be
    };
    Address {
        addr: A::from_v4(backend.addr_be),
        port_be,
    }
}

#[inline(always)]
fn refuse<M: Maps, A: Ip>(maps: &M, caller: Caller, to: Address<A>, network: u32) -> Verdict<A> {
    observe::socket(maps, Counter::SockNoBackend, &caller, to, network, None);
    Verdict::Refuse
}

#[inline(always)]
fn remember<M: Maps, A: Ip>(
    maps: &M,
    caller: Caller,
    side: u8,
    at: Address<A>,
    address: Address<A>,
    backend: u32,
) {
    at.addr
        .set_peer(maps, caller, side, at.port_be, Peer { address, backend });
}
