// SPDX-License-Identifier: MIT OR Apache-2.0
//! Modes tcp and sni: ports of services, names, half-close, timeouts, and tunnels that outlive their rules.

use std::net::Shutdown;

use super::*;
use crate::l7::stream::hello::tests::client_hello;

/// A port that nobody has; below the range from which the kernel takes them by itself.
pub(super) fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let offset = std::process::id() as usize * 64 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (offset % 20_000) as u16;
        if TcpListener::bind((LOCAL, port)).is_ok() {
            return port;
        }
    }
}

/// Answers with its name, then with everything that it gets until the client ends.
fn named_origin(name: &'static str) -> SocketAddr {
    origin(move |_, mut wire| {
        wire.send(name);
        let mut got = Vec::new();
        let _ = wire.stream.read_to_end(&mut got);
        let _ = wire.stream.get_mut().write_all(&got);
    })
}

fn stream_query(name: &str, mode: &str, port: u16, origin: SocketAddr) -> String {
    format!(
        "serviceName={name}&reqMode={mode}&srcPort={port}&outboundHostname=127.0.0.1&port={}",
        origin.port()
    )
}

pub(super) fn route_stream(site: &Site, name: &str, mode: &str, port: u16, origin: SocketAddr, more: &str) {
    let reply = site.reconfigure(&format!("{}{more}", stream_query(name, mode, port, origin)));
    assert_eq!(reply.status, 200, "{}", reply.text());
}

fn connect(port: u16) -> Wire {
    Wire::connect((LOCAL, port).into())
}

/// Who answers a connection that begins with these bytes; empty if it is closed.
fn asked(port: u16, parts: &[&[u8]]) -> String {
    let mut wire = connect(port);
    for part in parts {
        // A side that has decided may have closed already.
        let _ = wire.stream.get_mut().write_all(part);
    }
    let mut name = [0; 1];
    match wire.stream.read_exact(&mut name) {
        Ok(()) => String::from_utf8_lossy(&name).into_owned(),
        Err(_) => String::new(),
    }
}

#[test]
fn a_tcp_connection_passes_whole_with_half_closes() {
    let site = Site::start();
    let port = free_port();
    route_stream(&site, "db", "tcp", port, named_origin("A"), "");
    let mut wire = connect(port);
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n >> 5) as u8).collect();
    let mut writer = wire.stream.get_ref().try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    wire.stream.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got[0] == b'A' && got[1..] == sent[..]);
    assert_eq!(site.metric("portico_proxy_streams_total"), 1);
    assert_eq!(site.metric("portico_proxy_stream_bytes_in_total"), 3_000_000);
    assert_eq!(site.metric("portico_proxy_stream_bytes_out_total"), 3_000_001);
    wait_until(|| site.metric("portico_proxy_streams_open") == 0);
}

#[test]
fn ports_come_and_go_with_their_services_and_tunnels_stay() {
    let site = Site::start();
    site.route_all(echo_origin());
    let (first, second) = (free_port(), free_port());
    route_stream(&site, "db", "tcp", first, named_origin("A"), "");
    let mut tunnel = connect(first);
    let mut name = [0; 1];
    tunnel.stream.read_exact(&mut name).unwrap();

    // The service moves to another port and another origin.
    route_stream(&site, "db", "tcp", second, named_origin("B"), "");
    assert_eq!(asked(second, &[]), "B");
    wait_until(|| TcpStream::connect((LOCAL, first)).is_err());
    // The old port can be had again at once, also by us.
    route_stream(&site, "other", "tcp", first, named_origin("C"), "");
    assert_eq!(asked(first, &[]), "C");
    site.api("/v1/docker-flow-proxy/remove?serviceName=db");
    wait_until(|| TcpStream::connect((LOCAL, second)).is_err());

    tunnel.send("still here");
    tunnel.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    tunnel.stream.read_to_string(&mut got).unwrap();
    assert_eq!(got, "still here");
    assert_eq!(site.get("/").status, 200);
}

