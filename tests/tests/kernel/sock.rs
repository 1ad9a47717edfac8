// SPDX-License-Identifier: MIT OR Apache-2.0
//! Socket hooks, with real sockets in a namespace whose cookie is in the scope map. Backends listen on loopback
//! addresses of that namespace; the VIP exists nowhere.

use std::{
    fs::File,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use proxy_ebpf::abi::*;
use proxy_user::{
    cli::doctor::cgroup2_mount,
    kernel::{netns::own_cookie, object::SOCK_PROGRAMS},
    model::addr::be6,
};

use crate::support::*;

pub const NETWORK: u32 = 9;
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const EMPTY_VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const A: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
pub const B: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 2);

/// A VIP over A and B for this namespace, hooks attached at the cgroup root: they act for this namespace only.
pub fn attached() -> World {
    let mut world = World::new(Settings::SMALL);
    for (id, addr) in [(1, A), (2, B)] {
        world.backend(
            id,
            Backend {
                addr_be: be(addr),
                ..Default::default()
            },
        );
    }
    world.frontend(vip(VIP), 1, &[1, 2], 0);
    world.frontend(vip(EMPTY_VIP), 2, &[], 0);
    let mut networks = [0; limits::SCOPE_NETWORKS_MAX];
    networks[0] = NETWORK;
    let scope = Scope {
        count: 1,
        flags: 0,
        networks,
    };
    world
        .map("SCOPES")
        .insert(own_cookie().unwrap(), scope, 0)
        .unwrap();
    let cgroup = File::open(cgroup2_mount().expect("cgroup v2 is mounted")).unwrap();
    for (name, _) in SOCK_PROGRAMS {
        let program: &mut CgroupSockAddr = world.ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.attach(&cgroup, CgroupAttachMode::Single).unwrap();
    }
    world
}

fn vip(addr: Ipv4Addr) -> FrontendKey {
    FrontendKey {
        network: NETWORK,
        addr_be: be(addr),
        kind: frontend::VIP,
        ..Default::default()
    }
}

#[test]
fn tcp_connects_take_turns_and_getpeername_says_the_vip() {
    if !privileged("tcp_connects_take_turns_and_getpeername_says_the_vip") {
        return;
    }
    in_namespace(|| {
        let mut world = attached();
        let a = TcpListener::bind((A, 7000)).unwrap();
        let b = TcpListener::bind((B, 7000)).unwrap();
        let first = TcpStream::connect((VIP, 7000)).unwrap();
        let second = TcpStream::connect((VIP, 7000)).unwrap();
        for stream in [&first, &second] {
            assert_eq!(stream.peer_addr().unwrap(), SocketAddr::from((VIP, 7000)));
        }
        let (at_a, from_a) = a.accept().unwrap();
        let (_at_b, from_b) = b.accept().unwrap();
        let mut sources = [from_a, from_b];
        let mut locals = [first.local_addr().unwrap(), second.local_addr().unwrap()];
        sources.sort();
        locals.sort();
        assert_eq!(sources, locals, "each backend sees the client's own address");
        assert_eq!(at_a.local_addr().unwrap(), SocketAddr::from((A, 7000)));
        assert_eq!(world.counter(Counter::SockConnect), 2);
        let once = Tally { opened: 1, open: 0 };
        assert_eq!([world.tally(1), world.tally(2)], [once; 2]);
    });
}

