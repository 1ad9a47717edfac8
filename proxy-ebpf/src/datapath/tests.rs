// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decisions on the host, in a world of hash tables.

use super::{
    Action, Bytes, Maps as _, Nat, Out, Packet,
    guard::{self, Rules},
    ip::{Ip as _, V6},
    model::World,
    observe,
    packet::{self, Kind, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, find_mss, parse},
    published::{self, Env},
    sock::{Address, Caller, Verdict, connect, reverse, sendmsg},
};
use crate::abi::{
    backend::*,
    frontend::*,
    limits::SCOPE_NETWORKS_MAX,
    scope::HOST,
    settings::{DENY_LIST, IMPOSSIBLE},
    *,
};

fn from_client(world: &World, env: &Env, packet: &Packet) -> Action {
    published::from_client(world, env, &mut packet.clone())
}

fn from_task(world: &World, env: &Env, packet: &Packet) -> Option<Action> {
    published::from_task(world, env, &mut packet.clone(), 0)
}

fn from_tunnel(world: &World, env: &Env, packet: &Packet, task: u32, node_be: u32) -> Action {
    published::from_tunnel(world, env, &mut packet.clone(), task, node_be)
}

const CLIENT: u32 = 0x0a00_0001;
const NODE: u32 = 0x6500_a8c0;
const PEER: u32 = 0x6600_a8c0;
const TASK_ADDR: u32 = 0x0500_12ac;
const ENV: Env = Env {
    generation: 0,
    tunnel_ifindex: 9,
    uplink_ifindex: 2,
    ifindex: 2,
    now: 5,
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
        kind: Kind::Whole,
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
            ..Default::default()
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
        world.backends.insert(i as u32 + 1, *backend);
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
    let action = from_task(&world, &ENV, &reply(PROTO_TCP, TCP_SYN | TCP_ACK)).unwrap();
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
    let back = from_task(&other, &ENV, &reply(PROTO_TCP, TCP_SYN | TCP_ACK)).unwrap();
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
            _ => _ = from_task(&world, &ENV, &reply(PROTO_TCP, TCP_FIN | TCP_ACK)),
        }
        let again = from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN));
        assert!(
            matches!(again.out, Out::Tunnel { .. }),
            "{closer}: the other backend's turn"
        );
    }
}

#[test]
fn a_syn_that_nobody_answered_goes_to_another_backend() {
    let later = Env {
        now: ENV.now + 1,
        ..ENV
    };
    for (scheduler, tried, table) in [
        (ROUND_ROBIN, 2, 0),
        (ROUND_ROBIN, 2, 3),
        (RANDOM, 2, 0),
        (RANDOM, 2, 3),
        (LEAST, 2, 0),
        (ROUND_ROBIN, 1, 0),
    ] {
        let mut world = two_remote();
        world.set_table(table, &[1, 1, 1, 1, 2]);
        world.slots.retain(|slot, _| slot.index < tried);
        change(&mut world, |f| {
            (f.scheduler, f.slots, f.table) = (scheduler, tried, table);
            f.table_size = if table == 0 { 0 } else { 5 };
        });
        for port in 0..50 {
            let syn = from_port(port);
            let first = task_of(from_client(&world, &ENV, &syn));
            assert_eq!(
                task_of(from_client(&world, &ENV, &syn)),
                first,
                "a copy of the same tick is none that waited"
            );
            let second = task_of(from_client(&world, &later, &syn));
            assert_eq!(
                second != first,
                tried > 1,
                "{scheduler} {table}: the only one is asked again"
            );
            let ack = Packet {
                tcp_flags: TCP_ACK,
                ..syn
            };
            assert_eq!(task_of(from_client(&world, &later, &ack)), second);
        }
        assert_eq!(world.counted(Counter::FlowRetried), 50);
        // One that is silent for long and comes again counts once as well.
        let much_later = Env {
            now: ENV.now + 1_000_000,
            ..ENV
        };
        from_client(&world, &much_later, &from_port(0));
        let open = world.active(1) + world.active(2);
        assert_eq!(open, 50, "who did not answer has none of them");
    }
}

