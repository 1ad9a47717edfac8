// SPDX-License-Identifier: MIT OR Apache-2.0
//! What reaches the origin, and what comes back.

use super::*;

#[test]
fn requests_are_routed_by_path_and_domain_on_one_connection() {
    let site = Site::start();
    let origin = echo_origin();
    let port = origin.port();
    let query = format!(
        "serviceName=a&servicePath=/a&outboundHostname=127.0.0.1&port={port}&addReqHeader=X-Service a"
    );
    assert_eq!(site.reconfigure(&query.replace(' ', "%20")).status, 200);
    let query = format!(
        "serviceName=b&serviceDomain=b.com&outboundHostname=127.0.0.1&port={port}&setReqHeader=X-Service%20b"
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    let mut wire = site.connect();
    for (host, path, want) in [
        ("x", "/a/1?q=1", "a"),
        ("b.com", "/z", "b"),
        ("x", "/z", ""),
        ("B.COM:80", "/", "b"),
    ] {
        wire.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let reply = wire.reply();
        if want.is_empty() {
            assert_eq!(reply.status, 503);
            continue;
        }
        assert_eq!(reply.status, 200, "{host}{path}");
        let seen = reply.text();
        assert!(seen.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{seen}");
        assert_eq!(field(&seen, "x-service"), Some(want));
        assert_eq!(field(&seen, "host"), Some(host));
        assert_eq!(field(&seen, "x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(field(&seen, "x-forwarded-proto"), None);
    }
}

#[test]
fn fields_of_the_hop_do_not_pass() {
    let site = Site::start();
    site.route_all(echo_origin());
    let mut wire = site.connect();
    wire.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\
         TE: gzip\r\nUpgrade: h2c\r\nX-End: 1\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\n\r\n",
    );
    let seen = wire.reply().text();
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
    ] {
        assert_eq!(field(&seen, name), None, "{seen}");
    }
    assert_eq!(field(&seen, "x-end"), Some("1"));
    assert_eq!(
        field(&seen, "x-forwarded-for"),
        Some("10.0.0.1, 10.0.0.2, 127.0.0.1")
    );
}

#[test]
fn bodies_are_streamed_both_ways_with_framing_of_our_own() {
    let site = Site::start();
    site.route_all(echo_origin());
    let mut wire = site.connect();
    // The client's text of Transfer-Encoding is not passed on.
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-T: end\r\n\r\n");
    let seen = wire.reply().text();
    assert_eq!(field(&seen, "transfer-encoding"), Some("chunked"));
    assert!(seen.contains("abcdefg|x-t: end"), "{seen}");
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    let seen = wire.reply().text();
    assert_eq!(
        (field(&seen, "content-length"), field(&seen, "transfer-encoding")),
        (Some("3"), None)
    );
    assert!(seen.ends_with("abc|"), "{seen}");
    // A GET may have a body too.
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert!(wire.reply().text().ends_with("abc|"));
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(field(&wire.reply().text(), "content-length"), Some("0"));
}

#[test]
fn a_chunked_answer_passes_with_its_trailers_as_it_comes() {
    let site = Site::start();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    site.route_all(origin(move |_, mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nfirst\r\n");
        wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        wire.send("4\r\nlast\r\n0\r\nX-T: end\r\n\r\n");
    }));
    let mut wire = site.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: te\r\nTE: trailers\r\n\r\n");
    let head = wire.head();
    // The first part arrives before the origin has sent the second.
    assert_eq!((wire.line(), wire.line()), ("5\r\n".into(), "first\r\n".into()));
    go.send(()).unwrap();
    let reply = wire.rest(head, true);
    assert_eq!((reply.text(), reply.trailers.trim()), ("last".into(), "x-t: end"));
}

#[test]
fn continue_is_sent_only_when_the_body_is_wanted() {
    let site = Site::start();
    site.route_all(echo_origin());
    let mut wire = site.connect();
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert!(wire.head().starts_with("HTTP/1.1 100 "));
    wire.send("abc");
    let seen = wire.reply().text();
    assert!(seen.ends_with("abc|"), "{seen}");
    // An old client cannot have asked for it (RFC 9110 §10.1.1).
    let mut old = site.connect();
    old.send("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc");
    let reply = old.reply();
    assert_eq!((reply.status, field(&reply.text(), "expect")), (200, None));
    // Without a route there is nothing to continue.
    assert_eq!(
        site.api("/v1/docker-flow-proxy/remove?serviceName=all").status,
        200
    );
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(wire.reply().status, 503);
}

#[test]
fn head_keeps_the_length_and_has_no_body() {
    let site = Site::start();
    site.route_all(origin(|_, mut wire| {
        while !wire.head().is_empty() {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
        }
    }));
    let mut wire = site.connect();
    for _ in 0..2 {
        wire.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = wire.head();
        let reply = wire.rest(head, false);
        assert_eq!((reply.status, reply.field("content-length")), (200, Some("1234")));
    }
}

#[test]
fn an_answer_without_length_ends_with_its_connection() {
    let site = Site::start();
    site.route_all(origin(|_, mut wire| {
        wire.head();
        wire.send("HTTP/1.0 200 OK\r\n\r\nuntil the end");
    }));
    assert_eq!(site.get("/").text(), "until the end");
}

#[test]
fn an_upgraded_connection_is_a_tunnel() {
    let site = Site::start();
    site.route_all(origin(|_, mut wire| {
        let head = wire.head();
        assert_eq!((field(&head, "connection"), field(&head, "upgrade")), (Some("upgrade"), Some("websocket")));
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n");
        loop {
            let line = wire.line();
            if line.is_empty() {
                return;
            }
            wire.send(&line.to_uppercase());
        }
    }));
    let mut wire = site.connect();
    wire.send(
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let head = wire.head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(
        (field(&head, "upgrade"), field(&head, "sec-websocket-accept")),
        (Some("websocket"), Some("x"))
    );
    for _ in 0..3 {
        wire.send("hello\n");
        assert_eq!(wire.line(), "HELLO\n");
    }
    wire.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(wire.is_closed());
}

#[test]
fn policies_act_in_the_originals_order() {
    let site = Site::start();
    let port = echo_origin().port();
    let all = format!("outboundHostname=127.0.0.1&port={port}");
    for query in [
        "serviceName=rewrite&servicePath=/api/&reqPathSearchReplace=^/api/(.*)$,/%5C1",
        "serviceName=empty&servicePath=/strip&reqPathSearchReplace=^/strip,",
        "serviceName=secure&servicePath=/secure&httpsOnly=true&deniedMethods=GET&httpsRedirectCode=307",
        "serviceName=allowed&servicePath=/allowed&allowedMethods=POST,PUT",
        "serviceName=tls&servicePath=/tls&denyHttp=true",
        "serviceName=headers&servicePath=/headers&delReqHeader=Cookie&setResHeader=X-R%20%22a%20b%22&delResHeader=X-Gone",
        "serviceName=moved&serviceDomain=new.com&redirectFromDomain=old.com",
    ] {
        assert_eq!(site.reconfigure(&format!("{query}&{all}")).status, 200, "{query}");
    }
    assert!(
        site.get("/api/x/y?q=/api/")
            .text()
            .starts_with("GET /x/y?q=/api/ HTTP/1.1\r\n")
    );
    assert!(site.get("/strip").text().starts_with("GET / HTTP/1.1\r\n"));
    let reply = site.get("/secure/a?b");
    assert_eq!(
        (reply.status, reply.field("location")),
        (307, Some("https://acme.com/secure/a?b"))
    );
    assert_eq!((site.get("/allowed").status, site.get("/tls").status), (403, 403));
    let mut wire = site.connect();
    wire.send("GET /headers HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\r\n");
    let reply = wire.reply();
    assert_eq!(reply.field("x-r"), Some("a b"));
    assert!(!reply.text().contains("secret"));
    wire.send("GET /x?y HTTP/1.1\r\nHost: old.com\r\n\r\n");
    let reply = wire.reply();
    assert_eq!(
        (reply.status, reply.field("location")),
        (301, Some("http://new.com/x?y"))
    );
}

#[test]
fn an_absolute_target_decides_the_host() {
    let site = Site::start();
    let query = format!(
        "serviceName=s&serviceDomain=real.com&outboundHostname=127.0.0.1&port={}",
        echo_origin().port()
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    let mut wire = site.connect();
    wire.send("GET http://real.com/x?y HTTP/1.1\r\nHost: other.com\r\n\r\n");
    let seen = wire.reply().text();
    assert!(seen.starts_with("GET /x?y HTTP/1.1\r\n"), "{seen}");
    assert_eq!(field(&seen, "host"), Some("real.com"));
}

#[test]
fn a_dead_connection_is_replaced_for_a_get_and_a_sent_post_is_not_repeated() {
    // Opens enough connections for reuse to begin; each then serves one request and ends on the second.
    let site = Site::with(|settings| settings.workers = 1);
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = posts.clone();
    site.route_all(origin(move |_, mut wire| {
        for turn in 0.. {
            let head = wire.head();
            if head.is_empty() {
                return;
            }
            let post = head.starts_with("POST");
            wire.rest(head, true);
            if post {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            if turn == 1 {
                return;
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    }));
    let mut wire = site.connect();
    for _ in 0..super::super::limits::SPREAD {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(wire.reply().status, 200);
    }
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.reply().status, 200);
    assert_eq!(site.metric("portico_proxy_upstream_retries_total"), 1);
    // The replacement is the youngest, so the next to be reused has served one request.
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(wire.reply().status, 502);
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}

#[test]
fn an_upstream_that_refuses_an_expectation_spares_the_upload() {
    let site = Site::start();
    site.route_all(origin(|_, mut wire| {
        let head = wire.head();
        assert_eq!(field(&head, "expect"), Some("100-continue"));
        wire.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno");
        assert!(wire.is_closed(), "no body follows");
    }));
    let expects = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    let mut wire = site.connect();
    wire.send(expects);
    assert_eq!(wire.reply().status, 417);
    // One that says nothing gets the body all the same, and one that asks gets it at once.
    site.route_all(echo_origin());
    let mut wire = site.connect();
    wire.send(expects);
    assert!(wire.head().starts_with("HTTP/1.1 100 "));
    wire.send("abc");
    assert!(wire.reply().text().ends_with("abc|"));
    site.route_all(origin(|_, mut wire| {
        let head = wire.head();
        wire.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = wire.rest(head, true).text();
        wire.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }));
    let mut wire = site.connect();
    wire.send(expects);
    assert!(wire.head().starts_with("HTTP/1.1 100 "));
    wire.send("abc");
    assert_eq!(wire.reply().text(), "abc");
}

#[test]
fn an_answer_with_both_framings_is_read_by_its_chunks() {
    let site = Site::start();
    site.route_all(origin(|_, mut wire| {
        wire.head();
        wire.send(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        );
        assert!(wire.is_closed(), "not used again");
    }));
    let reply = site.get("/");
    assert_eq!(
        (reply.field("content-length"), reply.text()),
        (None, "hello".into())
    );
}

#[test]
fn half_an_answer_does_not_look_whole() {
    let site = Site::start();
    let broken = |answer: &'static str, request: &str| {
        site.route_all(origin(move |_, mut wire| {
            wire.head();
            wire.send(answer);
        }));
        let mut wire = site.connect();
        wire.send(request);
        let head = wire.head();
        let mut rest = Vec::new();
        let end = wire.stream.read_to_end(&mut rest);
        (head, String::from_utf8(rest).unwrap(), end)
    };
    let (now, old) = (
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    );
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let (head, rest, _) = broken(sized, now);
    assert_eq!(
        (field(&head, "content-length"), rest.as_str()),
        (Some("10"), "hello")
    );
    let (_, rest, _) = broken(chunked, now);
    assert!(!rest.contains("0\r\n\r\n"), "{rest}");
    // Without chunks only a reset can say it.
    let (_, _, end) = broken(chunked, old);
    assert!(end.is_err(), "{end:?}");
    // And a whole one ends in peace.
    let whole = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (head, rest, end) = broken(
        whole,
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    );
    assert!(end.is_ok());
    assert_eq!((field(&head, "connection"), rest.as_str()), (None, "hello"));
}

#[test]
fn an_upgrade_that_is_refused_leaves_an_ordinary_connection() {
    let site = Site::start();
    site.route_all(echo_origin());
    let mut wire = site.connect();
    for _ in 0..2 {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(wire.reply().status, 200);
    }
    // Cleartext HTTP/2 does not pass in company either.
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n");
    assert_eq!(field(&wire.reply().text(), "upgrade"), None);
}

#[test]
fn the_path_reaches_the_origin_as_it_came() {
    let site = Site::start();
    site.route_all(echo_origin());
    for path in ["/a/../b/./c", "/%2e%2e/%2F", "//x//y", "/a?x=/../&y"] {
        let seen = site.get(path).text();
        assert!(seen.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{seen}");
    }
}

#[test]
fn old_clients_keep_their_connection_when_they_ask() {
    let site = Site::start();
    site.route_all(echo_origin());
    let mut wire = site.connect();
    for _ in 0..2 {
        wire.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let reply = wire.reply();
        assert_eq!(
            (reply.status, reply.field("connection")),
            (200, Some("keep-alive"))
        );
    }
    wire.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(wire.reply().status, 200);
    assert!(wire.is_closed());
}
