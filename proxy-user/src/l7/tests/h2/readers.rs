// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that ask and do not take: each answer has its time, whatever happens beside it.

use std::collections::BTreeSet;

use super::frames::*;
use super::*;
use crate::l7::limits;

const CANCEL: u32 = 8;
const WINDOW: u16 = 4;
const LIMIT: Duration = Duration::from_millis(400);

/// An origin of large answers; how many of them it still has to finish.
fn generous_origin(length: u64) -> (SocketAddr, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let count = open.clone();
    let address = origin(move |_, mut wire| {
        while !wire.head().is_empty() {
            count.fetch_add(1, Ordering::Relaxed);
            wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            let mut body = std::io::repeat(b'x').take(length);
            let sent = std::io::copy(&mut body, wire.stream.get_mut());
            count.fetch_sub(1, Ordering::Relaxed);
            if sent.is_err() {
                return;
            }
        }
    });
    (address, open)
}

fn site_of(length: u64, limit: Duration) -> (Site, Arc<AtomicUsize>) {
    let site = Site::with(|settings| {
        settings.workers = 1;
        settings.timeouts.client = limit;
    });
    let (origin, open) = generous_origin(length);
    site.route_all(origin);
    (site, open)
}

/// A connection whose streams have this window to begin with.
fn narrow(site: &Site, window: u32) -> Connection {
    let mut connection = Connection::open(site);
    connection.send(&frame(SETTINGS, 0, 0, &setting(WINDOW, window)));
    connection.wait_for(SETTINGS).unwrap();
    connection.send(&frame(SETTINGS, ACK, 0, &[]));
    connection
}

fn give(connection: &mut Connection, stream: u32, bytes: u32) {
    connection.send(&frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()));
}

#[test]
fn answers_that_get_no_room_are_reset_and_the_connection_goes_on() {
    let (site, open) = site_of(10_000_000, LIMIT);
    let mut connection = narrow(&site, 0);
    let streams: BTreeSet<u32> = (0..limits::H2_CLIENT_STREAMS_MAX).map(|n| 2 * n + 1).collect();
    for stream in &streams {
        connection.send(&get(*stream));
    }
    let mut left = streams.clone();
    while !left.is_empty() {
        match connection.outcome() {
            Outcome::Reset(stream, CANCEL) => assert!(left.remove(&stream), "{stream}"),
            Outcome::Status(_, 200) => {}
            other => panic!("{other:?} with {left:?}"),
        }
    }
    assert_eq!(site.refused("client_stalled"), streams.len() as u64);
    assert_eq!(site.refused("client_left"), 0, "nobody left");
    eventually("the service is let go", || open.load(Ordering::Relaxed) == 0);
    // Who takes is served, on the same connection.
    let next = 2 * limits::H2_CLIENT_STREAMS_MAX + 1;
    connection.send(&get(next));
    give(&mut connection, next, 1000);
    assert_eq!(connection.outcome(), Outcome::Status(next, 200));
    assert_eq!(connection.wait_for(DATA).unwrap().payload.len(), 1000);
}

#[test]
fn one_that_takes_nothing_has_no_more_time_for_those_that_do() {
    // Longer than a busy machine lets this thread wait for its turn.
    let limit = Duration::from_secs(2);
    let (site, _) = site_of(10_000_000_000, limit);
    let mut connection = narrow(&site, 0);
    connection.send(&[get(1), get(3)].concat());
    let (mut taken, mut reset) = (0, false);
    let began = Instant::now();
    while taken < 10 * limits::H2_PIECE_BYTES_MAX || !reset || began.elapsed() < limit + LIMIT {
        assert!(began.elapsed() < DEADLINE, "{taken} {reset}");
        for window in [0, 3] {
            give(&mut connection, window, limits::H2_PIECE_BYTES_MAX as u32);
        }
        match connection.next().unwrap() {
            Received {
                kind: DATA,
                stream: 3,
                payload,
                ..
            } => taken += payload.len(),
            Received {
                kind: RST_STREAM,
                stream: 1,
                ..
            } => reset = true,
            Received { kind: RST_STREAM, .. } => panic!("the other one"),
            _ => {}
        }
    }
    assert_eq!(site.refused("client_stalled"), 1);
}

#[test]
fn a_service_that_pauses_is_no_client_that_stalls() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let site = Site::with(|settings| settings.timeouts.client = LIMIT);
    site.route_all(origin(move |_, mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        let _ = wait.lock().unwrap().recv_timeout(DEADLINE);
        wire.send("b");
    }));
    let mut connection = Connection::open(&site);
    connection.send(&get(1));
    assert_eq!(connection.wait_for(DATA).unwrap().payload, b"a");
    let began = Instant::now();
    eventually("longer than a client may", || began.elapsed() > 2 * LIMIT);
    go.send(()).unwrap();
    assert_eq!(connection.wait_for(DATA).unwrap().payload, b"b");
    assert_eq!(site.refused("client_stalled"), 0);
}

#[test]
fn an_answer_is_not_taken_for_sent_because_one_byte_of_it_was() {
    // Smaller than what is read of a service at a time, and more than a piece.
    let (site, _) = site_of(200_000, LIMIT);
    let mut connection = narrow(&site, 1);
    connection.send(&get(1));
    loop {
        match connection.outcome() {
            Outcome::Status(1, 200) => {}
            Outcome::Reset(1, CANCEL) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(site.refused("client_stalled"), 1);
}

#[test]
fn a_client_of_http1_that_does_not_read_is_cut() {
    let (site, open) = site_of(100_000_000, LIMIT);
    let mut wire = site.connect();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("cut", || site.refused("client_stalled") == 1);
    eventually("the service is let go", || open.load(Ordering::Relaxed) == 0);
    let mut rest = Vec::new();
    let _ = wire.stream.read_to_end(&mut rest);
    assert!(rest.len() < 100_000_000, "not the whole answer");
    assert_eq!(site.refused("client_left"), 0, "nobody left");
}
