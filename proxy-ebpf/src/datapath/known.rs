// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short way of known flows against the long one: the same packets through two worlds, of which one counts the
//! changes of its tables and the other does not, and so keeps nothing of what it has found.

use super::{
    hash::mix,
    model::World,
    packet::{Kind, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
    published::{Env, from_client, from_task, from_tunnel},
};
use crate::abi::{backend::*, frontend::*, *};

const CASES: u32 = 200_000;
const NODE: u32 = 0x6500_a8c0;
/// An address of nobody here.
const OTHER: u32 = 0x6600_a8c0;

struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) >> 32) as u32 % limit
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }
}

/// Backends come, go, move to another node and change their address; ports open, close and change their target.
fn change(world: &mut World, chance: &mut Chance) {
    let id = 1 + chance.below(4);
    if chance.below(4) == 0 {
        world.backends.remove(&id);
    } else {
        let addr_be = chance.pick(&[0x0500_12ac, 0x0600_12ac]);
        let backend = Backend {
            addr_be,
            node_be: OTHER,
            task: chance.pick(&[task_id(addr_be), 7]),
            ifindex: 55,
            flags: chance.pick(&[LOCAL, REMOTE, REMOTE, REMOTE, 0]),
            ..Default::default()
        };
        world.backends.insert(id, backend);
    }
    for protocol in [PROTO_TCP, PROTO_UDP] {
        let key = FrontendKey {
            port_be: chance.pick(&[80u16, 81]).to_be(),
            protocol,
            kind: PUBLISHED,
            ..Default::default()
        };
        let frontend = Frontend {
            id: 1,
            slots: 4,
            target_port_be: chance.pick(&[0, 8080u16.to_be()]),
            flags: chance.pick(&[0, 0, 0, MASQUERADE]),
            ..Default::default()
        };
        if chance.below(8) == 0 {
            world.frontends.remove(&key);
        } else {
            world.frontends.insert(key, frontend);
        }
    }
    let vip = FrontendKey {
        network: 3,
        addr_be: OTHER,
        kind: VIP,
        ..Default::default()
    };
    let frontend = Frontend {
        id: 1,
        slots: 4,
        flags: chance.pick(&[0, MASQUERADE, DSR]),
        ..Default::default()
    };
    world.frontends.insert(vip, frontend);
    world.vip_network = chance.pick(&[0, 3]);
    world.node_be = NODE;
    if chance.below(8) == 0 {
        world.local_addrs = chance.pick(&[&[NODE][..], &[], &[NODE, OTHER]]).to_vec();
    }
}

fn packet(chance: &mut Chance) -> Packet {
    let protocol = chance.pick(&[PROTO_TCP, PROTO_TCP, PROTO_UDP]);
    let flags = chance.pick(&[TCP_SYN, TCP_ACK, TCP_ACK, TCP_ACK, TCP_FIN | TCP_ACK, TCP_RST]);
    Packet {
        src_be: 0x0a00_0001 + chance.below(2),
        dst_be: chance.pick(&[NODE, NODE, NODE, OTHER]),
        src_port_be: 1000 + chance.below(4) as u16,
        dst_port_be: chance.pick(&[80u16, 80, 81, 82]).to_be(),
        protocol,
        tcp_flags: if protocol == PROTO_TCP { flags } else { 0 },
        l4: 34,
        kind: chance.pick(&[
            Kind::Whole,
            Kind::Whole,
            Kind::Whole,
            Kind::First(3),
            Kind::Later(3),
        ]),
    }
}

#[test]
fn what_is_recognised_is_what_would_be_looked_up() {
    let mut chance = Chance(1);
    let mut worlds = [World::default(), World::default()];
    for world in &mut worlds {
        world.local_addrs = vec![NODE];
        for index in 0..4 {
            let slot = SlotKey { frontend: 1, index };
            world.slots.insert(slot, index + 1);
        }
    }
    let mut generation = 1;
    let mut now = 5;
    let mut tunnelled = 0;
    for case in 0..CASES {
        if chance.below(40) == 0 {
            let seed = chance.0;
            for world in &mut worlds {
                chance.0 = seed;
                change(world, &mut chance);
            }
            generation = generation % flow::GENERATION_MAX + 1;
        }
        now += u32::from(chance.below(10) == 0) * chance.pick(&[1, 1, 1, 2, 200]);
        let packet = packet(&mut chance);
        let (kind, ifindex) = (chance.below(8), chance.pick(&[2, 2, 2, 3]));
        let [counts, does_not] = [generation, 0].map(|generation| {
            let world = &worlds[usize::from(generation == 0)];
            let env = Env {
                tunnel_ifindex: 9,
                uplink_ifindex: 2,
                ifindex,
                now,
                generation,
            };
            let mut packet = packet;
            // Replies keep flows alive without asking the tables.
            match kind {
                0 => {
                    (packet.src_be, packet.dst_be) = (packet.dst_be, packet.src_be);
                    (packet.src_port_be, packet.dst_port_be) = (packet.dst_port_be, packet.src_port_be);
                    Some(from_tunnel(world, &env, &mut packet, 0, OTHER))
                }
                1 => from_task(world, &env, &mut packet, 0),
                _ => Some(from_client(world, &env, &mut packet)),
            }
        });
        assert_eq!(counts, does_not, "case {case}: {packet:?}");
        assert_eq!(
            *worlds[0].counters.borrow(),
            *worlds[1].counters.borrow(),
            "case {case}: {packet:?}"
        );
        let sent = |action: super::Action| matches!(action.out, super::Out::Tunnel { .. });
        tunnelled += u32::from(counts.is_some_and(sent));
    }
    assert!(tunnelled > CASES / 20, "only {tunnelled} went through the tunnel");
    let live = |world: &World| world.active.borrow().clone();
    assert_eq!(live(&worlds[0]), live(&worlds[1]));
}
