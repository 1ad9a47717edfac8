// SPDX-License-Identifier: MIT OR Apache-2.0
//! `portico_tunnel`: frames from other nodes. The tunnel key exists only on a real device, so the frames are sent
//! to one as the VXLAN datagrams that another node would send (RFC 7348), and what leaves is read from the other
//! end of a veth.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use aya::programs::SchedClassifier;
use proxy_ebpf::abi::{settings::TUNNEL_PORT, *};
use proxy_user::kernel::{
    attach::{Attached, attach_ingress},
    netlink::{ensure_tunnel, interface_index},
};

use crate::{observe, support::*};

const PORT: u16 = 40_000;
const PEER: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A node with a tunnel device and one task behind `veth0`, whose other end is `task0`.
struct Node {
    world: World,
    tunnel: UdpSocket,
    task: Sniffer,
    _attached: Attached,
}

impl Node {
    fn new() -> Node {
        let tunnel_ifindex = ensure_tunnel().expect("vxlan in external mode");
        ip("link add veth0 type veth peer name task0");
        ip("link set veth0 up");
        ip("link set task0 up");
        let settings = Settings {
            tunnel_ifindex,
            node_be: be(NODE),
            tunnel_mss: 1410,
            ..Settings::SMALL
        };
        let mut world = World::new(settings);
        world
            .map("LOCAL_ADDRS")
            .insert(be(NODE), LocalAddr::default(), 0)
            .unwrap();
        world.frontend(published(80, PROTO_TCP), 1, &[], 8080);
        let task = LocalTask {
            addr_be: be(TASK),
            ifindex: interface_index("veth0").unwrap(),
            mac: TASK_MAC,
            gateway_mac: GATEWAY_MAC,
        };
        world.map("LOCAL_TASKS").insert(7u32, task, 0).unwrap();
        let program: &mut SchedClassifier = world
            .ebpf
            .program_mut("portico_tunnel")
            .unwrap()
            .try_into()
            .unwrap();
        let attached = attach_ingress("portico0", program, false).unwrap();
        let tunnel = UdpSocket::bind((PEER, 0)).unwrap();
        Node {
            world,
            tunnel,
            task: Sniffer::on("task0"),
            _attached: attached,
        }
    }

    fn send(&self, vni: u32, frame: &[u8]) {
        let mut datagram = vec![0x08, 0, 0, 0];
        datagram.extend((vni << 8).to_be_bytes());
        datagram.extend(frame);
        self.tunnel
            .send_to(&datagram, (Ipv4Addr::LOCALHOST, TUNNEL_PORT))
            .unwrap();
    }
}

#[test]
fn a_packet_for_a_local_task_is_rewritten_and_its_entry_node_remembered() {
    if !privileged("a_packet_for_a_local_task_is_rewritten_and_its_entry_node_remembered") {
        return;
    }
    in_namespace(|| {
        let mut node = Node::new();
        // The client used the other node's address; it stays the flow's.
        node.send(7, &tcp((CLIENT, PORT), (OTHER_NODE, 80), SYN));
        let seen = see(&node.task.next());
        assert_eq!((seen.from, seen.to), ((CLIENT, PORT), (TASK, 8080)));
        assert_eq!(seen.macs, (TASK_MAC, GATEWAY_MAC));
        let flow = node
            .world
            .flow(flow_key(flow::TASK, PORT, TASK, 8080, PROTO_TCP))
            .expect("TASK side");
        assert_eq!(
            (flow.node_be, flow.nat_addr_be, flow.nat_port_be),
            (be(PEER), be(OTHER_NODE), 80u16.to_be())
        );
        assert_eq!(node.world.counter(Counter::FlowTunnel), 1);
    });
}

