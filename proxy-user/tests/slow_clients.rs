// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ten thousand clients that have sent one byte of a head: what they cost the process, and when they are given up.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

mod proxy_process;

use proxy_process::{DEADLINE, Proxy, ask, clients_that_fit, eventually};

const CLIENTS: usize = 10_000;
/// What they may cost together.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// TIMEOUT_HTTP_REQUEST, which is also what it takes to connect them all on a busy machine.
const HEAD_SECONDS: u64 = 8;
/// Of the proxy and of this process, beside the connections; and connections that a worker gets more than its part,
/// because the kernel spreads them at random: ten times √(10 000 × ½ × ½) of two files each.
const FILES_ASIDE: usize = 512 + 1000;

#[test]
fn ten_thousand_slow_heads_cost_little_and_end_in_time() {
    let clients = clients_that_fit(CLIENTS, FILES_ASIDE);
    let proxy = Proxy::start(&[("TIMEOUT_HTTP_REQUEST", HEAD_SECONDS.to_string())]);
    let data = proxy.data;
    // What the first request costs is no client's.
    ask(data, "/");
    let idle = proxy.private_bytes();

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
        proxy.metric(open) >= clients || began.elapsed() > Duration::from_secs(HEAD_SECONDS)
    });
    let (used, held) = (proxy.private_bytes().saturating_sub(idle), proxy.metric(open));
    assert_eq!(held, clients, "connected after {connected:?}");
    assert!(used <= BYTES_MAX, "{used} bytes for {held} clients");
    // Others are served beside them.
    assert!(ask(data, "/").starts_with("HTTP/1.1 503 "));

    let timeouts = "portico_proxy_refused_total{reason=\"head_timeout\"}";
    eventually("all are given up", || proxy.metric(timeouts) >= clients);
    let ended = began.elapsed();
    eventually("all are closed", || proxy.metric(open) == 0);
    assert_eq!(proxy.metric(timeouts), clients);
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
