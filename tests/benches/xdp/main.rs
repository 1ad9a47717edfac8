// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a packet costs in XDP: `cargo bench -p portico-tests --bench xdp` (root).
//!
//! BPF_PROG_TEST_RUN repeats a program over one frame, and the frame stays as the program left it: after the first
//! run it would be another packet. So a small program puts the frame's head back, gives it a client (one, or one of
//! many by chance) and tail-calls the program that is measured. Its own cost is measured with a target that does
//! nothing and subtracted; what `return XDP_TX` costs by itself is the floor that every figure contains, as in the
//! figures that others publish. The kernel takes the time; the rows take turns, REPEATS runs of each in a round.
//!
//! Where the clock counts instructions (`cargo xtask vm run --counted 0 -- BENCH --counted`) a run says all, and the
//! figures are instructions.
//!
//! The node is one with 1 000 000 flows' room and a published port whose ten tasks are on another node: the frames
//! are encapsulated, as they are on an entry node.

#[path = "../../tests/kernel/support.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with the tests, which use all of it"
)]
mod support;

mod raw;

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::programs::{Xdp, XdpMode};
use proxy_ebpf::abi::{
    limits::{FLOWS_DEFAULT, flow_buckets},
    *,
};
use proxy_user::kernel::{netlink::interface_index, xdp::attach_link};
use raw::{Frames, restoring};
use support::*;

const ROUNDS: usize = 9;
const REPEATS: u32 = 400_000;
/// Where nothing else can be in a figure.
const COUNTED_REPEATS: u32 = 4000;
/// What the counting machine runs beforehand at most: 2^19 runs take it seconds.
const COUNTED_WARM_UP: u32 = 1 << 19;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const BACKENDS: u32 = 10;

fn main() {
    if privileged("xdp") {
        in_namespace(measure);
    }
}

/// A row: what is run, and what it must answer.
struct Row {
    name: &'static str,
    target: &'static str,
    program: OwnedFd,
    _array: Option<OwnedFd>,
    frame: Vec<u8>,
    verdict: u32,
    /// Runs before the first round, so that the flows are there.
    warm_up: u32,
    taken: Vec<f64>,
    /// What every figure is compared with.
    is_floor: bool,
    /// Each packet opens a flow.
    is_new: bool,
}

impl Row {
    /// Of a million flows one in a hundred shares a bucket with eight others and one of them is forgotten: what the last
    /// packet met says nothing there.
    fn check(&self, verdict: u32) {
        assert!(
            verdict == self.verdict || self.name.contains("1 M"),
            "{}: verdict {verdict}",
            self.name
        );
    }
}

fn measure() {
    ip("link add veth0 type veth peer name outside");
    ip("link set veth0 up");
    ip("link set outside up");
    ip("address add 192.0.2.101/24 dev veth0");
    ip("neighbour add 192.0.2.102 lladdr 02:02:02:02:02:02 dev veth0 nud permanent");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("own namespace");
    let ifindex = interface_index("veth0").expect("just made");
    let mut world = node();
    let program: &mut Xdp = world
        .ebpf
        .program_mut("portico_xdp")
        .expect("in the object")
        .try_into()
        .expect("XDP");
    let _link = attach_link(program, ifindex, XdpMode::Driver).expect("veth has native XDP");
    let target = program.fd().expect("loaded").as_fd();
    let target = target.try_clone_to_owned().expect("descriptor");
    let counted = std::env::args().any(|word| word == "--counted");
    let (rounds, repeats) = if counted {
        (1, COUNTED_REPEATS)
    } else {
        (ROUNDS, REPEATS)
    };
    let mut rows = rows(&target);
    rows.retain(|row| !counted || row.warm_up <= COUNTED_WARM_UP && !row.name.contains("1 M"));
    for row in &rows {
        let (_, verdict) = raw::run(&row.program, &row.frame, ifindex, row.warm_up).expect("test run");
        row.check(verdict);
    }
    // New flows drive known ones out, so they come when the others are done; the floor comes with both.
    for of_new in [false, true] {
        for _ in 0..rounds {
            for row in rows.iter_mut().filter(|row| row.is_floor || row.is_new == of_new) {
                let (ns, verdict) = raw::run(&row.program, &row.frame, ifindex, repeats).expect("test run");
                row.check(verdict);
                row.taken.push(f64::from(ns));
            }
        }
    }
    report(&rows);
    let evicted = world.counter(Counter::FlowEvicted);
    let (sent, remote) = (
        world.counter(Counter::XdpSent),
        world.counter(Counter::FlowRemote),
    );
    println!("\n{sent} packets sent, {remote} flows opened, {evicted} forgotten for lack of room");
}

