// SPDX-License-Identifier: MIT OR Apache-2.0
//! A loaded object with its maps, frames to feed it, and namespaces to run in.

use std::{net::Ipv4Addr, process::Command};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use proxy_ebpf::{
    abi::*,
    datapath::table::{find, place, read, store},
};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
pub const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 102);
pub const TASK: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 5);
pub const REMOTE_TASK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
pub const TASK_MAC: [u8; 6] = [2, 0x42, 172, 18, 0, 5];
pub const GATEWAY_MAC: [u8; 6] = [2, 0x42, 172, 18, 0, 1];
pub const TUNNEL_IFINDEX: u32 = 77;
pub const TASK_IFINDEX: u32 = 55;

pub const TC_ACT_OK: u32 = 0;
pub const TC_ACT_SHOT: u32 = 2;
pub const TC_ACT_REDIRECT: u32 = 7;

/// Whether the test can run; says so if not.
pub fn privileged(test: &str) -> bool {
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("SKIPPED {test}: needs root");
    }
    root
}

pub fn be(addr: Ipv4Addr) -> u32 {
    u32::from(addr).to_be()
}

/// The object, loaded with its own maps; gone with the value.
pub struct World {
    pub ebpf: Ebpf,
}

impl World {
    pub fn new(settings: Settings) -> World {
        World {
            ebpf: proxy_user::kernel::object::load_unpinned(None, &settings).expect("the object loads"),
        }
    }

    /// A node with a tunnel and one published port, 80/tcp -> 8080, with one local task.
    pub fn node() -> World {
        let mut world = World::new(Settings {
            tunnel_ifindex: TUNNEL_IFINDEX,
            node_be: be(NODE),
            tunnel_mss: 1410,
            ..Settings::SMALL
        });
        world
            .map::<u32, LocalAddr>("LOCAL_ADDRS")
            .insert(be(NODE), LocalAddr::default(), 0)
            .unwrap();
        world.backend(1, local_backend());
        world.frontend(published(80, PROTO_TCP), 1, &[1], 8080);
        world
    }

