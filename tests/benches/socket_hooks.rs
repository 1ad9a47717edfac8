// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the socket hooks cost: `cargo bench -p portico-tests --bench socket_hooks` (root).
//!
//! The hooks are attached to a cgroup of the bench's own, and a socket belongs to the cgroup that it was made in.
//! So sockets with and without hooks stand side by side in one namespace, and their connects take turns: whatever
//! slows the machine down slows all of them. The time is that of connect(2) alone, on loopback, with nobody to
//! wake up: the listener's queue takes a whole batch. Figures are medians of each round, and of the rounds'
//! differences. Then bytes per second over two established connections, direct and through a VIP, taking turns.
//!
//! Load: ROUNDS x BATCH connects of three kinds, and ROUNDS x TURNS x TURN_BYTES for each connection.

#[path = "../tests/kernel/support.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with the tests, which use all of it"
)]
mod support;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use proxy_ebpf::abi::*;
use proxy_user::{
    cli::doctor::cgroup2_mount,
    kernel::{netns::own_cookie, object::SOCK_PROGRAMS},
};
use socket2::{Domain, SockAddr, Socket, Type};
use support::*;

const ROUNDS: usize = 40;
const BATCH: usize = 300;
const TURNS: usize = 12;
const TURN_BYTES: usize = 8 << 20;
/// Less than the smallest buffers of the two ends, so that writing never waits for reading.
const CHUNK_BYTES: usize = 16 << 10;
const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const BACKEND: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const PORT: u16 = 7000;

fn main() {
    if privileged("socket_hooks") {
        in_namespace(measure);
    }
}

fn measure() {
    pin(0);
    let cgroup = Cgroup::new();
    let world = attached(&cgroup.folder);
    let listener = socket();
    listener.bind(&address(BACKEND)).expect("loopback");
    listener.listen(4 * BATCH as i32).expect("listen");
    listener.set_nonblocking(true).expect("listen");

    let mut connect = [vec![], vec![], vec![]];
    let mut ratios = vec![];
    for round in 0..=ROUNDS {
        let taken = connect_ns(&listener, &cgroup, round);
        let ratio = throughput_ratio(&listener, &cgroup);
        // The first round warms up.
        if round > 0 {
            for (all, one) in connect.iter_mut().zip(taken) {
                all.push(one);
            }
            ratios.push(ratio);
        }
    }
    drop(world);
    let difference = |a: usize, b: usize| {
        connect[a]
            .iter()
            .zip(&connect[b])
            .map(|(a, b)| a - b)
            .collect::<Vec<f64>>()
    };
    println!("{ROUNDS} rounds of {BATCH} connects of each kind: median (quartiles)");
    println!(
        "connect, no hooks:              {}",
        quartiles(0, "ns", connect[0].clone())
    );
    println!(
        "connect, hooks, not a VIP:      {}",
        quartiles(0, "ns", connect[1].clone())
    );
    println!(
        "connect, hooks, VIP:            {}",
        quartiles(0, "ns", connect[2].clone())
    );
    println!(
        "a VIP adds to no hooks:         {}",
        quartiles(0, "ns", difference(2, 0))
    );
    println!(
        "a VIP adds to a direct connect: {}",
        quartiles(0, "ns", difference(2, 1))
    );
    println!(
        "hooks add to what is no VIP:    {}",
        quartiles(0, "ns", difference(1, 0))
    );
    println!("throughput, VIP / direct:       {}", quartiles(3, "", ratios));
}

/// Medians of one round: no hooks, hooks and no VIP, hooks and a VIP.
fn connect_ns(listener: &Socket, cgroup: &Cgroup, round: usize) -> [f64; 3] {
    let plain: Vec<Socket> = (0..BATCH).map(|_| socket()).collect();
    let (direct, vip) = cgroup.inside(|| {
        let make = || (0..BATCH).map(|_| socket()).collect::<Vec<Socket>>();
        (make(), make())
    });
    let kinds = [(&plain, BACKEND), (&direct, BACKEND), (&vip, VIP)];
    let mut samples = [vec![], vec![], vec![]];
    for i in 0..BATCH {
        for turn in 0..kinds.len() {
            let kind = (turn + i + round) % kinds.len();
            let (sockets, to) = kinds[kind];
            let to = address(to);
            let start = Instant::now();
            sockets[i].connect(&to).expect("connect");
            samples[kind].push(start.elapsed().as_nanos() as f64);
        }
    }
    let ours = vip[0].peer_addr().expect("connected").as_socket();
    assert_eq!(ours, Some((VIP, PORT).into()), "the hooks did not translate");
    for _ in 0..3 * BATCH {
        abort(&listener.accept().expect("a whole batch is in the queue").0);
    }
    for (sockets, _) in kinds {
        sockets.iter().for_each(abort);
    }
    samples.map(|mut samples| median(&mut samples))
}

