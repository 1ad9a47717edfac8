// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a change of the configuration file costs: `cargo bench -p portico-tests --bench agent` (root).
//!
//! A private network namespace and BPF file system, the real programs and maps, 1 000 services of 10 tasks in
//! one file. First the agent's own control thread in this process: from the file's text to the last map entry,
//! for everything and for one changed backend. Then, if there is a target/release/portico (cargo xtask build),
//! the real agent: from rename(2) of the file until its API tells of the last entry, which adds the provider's
//! detection, and its resident memory. Medians, with the spread between rounds.

#[path = "../tests/kernel/support.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with the tests, which use all of it"
)]
mod support;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use proxy_user::{
    cli::doctor::cgroup2_mount,
    daemon::{Control, Mailbox, Shared, TICK, View},
    kernel::{self, Options},
    providers::{
        Report, api,
        file::{self, watch::TOLD_INTERVAL},
    },
    reconcile::Status,
    unix_http,
};
use serde_json::Value;
use support::*;

const ROUNDS: usize = 9;
const SERVICES: usize = 1_000;
const TASKS: usize = 10;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const EMPTY: &str = "node = \"n1\"\nservices = []\n[[nodes]]\nname = \"n1\"\naddress = \"192.0.2.101\"\n";

fn main() {
    if privileged("agent") {
        in_namespace(measure);
    }
}

/// Directories, and what goes away with them.
struct Machine {
    folder: tempfile::TempDir,
    options: Options,
}

impl Machine {
    fn new() -> Machine {
        // SAFETY: changes the calling thread only, which ends with the bench.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        let folder = tempfile::tempdir().expect("scratch folder");
        mount(&["--make-rprivate", "/"]);
        let bpffs = folder.path().join("bpf");
        fs::create_dir(&bpffs).expect("scratch folder");
        mount(&["-t", "bpf", "bpf", &bpffs.display().to_string()]);
        ip("link add veth0 type veth peer name veth1");
        ip("link set veth0 up");
        Machine {
            options: Options {
                bpffs: bpffs.join("portico"),
                cgroup: cgroup2_mount().expect("cgroup v2 is mounted"),
                uplinks: vec!["veth0".into()],
                xdp: kernel::xdp::Choice::Off,
                node_address: Some(NODE),
                state: folder.path().join("state"),
                flows: proxy_ebpf::abi::limits::FLOWS_DEFAULT,
                timeouts: proxy_ebpf::abi::settings::Timeouts::DEFAULT,
                vip_network: 0,
                guard: kernel::guard::Guard::default(),
            },
            folder,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("portico.toml")
    }

    fn put(&self, text: &str) {
        let next = self.folder.path().join("next");
        fs::write(&next, text).expect("scratch folder");
        fs::rename(next, self.file()).expect("scratch folder");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Links hold the hooks of the machine's cgroup root: they go before the file system does.
        let _ = fs::remove_dir_all(&self.options.bpffs);
    }
}

fn mount(args: &[&str]) {
    let status = Command::new("mount").args(args).status().expect("mount runs");
    assert!(status.success(), "mount {args:?}");
}

/// A file with everything; the last byte of one task's address is `changed`.
fn everything(changed: usize) -> String {
    let mut text = String::from("node = \"n1\"\n");
    for (name, address) in [("n1", NODE), ("n2", OTHER_NODE)] {
        let _ = writeln!(text, "[[nodes]]\nname = \"{name}\"\naddress = \"{address}\"");
    }
    text.push_str("[[networks]]\nname = \"net\"\n");
    for service in 0..SERVICES {
        let (high, low) = (service / 256, service % 256);
        let mut tasks = Vec::with_capacity(TASKS);
        for task in 0..TASKS {
            let last = if (service, task) == (SERVICES / 2, TASKS / 2) {
                changed
            } else {
                task
            };
            let _ = writeln!(
                text,
                "[[tasks]]\nname = \"s{service}.{task}\"\nnode = \"n2\"\nnetworks = {{ net = \"10.{}.{low}.{last}\" }}",
                100 + high
            );
            tasks.push(format!("\"s{service}.{task}\""));
        }
        let _ = writeln!(
            text,
            "[[services]]\nname = \"s{service}\"\nvips = {{ net = \"10.{}.{low}.1\" }}\ntasks = [{}]",
            200 + high,
            tasks.join(", ")
        );
    }
    text
}

fn measure() {
    let machine = Machine::new();
    let bytes = everything(0).len();
    println!(
        "{SERVICES} services of {TASKS} tasks, a file of {} KiB; {ROUNDS} rounds",
        bytes / 1024
    );
    in_process(&machine);
    let binary = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.parent()?.join("portico")));
    match binary.filter(|path| path.exists()) {
        Some(binary) => the_agent(&machine, &binary),
        None => println!("the agent itself: SKIPPED, there is no target/release/portico (cargo xtask build)"),
    }
}

/// What happened between two views.
#[derive(Default)]
struct Costs {
    parse: Vec<f64>,
    maps: Vec<f64>,
    total: Vec<f64>,
    operations: Vec<f64>,
}

impl Costs {
    fn print(self, what: &str) {
        println!("{what}: {} in all", spread("ms", self.total));
        println!("  read and parse:  {}", spread("ms", self.parse));
        println!("  tables and maps: {}", spread("ms", self.maps));
        println!("  map operations:  {}", spread("", self.operations));
    }
}