#[test]
fn a_port_in_use_is_refused_and_the_last_good_version_stays() {
    let mut site = Site::start();
    let port = free_port();
    let taken = TcpListener::bind((LOCAL, 0)).unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    route_stream(&site, "db", "tcp", port, named_origin("A"), "");
    let reply = site.reconfigure(&stream_query("db", "tcp", taken_port, named_origin("B")));
    assert_eq!(reply.status, 500);
    let text = reply.text();
    assert!(
        text.contains("srcPort") && text.contains(&taken_port.to_string()),
        "{text}"
    );
    assert_eq!(asked(port, &[]), "A");

    // A kept service whose port is taken at the start gets it when it is free.
    site.stop();
    drop(taken);
    let taken = TcpListener::bind((LOCAL, port)).unwrap();
    site.proxy = Some(Proxy::start(settings(site.state.path())).unwrap());
    assert_eq!(site.metric("portico_proxy_ports_missing"), 1);
    drop(taken);
    wait_until(|| site.metric("portico_proxy_ports_missing") == 0);
    assert_eq!(asked(port, &[]), "A");
}

#[test]
fn services_share_a_port_by_server_name() {
    let site = Site::start();
    let port = free_port();
    route_stream(
        &site,
        "a",
        "sni",
        port,
        named_origin("A"),
        "&servicePath=a.acme.com,*.a.acme.com",
    );
    route_stream(
        &site,
        "b",
        "sni",
        port,
        named_origin("B"),
        "&servicePath=b.&pathType=req_ssl_sni%20-i%20-m%20beg&timeoutClient=1",
    );
    route_stream(
        &site,
        "c",
        "tcp",
        port,
        named_origin("C"),
        "&serviceDomain=c.acme.com",
    );
    let hello = |name| client_hello(name, 16_384);
    assert_eq!(asked(port, &[&hello(Some("A.acme.com"))]), "A");
    assert_eq!(asked(port, &[&hello(Some("x.a.acme.com"))]), "A");
    assert_eq!(asked(port, &[&hello(Some("b.example.org"))]), "B");
    assert_eq!(asked(port, &[&hello(Some("c.acme.com"))]), "C");
    // In small records, and in parts that are sent one by one.
    assert_eq!(asked(port, &[&client_hello(Some("c.acme.com"), 5)]), "C");
    let whole = hello(Some("c.acme.com"));
    let parts: Vec<&[u8]> = whole.chunks(3).collect();
    assert_eq!(asked(port, &parts), "C");
    // Nobody wants these.
    let before = site.refused("no_stream_route");
    assert_eq!(asked(port, &[&hello(Some("acme.com"))]), "");
    assert_eq!(asked(port, &[&hello(None)]), "");
    assert_eq!(asked(port, &[b"GET / HTTP/1.1\r\n"]), "");
    assert_eq!(site.refused("no_stream_route"), before + 3);
    // Until one takes the rest; of several the last.
    route_stream(&site, "d", "tcp", port, named_origin("D"), "");
    route_stream(&site, "e", "tcp", port, named_origin("E"), "");
    assert_eq!(asked(port, &[&hello(Some("acme.com"))]), "E");
    assert_eq!(asked(port, &[&hello(None)]), "E");
    assert_eq!(asked(port, &[&hello(Some("a.acme.com"))]), "A");
}

#[test]
fn the_hello_reaches_the_service_and_a_late_one_is_not_waited_for() {
    let site = Site::start();
    let port = free_port();
    let echo = origin(|_, mut wire| {
        let mut got = Vec::new();
        let _ = wire.stream.read_to_end(&mut got);
        let _ = wire.stream.get_mut().write_all(&got);
    });
    route_stream(
        &site,
        "a",
        "sni",
        port,
        echo,
        "&servicePath=a.acme.com&timeoutClient=1",
    );
    let mut wire = connect(port);
    let hello = client_hello(Some("a.acme.com"), 9);
    wire.stream.get_mut().write_all(&hello).unwrap();
    wire.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    wire.stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, hello);
    assert!(connect(port).is_closed());
    assert_eq!(site.refused("hello_timeout"), 1);
}

#[test]
fn a_port_of_http_keeps_what_no_name_takes() {
    let site = Site::start();
    site.route_all(echo_origin());
    let port = site.data().port();
    route_stream(
        &site,
        "a",
        "sni",
        port,
        named_origin("A"),
        "&servicePath=a.acme.com",
    );
    assert_eq!(asked(port, &[&client_hello(Some("a.acme.com"), 16_384)]), "A");
    assert_eq!(site.get("/").status, 200);
    // What would take everything is refused: other services live there.
    let reply = site.reconfigure(&stream_query("b", "tcp", port, named_origin("B")));
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("srcPort"), "{}", reply.text());
    assert_eq!(site.get("/").status, 200);
    site.api("/v1/docker-flow-proxy/remove?serviceName=all");
    route_stream(&site, "b", "tcp", port, named_origin("B"), "");
    assert_eq!(asked(port, &[b"anything"]), "B");
}