/// Bytes per second through a VIP over bytes per second without: the median of some turns of each.
///
/// Both ends are in this thread: with a thread for each, who runs when decides more than what a byte costs.
fn throughput_ratio(listener: &Socket, cgroup: &Cgroup) -> f64 {
    let mut pairs = [
        connected(listener, socket(), BACKEND),
        connected(listener, cgroup.inside(socket), VIP),
    ];
    let mut chunk = vec![7; CHUNK_BYTES];
    let mut taken = [vec![], vec![]];
    for turn in 0..2 * TURNS {
        let kind = (turn + turn / 2) % 2;
        let (from, to) = &mut pairs[kind];
        let start = Instant::now();
        for _ in 0..TURN_BYTES / CHUNK_BYTES {
            from.write_all(&chunk).expect("send");
            to.read_exact(&mut chunk).expect("receive");
        }
        taken[kind].push(start.elapsed().as_secs_f64());
    }
    let [mut direct, mut vip] = taken;
    median(&mut direct) / median(&mut vip)
}

/// Both ends of a connection.
fn connected(listener: &Socket, socket: Socket, to: Ipv4Addr) -> (TcpStream, TcpStream) {
    socket.connect(&address(to)).expect("connect");
    let (other, _) = listener.accept().expect("in the queue");
    other.set_nonblocking(false).expect("accepted");
    (socket.into(), other.into())
}

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket")
}

fn address(address: Ipv4Addr) -> SockAddr {
    SocketAddr::from((address, PORT)).into()
}

/// Keeps the calling thread on a processor, if there is such a one.
fn pin(processor: usize) {
    // SAFETY: the set is valid for the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// A cgroup of the bench's own; removed when dropped.
struct Cgroup {
    folder: PathBuf,
    home: PathBuf,
}

impl Cgroup {
    fn new() -> Self {
        let root = cgroup2_mount().expect("cgroup v2");
        let own = fs::read_to_string("/proc/self/cgroup").expect("procfs");
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .expect("cgroup v2");
        let folder = root.join(format!("portico-bench-{}", std::process::id()));
        fs::create_dir(&folder).expect("a cgroup");
        Self {
            home: root.join(own),
            folder,
        }
    }

    /// Does something with the process in this cgroup: sockets that are made there have its hooks.
    fn inside<T>(&self, make: impl FnOnce() -> T) -> T {
        let enter = |folder: &PathBuf| {
            let procs = folder.join("cgroup.procs");
            fs::write(procs, std::process::id().to_string()).expect("cgroup.procs");
        };
        enter(&self.folder);
        let made = make();
        enter(&self.home);
        made
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let start = Instant::now();
        // The kernel needs a moment to let go of it.
        while fs::remove_dir(&self.folder).is_err() && start.elapsed() < Duration::from_secs(5) {
            thread::yield_now();
        }
    }
}

fn attached(cgroup: &PathBuf) -> World {
    let mut world = World::new(Settings::SMALL);
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
    let cgroup = File::open(cgroup).expect("cgroup");
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

/// Closes with RST, so that no port stays in TIME_WAIT.
fn abort(socket: &Socket) {
    socket.set_linger(Some(Duration::ZERO)).expect("linger");
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn quartiles(digits: usize, unit: &str, mut samples: Vec<f64>) -> String {
    samples.sort_by(f64::total_cmp);
    let at = |part: usize| samples[(samples.len() - 1) * part / 4];
    let (low, middle, high) = (at(1), at(2), at(3));
    format!("{middle:.digits$} {unit} ({low:.digits$} to {high:.digits$})")
}
