// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ten thousand clients that have had an answer and keep their connection: what they cost the process.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

mod proxy_process;

use proxy_process::{DEADLINE, Proxy, ask, clients_that_fit, eventually};

const CLIENTS: usize = 10_000;
/// What each may cost, beside what the kernel has of it.
const BYTES_PER_CLIENT_MAX: usize = 8 * 1024;
/// How long memory that is free may be kept: workers look for it every 250 ms, and it has to be free for a second.
const FREE_TIME_MAX: Duration = Duration::from_secs(15);
/// As in the test of slow clients.
const FILES_ASIDE: usize = 512 + 1000;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A service that answers the first request at once, and the others when all of them are there: what they need while
/// they are served, they need at the same time.
fn service(clients: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for expected in [1, clients] {
            // A proxy may also open a connection on which it asks nothing.
            let (mut silent, mut asking) = (Vec::new(), Vec::new());
            while asking.len() < expected {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    silent.push(stream);
                }
                let mut request = [0; 1024];
                let asks = |stream: &mut TcpStream| stream.read(&mut request).is_ok_and(|length| length > 0);
                asking.extend(silent.extract_if(.., asks));
                std::thread::park_timeout(Duration::from_millis(1));
            }
            // Each ends with its answer.
            for mut stream in asking {
                stream.write_all(ANSWER).unwrap();
            }
        }
    });
    port
}

fn begin(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(REQUEST).unwrap();
    stream
}

fn end(stream: &mut TcpStream) {
    let (mut answer, mut piece) = (Vec::new(), [0; 512]);
    while !answer.ends_with(b"\r\n\r\nok") {
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "{}", answer.escape_ascii());
        answer.extend_from_slice(&piece[..length]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn ten_thousand_idle_connections_cost_little() {
    let clients = clients_that_fit(CLIENTS, FILES_ASIDE);
    let long = DEADLINE.as_secs().to_string();
    let proxy = Proxy::start(&[
        ("TIMEOUT_HTTP_KEEP_ALIVE", "3600".to_owned()),
        ("TIMEOUT_SERVER", long),
    ]);
    let query = format!(
        "serviceName=s&servicePath=/&outboundHostname=127.0.0.1&port={}",
        service(clients)
    );
    let target = format!("/v1/docker-flow-proxy/reconfigure?{query}");
    assert!(ask(proxy.api, &target).starts_with("HTTP/1.1 200 "));
    // What the first request costs is no client's.
    end(&mut begin(proxy.data));
    let before = proxy.private_bytes();

    let mut held: Vec<TcpStream> = (0..clients).map(|_| begin(proxy.data)).collect();
    held.iter_mut().for_each(end);
    eventually("all are parked", || {
        proxy.metric("portico_proxy_connections_parked_total") >= clients
    });
    let allowed = before + clients * BYTES_PER_CLIENT_MAX;
    let deadline = Instant::now() + FREE_TIME_MAX;
    let mut used = proxy.private_bytes();
    let at_first = used;
    while used > allowed {
        let open = proxy.metric("portico_proxy_connections_open");
        assert!(
            Instant::now() < deadline,
            "{} bytes each for {clients} clients, {} when they were parked; {open} are open",
            (used - before) / clients,
            at_first.saturating_sub(before) / clients,
        );
        std::thread::park_timeout(Duration::from_millis(50));
        used = proxy.private_bytes();
    }
    assert_eq!(proxy.metric("portico_proxy_connections_open"), clients);
    println!(
        "{clients} idle clients: {} bytes each, {} when they were parked",
        used.saturating_sub(before) / clients,
        at_first.saturating_sub(before) / clients
    );
    drop(held);
}
