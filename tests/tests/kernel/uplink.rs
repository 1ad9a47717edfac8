// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico_uplink`: what arrives from clients.

use std::net::Ipv6Addr;

use etherparse::{Icmpv6Type, NetHeaders, PacketBuilder, PacketHeaders, TransportHeader, icmpv6};
use proxy_ebpf::abi::{flow::ENTRY, *};

use crate::support::*;

const PORT: u16 = 40_000;

#[test]
fn not_ours_passes_unchanged() {
    if !privileged("not_ours_passes_unchanged") {
        return;
    }
    let mut world = World::node();
    let elsewhere = tcp((CLIENT, PORT), (OTHER_NODE, 80), SYN);
    let other_port = tcp((CLIENT, PORT), (NODE, 81), SYN);
    let other_protocol = udp((CLIENT, PORT), (NODE, 80), b"x");
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut later_fragment = tcp((CLIENT, PORT), (NODE, 80), SYN);
    later_fragment[21] = 1;
    let truncated = tcp((CLIENT, PORT), (NODE, 80), SYN)[..40].to_vec();
    let mut lying_ihl = tcp((CLIENT, PORT), (NODE, 80), SYN);
    lying_ihl[14] = 0x44;
    for (what, frame) in [
        ("another address", elsewhere),
        ("another port", other_port),
        ("another protocol", other_protocol),
        ("ARP", arp),
        ("a later fragment", later_fragment),
        ("a truncated TCP header", truncated),
        ("an impossible header length", lying_ihl),
    ] {
        assert_eq!(
            world.run("portico_uplink", &frame),
            (TC_ACT_OK, frame.clone()),
            "{what}"
        );
    }
}

pub fn tcp6(from: Ipv6Addr, to: (Ipv6Addr, u16), syn: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [0; 6])
        .ipv6(from.octets(), to.0.octets(), 64)
        .tcp(PORT, to.1, 1000, 65535);
    let builder = if syn { builder.syn() } else { builder.ack(7) };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

fn udp6(from: Ipv6Addr, to: (Ipv6Addr, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [0; 6])
        .ipv6(from.octets(), to.0.octets(), 64)
        .udp(PORT, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"some words").unwrap();
    frame
}

/// The namespace's loopback interface is where TEST_RUN's packets are: with an address and a route they are for this
/// node, or for another one.
#[test]
fn ipv6_clients_of_published_ports_are_refused_and_no_others() {
    if !privileged("ipv6_clients_of_published_ports_are_refused_and_no_others") {
        return;
    }
    let six = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
    let (client, node, other) = (six(9), six(1), six(2));
    in_namespace(move || {
        ip("link set lo up");
        ip(&format!("-6 addr add {node}/128 dev lo nodad"));
        ip("link add d0 type veth peer name d1");
        ip("link set d0 up");
        ip("link set d1 up");
        ip(&format!("-6 route add {other}/128 dev d0"));
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let mut world = World::node();
        world.frontend(published(53, PROTO_UDP), 2, &[1], 53);
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        for (what, frame) in [
            ("another port", tcp6(client, (node, 81), true)),
            ("another protocol", udp6(client, (node, 80))),
            ("a flow that is open", tcp6(client, (node, 80), false)),
            ("a link-local client", tcp6(link_local, (node, 80), true)),
            ("a group", udp6(client, (group, 53))),
            ("another node", tcp6(client, (other, 80), true)),
            ("somebody else's frame", {
                let mut frame = tcp6(client, (node, 80), true);
                frame[..6].copy_from_slice(&[4; 6]);
                frame
            }),
            ("truncated", tcp6(client, (node, 80), true)[..60].to_vec()),
        ] {
            assert_eq!(
                world.run("portico_uplink", &frame),
                (TC_ACT_OK, frame.clone()),
                "{what}"
            );
        }
        for frame in [tcp6(client, (node, 80), true), udp6(client, (node, 53))] {
            let (verdict, out) = world.run("portico_uplink", &frame);
            assert_eq!(verdict, TC_ACT_REDIRECT);
            let headers = PacketHeaders::from_ethernet_slice(&out).unwrap();
            let Some(NetHeaders::Ipv6(ip, _)) = headers.net else {
                panic!("{:?}", headers.net);
            };
            assert_eq!((ip.source_addr(), ip.destination_addr()), (node, client));
            let Some(TransportHeader::Icmpv6(icmp)) = headers.transport else {
                panic!("{:?}", headers.transport);
            };
            assert_eq!(
                icmp.icmp_type,
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
            );
            let about = headers.payload.slice();
            assert_eq!(about, &frame[14..62]);
            let sum = icmp
                .icmp_type
                .calc_checksum(node.octets(), client.octets(), about);
            assert_eq!(sum.unwrap(), icmp.checksum);
        }
        assert_eq!(world.counter(Counter::PublishedIpv6), 2);
    });
}

