// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs put into the ring, and what they count when it has no room.

use aya::maps::{Array, RingBuf};
use proxy_ebpf::{
    abi::{limits::EVENT_RING_BYTES, *},
    datapath::ip::Ip as _,
};

use crate::{
    guard, sock,
    support::*,
    uplink::tcp6,
    xdp::{self, XDP_DROP},
};

/// Bytes that an event takes in the ring: itself and a header of 8.
const IN_RING: usize = size_of::<Event>() + 8;

/// What the agent writes while somebody observes.
pub fn watch(world: &mut World, flows: u32, drops: u32) {
    let mut map: Array<_, Watch> = Array::try_from(world.ebpf.map_mut("WATCH").unwrap()).unwrap();
    let watch = Watch {
        flows,
        drops,
        until: World::now().wrapping_add(1_000),
        _pad: 0,
    };
    map.set(0, watch, 0).unwrap();
}

/// Takes out what was told.
pub fn events(world: &mut World) -> Vec<Event> {
    let mut ring = RingBuf::try_from(world.ebpf.map_mut("EVENTS").unwrap()).unwrap();
    let mut all = Vec::new();
    while let Some(item) = ring.next() {
        assert_eq!(item.len(), size_of::<Event>());
        // SAFETY: as long as an Event, of which every pattern of bytes is one.
        all.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
    }
    all
}

#[test]
fn flows_and_refusals_are_told_to_who_watches() {
    if !privileged("flows_and_refusals_are_told_to_who_watches") {
        return;
    }
    let mut world = World::node();
    let syn = |port| tcp((CLIENT, port), (NODE, 80), SYN);
    world.run("portico_uplink", &syn(1));
    assert_eq!(events(&mut world), [], "nobody watches");
    watch(&mut world, 1, 1);
    world.run("portico_uplink", &syn(1));
    assert_eq!(events(&mut world), [], "a known flow");
    world.run("portico_uplink", &syn(2));
    world.run("portico_uplink", &tcp((CLIENT, 3), (NODE, 80), ACK));
    let told = events(&mut world);
    let [flow, drop] = told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((flow.reason, flow.backend), (Counter::FlowLocal as u8, 1));
    assert_eq!(
        (flow.from, flow.from_port_be),
        (be(CLIENT).words(), 2_u16.to_be())
    );
    assert_eq!((flow.to, flow.to_port_be), (be(NODE).words(), 80_u16.to_be()));
    assert_eq!(
        (flow.task, flow.task_port_be),
        (be(TASK).words(), 8080_u16.to_be())
    );
    assert_eq!((drop.reason, drop.backend), (Counter::FlowUnknown as u8, 0));
    assert_eq!(world.counter(Counter::FlowUnknown), 1);
    watch(&mut world, 0, 1);
    world.run("portico_uplink", &syn(4));
    assert_eq!(events(&mut world), [], "no flows are wanted");
}

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    if !privileged("what_the_ring_has_no_room_for_is_counted") {
        return;
    }
    let mut world = World::node();
    watch(&mut world, 0, 1);
    let room = EVENT_RING_BYTES as usize / IN_RING;
    let unknown = tcp((CLIENT, 3), (NODE, 80), ACK);
    for _ in 0..room + 100 {
        world.run("portico_uplink", &unknown);
    }
    let lost = world.counter(Counter::EventsLost) as usize;
    assert!(lost >= 100, "{lost}");
    let told = events(&mut world).len();
    assert_eq!(told + lost, room + 100, "told or counted");
    world.run("portico_uplink", &unknown);
    assert_eq!(events(&mut world).len(), 1, "there is room again");
}

/// Names of what was told, in order.
pub fn reasons(world: &mut World) -> Vec<&'static str> {
    let name = |event: Event| {
        let mut all = Counter::ALL.iter();
        let counter = all.find(|counter| **counter as u8 == event.reason);
        counter.expect("a counter").name()
    };
    events(world).into_iter().map(name).collect()
}