#[test]
fn a_vip_without_backends_refuses_at_once() {
    if !privileged("a_vip_without_backends_refuses_at_once") {
        return;
    }
    in_namespace(|| {
        let world = attached();
        assert_eq!(
            TcpStream::connect((EMPTY_VIP, 80)).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        assert_eq!(
            udp.send_to(b"x", (EMPTY_VIP, 80)).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        assert_eq!(world.counter(Counter::SockNoBackend), 2);
    });
}

#[test]
fn another_namespace_is_left_alone() {
    if !privileged("another_namespace_is_left_alone") {
        return;
    }
    in_namespace(|| {
        let mut world = attached();
        world
            .map::<u64, Scope>("SCOPES")
            .remove(&own_cookie().unwrap())
            .unwrap();
        let _a = TcpListener::bind((A, 7000)).unwrap();
        assert_eq!(
            TcpStream::connect((VIP, 7000)).unwrap_err().kind(),
            ErrorKind::NetworkUnreachable
        );
        assert_eq!(world.counter(Counter::SockConnect), 0);
    });
}

#[test]
fn an_unconnected_udp_socket_keeps_its_backend_until_that_goes() {
    if !privileged("an_unconnected_udp_socket_keeps_its_backend_until_that_goes") {
        return;
    }
    in_namespace(|| {
        let mut world = attached();
        let (a, b) = (
            UdpSocket::bind((A, 7001)).unwrap(),
            UdpSocket::bind((B, 7001)).unwrap(),
        );
        let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        for socket in [&a, &b, &client] {
            socket
                .set_read_timeout(Some(std::time::Duration::from_secs(5)))
                .unwrap();
        }
        let mut buffer = [0; 64];
        for _ in 0..3 {
            client.send_to(b"ping", (VIP, 7001)).unwrap();
            let (n, from) = a.recv_from(&mut buffer).expect("always the first backend");
            a.send_to(&buffer[..n], from).unwrap();
            let (_, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(
                from,
                SocketAddr::from((VIP, 7001)),
                "the reply comes from the VIP"
            );
        }
        // Its backend goes: the same socket gets the other one, no black hole.
        world.frontend(vip(VIP), 1, &[2], 0);
        world.map::<u32, Backend>("BACKENDS").remove(&1).unwrap();
        client.send_to(b"ping", (VIP, 7001)).unwrap();
        let (_, from) = b.recv_from(&mut buffer).expect("the other backend");
        b.send_to(b"pong", from).unwrap();
        assert_eq!(
            client.recv_from(&mut buffer).unwrap().1,
            SocketAddr::from((VIP, 7001))
        );
    });
}

#[test]
fn a_connected_udp_socket_sees_the_vip() {
    if !privileged("a_connected_udp_socket_sees_the_vip") {
        return;
    }
    in_namespace(|| {
        let _world = attached();
        let (a, b) = (
            UdpSocket::bind((A, 7002)).unwrap(),
            UdpSocket::bind((B, 7002)).unwrap(),
        );
        let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        client
            .set_read_timeout(Some(std::time::Duration::from_secs(5)))
            .unwrap();
        client.connect((VIP, 7002)).unwrap();
        assert_eq!(client.peer_addr().unwrap(), SocketAddr::from((VIP, 7002)));
        client.send(b"ping").unwrap();
        let mut buffer = [0; 64];
        a.set_read_timeout(Some(std::time::Duration::from_secs(5)))
            .unwrap();
        let (_, from) = a.recv_from(&mut buffer).unwrap();
        a.send_to(b"pong", from).unwrap();
        assert_eq!(
            client.recv_from(&mut buffer).unwrap().1,
            SocketAddr::from((VIP, 7002))
        );
        drop(b);
    });
}

/// An IPv6 VIP over two addresses of the namespace, and the scope of the node itself with port 80 published.
fn attached6() -> World {
    for address in [A6, B6] {
        ip(&format!("-6 addr add {address}/128 dev lo nodad"));
    }
    let mut world = attached();
    for (id, addr) in [(6, A6), (7, B6)] {
        let [a, b, c, addr_be] = be6(addr);
        world.backend(
            id,
            Backend {
                addr_be,
                addr_high: [a, b, c],
                flags: backend::IPV6,
                ..Default::default()
            },
        );
        let index = id - 6;
        let slot = SlotKey { frontend: 6, index };
        world.map("SLOTS").insert(slot, id, 0).unwrap();
    }
    let key = FrontendKey6 {
        network: NETWORK,
        addr: be6(VIP6),
        kind: frontend::VIP,
        ..Default::default()
    };
    let frontend = Frontend {
        id: 6,
        slots: 2,
        ..Default::default()
    };
    world.map("FRONTENDS6").insert(key, frontend, 0).unwrap();
    world
}

const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, 1);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xa);
const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xb);

#[test]
fn an_ipv6_vip_is_balanced_and_getpeername_says_it() {
    if !privileged("an_ipv6_vip_is_balanced_and_getpeername_says_it") {
        return;
    }
    in_namespace(|| {
        let mut world = attached6();
        let a = TcpListener::bind((A6, 7010)).unwrap();
        let b = TcpListener::bind((B6, 7010)).unwrap();
        let first = TcpStream::connect((VIP6, 7010)).unwrap();
        let second = TcpStream::connect((VIP6, 7010)).unwrap();
        for stream in [&first, &second] {
            assert_eq!(stream.peer_addr().unwrap(), SocketAddr::from((VIP6, 7010)));
        }
        a.accept().unwrap();
        b.accept().unwrap();
        let once = Tally { opened: 1, open: 0 };
        assert_eq!([world.tally(6), world.tally(7)], [once; 2]);
    });
}

