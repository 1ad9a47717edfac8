// SPDX-License-Identifier: MIT OR Apache-2.0
//! What conformance suites find in proxies: framing, smuggling, heads beyond the limits, pipelines, old clients.
//!
//! The origin here is strict: it says what it saw byte by byte, so that what is passed on in another reading than ours
//! is found, and not only what is answered wrongly.

use super::*;

/// An origin that answers each message with its head and body as they came, and notes every head.
fn strict_origin() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heads = seen.clone();
    let address = origin(move |_, mut wire| {
        loop {
            let mut head = String::new();
            loop {
                let line = wire.line();
                if line.is_empty() {
                    return;
                }
                assert!(line.ends_with("\r\n"), "a bare LF was passed on: {line:?}");
                if line == "\r\n" {
                    break;
                }
                head.push_str(&line);
            }
            heads.lock().unwrap().push(head.clone());
            let request = wire.rest(head, true);
            let answer = format!("{}|{}", request.head, request.text());
            let length = answer.len();
            wire.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}"
            ));
        }
    });
    (address, seen)
}

/// Status of the first answer (0 without one), and whether the connection ended after it.
fn answer(site: &Site, request: &[u8]) -> (u16, bool) {
    let mut wire = site.connect();
    let _ = wire.stream.get_mut().write_all(request);
    let mut head = String::new();
    let mut line = String::new();
    while wire.stream.read_line(&mut line).is_ok() && !line.trim_end().is_empty() {
        head.push_str(&line);
        line.clear();
    }
    let reply = wire.rest(head, true);
    let _ = wire.stream.get_ref().shutdown(std::net::Shutdown::Write);
    (reply.status, wire.is_closed())
}