#[test]
fn an_end_is_told_by_tc_and_by_xdp() {
    if !privileged("an_end_is_told_by_tc_and_by_xdp") {
        return;
    }
    let fin = Tcp { fin: true, ..ACK };
    let rst = Tcp { rst: true, ..ACK };
    let mut world = World::node();
    watch(&mut world, 1, 0);
    let client = |port, segment| tcp((CLIENT, port), (NODE, 80), segment);
    let task = |port, segment| tcp((TASK, 8080), (CLIENT, port), segment);
    for (port, end) in [(1, fin), (2, rst)] {
        world.run("portico_uplink", &client(port, SYN));
        world.run("portico_uplink", &client(port, end));
        world.run("portico_task", &task(port, end));
    }
    world.run("portico_uplink", &client(3, SYN));
    world.run("portico_task", &task(3, fin));
    world.run("portico_uplink", &client(3, rst));
    xdp::run(&mut world, 0, &client(4, SYN));
    xdp::run(&mut world, 0, &client(4, rst));
    // Passed on by XDP, and known there.
    world.run("portico_uplink", &client(4, rst));
    let told = events(&mut world);
    let ends: Vec<_> = told
        .iter()
        .filter(|event| event.reason != Counter::FlowLocal as u8)
        .map(|event| (event.reason, u16::from_be(event.from_port_be), event.by_task))
        .collect();
    let [closed, reset] = [Counter::FlowClosed as u8, Counter::FlowReset as u8];
    assert_eq!(
        ends,
        [(closed, 1, 0), (reset, 2, 0), (closed, 3, 1), (reset, 4, 0)]
    );
    assert_eq!(told.len(), 8, "and four beginnings");
    let end = told[1];
    assert_eq!((end.from, end.to), (be(CLIENT).words(), be(NODE).words()));
    assert_eq!((end.task, end.task_port_be), (be(TASK).words(), 8080_u16.to_be()));
    assert_eq!(world.counter(Counter::FlowClosed), 2);
    assert_eq!(world.counter(Counter::FlowReset), 2);
}

#[test]
fn of_a_sample_every_end_has_its_beginning() {
    if !privileged("of_a_sample_every_end_has_its_beginning") {
        return;
    }
    const FLOWS: u16 = 400;
    let mut world = World::node();
    watch(&mut world, 8, 0);
    for port in 1..=FLOWS {
        for segment in [SYN, Tcp { fin: true, ..ACK }] {
            world.run("portico_uplink", &tcp((CLIENT, port), (NODE, 80), segment));
        }
    }
    let told = events(&mut world);
    let pairs: Vec<_> = told
        .iter()
        .map(|event| (event.from_port_be, event.reason))
        .collect();
    let [opened, closed] = [Counter::FlowLocal as u8, Counter::FlowClosed as u8];
    for pair in pairs.chunks(2) {
        assert_eq!(pair[0].0, pair[1].0);
        assert_eq!((pair[0].1, pair[1].1), (opened, closed));
    }
    assert!((40..200).contains(&pairs.len()), "{} of 800", pairs.len());
    assert_eq!(world.counter(Counter::FlowClosed), u64::from(FLOWS));
}

/// All that an uplink refuses. Not here: what only a real tunnel device brings (`tunnel.rs`), `masquerade_full`, for
/// which a client needs half of all ports, and `slot_without_backend`, which is counted beside the refusal that it
/// becomes.
#[test]
fn every_reason_of_an_uplink_is_told_by_its_name() {
    if !privileged("every_reason_of_an_uplink_is_told_by_its_name") {
        return;
    }
    let port = |port, segment| tcp((CLIENT, 1), (NODE, port), segment);
    let uplink = |world: &mut World, frames: &[Vec<u8>]| {
        for frame in frames {
            world.run("portico_uplink", frame);
        }
    };
    let mut world = World::node();
    watch(&mut world, 0, 1);
    world.frontend(published(81, PROTO_TCP), 2, &[], 0);
    uplink(&mut world, &[port(81, SYN), port(80, ACK)]);
    assert_eq!(reasons(&mut world), ["published_no_backend", "flow_unknown"]);

    uplink(&mut world, &[port(80, SYN)]);
    world.map::<u32, Backend>("BACKENDS").remove(&1).unwrap();
    uplink(&mut world, &[port(80, ACK)]);
    assert_eq!(reasons(&mut world), ["flow_backend_gone"]);

    world.change(published(81, PROTO_TCP), |frontend| frontend.sources = 1);
    world.source(1, CLIENT, 24, proxy_ebpf::datapath::DENY);
    uplink(&mut world, &[port(81, SYN)]);
    assert_eq!(xdp::run(&mut world, 0, &port(81, SYN)).0, XDP_DROP);
    assert_eq!(reasons(&mut world), ["source_denied", "source_denied"]);

    let mut world = World::new(Settings::SMALL);
    watch(&mut world, 0, 1);
    world
        .map::<u32, LocalAddr>("LOCAL_ADDRS")
        .insert(be(NODE), LocalAddr::default(), 0)
        .unwrap();
    world.backend(1, remote_backend());
    world.frontend(published(80, PROTO_TCP), 1, &[1], 8080);
    uplink(&mut world, &[port(80, SYN)]);
    assert_eq!(reasons(&mut world), ["no_tunnel"]);
}

