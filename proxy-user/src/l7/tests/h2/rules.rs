// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each rule of RFC 9113 that a client can break, broken once; the sections are those of the RFC.
//!
//! Where the RFC has the error of a stream, h2 sometimes ends the connection, as §5.4 lets it, and it has one code for
//! errors that have codes of their own.

use super::Outcome::{Closed, GoAway, Reset, Status};
use super::frames::*;
use super::*;
use crate::l7::conn::PREFACE;
use crate::l7::limits;

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;

/// A connection is broken: `h2_frame_invalid`.
const CONNECTION: &str = "h2_frame_invalid";
/// A stream is broken, and others go on: `h2_stream_invalid`.
const STREAM: &str = "h2_stream_invalid";

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    want: Outcome,
    counted: &'static str,
}

fn breaks(name: &'static str, code: u32, frames: &[Vec<u8>]) -> Case {
    Case {
        name,
        bytes: frames.concat(),
        want: GoAway(code),
        counted: CONNECTION,
    }
}

fn resets(name: &'static str, code: u32, frames: &[Vec<u8>]) -> Case {
    Case {
        name,
        bytes: frames.concat(),
        want: Reset(1, code),
        counted: STREAM,
    }
}

fn served(name: &'static str, frames: &[Vec<u8>]) -> Case {
    Case {
        name,
        bytes: frames.concat(),
        want: Status(1, 200),
        counted: "",
    }
}

/// Every case on a connection of its own, and a request of somebody else after it.
fn check(cases: Vec<Case>) {
    let site = Site::start();
    site.route_all(patient_origin());
    let mut wrong = Vec::new();
    for case in cases {
        let before = |name: &str| if name.is_empty() { 0 } else { site.refused(name) };
        let counted = before(case.counted);
        let mut connection = Connection::open(&site);
        connection.send(&case.bytes);
        let outcome = connection.outcome();
        if outcome != case.want {
            wrong.push(format!("{}: {outcome:?}, not {:?}", case.name, case.want));
            continue;
        }
        if !case.counted.is_empty() {
            eventually(case.name, || site.refused(case.counted) == counted + 1);
        }
        if let Reset(..) = case.want {
            connection.send(&get(101));
            assert_eq!(
                connection.outcome(),
                Status(101, 200),
                "{}: others go on",
                case.name
            );
        }
        if let GoAway(_) = case.want {
            assert!(connection.next().is_none(), "{}: the end", case.name);
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert_eq!(site.get("/").status, 200);
}

#[test]
fn frames_are_as_section_4_has_them() {
    check(vec![
        served(
            "4.1: unknown kinds are ignored",
            &[frame(0xfe, 0xff, 1, b"12"), get(1)],
        ),
        served(
            "4.1: unknown flags are ignored",
            &[frame(PING, 0xfe, 0, &[0; 8]), get(1)],
        ),
        served(
            "4.1: the reserved bit is ignored",
            &[frame(SETTINGS, 0, 1 << 31, &[]), get(1)],
        ),
        breaks(
            "4.2: DATA larger than allowed",
            FRAME_SIZE,
            &[post(1, &[]), frame(DATA, 1, 1, &[0; 16_385])],
        ),
        breaks(
            "4.2: HEADERS larger than allowed",
            FRAME_SIZE,
            &[frame(HEADERS, WHOLE, 1, &[0; 16_385])],
        ),
        // The RFC has COMPRESSION_ERROR; h2 says the general one.
        breaks(
            "4.3: a block that cannot be read",
            PROTOCOL,
            &[frame(HEADERS, WHOLE, 1, &[0x80])],
        ),
        breaks(
            "4.3: another frame inside a block",
            PROTOCOL,
            &[
                frame(HEADERS, 1, 1, &block(&GET)),
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]),
            ],
        ),
        breaks(
            "4.3: another stream inside a block",
            PROTOCOL,
            &[frame(HEADERS, 1, 1, &block(&GET)), get(3)],
        ),
        served(
            "4.2: DATA as large as allowed",
            &[post(1, &[]), frame(DATA, END_STREAM, 1, &[0; 16_384])],
        ),
        breaks(
            "5.5: an unknown frame inside a block",
            PROTOCOL,
            &[frame(HEADERS, 1, 1, &block(&GET)), frame(0x16, 0, 0, &[0; 8])],
        ),
        served(
            "5.5: an unknown kind of a connection",
            &[frame(0x16, 0, 0, &[0; 8]), get(1)],
        ),
    ]);
}