#[test]
fn syn_to_a_local_task_is_rewritten_and_remembered() {
    if !privileged("syn_to_a_local_task_is_rewritten_and_remembered") {
        return;
    }
    let mut world = World::node();
    let (verdict, out) = world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), SYN));
    assert_eq!(verdict, TC_ACT_REDIRECT);
    let seen = see(&out);
    assert_eq!((seen.from, seen.to), ((CLIENT, PORT), (TASK, 8080)));
    assert_eq!(seen.macs, (TASK_MAC, GATEWAY_MAC));
    let task = world
        .flow(flow_key(flow::TASK, PORT, TASK, 8080, PROTO_TCP))
        .expect("TASK side");
    assert_eq!(
        (task.nat_addr_be, task.nat_port_be, task.node_be),
        (be(NODE), 80u16.to_be(), 0)
    );
    assert_eq!(
        world
            .flow(flow_key(ENTRY, PORT, NODE, 80, PROTO_TCP))
            .expect("ENTRY side")
            .backend,
        1
    );
    assert_eq!(world.counter(Counter::FlowLocal), 1);
    assert_eq!(world.tally(1), Tally { opened: 1, open: 1 });
    let fin = Tcp { fin: true, ..ACK };
    world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), fin));
    assert_eq!(
        world.tally(1),
        Tally { opened: 1, open: 0 },
        "its end takes nothing from what was opened"
    );
}

#[test]
fn syn_to_a_remote_task_goes_into_the_tunnel_with_its_mss_clamped() {
    if !privileged("syn_to_a_remote_task_goes_into_the_tunnel_with_its_mss_clamped") {
        return;
    }
    // The option first, behind two NOPs (even offset), behind one (odd offset), small already, and absent.
    let cases: [(&[u8], &[u8]); 5] = [
        (&[2, 4, 0x05, 0xb4, 1, 1, 4, 2], &[2, 4, 0x05, 0x82, 1, 1, 4, 2]),
        (&[1, 1, 2, 4, 0x05, 0xb4, 1, 1], &[1, 1, 2, 4, 0x05, 0x82, 1, 1]),
        (&[1, 2, 4, 0x05, 0xb4, 1, 1, 1], &[1, 2, 4, 0x05, 0x82, 1, 1, 1]),
        (&[2, 4, 0x02, 0x18], &[2, 4, 0x02, 0x18]),
        (&[3, 3, 7, 0], &[3, 3, 7, 0]),
    ];
    for (options, expected) in cases {
        let mut world = World::node();
        world.backend(1, remote_backend());
        let (verdict, out) = world.run(
            "portico_uplink",
            &tcp((CLIENT, PORT), (NODE, 80), Tcp { options, ..SYN }),
        );
        assert_eq!(verdict, TC_ACT_REDIRECT, "{options:?}");
        let seen = see(&out);
        assert_eq!(
            (seen.from, seen.to),
            ((CLIENT, PORT), (NODE, 80)),
            "the inner packet keeps its addresses"
        );
        assert_eq!(&seen.tcp().options[..], expected, "{options:?}");
        assert_eq!(world.counter(Counter::FlowRemote), 1);
        assert_eq!(world.counter(Counter::MssClamped), u64::from(options != expected));
    }
}

