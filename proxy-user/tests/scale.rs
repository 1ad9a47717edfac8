// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many services beside a real agent: what one change costs does not grow with their number.
//!
//! In CI with a small number, where map operations are counted. With `PORTICO_SCALE=100000` and
//! `PORTICO_BINARY=target/release/portico` (an absolute path) the same test is the measurement of
//! docs/performance.md: times and the agent's memory are printed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod machine;

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use machine::{agent, must, own_namespaces, portico};
use proxy_ebpf::abi::{
    ABI_VERSION, Backend, Frontend, FrontendKey, PROTO_TCP, SlotKey, backend::DRAINING, frontend::VIP,
};
use proxy_user::{daemon::RESYNC, model::NetworkId, unix_http};
use serde_json::{Value, json};

/// Services unless `PORTICO_SCALE` says otherwise.
const SERVICES: u32 = 2_000;
/// Backends of each.
const BACKENDS: u32 = 10;
/// Changes of each kind that are timed where it is a measurement.
const CHANGES: usize = 100;
/// Far more than programming everything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The maps, as the programs see them.
struct Maps {
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    slots: HashMap<MapData, SlotKey, u32>,
    backends: HashMap<MapData, u32, Backend>,
}

impl Maps {
    fn open(folder: &Path) -> Maps {
        let map = |name: &str| {
            let path = folder.join(format!("bpf/portico/v{ABI_VERSION}/maps/{name}"));
            Map::HashMap(MapData::from_pin(path).unwrap())
        };
        Maps {
            frontends: map("FRONTENDS").try_into().unwrap(),
            slots: map("SLOTS").try_into().unwrap(),
            backends: map("BACKENDS").try_into().unwrap(),
        }
    }

    fn frontend(&self, vip: Ipv4Addr) -> Option<Frontend> {
        let key = FrontendKey {
            network: NetworkId::of("app").get(),
            addr_be: u32::from(vip).to_be(),
            port_be: 80_u16.to_be(),
            protocol: PROTO_TCP,
            kind: VIP,
        };
        self.frontends.get(&key, 0).ok()
    }

    /// Backends in slots.
    fn active(&self, vip: Ipv4Addr) -> Option<u32> {
        self.frontend(vip).map(|frontend| frontend.slots)
    }

    /// Whether the ids in all slots are of backends that take new flows.
    fn whole(&self, vip: Ipv4Addr) -> bool {
        let frontend = self.frontend(vip).unwrap();
        (0..frontend.slots).all(|index| {
            let slot = SlotKey {
                frontend: frontend.id,
                index,
            };
            let backend = self.slots.get(&slot, 0).unwrap();
            self.backends.get(&backend, 0).unwrap().flags & DRAINING == 0
        })
    }
}

/// How long it takes until something is so.
fn until(mut so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "it does not become so");
        std::thread::park_timeout(Duration::from_micros(200));
    }
    began.elapsed()
}

fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 16, 0, 1)) + service)
}

/// A service of the file: each backend's address is its own.
fn service(text: &mut String, number: u32, backends: u32, draining: u32) {
    writeln!(
        text,
        "[[services]]\nname = \"s{number}\"\nvips = {{ app = \"{}:80\" }}\nbackends = [",
        vip(number)
    )
    .unwrap();
    for place in 0..backends {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 1)) + number * 16 + place);
        let drains = if place < draining { ", draining = true" } else { "" };
        writeln!(text, "{{ address = \"{address}\", port = 8080{drains} }},").unwrap();
    }
    text.push_str("]\n");
}

/// The whole file; `backends_of` says how many backends a service has and how many of them drain.
fn config(services: u32, backends_of: impl Fn(u32) -> (u32, u32)) -> String {
    let mut text =
        "node = \"a\"\n[[nodes]]\nname = \"a\"\naddress = \"192.0.2.1\"\n[[networks]]\nname = \"app\"\n"
            .to_owned();
    for number in 0..services {
        let (backends, draining) = backends_of(number);
        service(&mut text, number, backends, draining);
    }
    text
}

fn put(folder: &Path, text: &str) {
    fs::write(folder.join("next"), text).unwrap();
    fs::rename(folder.join("next"), folder.join("portico.toml")).unwrap();
}

struct Asker {
    runtime: tokio::runtime::Runtime,
    socket: std::path::PathBuf,
}

impl Asker {
    fn operations(&self) -> u64 {
        let status = self.runtime.block_on(unix_http::get(&self.socket, "/v1/status"));
        let status: Value = serde_json::from_slice(&status.unwrap()).unwrap();
        status["reconciler"]["operations"].as_u64().unwrap()
    }

    fn edit(&self, edit: Value) {
        let body = json!([edit]).to_string().into();
        let answer = self
            .runtime
            .block_on(unix_http::post(&self.socket, "/v1/edits", body));
        let answer: Value = serde_json::from_slice(&answer.unwrap()).unwrap();
        assert_eq!(answer["in_force"], true, "{answer}");
    }
}

fn memory(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| {
        status
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .to_owned()
    };
    format!("{} {}", of("VmRSS"), of("VmHWM"))
}

