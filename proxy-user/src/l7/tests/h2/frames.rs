// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames as a client writes them when nobody stops it, and what comes back.

use super::*;
use crate::l7::conn::PREFACE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 32;
/// A whole request.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Fields that every request has.
pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/"),
];
pub const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/"),
];

/// A frame with the length that its payload has.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A block of fields: literals that are not indexed and not compressed (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                bytes.push(length as u8);
            } else {
                bytes.push(127);
                length -= 127;
                while length >= 128 {
                    bytes.push(length as u8 | 128);
                    length >>= 7;
                }
                bytes.push(length as u8);
            }
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// One setting.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A request without a body.
pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &block(&GET))
}

/// The head of a request with a body.
pub fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&[&POST[..], more].concat()))
}

/// What the server says to what a client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole connection, with this code.
    GoAway(u32),
    /// One stream, with this code.
    Reset(u32, u32),
    /// An answer with this status.
    Status(u32, u16),
    /// The end without a word.
    Closed,
}

pub struct Received {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A client's end of a connection.
pub struct Connection<S = TcpStream> {
    pub stream: S,
}

impl Connection {
    /// A connection that has said what each begins with.
    pub fn open(site: &Site) -> Self {
        let stream = site.connect().stream.into_inner();
        let mut connection = Connection { stream };
        connection.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        connection
    }
}

impl<S: Read + Write> Connection<S> {
    /// Whether the server takes it is seen by what it answers.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn next(&mut self) -> Option<Received> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).map_err(not_too_late).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).map_err(not_too_late).ok()?;
        Some(Received {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// The next frame of a kind.
    pub fn wait_for(&mut self, kind: u8) -> Option<Received> {
        std::iter::from_fn(|| self.next()).find(|frame| frame.kind == kind)
    }

    /// What comes of it.
    pub fn outcome(&mut self) -> Outcome {
        while let Some(frame) = self.next() {
            let code = |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap());
            match frame.kind {
                GOAWAY => return Outcome::GoAway(code(4)),
                RST_STREAM => return Outcome::Reset(frame.stream, code(0)),
                HEADERS => return Outcome::Status(frame.stream, status(&frame.payload)),
                _ => {}
            }
        }
        Outcome::Closed
    }
}

fn not_too_late(error: std::io::Error) {
    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "nothing came back");
}

/// The status at the beginning of an answer's block, as encoders write it (RFC 7541 appendices A and B).
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let at = block.iter().position(|byte| byte >> 5 != 1).unwrap();
    match block[at..] {
        [byte @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(byte - 0x88)],
        [_, 3, a, b, c, ..] => std::str::from_utf8(&[a, b, c]).unwrap().parse().unwrap(),
        [_, length @ 0x82..=0x83, ..] => {
            let bytes = &block[at + 2..][..usize::from(length & 0x7f)];
            let mut bits = bytes
                .iter()
                .flat_map(|byte| (0..8).rev().map(move |n| u16::from(byte >> n & 1)));
            let mut take = |count| bits.by_ref().take(count).fold(0, |sum, bit| sum << 1 | bit);
            (0..3).fold(0, |sum, _| {
                let digit = match take(5) {
                    short @ 0..=2 => short,
                    long => (long << 1 | take(1)) - 0b01_1001 + 3,
                };
                sum * 10 + digit
            })
        }
        _ => panic!("no status in {block:02x?}"),
    }
}