#[test]
fn an_unknown_task_or_flow_is_counted_and_goes_nowhere() {
    if !privileged("an_unknown_task_or_flow_is_counted_and_goes_nowhere") {
        return;
    }
    in_namespace(|| {
        let mut node = Node::new();
        observe::watch(&mut node.world, 1, 1);
        node.send(8, &tcp((CLIENT, PORT), (OTHER_NODE, 80), SYN));
        node.send(8, &tcp((CLIENT, PORT), (OTHER_NODE, 80), ACK));
        node.send(8, &udp((CLIENT, PORT), (OTHER_NODE, 80), b"x"));
        node.send(0, &tcp((NODE, 80), (CLIENT, PORT), ACK));
        node.send(7, &[0; 60]);
        let (_, later) = in_two_fragments(&udp((CLIENT, PORT), (OTHER_NODE, 80), &[0; 64]));
        node.send(7, &later);
        // Loopback delivers in order: once this one is out, the others have been decided.
        node.send(7, &tcp((CLIENT, PORT), (OTHER_NODE, 80), SYN));
        assert_eq!(see(&node.task.next()).to, (TASK, 8080));
        assert_eq!(node.world.counter(Counter::TunnelUnknownTask), 3);
        // The reply without a flow, and the RST for the segment, but none for the SYN that will come again: the peer it goes back to is this node.
        assert_eq!(node.world.counter(Counter::TunnelUnknownFlow), 2);
        assert_eq!(node.world.counter(Counter::TunnelNotOurs), 1);
        let mut told = observe::reasons(&mut node.world);
        told.sort_unstable();
        let (task, flow) = ("tunnel_unknown_task", "tunnel_unknown_flow");
        let once = ["flow_tunnel", "fragment_unknown", "tunnel_not_ours"];
        let expected = [once.as_slice(), &[flow, flow, task, task, task]].concat();
        assert_eq!(told, expected);
    });
}

#[test]
fn a_reply_leaves_through_the_interface_that_the_client_came_in_by() {
    if !privileged("a_reply_leaves_through_the_interface_that_the_client_came_in_by") {
        return;
    }
    in_namespace(|| {
        let mut node = Node::new();
        ip("address add 192.0.2.101/24 dev veth0");
        ip("neighbour add 192.0.2.10 lladdr 02:02:02:02:02:02 dev veth0 nud permanent");
        let flow = Flow {
            ifindex: interface_index("veth0").unwrap(),
            state: flow::OPEN,
            seen: World::now(),
            ..Default::default()
        };
        let key = flow_key(flow::ENTRY, PORT, NODE, 80, PROTO_TCP);
        node.world.set_flow(key, flow);
        node.send(0, &tcp((NODE, 80), (CLIENT, PORT), Tcp { fin: true, ..ACK }));
        let seen = see(&node.task.next());
        assert_eq!(
            (seen.from, seen.to, seen.macs.0),
            ((NODE, 80), (CLIENT, PORT), [2; 6])
        );
        assert_eq!(node.world.flow(key).unwrap().state, flow::CLOSING);
    });
}

/// Reads the IPv4 frames that arrive at an interface, and sends frames out of it.
pub struct Sniffer(OwnedFd);

impl Sniffer {
    pub fn on(interface: &str) -> Sniffer {
        let protocol = (libc::ETH_P_IP as u16).to_be();
        // SAFETY: plain system calls with valid arguments; results are checked.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol));
            assert!(fd >= 0, "AF_PACKET: {}", io::Error::last_os_error());
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = interface_index(interface).unwrap() as i32;
            let len = size_of::<libc::sockaddr_ll>() as u32;
            assert_eq!(libc::bind(fd, (&raw const address).cast(), len), 0);
            let timeout = libc::timeval {
                tv_sec: Duration::from_secs(5).as_secs() as i64,
                tv_usec: 0,
            };
            let size = size_of::<libc::timeval>() as u32;
            let set = libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const timeout).cast(),
                size,
            );
            assert_eq!(set, 0);
            Sniffer(OwnedFd::from_raw_fd(fd))
        }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the frame is valid for its length.
        let n = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(n, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    pub fn next(&self) -> Vec<u8> {
        let mut buffer = vec![0u8; 2048];
        // SAFETY: the buffer is valid for its length.
        let n = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        assert!(n > 0, "no frame within 5 s: {}", io::Error::last_os_error());
        buffer.truncate(n as usize);
        buffer
    }
}
