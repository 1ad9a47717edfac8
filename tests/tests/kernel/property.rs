// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel against the library: the same packets, tables and flows, and then the same verdict, the same frame,
//! the same counters and the same flow table, bit for bit.
//!
//! One world lives in both, and packets by chance go through it; now and then its tables change. The programs run
//! under BPF_PROG_TEST_RUN; the library runs on maps made of hash tables (`datapath/model.rs`). Two things are not
//! the same on both sides by nature: when the clock moves on during a case, or when chance was asked, the library's
//! world is made that of the kernel again and the case does not count.
//!
//! `PORTICO_CASES` says how many (4 000 unless told), `PORTICO_SEED` where to begin; a failure names its seed.
//! The tunnel's program needs a tunnel key, which no test run has: `tunnel.rs` feeds it through a real device.

mod chance;
mod expect;
mod packets;

use std::collections::BTreeSet;

use aya::maps::{Array, MapData};
use chance::Chance;
use expect::{Expected, Slice, expect};
use packets::{SECOND_ADDRESS, SECOND_TASK, frame};
use proxy_ebpf::{
    abi::*,
    datapath::{
        Action, DENY, Out, Packet, direct,
        model::{MASK, World as Model},
        packet::parse,
        published::{self, Env},
        table,
    },
};

use crate::{support::*, xdp};

/// Cases of an ordinary run.
const CASES: usize = 4_000;
/// Cases between two changes of the tables.
const CASES_PER_WORLD: usize = 50;
const XDP: &str = "portico_xdp";
const MSS: u32 = 1410;
const VIP_NETWORK: u32 = 9;
/// `lo`: where a test run's packets are from.
const IFINDEX: u32 = 1;

fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

#[test]
fn the_kernel_does_what_the_library_says() {
    if !privileged("the_kernel_does_what_the_library_says") {
        return;
    }
    let (seed, cases) = (
        number("PORTICO_SEED", 1),
        number("PORTICO_CASES", CASES as u64) as usize,
    );
    in_namespace(move || {
        // Half of them on a node that serves VIPs to clients outside as well.
        let mut worlds = [Both::new(0), Both::new(VIP_NETWORK)];
        let mut chance = Chance(seed);
        let mut compared = 0;
        let mut outcomes = BTreeSet::new();
        for case in 0..cases {
            let both = &mut worlds[case * worlds.len() / cases];
            if case % CASES_PER_WORLD == 0 {
                both.change(&mut chance);
            }
            let at = format!("seed {seed}, case {case}");
            if let Some(outcome) = both.one(&mut chance, &at) {
                compared += 1;
                outcomes.insert(outcome);
            }
        }
        // A test that meets nothing but misses shows nothing.
        for wanted in ["Pass", "Drop", "Refuse", "Veth", "Tunnel", "Neighbour", "Route"] {
            assert!(
                outcomes.contains(wanted),
                "no case ended in {wanted}: {outcomes:?}"
            );
        }
        assert!(
            compared * 10 > cases * 9,
            "only {compared} of {cases} cases could be compared"
        );
        println!("{compared} of {cases} cases compared, from seed {seed}");
    });
}

/// The same world twice.
struct Both {
    /// Of the tables; the kernel's programs know it too.
    generation: u16,
    /// The highest so far.
    last: u16,
    kernel: World,
    model: Model,
}

impl Both {
    fn new(vip_network: u32) -> Both {
        let kernel = World::new(Settings {
            tunnel_ifindex: TUNNEL_IFINDEX,
            node_be: be(NODE),
            tunnel_mss: MSS,
            flow_mask: MASK,
            vip_network,
            ..Settings::SMALL
        });
        let mut both = Both {
            generation: 0,
            last: 0,
            kernel,
            model: Model {
                vip_network,
                node_be: be(NODE),
                ..Model::default()
            },
        };
        for address in [NODE, SECOND_ADDRESS] {
            both.model.local_addrs.push(be(address));
            let mut map = both.kernel.map::<u32, LocalAddr>("LOCAL_ADDRS");
            map.insert(be(address), LocalAddr::default(), 0).unwrap();
        }
        both
    }