#[test]
fn a_syn_that_was_answered_stays_with_its_backend() {
    let later = Env {
        now: ENV.now + 2,
        ..ENV
    };
    let syn = packet(PROTO_TCP, TCP_SYN);
    let syn_ack = TCP_SYN | TCP_ACK;
    // The answer of a task of this node, of one of another node, and of one that sees the node as its client.
    for (first, masked) in [(LOCAL, false), (REMOTE, false), (LOCAL, true), (REMOTE, true)] {
        let mut world = node(&[backend(first), backend(first)]);
        change(&mut world, |f| f.flags = if masked { MASQUERADE } else { 0 });
        let chosen = from_client(&world, &ENV, &syn);
        let seen_as = match chosen.nat {
            Nat::Both(seen_as, _) => seen_as,
            Nat::Source(addr, port) => (addr, port),
            _ => syn.source(),
        };
        if first == LOCAL {
            let answer = Packet {
                dst_be: seen_as.0,
                dst_port_be: seen_as.1,
                ..reply(PROTO_TCP, syn_ack)
            };
            assert!(from_task(&world, &ENV, &answer).is_some());
        } else {
            let answer = Packet {
                src_be: NODE,
                dst_be: seen_as.0,
                src_port_be: 80u16.to_be(),
                dst_port_be: seen_as.1,
                ..reply(PROTO_TCP, syn_ack)
            };
            let out = from_tunnel(&world, &ENV, &answer, 0, PEER).out;
            assert!(matches!(out, Out::Neighbour { .. }), "{out:?}");
        }
        from_client(&world, &later, &syn);
        assert_eq!(world.counted(Counter::FlowRetried), 0, "{first} {masked}");
    }
    // Where the answer does not pass here, or the backend follows from the addresses, nothing is known.
    let mut world = node(&[backend(REMOTE), backend(REMOTE)]);
    change(&mut world, |f| f.flags = DSR);
    from_client(&world, &ENV, &syn);
    from_client(&world, &later, &syn);
    assert_eq!(world.counted(Counter::FlowRetried), 0);
    let mut world = two_remote();
    world.set_table(3, &[1, 2, 1, 2]);
    change(&mut world, |f| {
        (f.scheduler, f.table, f.table_size) = (FLOW_HASH, 3, 4)
    });
    let first = task_of(from_client(&world, &ENV, &syn));
    assert_eq!(task_of(from_client(&world, &later, &syn)), first);
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
        tunnel_ifindex: 0,
        ..ENV
    };
    let remote = node(&[backend(REMOTE)]);
    assert_eq!(
        from_client(&remote, &no_tunnel, &packet(PROTO_TCP, TCP_SYN)),
        Action::refuse(Counter::NoTunnel)
    );
    assert_eq!(
        from_tunnel(&empty, &ENV, &packet(PROTO_TCP, TCP_ACK), 7, PEER),
        Action::refuse(Counter::TunnelUnknownTask)
    );
    // The client sends it again, and by then somebody knows better.
    assert_eq!(
        from_tunnel(&empty, &ENV, &packet(PROTO_TCP, TCP_SYN), 7, PEER),
        Action::drop(Counter::TunnelUnknownTask)
    );
    assert_eq!(
        from_tunnel(&empty, &ENV, &packet(PROTO_UDP, 0), 7, PEER),
        Action::drop(Counter::TunnelUnknownTask)
    );
}

#[test]
fn a_datagram_finds_a_new_backend_when_its_own_is_gone() {
    let mut world = node(&[backend(LOCAL), backend(REMOTE)]);
    assert!(veth(from_client(&world, &ENV, &packet(PROTO_UDP, 0))));
    world.backends.remove(&1);
    let next = from_client(&world, &ENV, &packet(PROTO_UDP, 0));
    assert!(matches!(next.out, Out::Tunnel { .. }));
}

#[test]
fn most_packets_of_a_known_flow_write_nothing() {
    let world = node(&[backend(LOCAL)]);
    from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN));
    from_client(&world, &ENV, &packet(PROTO_TCP, TCP_ACK));
    let before = world.flows.borrow().clone();
    from_client(&world, &ENV, &packet(PROTO_TCP, TCP_ACK));
    from_task(&world, &ENV, &reply(PROTO_TCP, TCP_ACK));
    assert_eq!(*world.flows.borrow(), before);
    let later = Env { now: 6, ..ENV };
    from_client(&world, &later, &packet(PROTO_TCP, TCP_ACK));
    assert_ne!(*world.flows.borrow(), before, "the time stamp is kept to a tick");
}

/// Changes the frontends of [`node`].
fn change(world: &mut World, change: impl Fn(&mut Frontend)) {
    world.frontends.values_mut().for_each(change);
}

fn from_port(port: u16) -> Packet {
    Packet {
        src_port_be: port.to_be(),
        ..packet(PROTO_TCP, TCP_SYN)
    }
}

/// Two backends whose actions differ in `task`.
fn two_remote() -> World {
    let other = Backend {
        task: 8,
        ..backend(REMOTE)
    };
    node(&[backend(REMOTE), other])
}

