// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a request through the L7 proxy costs: `cargo bench -p portico-tests --bench l7`.
//!
//! One origin (nginx, a tiny answer and one of a mebibyte), and before it portico, HAProxy and nginx with one worker thread each, all on
//! loopback. Every round asks each of them, in an order of its own, with each [`Load`]; words of the command line
//! choose among the loads by their names. The main figure is the processor time of the proxy per 100 000 requests: it
//! does not depend on how many processors the load and the origin find. Figures are medians of the rounds with their
//! spread.
//!
//! Load: [`ROUNDS`] × [`Load::ALL`] × 3 runs of [`SECONDS`]. Programs that are not installed are named and left out.
//! The proxy is `target/release/portico`, or PORTICO.

use std::{
    collections::BTreeMap,
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
const SECONDS: u32 = 2;
const CONNECTIONS: u32 = 64;
/// Of answers of [`LARGE_BYTES`].
const LARGE_CONNECTIONS: u32 = 16;
const LARGE_BYTES: usize = 1024 * 1024;
/// Connections of HTTP/2, and requests at a time on each: as many requests as the other loads have at a time.
const H2_CONNECTIONS: u32 = 8;
const H2_STREAMS: u32 = 8;
/// Requests a second of the load whose answers' times count, over [`CONNECTIONS`] connections: about a sixth of what
/// the slowest of the three does at most, so that queues are short and what is left is the proxy's own.
const PACE: u32 = 9_600;
const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// What is asked, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    KeepAlive,
    Close,
    TlsKeepAlive,
    TlsHandshakes,
    Http2,
    Large,
    Paced,
}

impl Load {
    const ALL: [Load; 7] = [
        Load::KeepAlive,
        Load::Close,
        Load::TlsKeepAlive,
        Load::TlsHandshakes,
        Load::Http2,
        Load::Large,
        Load::Paced,
    ];

    fn name(self) -> &'static str {
        match self {
            Load::KeepAlive => "keep-alive",
            Load::Close => "close: a connection per request",
            Load::TlsKeepAlive => "tls-keep-alive: TLS 1.3, keep-alive",
            Load::TlsHandshakes => "tls-handshakes: TLS 1.3, a connection and a full handshake per request",
            Load::Http2 => "h2: HTTP/2 over TLS 1.3",
            Load::Large => "large: answers of 1 MiB, keep-alive",
            Load::Paced => "paced: the times of answers under a fixed load",
        }
    }

    fn is_tls(self) -> bool {
        matches!(self, Load::TlsKeepAlive | Load::TlsHandshakes | Load::Http2)
    }
}

/// A program under test; killed by its id when dropped.
struct Proxy {
    name: String,
    child: Child,
    port: u16,
    /// With TLS.
    tls_port: u16,
    samples: BTreeMap<Load, Vec<Sample>>,
}