#[test]
fn what_can_be_read_in_two_ways_is_refused_and_never_passed_on() {
    let site = Site::start();
    let (origin, seen) = strict_origin();
    site.route_all(origin);
    let vectors: &[(&str, &[u8])] = &[
        ("obs-fold", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
        (
            "obs-fold in the first field",
            b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        ),
        ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        ("NUL in the target", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "bare CR in a value",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        ),
        ("blank before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        ("blank in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n"),
        ("empty name", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
        ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("no version", b"GET /\r\nHost: a\r\n\r\n"),
        ("unknown version", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("version in lower case", b"GET / http/1.1\r\nHost: a\r\n\r\n"),
        ("two blanks", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("tab", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "method with a control byte",
            b"G\x01T / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "CL.TE by name",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            "TE with a vertical tab",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            "TE quoted",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        ),
        (
            "TE identity",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            "TE in HTTP/1.0",
            b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        ),
        (
            "length with a sign",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        ),
        (
            "length in hex",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
        ),
        (
            "length with a blank",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\nabc",
        ),
        (
            "negative length",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        ),
        (
            "empty length",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        ),
        ("host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        (
            "absolute form with user",
            b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "CONNECT, and what was meant for the tunnel",
            b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        ("CR before CRLF", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
        ("blank before the method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("blank behind the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        ("version of two digits", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
        ("HTTP/2 without its preface", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        ("DEL in the target", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n"),
        (
            "high byte in a name",
            b"GET / HTTP/1.1\r\nHost: a\r\nX\x80: b\r\n\r\n",
        ),
        ("slash in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX/Y: b\r\n\r\n"),
        ("empty authority", b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "authority of a port",
            b"GET http://:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        ("authority form", b"GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
        (
            "TE with a parameter",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        ),
        (
            "TE of nothing",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            "length with an underscore",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3_0\r\n\r\nabc",
        ),
        (
            "a list of the same length",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3,3\r\n\r\nabc",
        ),
        ("asterisk", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("target without slash", b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    for (name, request) in vectors {
        let (status, is_closed) = answer(&site, request);
        assert!(matches!(status, 400 | 405 | 501 | 505), "{name}: {status}");
        assert!(is_closed, "{name}: the connection goes on");
    }
    assert_eq!(
        *seen.lock().unwrap(),
        [""; 0],
        "nothing of it reached the service"
    );
}

#[test]
fn chunks_are_framed_anew_or_refused() {
    let site = Site::start();
    let (origin, seen) = strict_origin();
    site.route_all(origin);
    let vectors: &[(&[u8], bool)] = &[
        (b"5;a=b\r\nhello\r\n0\r\n\r\n", true),
        (b"5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", true),
        (b"005\r\nhello\r\n0\r\n\r\n", true),
        (b"5\nhello\n0\n\n", false),
        (b"5\r\nhello0\r\n\r\n", false),
        (b"5\r\nhelloXX0\r\n\r\n", false),
        (b"-5\r\nhello\r\n0\r\n\r\n", false),
        (b"0x5\r\nhello\r\n0\r\n\r\n", false),
        (b"5;a\nb\r\nhello\r\n0\r\n\r\n", false),
        (b"\r\nhello\r\n0\r\n\r\n", false),
        (b"ffffffffffffffff1\r\nhello\r\n0\r\n\r\n", false),
        (b"5;a\rb\r\nhello\r\n0\r\n\r\n", false),
        (b" 5\r\nhello\r\n0\r\n\r\n", false),
        (b"5_\r\nhello\r\n0\r\n\r\n", false),
        (b"5\r\nhello\rX0\r\n\r\n", false),
        (b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", false),
        (b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n", false),
        (b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n", false),
        (b"5 g\r\nhello\r\n0\r\n\r\n", false),
        (b"5\r\nhello\r\n0\r\nbad trailer\r\n\r\n", false),
    ];
    for (body, is_good) in vectors {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (status, _) = answer(&site, &[&head[..], body].concat());
        let shown = String::from_utf8_lossy(body);
        assert_eq!(status, if *is_good { 200 } else { 400 }, "{shown:?}");
    }
    // Whatever is let through, extensions and blanks are not passed on.
    for body in [
        &b"5;\r\nhello\r\n0\r\n\r\n"[..],
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5;\x01\r\nhello\r\n0\r\n\r\n",
    ] {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (status, _) = answer(&site, &[&head[..], body].concat());
        assert!(matches!(status, 200 | 400), "{body:?}: {status}");
    }
    for head in seen.lock().unwrap().iter() {
        assert_eq!(
            head.to_lowercase()
                .matches("transfer-encoding: chunked\r\n")
                .count(),
            1,
            "{head}"
        );
        assert!(!head.to_lowercase().contains("content-length"), "{head}");
    }
}

#[test]
fn a_request_in_a_body_stays_a_body() {
    let site = Site::start();
    let (origin, seen) = strict_origin();
    site.route_all(origin);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [
        format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        // Both: chunks count, what follows them is not read as a request.
        format!("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{smuggled}"),
    ] {
        let (status, _) = answer(
            &site,
            format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes(),
        );
        assert_eq!(status, 200, "{framing}");
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|head| head.starts_with("POST / ")), "{seen:?}");
}

#[test]
fn a_head_beyond_the_limit_is_431_at_the_byte() {
    let site = Site::start();
    let (origin, _) = strict_origin();
    site.route_all(origin);
    let request = |length: usize| {
        let fixed = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(length - fixed)
        )
    };
    let max = super::super::limits::HEAD_BYTES_MAX;
    assert_eq!(answer(&site, request(max).as_bytes()).0, 200);
    let before = site.refused("head_too_large");
    assert_eq!(answer(&site, request(max + 1).as_bytes()), (431, true));
    // Also when it comes in one piece with everything that follows, and when it never ends.
    assert_eq!(answer(&site, request(4 * max).as_bytes()).0, 431);
    assert_eq!(
        answer(
            &site,
            &[b"GET / HTTP/1.1\r\nX: ", &vec![b'x'; 2 * max][..]].concat()
        )
        .0,
        431
    );
    let many: String = (0..=super::super::limits::HEADERS_MAX)
        .map(|n| format!("X{n}: 1\r\n"))
        .collect();
    assert_eq!(
        answer(
            &site,
            format!("GET / HTTP/1.1\r\n{many}Host: a\r\n\r\n").as_bytes()
        )
        .0,
        431
    );
    streams::wait_until(|| site.refused("head_too_large") == before + 4);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let site = Site::start();
    let (origin, _) = strict_origin();
    site.route_all(origin);
    let mut wire = site.connect();
    let requests: String = (0..50)
        .map(|n| match n % 3 {
            0 => format!(
                "POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{:02}",
                n
            ),
            1 => format!(
                "POST /{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{:02}\r\n0\r\n\r\n",
                n
            ),
            _ => format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
        })
        .collect();
    wire.send(&requests);
    for n in 0..50 {
        let text = wire.reply().text();
        assert!(text.contains(&format!(" /{n} HTTP/1.1")), "{n}: {text}");
        assert_eq!(text.ends_with(&format!("|{n:02}")), n % 3 != 2, "{n}: {text}");
    }
}

#[test]
fn answers_without_a_body_have_none_whatever_their_fields_say() {
    let site = Site::start();
    for (answer, method) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
            "GET",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD"),
    ] {
        site.route_all(origin(move |_, mut wire| {
            while !wire.head().is_empty() {
                wire.send(answer);
            }
        }));
        let mut wire = site.connect();
        for _ in 0..2 {
            wire.send(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
            let head = wire.head();
            assert!(head.starts_with(&answer[..12]), "{answer:?}: {head}");
            assert!(
                !answer.contains("204") || field(&head, "content-length").is_none(),
                "{head}"
            );
        }
    }
}

#[test]
fn an_answer_with_more_than_it_says_does_not_reach_the_next_request() {
    let site = Site::start();
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 304 Not Modified\r\n\r\nevil",
    ] {
        site.route_all(origin(move |number, mut wire| {
            while !wire.head().is_empty() {
                match number {
                    0 => wire.send(answer),
                    _ => wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"),
                }
            }
        }));
        let mut wire = site.connect();
        for _ in 0..20 {
            wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = wire.head();
            let has_body = !head.contains(" 204 ") && !head.contains(" 304 ");
            let reply = wire.rest(head, has_body);
            assert!(!reply.text().contains("evil"), "{answer:?}: {reply:?}");
        }
    }
}

#[test]
fn an_old_client_keeps_its_connection_only_if_it_asks() {
    let site = Site::start();
    let (origin, _) = strict_origin();
    site.route_all(origin);
    let mut wire = site.connect();
    for _ in 0..2 {
        wire.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let reply = wire.reply();
        assert_eq!(
            reply.field("connection").map(str::to_lowercase).as_deref(),
            Some("keep-alive")
        );
    }
    wire.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(wire.reply().status, 200);
    assert!(wire.is_closed());
    // And a new one until it says otherwise.
    let mut wire = site.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(wire.reply().status, 200);
    assert!(wire.is_closed());
}

#[test]
fn fields_of_framing_in_trailers_are_not_passed_on() {
    let site = Site::start();
    site.route_all(echo_origin());
    let mut wire = site.connect();
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
    wire.send("Content-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: b\r\nX-Sum: 1\r\n\r\n");
    let seen = wire.reply().text();
    assert!(seen.ends_with("|x-sum: 1\r\n"), "{seen}");
}

#[test]
fn lines_that_end_in_lf_alone_are_passed_on_with_crlf() {
    let site = Site::start();
    let (origin, seen) = strict_origin();
    site.route_all(origin);
    let (status, _) = answer(&site, b"GET / HTTP/1.1\nHost: a\nX: b\n\n");
    assert!(matches!(status, 200 | 400), "{status}");
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .all(|head| !head.replace("\r\n", "").contains('\n'))
    );
}
