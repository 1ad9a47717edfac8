// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole exchanges over a socket pair, with an origin that answers byte by byte.

use std::net::{Ipv4Addr, TcpListener};

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn pair() -> (H1, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let far = far.unwrap().0;
    far.set_nodelay(true).unwrap();
    (H1::new(Stream::Plain(near.unwrap())), far)
}

/// What comes out when the origin answers `text` in pieces of `size` and ends the connection.
async fn exchange(text: &'static str, size: usize) -> Result<(u16, Vec<u8>), Broken> {
    let (mut h1, mut far) = pair().await;
    let parts = hyper::Request::get("/a")
        .header("host", "acme.com")
        .body(())
        .unwrap()
        .into_parts()
        .0;
    h1.begin(&parts, Framing::None, None);
    let mut sending = Sending::new(ToUpstream::Empty, Framing::None);
    std::future::poll_fn(|cx| h1.poll_send(cx, &mut sending))
        .await
        .unwrap();
    let mut seen = [0; 64];
    let count = far.read(&mut seen).await.unwrap();
    assert_eq!(&seen[..count], b"GET /a HTTP/1.1\r\nhost: acme.com\r\n\r\n");
    let answer = async move {
        for piece in text.as_bytes().chunks(size) {
            far.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let read = async {
        let mut fields = HeaderMap::new();
        let mut head = std::future::poll_fn(|cx| h1.poll_head(cx, &Method::GET, &mut fields)).await?;
        let mut body = Vec::new();
        loop {
            match std::future::poll_fn(|cx| {
                h1.poll_body(cx, &mut head.body, limits::UPSTREAM_BODY_READ_SMALL)
            })
            .await?
            {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::Trailers(_) => {}
                Piece::End => return Ok((head.status.as_u16(), body)),
            }
        }
    };
    tokio::join!(read, answer).0
}

#[tokio::test]
async fn answers_are_read_the_same_however_they_arrive() {
    for size in [1, 3, 1000] {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nx: y\r\n\r\n",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nhello",
        ] {
            let answer = exchange(text, size).await.unwrap();
            assert_eq!(answer, (200, b"hello".to_vec()), "{text:?} by {size}");
        }
    }
}

#[tokio::test]
async fn what_breaks_off_is_an_error() {
    for text in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        assert!(
            matches!(exchange(text, 3).await, Err(Broken::Truncated)),
            "{text:?}"
        );
    }
}

#[test]
fn a_write_that_stops_anywhere_goes_on_there() {
    let whole = b"headdata\r\n";
    for first in 0..whole.len() {
        let mut out = Out {
            later: Later::default(),
            head: BytesMut::from("head"),
            data: Bytes::from_static(b"data"),
            tail: b"\r\n",
            has_written: false,
        };
        out.advance(first);
        let rest = [&out.head[..], &out.data[..], out.tail].concat();
        assert_eq!(rest, whole[first..]);
        out.advance(rest.len());
        assert!(out.is_empty());
    }
}

#[tokio::test]
async fn an_idle_connection_keeps_no_large_buffer() {
    let (mut h1, _far) = pair().await;
    h1.read.reserve(limits::UPSTREAM_BODY_READ_BYTES);
    h1.trim();
    assert!(h1.read.capacity() <= 2 * limits::UPSTREAM_READ_BYTES);
    h1.read.extend_from_slice(&[0; 3 * limits::UPSTREAM_READ_BYTES]);
    h1.trim();
    assert_eq!(
        h1.read.len(),
        3 * limits::UPSTREAM_READ_BYTES,
        "what was read stays"
    );
}
