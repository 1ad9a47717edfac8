// SPDX-License-Identifier: MIT OR Apache-2.0
//! WebSocket frames of every size and cut pass both ways as they are, over TCP and TLS, and each side hears the
//! other's end.

use std::net::Shutdown;

use super::*;

const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CONTINUED: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// A frame (RFC 6455 §5.2), masked as those of clients are.
fn frame(is_last: bool, kind: u8, length: usize, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = vec![u8::from(is_last) << 7 | kind];
    let masked = u8::from(mask.is_some()) << 7;
    match length {
        0..=125 => bytes.push(masked | length as u8),
        126..=0xffff => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask.iter().flatten());
    bytes.extend((0..length).map(|at| (at * 7) as u8 ^ mask.map_or(0, |mask| mask[at % 4])));
    bytes
}

/// What one side says before it closes: each way to write a length at its borders, fragments with a PING among them,
/// kinds and reserved bits that nobody knows, and a close with a reason.
fn conversation(mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 1_000_000] {
        bytes.extend(frame(true, TEXT, length, mask));
        bytes.extend(frame(true, BINARY, length, mask));
    }
    for cut in [0, 1, 1000, 70_000] {
        bytes.extend(frame(false, BINARY, cut, mask));
        bytes.extend(frame(true, PING, 125, mask));
        bytes.extend(frame(false, CONTINUED, cut, mask));
        bytes.extend(frame(true, CONTINUED, 0, mask));
    }
    // What peers have to judge is theirs.
    bytes.extend(frame(true, 0x73, 5, mask));
    bytes.extend(frame(true, CLOSE, 2, mask));
    bytes
}

/// A service that says its part while it reads the client's, checks that, and closes.
fn service(is_first_to_close: bool) -> SocketAddr {
    origin(move |_, mut wire| {
        let head = wire.head();
        assert_eq!(
            field(&head, "sec-websocket-key"),
            Some("dGhlIHNhbXBsZSBub25jZQ==")
        );
        wire.send(ANSWER);
        let mut writer = wire.stream.get_ref().try_clone().unwrap();
        let saying = std::thread::spawn(move || writer.write_all(&conversation(None)).unwrap());
        let want = conversation(Some([1, 2, 3, 4]));
        let mut got = vec![0; want.len()];
        wire.stream.read_exact(&mut got).unwrap();
        saying.join().unwrap();
        let is_whole = got == want;
        assert!(is_whole, "the client's part");
        if !is_first_to_close {
            assert!(wire.is_closed(), "the client's end");
        }
    })
}

/// The client's part in pieces that meet no border; nothing is read meanwhile, and the service says its part all the
/// same.
fn speak(client: &mut (impl Read + Write)) {
    client.write_all(REQUEST.as_bytes()).unwrap();
    for piece in conversation(Some([1, 2, 3, 4])).chunks(8191) {
        client.write_all(piece).unwrap();
    }
}

/// Everything until the end, which has to be one as TCP or TLS says it.
fn hear(client: &mut impl Read, name: &str) {
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    let end = got.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
    assert!(got.starts_with(b"HTTP/1.1 101 "), "{name}");
    let want = conversation(None);
    assert_eq!(got.len() - end, want.len(), "{name}");
    let is_whole = got[end..] == want;
    assert!(is_whole, "{name}: the service's part");
}

#[test]
fn frames_pass_as_they_are() {
    let site = Site::start();
    for is_service_first in [true, false] {
        site.route_all(service(is_service_first));
        let mut client = site.connect().stream.into_inner();
        speak(&mut client);
        if !is_service_first {
            client.shutdown(Shutdown::Write).unwrap();
        }
        hear(&mut client, &format!("the service ends it: {is_service_first}"));
        drop(client);
        eventually("no tunnel is left", || {
            site.metric("portico_proxy_connections_open") == 0
        });
    }
}

#[test]
fn frames_pass_through_tls_as_they_are() {
    let site = tls::site(|_| {});
    assert_eq!(
        site.put_certificate("a", &super::super::tls::testing::self_signed(&["a.org"]))
            .status,
        200
    );
    let config = tls::client(None, &["http/1.1"]);
    for is_service_first in [true, false] {
        site.route_all(service(is_service_first));
        let mut client = tls::connect(site.data(), "a.org", &config).unwrap();
        speak(&mut client);
        if !is_service_first {
            client.conn.send_close_notify();
            client.flush().unwrap();
        }
        hear(&mut client, &format!("the service ends it: {is_service_first}"));
        drop(client);
        eventually("no tunnel is left", || {
            site.metric("portico_proxy_connections_open") == 0
        });
    }
}
