// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the socket hooks cost: `cargo bench -p portico-tests --bench socket_hooks` (root).
//!
//! Three variants in one namespace, interleaved by round: no hooks attached; hooks attached and the address is no
//! VIP; hooks attached and the address is a VIP. The time is that of connect() alone, on loopback; the figures
//! are the medians of the rounds' medians, with the spread between rounds. Then bytes per second over an
//! established connection, VIP against direct. Load: ROUNDS x CONNECTS connects and ROUNDS x BYTES per variant.

#[path = "../tests/kernel/support.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with the tests, which use all of it"
)]
mod support;

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::Instant,
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use proxy_ebpf::abi::*;
use proxy_user::{
    cli::doctor::cgroup2_mount,
    kernel::{netns::own_cookie, object::SOCK_PROGRAMS},
};
use support::*;

const ROUNDS: usize = 15;
const CONNECTS: usize = 2_000;
const BYTES: usize = 256 << 20;
const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const BACKEND: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

fn main() {
    if privileged("socket_hooks") {
        in_namespace(measure);
    }
}

fn measure() {
    let listener = TcpListener::bind((BACKEND, 7000)).expect("loopback");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
                let _ = stream.write_all(b"!");
            });
        }
    });
    let mut connect = [vec![], vec![], vec![]];
    let mut bulk = [vec![], vec![]];
    for _ in 0..ROUNDS {
        connect[0].push(connect_ns((BACKEND, 7000).into()));
        let world = attached();
        connect[1].push(connect_ns((BACKEND, 7000).into()));
        connect[2].push(connect_ns((VIP, 7000).into()));
        bulk[0].push(bytes_per_second((BACKEND, 7000).into()));
        bulk[1].push(bytes_per_second((VIP, 7000).into()));
        drop(world);
    }
    let [none, other, vip] = connect.map(|samples| spread("ns", samples));
    println!("connect, no hooks:          {none}");
    println!("connect, hooks, not a VIP:  {other}");
    println!("connect, hooks, VIP:        {vip}");
    let [direct, vip] = bulk.map(|samples| spread("MB/s", samples));
    println!("throughput, direct:         {direct}");
    println!("throughput, VIP:            {vip}");
}

fn attached() -> World {
    let mut world = World::new(Settings::default());
    world.backend(
        1,
        Backend {
            addr_be: be(BACKEND),
            ..Default::default()
        },
    );
    let key = FrontendKey {
        network: 9,
        addr_be: be(VIP),
        kind: frontend::VIP,
        ..Default::default()
    };
    world.frontend(key, 1, &[1], 0);
    let mut networks = [0; limits::SCOPE_NETWORKS_MAX];
    networks[0] = 9;
    let cookie = own_cookie().expect("cookie");
    world
        .map("SCOPES")
        .insert(
            cookie,
            Scope {
                count: 1,
                flags: 0,
                networks,
            },
            0,
        )
        .expect("scope");
    let cgroup = File::open(cgroup2_mount().expect("cgroup v2")).expect("cgroup v2");
    for (name, _) in SOCK_PROGRAMS {
        let program: &mut CgroupSockAddr = world
            .ebpf
            .program_mut(name)
            .expect("program")
            .try_into()
            .expect("socket hook");
        program.attach(&cgroup, CgroupAttachMode::Single).expect("attach");
    }
    world
}

/// Median time of a connect, in nanoseconds.
fn connect_ns(to: SocketAddr) -> f64 {
    let mut samples: Vec<f64> = (0..CONNECTS)
        .map(|_| {
            let start = Instant::now();
            let stream = TcpStream::connect(to).expect("connect");
            let took = start.elapsed().as_nanos() as f64;
            abort(&stream);
            took
        })
        .collect();
    median(&mut samples)
}

/// Megabytes per second from here to the backend.
fn bytes_per_second(to: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(to).expect("connect");
    let chunk = vec![7; 1 << 16];
    let start = Instant::now();
    for _ in 0..BYTES / chunk.len() {
        stream.write_all(&chunk).expect("send");
    }
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    stream
        .read_exact(&mut [0])
        .expect("the backend has read everything");
    BYTES as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// Closes with RST, so that no port stays in TIME_WAIT.
fn abort(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let len = size_of::<libc::linger>() as u32;
    // SAFETY: value and length are valid for the call.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            len,
        )
    };
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn spread(unit: &str, mut samples: Vec<f64>) -> String {
    let m = median(&mut samples);
    format!(
        "{m:.0} {unit} ({:.0} to {:.0})",
        samples[0],
        samples[samples.len() - 1]
    )
}