fn task_of(action: Action) -> u32 {
    match action.out {
        Out::Tunnel { task, .. } => task,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_scheduler_spreads_as_it_says() {
    // Of the table's eight entries six are the first backend's.
    let table = [1, 1, 1, 2, 1, 1, 1, 2];
    for (scheduler, at_least) in [(ROUND_ROBIN, 600), (RANDOM, 550), (FLOW_HASH, 550)] {
        let mut world = two_remote();
        world.set_table(3, &table);
        change(&mut world, |f| {
            f.scheduler = scheduler;
            f.table = 3;
            f.table_size = 8;
        });
        let first = (0..800)
            .filter(|port| task_of(from_client(&world, &ENV, &from_port(*port))) == 7)
            .count();
        assert!((at_least..=650).contains(&first), "{scheduler}: {first}");
    }
    let mut world = two_remote();
    world.set_table(3, &table);
    change(&mut world, |f| {
        (f.scheduler, f.table, f.table_size, f.client_bits) = (SOURCE_HASH, 3, 8, 32);
    });
    let found: Vec<u32> = (0..50)
        .map(|port| task_of(from_client(&world, &ENV, &from_port(port))))
        .collect();
    assert!(found.iter().all(|task| *task == found[0]), "one client, one task");
}

#[test]
fn least_counts_open_flows_by_weight() {
    let mut world = two_remote();
    world.backends.get_mut(&1).unwrap().weight = 3;
    world.backends.get_mut(&2).unwrap().weight = 1;
    change(&mut world, |f| f.scheduler = LEAST);
    for port in 0..400 {
        from_client(&world, &ENV, &from_port(port));
    }
    assert_eq!((world.active(1), world.active(2)), (300, 100));
    // Flows of the first one end: it gets the next ones.
    for port in 0..400 {
        let key = FlowKey::new(
            flow::ENTRY,
            PROTO_TCP,
            (CLIENT, u16::to_be(port)),
            (NODE, 80u16.to_be()),
        );
        if world.flow(&key).is_some_and(|flow| flow.backend == 1) {
            let fin = Packet {
                tcp_flags: TCP_FIN | TCP_ACK,
                ..from_port(port)
            };
            from_client(&world, &ENV, &fin);
            from_client(&world, &ENV, &fin);
        }
    }
    let tally = Tally { opened: 300, open: 0 };
    assert_eq!(world.tally_of(1), tally, "each counted out once");
    assert_eq!(task_of(from_client(&world, &ENV, &from_port(1000))), 7);
}

#[test]
fn a_client_keeps_its_backend_while_that_takes_new_flows() {
    let mut world = two_remote();
    world.set_table(3, &[1, 2, 1, 2, 1, 2]);
    change(&mut world, |f| {
        (f.affinity, f.table, f.table_size, f.client_bits) = (100, 3, 6, 24);
    });
    let at = |world: &World, now, client: [u8; 4], port| {
        let env = Env { now, ..ENV };
        let packet = Packet {
            src_be: u32::from_ne_bytes(client),
            ..from_port(port)
        };
        task_of(from_client(world, &env, &packet))
    };
    let first = at(&world, 5, [10, 0, 0, 1], 1);
    // Whatever the table says later: the choice is remembered, for the whole prefix.
    let other = if first == 7 { 2 } else { 1 };
    world.set_table(3, &[other; 6]);
    assert_eq!(at(&world, 50, [10, 0, 0, 200], 2), first);
    assert_eq!(
        at(&world, 140, [10, 0, 0, 1], 3),
        first,
        "each new flow renews it"
    );
    assert_ne!(
        at(&world, 241, [10, 0, 0, 1], 4),
        first,
        "and after 100 ticks of none it is forgotten"
    );
    let now = at(&world, 242, [10, 0, 0, 1], 5);
    world.set_table(3, &[3 - other; 6]);
    world.backends.get_mut(&other).unwrap().flags |= DRAINING;
    assert_ne!(
        at(&world, 243, [10, 0, 0, 1], 6),
        now,
        "a draining one gets no new flow"
    );
    assert_eq!(world.counted(Counter::AffinityKept), 3);
}

#[test]
fn a_segment_of_an_unknown_flow_follows_its_hash() {
    let mut entry = two_remote();
    entry.set_table(3, &[1, 2, 2, 1, 1, 2, 1]);
    change(&mut entry, |f| {
        (f.scheduler, f.table, f.table_size, f.client_bits) = (FLOW_HASH, 3, 7, 32);
    });
    let task = task_of(from_client(&entry, &ENV, &from_port(1)));
    entry.flows.borrow_mut().fill(Bucket::default());
    let ack = Packet {
        tcp_flags: TCP_ACK,
        ..from_port(1)
    };
    assert_eq!(task_of(from_client(&entry, &ENV, &ack)), task);
    assert_eq!(entry.counted(Counter::FlowAdopted), 1);
}

#[test]
fn silent_flows_are_forgotten_by_state() {
    let world = two_remote();
    let ticks = |seconds| settings::ticks(seconds);
    from_client(&world, &ENV, &from_port(1));
    let ack = Packet {
        tcp_flags: TCP_ACK,
        ..from_port(1)
    };
    let later = |seconds| Env {
        now: ENV.now + ticks(seconds),
        ..ENV
    };
    assert!(matches!(
        from_client(&world, &later(10), &ack).out,
        Out::Tunnel { .. }
    ));
    // Open now: IPVS would have forgotten it after 900 s.
    assert!(matches!(
        from_client(&world, &later(50_000), &ack).out,
        Out::Tunnel { .. }
    ));
    from_client(&world, &ENV, &from_port(2));
    let half_open = Packet {
        tcp_flags: TCP_ACK,
        ..from_port(2)
    };
    assert_eq!(
        from_client(&world, &later(70), &half_open),
        Action::refuse(Counter::FlowUnknown)
    );
}

#[test]
fn a_masqueraded_flow_shows_the_node_and_finds_back() {
    for local in [true, false] {
        let mut world = node(&[backend(if local { LOCAL } else { REMOTE })]);
        change(&mut world, |f| f.flags = MASQUERADE);
        let sent = from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN));
        // Another client with the same port cannot have the same one.
        let mut second = packet(PROTO_TCP, TCP_SYN);
        second.src_be += 1;
        let other = from_client(&world, &ENV, &second);
        let source = |action: Action| match action.nat {
            Nat::Both(source, to) if local => {
                assert_eq!(to, (TASK_ADDR, 8080u16.to_be()));
                source
            }
            Nat::Source(addr, port) if !local => (addr, port),
            nat => panic!("{nat:?}"),
        };
        assert_eq!(source(sent), (NODE, 1000u16.to_be()));
        let (addr, port) = source(other);
        assert_eq!(addr, NODE);
        assert_ne!(port, 1000u16.to_be());
        let back = Packet {
            dst_be: NODE,
            dst_port_be: port,
            ..reply(PROTO_TCP, TCP_SYN | TCP_ACK)
        };
        let action = if local {
            from_task(&world, &ENV, &back).unwrap()
        } else {
            let back = Packet {
                src_be: NODE,
                src_port_be: 80u16.to_be(),
                ..back
            };
            from_tunnel(&world, &ENV, &back, 0, PEER)
        };
        let client = (second.src_be, 1000u16.to_be());
        assert_eq!(
            action.nat,
            if local {
                Nat::Both((NODE, 80u16.to_be()), client)
            } else {
                Nat::Destination(client.0, client.1)
            }
        );
        assert_eq!(action.out, Out::Neighbour { ifindex: 2 });
    }
}