#[test]
fn streams_are_as_section_5_has_them() {
    let fin = || frame(DATA, END_STREAM, 1, b"x");
    let reset = || frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    let update = |stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]);
    check(vec![
        breaks("5.1: DATA on an idle stream", PROTOCOL, &[fin()]),
        breaks("5.1: RST_STREAM on an idle stream", PROTOCOL, &[reset()]),
        breaks("5.1: WINDOW_UPDATE on an idle stream", PROTOCOL, &[update(1)]),
        breaks(
            "5.1: CONTINUATION on an idle stream",
            PROTOCOL,
            &[frame(CONTINUATION, 4, 1, &block(&GET))],
        ),
        breaks("5.1: DATA after the end", PROTOCOL, &[get(1), fin()]),
        breaks("5.1: HEADERS after the end", PROTOCOL, &[get(1), get(1)]),
        breaks(
            "5.1: CONTINUATION after the end",
            PROTOCOL,
            &[get(1), frame(CONTINUATION, 4, 1, &[])],
        ),
        breaks(
            "5.1: CONTINUATION after a reset",
            PROTOCOL,
            &[
                post(1, &[]),
                reset(),
                frame(CONTINUATION, END_HEADERS, 1, &block(&GET)),
            ],
        ),
        breaks(
            "5.1: HEADERS after a reset, and a whole exchange",
            PROTOCOL,
            &[get(1), get(3), get(5), get(3)],
        ),
        served("5.1: PRIORITY at any time", &{
            let priority = || frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]);
            [priority(), get(1), priority(), update(1), priority()]
        }),
        served(
            "5.1: WINDOW_UPDATE and RST_STREAM of a stream that the client has ended",
            &[get(3), update(3), frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]), get(5)],
        )
        .on(5),
        breaks("5.1.1: an even stream", PROTOCOL, &[get(2)]),
        breaks(
            "5.1.1: a stream below one that was used",
            PROTOCOL,
            &[get(5), get(3)],
        ),
        resets(
            "5.3: a stream that depends on itself",
            PROTOCOL,
            &[post(1, &[]), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9])],
        ),
        resets(
            "5.3: a head that depends on itself",
            PROTOCOL,
            &[frame(
                HEADERS,
                WHOLE | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 1, 9], &block(&GET)[..]].concat(),
            )],
        ),
        served(
            "5.3: a priority that means nothing any more",
            &[
                frame(PRIORITY, 0, 7, &[0, 0, 0, 3, 9]),
                frame(
                    HEADERS,
                    WHOLE | WITH_PRIORITY,
                    1,
                    &[&[0, 0, 0, 3, 9], &block(&GET)[..]].concat(),
                ),
            ],
        ),
        served(
            "5.1: RST_STREAM and WINDOW_UPDATE after a reset",
            &[
                frame(HEADERS, END_HEADERS, 3, &block(&POST)),
                frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]),
                update(3),
                get(5),
                frame(PING, 0, 0, &[0; 8]),
            ],
        )
        .on(5),
    ]);
}

impl Case {
    fn on(mut self, stream: u32) -> Self {
        self.want = match self.want {
            Status(_, status) => Status(stream, status),
            Reset(_, code) => Reset(stream, code),
            other => other,
        };
        self
    }
}

