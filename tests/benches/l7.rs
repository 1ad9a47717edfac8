// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a request through the L7 proxy costs: `cargo bench -p portico-tests --bench l7`.
//!
//! One origin (nginx, a tiny answer), and before it portico, HAProxy and nginx with one worker thread each, all on
//! loopback. Every round asks each of them, in an order of its own, with wrk over [`CONNECTIONS`] connections, once
//! with keep-alive and once with a connection for each request. The main figure is the processor time of the proxy
//! per 100 000 requests: it does not depend on how many processors wrk and the origin find. Figures are medians of
//! the rounds with their spread.
//!
//! Load: [`ROUNDS`] × 2 × 3 runs of [`SECONDS`]. Programs that are not installed are named and left out. The proxy
//! is `target/release/portico`, or PORTICO.

use std::{
    env,
    fs::{self, read_to_string},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
const CONNECTIONS: u32 = 64;
const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A program under test; killed by its id when dropped.
struct Proxy {
    name: String,
    child: Child,
    port: u16,
    keep_alive: Vec<Sample>,
    close: Vec<Sample>,
}

struct Sample {
    cpu_per_100k: f64,
    per_second: f64,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() {
    // `cargo test --benches` passes this; measuring is not testing.
    if env::args().any(|arg| arg == "--test") {
        return;
    }
    for program in ["wrk", "nginx"] {
        if !is_installed(program) {
            println!("nothing measured: {program} is not installed (apt-get install {program})");
            return;
        }
    }
    let dir = tempfile::tempdir().expect("a scratch directory");
    let origin = nginx(dir.path(), "origin", |port| {
        format!("server {{ listen 127.0.0.1:{port}; location / {{ return 200 \"hello, world!\\n\"; }} }}")
    });
    let proxies = [
        portico(dir.path(), origin.port),
        haproxy(dir.path(), origin.port),
        Some(nginx(dir.path(), "nginx", |port| {
            let origin = origin.port;
            format!(
                "upstream origin {{ server 127.0.0.1:{origin}; keepalive {CONNECTIONS}; keepalive_requests 100000000; }}
                server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://origin; proxy_http_version 1.1;
                proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}"
            )
        })),
    ];
    let mut proxies: Vec<Proxy> = proxies.into_iter().flatten().collect();
    for proxy in &proxies {
        run(proxy, false, 1);
    }
    let mut random = seed();
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        shuffle(&mut proxies, &mut random);
        for proxy in &mut proxies {
            let sample = run(proxy, false, SECONDS);
            proxy.keep_alive.push(sample);
            let sample = run(proxy, true, SECONDS);
            proxy.close.push(sample);
        }
    }
    proxies.sort_by(|a, b| a.name.cmp(&b.name));
    for (title, is_close) in [("keep-alive", false), ("a connection per request", true)] {
        println!("\n{title}, {CONNECTIONS} connections");
        println!("| proxy | CPU seconds per 100 000 requests | requests per second | peak memory |");
        println!("| --- | --- | --- | --- |");
        for proxy in &proxies {
            let samples = if is_close { &proxy.close } else { &proxy.keep_alive };
            let cpu = spread(samples.iter().map(|s| s.cpu_per_100k), 2);
            let rate = spread(samples.iter().map(|s| s.per_second), 0);
            let memory = peak_mib(proxy.child.id());
            println!("| {} | {cpu} | {rate} | {memory} MiB |", proxy.name);
        }
    }
}

// ---- the programs ----