#[test]
fn a_task_that_is_given_itself_sees_the_node() {
    let world = node(&[backend(LOCAL)]);
    let call = Packet {
        src_be: TASK_ADDR,
        ..packet(PROTO_TCP, TCP_SYN)
    };
    assert_eq!(from_task(&world, &ENV, &call), None, "no reply");
    let action = from_client(&world, &ENV, &call);
    assert_eq!(
        action.nat,
        Nat::Both((NODE, 1000u16.to_be()), (TASK_ADDR, 8080u16.to_be()))
    );
}

#[test]
fn direct_replies_leave_the_tasks_node() {
    let mut world = node(&[]);
    change(&mut world, |f| f.flags = DSR);
    let task = LocalTask {
        addr_be: TASK_ADDR,
        ifindex: 55,
        ..Default::default()
    };
    world.local_tasks.insert(7, task);
    assert!(veth(from_tunnel(
        &world,
        &ENV,
        &packet(PROTO_TCP, TCP_SYN),
        7,
        PEER
    )));
    let back = from_task(&world, &ENV, &reply(PROTO_TCP, TCP_SYN | TCP_ACK)).unwrap();
    assert_eq!(back.out, Out::Neighbour { ifindex: 2 });
    assert!(
        back.clamp_mss,
        "what the client sends still goes through the tunnel"
    );
}

#[test]
fn later_fragments_and_errors_go_where_their_flow_goes_and_open_none() {
    let world = node(&[backend(LOCAL)]);
    let fragment = |kind| Packet {
        kind,
        ..packet(PROTO_UDP, 0)
    };
    let later = Packet {
        src_port_be: 0,
        dst_port_be: 0,
        ..fragment(Kind::Later(9))
    };
    assert_eq!(
        from_client(&world, &ENV, &later),
        Action::PASS,
        "its first is not known"
    );
    assert!(veth(from_client(&world, &ENV, &fragment(Kind::First(9)))));
    assert!(veth(from_client(&world, &ENV, &later)));
    let error = |port: u16| Packet {
        src_port_be: port.to_be(),
        kind: Kind::Error(packet::Inner {
            ip: 42,
            outer_src_be: 1,
        }),
        ..packet(PROTO_UDP, 0)
    };
    assert!(veth(from_client(&world, &ENV, &error(1000))));
    assert_eq!(from_client(&world, &ENV, &error(1001)), Action::PASS);
    assert_eq!(world.counted(Counter::FlowLocal), 1);
}

#[test]
fn denied_sources_open_no_flow() {
    let mut world = node(&[backend(LOCAL)]);
    change(&mut world, |f| f.sources = 7);
    world.sources.insert((7, CLIENT), super::DENY);
    assert_eq!(
        from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN)),
        Action::drop(Counter::SourceDenied)
    );
    world.sources.insert((7, CLIENT), super::ALLOW);
    assert!(veth(from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN))));
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
        world.backends.insert(id, backend);
    }
    world
}

const TCP_SOCKET: Caller = Caller {
    namespace: 1,
    socket: 42,
    protocol: PROTO_TCP,
    now: 5,
};
const UDP_SOCKET: Caller = Caller {
    namespace: 1,
    socket: 43,
    protocol: PROTO_UDP,
    now: 5,
};

fn at<A>(addr: A, port: u16) -> Address<A> {
    Address {
        addr,
        port_be: port.to_be(),
    }
}