#[test]
fn frame_kinds_are_as_section_6_has_them() {
    let set = |id, value| frame(SETTINGS, 0, 0, &setting(id, value));
    check(vec![
        breaks("6.1: DATA of no stream", PROTOCOL, &[frame(DATA, 1, 0, b"x")]),
        breaks(
            "6.1: more padding than payload",
            PROTOCOL,
            &[post(1, &[]), frame(DATA, 9, 1, &[9, 0])],
        ),
        breaks(
            "6.2: HEADERS of no stream",
            PROTOCOL,
            &[frame(HEADERS, WHOLE, 0, &block(&GET))],
        ),
        breaks(
            "6.2: more padding than payload",
            PROTOCOL,
            &[frame(HEADERS, WHOLE | PADDED, 1, &[9, 0])],
        ),
        breaks(
            "6.3: PRIORITY of no stream",
            PROTOCOL,
            &[frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 9])],
        ),
        // The RFC has FRAME_SIZE_ERROR; h2 says the general one.
        breaks(
            "6.3: PRIORITY of another length",
            PROTOCOL,
            &[post(1, &[]), frame(PRIORITY, 0, 1, &[0; 4])],
        ),
        breaks(
            "6.4: RST_STREAM of no stream",
            PROTOCOL,
            &[frame(RST_STREAM, 0, 0, &[0; 4])],
        ),
        breaks(
            "6.4: RST_STREAM of another length",
            PROTOCOL,
            &[post(1, &[]), frame(RST_STREAM, 0, 1, &[0; 3])],
        ),
        breaks(
            "6.5: an acknowledgement with content",
            PROTOCOL,
            &[frame(SETTINGS, ACK, 0, &[0; 6])],
        ),
        breaks(
            "6.5: an acknowledgement of nothing",
            PROTOCOL,
            &[frame(SETTINGS, ACK, 0, &[]).repeat(2)],
        ),
        breaks(
            "6.5: SETTINGS of a stream",
            PROTOCOL,
            &[frame(SETTINGS, 0, 1, &[])],
        ),
        breaks(
            "6.5: SETTINGS of another length",
            PROTOCOL,
            &[frame(SETTINGS, 0, 0, &[0; 3])],
        ),
        breaks("6.5.2: ENABLE_PUSH is 2", PROTOCOL, &[set(2, 2)]),
        breaks("6.5.2: a window beyond 2^31", PROTOCOL, &[set(4, 1 << 31)]),
        breaks("6.5.2: frames below 2^14", PROTOCOL, &[set(5, 16_383)]),
        breaks("6.5.2: frames beyond 2^24", PROTOCOL, &[set(5, 1 << 24)]),
        served("6.5.2: unknown settings are ignored", &[set(0xff, 1), get(1)]),
        breaks(
            "6.6: PUSH_PROMISE of a client",
            PROTOCOL,
            &[
                post(1, &[]),
                frame(PUSH_PROMISE, 4, 1, &[&[0, 0, 0, 2], &block(&GET)[..]].concat()),
            ],
        ),
        breaks("6.7: PING of a stream", PROTOCOL, &[frame(PING, 0, 1, &[0; 8])]),
        breaks(
            "6.7: PING of another length",
            PROTOCOL,
            &[frame(PING, 0, 0, &[0; 6])],
        ),
        breaks(
            "6.8: GOAWAY of a stream",
            PROTOCOL,
            &[frame(GOAWAY, 0, 1, &[0; 8])],
        ),
        breaks(
            "6.9: WINDOW_UPDATE of another length",
            PROTOCOL,
            &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
        ),
        breaks(
            "6.9: a window grows by nothing",
            PROTOCOL,
            &[frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
        ),
        breaks(
            "6.9: a stream's window grows by nothing",
            PROTOCOL,
            &[post(1, &[]), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
        ),
        breaks(
            "6.9.1: the connection's window overflows",
            FLOW_CONTROL,
            &[frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
        ),
        resets(
            "6.9.1: a stream's window overflows",
            FLOW_CONTROL,
            &[
                post(1, &[]),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
            ],
        ),
        breaks(
            "6.9.2: settings make a window overflow",
            FLOW_CONTROL,
            &[
                post(1, &[]),
                frame(WINDOW_UPDATE, 0, 1, &0x7fff_0000u32.to_be_bytes()),
                set(4, 0x7fff_ffff),
            ],
        ),
        breaks(
            "6.10: CONTINUATION after the head",
            PROTOCOL,
            &[post(1, &[]), frame(CONTINUATION, 4, 1, &[])],
        ),
        breaks(
            "6.10: CONTINUATION of no stream",
            PROTOCOL,
            &[frame(HEADERS, 1, 1, &block(&GET)), frame(CONTINUATION, 4, 0, &[])],
        ),
        breaks(
            "6.10: CONTINUATION after the head's last",
            PROTOCOL,
            &[
                frame(HEADERS, END_STREAM, 1, &block(&GET)),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ],
        ),
        breaks(
            "6.10: CONTINUATION after DATA",
            PROTOCOL,
            &[
                post(1, &[]),
                frame(DATA, 0, 1, b"x"),
                frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "1")])),
            ],
        ),
        breaks(
            "6.10: DATA inside a block",
            PROTOCOL,
            &[
                frame(HEADERS, 0, 1, &block(&POST)),
                frame(DATA, END_STREAM, 1, b"x"),
            ],
        ),
        served(
            "7: codes that nobody knows",
            &[post(3, &[]), frame(RST_STREAM, 0, 3, &[0, 0, 0, 0xff]), get(5)],
        )
        .on(5),
        served(
            "6.10: a head in three pieces",
            &[
                frame(HEADERS, 1, 1, &block(&GET[..2])),
                frame(CONTINUATION, 0, 1, &block(&GET[2..3])),
                frame(CONTINUATION, 4, 1, &block(&GET[3..])),
            ],
        ),
        served(
            "6.1, 6.2: padding",
            &[
                frame(
                    HEADERS,
                    END_HEADERS | PADDED,
                    1,
                    &[&[3], &block(&POST)[..], &[0; 3]].concat(),
                ),
                frame(DATA, END_STREAM | PADDED, 1, &[2, b'x', 0, 0]),
            ],
        ),
    ]);
}