#[test]
fn datagrams_to_an_ipv6_vip_keep_their_backend_until_that_goes() {
    if !privileged("datagrams_to_an_ipv6_vip_keep_their_backend_until_that_goes") {
        return;
    }
    in_namespace(|| {
        let mut world = attached6();
        let (a, b) = (
            UdpSocket::bind((A6, 7011)).unwrap(),
            UdpSocket::bind((B6, 7011)).unwrap(),
        );
        let client = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        for socket in [&a, &b, &client] {
            socket
                .set_read_timeout(Some(std::time::Duration::from_secs(5)))
                .unwrap();
        }
        let mut buffer = [0; 64];
        let mut exchange = |server: &UdpSocket, who: &str| {
            client.send_to(b"ping", (VIP6, 7011)).unwrap();
            let (n, from) = server.recv_from(&mut buffer).expect(who);
            server.send_to(&buffer[..n], from).unwrap();
            let (_, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(
                from,
                SocketAddr::from((VIP6, 7011)),
                "the reply comes from the VIP"
            );
        };
        for _ in 0..3 {
            exchange(&a, "always the first backend");
        }
        world
            .map("SLOTS")
            .insert(
                SlotKey {
                    frontend: 6,
                    index: 0,
                },
                7_u32,
                0,
            )
            .unwrap();
        world.map::<u32, Backend>("BACKENDS").remove(&6).unwrap();
        exchange(&b, "the other backend");
    });
}

/// How Java and .NET connect: an IPv6 socket and the mapped form of an IPv4 address.
#[test]
fn an_ipv6_socket_reaches_an_ipv4_vip_by_its_mapped_address() {
    if !privileged("an_ipv6_socket_reaches_an_ipv4_vip_by_its_mapped_address") {
        return;
    }
    in_namespace(|| {
        let world = attached();
        let mapped = VIP.to_ipv6_mapped();
        let a = TcpListener::bind((A, 7012)).unwrap();
        let b = TcpListener::bind((B, 7012)).unwrap();
        let first = TcpStream::connect((mapped, 7012)).unwrap();
        let second = TcpStream::connect((mapped, 7012)).unwrap();
        for stream in [&first, &second] {
            assert_eq!(stream.peer_addr().unwrap(), SocketAddr::from((mapped, 7012)));
        }
        a.accept().unwrap();
        b.accept().unwrap();
        assert_eq!(world.counter(Counter::SockConnect), 2);
        let refused = TcpStream::connect((EMPTY_VIP.to_ipv6_mapped(), 80)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

        // Datagrams of such a socket pass sendmsg4 and come back through recvmsg6.
        let (a, b) = (
            UdpSocket::bind((A, 7013)).unwrap(),
            UdpSocket::bind((B, 7013)).unwrap(),
        );
        let client = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        for socket in [&a, &b, &client] {
            socket
                .set_read_timeout(Some(std::time::Duration::from_secs(5)))
                .unwrap();
        }
        let mut buffer = [0; 64];
        client.send_to(b"ping", (mapped, 7013)).unwrap();
        let (n, from) = a.recv_from(&mut buffer).expect("the first in turn again");
        a.send_to(&buffer[..n], from).unwrap();
        let (_, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(
            from,
            SocketAddr::from((mapped, 7013)),
            "the reply comes from the VIP"
        );
        drop(b);
    });
}

#[test]
fn the_nodes_own_processes_reach_a_published_port_on_ipv6_loopback() {
    if !privileged("the_nodes_own_processes_reach_a_published_port_on_ipv6_loopback") {
        return;
    }
    in_namespace(|| {
        let mut world = attached();
        let scope = Scope {
            flags: scope::HOST,
            ..Default::default()
        };
        world
            .map("SCOPES")
            .insert(own_cookie().unwrap(), scope, 0)
            .unwrap();
        world.backend(
            3,
            Backend {
                addr_be: be(A),
                flags: backend::LOCAL,
                ..Default::default()
            },
        );
        world.frontend(published(80, PROTO_TCP), 3, &[3], 7014);
        let a = TcpListener::bind((A, 7014)).unwrap();
        let client = TcpStream::connect((Ipv6Addr::LOCALHOST, 80)).unwrap();
        assert_eq!(
            client.peer_addr().unwrap(),
            SocketAddr::from((Ipv6Addr::LOCALHOST, 80))
        );
        a.accept().unwrap();
    });
}

#[test]
fn the_nodes_own_processes_reach_a_published_port_on_loopback() {
    if !privileged("the_nodes_own_processes_reach_a_published_port_on_loopback") {
        return;
    }
    in_namespace(|| {
        let mut world = attached();
        let scope = Scope {
            flags: scope::HOST,
            ..Default::default()
        };
        world
            .map("SCOPES")
            .insert(own_cookie().unwrap(), scope, 0)
            .unwrap();
        world.backend(
            3,
            Backend {
                addr_be: be(A),
                flags: backend::LOCAL,
                ..Default::default()
            },
        );
        world.frontend(published(80, PROTO_TCP), 3, &[3], 7003);
        let a = TcpListener::bind((A, 7003)).unwrap();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, 80)).unwrap();
        assert_eq!(
            client.peer_addr().unwrap(),
            SocketAddr::from((Ipv4Addr::LOCALHOST, 80))
        );
        assert_eq!(a.accept().unwrap().1, client.local_addr().unwrap());
    });
}
