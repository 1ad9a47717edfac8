// SPDX-License-Identifier: MIT OR Apache-2.0
//! WebSocket through TLS, and what changes around it while it is open.

use super::*;

/// A frame of text, masked as those of clients are (RFC 6455 §5.3).
fn masked(text: &str) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![0x81, 0x80 | text.len() as u8];
    bytes.extend(MASK);
    bytes.extend(
        text.bytes()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// The text of a frame, from either side.
fn text_of(stream: &mut impl Read) -> Option<String> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    assert_eq!(head[0], 0x81, "one whole frame of text");
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut mask).ok()?;
    }
    let mut text = vec![0; usize::from(head[1] & 0x7f)];
    stream.read_exact(&mut text).ok()?;
    for (at, byte) in text.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    String::from_utf8(text).ok()
}

/// A service that answers each frame with its text in upper case, and notes the head that it got.
fn socket_service(heads: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    origin(move |_, mut wire| {
        let head = wire.head();
        heads.lock().unwrap().push(head);
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        while let Some(text) = text_of(&mut wire.stream) {
            let mut answer = vec![0x81, text.len() as u8];
            answer.extend(text.to_uppercase().bytes());
            wire.stream.get_mut().write_all(&answer).unwrap();
        }
    })
}

fn read_head(tls: &mut Tls) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        tls.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn a_socket_through_tls_outlives_every_change() {
    let site = site(|_| {});
    let heads = Arc::new(Mutex::new(Vec::new()));
    site.route_all(socket_service(heads.clone()));
    assert_eq!(site.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    let config = client(None, &["h2", "http/1.1"]);
    // Browsers ask for a WebSocket on a connection that says no h2.
    let plain = client(None, &["http/1.1"]);
    let mut socket = connect(site.data(), "a.org", &plain).unwrap();
    let first = shown(&socket);
    let request = "GET /chat HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // The first frame comes with the request: it must not be lost between the two.
    let early = [request.as_bytes(), &masked("early")].concat();
    socket.write_all(&early).unwrap();
    assert!(read_head(&mut socket).starts_with("HTTP/1.1 101 "));
    assert_eq!(text_of(&mut socket).unwrap(), "EARLY");
    let head = heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nx-forwarded-proto: https\r\n"),
        "{head}"
    );
    let mut speaks = |word: &str| {
        socket.write_all(&masked(word)).unwrap();
        assert_eq!(text_of(&mut socket).unwrap(), word.to_uppercase());
    };
    let other = echo_origin();
    for round in 0..10 {
        site.route_all(other);
        speaks(&format!("reconfigured {round}"));
    }
    assert_eq!(site.put_certificate("a", &self_signed(&["a.org"])).status, 200);
    speaks("another certificate");
    // A client that resumes no session.
    let stranger = client(None, &["http/1.1"]);
    let mut next = connect(site.data(), "a.org", &stranger).unwrap();
    assert_ne!(shown(&next), first, "new connections get the new one");
    assert!(get(&mut next, "").contains("\r\n\r\nGET / "), "and the new route");
    let removed = site.api("/v1/docker-flow-proxy/remove?serviceName=all");
    assert_eq!(removed.status, 200);
    speaks("removed");
    let ours = connect(site.data(), "a.org", &config).unwrap();
    assert_eq!(ours.conn.alpn_protocol(), Some(&b"h2"[..]));
    // Its end is said as TLS says it.
    socket.conn.send_close_notify();
    socket.flush().unwrap();
    assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0);
}