    pub fn map<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.ebpf.map_mut(name).expect("map exists")).expect("map has this type")
    }

    pub fn backend(&mut self, id: u32, backend: Backend) {
        self.map("BACKENDS").insert(id, backend, 0).unwrap();
    }

    pub fn frontend(&mut self, key: FrontendKey, id: u32, backends: &[u32], target_port: u16) {
        for (index, backend) in backends.iter().enumerate() {
            self.map("SLOTS")
                .insert(
                    SlotKey {
                        frontend: id,
                        index: index as u32,
                    },
                    *backend,
                    0,
                )
                .unwrap();
        }
        let frontend = Frontend {
            id,
            slots: backends.len() as u32,
            target_port_be: target_port.to_be(),
            ..Default::default()
        };
        self.map("FRONTENDS").insert(key, frontend, 0).unwrap();
    }

    /// Changes a frontend that is there.
    pub fn change(&mut self, key: FrontendKey, change: impl FnOnce(&mut Frontend)) {
        let mut map = self.map::<FrontendKey, Frontend>("FRONTENDS");
        let mut value = map.get(&key, 0).unwrap();
        change(&mut value);
        map.insert(key, value, 0).unwrap();
    }

    /// Gives a frontend a table, under number 1.
    pub fn table(&mut self, key: FrontendKey, scheduler: u8, backends: &[u32]) {
        for (block, part) in (0..).zip(backends.chunks(schedule::BLOCK)) {
            let mut value = TableBlock::default();
            value.backends[..part.len()].copy_from_slice(part);
            self.map("TABLES")
                .insert(TableKey { table: 1, block }, value, 0)
                .unwrap();
        }
        self.change(key, |frontend| {
            frontend.scheduler = scheduler;
            frontend.table = 1;
            frontend.table_size = backends.len() as u32;
        });
    }

    /// Puts clients into a frontend's prefix list.
    pub fn source(&mut self, frontend: u32, prefix: Ipv4Addr, len: u32, verdict: u8) {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&frontend.to_be_bytes());
        data[4..].copy_from_slice(&prefix.octets());
        let mut sources: LpmTrie<_, [u8; 8], u32> =
            LpmTrie::try_from(self.ebpf.map_mut("SOURCES").expect("map exists")).unwrap();
        let key = lpm_trie::Key::new(32 + len, data);
        sources.insert(&key, u32::from(verdict), 0).unwrap();
    }

    /// Tells the programs that the tables are others now; 0 = that nobody counts.
    pub fn generation(&mut self, number: u16) {
        let map = self.ebpf.map_mut("GENERATION").expect("map exists");
        let mut generation: Array<_, u64> = Array::try_from(map).expect("an array");
        generation.set(0, u64::from(number), 0).unwrap();
    }

    fn buckets(&mut self) -> Array<&mut MapData, Bucket> {
        Array::try_from(self.ebpf.map_mut("FLOWS").expect("map exists")).expect("an array")
    }

    pub fn flow(&mut self, key: FlowKey) -> Option<Flow> {
        let place = place(&key, Settings::SMALL.flow_mask);
        let bucket = self.buckets().get(&place.bucket, 0).unwrap();
        find(&bucket, place.tag, &key).map(|way| read(&bucket, way))
    }

    pub fn set_flow(&mut self, key: FlowKey, flow: Flow) {
        let place = place(&key, Settings::SMALL.flow_mask);
        let mut buckets = self.buckets();
        let mut bucket = buckets.get(&place.bucket, 0).unwrap();
        store(&mut bucket, place.tag, &key, &flow, |_| u32::MAX);
        buckets.set(place.bucket, bucket, 0).unwrap();
    }

    /// The time that the programs see, to a jiffy.
    pub fn now() -> u32 {
        ticks_of(libc::CLOCK_MONOTONIC)
    }

    /// The time that the programs see.
    pub fn now_coarse() -> u32 {
        ticks_of(libc::CLOCK_MONOTONIC_COARSE)
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        let map: PerCpuArray<&MapData, u64> =
            PerCpuArray::try_from(self.ebpf.map("COUNTERS").expect("map exists")).unwrap();
        map.get(&(counter as u32), 0).unwrap().iter().sum()
    }

    /// What is counted of a backend.
    pub fn tally(&mut self, backend: u32) -> Tally {
        let active: Array<_, u64> = Array::try_from(self.ebpf.map("ACTIVE").expect("map exists")).unwrap();
        Tally::of(active.get(&backend, 0).unwrap())
    }

    /// Runs a tc program over a frame: verdict and the frame afterwards.
    pub fn run(&mut self, program: &str, frame: &[u8]) -> (u32, Vec<u8>) {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(program)
            .expect("program exists")
            .try_into()
            .unwrap();
        let mut out = vec![0u8; 4096];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).expect("BPF_PROG_TEST_RUN");
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }
}

fn ticks_of(clock: libc::clockid_t) -> u32 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid for the call.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    ((time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64) >> settings::TICK_SHIFT) as u32
}

pub fn published(port: u16, protocol: u8) -> FrontendKey {
    FrontendKey {
        port_be: port.to_be(),
        protocol,
        kind: frontend::PUBLISHED,
        ..Default::default()
    }
}

pub fn local_backend() -> Backend {
    Backend {
        addr_be: be(TASK),
        ifindex: TASK_IFINDEX,
        task: 5,
        flags: backend::LOCAL,
        mac: TASK_MAC,
        gateway_mac: GATEWAY_MAC,
        ..Default::default()
    }
}

pub fn remote_backend() -> Backend {
    Backend {
        addr_be: be(REMOTE_TASK),
        node_be: be(OTHER_NODE),
        task: backend::task_id(be(REMOTE_TASK)),
        flags: backend::REMOTE,
        ..Default::default()
    }
}

pub fn flow_key(side: u8, client_port: u16, local: Ipv4Addr, local_port: u16, protocol: u8) -> FlowKey {
    let client = (be(CLIENT), client_port.to_be());
    FlowKey::new(side, protocol, client, (be(local), local_port.to_be()))
}

/// TCP flags and options of a test segment.
#[derive(Clone, Copy, Default)]
pub struct Tcp<'a> {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
    pub options: &'a [u8],
    pub payload: &'a [u8],
}

