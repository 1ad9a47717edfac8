// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections of a backend that is gone are ended, and nobody else's; real sockets through the real hooks.

use std::{
    io::{ErrorKind, Read as _},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};

use proxy_ebpf::abi::*;
use proxy_user::{
    kernel::{
        KernelParts,
        netns::own_cookie,
        pins::Pins,
        reset::{Gone, sweep},
    },
    model::addr::be6,
    reconcile::key::FrontKey,
};

use crate::{
    restart::{machine, started, unpin},
    support::*,
};

const NETWORK: u32 = 9;
const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const A: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const B: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 2);
const PORT: u16 = 7000;
/// How long a socket may take to notice.
const DEADLINE: Duration = Duration::from_secs(10);

fn vip(parts: &mut KernelParts, backends: &[(u32, Ipv4Addr)]) {
    let datapath = &mut parts.datapath;
    let slot = |index: usize| SlotKey {
        frontend: 1,
        index: index as u32,
    };
    for (i, (id, address)) in backends.iter().enumerate() {
        let backend = Backend {
            addr_be: be(*address),
            ..Default::default()
        };
        datapath.set_backend(*id, backend).unwrap();
        datapath.set_slot(slot(i), *id).unwrap();
    }
    let frontend = Frontend {
        id: 1,
        slots: backends.len() as u32,
        ..Default::default()
    };
    let key = FrontendKey {
        network: NETWORK,
        addr_be: be(VIP),
        kind: frontend::VIP,
        ..Default::default()
    };
    datapath.set_frontend(key.into(), frontend).unwrap();
    let mut networks = [0; limits::SCOPE_NETWORKS_MAX];
    networks[0] = NETWORK;
    let scope = Scope {
        count: 1,
        flags: 0,
        networks,
    };
    datapath.set_scope(own_cookie().unwrap(), scope).unwrap();
}

/// A path that leads to the calling thread's network namespace from any thread of the process.
fn own_namespace() -> PathBuf {
    // SAFETY: no arguments, cannot fail.
    let thread = unsafe { libc::gettid() };
    format!("/proc/self/task/{thread}/ns/net").into()
}

fn ended(mut stream: &TcpStream) -> ErrorKind {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => panic!("read {count}"),
        Err(error) => error.kind(),
    }
}

fn lives(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    // The error is said once; after it there is an end of file.
    matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn who_has_lost_a_backend_is_told_and_nobody_else() {
    if !privileged("who_has_lost_a_backend_is_told_and_nobody_else") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let mut parts = started(&options);
        let pins = Pins::open(&options.bpffs).unwrap();
        vip(&mut parts, &[(1, A), (2, B)]);
        let [a, b] = [A, B].map(|address| TcpListener::bind((address, PORT)).unwrap());
        let [_udp_a, _udp_b] = [A, B].map(|address| UdpSocket::bind((address, PORT)).unwrap());
        let tcp: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect((VIP, PORT)).unwrap()).collect();
        let mapped: Vec<TcpStream> = (0..2)
            .map(|_| TcpStream::connect((VIP.to_ipv6_mapped(), PORT)).unwrap())
            .collect();
        let udp: Vec<UdpSocket> = (0..2)
            .map(|_| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.connect((VIP, PORT)).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                socket
            })
            .collect();
        let direct = TcpStream::connect((A, PORT)).unwrap();
        let _at_a: Vec<_> = (0..3).map(|_| a.accept().unwrap()).collect();
        let at_b: Vec<_> = (0..2).map(|_| b.accept().unwrap()).collect();
        let here = Gone {
            namespaces: vec![own_namespace()],
            servers: Vec::new(),
        };
        assert_eq!(
            sweep(&pins, &here),
            (0, Vec::new()),
            "everybody's backend is there"
        );

        parts
            .datapath
            .set_slot(
                SlotKey {
                    frontend: 1,
                    index: 0,
                },
                2,
            )
            .unwrap();
        parts.datapath.delete_backend(1).unwrap();
        assert_eq!(sweep(&pins, &here), (3, Vec::new()), "TCP, mapped TCP, UDP");
        // The first connect of each kind went where its turn was.
        let gone = |streams: &[TcpStream]| streams.iter().filter(|stream| !lives(stream)).count();
        assert_eq!((gone(&tcp), gone(&mapped)), (1, 1));
        let aborted = udp.iter().filter(|socket| {
            socket.set_nonblocking(true).unwrap();
            socket.recv(&mut [0]).unwrap_err().kind() == ErrorKind::ConnectionAborted
        });
        assert_eq!(aborted.count(), 1);
        assert!(lives(&direct), "a connection that no VIP has made is not ours");
        assert!(
            at_b.iter().all(|(stream, _)| lives(stream)),
            "the other backend's stay"
        );

        // A server whose time is over: its clients are told by its own kernel.
        let over = Gone {
            namespaces: Vec::new(),
            servers: vec![(own_namespace(), B, PORT)],
        };
        let left: Vec<&TcpStream> = tcp.iter().chain(&mapped).filter(|stream| lives(stream)).collect();
        let (count, errors) = sweep(&pins, &over);
        assert_eq!((count, errors), (2, Vec::new()));
        for stream in left {
            stream.set_nonblocking(false).unwrap();
            assert_eq!(ended(stream), ErrorKind::ConnectionReset);
        }
        assert!(lives(&direct));
        drop(parts);
        unpin(&options);
    });
}

