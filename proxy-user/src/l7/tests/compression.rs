// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compressed answers over a real connection.

use flate2::read::GzDecoder;

use super::*;
use crate::l7::compress::Compression;

fn text_of(reply: &Reply) -> String {
    let mut text = String::new();
    GzDecoder::new(&reply.body[..]).read_to_string(&mut text).unwrap();
    text
}

/// An origin of one large text, with its length.
fn text_origin() -> SocketAddr {
    origin(|_, mut wire| {
        loop {
            let head = wire.head();
            if head.is_empty() {
                return;
            }
            let body = "all work and no play ".repeat(10_000);
            let length = body.len();
            wire.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: \"1\"\r\nContent-Length: {length}\r\n\r\n"
            ));
            if !head.starts_with("HEAD ") {
                wire.send(&body);
            }
        }
    })
}

fn get(wire: &mut Wire, method: &str, accept: &str) -> Reply {
    wire.send(&format!(
        "{method} / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\n\r\n"
    ));
    let head = wire.head();
    wire.rest(head, method != "HEAD")
}

#[test]
fn an_answer_is_compressed_for_who_wants_it() {
    let site = Site::start();
    let port = text_origin().port();
    let query = format!(
        "serviceName=a&servicePath=/&outboundHostname=127.0.0.1&port={port}&compressionAlgo=gzip&compressionType=text/plain"
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    let mut wire = site.connect();
    for _ in 0..2 {
        let reply = get(&mut wire, "GET", "br, gzip");
        assert_eq!(reply.field("content-encoding"), Some("gzip"));
        assert_eq!(
            (reply.field("content-length"), reply.field("etag")),
            (None, Some("W/\"1\""))
        );
        assert_eq!(text_of(&reply).len(), 210_000);
        assert!(reply.body.len() < 10_000);
        let reply = get(&mut wire, "GET", "gzip;q=0");
        assert_eq!(
            (reply.field("content-encoding"), reply.field("etag")),
            (None, Some("\"1\""))
        );
        assert_eq!(
            (reply.field("vary"), reply.body.len()),
            (Some("Accept-Encoding"), 210_000)
        );
        let reply = get(&mut wire, "HEAD", "gzip");
        assert_eq!(reply.field("content-length"), Some("210000"));
    }
    // HTTP/1.0 has no chunks.
    wire.send("GET / HTTP/1.0\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    let reply = wire.reply();
    assert_eq!(
        (reply.field("content-encoding"), reply.body.len()),
        (None, 210_000)
    );
}

#[test]
fn the_setting_of_the_proxy_counts_unless_a_service_has_its_own() {
    let compression = Compression::parse("gzip", "").unwrap();
    let site = Site::with(|settings| settings.compression = Some(Arc::new(compression)));
    let port = text_origin().port();
    for (more, want) in [
        ("", Some("gzip")),
        ("&compressionAlgo=identity", None),
        ("&compressionAlgo=deflate", None),
    ] {
        let query = format!("serviceName=a&servicePath=/&outboundHostname=127.0.0.1&port={port}{more}");
        assert_eq!(site.reconfigure(&query).status, 200);
        assert_eq!(
            get(&mut site.connect(), "GET", "gzip").field("content-encoding"),
            want,
            "{more}"
        );
    }
    let reply = site.reconfigure("serviceName=a&servicePath=/&port=1&compressionAlgo=zstd");
    assert_eq!(reply.status, 400);
    assert!(
        reply.text().contains("compressionAlgo: `zstd`"),
        "{}",
        reply.text()
    );
}

#[test]
fn an_event_does_not_wait_for_the_next_and_trailers_come_last() {
    let site = Site::start();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = origin(move |_, mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n");
        for turn in 0..3 {
            wire.send(&format!("8\r\nevent {turn}\n\r\n"));
            wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        }
        wire.send("0\r\nX-T: end\r\n\r\n");
    });
    let query = format!(
        "serviceName=a&servicePath=/&outboundHostname=127.0.0.1&port={}&compressionAlgo=gzip",
        origin.port()
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    let mut wire = site.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: te\r\nTE: trailers\r\nAccept-Encoding: gzip\r\n\r\n");
    let head = wire.head();
    assert_eq!(field(&head, "content-encoding"), Some("gzip"));
    let mut received = Vec::new();
    for turn in 0..3 {
        let want: String = (0..=turn).map(|turn| format!("event {turn}\n")).collect();
        loop {
            let size = usize::from_str_radix(wire.line().trim(), 16).unwrap();
            let from = received.len();
            received.resize(from + size, 0);
            wire.stream.read_exact(&mut received[from..]).unwrap();
            assert_eq!(wire.line(), "\r\n");
            let mut text = [0; 100];
            let mut decoder = GzDecoder::new(&received[..]);
            let mut length = 0;
            while let Ok(count @ 1..) = decoder.read(&mut text[length..]) {
                length += count;
            }
            if text[..length] == *want.as_bytes() {
                break;
            }
        }
        go.send(()).unwrap();
    }
    let rest = wire.rest(head, true);
    received.extend_from_slice(&rest.body);
    let mut text = String::new();
    GzDecoder::new(&received[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, "event 0\nevent 1\nevent 2\n");
    assert_eq!(rest.trailers.trim(), "x-t: end");
}