pub const SYN: Tcp<'static> = Tcp {
    syn: true,
    ack: false,
    fin: false,
    rst: false,
    options: &[2, 4, 5, 180, 4, 2, 1, 1],
    payload: &[],
};
pub const ACK: Tcp<'static> = Tcp {
    syn: false,
    ack: true,
    fin: false,
    rst: false,
    options: &[],
    payload: b"data",
};

pub fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), segment: Tcp) -> Vec<u8> {
    let mut builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .tcp(from.1, to.1, 1000, 65535)
        .options_raw(segment.options)
        .unwrap();
    if segment.syn {
        builder = builder.syn();
    }
    if segment.ack {
        builder = builder.ack(7000);
    }
    if segment.fin {
        builder = builder.fin();
    }
    if segment.rst {
        builder = builder.rst();
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, segment.payload).unwrap();
    frame
}

pub fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// ICMP "fragmentation needed" about a packet (its IPv4 header first).
pub fn too_long(from: Ipv4Addr, to: Ipv4Addr, about: &[u8]) -> Vec<u8> {
    let mtu = etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(from.octets(), to.octets(), 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(mtu));
    let mut frame = Vec::new();
    builder.write(&mut frame, &about[..28]).unwrap();
    frame
}

/// A UDP frame with at least 64 bytes of payload as two fragments.
pub fn in_two_fragments(frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let part = |range: std::ops::Range<usize>, offset: u16, more: bool| {
        let mut ip = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
        ip.identification = 99;
        ip.more_fragments = more;
        ip.dont_fragment = false;
        ip.fragment_offset = etherparse::IpFragOffset::try_new(offset).unwrap();
        ip.set_payload_len(range.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        [&frame[..14], &ip.to_bytes()[..], &frame[range]].concat()
    };
    (part(34..74, 0, true), part(74..frame.len(), 5, false))
}

/// A frame as an independent parser sees it, its checksums verified.
#[derive(Debug)]
pub struct Seen {
    pub macs: ([u8; 6], [u8; 6]),
    pub from: (Ipv4Addr, u16),
    pub to: (Ipv4Addr, u16),
    pub transport: TransportHeader,
    pub payload: Vec<u8>,
}

impl Seen {
    pub fn tcp(&self) -> &etherparse::TcpHeader {
        match &self.transport {
            TransportHeader::Tcp(tcp) => tcp,
            other => panic!("not TCP: {other:?}"),
        }
    }
}

pub fn see(frame: &[u8]) -> Seen {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("a whole frame");
    let ethernet = headers.link.and_then(|l| l.ethernet2()).expect("Ethernet");
    let Some(NetHeaders::Ipv4(ip, _)) = headers.net else {
        panic!("not IPv4")
    };
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 checksum");
    let payload = headers.payload.slice().to_vec();
    let transport = headers.transport.expect("transport header");
    let (source, destination) = match &transport {
        TransportHeader::Tcp(h) => {
            assert_eq!(
                h.checksum,
                h.calc_checksum_ipv4(&ip, &payload).unwrap(),
                "TCP checksum"
            );
            (h.source_port, h.destination_port)
        }
        TransportHeader::Udp(h) => {
            assert_eq!(
                h.checksum,
                h.calc_checksum_ipv4(&ip, &payload).unwrap(),
                "UDP checksum"
            );
            (h.source_port, h.destination_port)
        }
        TransportHeader::Icmpv4(h) => {
            assert_eq!(h.checksum, h.icmp_type.calc_checksum(&payload), "ICMP checksum");
            (0, 0)
        }
        other => panic!("unexpected {other:?}"),
    };
    Seen {
        macs: (ethernet.destination, ethernet.source),
        from: (ip.source.into(), source),
        to: (ip.destination.into(), destination),
        transport,
        payload,
    }
}

/// Runs a test in a network namespace of its own, on a thread of its own, with `lo` up. The namespace ends with
/// the last thing that uses it.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: changes the calling thread only.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare");
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip ARGS` in the calling thread's namespace, which a child inherits.
pub fn ip(args: &str) {
    let status = Command::new("ip")
        .args(args.split_whitespace())
        .status()
        .expect("ip runs");
    assert!(status.success(), "ip {args}: {status}");
}
