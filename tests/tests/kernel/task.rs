// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico_task`: what tasks send through their gateway veth.

use proxy_ebpf::abi::{
    flow::{CLOSING, ENTRY},
    *,
};

use crate::support::*;

const PORT: u16 = 40_000;

fn with_flow(node_be: u32) -> World {
    let mut world = World::node();
    let flow = Flow {
        ifindex: 3,
        nat_addr_be: be(NODE),
        nat_port_be: 80u16.to_be(),
        node_be,
        state: flow::OPEN,
        seen: World::now(),
        ..Default::default()
    };
    world.set_flow(flow_key(flow::TASK, PORT, TASK, 8080, PROTO_TCP), flow);
    world
}

#[test]
fn what_is_no_reply_passes() {
    if !privileged("what_is_no_reply_passes") {
        return;
    }
    let mut world = with_flow(0);
    let outgoing = tcp((TASK, 50_000), (CLIENT, 443), SYN);
    assert_eq!(
        world.run("portico_task", &outgoing),
        (TC_ACT_OK, outgoing.clone())
    );
}

#[test]
fn a_reply_gets_the_address_that_the_client_used() {
    if !privileged("a_reply_gets_the_address_that_the_client_used") {
        return;
    }
    // No neighbour can be looked up in a test run, but the verdict is the redirect's.
    let mut world = with_flow(0);
    let syn_ack = tcp((TASK, 8080), (CLIENT, PORT), Tcp { ack: true, ..SYN });
    let (verdict, out) = world.run("portico_task", &syn_ack);
    assert_eq!(verdict, TC_ACT_REDIRECT);
    let seen = see(&out);
    assert_eq!((seen.from, seen.to), ((NODE, 80), (CLIENT, PORT)));
    assert_eq!(
        &seen.tcp().options[..4],
        &[2, 4, 0x05, 0xb4],
        "a local flow's MSS is not touched"
    );
}

#[test]
fn a_tunnelled_reply_is_clamped() {
    if !privileged("a_tunnelled_reply_is_clamped") {
        return;
    }
    let mut world = with_flow(be(OTHER_NODE));
    let (verdict, out) = world.run(
        "portico_task",
        &tcp((TASK, 8080), (CLIENT, PORT), Tcp { ack: true, ..SYN }),
    );
    assert_eq!(verdict, TC_ACT_REDIRECT);
    let seen = see(&out);
    assert_eq!((seen.from, seen.to), ((NODE, 80), (CLIENT, PORT)));
    assert_eq!(&seen.tcp().options[..4], &[2, 4, 0x05, 0x82]);
}

#[test]
fn a_fin_of_the_task_closes_the_entry_side() {
    if !privileged("a_fin_of_the_task_closes_the_entry_side") {
        return;
    }
    let mut world = World::node();
    world.run("portico_uplink", &tcp((CLIENT, PORT), (NODE, 80), SYN));
    let entry = flow_key(ENTRY, PORT, NODE, 80, PROTO_TCP);
    assert_eq!(world.flow(entry).unwrap().state, flow::SYN);
    world.run(
        "portico_task",
        &tcp((TASK, 8080), (CLIENT, PORT), Tcp { fin: true, ..ACK }),
    );
    assert_eq!(world.flow(entry).unwrap().state, CLOSING);
}