#[test]
fn the_guard_drops_what_its_rules_say_and_nothing_without_them() {
    let mut world = world6();
    world.local_addrs.push(NODE);
    let off = Rules::default();
    let all = Rules {
        flags: DENY_LIST | IMPOSSIBLE,
        syn_rate: 2,
        syn_mask_be: 0xffff_ff00_u32.to_be(),
    };
    let syn = packet(PROTO_TCP, TCP_SYN);
    let with = |change: &dyn Fn(&mut Packet)| {
        let mut packet = syn;
        change(&mut packet);
        packet
    };
    let bad = [
        with(&|p| p.tcp_flags |= TCP_FIN),
        with(&|p| p.tcp_flags |= TCP_RST),
        with(&|p| p.tcp_flags = 0),
        with(&|p| p.tcp_flags = TCP_FIN),
        with(&|p| p.dst_port_be = 0),
        with(&|p| p.src_port_be = 0),
        with(&|p| p.src_be = p.dst_be),
        with(&|p| p.src_be = 0x7f00_0001_u32.to_be()),
        with(&|p| p.src_be = 0xe000_0001_u32.to_be()),
        with(&|p| p.src_be = u32::MAX),
    ];
    for packet in &bad {
        assert_eq!(guard::early(&world, &off, packet, 5), None, "{packet:?}");
        assert_eq!(
            guard::early(&world, &all, packet, 5),
            Some(Counter::Impossible),
            "{packet:?}"
        );
    }
    for good in [
        with(&|p| p.tcp_flags = TCP_ACK),
        with(&|p| p.tcp_flags = TCP_ACK | TCP_FIN),
        with(&|p| p.tcp_flags = TCP_RST),
        with(&|p| p.src_be = 0),
        packet(PROTO_UDP, 0),
    ] {
        assert_eq!(guard::early(&world, &all, &good, 5), None, "{good:?}");
    }

    // Two SYNs of a prefix in a tick; other ports, prefixes and ticks are not concerned.
    for expected in [None, None, Some(Counter::SynRate), Some(Counter::SynRate)] {
        assert_eq!(guard::counted(&world, &all, &syn, 5), expected);
    }
    assert_eq!(guard::early(&world, &all, &syn, 5), Some(Counter::SynRate));
    assert_eq!(guard::counted(&world, &all, &syn, 6), None);
    let elsewhere = with(&|p| p.dst_port_be = 22_u16.to_be());
    for tick in [5, 7] {
        assert_eq!(guard::counted(&world, &all, &elsewhere, tick), None);
    }
    assert_eq!(guard::counted(&world, &off, &syn, 5), None);

    world.denied.push(CLIENT);
    assert_eq!(guard::early(&world, &all, &syn, 9), Some(Counter::Denied));
    assert_eq!(guard::early(&world, &off, &syn, 9), None);
}

/// `fd00::n`.
fn v6(n: u32) -> V6 {
    V6([0xfd00_0000_u32.to_be(), 0, 0, n.to_be()])
}

/// [`vip_world`] with `fd00::1` of network 4 on `fd00::2` and, for the node's own processes, port 80 on TASK_ADDR.
fn world6() -> World {
    let mut world = vip_world();
    let key = FrontendKey6 {
        network: 4,
        addr: v6(1).0,
        kind: VIP,
        ..Default::default()
    };
    world.frontends6.insert(
        key,
        Frontend {
            id: 8,
            slots: 1,
            ..Default::default()
        },
    );
    let published = FrontendKey {
        port_be: 80_u16.to_be(),
        protocol: PROTO_TCP,
        kind: PUBLISHED,
        ..Default::default()
    };
    world.frontends.insert(
        published,
        Frontend {
            id: 9,
            slots: 1,
            target_port_be: 8080_u16.to_be(),
            ..Default::default()
        },
    );
    let [a, b, c, addr_be] = v6(2).0;
    let six = Backend {
        addr_be,
        addr_high: [a, b, c],
        flags: IPV6,
        ..Default::default()
    };
    let local = Backend {
        addr_be: TASK_ADDR,
        flags: LOCAL,
        ..Default::default()
    };
    for (frontend, id, backend) in [(8, 80, six), (9, 90, local)] {
        world.slots.insert(SlotKey { frontend, index: 0 }, id);
        world.backends.insert(id, backend);
    }
    world.scopes.get_mut(&1).expect("the namespace's").flags = HOST;
    world
}

#[test]
fn an_ipv6_vip_is_one_in_its_network() {
    let world = world6();
    assert_eq!(connect(&world, TCP_SOCKET, at(v6(9), 80)), Verdict::Pass);
    let elsewhere = Caller {
        namespace: 2,
        ..TCP_SOCKET
    };
    assert_eq!(connect(&world, elsewhere, at(v6(1), 80)), Verdict::Pass);
    let there = Verdict::Use(at(v6(2), 80));
    assert_eq!(connect(&world, TCP_SOCKET, at(v6(1), 80)), there);
    let back = Verdict::Use(at(v6(1), 80));
    assert_eq!(reverse(&world, TCP_SOCKET, at(v6(2), 80)), back);
    assert_eq!(reverse(&world, UDP_SOCKET, at(v6(2), 80)), Verdict::Pass);
    let there = Verdict::Use(at(v6(2), 53));
    assert_eq!(sendmsg(&world, UDP_SOCKET, at(v6(1), 53)), there);
    assert_eq!(sendmsg(&world, UDP_SOCKET, at(v6(1), 53)), there);
    assert_eq!(world.tally_of(80).opened, 2, "the second datagram is no new flow");
    assert!(world.socks.borrow().is_empty());
}

#[test]
fn a_mapped_address_is_the_ipv4_one() {
    let world = world6();
    let mapped = |addr_be| V6::from_v4(addr_be);
    let there = Verdict::Use(at(mapped(TASK_ADDR + 1), 80));
    assert_eq!(connect(&world, TCP_SOCKET, at(mapped(NODE), 80)), there);
    // recvmsg6 of what sendmsg4 remembered, and the other way round.
    let here = Verdict::Use(at(mapped(NODE), 80));
    assert_eq!(reverse(&world, TCP_SOCKET, at(mapped(TASK_ADDR + 1), 80)), here);
    let here = Verdict::Use(at(NODE, 80));
    assert_eq!(reverse(&world, TCP_SOCKET, at(TASK_ADDR + 1, 80)), here);
    assert!(world.socks6.borrow().is_empty());
}

