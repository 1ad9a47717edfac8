// SPDX-License-Identifier: MIT OR Apache-2.0
//! Quiet connections give back what hyper keeps for them, and nobody notices.

use super::*;
use crate::l7::limits;

fn parked(site: &Site) -> u64 {
    site.metric("portico_proxy_connections_parked_total")
}

/// A site, and what its origin has been asked.
fn asked_site() -> (Site, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    let site = Site::start();
    site.route_all(origin(move |_, mut wire| {
        loop {
            let head = wire.head();
            let Some(line) = head.lines().next() else { return };
            notes.lock().unwrap().push(line.to_owned());
            // The answer comes at once, whatever there is of a body.
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    }));
    (site, asked)
}

#[test]
fn an_idle_connection_goes_on_where_it_was() {
    let (site, _) = asked_site();
    let mut wire = site.connect();
    for round in 1..=2 {
        wire.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((wire.reply().status, wire.reply().status), (200, 200));
        eventually("parked", || parked(&site) == round);
    }
    // An end that comes while it is parked is an end.
    wire.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(wire.is_closed());
}

#[test]
fn a_slow_head_costs_what_it_has_and_is_read_in_pieces() {
    let (site, asked) = asked_site();
    let mut wire = site.connect();
    wire.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.reply();
    // Too little for a head, twice: before hyper has the connection, and from its buffer.
    wire.send("GET /sec");
    eventually("parked", || parked(&site) >= 1);
    wire.send("ond HTTP/1.1\r\nHo");
    wire.send("st: a\r\n\r");
    wire.send("\n");
    assert_eq!(wire.reply().status, 200);
    assert_eq!(
        *asked.lock().unwrap(),
        ["GET /first HTTP/1.1", "GET /second HTTP/1.1"]
    );
    // The first on a connection never gets as far as hyper's buffer.
    let mut wire = site.connect();
    for byte in "POST /third HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".chars() {
        wire.send(&byte.to_string());
    }
    assert_eq!(wire.reply().status, 200);
    for line_end in ["\n", "\r\n"] {
        let mut wire = site.connect();
        wire.send(&format!(
            "GET /fourth HTTP/1.1{line_end}Host: a{line_end}{line_end}"
        ));
        assert_ne!(wire.reply().status, 0);
    }
    let mut wire = site.connect();
    wire.send("GET /fifth HTTP/1.1\r\nHost: a\r\nX: ");
    wire.send(&"y".repeat(limits::HEAD_BYTES_MAX));
    assert_eq!(wire.reply().status, 431);
}

#[test]
fn a_body_that_nobody_reads_is_never_taken_for_a_head() {
    let (site, asked) = asked_site();
    let denied =
        "serviceName=denied&servicePath=/denied&allowedMethods=GET&outboundHostname=127.0.0.1&port=1";
    assert_eq!(site.reconfigure(denied).status, 200);
    let inside = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let began = Instant::now();
    let mut wires: Vec<Wire> = ["/", "/denied"]
        .into_iter()
        .map(|path| {
            let mut wire = site.connect();
            wire.send(&format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\nxx",
                2 + inside.len()
            ));
            assert!(matches!(wire.reply().status, 200 | 403));
            wire
        })
        .collect();
    eventually("longer than it takes", || {
        began.elapsed() > 2 * limits::PARK_AFTER
    });
    for wire in &mut wires {
        // It may have been closed.
        let _ = wire.stream.get_mut().write_all(inside.as_bytes());
        let _ = wire.stream.get_ref().shutdown(std::net::Shutdown::Write);
        let _ = wire.stream.read_to_end(&mut Vec::new());
    }
    // As a body it may arrive: behind the two letters.
    let asked = asked.lock().unwrap();
    assert!(
        asked.iter().all(|line| line != "GET /smuggled HTTP/1.1"),
        "{asked:?}"
    );
}