#[test]
fn a_silent_tunnel_ends_and_one_that_moves_does_not() {
    let site = Site::start();
    let port = free_port();
    route_stream(&site, "db", "tcp", port, named_origin("A"), "&timeoutTunnel=1");
    let began = Instant::now();
    let mut wire = connect(port);
    let mut name = [0; 1];
    wire.stream.read_exact(&mut name).unwrap();
    assert!(wire.is_closed());
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_broken_tunnel_does_not_look_whole() {
    let site = Site::start();
    let port = free_port();
    let reset = origin(|_, mut wire| {
        wire.send("half");
        let mut byte = [0; 1];
        let _ = wire.stream.read_exact(&mut byte);
        socket2::SockRef::from(wire.stream.get_ref())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    });
    route_stream(&site, "db", "tcp", port, reset, "");
    let mut wire = connect(port);
    let mut got = [0; 4];
    wire.stream.read_exact(&mut got).unwrap();
    wire.send("x");
    let error = wire.stream.read(&mut got).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_dead_service_costs_its_own_connections_only() {
    let site = Site::start();
    let (port, dead_port) = (free_port(), free_port());
    // Bound and not listening: refuses, and nobody else can take the port meanwhile.
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    held.bind(&SocketAddr::from((LOCAL, 0)).into()).unwrap();
    let dead = held.local_addr().unwrap().as_socket().unwrap();
    route_stream(&site, "a", "tcp", port, named_origin("A"), "");
    route_stream(&site, "b", "tcp", dead_port, dead, "");
    assert_eq!(asked(dead_port, &[]), "");
    assert_eq!(site.refused("upstream_unreachable"), 1);
    assert_eq!(asked(port, &[]), "A");
}

#[test]
fn members_of_a_group_share_the_port_of_the_first() {
    let site = Site::with(|settings| settings.workers = 1);
    let (port, unused) = (free_port(), free_port());
    let group = "&serviceGroup=pg&balanceGroup=roundrobin";
    route_stream(&site, "a", "tcp", port, named_origin("A"), group);
    route_stream(&site, "b", "tcp", unused, named_origin("B"), group);
    let mut names: Vec<String> = (0..4).map(|_| asked(port, &[])).collect();
    names.sort_unstable();
    assert_eq!(names, ["A", "A", "B", "B"]);
    wait_until(|| TcpStream::connect((LOCAL, unused)).is_err());
    site.api("/v1/docker-flow-proxy/remove?serviceName=a");
    assert_eq!(asked(unused, &[]), "B");
}

#[test]
fn wrong_values_are_named() {
    let site = Site::start();
    for (query, part) in [
        ("reqMode=sni&srcPort=1&port=1", "servicePath"),
        (
            "reqMode=sni&srcPort=1&port=1&servicePath=a&pathType=path_dir",
            "pathType",
        ),
        (
            "reqMode=sni&srcPort=1&port=1&servicePath=(&pathType=path_reg",
            "servicePath",
        ),
        ("reqMode=tcp&srcPort=1&port=x", "port"),
        ("reqMode=tcp&srcPort=1&port=1&timeoutTunnel=x", "timeoutTunnel"),
        ("reqMode=tcp&srcPort=1&port=1&balanceGroup=hdr", "balanceGroup"),
        (
            "reqMode=tcp&srcPort=1&port=1&serviceDomain=a&serviceDomainAlgo=src",
            "serviceDomainAlgo",
        ),
        ("reqMode=udp&srcPort=1&port=1", "reqMode"),
        (
            "servicePath=/&port=1&port.1=1&servicePath.1=/&port.2=1&reqMode.2=tcp",
            "srcPort.2",
        ),
    ] {
        let reply = site.reconfigure(&format!("serviceName=a&{query}"));
        assert_eq!(reply.status, 400, "{query}: {}", reply.text());
        assert!(
            reply.text().contains(&format!("{part}: ")),
            "{query}: {}",
            reply.text()
        );
    }
}

/// Waits for something that other threads bring about.
pub(super) fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "in time");
        std::thread::yield_now();
    }
}
