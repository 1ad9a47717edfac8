// SPDX-License-Identifier: MIT OR Apache-2.0
//! Large answers, which pass through a pipe.

use std::sync::LazyLock;

use super::*;
use crate::l7::limits;

const PASSED: &str = "portico_proxy_bytes_passed_total";

/// The longest answer.
const PATTERN_BYTES: usize = 8_000_000;

/// Bytes of which no two places look the same for long. Made once: a proxy gives up who waits for bytes that the test
/// is still working out.
fn pattern(length: usize) -> &'static [u8] {
    static ALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut word = 0x9E37_79B9_u32;
        let mut bytes = Vec::with_capacity(PATTERN_BYTES);
        while bytes.len() < PATTERN_BYTES {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.extend(word.to_be_bytes());
        }
        bytes
    });
    &ALL[..length]
}

/// Answers `/LENGTH` with so many bytes of the pattern, in writes of odd sizes, and `/LENGTH/SENT` with only SENT of them.
fn large_origin() -> SocketAddr {
    origin(|_, mut wire| {
        loop {
            let head = wire.head();
            let Some(path) = head.split(' ').nth(1) else {
                return;
            };
            let mut numbers = path.split('/').filter_map(|text| text.parse::<usize>().ok());
            let length = numbers.next().unwrap_or_default();
            let sent = numbers.next().unwrap_or(length);
            wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            let body = pattern(length);
            let mut rest = &body[..sent];
            let mut size = 1;
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                if wire.stream.get_mut().write_all(piece).is_err() {
                    return;
                }
                rest = after;
                size = (size * 7 + 3) % 300_007;
            }
            if sent < length {
                return;
            }
        }
    })
}

fn site() -> Site {
    let site = Site::start();
    site.route_all(large_origin());
    site
}

#[test]
fn answers_of_all_sizes_arrive_as_they_are_and_the_large_ones_are_not_copied() {
    let site = site();
    let mut wire = site.connect();
    let least = limits::PASSES_FROM_BYTES as usize;
    for length in [
        0,
        1,
        least - 1,
        least,
        least + 1,
        limits::PIPE_BYTES - 1,
        limits::PIPE_BYTES,
        limits::PIPE_BYTES + 1,
        3_000_001,
    ] {
        let before = site.metric(PASSED);
        wire.send(&format!("GET /{length} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let reply = wire.reply();
        assert_eq!(reply.status, 200);
        assert!(reply.body == pattern(length), "{length} bytes came out otherwise");
        // The counter is written after the bytes.
        eventually(&format!("{length} bytes are counted"), || {
            let passed = site.metric(PASSED) - before;
            // What came with the head was in a buffer already.
            let may_be_copied = limits::UPSTREAM_READ_BYTES as u64;
            match length >= least + limits::UPSTREAM_READ_BYTES {
                true => passed >= length as u64 - may_be_copied,
                false => passed == 0 || length >= least,
            }
        });
    }
}

#[test]
fn answers_that_were_asked_for_at_once_come_one_after_the_other() {
    let site = site();
    let mut wire = site.connect();
    let lengths = [200_000, 5, 700_001, 70_000, 0, 300_000];
    let asked: String = lengths
        .iter()
        .map(|length| format!("GET /{length} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    wire.send(&asked);
    for length in lengths {
        assert!(wire.reply().body == pattern(length), "{length}");
    }
    assert!(site.metric(PASSED) > 1_000_000);
}

#[test]
fn a_client_that_reads_slowly_gets_everything() {
    let site = site();
    let mut wire = site.connect();
    wire.send("GET /8000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    // Everything on the way is full.
    let mut last = 0;
    eventually("nothing passes any more", || {
        let passed = site.metric(PASSED);
        passed > 0 && passed == std::mem::replace(&mut last, passed)
    });
    assert!(last < 8_000_000);
    assert!(wire.reply().body == pattern(8_000_000));
    wire.send("GET /100000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(wire.reply().body == pattern(100_000));
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let site = site();
    let mut wire = site.connect();
    wire.send("GET /1000000/400000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(wire.head().starts_with("HTTP/1.1 200"));
    let mut body = Vec::new();
    let _ = wire.stream.read_to_end(&mut body);
    assert!(body == pattern(1_000_000)[..400_000], "{} bytes came", body.len());
}

#[test]
fn clients_that_leave_in_the_middle_leave_nothing_for_the_next() {
    let site = Site::with(|settings| settings.workers = 1);
    site.route_all(large_origin());
    // More than there are pipes: those of the clients who left are free again.
    for _ in 0..2 * limits::PIPES_MAX {
        let mut wire = site.connect();
        wire.send("GET /3000000 HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut some = vec![0; 100_000];
        assert!(wire.head().starts_with("HTTP/1.1 200"));
        wire.stream.read_exact(&mut some).unwrap();
        assert!(some == pattern(100_000));
    }
    eventually("all have left", || {
        site.metric("portico_proxy_connections_open") == 0
    });
    let before = site.metric(PASSED);
    assert!(site.get("/500000").body == pattern(500_000));
    eventually("it passed", || site.metric(PASSED) > before);
}

#[test]
fn those_who_find_no_pipe_are_served_all_the_same() {
    let site = Site::with(|settings| settings.workers = 1);
    site.route_all(large_origin());
    let mut wires: Vec<Wire> = (0..limits::PIPES_MAX + 5).map(|_| site.connect()).collect();
    for wire in &mut wires {
        wire.send("GET /5000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for mut wire in wires {
        assert!(wire.reply().body == pattern(5_000_000));
    }
}
