// SPDX-License-Identifier: MIT OR Apache-2.0
//! The place where one row is measured: a client, a balancer and two origins, each in a network namespace.
//!
//! Every row has a site of its own, so that what one contestant leaves in a namespace (tc programs, conntrack,
//! virtual services) costs no other one anything. All of them stand at the same time, so that rounds can alternate.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::plan::{Contestant, Row, Workload};
use crate::{cmd, paths};

/// Of every namespace and scratch folder of the bench.
pub const PREFIX: &str = "pbench-";
/// Where origins listen, and balancers.
pub const PORT: u16 = 80;
/// Where an origin says how many requests it has had.
const STATUS_PORT: u16 = 81;
/// The balancer's address on the client's side; what the client asks.
pub const BALANCER: &str = "10.1.0.1";
/// Origins that fit behind the addresses below.
pub const ORIGINS_MAX: u32 = 200;
/// Addresses of the client, besides its first, from which flows are made.
const CLIENTS: u32 = 17;
/// A service's address that exists only in Portico's tables.
pub const VIP: &str = "10.99.0.1";
/// Of a program that starts, emulated, on a busy host.
const START: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Where a site's agent pins, below the site's folder.
pub const BPFFS: &str = "bpffs";
/// Where a site's agent answers, below the site's folder.
pub const SOCKET: &str = "node.sock";
/// Namespace of the node behind the balancer's, where a row has one; and folder of its agent, below the site's.
pub const FAR: &str = "far";
/// Where an origin says who asks.
pub const WHO: &str = "/who";
/// Bytes of the bulk workload's answer.
const BULK: usize = 1 << 20;

/// Namespaces and processes of a row; gone with the value.
pub struct Site {
    pub row: Row,
    /// `pbench-2-`.
    prefix: String,
    pub folder: PathBuf,
    processes: Vec<(String, Child)>,
    /// Processes whose time is the balancer's.
    balancers: Vec<u32>,
    /// Where the client's processes are, if its hooks are not those of the whole machine.
    pub client_group: Option<PathBuf>,
    /// Keeps a program attached.
    pub(super) taker: Option<OwnedFd>,
}

impl Site {
    /// Namespaces, links and origins, without a balancer.
    pub fn new(number: usize, row: Row, scratch: &Path) -> Result<Site> {
        let prefix = format!("{PREFIX}{number}-");
        let folder = scratch.join(number.to_string());
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut site = Site {
            row,
            prefix,
            folder,
            processes: Vec::new(),
            balancers: Vec::new(),
            client_group: None,
            taker: None,
        };
        site.links()?;
        for (name, _) in site.origins() {
            site.origin(&name)?;
        }
        Ok(site)
    }

    /// Names and addresses of the origins.
    pub fn origins(&self) -> Vec<(String, String)> {
        let all = 1..=self.row.backends.min(ORIGINS_MAX);
        all.map(|number| (format!("origin-{number}"), format!("172.18.0.{}", 10 + number)))
            .collect()
    }

    /// Addresses from which flows are made.
    pub fn clients() -> Vec<String> {
        (0..CLIENTS)
            .map(|number| format!("10.1.0.{}", 100 + number))
            .collect()
    }

    /// Full name of a namespace.
    pub fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Its path.
    pub fn namespace_path(&self, name: &str) -> String {
        format!("/run/netns/{}", self.namespace(name))
    }

    /// A program in a namespace.
    pub fn inside(&self, name: &str, program: &str) -> Command {
        let mut command = cmd::lab("nsenter");
        command
            .arg(format!("--net={}", self.namespace_path(name)))
            .arg(program);
        command
    }

    /// Runs `ip` commands inside a namespace; the first that fails ends it.
    pub fn batch(&self, name: &str, commands: &str) -> Result<()> {
        cmd::feed(
            cmd::lab("ip").args(["-n", &self.namespace(name), "-batch", "-"]),
            commands,
        )
    }

    /// Sets what is below /proc/sys/net, which belongs to a namespace.
    pub fn setting(&self, name: &str, key: &str, value: &str) -> Result<()> {
        let (path, value) = (format!("/proc/sys/net/{key}"), value.to_owned());
        self.on_thread(name, move || {
            fs::write(&path, value).with_context(|| path.clone())
        })
    }

