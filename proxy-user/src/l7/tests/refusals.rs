// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the proxy answers itself, and that each reason is counted.

use super::*;
use crate::l7::error_pages::ErrorPages;

fn check(site: &Site, request: &str, status: u16, reason: &str) {
    let before = site.refused(reason);
    let mut wire = site.connect();
    wire.send(request);
    assert_eq!(wire.reply().status, status, "{request:?}");
    assert_eq!(site.refused(reason), before + 1, "{request:?}");
}

#[test]
fn a_request_that_can_be_read_two_ways_is_refused() {
    let site = Site::start();
    site.route_all(echo_origin());
    check(&site, "GET / HTTP/1.1\r\n\r\n", 400, "host_missing");
    check(
        &site,
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        400,
        "host_duplicate",
    );
    for host in ["", "a/b", "u@a", "a,b", "a:b", "a b"] {
        check(
            &site,
            &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            400,
            "host_invalid",
        );
    }
    check(
        &site,
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        "target_invalid",
    );
    check(
        &site,
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        "target_invalid",
    );
    check(&site, "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target_invalid");
    check(
        &site,
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        405,
        "connect",
    );
    let long = "a".repeat(super::super::limits::URI_BYTES_MAX);
    check(
        &site,
        &format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        414,
        "uri_too_long",
    );
}

#[test]
fn a_malformed_head_is_refused_before_it_is_a_request() {
    let site = Site::start();
    for request in [
        "NONSENSE\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n",
    ] {
        let mut wire = site.connect();
        wire.send(request);
        assert_eq!(wire.reply().status, 400, "{request:?}");
        assert!(wire.is_closed());
    }
}

#[test]
fn a_malformed_body_is_the_clients_fault() {
    let site = Site::start();
    site.route_all(echo_origin());
    check(
        &site,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        400,
        "body_invalid",
    );
}

#[test]
fn a_slow_head_and_a_slow_body_time_out() {
    let site = Site::with(|settings| {
        settings.timeouts.http_request = Duration::from_millis(200);
        settings.timeouts.client = Duration::from_millis(200);
    });
    site.route_all(echo_origin());
    check(&site, "GET / HTTP/1.1\r\nHost:", 408, "head_timeout");
    check(
        &site,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
        408,
        "body_timeout",
    );
}

#[test]
fn an_idle_connection_is_closed_without_an_answer() {
    let site = Site::with(|settings| settings.timeouts.http_keep_alive = Duration::from_millis(200));
    site.route_all(echo_origin());
    let mut wire = site.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.reply().status, 200);
    assert!(wire.is_closed());
}

#[test]
fn faults_of_the_upstream_have_their_own_codes() {
    // Longer than a busy machine takes to begin an origin's thread.
    let site = Site::with(|settings| settings.timeouts.server = Duration::from_secs(2));
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    check(&site, request, 503, "no_route");
    let closed = TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap();
    site.route_all(closed);
    check(&site, request, 503, "upstream_unreachable");
    site.route_all(origin(|_, mut wire| {
        wire.head();
        wire.is_closed();
    }));
    check(&site, request, 504, "upstream_timeout");
    for answer in [
        "this is not HTTP\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        site.route_all(origin(move |_, mut wire| {
            wire.head();
            wire.send(answer);
        }));
        check(&site, request, 502, "upstream_invalid");
    }
    site.route_all(origin(|_, mut wire| {
        wire.head();
    }));
    check(&site, request, 502, "upstream_invalid");
}

#[test]
fn a_name_without_an_address_is_unavailable() {
    let site = Site::start();
    assert_eq!(
        site.reconfigure("serviceName=no-such-service.invalid&servicePath=/&port=80")
            .status,
        200
    );
    assert_eq!(site.get("/").status, 503);
    assert_eq!(site.refused("upstream_unresolved"), 1);
}

#[test]
fn connections_beyond_the_limit_are_dropped_and_counted() {
    let site = Site::with(|settings| (settings.workers, settings.connections_max) = (1, 2));
    site.route_all(echo_origin());
    let mut held: Vec<Wire> = (0..2).map(|_| site.connect()).collect();
    for wire in &mut held {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(wire.reply().status, 200);
    }
    assert!(site.connect().is_closed());
    assert_eq!(site.refused("connections_max"), 1);
}

#[test]
fn a_transfer_coding_other_than_chunked_is_refused() {
    let site = Site::start();
    site.route_all(echo_origin());
    for coding in [
        "gzip, chunked",
        "chunked, chunked",
        ",chunked",
        "identity\r\nTransfer-Encoding: chunked",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        check(&site, &request, 400, "coding_invalid");
    }
}

#[test]
fn framing_that_can_be_read_two_ways_ends_the_connection() {
    let site = Site::start();
    site.route_all(echo_origin());
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding : chunked",
        "X: a\r\n folded",
        "X: a\rb",
    ] {
        let mut wire = site.connect();
        wire.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\nhello"));
        assert_eq!(wire.reply().status, 400, "{framing}");
        assert!(wire.is_closed(), "{framing}");
    }
    // Both framings: the chunks count, the length is not passed on, and the connection ends (RFC 9112 §6.1).
    let mut wire = site.connect();
    wire.send(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    let seen = wire.reply().text();
    assert!(
        seen.ends_with("hello|") && field(&seen, "content-length").is_none(),
        "{seen}"
    );
    assert!(wire.is_closed());
    for chunks in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nBad Name: x\r\n\r\n",
    ] {
        let mut wire = site.connect();
        wire.send(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        ));
        assert_eq!(wire.reply().status, 400, "{chunks}");
        assert!(wire.is_closed(), "{chunks}");
    }
}

#[test]
fn error_pages_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let page = "HTTP/1.0 503 Busy\r\nX-Page: own\r\nContent-Length: 1\r\n\r\nback soon";
    std::fs::write(dir.path().join("503.http"), page).unwrap();
    std::fs::write(dir.path().join("403.http"), "nonsense").unwrap();
    let pages = ErrorPages::read(dir.path());
    let site = Site::with(|settings| settings.error_pages = Arc::new(pages));
    let reply = site.get("/");
    assert_eq!((reply.status, reply.text()), (503, "back soon".into()));
    assert_eq!(
        (reply.field("x-page"), reply.field("content-length")),
        (Some("own"), Some("9"))
    );
    let query = format!(
        "serviceName=a&servicePath=/&port={}&deniedMethods=GET",
        echo_origin().port()
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    let reply = site.get("/");
    assert_eq!(
        (reply.status, reply.field("content-type")),
        (403, Some("text/html"))
    );
}