#[test]
fn heads_are_as_section_8_has_them() {
    let without = |name: &str| {
        let fields: Vec<_> = GET.into_iter().filter(|(field, _)| *field != name).collect();
        frame(HEADERS, WHOLE, 1, &block(&fields))
    };
    let with = |field| frame(HEADERS, WHOLE, 1, &block(&[&GET[..], &[field]].concat()));
    let trailers =
        |flags, fields: &[(&str, &str)]| [post(1, &[]), frame(HEADERS, flags, 1, &block(fields))].concat();
    let body = |length: &str, parts: &[&[u8]]| {
        let mut frames = post(1, &[("content-length", length)]);
        for (n, part) in parts.iter().enumerate() {
            frames.extend(frame(DATA, u8::from(n + 1 == parts.len()), 1, part));
        }
        frames
    };
    let mut cases = vec![
        resets(
            "8.1: trailers that do not end",
            PROTOCOL,
            &[trailers(END_HEADERS, &[("x", "1")])],
        ),
        served("8.1: trailers", &[trailers(WHOLE, &[("x", "1")])]),
        resets(
            "8.1: a pseudo field in trailers",
            PROTOCOL,
            &[trailers(WHOLE, &[(":method", "GET")])],
        ),
        resets(
            "8.1: a pseudo field of the table in trailers, behind a body",
            PROTOCOL,
            &[
                post(1, &[]),
                frame(DATA, 0, 1, b"x"),
                frame(HEADERS, WHOLE, 1, &[0x88]),
            ],
        ),
        resets(
            "8.1: a pseudo field in trailers of two frames",
            PROTOCOL,
            &[
                post(1, &[]),
                frame(HEADERS, END_STREAM, 1, &block(&[("x", "1")])),
                frame(CONTINUATION, END_HEADERS, 1, &block(&[(":path", "/")])),
            ],
        ),
        resets(
            "8.1.1: more than Content-Length",
            PROTOCOL,
            &[body("1", &[b"xx"])],
        ),
        resets("8.1.1: less than Content-Length", PROTOCOL, &[body("2", &[b"x"])]),
        resets(
            "8.1.1: more than Content-Length, in pieces",
            PROTOCOL,
            &[body("2", &[b"x", b"x", b"x"])],
        ),
        resets(
            "8.1.1: Content-Length without a body",
            PROTOCOL,
            &[with(("content-length", "1"))],
        ),
        resets(
            "8.1.1: Content-Length that is none",
            PROTOCOL,
            &[body("x", &[b"x"])],
        ),
        resets(
            "8.1.1: two of Content-Length",
            PROTOCOL,
            &[frame(
                HEADERS,
                WHOLE,
                1,
                &block(&[&POST[..], &[("content-length", "0"), ("content-length", "1")]].concat()),
            )],
        ),
        breaks("8.2.1: an upper case name", PROTOCOL, &[with(("X-a", "1"))]),
        breaks("8.2.1: a name with a blank", PROTOCOL, &[with(("x a", "1"))]),
        breaks("8.2.1: a name with a colon", PROTOCOL, &[with(("x:a", "1"))]),
        breaks("8.2.1: no name", PROTOCOL, &[with(("", "1"))]),
        breaks(
            "8.2.1: a line end in a value",
            PROTOCOL,
            &[with(("x", "1\r\ny: 2"))],
        ),
        breaks("8.2.1: NUL in a value", PROTOCOL, &[with(("x", "1\0"))]),
        resets(
            "8.2.2: TE that is not trailers",
            PROTOCOL,
            &[with(("te", "gzip"))],
        ),
        served("8.2.2: TE that is", &[with(("te", "trailers"))]),
        breaks(
            "8.3: an unknown pseudo field",
            PROTOCOL,
            &[with((":unknown", "1"))],
        ),
        resets(
            "8.3: an answer's pseudo field",
            PROTOCOL,
            &[with((":status", "200"))],
        ),
        resets(
            "8.3: a pseudo field after others",
            PROTOCOL,
            &[frame(
                HEADERS,
                WHOLE,
                1,
                &block(&[&[("x", "1")], &GET[..]].concat()),
            )],
        ),
        resets("8.3.1: no method", PROTOCOL, &[without(":method")]),
        resets("8.3.1: no scheme", PROTOCOL, &[without(":scheme")]),
        resets("8.3.1: no path", PROTOCOL, &[without(":path")]),
    ];
    for name in [
        "connection",
        "proxy-connection",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
    ] {
        cases.push(resets(name, PROTOCOL, &[with((name, "x"))]));
    }
    for (name, value) in GET {
        cases.push(resets(name, PROTOCOL, &[with((name, value))]));
    }
    for path in ["", "x", "http://a/"] {
        let fields = [GET[0], GET[1], GET[2], (":path", path)];
        cases.push(resets(
            "8.3.1: a path that is none",
            PROTOCOL,
            &[frame(HEADERS, WHOLE, 1, &block(&fields))],
        ));
    }
    check(cases);
}

