// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decisions on the host, in a world of hash tables.

use super::{
    Action, Bytes, Nat, Out, Packet,
    model::World,
    packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, find_mss, parse},
    published::{Env, from_client, from_task, from_tunnel},
    sock::{Address, Caller, Verdict, connect, reverse, sendmsg},
};
use crate::abi::{backend::*, frontend::*, limits::SCOPE_NETWORKS_MAX, *};

const CLIENT: u32 = 0x0a00_0001;
const NODE: u32 = 0x6500_a8c0;
const PEER: u32 = 0x6600_a8c0;
const TASK_ADDR: u32 = 0x0500_12ac;
const ENV: Env = Env {
    settings: Settings {
        tunnel_ifindex: 9,
        node_be: NODE,
        tunnel_mss: 1410,
        _pad: 0,
    },
    ifindex: 2,
    now_ns: 5,
};

struct Slice<'a>(&'a [u8]);

impl Bytes for Slice<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..offset + N)?.try_into().ok()
    }
}

fn packet(protocol: u8, tcp_flags: u8) -> Packet {
    Packet {
        src_be: CLIENT,
        dst_be: NODE,
        src_port_be: 1000u16.to_be(),
        dst_port_be: 80u16.to_be(),
        protocol,
        tcp_flags,
        l4: 34,
    }
}

fn reply(protocol: u8, tcp_flags: u8) -> Packet {
    Packet {
        src_be: TASK_ADDR,
        dst_be: CLIENT,
        src_port_be: 8080u16.to_be(),
        dst_port_be: 1000u16.to_be(),
        ..packet(protocol, tcp_flags)
    }
}

fn backend(flags: u16) -> Backend {
    Backend {
        addr_be: TASK_ADDR,
        node_be: PEER,
        task: 7,
        ifindex: 55,
        flags,
        ..Default::default()
    }
}

/// One published port, 80 -> 8080 for TCP and UDP, with these backends.
fn node(backends: &[Backend]) -> World {
    let mut world = World {
        local_addrs: vec![NODE],
        ..Default::default()
    };
    for protocol in [PROTO_TCP, PROTO_UDP] {
        let key = FrontendKey {
            port_be: 80u16.to_be(),
            protocol,
            kind: PUBLISHED,
            ..Default::default()
        };
        let value = Frontend {
            id: 1,
            slots: backends.len() as u32,
            target_port_be: 8080u16.to_be(),
            flags: 0,
        };
        world.frontends.insert(key, value);
    }
    for (i, backend) in backends.iter().enumerate() {
        world.slots.insert(
            SlotKey {
                frontend: 1,
                index: i as u32,
            },
            i as u32 + 1,
        );
        world.backends.borrow_mut().insert(i as u32 + 1, *backend);
    }
    world
}

fn veth(action: Action) -> bool {
    action.nat == Nat::Destination(TASK_ADDR, 8080u16.to_be())
        && matches!(action.out, Out::Veth { ifindex: 55, .. })
}

#[test]
fn a_local_flow_goes_and_comes_back() {
    let world = node(&[backend(LOCAL)]);
    assert!(veth(from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN))));
    let action = from_task(&world, &reply(PROTO_TCP, TCP_SYN | TCP_ACK));
    assert_eq!(action.nat, Nat::Source(NODE, 80u16.to_be()));
    assert_eq!(action.out, Out::Neighbour { ifindex: 2 });
    assert!(!action.clamp_mss);
}

#[test]
fn a_remote_flow_is_the_same_flow_on_both_nodes() {
    let entry = node(&[backend(REMOTE)]);
    let action = from_client(&entry, &ENV, &packet(PROTO_TCP, TCP_SYN));
    assert_eq!(
        (action.nat, action.out),
        (
            Nat::None,
            Out::Tunnel {
                node_be: PEER,
                task: 7
            }
        )
    );
    assert!(action.clamp_mss);

    let mut other = node(&[]);
    other.local_addrs = vec![PEER];
    let task = LocalTask {
        addr_be: TASK_ADDR,
        ifindex: 55,
        ..Default::default()
    };
    other.local_tasks.insert(7, task);
    assert!(veth(from_tunnel(
        &other,
        &ENV,
        &packet(PROTO_TCP, TCP_SYN),
        7,
        NODE
    )));
    let back = from_task(&other, &reply(PROTO_TCP, TCP_SYN | TCP_ACK));
    assert_eq!(
        (back.nat, back.out),
        (
            Nat::Source(NODE, 80u16.to_be()),
            Out::Tunnel {
                node_be: NODE,
                task: 0
            }
        )
    );
    assert!(back.clamp_mss);

    let tunnelled = Packet {
        src_be: NODE,
        dst_be: CLIENT,
        src_port_be: 80u16.to_be(),
        ..reply(PROTO_TCP, TCP_ACK)
    };
    let out = from_tunnel(&entry, &ENV, &tunnelled, 0, PEER);
    assert_eq!((out.nat, out.out), (Nat::None, Out::Neighbour { ifindex: 2 }));
}