    /// Runs something on a thread that is in a namespace.
    pub fn on_thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.namespace_path(name);
        let thread = thread::spawn(move || {
            let namespace = fs::File::open(&path).with_context(|| path.clone())?;
            // SAFETY: changes the calling thread only, which ends below.
            let changed = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            ensure!(changed == 0, "setns {path}: {}", std::io::Error::last_os_error());
            work()
        });
        thread
            .join()
            .map_err(|_| anyhow!("a thread in {name} panicked"))?
    }

    fn origin(&mut self, name: &str) -> Result<()> {
        let folder = self.folder.join(name);
        fs::create_dir_all(folder.join("html")).with_context(|| folder.display().to_string())?;
        if self.row.does(Workload::Bulk) {
            fs::write(folder.join("html/bulk"), vec![b'.'; BULK]).context("bulk")?;
        }
        let server = format!(
            "server {{ listen {PORT} backlog=4096; root {}/html; location = /bulk {{ }} \
             location = {WHO} {{ return 200 $remote_addr; }} \
             location / {{ return 200 \"{name} says hello\\n\"; }} }}\n\
             server {{ listen 127.0.0.1:{STATUS_PORT}; location / {{ stub_status; }} }}",
            folder.display()
        );
        let config = nginx_config(
            &folder,
            self.row.origin_connections(),
            &format!("http {{ {} {server} }}", http_preamble(&folder)),
        );
        self.nginx(name, name, &config)?;
        self.wait_listens(name, "127.0.0.1", PORT)
    }

    /// Starts what echoes datagrams; after the contestant, which may give origins an address.
    pub fn echoes(&mut self) -> Result<()> {
        let this = paths::this()?;
        for (name, address) in self.origins() {
            let mut command = self.inside(&name, &this.to_string_lossy());
            command.args(["bench", "own", "echo", &name, &format!("{address}:{PORT}")]);
            if self.row.contestant == Contestant::IpvsDr {
                command.arg(format!("{BALANCER}:{PORT}"));
            }
            self.start(&format!("{name}-echo"), &mut command)?;
        }
        Ok(())
    }

    /// Starts nginx with a configuration of its own.
    pub fn nginx(&mut self, namespace: &str, name: &str, config: &str) -> Result<u32> {
        let file = self.folder.join(format!("{name}.conf"));
        fs::write(&file, config).with_context(|| file.display().to_string())?;
        let mut command = self.inside(namespace, "nginx");
        command
            .arg("-e")
            .arg(self.folder.join(format!("{name}.log")))
            .arg("-c")
            .arg(&file);
        self.start(name, &mut command)
    }

    /// Starts a program that runs until the site is gone.
    pub fn start(&mut self, name: &str, command: &mut Command) -> Result<u32> {
        let log = self.folder.join(format!("{name}.out"));
        let log = fs::File::create(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| cmd::shown(command))?;
        let pid = child.id();
        self.processes.push((name.to_owned(), child));
        let processors = thread::available_parallelism().map_or(1, usize::from);
        pin(pid, processors - 1);
        Ok(pid)
    }

    /// What a process is doing is the balancer's work.
    pub fn is_balancer(&mut self, pid: u32) {
        pin(pid, 0);
        self.balancers.push(pid);
    }

    /// Whether a row has processes that carry its traffic.
    pub fn has_balancer_process(&self) -> bool {
        !self.balancers.is_empty()
    }

    /// Makes a control group that hooks can be attached to.
    pub fn group(&self, name: &str) -> Result<PathBuf> {
        let root = cgroup2().context("cgroup v2 is not mounted")?;
        let group = root.join(format!("{}{name}", self.prefix));
        fs::create_dir_all(&group).with_context(|| group.display().to_string())?;
        Ok(group)
    }

    /// Waits until something accepts connections.
    pub fn wait_listens(&mut self, namespace: &str, address: &str, port: u16) -> Result<()> {
        let address: Ipv4Addr = address.parse()?;
        self.wait(&format!("{address}:{port}"), |site| {
            let connected = site.on_thread(namespace, move || {
                Ok(TcpStream::connect_timeout(
                    &SocketAddrV4::new(address, port).into(),
                    START,
                )?)
            });
            Ok(connected.is_ok())
        })
    }

    /// Waits for a state, while all processes run.
    pub fn wait(&mut self, what: &str, mut look: impl FnMut(&Site) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !look(self)? {
            for (name, child) in &mut self.processes {
                if let Some(status) = child.try_wait()? {
                    let log = self.folder.join(format!("{name}.out"));
                    let said = fs::read_to_string(log).unwrap_or_default();
                    bail!("{name} has ended ({status}): {}", said.trim());
                }
            }
            ensure!(start.elapsed() < START, "{what}: not after {} s", START.as_secs());
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// What the client's threads ask.
    pub fn targets(&self) -> [String; 2] {
        let same = |address: &str| [address.to_owned(), address.to_owned()];
        match (self.row.contestant, self.origins().as_slice()) {
            (Contestant::Direct, [(_, first), .., (_, last)]) => [first.clone(), last.clone()],
            (Contestant::Direct, [(_, only)]) => same(only),
            (Contestant::PorticoSocket, _) => same(VIP),
            _ => same(BALANCER),
        }
    }

    /// What the kernel says that it has balanced so far; none where a process balances, or nobody.
    pub fn kernel_work(&self) -> Result<Option<u64>> {
        if !self.row.contestant.is_kernel() {
            return Ok(None);
        }
        let status = self.status()?;
        let counters = status["counters"].as_object().context("the agent's counters")?;
        Ok(Some(
            counters.values().filter_map(serde_json::Value::as_u64).sum(),
        ))
    }

    fn status(&self) -> Result<serde_json::Value> {
        let mut status = cmd::lab(&paths::binary("portico").to_string_lossy());
        status
            .args(["status", "--json", "--socket"])
            .arg(self.folder.join(SOCKET));
        serde_json::from_str(&cmd::text(&mut status)?).context("the agent's status")
    }

    /// Packets that the client has sent, and that the node which it asks has received, so far.
    pub fn packets(&self) -> Result<Passed> {
        let of = |name: &str, interface: &'static str, column: usize| {
            self.on_thread(name, move || {
                let text = fs::read_to_string("/proc/thread-self/net/dev").context("net/dev")?;
                column_of(&text, interface, column).with_context(|| format!("{interface} in {text}"))
            })
        };
        Ok(Passed {
            sent: of("client", "eth0", 9)?,
            entered: of("lb", "up0", 1)?,
        })
    }

    /// What the kernel says of one kind of work; of a contestant of ours.
    pub fn counter(&self, name: &str) -> Result<u64> {
        Ok(self.status()?["counters"][name].as_u64().unwrap_or(0))
    }

    /// Requests that each origin has had so far.
    pub fn served(&self) -> Result<BTreeMap<String, u64>> {
        let one = |name: &str| {
            self.on_thread(name, || {
                get("127.0.0.1", STATUS_PORT, "/").and_then(|t| requests(&t))
            })
        };
        let all = self.origins().into_iter();
        all.map(|(name, _)| one(&name).map(|count| (name, count)))
            .collect()
    }

    /// Stops the row's agents, or lets them go on. What they have to look at now and then would be in the figures of
    /// other rows: a machine of ours has one agent, and this one has one for each row.
    pub fn agents(&self, run: bool) {
        let signal = if run { libc::SIGCONT } else { libc::SIGSTOP };
        for pid in self.agent_pids() {
            // SAFETY: no memory is involved; the process is a child that has not been waited for.
            unsafe { libc::kill(pid.cast_signed(), signal) };
        }
    }

    fn agent_pids(&self) -> impl Iterator<Item = u32> + '_ {
        let agents = self.processes.iter().filter(|(name, _)| name.ends_with("agent"));
        agents.map(|(_, child)| child.id())
    }

    /// Waits until the agents have caught up with what they missed: a look every few seconds is theirs, all of them at
    /// once is not.
    pub fn settle(&self) {
        if self.agent_pids().next().is_none() {
            return;
        }
        let end = Instant::now() + CATCH_UP;
        let mut before = f64::NAN;
        while Instant::now() < end {
            let now = self.agent_pids().map(cpu_seconds).sum::<f64>();
            if now - before < QUIET_SECONDS {
                return;
            }
            before = now;
            thread::sleep(QUIET_INTERVAL);
        }
    }

    /// Seconds of processor time that each process has used since it began, by its name.
    pub fn process_cpu(&self) -> BTreeMap<String, f64> {
        let mut all = BTreeMap::new();
        for (name, child) in &self.processes {
            // Many origins are one line.
            let name = if name.starts_with("origin-") {
                "origins"
            } else {
                name
            };
            *all.entry(name.to_owned()).or_insert(0.0) += cpu_seconds(child.id());
        }
        all
    }

    /// Seconds of processor time that the balancer's processes have used.
    pub fn balancer_cpu(&self) -> f64 {
        self.balancers.iter().map(|pid| cpu_seconds(*pid)).sum()
    }
}