#[test]
fn more_streams_than_allowed_are_refused_and_the_others_served() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let site = Site::start();
    site.route_all(origin(move |_, mut wire| {
        wire.head();
        let _ = wait.lock().unwrap().recv_timeout(DEADLINE);
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }));
    let mut connection = Connection::open(&site);
    // What was announced counts from the acknowledgement on.
    connection.wait_for(SETTINGS).unwrap();
    connection.send(&frame(SETTINGS, ACK, 0, &[]));
    let max = limits::H2_CLIENT_STREAMS_MAX;
    for n in 0..=max {
        connection.send(&get(2 * n + 1));
    }
    assert_eq!(connection.outcome(), Reset(2 * max + 1, REFUSED));
    eventually("counted", || site.refused("h2_stream_refused") == 1);
    for _ in 0..max {
        go.send(()).unwrap();
    }
    assert!(matches!(connection.outcome(), Status(_, 200)));
}

#[test]
fn a_preface_that_is_none_is_refused() {
    let site = Site::start();
    site.route_all(patient_origin());
    let mut connection = Connection {
        stream: site.connect().stream.into_inner(),
    };
    // What has another first frame than SETTINGS begins with no preface (§3.4).
    connection.send(&[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat());
    assert_eq!(connection.outcome(), Closed);
    assert_eq!(site.refused(CONNECTION), 1);
    let mut wire = site.connect();
    wire.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert_eq!(wire.reply().status, 400);
    assert_eq!(site.get("/").status, 200);
}