#[test]
fn a_flow_keeps_its_backend_and_new_flows_take_turns() {
    if !privileged("a_flow_keeps_its_backend_and_new_flows_take_turns") {
        return;
    }
    let mut world = World::node();
    world.backend(
        2,
        Backend {
            addr_be: be([172, 18, 0, 6].into()),
            ..local_backend()
        },
    );
    world.frontend(published(80, PROTO_TCP), 1, &[1, 2], 8080);
    let first = see(&world.run("portico_uplink", &tcp((CLIENT, 1), (NODE, 80), SYN)).1).to;
    let second = see(&world.run("portico_uplink", &tcp((CLIENT, 2), (NODE, 80), SYN)).1).to;
    assert_ne!(first, second);
    for _ in 0..3 {
        assert_eq!(
            see(&world.run("portico_uplink", &tcp((CLIENT, 1), (NODE, 80), ACK)).1).to,
            first
        );
        assert_eq!(
            see(&world.run("portico_uplink", &tcp((CLIENT, 2), (NODE, 80), ACK)).1).to,
            second
        );
        // A retransmitted SYN is not a new flow.
        assert_eq!(
            see(&world.run("portico_uplink", &tcp((CLIENT, 1), (NODE, 80), SYN)).1).to,
            first
        );
    }
}

#[test]
fn addresses_used_again_after_fin_are_a_new_flow() {
    if !privileged("addresses_used_again_after_fin_are_a_new_flow") {
        return;
    }
    let mut world = World::node();
    world.backend(
        2,
        Backend {
            addr_be: be([172, 18, 0, 6].into()),
            ..local_backend()
        },
    );
    world.frontend(published(80, PROTO_TCP), 1, &[1, 2], 8080);
    let first = see(&world.run("portico_uplink", &tcp((CLIENT, 1), (NODE, 80), SYN)).1).to;
    world.run(
        "portico_uplink",
        &tcp((CLIENT, 1), (NODE, 80), Tcp { fin: true, ..ACK }),
    );
    // The last ACK of the old flow still goes to its task.
    assert_eq!(
        see(&world.run("portico_uplink", &tcp((CLIENT, 1), (NODE, 80), ACK)).1).to,
        first
    );
    let again = see(&world.run("portico_uplink", &tcp((CLIENT, 1), (NODE, 80), SYN)).1).to;
    assert_ne!(again, first);
}

#[test]
fn udp_keeps_a_zero_checksum_and_corrects_others() {
    if !privileged("udp_keeps_a_zero_checksum_and_corrects_others") {
        return;
    }
    let mut world = World::node();
    world.frontend(published(53, PROTO_UDP), 2, &[1], 5353);
    let frame = udp((CLIENT, PORT), (NODE, 53), b"query");
    let seen = see(&world.run("portico_uplink", &frame).1);
    assert_eq!((seen.to, &seen.payload[..]), ((TASK, 5353), &b"query"[..]));
    let mut none = frame;
    none[40..42].fill(0);
    let (verdict, out) = world.run("portico_uplink", &none);
    assert_eq!((verdict, &out[40..42]), (TC_ACT_REDIRECT, &[0, 0][..]));
}

#[test]
fn a_port_without_backends_answers_at_once() {
    if !privileged("a_port_without_backends_answers_at_once") {
        return;
    }
    let mut world = World::node();
    world.frontend(published(80, PROTO_TCP), 1, &[], 8080);
    world.frontend(published(53, PROTO_UDP), 2, &[], 53);

    let (verdict, out) = world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), SYN));
    assert_eq!(verdict, TC_ACT_REDIRECT);
    let seen = see(&out);
    assert_eq!((seen.from, seen.to), ((NODE, 80), (CLIENT, PORT)));
    let rst = seen.tcp();
    assert!(rst.rst && rst.ack && !rst.syn);
    assert_eq!((rst.sequence_number, rst.acknowledgment_number), (0, 1001));
    assert_eq!(seen.macs, ([2; 6], [4; 6]), "back to the sender");

    let query = udp(
        (CLIENT, PORT),
        (NODE, 53),
        b"a question that is longer than eight bytes",
    );
    let (verdict, out) = world.run("portico_uplink", &query);
    assert_eq!(verdict, TC_ACT_REDIRECT);
    let seen = see(&out);
    assert_eq!((seen.from.0, seen.to.0), (NODE, CLIENT));
    assert!(
        format!("{:?}", seen.transport).contains("Port"),
        "{:?}",
        seen.transport
    );
    assert_eq!(seen.payload, query[14..42], "the offending header and 8 bytes");
    assert_eq!(world.counter(Counter::PublishedNoBackend), 2);
}