#[test]
fn ipv6_loopback_reaches_a_published_port_by_connect_only() {
    let world = world6();
    let there = Verdict::Use(at(V6::from_v4(TASK_ADDR), 8080));
    assert_eq!(connect(&world, TCP_SOCKET, at(V6::LOOPBACK, 80)), there);
    let here = Verdict::Use(at(V6::LOOPBACK, 80));
    assert_eq!(
        reverse(&world, TCP_SOCKET, at(V6::from_v4(TASK_ADDR), 8080)),
        here
    );
    // 127.0.0.1, mapped.
    let there = Verdict::Use(at(V6::from_v4(TASK_ADDR), 8080));
    let loopback = V6::from_v4(0x7f00_0001_u32.to_be());
    assert_eq!(connect(&world, TCP_SOCKET, at(loopback, 80)), there);
    // The kernel refuses a datagram to ::1 that a hook sends to a mapped address.
    assert_eq!(sendmsg(&world, TCP_SOCKET, at(V6::LOOPBACK, 80)), Verdict::Pass);
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
    let mut world = vip_world();
    let first = sendmsg(&world, UDP_SOCKET, at(NODE, 53));
    for _ in 0..3 {
        assert_eq!(sendmsg(&world, UDP_SOCKET, at(NODE, 53)), first);
    }
    world.backends.remove(&1);
    assert_eq!(
        sendmsg(&world, UDP_SOCKET, at(NODE, 53)),
        Verdict::Use(at(TASK_ADDR + 2, 53))
    );
    assert_eq!(world.counted(Counter::SockSendmsg), 2);
    let once = Tally { opened: 1, open: 0 };
    assert_eq!(
        [world.tally_of(1), world.tally_of(2)],
        [once; 2],
        "its end is not seen"
    );
}

/// Reasons and backends of what was told since the last look.
fn told(world: &World) -> Vec<(u8, u32)> {
    let told = std::mem::take(&mut *world.told.borrow_mut());
    told.iter().map(|event| (event.reason, event.backend)).collect()
}

const EVERYTHING: Watch = Watch {
    flows: 1,
    drops: 1,
    until: ENV.now + 1,
    _pad: 0,
};

#[test]
fn new_flows_are_told_once_and_only_to_who_watches() {
    let mut world = node(&[backend(LOCAL)]);
    from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN));
    assert_eq!(told(&world), [], "nobody watches");
    world.watch = EVERYTHING;
    from_client(&world, &ENV, &packet(PROTO_TCP, TCP_ACK));
    from_task(&world, &ENV, &reply(PROTO_TCP, TCP_ACK)).unwrap();
    assert_eq!(told(&world), [], "a known flow");
    let udp = packet(PROTO_UDP, 0);
    from_client(&world, &ENV, &udp);
    let event = world.told.borrow()[0];
    let expected = Event {
        from: CLIENT.words(),
        to: NODE.words(),
        backend: 1,
        task: TASK_ADDR.words(),
        node_be: PEER,
        ifindex: 2,
        from_port_be: 1000u16.to_be(),
        to_port_be: 80u16.to_be(),
        task_port_be: 8080u16.to_be(),
        protocol: PROTO_UDP,
        reason: Counter::FlowLocal as u8,
        chance: event.chance,
        ..Event::default()
    };
    assert_eq!(event, expected);
    assert_eq!(told(&world).len(), 1);
    world.watch.until = ENV.now;
    let another = Packet {
        src_port_be: 7,
        ..udp
    };
    from_client(&world, &ENV, &another);
    assert_eq!(told(&world), [], "the watch has run out");
}

#[test]
fn tunnelled_flows_and_sockets_are_told() {
    let mut world = node(&[]);
    world.watch = EVERYTHING;
    world.local_tasks.insert(
        7,
        LocalTask {
            addr_be: TASK_ADDR,
            ifindex: 55,
            ..Default::default()
        },
    );
    for _ in 0..2 {
        from_tunnel(&world, &ENV, &packet(PROTO_TCP, TCP_SYN), 7, PEER);
    }
    assert_eq!(world.told.borrow()[0].node_be, PEER);
    assert_eq!(world.told.borrow()[0].task, TASK_ADDR.words());
    assert_eq!(told(&world), [(Counter::FlowTunnel as u8, 0)], "once");

    let mut world = vip_world();
    world.watch = EVERYTHING;
    connect(&world, TCP_SOCKET, at(NODE, 80));
    let event = world.told.borrow()[0];
    assert_eq!((event.namespace, event.network, event.to), (1, 4, NODE.words()));
    assert_eq!(told(&world), [(Counter::SockConnect as u8, 1)]);
    world.watch.flows = 0;
    for _ in 0..2 {
        sendmsg(&world, UDP_SOCKET, at(NODE, 53));
    }
    assert_eq!(told(&world), [], "no flows are wanted");
    world
        .frontends
        .values_mut()
        .for_each(|frontend| frontend.slots = 0);
    connect(&world, TCP_SOCKET, at(NODE, 80));
    assert_eq!(told(&world), [(Counter::SockNoBackend as u8, 0)]);
}