fn node() -> World {
    let mut world = World::new(Settings {
        tunnel_ifindex: TUNNEL_IFINDEX,
        node_be: be(NODE),
        tunnel_mss: 1410,
        flow_mask: flow_buckets(FLOWS_DEFAULT) - 1,
        ..Settings::SMALL
    });
    world
        .map::<u32, LocalAddr>("LOCAL_ADDRS")
        .insert(be(NODE), LocalAddr::default(), 0)
        .expect("room");
    world.generation(1);
    let backends: Vec<u32> = (1..=BACKENDS).collect();
    for id in &backends {
        world.backend(*id, remote_backend());
    }
    world.frontend(published(80, PROTO_TCP), 1, &backends, 8080);
    world.frontend(published(53, PROTO_UDP), 2, &backends, 8053);
    world
}

fn rows(target: &OwnedFd) -> Vec<Row> {
    let payload = [7u8; 26];
    let ack = |to, port| {
        tcp(
            (CLIENT, 40_000),
            (to, port),
            Tcp {
                payload: &payload,
                ..ACK
            },
        )
    };
    let syn = tcp(
        (CLIENT, 40_000),
        (NODE, 80),
        Tcp {
            payload: &payload,
            ..SYN
        },
    );
    let datagram = udp((CLIENT, 40_000), (NODE, 53), &payload);
    let floor = raw::floor().expect("two instructions");
    let mut rows = vec![Row {
        name: "floor: return XDP_TX",
        target: "",
        program: floor.try_clone().expect("descriptor"),
        _array: None,
        frame: ack(NODE, 80),
        verdict: XDP_TX,
        warm_up: 1000,
        taken: vec![],
        is_floor: true,
        is_new: false,
    }];
    let mut add = |name, goal, to: &OwnedFd, frame: Vec<u8>, masks: (u16, u16), verdict, warm_up| {
        let frames = Frames {
            frame: &frame,
            port_mask: masks.0,
            addr_mask: masks.1,
        };
        let (program, array) = restoring(to.as_fd(), &frames).expect("harness");
        rows.push(Row {
            name,
            target: goal,
            program,
            _array: Some(array),
            frame,
            verdict,
            warm_up,
            taken: vec![],
            is_floor: to.as_raw_fd() == floor.as_raw_fd(),
            is_new: masks.1 == 0xffff,
        });
    };
    add(
        "harness: the same after restoring",
        "",
        &floor,
        ack(NODE, 80),
        (0, 0),
        XDP_TX,
        1000,
    );
    add(
        "not ours: another address",
        "50",
        target,
        ack(OTHER_NODE, 80),
        (0, 0),
        XDP_PASS,
        1000,
    );
    add(
        "not ours: another port",
        "50",
        target,
        ack(NODE, 81),
        (0, 0),
        XDP_PASS,
        1000,
    );
    // Before each row of known flows, one that opens them, eight times as often as there are flows.
    add("(opens) 1 flow", "", target, syn.clone(), (0, 0), XDP_TX, 1);
    add("known, 1 flow", "60", target, ack(NODE, 80), (0, 0), XDP_TX, 1000);
    add(
        "(opens) 64 k flows",
        "",
        target,
        syn.clone(),
        (0xffff, 0),
        XDP_TX,
        1 << 19,
    );
    add(
        "known, 64 k flows at random",
        "200",
        target,
        ack(NODE, 80),
        (0xffff, 0),
        XDP_TX,
        1 << 17,
    );
    add(
        "(opens) 1 M flows",
        "",
        target,
        syn.clone(),
        (0xffff, 0x0f00),
        XDP_TX,
        1 << 23,
    );
    add(
        "known, 1 M flows at random",
        "",
        target,
        ack(NODE, 80),
        (0xffff, 0x0f00),
        XDP_TX,
        1 << 20,
    );
    add(
        "UDP, known, 1 flow",
        "60",
        target,
        datagram.clone(),
        (0, 0),
        XDP_TX,
        1000,
    );
    add(
        "UDP, known, 64 k flows at random",
        "200",
        target,
        datagram,
        (0xffff, 0),
        XDP_TX,
        1 << 19,
    );
    add(
        "new flow each packet",
        "250",
        target,
        syn,
        (0xffff, 0xffff),
        XDP_TX,
        1000,
    );
    rows
}

fn report(rows: &[Row]) {
    let floor = median(&rows[0].taken);
    let harness = median(&rows[1].taken);
    println!("| packet | target, ns | ns per packet | spread |\n| --- | --- | --- | --- |");
    for (n, row) in rows.iter().enumerate() {
        if row.name.starts_with('(') {
            continue;
        }
        let net = |ns: f64| {
            if n == 0 {
                ns
            } else if n == 1 {
                ns - floor
            } else {
                ns - harness + floor
            }
        };
        let mut all: Vec<f64> = row.taken.iter().map(|ns| net(*ns)).collect();
        all.sort_by(f64::total_cmp);
        let (low, high) = (all[all.len() / 4], all[all.len() * 3 / 4]);
        println!(
            "| {} | {} | {:.0} | {low:.0} to {high:.0} |",
            row.name,
            row.target,
            median(&all)
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