fn portico(dir: &Path, origin: u16) -> Option<Proxy> {
    let built = env::current_exe().ok()?.parent()?.parent()?.join("portico");
    let program = env::var_os("PORTICO").map_or(built, PathBuf::from);
    if !program.exists() {
        println!(
            "portico left out: {} does not exist (cargo xtask build)",
            program.display()
        );
        return None;
    }
    let (port, api) = (free_port(), free_port());
    let mut command = Command::new(program);
    command
        .args([
            "proxy",
            "--listen",
            "127.0.0.1",
            "--ip",
            "127.0.0.1",
            "--workers",
            "1",
        ])
        .args([
            "--default-ports",
            &port.to_string(),
            "--port",
            &api.to_string(),
            "--state",
        ])
        .arg(dir.join("state"));
    let proxy = start("portico", command, port);
    let query = format!("serviceName=origin&servicePath=/&outboundHostname=127.0.0.1&port={origin}");
    let answer = get(api, &format!("/v1/docker-flow-proxy/reconfigure?{query}"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Some(proxy)
}

fn haproxy(dir: &Path, origin: u16) -> Option<Proxy> {
    if !is_installed("haproxy") {
        println!("haproxy left out: not installed (apt-get install haproxy)");
        return None;
    }
    let port = free_port();
    let config = dir.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 1\n maxconn 4096\ndefaults\n mode http\n timeout connect 5s\n timeout client 20s\n \
         timeout server 20s\n timeout http-keep-alive 15s\n option http-keep-alive\n option forwardfor\n \
         http-reuse always\nfrontend f\n bind 127.0.0.1:{port}\n acl all path_beg /\n use_backend b if all\n\
         backend b\n server s 127.0.0.1:{origin}\n"
    );
    fs::write(&config, text).expect("scratch file");
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(config);
    Some(start("haproxy", command, port))
}

fn nginx(dir: &Path, name: &str, servers: impl Fn(u16) -> String) -> Proxy {
    let port = free_port();
    let config = dir.join(format!("{name}.conf"));
    let dir = dir.join(name);
    fs::create_dir_all(&dir).expect("scratch directory");
    let at = dir.display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;
        events {{ worker_connections 4096; }}
        http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {at}/a; proxy_temp_path {at}/b;
        fastcgi_temp_path {at}/c; uwsgi_temp_path {at}/d; scgi_temp_path {at}/e; {} }}",
        servers(port)
    );
    fs::write(&config, text).expect("scratch file");
    let mut command = Command::new("nginx");
    command.arg("-e").arg(dir.join("error.log")).arg("-c").arg(config);
    start(name, command, port)
}

/// Starts a program and waits until it listens.
fn start(name: &str, mut command: Command, port: u16) -> Proxy {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let proxy = Proxy {
        name: name.into(),
        child: child.unwrap_or_else(|error| panic!("{name}: {error}")),
        port,
        keep_alive: Vec::new(),
        close: Vec::new(),
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect((LOCAL, port)).is_err() {
        assert!(Instant::now() < deadline, "{name} does not listen");
        sleep(Duration::from_millis(20));
    }
    proxy
}

// ---- measuring ----

fn run(proxy: &Proxy, is_close: bool, seconds: u32) -> Sample {
    let mut command = Command::new("timeout");
    command.args([
        "30",
        "wrk",
        "-t1",
        &format!("-c{CONNECTIONS}"),
        &format!("-d{seconds}s"),
    ]);
    if is_close {
        command.args(["-H", "Connection: close"]);
    }
    command.arg(format!("http://127.0.0.1:{}/demo/hello", proxy.port));
    let before = cpu_seconds(proxy.child.id());
    let output = command.output().expect("wrk");
    let cpu = cpu_seconds(proxy.child.id()) - before;
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text
        .lines()
        .filter(|line| line.contains("errors:") || line.contains("Non-2xx"))
    {
        println!("{}: {}", proxy.name, line.trim());
    }
    let line = text
        .lines()
        .find(|line| line.contains(" requests in "))
        .expect("wrk's summary");
    let requests: f64 = line
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    Sample {
        cpu_per_100k: cpu / requests * 1e5,
        per_second: requests / f64::from(seconds),
    }
}

/// Processor time of all threads.
fn cpu_seconds(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the program runs");
    let nanoseconds = |path: PathBuf| -> f64 {
        let text = read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or_default()
    };
    tasks.flatten().map(|task| nanoseconds(task.path())).sum::<f64>() / 1e9
}

fn peak_mib(pid: u32) -> u64 {
    let text = read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or_default();
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or_default();
    kib / 1024
}

fn spread(samples: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    let (first, median, last) = (samples[0], samples[samples.len() / 2], samples[samples.len() - 1]);
    format!("{median:.digits$} ({first:.digits$} to {last:.digits$})")
}

// ---- small things ----

fn get(port: u16, target: &str) -> String {
    let mut stream = TcpStream::connect((LOCAL, port)).expect("API");
    let request = format!("GET {target} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("API");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("API");
    answer
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((LOCAL, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).exists())
}

fn seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    now.as_nanos() as u64 | 1
}

fn shuffle<T>(items: &mut [T], random: &mut u64) {
    for last in (1..items.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        items.swap(last, (*random % (last as u64 + 1)) as usize);
    }
}