struct Sample {
    cpu_per_100k: f64,
    per_second: f64,
    /// Microseconds that half of the answers, and 99 of 100, took at most; [`Load::Paced`] only.
    p50: f64,
    p99: f64,
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
    let words: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut loads = Load::ALL.to_vec();
    loads.retain(|load| words.is_empty() || words.iter().any(|word| load.name().starts_with(word.as_str())));
    for (program, needs) in [
        ("h2load", [Load::Http2, Load::Paced]),
        ("openssl", [Load::TlsKeepAlive, Load::TlsHandshakes]),
    ] {
        if !is_installed(program) {
            println!("left out: {needs:?}: {program} is not installed");
            loads.retain(|load| !needs.contains(load));
        }
    }
    let dir = tempfile::tempdir().expect("a scratch directory");
    let certificate = certificate(dir.path());
    fs::write(dir.path().join("large"), vec![b'x'; LARGE_BYTES]).expect("scratch file");
    let origin = nginx(dir.path(), "origin", |port, _| {
        format!(
            "server {{ listen 127.0.0.1:{port}; location / {{ return 200 \"hello, world!\\n\"; }}
            location /large {{ root {}; }} }}",
            dir.path().display()
        )
    });
    let proxies = [
        portico(dir.path(), origin.port, &certificate),
        haproxy(dir.path(), origin.port, &certificate),
        Some(nginx(dir.path(), "nginx", |port, tls_port| {
            let origin = origin.port;
            let pem = certificate.display();
            format!(
                "upstream origin {{ server 127.0.0.1:{origin}; keepalive {CONNECTIONS}; keepalive_requests 100000000; }}
                server {{ listen 127.0.0.1:{port}; listen 127.0.0.1:{tls_port} ssl http2; ssl_certificate {pem};
                ssl_certificate_key {pem}; ssl_protocols TLSv1.3; location / {{ proxy_pass http://origin;
                proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}"
            )
        })),
    ];
    let mut proxies: Vec<Proxy> = proxies.into_iter().flatten().collect();
    for proxy in &proxies {
        for load in &loads {
            run(proxy, *load, 1, dir.path());
        }
    }
    let mut random = seed();
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for load in &loads {
            shuffle(&mut proxies, &mut random);
            for proxy in &mut proxies {
                let sample = run(proxy, *load, SECONDS, dir.path());
                proxy.samples.entry(*load).or_default().push(sample);
            }
        }
    }
    proxies.sort_by(|a, b| a.name.cmp(&b.name));
    for load in loads {
        let paced = load == Load::Paced;
        println!("\n{}", load.name());
        let column = if paced {
            "p50, µs | p99, µs"
        } else {
            "requests per second | peak memory"
        };
        println!("| proxy | CPU seconds per 100 000 requests | {column} |");
        println!("| --- | --- | --- | --- |");
        for proxy in &proxies {
            let samples = || proxy.samples[&load].iter();
            let cpu = spread(samples().map(|s| s.cpu_per_100k), 2);
            if paced {
                let (p50, p99) = (
                    spread(samples().map(|s| s.p50), 0),
                    spread(samples().map(|s| s.p99), 0),
                );
                println!("| {} | {cpu} | {p50} | {p99} |", proxy.name);
            } else {
                let rate = spread(samples().map(|s| s.per_second), 0);
                let memory = peak_mib(proxy.child.id());
                println!("| {} | {cpu} | {rate} | {memory} MiB |", proxy.name);
            }
        }
    }
}

// ---- the programs ----

/// A certificate of P-256 with its key, in one file.
fn certificate(dir: &Path) -> PathBuf {
    let (key, pem) = (dir.join("key.pem"), dir.join("bench.pem"));
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    command.args([
        "-subj",
        "/CN=bench.example",
        "-addext",
        "subjectAltName=DNS:bench.example",
    ]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&pem);
    let output = command.output();
    if output.is_ok_and(|output| output.status.success()) {
        let both = [read_to_string(&pem), read_to_string(&key)].map(|text| text.expect("scratch file"));
        fs::write(&pem, both.concat()).expect("scratch file");
    }
    pem
}

fn portico(dir: &Path, origin: u16, certificate: &Path) -> Option<Proxy> {
    let built = env::current_exe().ok()?.parent()?.parent()?.join("portico");
    let program = env::var_os("PORTICO").map_or(built, PathBuf::from);
    if !program.exists() {
        println!(
            "portico left out: {} does not exist (cargo xtask build)",
            program.display()
        );
        return None;
    }
    let (port, tls_port, api) = (free_port(), free_port(), free_port());
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
            &format!("{port},{tls_port}:ssl"),
            "--port",
            &api.to_string(),
            "--state",
        ])
        .arg(dir.join("state"));
    let proxy = start("portico", command, port, tls_port);
    if let Ok(pem) = read_to_string(certificate) {
        let answer = ask(api, "PUT /v1/docker-flow-proxy/cert?certName=bench.pem", &pem);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let query = format!("serviceName=origin&servicePath=/&outboundHostname=127.0.0.1&port={origin}");
    let answer = ask(api, &format!("GET /v1/docker-flow-proxy/reconfigure?{query}"), "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Some(proxy)
}

fn haproxy(dir: &Path, origin: u16, certificate: &Path) -> Option<Proxy> {
    if !is_installed("haproxy") {
        println!("haproxy left out: not installed (apt-get install haproxy)");
        return None;
    }
    let (port, tls_port) = (free_port(), free_port());
    let tls = if certificate.exists() {
        let pem = certificate.display();
        format!(" bind 127.0.0.1:{tls_port} ssl crt {pem} alpn h2,http/1.1 ssl-min-ver TLSv1.3\n")
    } else {
        String::new()
    };
    let config = dir.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 1\n maxconn 4096\ndefaults\n mode http\n timeout connect 5s\n timeout client 20s\n \
         timeout server 20s\n timeout http-keep-alive 15s\n option http-keep-alive\n option forwardfor\n \
         http-reuse always\nfrontend f\n bind 127.0.0.1:{port}\n{tls} acl all path_beg /\n use_backend b if all\n\
         backend b\n server s 127.0.0.1:{origin}\n"
    );
    fs::write(&config, text).expect("scratch file");
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(config);
    Some(start("haproxy", command, port, tls_port))
}