#[test]
fn an_end_is_told_once_with_who_and_how() {
    let ends = |told: &World| -> Vec<(u8, u8)> {
        let told = std::mem::take(&mut *told.told.borrow_mut());
        told.iter().map(|event| (event.reason, event.by_task)).collect()
    };
    let mut world = node(&[backend(LOCAL)]);
    let client = |world: &World, flags| from_client(world, &ENV, &packet(PROTO_TCP, flags));
    for (flags, reason) in [
        (TCP_FIN | TCP_ACK, Counter::FlowClosed),
        (TCP_RST, Counter::FlowReset),
    ] {
        for by_task in [0, 1] {
            client(&world, TCP_SYN);
            world.watch = EVERYTHING;
            if by_task == 0 {
                client(&world, flags);
                assert_eq!(world.told.borrow()[0].task, TASK_ADDR.words());
                assert_eq!(world.told.borrow()[0].from, CLIENT.words());
                assert_eq!(world.told.borrow()[0].to, NODE.words());
                assert_eq!(world.told.borrow()[0].backend, 1);
            } else {
                from_task(&world, &ENV, &reply(PROTO_TCP, flags)).unwrap();
            }
            assert_eq!(ends(&world), [(reason as u8, by_task)]);
            client(&world, TCP_FIN | TCP_ACK);
            from_task(&world, &ENV, &reply(PROTO_TCP, TCP_RST)).unwrap();
            assert_eq!(ends(&world), [], "it has ended");
            world.watch = Watch::default();
        }
        assert_eq!(world.counted(reason), 2);
    }
}

#[test]
fn the_end_of_a_flow_is_in_the_sample_that_its_beginning_is_in() {
    let mut world = node(&[backend(LOCAL)]);
    world.watch = Watch {
        flows: 8,
        ..EVERYTHING
    };
    for port in 0..400_u16 {
        for flags in [TCP_SYN, TCP_FIN] {
            let packet = Packet {
                src_port_be: port.to_be(),
                ..packet(PROTO_TCP, flags)
            };
            from_client(&world, &ENV, &packet);
        }
    }
    let told = world.told.take();
    let of = |counter: Counter| -> Vec<u16> {
        let those = told.iter().filter(|event| event.reason == counter as u8);
        those.map(|event| event.from_port_be).collect()
    };
    let opened = of(Counter::FlowLocal);
    assert_eq!(opened, of(Counter::FlowClosed));
    assert!((20..100).contains(&opened.len()), "{} of 400", opened.len());
    let fewer = told.iter().filter(|event| event::is_sampled(event.chance, 16));
    assert!(fewer.count() < told.len(), "who wants fewer gets a part of them");
}

#[test]
fn refusals_are_told_and_a_sample_is_a_part() {
    let mut world = node(&[backend(LOCAL)]);
    let denied = packet(PROTO_TCP, TCP_SYN);
    observe::refused(&world, Counter::SourceDenied as u32, &ENV, &denied);
    assert_eq!(told(&world), [], "nobody watches");
    world.watch = EVERYTHING;
    observe::refused(&world, Counter::SourceDenied as u32, &ENV, &denied);
    assert_eq!(told(&world), [(Counter::SourceDenied as u8, 0)]);
    assert_eq!(world.counted(Counter::SourceDenied), 2);
    observe::refused_unread(&world, Counter::TunnelNotOurs, &ENV);
    assert_eq!(told(&world), [(Counter::TunnelNotOurs as u8, 0)]);
    world.watch.flows = 8;
    for port in 0..400 {
        let packet = Packet {
            src_port_be: u16::to_be(port),
            ..packet(PROTO_UDP, 0)
        };
        from_client(&world, &ENV, &packet);
    }
    let part = told(&world).len();
    assert!((20..100).contains(&part), "{part} of 400");
}

#[test]
fn a_cpu_tells_so_much_in_a_tick() {
    let mut budget = observe::Budget::default();
    let admitted = (0..limits::EVENTS_MAX + 9).filter(|_| budget.admit(7)).count();
    assert_eq!(admitted, limits::EVENTS_MAX as usize);
    assert!(budget.admit(8));
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
            assert!(packet.l4 + 8 <= frame.len() || matches!(packet.kind, Kind::Later(_)));
            if let Some(mss) = find_mss(&Slice(&frame), &packet, 1410) {
                assert!(mss.offset + 2 <= frame.len() && mss.value > 1410);
            }
            super::refuse::rst(&Slice(&frame), packet.l4);
            super::refuse::port_unreachable(&Slice(&frame), packet.l4);
        }
    }
    assert!(parsed > 10_000, "the generator reaches the parser: {parsed}");
}

const VIP_ADDR: u32 = 0x0701_0201;
const OUTSIDE: u32 = 3;

/// A node with one VIP for clients outside, of every port, and these backends, which are no tasks.
fn vip_node(flags: u32, backends: &[Backend]) -> World {
    let mut world = node(backends);
    let vip = FrontendKey {
        network: OUTSIDE,
        addr_be: VIP_ADDR,
        kind: VIP,
        ..Default::default()
    };
    let mut frontend = world.frontends[&FrontendKey {
        port_be: 80u16.to_be(),
        protocol: PROTO_TCP,
        kind: PUBLISHED,
        ..Default::default()
    }];
    frontend.target_port_be = 0;
    frontend.flags = flags;
    world.frontends.clear();
    world.frontends.insert(vip, frontend);
    (world.vip_network, world.node_be) = (OUTSIDE, NODE);
    world
}