fn in_process(machine: &Machine) {
    let parts = kernel::start(&machine.options).unwrap_or_else(|exit| panic!("{exit}"));
    let api = api::Store::open(&machine.options.state).expect("the state directory");
    let view = View::new("file", "bench", "n1");
    let shared = Shared::new(view, api, parts.counters, parts.mirror, parts.info);
    let mailbox = Arc::new(Mailbox::default());
    let control = Control::start(
        parts.datapath,
        parts.own_cookie,
        parts.local_addrs,
        (parts.inspect, parts.reset, parts.echo),
        shared.clone(),
    )
    .unwrap_or_else(|exit| panic!("{exit}"));
    let thread = {
        let mailbox = mailbox.clone();
        thread::spawn(move || control.run(&mailbox))
    };
    let mut reader = file::Reader::new(machine.file().display().to_string(), None);
    let mut apply = |text: &str, costs: Option<&mut Costs>| {
        machine.put(text);
        let before = shared.view.load_full();
        let start = Instant::now();
        let text = fs::read_to_string(machine.file()).expect("scratch folder");
        let snapshot = reader.read(text).expect("the file is right");
        let parsed = start.elapsed();
        mailbox.put(Report::Snapshot(snapshot));
        let after = loop {
            let view = shared.view.load_full();
            if view.passes > before.passes {
                break view;
            }
            assert!(start.elapsed() < PATIENCE, "no pass");
            thread::sleep(Duration::from_micros(50));
        };
        let total = start.elapsed();
        assert_eq!(after.refusals, []);
        assert!(after.statuses.values().all(|status| *status == Status::Done));
        if let Some(costs) = costs {
            costs.parse.push(milliseconds(parsed));
            costs.maps.push(milliseconds(total - parsed));
            costs.total.push(milliseconds(total));
            costs
                .operations
                .push((after.operations - before.operations) as f64);
        }
    };
    let [mut all, mut one, mut none] = [Costs::default(), Costs::default(), Costs::default()];
    let mut texts = [everything(TASKS / 2), everything(100)];
    for _ in 0..ROUNDS {
        apply(EMPTY, Some(&mut none));
        apply(&texts[0], Some(&mut all));
        apply(&texts[1], Some(&mut one));
        texts.swap(0, 1);
    }
    apply(EMPTY, None);
    mailbox.stop();
    thread.join().expect("the control thread ends");
    all.print("everything new");
    one.print("one backend changed");
    none.print("everything removed");
}

/// A running agent; killed when dropped.
struct Agent {
    process: Child,
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Agent {
    fn start(machine: &Machine, binary: &Path) -> Agent {
        let socket = machine.folder.path().join("node.sock");
        let options = &machine.options;
        let process = Command::new(binary)
            .args(["node", "--uplink", "veth0", "--config"])
            .arg(machine.file())
            .arg("--bpffs")
            .arg(&options.bpffs)
            .arg("--cgroup")
            .arg(&options.cgroup)
            .arg("--state")
            .arg(&options.state)
            .arg("--socket")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the agent starts");
        // The connection is driven on this thread, so that it stays in this namespace.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        Agent {
            process,
            socket,
            runtime,
        }
    }

    fn status(&self) -> Option<Value> {
        let body = self
            .runtime
            .block_on(unix_http::get(&self.socket, "/v1/status"))
            .ok()?;
        serde_json::from_slice(&body).ok()
    }

    /// Polls the status until it is as wanted.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            if self.status().is_some_and(|status| wanted(&status)) {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "{:#?}", self.status());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn operations(&self) -> u64 {
        self.status()
            .and_then(|status| status["reconciler"]["operations"].as_u64())
            .expect("a status")
    }

    /// A line of /proc/PID/status, in MiB.
    fn memory(&self, field: &str) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("/proc");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .expect("the field");
        let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
        kib.parse::<f64>().expect("a number") / 1024.0
    }
}

fn the_agent(machine: &Machine, binary: &Path) {
    machine.put(EMPTY);
    let agent = Agent::start(machine, binary);
    agent.until(|status| status["provider"]["state"] == "ok");
    println!(
        "the agent, nothing configured: {:.1} MiB resident",
        agent.memory("VmRSS")
    );
    let mut texts = [everything(TASKS / 2), everything(100)];
    let (mut all, mut one) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        machine.put(EMPTY);
        agent.until(|status| status["frontends"]["total"] == 0);
        // Not in step with the provider's looks.
        thread::sleep(TOLD_INTERVAL * (round as u32) / (ROUNDS as u32));
        machine.put(&texts[0]);
        all.push(milliseconds(
            agent.until(|status| status["frontends"]["done"] == SERVICES),
        ));
        thread::sleep(TOLD_INTERVAL * (round as u32) / (ROUNDS as u32));
        let before = agent.operations();
        machine.put(&texts[1]);
        one.push(milliseconds(agent.until(|status| {
            status["reconciler"]["operations"].as_u64() > Some(before)
        })));
        texts.swap(0, 1);
    }
    println!("the agent, from rename to its API telling of it:");
    println!("  everything new:      {}", spread("ms", all));
    println!("  one backend changed: {}", spread("ms", one));
    let busy = agent.memory("VmRSS");
    // Free memory goes back when nothing has come for a while.
    thread::sleep(3 * TICK);
    println!(
        "  resident memory:     {:.1} MiB, {busy:.1} MiB right after a change, at most {:.1} MiB",
        agent.memory("VmRSS"),
        agent.memory("VmHWM")
    );
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn spread(unit: &str, mut samples: Vec<f64>) -> String {
    samples.sort_by(f64::total_cmp);
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    let median = samples[samples.len() / 2];
    format!("{median:.1} {unit} ({first:.1} to {last:.1})")
}