fn nginx(dir: &Path, name: &str, servers: impl Fn(u16, u16) -> String) -> Proxy {
    let (port, tls_port) = (free_port(), free_port());
    let config = dir.join(format!("{name}.conf"));
    let dir = dir.join(name);
    fs::create_dir_all(&dir).expect("scratch directory");
    let at = dir.display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;
        events {{ worker_connections 4096; }}
        http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {at}/a; proxy_temp_path {at}/b;
        fastcgi_temp_path {at}/c; uwsgi_temp_path {at}/d; scgi_temp_path {at}/e; {} }}",
        servers(port, tls_port)
    );
    fs::write(&config, text).expect("scratch file");
    let mut command = Command::new("nginx");
    command.arg("-e").arg(dir.join("error.log")).arg("-c").arg(config);
    start(name, command, port, tls_port)
}

/// Starts a program and waits until it listens.
fn start(name: &str, mut command: Command, port: u16, tls_port: u16) -> Proxy {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let proxy = Proxy {
        name: name.into(),
        child: child.unwrap_or_else(|error| panic!("{name}: {error}")),
        port,
        tls_port,
        samples: BTreeMap::new(),
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect((LOCAL, port)).is_err() {
        assert!(Instant::now() < deadline, "{name} does not listen");
        sleep(Duration::from_millis(20));
    }
    proxy
}

// ---- measuring ----

fn run(proxy: &Proxy, load: Load, seconds: u32, dir: &Path) -> Sample {
    let (scheme, port) = if load.is_tls() {
        ("https", proxy.tls_port)
    } else {
        ("http", proxy.port)
    };
    let path = if load == Load::Large {
        "large"
    } else {
        "demo/hello"
    };
    let url = format!("{scheme}://127.0.0.1:{port}/{path}");
    let log = dir.join("answers");
    let mut command = Command::new("timeout");
    command.arg("30");
    match load {
        Load::KeepAlive | Load::TlsKeepAlive | Load::Close | Load::TlsHandshakes | Load::Large => {
            let connections = if load == Load::Large {
                LARGE_CONNECTIONS
            } else {
                CONNECTIONS
            };
            command.args([
                "wrk",
                "-t1",
                &format!("-c{connections}"),
                &format!("-d{seconds}s"),
            ]);
            if matches!(load, Load::Close | Load::TlsHandshakes) {
                command.args(["-H", "Connection: close"]);
            }
        }
        Load::Http2 => {
            command.args([
                "h2load",
                "-t1",
                &format!("-c{H2_CONNECTIONS}"),
                &format!("-m{H2_STREAMS}"),
            ]);
            command.arg(format!("-D{seconds}"));
        }
        Load::Paced => {
            let _ = fs::remove_file(&log);
            command.args([
                "h2load",
                "--h1",
                "-t1",
                &format!("-c{CONNECTIONS}"),
                &format!("-D{seconds}"),
            ]);
            command.arg(format!("--rps={}", PACE / CONNECTIONS));
            command.arg(format!("--log-file={}", log.display()));
        }
    }
    command.arg(url);
    let before = cpu_seconds(proxy.child.id());
    let output = command.output().expect("the load");
    let cpu = cpu_seconds(proxy.child.id()) - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let bad = |line: &&str| {
        line.contains("errors:")
            || line.contains("Non-2xx")
            || line.starts_with("requests:") && !line.contains(" 0 failed, 0 errored")
    };
    for line in text.lines().filter(bad) {
        println!("{}: {load:?}: {}", proxy.name, line.trim());
    }
    let number = |line: &str, word: usize| line.split_whitespace().nth(word)?.parse::<f64>().ok();
    let requests = text.lines().find_map(|line| {
        if line.contains(" requests in ") {
            number(line, 0)
        } else if line.starts_with("requests:") {
            // requests: TOTAL total, STARTED started, DONE done, SUCCEEDED succeeded, ...
            number(line, 7)
        } else {
            None
        }
    });
    let requests = requests.unwrap_or_else(|| panic!("{}: {load:?}: no summary in\n{text}", proxy.name));
    let mut times: Vec<f64> = read_to_string(&log)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| number(line, 2))
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |part: f64| {
        times
            .get((times.len() as f64 * part) as usize)
            .copied()
            .unwrap_or_default()
    };
    Sample {
        cpu_per_100k: cpu / requests * 1e5,
        per_second: requests / f64::from(seconds),
        p50: at(0.5),
        p99: at(0.99),
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

fn ask(port: u16, what: &str, body: &str) -> String {
    let mut stream = TcpStream::connect((LOCAL, port)).expect("API");
    let length = body.len();
    let request = format!(
        "{what} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
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
