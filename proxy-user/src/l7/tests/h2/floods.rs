// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client may send without end by the letter of the RFC.

use super::frames::*;
use super::*;

/// Sends until the server has had enough, or a hundred thousand times.
fn flood(site: &Site, mut next: impl FnMut(u32) -> Vec<u8>) -> Outcome {
    let mut connection = Connection::open(site);
    for n in 0..1000 {
        let bytes: Vec<u8> = (0..100).flat_map(|m| next(100 * n + m)).collect();
        if connection.stream.write_all(&bytes).is_err() {
            break;
        }
    }
    let mut last = Outcome::Closed;
    loop {
        match connection.outcome() {
            Outcome::Closed => return last,
            outcome @ Outcome::GoAway(_) => last = outcome,
            _ => {}
        }
    }
}

fn counted(site: &Site, reason: &str) {
    eventually(reason, || site.refused(reason) == 1);
    assert_eq!(site.get("/").status, 200, "others are served");
}

fn target() -> Site {
    let site = Site::start();
    site.route_all(patient_origin());
    site
}

#[test]
fn pings_and_settings() {
    for bytes in [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]),
        frame(0xfe, 0, 0, &[]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    ] {
        let site = target();
        flood(&site, |_| bytes.clone());
        counted(&site, "h2_frame_flood");
    }
}

#[test]
fn rapid_resets() {
    let site = target();
    flood(&site, |n| {
        let stream = 2 * n + 1;
        [get(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    counted(&site, "h2_reset_flood");
}

#[test]
fn resets_that_the_server_is_made_to_send() {
    // CVE-2025-8671: each of these streams is broken so that it is the server that resets it.
    let site = target();
    flood(&site, |n| {
        let stream = 2 * n + 1;
        let overflow = frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
        [post(stream, &[]), overflow].concat()
    });
    counted(&site, "h2_reset_flood");
}

#[test]
fn continuations() {
    let site = target();
    let mut first = true;
    flood(&site, |_| match std::mem::take(&mut first) {
        true => frame(HEADERS, 0, 1, &block(&GET)),
        false => frame(CONTINUATION, 0, 1, &block(&[("x", "y")])),
    });
    counted(&site, "h2_frame_flood");
    let site = target();
    let mut first = true;
    flood(&site, |_| match std::mem::take(&mut first) {
        true => frame(HEADERS, 0, 1, &block(&GET)),
        false => frame(CONTINUATION, 0, 1, &[]),
    });
    counted(&site, "h2_frame_flood");
}

#[test]
fn empty_data() {
    let site = target();
    let mut first = true;
    flood(&site, |_| match std::mem::take(&mut first) {
        true => post(1, &[]),
        false => frame(DATA, 0, 1, &[]),
    });
    counted(&site, "h2_frame_flood");
}

#[test]
fn a_head_that_is_too_large_is_answered_and_the_connection_goes_on() {
    let site = target();
    let mut connection = Connection::open(&site);
    let long = "y".repeat(1000);
    let many: Vec<_> = (0..60).map(|_| ("x", long.as_str())).collect();
    let bytes = block(&[&GET[..], &many].concat());
    let mut pieces = bytes.chunks(16_000).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let fin = if kind == HEADERS { END_STREAM } else { 0 };
        connection.send(&frame(kind, end | fin, 1, piece));
        kind = CONTINUATION;
    }
    assert_eq!(connection.outcome(), Outcome::Status(1, 431));
    eventually("counted", || site.refused("head_too_large") == 1);
    connection.send(&get(3));
    // A reset of the stream that was refused may come first.
    let mut outcomes = std::iter::from_fn(|| Some(connection.outcome()));
    let answer = outcomes.find(|outcome| !matches!(outcome, Outcome::Reset(1, _)));
    assert_eq!(answer, Some(Outcome::Status(3, 200)));
}