#[test]
fn a_backend_that_stands_under_another_number_is_not_gone() {
    const NAME: &str = "a_backend_that_stands_under_another_number_is_not_gone";
    if !privileged(NAME) {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let mut parts = started(&options);
        let pins = Pins::open(&options.bpffs).unwrap();
        vip(&mut parts, &[(1, A)]);
        let _a = TcpListener::bind((A, PORT)).unwrap();
        let stream = TcpStream::connect((VIP, PORT)).unwrap();
        // A service made anew has new numbers.
        vip(&mut parts, &[(7, A)]);
        parts.datapath.delete_backend(1).unwrap();
        assert_eq!(sweep(&pins, &Gone::default()), (0, Vec::new()));
        assert!(lives(&stream));
        // And the agent's thread does it by itself.
        parts.datapath.delete_backend(7).unwrap();
        (parts.reset)(Gone::default());
        stream.set_nonblocking(false).unwrap();
        assert_eq!(ended(&stream), ErrorKind::ConnectionAborted);
        // It counts when it is through.
        let began = Instant::now();
        loop {
            let counted = (parts.counters)();
            if counted.contains(&("sockets_reset".into(), 1)) {
                break;
            }
            assert!(began.elapsed() < DEADLINE, "{counted:?}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        drop(parts);
        unpin(&options);
    });
}

#[test]
fn an_ipv6_connection_is_ended_as_well() {
    if !privileged("an_ipv6_connection_is_ended_as_well") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let mut parts = started(&options);
        let (vip6, backend6) = ("fd00:9::1".parse::<Ipv6Addr>().unwrap(), Ipv6Addr::LOCALHOST);
        vip(&mut parts, &[]);
        let datapath = &mut parts.datapath;
        let [x, y, z, addr_be] = be6(backend6);
        let backend = Backend {
            addr_be,
            addr_high: [x, y, z],
            flags: backend::IPV6,
            ..Default::default()
        };
        datapath.set_backend(3, backend).unwrap();
        datapath
            .set_slot(
                SlotKey {
                    frontend: 2,
                    index: 0,
                },
                3,
            )
            .unwrap();
        let frontend = Frontend {
            id: 2,
            slots: 1,
            ..Default::default()
        };
        let key = FrontendKey6 {
            network: NETWORK,
            addr: be6(vip6),
            kind: frontend::VIP,
            ..Default::default()
        };
        datapath.set_frontend(FrontKey::V6(key), frontend).unwrap();
        let _listener = TcpListener::bind((backend6, PORT)).unwrap();
        let stream = TcpStream::connect((vip6, PORT)).unwrap();
        parts.datapath.delete_backend(3).unwrap();
        let pins = Pins::open(&options.bpffs).unwrap();
        assert_eq!(sweep(&pins, &Gone::default()), (1, Vec::new()));
        assert_eq!(ended(&stream), ErrorKind::ConnectionAborted);
        drop(parts);
        unpin(&options);
    });
}