    /// Other backends, frontends, tables and lists; flows stay, and meet them.
    fn change(&mut self, chance: &mut Chance) {
        for id in 1..=6 {
            if chance.one_in(5) {
                self.model.backends.remove(&id);
                let mut map = self.kernel.map::<u32, Backend>("BACKENDS");
                let _absent_is_fine = map.remove(&id);
                continue;
            }
            let mut backend = match id {
                1 | 2 => local_backend(),
                3 => Backend {
                    addr_be: be(SECOND_TASK),
                    ..local_backend()
                },
                4 if self.model.vip_network != 0 => Backend {
                    addr_be: be(REMOTE_TASK),
                    port_be: chance.pick(&[0, 8080u16.to_be()]),
                    ..Default::default()
                },
                _ => remote_backend(),
            };
            backend.task += if direct::is_direct(&backend) { 0 } else { id };
            backend.weight = chance.pick(&[0, 1, 2, 255]);
            if chance.one_in(6) {
                backend.flags |= backend::DRAINING;
            }
            self.model.backends.insert(id, backend);
            self.kernel.backend(id, backend);
        }
        for (id, (port, protocol)) in
            (1..).zip([(80, PROTO_TCP), (80, PROTO_UDP), (81, PROTO_TCP), (81, PROTO_UDP)])
        {
            self.frontend(chance, id, published(port, protocol));
        }
        // Of one port and of all, of an address that is the node's own and of one that is not. Nobody asks for them
        // where no network is served.
        for (id, (address, port, protocol)) in (5..).zip([
            (SECOND_ADDRESS, 82, PROTO_TCP),
            (OTHER_NODE, 80, PROTO_UDP),
            (OTHER_NODE, 0, 0),
        ]) {
            let key = FrontendKey {
                network: VIP_NETWORK,
                addr_be: be(address),
                port_be: u16::to_be(port),
                protocol,
                kind: frontend::VIP,
            };
            self.frontend(chance, id, key);
        }
        // Now and then nobody counts: then nothing that was found may be kept.
        self.generation = if chance.one_in(4) {
            0
        } else {
            self.generation.max(self.last) % flow::GENERATION_MAX + 1
        };
        self.last = self.generation.max(self.last);
        self.kernel.generation(self.generation);
    }

    fn frontend(&mut self, chance: &mut Chance, id: u32, key: FrontendKey) {
        let backends: Vec<u32> = (0..chance.below(6)).map(|_| 1 + chance.below(6) as u32).collect();
        let slots = (0..)
            .zip(&backends)
            .map(|(index, b)| (SlotKey { frontend: id, index }, *b));
        self.model.slots.extend(slots);
        self.kernel.frontend(key, id, &backends, 0);
        let mut frontend = Frontend {
            id,
            slots: backends.len() as u32,
            target_port_be: chance.pick(&[0, 8080u16.to_be()]),
            scheduler: chance.pick(&[
                frontend::ROUND_ROBIN,
                frontend::SOURCE_HASH,
                frontend::FLOW_HASH,
                frontend::LEAST,
            ]),
            affinity: chance.pick(&[0, 0, 60]),
            client_bits: chance.pick(&[32, 24, 0]),
            flags: chance.pick(&[0, 0, 0, frontend::MASQUERADE, frontend::DSR]),
            sources: chance.pick(&[0, 0, 0, id]),
            ..Default::default()
        };
        if !backends.is_empty() && chance.one_in(2) {
            let entries: Vec<u32> = (0..23).map(|_| chance.pick(&backends)).collect();
            (frontend.table, frontend.table_size) = (id, 23);
            self.model.set_table(id, &entries);
            let mut map = self.kernel.map::<TableKey, TableBlock>("TABLES");
            for (key, block) in self.model.tables.iter().filter(|(key, _)| key.table == id) {
                map.insert(key, block, 0).unwrap();
            }
        }
        self.model.frontends.insert(key, frontend);
        self.kernel.change(key, |master| *master = frontend);
        self.model.sources.insert((id, be(CLIENT)), DENY);
        self.kernel.source(id, CLIENT, 32, DENY);
    }