#[test]
fn fin_from_either_side_makes_the_next_syn_a_new_flow() {
    for closer in ["client", "task"] {
        let world = node(&[backend(LOCAL), backend(REMOTE)]);
        assert!(veth(from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN))));
        match closer {
            "client" => _ = from_client(&world, &ENV, &packet(PROTO_TCP, TCP_FIN | TCP_ACK)),
            _ => _ = from_task(&world, &reply(PROTO_TCP, TCP_FIN | TCP_ACK)),
        }
        let again = from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN));
        assert!(
            matches!(again.out, Out::Tunnel { .. }),
            "{closer}: the other backend's turn"
        );
    }
}

#[test]
fn refusals_have_a_reason_and_resets_are_never_answered() {
    let empty = node(&[]);
    assert_eq!(
        from_client(&empty, &ENV, &packet(PROTO_TCP, TCP_SYN)),
        Action::refuse(Counter::PublishedNoBackend)
    );
    assert_eq!(
        from_client(&empty, &ENV, &packet(PROTO_UDP, 0)),
        Action::refuse(Counter::PublishedNoBackend)
    );
    assert_eq!(
        from_client(&empty, &ENV, &packet(PROTO_TCP, TCP_ACK)),
        Action::refuse(Counter::FlowUnknown)
    );
    assert_eq!(
        from_client(&empty, &ENV, &packet(PROTO_TCP, TCP_RST)),
        Action::drop(Counter::FlowUnknown)
    );
    let no_tunnel = Env {
        settings: Settings::default(),
        ..ENV
    };
    let remote = node(&[backend(REMOTE)]);
    assert_eq!(
        from_client(&remote, &no_tunnel, &packet(PROTO_TCP, TCP_SYN)),
        Action::refuse(Counter::NoTunnel)
    );
    assert_eq!(
        from_tunnel(&empty, &ENV, &packet(PROTO_TCP, TCP_SYN), 7, PEER),
        Action::refuse(Counter::TunnelUnknownTask)
    );
    assert_eq!(
        from_tunnel(&empty, &ENV, &packet(PROTO_UDP, 0), 7, PEER),
        Action::drop(Counter::TunnelUnknownTask)
    );
}

#[test]
fn a_datagram_finds_a_new_backend_when_its_own_is_gone() {
    let world = node(&[backend(LOCAL), backend(REMOTE)]);
    assert!(veth(from_client(&world, &ENV, &packet(PROTO_UDP, 0))));
    world.backends.borrow_mut().remove(&1);
    let next = from_client(&world, &ENV, &packet(PROTO_UDP, 0));
    assert!(matches!(next.out, Out::Tunnel { .. }));
}

#[test]
fn most_packets_of_a_known_flow_write_nothing() {
    let world = node(&[backend(LOCAL)]);
    from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN));
    let before = world.flows.borrow().clone();
    let later = Env {
        now_ns: 900_000_000,
        ..ENV
    };
    from_client(&world, &later, &packet(PROTO_TCP, TCP_ACK));
    assert_eq!(*world.flows.borrow(), before);
    let much_later = Env {
        now_ns: 2_000_000_000,
        ..ENV
    };
    from_client(&world, &much_later, &packet(PROTO_TCP, TCP_ACK));
    assert_ne!(
        *world.flows.borrow(),
        before,
        "the time stamp is kept to a second"
    );
}

