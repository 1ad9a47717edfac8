// SPDX-License-Identifier: MIT OR Apache-2.0
//! What uplinks drop before all else, by tc and by XDP.

use aya::maps::{LpmTrie, lpm_trie::Key};
use proxy_ebpf::abi::{
    settings::{DENY_LIST, IMPOSSIBLE},
    *,
};

use crate::{
    support::*,
    xdp::{self, XDP_DROP, XDP_PASS},
};

const PORT: u16 = 40_000;
/// Enough for the test to be sure of one tick's limit even if another begins meanwhile.
pub const MANY: u32 = 12;
pub const RATE: u32 = 3;

/// A node that drops CLIENT's packets, or what no honest sender makes, or SYNs beyond [`RATE`].
pub fn node(guard: u32, syn_rate: u32) -> World {
    let mut world = World::new(Settings {
        tunnel_ifindex: TUNNEL_IFINDEX,
        node_be: be(NODE),
        tunnel_mss: 1410,
        guard,
        syn_rate,
        syn_mask_be: u32::MAX,
        ..Settings::SMALL
    });
    world
        .map::<u32, LocalAddr>("LOCAL_ADDRS")
        .insert(be(NODE), LocalAddr::default(), 0)
        .unwrap();
    world.backend(1, local_backend());
    world.frontend(published(80, PROTO_TCP), 1, &[1], 8080);
    let mut denied: LpmTrie<_, [u8; 4], u32> =
        LpmTrie::try_from(world.ebpf.map_mut("DENIED").unwrap()).unwrap();
    let key = Key::new(28, be(CLIENT).to_ne_bytes());
    denied.insert(&key, 1, 0).unwrap();
    world
}

#[test]
fn what_a_denied_client_sends_ends_here() {
    if !privileged("what_a_denied_client_sends_ends_here") {
        return;
    }
    // To a published port, and to one that is not ours at all.
    let ours = tcp((CLIENT, PORT), (NODE, 80), SYN);
    let other = udp((CLIENT, PORT), (OTHER_NODE, 53), b"x");
    let mut world = node(DENY_LIST, 0);
    for frame in [&ours, &other] {
        assert_eq!(world.run("portico_uplink", frame).0, TC_ACT_SHOT);
        assert_eq!(xdp::run(&mut world, 0, frame).0, XDP_DROP);
    }
    assert_eq!(world.counter(Counter::Denied), 4);
    let honest = udp((OTHER_NODE, PORT), (CLIENT, 53), b"x");
    assert_eq!(world.run("portico_uplink", &honest).0, TC_ACT_OK);
    assert_eq!(xdp::run(&mut world, 0, &honest).0, XDP_PASS);

    let mut world = node(0, 0);
    assert_eq!(world.run("portico_uplink", &ours).0, TC_ACT_REDIRECT, "no rule");
    assert_eq!(xdp::run(&mut world, 0, &other).0, XDP_PASS);
}

#[test]
fn packets_that_no_honest_sender_makes_end_here() {
    if !privileged("packets_that_no_honest_sender_makes_end_here") {
        return;
    }
    let with = |from, to, segment| tcp(from, to, segment);
    let (client, node_port) = ((OTHER_NODE, PORT), (NODE, 80));
    let mut world = node(IMPOSSIBLE, 0);
    let bad = [
        with(client, node_port, Tcp { fin: true, ..SYN }),
        with(client, node_port, Tcp { rst: true, ..SYN }),
        with(client, node_port, Tcp { ack: false, ..ACK }),
        with((OTHER_NODE, 0), node_port, SYN),
        with(client, (NODE, 0), SYN),
        with((NODE, 80), node_port, SYN),
    ];
    for frame in &bad {
        assert_eq!(world.run("portico_uplink", frame).0, TC_ACT_SHOT, "{frame:x?}");
        assert_eq!(xdp::run(&mut world, 0, frame).0, XDP_DROP, "{frame:x?}");
    }
    assert_eq!(world.counter(Counter::Impossible), 2 * bad.len() as u64);
    let syn = with(client, node_port, SYN);
    assert_eq!(world.run("portico_uplink", &syn).0, TC_ACT_REDIRECT);
}

#[test]
fn syns_have_a_rate_and_xdp_drops_what_tc_has_counted() {
    if !privileged("syns_have_a_rate_and_xdp_drops_what_tc_has_counted") {
        return;
    }
    let mut world = node(0, RATE);
    let syn = |port: u16| tcp((CLIENT, PORT + port), (NODE, 80), SYN);
    assert_eq!(
        xdp::run(&mut world, 0, &syn(0)).0,
        XDP_PASS,
        "tc counts, and nobody twice"
    );
    let verdicts: Vec<u32> = (0..MANY as u16)
        .map(|port| world.run("portico_uplink", &syn(port)).0)
        .collect();
    let taken = verdicts
        .iter()
        .filter(|verdict| **verdict == TC_ACT_REDIRECT)
        .count();
    // The clock may have gone on once, and then another tick's worth was taken.
    assert!((3..=6).contains(&taken), "{verdicts:?}");
    assert_eq!(verdicts.last(), Some(&TC_ACT_SHOT));
    assert_eq!(
        world.counter(Counter::SynRate),
        verdicts.len() as u64 - taken as u64
    );
    // Segments of open connections, other ports and other clients are not concerned.
    let open = tcp((CLIENT, PORT), (NODE, 80), ACK);
    assert_eq!(world.run("portico_uplink", &open).0, TC_ACT_REDIRECT);
    let other = tcp((OTHER_NODE, PORT), (NODE, 80), SYN);
    assert_eq!(world.run("portico_uplink", &other).0, TC_ACT_REDIRECT);
    for port in 0..MANY as u16 {
        let elsewhere = tcp((CLIENT, PORT + port), (NODE, 22), SYN);
        assert_eq!(world.run("portico_uplink", &elsewhere).0, TC_ACT_OK);
    }
}