fn plain(addr_be: u32, port: u16) -> Backend {
    Backend {
        addr_be,
        port_be: port.to_be(),
        ..Default::default()
    }
}

fn to_vip(port: u16) -> Packet {
    Packet {
        dst_be: VIP_ADDR,
        ..from_port(port)
    }
}

fn direct_reply(world: &World, packet: &Packet) -> Option<Action> {
    super::direct::reply(world, &ENV, &mut packet.clone())
}

#[test]
fn a_client_outside_reaches_a_vip_by_the_nodes_routes() {
    let routed = Out::Route { next_be: 0 };
    for masked in [false, true] {
        let flags = if masked { MASQUERADE } else { 0 };
        let world = vip_node(flags, &[plain(TASK_ADDR, 8080)]);
        let syn = to_vip(1000);
        let action = from_client(&world, &ENV, &syn);
        let (seen_as, to) = match action.nat {
            Nat::Destination(addr, port) => (syn.source(), (addr, port)),
            Nat::Both(source, to) => (source, to),
            other => panic!("{other:?}"),
        };
        assert_eq!((action.out, to), (routed, (TASK_ADDR, 8080u16.to_be())));
        assert_eq!(
            seen_as,
            if masked {
                (NODE, syn.src_port_be)
            } else {
                syn.source()
            }
        );
        assert_eq!(world.counted(Counter::FlowDirect), 1);

        let answer = Packet {
            src_be: to.0,
            src_port_be: to.1,
            dst_be: seen_as.0,
            dst_port_be: seen_as.1,
            ..packet(PROTO_TCP, TCP_SYN | TCP_ACK)
        };
        let back = direct_reply(&world, &answer).unwrap();
        assert_eq!(back.out, Out::Neighbour { ifindex: 2 });
        let expected = match masked {
            true => Nat::Both(syn.destination(), syn.source()),
            false => Nat::Source(syn.destination().0, syn.destination().1),
        };
        assert_eq!(back.nat, expected);
        // What was answered stays; what nobody asked for is nobody's.
        let later = Env {
            now: ENV.now + 2,
            ..ENV
        };
        assert_eq!(from_client(&world, &later, &syn).nat, action.nat);
        assert_eq!(world.counted(Counter::FlowRetried), 0);
        let other = Packet {
            src_port_be: 81,
            ..answer
        };
        assert_eq!(direct_reply(&world, &other), None);
    }
}

#[test]
fn vips_are_not_reached_from_outside_unless_the_operator_says_so() {
    let mut world = vip_node(0, &[plain(TASK_ADDR, 8080)]);
    world.vip_network = 0;
    assert_eq!(from_client(&world, &ENV, &to_vip(1000)), Action::PASS);
    world.vip_network = OUTSIDE + 1;
    assert_eq!(from_client(&world, &ENV, &to_vip(1000)), Action::PASS);
    // A published port is none of a VIP's, and of nobody else's address.
    let mut world = node(&[backend(LOCAL)]);
    (world.vip_network, world.node_be) = (OUTSIDE, NODE);
    assert_eq!(from_client(&world, &ENV, &to_vip(1000)), Action::PASS);
    assert!(veth(from_client(&world, &ENV, &packet(PROTO_TCP, TCP_SYN))));
}

#[test]
fn two_clients_with_one_port_are_two_for_a_masqueraded_backend() {
    let world = vip_node(MASQUERADE, &[plain(TASK_ADDR, 8080)]);
    let seen_as = |client: u32| {
        let syn = Packet {
            src_be: client,
            ..to_vip(1000)
        };
        match from_client(&world, &ENV, &syn).nat {
            Nat::Both(source, _) => source,
            other => panic!("{other:?}"),
        }
    };
    let (first, second) = (seen_as(CLIENT), seen_as(CLIENT + 1));
    assert_eq!(first, (NODE, 1000u16.to_be()));
    assert_eq!(second.0, NODE);
    assert_ne!(second.1, first.1);
    assert_eq!(seen_as(CLIENT + 1), second, "the same flow, the same port");
    let nameless = World { node_be: 0, ..world };
    let refused = from_client(
        &nameless,
        &ENV,
        &Packet {
            src_be: CLIENT + 2,
            ..to_vip(1000)
        },
    );
    assert_eq!(refused, Action::refuse(Counter::MasqueradeFull));
}

#[test]
fn a_backend_with_the_vip_gets_packets_as_they_are() {
    let world = vip_node(DSR, &[plain(TASK_ADDR, 8080)]);
    let expected = Action {
        nat: Nat::None,
        clamp_mss: false,
        out: Out::Route { next_be: TASK_ADDR },
    };
    assert_eq!(from_client(&world, &ENV, &to_vip(1000)), expected);
    let ack = Packet {
        tcp_flags: TCP_ACK,
        ..to_vip(1000)
    };
    let counting = Env { generation: 7, ..ENV };
    for _ in 0..3 {
        assert_eq!(
            from_client(&world, &counting, &ack),
            expected,
            "the short way too"
        );
    }
}