fn figures(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let (middle, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: p50 {middle:?}, max {most:?} of {}", times.len());
}

#[test]
fn one_change_costs_the_same_among_many_services() {
    const NAME: &str = "one_change_costs_the_same_among_many_services";
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("SKIPPED {NAME}: needs root");
    }
    let measured = std::env::var("PORTICO_SCALE").ok();
    let services = measured
        .as_ref()
        .map_or(SERVICES, |number| number.parse().unwrap());
    let changes = if measured.is_some() { CHANGES } else { 1 };
    let temporary = own_namespaces();
    let folder = temporary.path();
    must("ip link add veth0 type veth peer name veth1");
    must("ip link set veth0 up");
    put(folder, &config(0, |_| (BACKENDS, 0)));
    let agent = agent(folder);
    let maps = Maps::open(folder);
    let asker = Asker {
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap(),
        socket: folder.join("node.sock"),
    };
    println!(
        "{services} services of {BACKENDS}; without any: {}",
        memory(agent.id())
    );

    let text = config(services, |_| (BACKENDS, 0));
    println!("file of {} bytes", text.len());
    put(folder, &text);
    let last = vip(services - 1);
    let whole = until(|| maps.active(last) == Some(BACKENDS));
    // The pass that did it is told of when it is over.
    let all = u64::from(services) * u64::from(2 * BACKENDS + 1);
    until(|| asker.operations() >= all);
    let mut before = asker.operations();
    println!("all: {whole:?}, {before} operations; {}", memory(agent.id()));
    assert!(before < all + 10, "{before}");
    assert!(maps.whole(last));

    // By the file: the middle one loses a backend, drains one, and has all again.
    let middle = services / 2;
    let versions = [(BACKENDS - 1, 0), (BACKENDS, 0), (BACKENDS, 1), (BACKENDS, 0)];
    let names = [
        "file: backend removed",
        "file: backend added",
        "file: backend drained",
        "file: backend back",
    ];
    for (name, version) in names.iter().zip(versions) {
        let text = config(
            services,
            |number| if number == middle { version } else { (BACKENDS, 0) },
        );
        let began = Instant::now();
        put(folder, &text);
        let wanted = version.0 - version.1;
        until(|| maps.active(vip(middle)) == Some(wanted));
        println!("{name}: {:?}", began.elapsed());
        until(|| maps.whole(vip(middle)));
    }
    // What is done is told of after it is done.
    std::thread::park_timeout(Duration::from_millis(500));
    let after = asker.operations();
    assert!(
        after - before < 4 * 8,
        "{} operations for four changes",
        after - before
    );
    assert!(after > before);
    before = after;

    // By the verbs, which answer when it is in force.
    let mut verbs = Verbs::default();
    for number in 0..changes as u32 {
        verbs.all(&asker, &maps, Ipv4Addr::new(10, 15, 0, 1 + number as u8), number);
    }
    let after = asker.operations();
    let each = (after - before) / changes as u64;
    println!("{each} operations for each service that is added, changed and removed");
    // Two backends, two slots and the master entry; one more backend and slot; one backend marked, one slot and the
    // master entry less; all gone.
    assert!((10..32).contains(&each), "{each} operations");
    verbs.tell();
    println!("{}", memory(agent.id()));
    if measured.is_some() {
        while_maps_are_read(&asker);
        println!("{}", memory(agent.id()));
    }
    let listed = portico(folder, "status", "").output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
}

/// The agent reads all maps back every minute and plans everything anew: how long a change takes meanwhile.
fn while_maps_are_read(asker: &Asker) {
    let spec = |last: u8| json!({ "vips": [format!("app=10.15.9.{last}:80")] });
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < RESYNC + Duration::from_secs(5) {
        for edit in [
            json!({ "verb": "add-service", "service": "again", "spec": spec(1) }),
            json!({ "verb": "remove-service", "service": "again" }),
        ] {
            let began = Instant::now();
            asker.edit(edit);
            longest = longest.max(began.elapsed());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    println!(
        "longest change in {:?}, with a look at all maps: {longest:?}",
        began.elapsed()
    );
}

#[derive(Default)]
struct Verbs([Vec<Duration>; 4]);

impl Verbs {
    /// A service comes, gets a backend, drains one and goes: how long each takes until the maps have it.
    fn all(&mut self, asker: &Asker, maps: &Maps, vip: Ipv4Addr, number: u32) {
        let service = format!("verb{number}");
        let backend = format!("10.14.{number}.3:80");
        let two = json!({ format!("10.14.{number}.1:80"): {}, format!("10.14.{number}.2:80"): {} });
        let spec = json!({ "vips": [format!("app={vip}:80")], "backends": two });
        let edits = [
            (
                json!({ "verb": "add-service", "service": service, "spec": spec }),
                Some(2),
            ),
            (
                json!({ "verb": "add-backend", "service": service, "backend": backend }),
                Some(3),
            ),
            (
                json!({ "verb": "set-backend", "service": service, "backend": backend, "fields": { "draining": true } }),
                Some(2),
            ),
            (json!({ "verb": "remove-service", "service": service }), None),
        ];
        for (times, (edit, active)) in self.0.iter_mut().zip(edits) {
            let began = Instant::now();
            std::thread::scope(|scope| {
                let seen = scope.spawn(|| {
                    until(|| maps.active(vip) == active);
                    began.elapsed()
                });
                asker.edit(edit);
                times.push(seen.join().unwrap());
            });
        }
    }

    fn tell(&mut self) {
        let names = [
            "verb: service added",
            "verb: backend added",
            "verb: backend drained",
            "verb: service removed",
        ];
        for (name, times) in names.iter().zip(&mut self.0) {
            figures(name, times);
        }
    }
}