#[test]
fn a_syn_that_nobody_answered_goes_to_another_backend() {
    if !privileged("a_syn_that_nobody_answered_goes_to_another_backend") {
        return;
    }
    let mut world = World::node();
    world.backend(2, remote_backend());
    world.frontend(published(80, PROTO_TCP), 1, &[1, 2], 8080);
    let syn = tcp((CLIENT, PORT), (NODE, 80), SYN);
    let key = flow_key(ENTRY, PORT, NODE, 80, PROTO_TCP);
    world.run("portico_uplink", &syn);
    let first = world.flow(key).unwrap();
    assert_eq!((first.state, first.backend), (flow::SYN, 1));

    // As if it had been sent five ticks ago.
    let waited = |flow: Flow| Flow {
        seen: flow.seen - 5,
        ..flow
    };
    world.set_flow(key, waited(first));
    world.run("portico_uplink", &syn);
    let second = world.flow(key).unwrap();
    assert_eq!((second.state, second.backend), (flow::SYN, 2));
    assert_eq!(world.counter(Counter::FlowRetried), 1);

    // The first one's turn again, and it answers.
    world.set_flow(key, waited(second));
    world.run("portico_uplink", &syn);
    let syn_ack = tcp((TASK, 8080), (CLIENT, PORT), Tcp { ack: true, ..SYN });
    assert_eq!(world.run("portico_task", &syn_ack).0, TC_ACT_REDIRECT);
    let answered = world.flow(key).unwrap();
    assert_eq!((answered.state, answered.backend), (flow::ANSWERED, 1));
    world.set_flow(key, waited(answered));
    world.run("portico_uplink", &syn);
    assert_eq!(world.flow(key).unwrap().backend, 1);
    assert_eq!(world.counter(Counter::FlowRetried), 2);
    world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), ACK));
    assert_eq!(world.flow(key).unwrap().state, flow::OPEN);
}

#[test]
fn a_segment_of_no_flow_or_of_a_gone_backend_is_reset() {
    if !privileged("a_segment_of_no_flow_or_of_a_gone_backend_is_reset") {
        return;
    }
    let mut world = World::node();
    let (verdict, out) = world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), ACK));
    assert_eq!(verdict, TC_ACT_REDIRECT);
    let seen = see(&out);
    assert!(seen.tcp().rst);
    assert_eq!(seen.tcp().sequence_number, 7000, "the segment's acknowledgement");
    assert_eq!(world.counter(Counter::FlowUnknown), 1);

    world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), SYN));
    world.map::<u32, Backend>("BACKENDS").remove(&1).unwrap();
    let (_, out) = world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), ACK));
    assert!(see(&out).tcp().rst);
    assert_eq!(world.counter(Counter::FlowBackendGone), 1);

    // A RST is never answered.
    let (verdict, _) = world.run(
        "portico_uplink",
        &tcp((CLIENT, PORT), (NODE, 80), Tcp { rst: true, ..ACK }),
    );
    assert_eq!(verdict, TC_ACT_SHOT);

    // Its next SYN finds another backend.
    world.backend(2, local_backend());
    world.frontend(published(80, PROTO_TCP), 1, &[2], 8080);
    let (_, out) = world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), SYN));
    assert_eq!(see(&out).to, (TASK, 8080));
}