/// Numbers of packets.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub sent: u64,
    pub entered: u64,
}

/// A number of an interface's line in /proc/net/dev, counted from behind the name.
fn column_of(text: &str, interface: &str, column: usize) -> Option<u64> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, numbers) = lines.into_iter().find(|(name, _)| name.trim() == interface)?;
    numbers.split_whitespace().nth(column)?.parse().ok()
}

impl Drop for Site {
    fn drop(&mut self) {
        for (_, child) in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
        remove(&self.folder, &self.prefix);
    }
}

/// Removes what another run, which was killed, has left.
pub fn sweep(scratch: &Path) {
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        remove(&entry.path(), PREFIX);
    }
    remove(scratch, PREFIX);
}

/// Unmounts and removes a folder, and everything whose name begins with `prefix`. What is gone already is no error.
fn remove(folder: &Path, prefix: &str) {
    for mount in [folder.join(BPFFS), folder.join(FAR).join(BPFFS)] {
        let _ = cmd::output(cmd::lab("umount").arg(mount));
    }
    let named = |place: &Path| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(prefix)).collect::<Vec<_>>()
    };
    for name in named(Path::new("/run/netns")) {
        let _ = cmd::output(cmd::lab("ip").args(["netns", "del", &name]));
    }
    if let Some(root) = cgroup2() {
        for name in named(&root) {
            let _ = fs::remove_dir(root.join(name));
        }
    }
    let _ = fs::remove_dir_all(folder);
}

