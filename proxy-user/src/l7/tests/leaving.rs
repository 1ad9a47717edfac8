// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that go away, clients that only stop sending, and what comes before an answer.

use super::*;
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, channel};

/// An origin that says when it has a head, answers when it is told to, and says when its connection has ended.
struct Thinker {
    address: SocketAddr,
    asked: Receiver<TcpStream>,
    ended: Receiver<()>,
}

impl Thinker {
    fn start() -> Thinker {
        let (asks, asked) = channel();
        let (ends, ended) = channel();
        let (asks, ends) = (Mutex::new(asks), Mutex::new(ends));
        let address = origin(move |_, mut wire| {
            let mut line = String::new();
            while wire.stream.read_line(&mut line).is_ok_and(|length| length > 0) {
                if line.ends_with("\r\n\r\n") {
                    let stream = wire.stream.get_ref().try_clone().unwrap();
                    let _ = asks.lock().unwrap().send(stream);
                    line.clear();
                }
            }
            let _ = ends.lock().unwrap().send(());
        });
        Thinker {
            address,
            asked,
            ended,
        }
    }

    /// Where to answer the next request.
    fn asked(&self) -> Wire {
        Wire::new(self.asked.recv_timeout(DEADLINE).expect("a request"))
    }

    fn ended(&self) {
        self.ended.recv_timeout(DEADLINE).expect("the connection ends");
    }
}

fn reset(wire: Wire) {
    let stream = wire.stream.into_inner();
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";

#[test]
fn a_client_that_resets_takes_its_request_back() {
    let site = Site::start();
    let origin = Thinker::start();
    site.route_all(origin.address);
    let mut wire = site.connect();
    wire.send(ASK);
    origin.asked();
    reset(wire);
    origin.ended();
    eventually("counted", || site.refused("client_left") == 1);
    // Also one that had begun to get its answer, and waits for more of it.
    let mut wire = site.connect();
    wire.send(ASK);
    origin
        .asked()
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    wire.head();
    assert_eq!(wire.line(), "5\r\n");
    reset(wire);
    origin.ended();
    eventually("counted", || site.refused("client_left") == 2);
    let port = origin.address.port();
    let open = format!("haproxy_backend_current_sessions{{backend=\"all-be{port}_0\"}}");
    assert_eq!(site.metric(&open), 0);
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_answer() {
    let site = Site::start();
    let origin = Thinker::start();
    site.route_all(origin.address);
    for request in [
        ASK,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ] {
        let mut wire = site.connect();
        wire.send(request);
        wire.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        origin.asked().send(DONE);
        assert_eq!(wire.reply().text(), "done", "{request:?}");
        assert!(wire.is_closed(), "{request:?}");
    }
    // Several requests at once, then nothing more.
    site.route_all(echo_origin());
    let mut wire = site.connect();
    wire.send(&ASK.repeat(3));
    wire.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    for number in 0..3 {
        assert_eq!(wire.reply().status, 200, "{number}");
    }
    assert!(wire.is_closed());
    assert_eq!(site.refused("client_left"), 0);
}

#[test]
fn half_a_body_is_an_error_at_once() {
    let site = Site::start();
    let origin = Thinker::start();
    site.route_all(origin.address);
    let mut wire = site.connect();
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nbody");
    origin.asked();
    wire.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(wire.reply().status, 400);
    origin.ended();
    assert_eq!(site.refused("body_invalid"), 1);
}

#[test]
fn a_large_answer_reaches_a_client_that_sends_no_more() {
    const LENGTH: usize = 8 << 20;
    let site = Site::start();
    site.route_all(origin(|_, mut wire| {
        wire.head();
        wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
        wire.send(&"x".repeat(LENGTH));
        wire.is_closed();
    }));
    let mut wire = site.connect();
    wire.send(ASK);
    wire.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(wire.reply().body.len(), LENGTH);
    assert!(wire.is_closed());
}

#[test]
fn hints_arrive_before_the_answer() {
    let site = Site::start();
    let origin = Thinker::start();
    site.route_all(origin.address);
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\nSet-Cookie: a=b\r\n\r\n";
    let mut wire = site.connect();
    wire.send(ASK);
    let mut answering = origin.asked();
    answering.send(hint);
    let head = wire.head();
    assert!(head.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{head}");
    assert_eq!(field(&head, "link"), Some("</a.css>; rel=preload"));
    assert!(
        !head.to_lowercase().contains("hop") && field(&head, "set-cookie").is_none(),
        "{head}"
    );
    answering.send(DONE);
    assert_eq!(wire.reply().text(), "done");
}

#[test]
fn hints_and_answers_in_one_piece_keep_their_order() {
    let site = Site::start();
    site.route_all(origin(|_, mut wire| {
        while !wire.head().is_empty() {
            wire.send(&format!(
                "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n{DONE}"
            ));
        }
    }));
    let mut wire = site.connect();
    wire.send(&ASK.repeat(20));
    for number in 0..20 {
        let mut head = wire.head();
        while head.starts_with("HTTP/1.1 10") {
            head = wire.head();
        }
        assert_eq!(wire.rest(head, true).text(), "done", "{number}");
    }
    // One at a time they are all there.
    for _ in 0..3 {
        wire.send(ASK);
        assert!(wire.head().contains(" 102 "));
        assert!(wire.head().contains(" 103 "));
        assert_eq!(wire.reply().text(), "done");
    }
    // HTTP/1.0 knows no answers before the answer.
    wire.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(wire.reply().text(), "done");
}

#[test]
fn hints_without_end_are_no_answer() {
    let site = Site::start();
    site.route_all(origin(|_, mut wire| {
        wire.head();
        wire.send(&"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100));
        wire.is_closed();
    }));
    let mut wire = site.connect();
    wire.send(ASK);
    let mut hints = 0;
    let mut head = wire.head();
    while head.contains(" 103 ") {
        hints += 1;
        head = wire.head();
    }
    assert!(head.contains(" 502 "), "{head}");
    assert!(hints <= crate::l7::limits::EARLY_ANSWERS_MAX, "{hints}");
    assert_eq!(site.refused("upstream_invalid"), 1);
}
