// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ten thousand clients that have sent one byte of a head: what they cost the process, and when they are given up.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CLIENTS: usize = 10_000;
/// What they may cost together.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// TIMEOUT_HTTP_REQUEST, which is also what it takes to connect them all on a busy machine.
const HEAD_SECONDS: u64 = 8;
const DEADLINE: Duration = Duration::from_secs(60);
/// Of the proxy and of this process, beside the connections; and connections that a worker gets more than its part,
/// because the kernel spreads them at random: ten times √(10 000 × ½ × ½) of two files each.
const FILES_ASIDE: usize = 512 + 1000;
/// The proxy keeps one for a connection to a service.
const FILES_PER_CLIENT: usize = 2;

/// Ends with the test, however that ends.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Raises the limit of open files, which children inherit, as far as it goes; how many clients fit.
fn clients_that_fit() -> usize {
    let wanted = (FILES_PER_CLIENT * CLIENTS + FILES_ASIDE) as u64;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the calls read and write the struct that they are given, and it outlives them.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let raised = libc::rlimit {
            rlim_cur: wanted.max(limit.rlim_max),
            rlim_max: wanted.max(limit.rlim_max),
        };
        // Beyond the hard limit it needs a privilege.
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) != 0 {
            limit.rlim_cur = limit.rlim_max;
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        }
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
    }
    let files = usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX);
    CLIENTS.min(files.saturating_sub(FILES_ASIDE) / FILES_PER_CLIENT)
}

/// Bytes that only this process has in memory.
fn resident(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("Private_"));
    let kibibytes = |line: &str| line.split_whitespace().nth(1)?.parse::<usize>().ok();
    lines.filter_map(kibibytes).sum::<usize>() * 1024
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn ask(port: u16, target: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn metric(api: u16, name: &str) -> usize {
    let text = ask(api, "/metrics");
    let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or_else(|| panic!("{name}"))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn ten_thousand_slow_heads_cost_little_and_end_in_time() {
    let clients = clients_that_fit();
    if clients < CLIENTS {
        println!("only {clients} clients instead of {CLIENTS}: the limit of open files is lower");
    }
    assert!(clients > 100, "too few files");
    let dir = tempfile::tempdir().unwrap();
    let (api, data) = (free_port(), free_port());
    let errors = File::create(dir.path().join("stderr")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portico"));
    command
        .args(["proxy", "--listen", "127.0.0.1", "--ip", "127.0.0.1"])
        .args(["--port", &api.to_string(), "--default-ports", &data.to_string()])
        .arg("--state")
        .arg(dir.path().join("state"))
        .env_clear()
        .env("PORTICO_WORKERS", "2")
        .env("TIMEOUT_HTTP_REQUEST", HEAD_SECONDS.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    let proxy = Proxy(command.spawn().unwrap());
    eventually("it listens", || TcpStream::connect(("127.0.0.1", api)).is_ok());
    // What the first request costs is no client's.
    ask(data, "/");
    let idle = resident(proxy.0.id());

    let began = Instant::now();
    let mut streams: Vec<TcpStream> = (0..clients)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", data)).unwrap();
            stream.write_all(b"G").unwrap();
            stream
        })
        .collect();
    let connected = began.elapsed();
    let open = "portico_proxy_connections_open";
    eventually("all are there", || {
        metric(api, open) >= clients || began.elapsed() > Duration::from_secs(HEAD_SECONDS)
    });
    let (used, held) = (resident(proxy.0.id()).saturating_sub(idle), metric(api, open));
    assert_eq!(held, clients, "connected after {connected:?}");
    assert!(used <= BYTES_MAX, "{used} bytes for {held} clients");
    // Others are served beside them.
    assert!(ask(data, "/").starts_with("HTTP/1.1 503 "));

    let timeouts = "portico_proxy_refused_total{reason=\"head_timeout\"}";
    eventually("all are given up", || metric(api, timeouts) >= clients);
    let ended = began.elapsed();
    eventually("all are closed", || metric(api, open) == 0);
    assert_eq!(metric(api, timeouts), clients);
    // As long as the last one had, and some more for the look at the clock.
    let limit = connected + Duration::from_secs(2 * HEAD_SECONDS);
    assert!(ended < limit, "{ended:?} after the first");
    for stream in &mut streams {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", answer.escape_ascii()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    println!(
        "{clients} clients: {} KiB, {} bytes each; connected in {connected:.1?}, the last given up after {ended:.1?}",
        used / 1024,
        used / clients
    );
}
