// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico_xdp`: what arrives from clients, before there is an skb.

use aya::programs::{TestRun as _, TestRunOptions, Xdp, XdpMode};
use proxy_ebpf::{
    abi::{flow::ENTRY, *},
    datapath::{DENY, encap::OUTER_LEN},
};
use proxy_user::kernel::{netlink::interface_index, xdp::attach_link};

use crate::{support::*, tunnel::Sniffer};

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

const PORT: u16 = 40_000;
/// The other node's neighbour entry.
const OTHER_MAC: [u8; 6] = [2, 2, 2, 2, 2, 2];

/// `struct xdp_md` of linux/bpf.h.
#[repr(C)]
#[derive(Default)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

fn program(world: &mut World) -> &mut Xdp {
    world
        .ebpf
        .program_mut("portico_xdp")
        .expect("program exists")
        .try_into()
        .unwrap()
}

/// Runs the program over a frame that came in by an interface (0: none in particular).
pub fn run(world: &mut World, ingress_ifindex: u32, frame: &[u8]) -> (u32, Vec<u8>) {
    let context = Context {
        data_end: frame.len() as u32,
        ingress_ifindex,
        ..Default::default()
    };
    // SAFETY: plain integers, read as bytes while the value lives.
    let bytes =
        unsafe { std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<Context>()) };
    let mut out = vec![0u8; 4096];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: (ingress_ifindex != 0).then_some(bytes),
        ..TestRunOptions::new()
    };
    let result = program(world).test_run(options).expect("BPF_PROG_TEST_RUN");
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

/// A node whose published port is served by a task of another node, behind `veth0` with the program in its driver.
struct Entry {
    world: World,
    ifindex: u32,
    outside: Sniffer,
    _link: aya::programs::links::FdLink,
}

impl Entry {
    fn new() -> Entry {
        ip("link add veth0 type veth peer name outside");
        ip("link set veth0 up");
        ip("link set outside up");
        ip("address add 192.0.2.101/24 dev veth0");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let ifindex = interface_index("veth0").unwrap();
        let mut world = World::node();
        world.backend(1, remote_backend());
        // What the driver of a veth sends back, its other end takes only with a program of its own.
        let other = interface_index("outside").unwrap();
        let taker = attach_link(program(&mut world), other, XdpMode::Driver).unwrap();
        std::mem::forget(taker);
        let link = attach_link(program(&mut world), ifindex, XdpMode::Driver).unwrap();
        Entry {
            world,
            ifindex,
            outside: Sniffer::on("outside"),
            _link: link,
        }
    }

    fn known_neighbour() -> Entry {
        let entry = Entry::new();
        ip("neighbour add 192.0.2.102 lladdr 02:02:02:02:02:02 dev veth0 nud permanent");
        entry
    }
}

/// Checks the outer headers and gives back what is inside.
fn inside(frame: &[u8]) -> Vec<u8> {
    // No outer UDP checksum: the parser of the tests wants one.
    let ip = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(ip.source, NODE.octets());
    assert_eq!(ip.destination, OTHER_NODE.octets());
    assert_eq!(usize::from(ip.total_len), frame.len() - 14);
    let udp = etherparse::UdpHeader::from_slice(&frame[34..]).unwrap().0;
    assert_eq!(
        (udp.destination_port, udp.checksum, usize::from(udp.length)),
        (settings::TUNNEL_PORT, 0, frame.len() - 34)
    );
    assert_eq!(frame[42..46], [8, 0, 0, 0]);
    let task = u32::from_be_bytes(frame[46..50].try_into().unwrap()) >> 8;
    assert_eq!(task, remote_backend().task);
    frame[OUTER_LEN..].to_vec()
}

#[test]
fn what_is_not_for_another_node_goes_on_unchanged() {
    if !privileged("what_is_not_for_another_node_goes_on_unchanged") {
        return;
    }
    let mut world = World::node();
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut lying_ihl = tcp((CLIENT, PORT), (NODE, 80), SYN);
    lying_ihl[14] = 0x4f;
    for (what, frame) in [
        ("another address", tcp((CLIENT, PORT), (OTHER_NODE, 80), SYN)),
        ("another port", tcp((CLIENT, PORT), (NODE, 81), SYN)),
        ("ARP", arp),
        (
            "a truncated header",
            tcp((CLIENT, PORT), (NODE, 80), SYN)[..40].to_vec(),
        ),
        ("a header longer than the frame", lying_ihl),
        ("a segment of no flow", tcp((CLIENT, PORT), (NODE, 80), ACK)),
        ("a local task's", tcp((CLIENT, PORT), (NODE, 80), SYN)),
    ] {
        assert_eq!(run(&mut world, 0, &frame), (XDP_PASS, frame.clone()), "{what}");
    }
}

