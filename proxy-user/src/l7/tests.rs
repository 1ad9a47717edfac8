// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole proxy over loopback: real sockets, a real origin, and the API as people call it.
//!
//! Nothing here sleeps: reads have a deadline, and what takes time is waited for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::domain::DomainAlgo;
use super::forwarded::Forwarding;
use super::prefixes::AddressPolicy;
use super::proxy_protocol::Acceptance;
use super::server::Proxy;
use super::settings::{Admin, ConnectionMode, Port, ServiceDefaults, Settings, Timeouts};
use super::tls::TlsSettings;
use super::upstream::sticky::StickyKey;

mod admin;
mod compression;
mod conformance;
mod forwarding;
mod fuzz;
mod h2;
mod labels;
mod leaving;
mod lifecycle;
mod listener;
mod parking;
mod passage;
mod policies;
mod provenance;
mod refusals;
mod replicas;
mod shares;
mod statistics;
mod storm;
mod streams;
mod tls;
mod upstreams;
mod websocket;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DEADLINE: Duration = Duration::from_secs(20);

/// A running proxy with its own state directory.
struct Site {
    proxy: Option<Proxy>,
    state: tempfile::TempDir,
}

impl Site {
    fn start() -> Site {
        Site::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Site {
        let state = tempfile::tempdir().unwrap();
        let mut settings = settings(state.path());
        change(&mut settings);
        Site {
            proxy: Some(Proxy::start(settings).unwrap()),
            state,
        }
    }

    fn data(&self) -> SocketAddr {
        self.proxy.as_ref().unwrap().data[0]
    }

    fn connect(&self) -> Wire {
        Wire::connect(self.data())
    }

    /// GET on the API.
    fn api(&self, target: &str) -> Reply {
        let mut wire = Wire::connect(self.proxy.as_ref().unwrap().api);
        wire.send(&format!(
            "GET {target} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
        ));
        wire.reply()
    }

    fn reconfigure(&self, query: &str) -> Reply {
        self.api(&format!("/v1/docker-flow-proxy/reconfigure?{query}"))
    }

    /// Routes everything to an address.
    fn route_all(&self, origin: SocketAddr) {
        let query = format!(
            "serviceName=all&servicePath=/&outboundHostname=127.0.0.1&port={}",
            origin.port()
        );
        assert_eq!(self.reconfigure(&query).status, 200);
    }

    /// One request on a connection of its own.
    fn get(&self, path: &str) -> Reply {
        let mut wire = self.connect();
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: acme.com\r\n\r\n"));
        wire.reply()
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("portico_proxy_refused_total{{reason=\"{reason}\"}}"))
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.api("/metrics").text();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap_or_else(|| panic!("{name}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn stop(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            proxy.stop();
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Settings of a proxy on loopback with one free port.
pub(in crate::l7) fn settings(state: &std::path::Path) -> Settings {
    Settings {
        listen: LOCAL,
        ports: vec![Port::plain(0)],
        api: SocketAddr::new(LOCAL, 0),
        admin: Admin::default(),
        workers: 2,
        state_dir: state.to_owned(),
        drain: Duration::from_secs(1),
        access_log: None,
        request_id: None,
        connections_max: 1000,
        timeouts: Timeouts::default(),
        defaults: ServiceDefaults {
            separator: ",".into(),
            domain_algo: DomainAlgo::Begins,
            https_only: false,
            instance_filter: None,
            connection_mode: ConnectionMode::Keep,
            secrets: state.join("secrets"),
            users: Vec::new(),
        },
        proxy_protocol: Acceptance::default(),
        forwarding: Forwarding::default(),
        addresses: AddressPolicy::default(),
        compression: None,
        tls: TlsSettings {
            dir: state.join("certs"),
            secrets: state.join("secrets"),
            h2: true,
            ..TlsSettings::default()
        },
        error_pages: Arc::default(),
        nameservers: Vec::new(),
        services: Vec::new(),
        stats: None,
        validates_addresses: false,
        credentials: None,
        service_name: "proxy".into(),
        siblings: Vec::new(),
        sticky_key: StickyKey::new(b"test"),
        listener: None,
        docker: None,
    }
}

/// Waits for something that others do.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A connection on which bytes are written and messages are read.
struct Wire {
    stream: BufReader<TcpStream>,
}

/// A message: head and body as they came.
#[derive(Debug, Default)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
    trailers: String,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

impl Wire {
    fn connect(address: SocketAddr) -> Wire {
        Wire::new(TcpStream::connect_timeout(&address, DEADLINE).unwrap())
    }

    fn new(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire {
            stream: BufReader::new(stream),
        }
    }

    fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    /// Head without its blank line; empty at the end of the connection.
    fn head(&mut self) -> String {
        let mut head = String::new();
        loop {
            let line = self.line();
            if line.trim_end().is_empty() {
                return head;
            }
            head.push_str(&line);
        }
    }

    /// A message whose head has been read.
    fn rest(&mut self, head: String, has_body: bool) -> Reply {
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_default();
        let mut reply = Reply {
            status,
            head,
            ..Reply::default()
        };
        if !has_body {
            return reply;
        }
        if let Some(length) = reply
            .field("content-length")
            .map(|text| text.parse::<usize>().unwrap())
        {
            reply.body.resize(length, 0);
            self.stream.read_exact(&mut reply.body).unwrap();
        } else if reply.field("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(self.line().trim(), 16).unwrap();
                if size == 0 {
                    reply.trailers = self.head();
                    break;
                }
                let from = reply.body.len();
                reply.body.resize(from + size, 0);
                self.stream.read_exact(&mut reply.body[from..]).unwrap();
                assert_eq!(self.line(), "\r\n");
            }
        }
        reply
    }

    fn reply(&mut self) -> Reply {
        let head = self.head();
        self.rest(head, true)
    }

    /// Whether the other side has ended the connection, by FIN or reset.
    fn is_closed(&mut self) -> bool {
        // Asked once: a reset is reported once, and looks like an end afterwards.
        match self.stream.fill_buf() {
            Ok(rest) => rest.is_empty(),
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// An origin: each accepted connection, numbered, is served by a thread of its own.
fn origin(serve: impl Fn(usize, Wire) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((LOCAL, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (serve, stream) = (serve.clone(), stream.unwrap());
            std::thread::spawn(move || serve(number, Wire::new(stream)));
        }
    });
    address
}

/// An origin that answers every request with what it received, and goes on until the connection ends.
fn echo_origin() -> SocketAddr {
    origin(|_, mut wire| {
        loop {
            let head = wire.head();
            if head.is_empty() {
                return;
            }
            let request = wire.rest(head, true);
            let body = format!("{}\r\n{}|{}", request.head, request.text(), request.trailers);
            wire.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
        }
    })
}