fn vip_world() -> World {
    let mut world = World::default();
    let mut networks = [0; SCOPE_NETWORKS_MAX];
    networks[..2].copy_from_slice(&[3, 4]);
    world.scopes.insert(
        1,
        Scope {
            count: 2,
            flags: 0,
            networks,
        },
    );
    let any = FrontendKey {
        network: 4,
        addr_be: NODE,
        kind: VIP,
        ..Default::default()
    };
    world.frontends.insert(
        any,
        Frontend {
            id: 1,
            slots: 2,
            ..Default::default()
        },
    );
    let exact = FrontendKey {
        port_be: 443u16.to_be(),
        protocol: PROTO_TCP,
        ..any
    };
    world.frontends.insert(
        exact,
        Frontend {
            id: 2,
            slots: 1,
            ..Default::default()
        },
    );
    for (frontend, index, id, port) in [(1, 0, 1, 0u16), (1, 1, 2, 0), (2, 0, 3, 8443)] {
        world.slots.insert(SlotKey { frontend, index }, id);
        let backend = Backend {
            addr_be: TASK_ADDR + id,
            port_be: port.to_be(),
            ..Default::default()
        };
        world.backends.borrow_mut().insert(id, backend);
    }
    world
}

const TCP_SOCKET: Caller = Caller {
    namespace: 1,
    socket: 42,
    protocol: PROTO_TCP,
};
const UDP_SOCKET: Caller = Caller {
    namespace: 1,
    socket: 43,
    protocol: PROTO_UDP,
};

fn at(addr_be: u32, port: u16) -> Address {
    Address {
        addr_be,
        port_be: port.to_be(),
    }
}

#[test]
fn a_vip_is_a_vip_only_inside_its_networks() {
    let world = vip_world();
    assert_eq!(
        connect(
            &world,
            Caller {
                namespace: 2,
                ..TCP_SOCKET
            },
            at(NODE, 80)
        ),
        Verdict::Pass
    );
    assert_eq!(connect(&world, TCP_SOCKET, at(PEER, 80)), Verdict::Pass);
    assert_eq!(
        connect(&world, TCP_SOCKET, at(NODE, 80)),
        Verdict::Use(at(TASK_ADDR + 1, 80))
    );
    assert_eq!(
        connect(&world, TCP_SOCKET, at(NODE, 80)),
        Verdict::Use(at(TASK_ADDR + 2, 80))
    );
    // A frontend with a port goes before the one for every port.
    assert_eq!(
        connect(&world, TCP_SOCKET, at(NODE, 443)),
        Verdict::Use(at(TASK_ADDR + 3, 8443))
    );
    assert_eq!(
        reverse(&world, TCP_SOCKET, at(TASK_ADDR + 3, 8443)),
        Verdict::Use(at(NODE, 443))
    );
    assert_eq!(
        reverse(&world, UDP_SOCKET, at(TASK_ADDR + 3, 8443)),
        Verdict::Pass,
        "another socket's peer"
    );
}

#[test]
fn a_udp_socket_stays_until_its_backend_goes() {
    let world = vip_world();
    let first = sendmsg(&world, UDP_SOCKET, at(NODE, 53));
    for _ in 0..3 {
        assert_eq!(sendmsg(&world, UDP_SOCKET, at(NODE, 53)), first);
    }
    world.backends.borrow_mut().remove(&1);
    assert_eq!(
        sendmsg(&world, UDP_SOCKET, at(NODE, 53)),
        Verdict::Use(at(TASK_ADDR + 2, 53))
    );
    assert_eq!(world.counted(Counter::SockSendmsg), 2);
}

#[test]
fn any_bytes_parse_without_a_panic() {
    // A small generator with a fixed seed: the same frames every time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut parsed = 0;
    for _ in 0..200_000 {
        let mut frame: Vec<u8> = (0..next() % 120).map(|_| next() as u8).collect();
        for (offset, byte) in [
            (12, 0x08),
            (13, 0x00),
            (14, 0x45 + (next() % 11) as u8),
            (20, 0),
            (21, 0),
        ] {
            if let Some(b) = frame.get_mut(offset) {
                *b = byte;
            }
        }
        if let Some(b) = frame.get_mut(23) {
            *b = if next() % 2 == 0 { PROTO_TCP } else { PROTO_UDP };
        }
        if let Some(packet) = parse(&Slice(&frame)) {
            parsed += 1;
            assert!(packet.l4 + 8 <= frame.len());
            if let Some(mss) = find_mss(&Slice(&frame), &packet, 1410) {
                assert!(mss.offset + 2 <= frame.len() && mss.value > 1410);
            }
            super::refuse::rst(&Slice(&frame), packet.l4);
            super::refuse::port_unreachable(&Slice(&frame), packet.l4);
        }
    }
    assert!(parsed > 10_000, "the generator reaches the parser: {parsed}");
}
