// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which answers are compressed for whom, and that nothing is lost or held back.

use std::io::Read;

use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
use hyper::Response;

use super::*;
use crate::l7::limits;

fn wish(algos: &str, accept: &[&str]) -> Option<Algo> {
    let mut request = Request::new(());
    for value in accept {
        let value = HeaderValue::try_from(*value).unwrap();
        request.headers_mut().append(header::ACCEPT_ENCODING, value);
    }
    Compression::parse(algos, "").unwrap().wish(&request)?.algo
}

#[test]
fn the_client_gets_the_coding_that_it_likes_best() {
    use Algo::{Deflate, Gzip, RawDeflate};
    for (algos, accept, want) in [
        ("gzip", &["gzip"][..], Some(Gzip)),
        ("gzip", &["deflate, GZIP ; Q=0.001"], Some(Gzip)),
        ("gzip", &["br", "x-gzip"], Some(Gzip)),
        ("gzip", &["*"], Some(Gzip)),
        ("gzip", &["*;q=0.5, gzip;q=0"], None),
        ("gzip", &["gzip;q=0, *"], None),
        ("gzip", &["gzip;q=0.0"], None),
        ("gzip", &["gzip;q=nonsense"], None),
        ("gzip", &["gzip;q=1.5"], None),
        ("gzip", &["gzip;q=0.5, identity"], None),
        ("gzip", &["gzip, identity;q=0.5"], Some(Gzip)),
        ("gzip", &["gzipped"], None),
        ("gzip", &[], None),
        ("gzip deflate", &["gzip, deflate"], Some(Gzip)),
        ("gzip deflate", &["gzip;q=0.8, deflate;q=0.9"], Some(Deflate)),
        ("raw-deflate", &["deflate"], Some(RawDeflate)),
        ("identity", &["gzip"], None),
    ] {
        assert_eq!(wish(algos, accept), want, "{algos} {accept:?}");
    }
    assert!(Compression::parse("zstd", "").is_err_and(|error| error.contains("zstd")));
}

/// Fields of the answer after a client that takes gzip has asked.
fn begin(types: &str, status: u16, fields: &[(&'static str, &'static str)]) -> (bool, HeaderMap) {
    let compression = Compression::parse("gzip", types).unwrap();
    let mut answer = Response::builder().status(status);
    for (name, value) in fields {
        answer = answer.header(*name, *value);
    }
    let (mut parts, ()) = answer.body(()).unwrap().into_parts();
    let wish = Wish {
        algo: Some(Algo::Gzip),
        is_head: false,
    };
    let encoder = compression.begin(wish, &mut parts, &Encoders::default());
    (encoder.is_some(), parts.headers)
}

#[test]
fn only_whole_answers_of_a_listed_type_are_compressed() {
    for (types, status, fields, want) in [
        ("", 200, &[][..], true),
        ("", 201, &[("content-type", "image/png")], true),
        ("", 204, &[], false),
        ("", 206, &[], false),
        ("", 304, &[], false),
        ("", 404, &[("content-type", "text/html")], false),
        ("", 200, &[("content-encoding", "br")], false),
        ("", 200, &[("content-range", "bytes 0-1/2")], false),
        ("", 200, &[("cache-control", "private, No-Transform")], false),
        (
            "",
            200,
            &[("content-type", "multipart/form-data; boundary=x")],
            false,
        ),
        ("", 200, &[("content-type", "application/grpc+proto")], false),
        ("", 200, &[("content-length", "0")], false),
        (
            "text/html text/plain",
            200,
            &[("content-type", "Text/Plain; charset=utf-8")],
            true,
        ),
        (
            "text/html text/plain",
            200,
            &[("content-type", "text/css")],
            false,
        ),
        ("text/html text/plain", 200, &[], false),
        ("text/", 200, &[("content-type", "text/css")], true),
    ] {
        let (is_compressed, headers) = begin(types, status, fields);
        assert_eq!(is_compressed, want, "{types} {status} {fields:?}");
        assert_eq!(headers.contains_key("vary"), want, "{types} {status} {fields:?}");
    }
}

#[test]
fn the_head_says_what_the_body_is() {
    let (_, headers) = begin(
        "",
        200,
        &[
            ("content-length", "10"),
            ("etag", "\"abc\""),
            ("vary", "Origin"),
            ("accept-ranges", "bytes"),
        ],
    );
    assert_eq!(headers["content-encoding"], "gzip");
    assert_eq!(headers["etag"], "W/\"abc\"");
    let vary: Vec<_> = headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["Origin", "Accept-Encoding"]);
    assert!(!headers.contains_key("content-length") && !headers.contains_key("accept-ranges"));
    let (_, headers) = begin("", 200, &[("etag", "W/\"abc\""), ("vary", "accept-encoding")]);
    assert_eq!(headers["etag"], "W/\"abc\"");
    assert_eq!(headers.get_all("vary").iter().count(), 1);
}

#[test]
fn who_gets_it_plain_is_told_that_others_do_not() {
    let compression = Compression::parse("gzip", "").unwrap();
    for (algo, is_head) in [(None, false), (Some(Algo::Gzip), true)] {
        let (mut parts, ()) = Response::builder()
            .header("content-length", "9")
            .body(())
            .unwrap()
            .into_parts();
        let wish = Wish { algo, is_head };
        assert!(
            compression
                .begin(wish, &mut parts, &Encoders::default())
                .is_none()
        );
        assert_eq!(parts.headers["vary"], "Accept-Encoding");
        assert_eq!(parts.headers["content-length"], "9");
    }
}

#[test]
fn a_stream_decodes_to_what_went_in_and_is_readable_after_each_flush() {
    let encoders = Encoders::default();
    for algo in [Algo::Gzip, Algo::Deflate, Algo::RawDeflate] {
        let mut encoder = encoders.make(algo).unwrap();
        let mut wire = Vec::new();
        let mut plain = Vec::new();
        for turn in 0..50u32 {
            let part = format!("event {turn} ").repeat(1 + (turn as usize % 7) * 100);
            plain.extend_from_slice(part.as_bytes());
            wire.extend(encoder.write(part.as_bytes()).unwrap().into_iter().flatten());
            if turn % 5 == 0 {
                wire.extend(encoder.flush().unwrap().into_iter().flatten());
                assert!(encoder.flush().unwrap().is_none(), "nothing new");
                assert_eq!(decode(algo, &wire), plain, "{algo:?} {turn}");
            }
        }
        wire.extend(encoder.finish().unwrap().into_iter().flatten());
        assert!(encoder.finish().unwrap().is_none());
        assert_eq!(decode(algo, &wire), plain);
        assert!(wire.len() < plain.len() / 2);
    }
    let all: Vec<_> = (0..limits::ENCODERS_PER_WORKER)
        .map(|_| encoders.make(Algo::Gzip))
        .collect();
    assert!(all.iter().all(Option::is_some) && encoders.make(Algo::Gzip).is_none());
    drop(all);
    assert!(encoders.make(Algo::Gzip).is_some());
}

/// As much as can be read.
fn decode(algo: Algo, wire: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read + '_> = match algo {
        Algo::Gzip => Box::new(GzDecoder::new(wire)),
        Algo::Deflate => Box::new(ZlibDecoder::new(wire)),
        Algo::RawDeflate => Box::new(DeflateDecoder::new(wire)),
    };
    let (mut out, mut byte) = (Vec::new(), [0; 1]);
    while let Ok(1) = reader.read(&mut byte) {
        out.push(byte[0]);
    }
    out
}
