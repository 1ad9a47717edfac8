// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of RFC 9113 that more than one frame from each side shows: what is acknowledged, and what windows let through.

use super::frames::*;
use super::*;

const WINDOW: u16 = 4;

fn site_of(answer: &'static str) -> Site {
    let site = Site::start();
    site.route_all(origin(move |_, mut wire| {
        while !wire.head().is_empty() {
            wire.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            ));
        }
    }));
    site
}

fn grow(connection: &mut Connection, stream: u32, bytes: u32) {
    connection.send(&frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()));
}

/// The next piece of a body.
fn data(connection: &mut Connection) -> Vec<u8> {
    connection.wait_for(DATA).unwrap().payload
}

#[test]
fn settings_and_pings_are_acknowledged_once() {
    let site = site_of("ok");
    let mut connection = Connection::open(&site);
    connection.send(&frame(PING, 0, 0, b"01234567"));
    // Nobody asked for this one.
    connection.send(&frame(PING, ACK, 0, b"unasked!"));
    connection.send(&frame(PING, 0, 0, b"76543210"));
    let mut pings = Vec::new();
    let mut settings = Vec::new();
    while pings.len() < 2 {
        let frame = connection.next().unwrap();
        match frame.kind {
            PING => pings.push((frame.flags, frame.payload)),
            SETTINGS => settings.push((frame.flags, frame.payload.is_empty())),
            _ => {}
        }
    }
    assert_eq!(pings, [(ACK, b"01234567".to_vec()), (ACK, b"76543210".to_vec())]);
    assert_eq!(settings, [(0, false), (ACK, true)], "its own come first");
    connection.send(&get(1));
    assert_eq!(connection.outcome(), Outcome::Status(1, 200));
}

#[test]
fn windows_are_kept_to_the_byte() {
    let site = site_of("0123456789");
    // Of several values of one setting the last counts (§6.5.3).
    let mut connection = Connection::open(&site);
    let values = [setting(WINDOW, 100), setting(WINDOW, 1)].concat();
    connection.send(&[frame(SETTINGS, 0, 0, &values), get(1)].concat());
    assert_eq!(data(&mut connection), b"0");
    grow(&mut connection, 1, 2);
    assert_eq!(data(&mut connection), b"12");
    // A change of the setting changes the streams that are there, also below nought (§6.9.2).
    connection.send(&frame(SETTINGS, 0, 0, &setting(WINDOW, 3)));
    assert_eq!(data(&mut connection), b"34");
    connection.send(&frame(SETTINGS, 0, 0, &setting(WINDOW, 0)));
    grow(&mut connection, 1, 3);
    connection.send(&frame(PING, 0, 0, &[0; 8]));
    let next = std::iter::from_fn(|| connection.next())
        .find(|frame| matches!(frame.kind, DATA | PING))
        .unwrap();
    assert_eq!(next.kind, PING, "three bytes more than none of minus three");
    grow(&mut connection, 1, 1);
    assert_eq!(data(&mut connection), b"5");
    grow(&mut connection, 1, 100);
    assert_eq!(data(&mut connection), b"6789");
}

#[test]
fn an_answer_to_head_has_none_of_a_body_and_trailers_of_a_request_reach_the_service() {
    let site = Site::start();
    site.route_all(echo_origin());
    let mut connection = Connection::open(&site);
    let fields = [(":method", "HEAD"), GET[1], GET[2], GET[3]];
    connection.send(&frame(HEADERS, WHOLE, 1, &block(&fields)));
    let head = connection.wait_for(HEADERS).unwrap();
    let mut ends = head.flags & END_STREAM != 0;
    while !ends {
        let frame = connection.next().unwrap();
        assert!(frame.kind != DATA || frame.payload.is_empty());
        ends = frame.kind == DATA && frame.flags & END_STREAM != 0;
    }
    connection.send(
        &[
            post(3, &[]),
            frame(DATA, 0, 3, b"body"),
            frame(HEADERS, WHOLE, 3, &block(&[("x-sum", "1")])),
        ]
        .concat(),
    );
    assert_eq!(connection.outcome(), Outcome::Status(3, 200));
    let seen = String::from_utf8(data(&mut connection)).unwrap();
    assert!(seen.ends_with("body|x-sum: 1\r\n"), "{seen}");
}

#[test]
fn a_client_that_says_goodbye_gets_the_answers_that_are_due() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let site = Site::start();
    site.route_all(origin(move |_, mut wire| {
        wire.head();
        let _ = wait.lock().unwrap().recv_timeout(DEADLINE);
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }));
    let mut connection = Connection::open(&site);
    connection.send(&get(1));
    // With a code that nobody knows (§7).
    connection.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]));
    go.send(()).unwrap();
    assert_eq!(connection.outcome(), Outcome::Status(1, 200));
    assert_eq!(data(&mut connection), b"ok");
}