#[test]
fn a_table_decides_where_there_is_one() {
    if !privileged("a_table_decides_where_there_is_one") {
        return;
    }
    let mut world = World::node();
    let other = [172, 18, 0, 6].into();
    let backend = Backend {
        addr_be: be(other),
        ..local_backend()
    };
    world.backend(2, backend);
    world.frontend(published(80, PROTO_TCP), 1, &[1, 2], 8080);
    // Seventeen entries: two blocks. All but the first name the second backend.
    let mut table = [2; 17];
    table[0] = 1;
    for scheduler in [frontend::ROUND_ROBIN, frontend::RANDOM, frontend::FLOW_HASH] {
        world.table(published(80, PROTO_TCP), scheduler, &table);
        let base = 1000 * (u16::from(scheduler) + 1);
        let found = (0..68)
            .filter(|i| {
                see(&world
                    .run("portico_uplink", &tcp((CLIENT, base + i), (NODE, 80), SYN))
                    .1)
                .to
                .0 == other
            })
            .count();
        let expected = if scheduler == frontend::ROUND_ROBIN {
            64..=64
        } else {
            50..=68
        };
        assert!(expected.contains(&found), "{scheduler}: {found} of 68");
    }
    world.change(published(80, PROTO_TCP), |f| {
        f.scheduler = frontend::LEAST;
        f.table_size = 0;
    });
    let before = world.counter(Counter::FlowLocal);
    for i in 0..40 {
        world.run("portico_uplink", &tcp((CLIENT, 30_000 + i), (NODE, 80), SYN));
    }
    assert_eq!(world.counter(Counter::FlowLocal), before + 40);
}

#[test]
fn a_masqueraded_flow_has_right_checksums_both_ways() {
    if !privileged("a_masqueraded_flow_has_right_checksums_both_ways") {
        return;
    }
    let mut world = World::node();
    world.change(published(80, PROTO_TCP), |f| f.flags = frontend::MASQUERADE);
    let seen = see(&world
        .run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), SYN))
        .1);
    assert_eq!((seen.from, seen.to), ((NODE, PORT), (TASK, 8080)));
    let (verdict, out) = world.run("portico_task", &tcp((TASK, 8080), (NODE, PORT), ACK));
    assert_eq!(verdict, TC_ACT_REDIRECT);
    let seen = see(&out);
    assert_eq!((seen.from, seen.to), ((NODE, 80), (CLIENT, PORT)));
}

#[test]
fn an_error_about_a_flow_reaches_the_task_as_its_own() {
    if !privileged("an_error_about_a_flow_reaches_the_task_as_its_own") {
        return;
    }
    let mut world = World::node();
    world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), SYN));
    // A router on the way says that what the node sent was too long for the next network.
    let sent = tcp((NODE, 80), (CLIENT, PORT), ACK);
    let router = [198, 51, 100, 1].into();
    let (verdict, out) = world.run("portico_uplink", &too_long(router, NODE, &sent[14..]));
    assert_eq!(verdict, TC_ACT_REDIRECT);
    assert_eq!(see(&out).to.0, TASK);
    assert_eq!(see(&out).from.0, router);
    let inner = etherparse::Ipv4HeaderSlice::from_slice(&out[42..]).expect("the inner header");
    assert_eq!(inner.source_addr(), TASK);
    assert_eq!(inner.to_header().calc_header_checksum(), inner.header_checksum());
    assert_eq!(out[62..66], [8080u16.to_be_bytes(), PORT.to_be_bytes()].concat());
    assert_eq!(world.counter(Counter::IcmpError), 1);

    let other = tcp((NODE, 80), (CLIENT, PORT + 1), ACK);
    let frame = too_long(router, NODE, &other[14..]);
    assert_eq!(
        world.run("portico_uplink", &frame),
        (TC_ACT_OK, frame.clone()),
        "no flow of ours"
    );
}

#[test]
fn later_fragments_follow_their_first() {
    if !privileged("later_fragments_follow_their_first") {
        return;
    }
    let mut world = World::node();
    world.frontend(published(53, PROTO_UDP), 2, &[1], 5353);
    let (first, later) = in_two_fragments(&udp((CLIENT, PORT), (NODE, 53), &[7; 64]));
    assert_eq!(
        world.run("portico_uplink", &later).0,
        TC_ACT_OK,
        "not before their first"
    );
    assert_eq!(world.run("portico_uplink", &first).0, TC_ACT_REDIRECT);
    let (verdict, out) = world.run("portico_uplink", &later);
    assert_eq!(verdict, TC_ACT_REDIRECT);
    let header = etherparse::Ipv4HeaderSlice::from_slice(&out[14..]).expect("IPv4");
    assert_eq!(header.destination_addr(), TASK);
    assert_eq!(
        header.to_header().calc_header_checksum(),
        header.header_checksum()
    );
    assert_eq!(out[34..], later[34..], "no port is written into data");
}