    /// One packet; how it ended, if it could be compared.
    fn one(&mut self, chance: &mut Chance, at: &str) -> Option<&'static str> {
        let program = chance.pick(&["portico_uplink", "portico_uplink", XDP, "portico_task"]);
        let from_task = program == "portico_task" && !chance.one_in(4);
        let frame = frame(chance, from_task);
        let asked = *self.model.random.borrow();
        let before = World::now_coarse();
        let (verdict, out) = match program {
            XDP => xdp::run(&mut self.kernel, 0, &frame),
            _ => self.kernel.run(program, &frame),
        };
        let env = Env {
            tunnel_ifindex: TUNNEL_IFINDEX,
            uplink_ifindex: 0,
            ifindex: IFINDEX,
            now: before,
            generation: self.generation,
        };
        let mut outcome = "Pass";
        let mut expected = unchanged(program, &frame);
        let packet = parse(&Slice(&frame));
        if let Some(mut packet) = packet
            && let Some(action) = self.decide(program, &env, &mut packet)
        {
            outcome = name(&action.out);
            expected = match action.out {
                // XDP ends what ends, and leaves the rest to tc: there is no way to the other node here.
                Out::Drop(reason) if program == XDP => Expected {
                    verdict: xdp::XDP_DROP,
                    counts: vec![reason],
                    ..expected
                },
                _ if program == XDP => expected,
                _ => expect(&frame, &packet, &action, MSS),
            };
        }
        for counter in &expected.counts {
            *self.model.counters.borrow_mut().entry(*counter).or_default() += 1;
        }
        if World::now_coarse() != before || *self.model.random.borrow() != asked {
            self.follow();
            return None;
        }
        let about = || format!("{at}, {program}: {packet:?}\nframe {frame:02x?}");
        assert_eq!(verdict, expected.verdict, "verdict, {}", about());
        assert_eq!(out, expected.frame, "frame, {}", about());
        for counter in Counter::ALL {
            let (kernel, model) = (self.kernel.counter(*counter), self.model.counted(*counter));
            assert_eq!(kernel, model, "counter {}, {}", counter.name(), about());
        }
        if let Some(packet) = packet {
            self.compare_flows(&packet, &about);
        }
        Some(outcome)
    }

    fn decide(&self, program: &str, env: &Env, packet: &mut Packet) -> Option<Action> {
        if program != "portico_task"
            && self.model.vip_network != 0
            && let Some(reply) = direct::reply(&self.model, env, packet)
        {
            // XDP leaves it to tc.
            return (program != XDP).then_some(reply);
        }
        if program == "portico_task" {
            let reply = published::from_task(&self.model, env, packet, 0);
            if reply.is_some() || !self.model.local_addrs.contains(&packet.dst_be) {
                return reply;
            }
        }
        Some(published::from_client(&self.model, env, packet))
    }

    /// Every bucket that the packet could have touched.
    fn compare_flows(&mut self, packet: &Packet, about: &dyn Fn() -> String) {
        let (source, destination) = (packet.source(), packet.destination());
        let keys = [
            FlowKey::new(flow::ENTRY, packet.protocol, source, destination),
            FlowKey::new(flow::TASK, packet.protocol, destination, source),
        ];
        for key in keys {
            let bucket = table::place(&key, MASK).bucket;
            let mut kernel = self.buckets().get(&bucket, 0).unwrap();
            // A lock is let go by writing 0, and nothing else is in there.
            assert_eq!(kernel.lock, 0);
            kernel.lock = 0;
            let model = self.model.flows.borrow()[bucket as usize];
            assert_eq!(kernel, model, "bucket {bucket}, {}", about());
        }
        for id in 1..=6 {
            let active: Array<_, u64> = Array::try_from(self.kernel.ebpf.map_mut("ACTIVE").unwrap()).unwrap();
            let model = self.model.active.borrow().get(&id).copied().unwrap_or_default();
            assert_eq!(
                active.get(&id, 0).unwrap(),
                model,
                "flows of backend {id}, {}",
                about()
            );
        }
    }

    fn buckets(&mut self) -> Array<&mut MapData, Bucket> {
        Array::try_from(self.kernel.ebpf.map_mut("FLOWS").unwrap()).unwrap()
    }

    /// Makes the library's world that of the kernel.
    fn follow(&mut self) {
        for bucket in 0..=MASK {
            self.model.flows.borrow_mut()[bucket as usize] = self.buckets().get(&bucket, 0).unwrap();
        }
        for id in 1..=6 {
            let active: Array<_, u64> = Array::try_from(self.kernel.ebpf.map_mut("ACTIVE").unwrap()).unwrap();
            self.model
                .active
                .borrow_mut()
                .insert(id, active.get(&id, 0).unwrap());
        }
        for id in 1..=7 {
            let next: Array<_, u64> = Array::try_from(self.kernel.ebpf.map_mut("NEXT").unwrap()).unwrap();
            self.model
                .next
                .borrow_mut()
                .insert(id, next.get(&id, 0).unwrap() as u32);
        }
        for counter in Counter::ALL {
            let counted = self.kernel.counter(*counter);
            self.model.counters.borrow_mut().insert(*counter, counted);
        }
        let affinity = self.kernel.map::<AffinityKey, Affinity>("AFFINITY");
        *self.model.affinity.borrow_mut() = affinity.iter().map(|pair| pair.unwrap()).collect();
    }
}

fn unchanged(program: &str, frame: &[u8]) -> Expected {
    Expected {
        verdict: if program == XDP { xdp::XDP_PASS } else { TC_ACT_OK },
        frame: frame.to_vec(),
        counts: vec![],
    }
}

fn name(out: &Out) -> &'static str {
    match out {
        Out::Pass => "Pass",
        Out::Drop(_) => "Drop",
        Out::Refuse(_) => "Refuse",
        Out::Veth { .. } => "Veth",
        Out::Tunnel { .. } => "Tunnel",
        Out::Neighbour { .. } => "Neighbour",
        Out::Route { .. } => "Route",
    }
}