/// nginx with one process, and modules of the distribution.
///
/// It takes its memory for connections at once, 0.5 KiB for each.
pub fn nginx_config(folder: &Path, connections: u32, blocks: &str) -> String {
    let at = folder.display();
    format!(
        "include /etc/nginx/modules-enabled/*.conf;\ndaemon off; master_process off; worker_processes 1;\n\
         pid {at}/nginx.pid; error_log stderr;\nevents {{ worker_connections {connections}; }}\n{blocks}\n"
    )
}

/// What every http block of ours begins with.
pub fn http_preamble(folder: &Path) -> String {
    let at = folder.display();
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {at}/{name};"))
        .join(" ");
    format!("access_log off; sendfile on; keepalive_requests 100000000; {folders}")
}

/// Asks over HTTP; the body.
pub fn get(address: &str, port: u16, target: &str) -> Result<String> {
    get_within(START, address, port, target)
}

/// Asks over HTTP, and does not wait longer than that for a connection, nor for an answer; the body.
pub fn get_within(patience: Duration, address: &str, port: u16, target: &str) -> Result<String> {
    let address = SocketAddrV4::new(address.parse()?, port);
    let mut stream = TcpStream::connect_timeout(&address.into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no whole answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{address}{target}: {answer}");
    Ok(body.to_owned())
}

/// From nginx's stub_status: the third number of its third line.
fn requests(status: &str) -> Result<u64> {
    let line = status
        .lines()
        .nth(2)
        .and_then(|line| line.split_whitespace().nth(2));
    line.and_then(|word| word.parse().ok())
        .with_context(|| format!("nginx's status: {status}"))
}

/// Keeps a process, and what it starts from now on, on one processor. Where that is not allowed it stays as it is.
fn pin(pid: u32, processor: usize) {
    // SAFETY: a set of bits, for which zero is empty.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is as long as is said, and the processor is one of those that this process may use.
    unsafe {
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(pid as libc::pid_t, size_of_val(&set), &raw const set);
    }
}

/// Where cgroup2 is mounted.
fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.find_map(|words| (words.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(words[1])))
}

/// Of all threads, from the scheduler's own clock.
/// What an agent may take to catch up at most; an agent that is never quiet is measured as it is.
const CATCH_UP: Duration = Duration::from_secs(3);
/// An agent that uses less than this share of an interval is quiet.
const QUIET_INTERVAL: Duration = Duration::from_millis(50);
const QUIET_SECONDS: f64 = 0.001;

fn cpu_seconds(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let nanoseconds = tasks.map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ')
            .next()
            .and_then(|word| word.parse::<f64>().ok())
            .unwrap_or(0.0)
    });
    nanoseconds.sum::<f64>() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_an_interface_are_read() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes    packets errs |bytes packets\n    lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n\
                    eth0: 50 6 0 0 0 0 0 0 70 8 0 0 0 0 0 0\n";
        assert_eq!(column_of(text, "eth0", 1), Some(6));
        assert_eq!(column_of(text, "eth0", 9), Some(8));
        assert_eq!(column_of(text, "eth1", 1), None);
    }

    #[test]
    fn the_status_of_an_origin_is_read() {
        let text = "Active connections: 1 \nserver accepts handled requests\n 5 5 31 \nReading: 0 Writing: 1 Waiting: 0 \n";
        assert_eq!(requests(text).unwrap(), 31);
        assert!(requests("404").is_err());
    }
}