#[test]
fn a_flow_that_xdp_opened_is_the_same_for_tc() {
    if !privileged("a_flow_that_xdp_opened_is_the_same_for_tc") {
        return;
    }
    let mut world = World::node();
    world.backend(
        2,
        Backend {
            addr_be: be(REMOTE_TASK),
            ..local_backend()
        },
    );
    world.frontend(published(80, PROTO_TCP), 1, &[1, 2], 8080);
    for n in 0..4 {
        let syn = tcp((CLIENT, PORT + n), (NODE, 80), SYN);
        assert_eq!(run(&mut world, 0, &syn).0, XDP_PASS);
        let (verdict, out) = world.run("portico_uplink", &syn);
        assert_eq!(verdict, TC_ACT_REDIRECT);
        let flow = world
            .flow(flow_key(ENTRY, PORT + n, NODE, 80, PROTO_TCP))
            .expect("opened");
        let task = if flow.backend == 1 { TASK } else { REMOTE_TASK };
        assert_eq!(see(&out).to, (task, 8080));
        // In turns, although two programs saw each SYN.
        assert_eq!(flow.backend, 1 + u32::from(n % 2));
    }
    assert_eq!(world.counter(Counter::FlowLocal), 4);
}

#[test]
fn a_denied_client_ends_here() {
    if !privileged("a_denied_client_ends_here") {
        return;
    }
    let mut world = World::node();
    world.change(published(80, PROTO_TCP), |frontend| frontend.sources = 1);
    world.source(1, CLIENT, 24, DENY);
    assert_eq!(
        run(&mut world, 0, &tcp((CLIENT, PORT), (NODE, 80), SYN)).0,
        XDP_DROP
    );
    assert_eq!(world.counter(Counter::SourceDenied), 1);
}

#[test]
fn a_flow_of_another_nodes_task_is_sent_from_the_driver() {
    if !privileged("a_flow_of_another_nodes_task_is_sent_from_the_driver") {
        return;
    }
    in_namespace(|| {
        let mut entry = Entry::known_neighbour();
        let syn = tcp((CLIENT, PORT), (NODE, 80), SYN);
        let (verdict, out) = run(&mut entry.world, entry.ifindex, &syn);
        assert_eq!(verdict, XDP_TX);
        assert_eq!(out[..6], OTHER_MAC);
        let inner = inside(&out);
        let seen = see(&inner);
        assert_eq!((seen.from, seen.to), ((CLIENT, PORT), (NODE, 80)));
        assert_eq!(
            seen.tcp().options.as_slice()[..4],
            [2, 4, 0x05, 0x82],
            "MSS is lowered"
        );
        assert_eq!(inner.len(), syn.len());

        let ack = tcp((CLIENT, PORT), (NODE, 80), ACK);
        let (verdict, out) = run(&mut entry.world, entry.ifindex, &ack);
        assert_eq!((verdict, inside(&out)), (XDP_TX, ack));
        assert_eq!(entry.world.counter(Counter::XdpSent), 2);
        assert_eq!(entry.world.counter(Counter::FlowRemote), 1);

        // The same on the wire.
        let datagram = udp((CLIENT, PORT), (NODE, 80), b"datagram");
        entry.world.frontend(published(80, PROTO_UDP), 2, &[1], 8080);
        entry.outside.send(&datagram);
        assert_eq!(inside(&entry.outside.next()), datagram);
    });
}

#[test]
fn what_cannot_be_sent_here_is_left_to_tc() {
    if !privileged("what_cannot_be_sent_here_is_left_to_tc") {
        return;
    }
    in_namespace(|| {
        let mut entry = Entry::new();
        let ack = tcp((CLIENT, PORT), (NODE, 80), ACK);
        assert_eq!(
            run(
                &mut entry.world,
                entry.ifindex,
                &tcp((CLIENT, PORT), (NODE, 80), SYN)
            )
            .0,
            XDP_PASS
        );
        assert_eq!(
            run(&mut entry.world, entry.ifindex, &ack),
            (XDP_PASS, ack.clone()),
            "the neighbour is not known"
        );
        ip("neighbour add 192.0.2.102 lladdr 02:02:02:02:02:02 dev veth0 nud permanent");
        assert_eq!(run(&mut entry.world, entry.ifindex, &ack).0, XDP_TX);
        // 1410 bytes of MSS, 40 of headers and 50 of tunnel are the MTU.
        let payload = vec![7; 1411];
        let long = tcp(
            (CLIENT, PORT),
            (NODE, 80),
            Tcp {
                payload: &payload,
                ..ACK
            },
        );
        assert_eq!(
            run(&mut entry.world, entry.ifindex, &long),
            (XDP_PASS, long.clone()),
            "too long"
        );
        let longest = tcp(
            (CLIENT, PORT),
            (NODE, 80),
            Tcp {
                payload: &payload[..1410],
                ..ACK
            },
        );
        assert_eq!(run(&mut entry.world, entry.ifindex, &longest).0, XDP_TX);
        let about = udp((NODE, 80), (CLIENT, PORT), &[0; 40]);
        let error = too_long(CLIENT, NODE, &about[14..]);
        assert_eq!(
            run(&mut entry.world, entry.ifindex, &error),
            (XDP_PASS, error.clone()),
            "an ICMP error"
        );
    });
}