#[test]
fn what_the_guard_drops_is_told() {
    if !privileged("what_the_guard_drops_is_told") {
        return;
    }
    let syn = |from, port| tcp((from, port), (NODE, 80), SYN);
    let mut world = guard::node(settings::DENY_LIST | settings::IMPOSSIBLE, 0);
    watch(&mut world, 0, 1);
    for frame in [syn(CLIENT, 1), syn(OTHER_NODE, 0)] {
        world.run("portico_uplink", &frame);
        xdp::run(&mut world, 0, &frame);
    }
    let expected = ["denied", "denied", "impossible", "impossible"];
    assert_eq!(reasons(&mut world), expected);

    let mut world = guard::node(0, guard::RATE);
    watch(&mut world, 0, 1);
    for port in 1..=guard::MANY as u16 {
        world.run("portico_uplink", &syn(CLIENT, port));
    }
    let told = reasons(&mut world);
    assert!(!told.is_empty());
    assert_eq!(told.len() as u64, world.counter(Counter::SynRate));
    assert!(told.iter().all(|reason| *reason == "syn_rate"), "{told:?}");
}

#[test]
fn a_refused_client_of_ipv6_is_told_with_its_addresses() {
    if !privileged("a_refused_client_of_ipv6_is_told_with_its_addresses") {
        return;
    }
    in_namespace(|| {
        let six = |last| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
        ip(&format!("-6 addr add {}/128 dev lo nodad", six(1)));
        let mut world = World::node();
        watch(&mut world, 0, 1);
        world.run("portico_uplink", &tcp6(six(9), (six(1), 80), true));
        let told = events(&mut world);
        let [event] = told[..] else { panic!("{told:?}") };
        assert_eq!(event.reason, Counter::PublishedIpv6 as u8);
        assert_eq!(event.from, proxy_user::model::addr::be6(six(9)));
        assert_eq!(event.to, proxy_user::model::addr::be6(six(1)));
        assert_eq!((event.to_port_be, event.protocol), (80_u16.to_be(), PROTO_TCP));
    });
}

#[test]
fn what_sockets_are_given_and_refused_is_told() {
    if !privileged("what_sockets_are_given_and_refused_is_told") {
        return;
    }
    in_namespace(|| {
        let mut world = sock::attached();
        watch(&mut world, 1, 1);
        let _listeners = [sock::A, sock::B].map(|addr| std::net::TcpListener::bind((addr, 7000)).unwrap());
        std::net::TcpStream::connect((sock::VIP, 7000)).unwrap();
        std::net::TcpStream::connect((sock::EMPTY_VIP, 80)).unwrap_err();
        let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..2 {
            udp.send_to(b"x", (sock::VIP, 9)).unwrap();
        }
        let told = events(&mut world);
        let cookie = proxy_user::kernel::netns::own_cookie().unwrap();
        assert!(
            told.iter()
                .all(|event| (event.namespace, event.network) == (cookie, sock::NETWORK))
        );
        let found: Vec<_> = told
            .iter()
            .map(|event| (event.reason, event.to, u16::from_be(event.to_port_be)))
            .collect();
        let (vip, empty) = (be(sock::VIP).words(), be(sock::EMPTY_VIP).words());
        let expected = [
            (Counter::SockConnect as u8, vip, 7000),
            (Counter::SockNoBackend as u8, empty, 80),
            (Counter::SockSendmsg as u8, vip, 9),
        ];
        assert_eq!(found, expected, "the second datagram is no news");
        assert_eq!(told[0].task, be(sock::A).words());
    });
}
