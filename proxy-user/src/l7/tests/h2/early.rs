// SPDX-License-Identifier: MIT OR Apache-2.0
//! A service that has said everything before the client has: it answers, and resets the stream so that no more is sent
//! (RFC 9113 §8.1). The answer and its status are whole.

use super::frames::*;
use super::*;
use crate::l7::conn::PREFACE;

const NO_ERROR: [u8; 4] = [0; 4];

/// A service that answers each request with these frames as soon as it has seen the head, in one write.
fn hasty_service(answer: fn(u32) -> Vec<u8>) -> SocketAddr {
    origin(move |_, wire| {
        let mut stream = wire.stream.into_inner();
        let mut preface = [0; PREFACE.len()];
        if stream.read_exact(&mut preface).is_err() {
            return;
        }
        let mut connection = Connection { stream };
        connection.send(&frame(SETTINGS, 0, 0, &[]));
        while let Some(got) = connection.next() {
            if got.kind == HEADERS {
                let reset = frame(RST_STREAM, 0, got.stream, &NO_ERROR);
                connection.send(&[answer(got.stream), reset].concat());
            }
        }
    })
}

fn head(stream: u32, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    // Over HTTP/1.1 trailers are passed on only where they were announced.
    let own = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("trailer", "grpc-status"),
    ];
    frame(HEADERS, flags, stream, &block(&[&own[..], more].concat()))
}

fn in_the_head(stream: u32) -> Vec<u8> {
    head(stream, WHOLE, &[("grpc-status", "7")])
}

fn behind_the_head(stream: u32) -> Vec<u8> {
    let trailers = frame(HEADERS, WHOLE, stream, &block(&[("grpc-status", "7")]));
    [head(stream, END_HEADERS, &[]), trailers].concat()
}

fn behind_a_message(stream: u32) -> Vec<u8> {
    let trailers = frame(HEADERS, WHOLE, stream, &block(&[("grpc-status", "7")]));
    let message = frame(DATA, 0, stream, &[0; 5]);
    [head(stream, END_HEADERS, &[]), message, trailers].concat()
}

fn site_of(service: SocketAddr) -> Site {
    let site = Site::start();
    let query = format!(
        "serviceName=s&servicePath=/&outboundHostname=127.0.0.1&port={}&upstreamProtocol=h2c",
        service.port()
    );
    assert_eq!(site.reconfigure(&query).status, 200);
    site
}

/// Whether a block of fields says that the call was denied. Both encoders keep what they see often, so only the first
/// answer of a connection has it as text.
fn says_denied(block: &[u8]) -> bool {
    // Huffman codes of `grpc-status`, and the plain text.
    let plain = block.windows(11).any(|part| part == b"grpc-status");
    let packed = [0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f];
    plain || block.windows(packed.len()).any(|part| part == packed)
}

#[test]
fn its_status_arrives_before_the_client_has_ended() {
    for (name, answer) in [
        ("in the head", in_the_head as fn(u32) -> Vec<u8>),
        ("behind the head", behind_the_head),
        ("behind a message", behind_a_message),
    ] {
        let site = site_of(hasty_service(answer));
        for round in 0..20 {
            let mut connection = Connection::open(&site);
            // The client goes on to send, as one in the middle of a stream does.
            connection.send(&[post(1, &[("te", "trailers")]), frame(DATA, 0, 1, &[0; 5])].concat());
            let mut seen = Vec::new();
            let mut denied = false;
            while let Some(frame) = connection.next() {
                match frame.kind {
                    HEADERS => denied |= says_denied(&frame.payload),
                    RST_STREAM => assert_eq!(frame.payload, NO_ERROR, "{name}, {round}: {seen:?}"),
                    DATA => {}
                    _ => continue,
                }
                seen.push((frame.kind, frame.flags));
                if frame.kind != RST_STREAM && frame.flags & END_STREAM != 0 {
                    break;
                }
                assert_ne!(
                    frame.kind, RST_STREAM,
                    "{name}, {round}: before the end: {seen:?}"
                );
            }
            assert!(denied, "{name}, {round}: {seen:?}");
            // Others go on beside it.
            connection.send(&get(3));
            while connection.next().unwrap().stream != 3 {}
        }
    }
}

#[test]
fn a_client_of_http1_that_still_sends_gets_all_of_it() {
    let site = site_of(hasty_service(behind_a_message));
    for round in 0..20 {
        let mut wire = site.connect();
        wire.send(
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        );
        let reply = wire.reply();
        assert_eq!((reply.status, reply.body.len()), (200, 5));
        assert_eq!(reply.trailers, "grpc-status: 7\r\n", "{round}: {reply:?}");
        assert!(wire.is_closed(), "what follows is a body");
    }
}
