// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trailers that are malformed are found however the bytes come, and nothing else is touched.

use super::*;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    bytes.extend_from_slice(payload);
    bytes
}

/// `:status: 200` of the static table, and `x: y`.
const STATUS: &[u8] = &[0x88];
const FIELD: &[u8] = &[0, 1, b'x', 1, b'y'];
/// `:status: 103`
const EARLY: &[u8] = &[8, 3, b'1', b'0', b'3'];
const WHOLE: u8 = END_STREAM | END_HEADERS;

/// What h2 gets when it comes in pieces of this size.
fn passed(sender: Sender, bytes: &[u8], size: usize) -> Result<Vec<u8>, Malformed> {
    let mut blocks = Blocks::new(sender, 0);
    let mut out = Vec::new();
    for piece in bytes.chunks(size) {
        let mut piece = piece.to_vec();
        blocks.read(&mut piece, |_| Ok::<(), Malformed>(()))?;
        out.extend(piece);
    }
    Ok(out)
}

#[test]
fn malformed_trailers_do_not_end_their_stream() {
    let padded = frame(
        HEADERS,
        WHOLE | PADDED | PRIORITY,
        1,
        &[2, 0, 0, 0, 0, 9, 0x88, 0, 0],
    );
    for trailers in [frame(HEADERS, WHOLE, 1, STATUS), padded] {
        let bytes = [
            frame(HEADERS, END_HEADERS, 1, STATUS),
            frame(DATA, 0, 1, b"body"),
            trailers.clone(),
        ]
        .concat();
        let flags = bytes.len() - trailers.len() + 4;
        for size in 1..=bytes.len() {
            match passed(Sender::Service, &bytes, size) {
                Ok(passed) => {
                    let mut want = bytes.clone();
                    want[flags] &= !END_STREAM;
                    assert_eq!(passed, want, "{size}");
                }
                // The flags were in a piece before.
                Err(Malformed) => assert!(flags / size < (bytes.len() - 1) / size, "{size}"),
            }
        }
    }
}

#[test]
fn what_is_right_passes_as_it_is() {
    let body = |stream| {
        [
            frame(HEADERS, END_HEADERS, stream, STATUS),
            frame(DATA, 0, stream, b"b"),
        ]
        .concat()
    };
    for (sender, parts) in [
        (Sender::Service, vec![body(1), frame(HEADERS, WHOLE, 1, FIELD)]),
        // An answer before the answer, and one that has no body.
        (
            Sender::Service,
            vec![
                frame(HEADERS, END_HEADERS, 1, EARLY),
                frame(HEADERS, END_HEADERS, 1, EARLY),
                frame(HEADERS, WHOLE, 1, STATUS),
            ],
        ),
        // Each stream is itself.
        (Sender::Service, vec![body(1), frame(HEADERS, WHOLE, 3, STATUS)]),
        // h2 has its own words for what comes after the end.
        (
            Sender::Client,
            vec![
                body(1),
                frame(DATA, END_STREAM, 1, b""),
                frame(HEADERS, WHOLE, 1, STATUS),
            ],
        ),
        (
            Sender::Client,
            vec![
                body(1),
                frame(RST_STREAM, 0, 1, &[0; 4]),
                frame(HEADERS, WHOLE, 1, STATUS),
            ],
        ),
        // And for trailers that do not end.
        (
            Sender::Client,
            vec![body(1), frame(HEADERS, END_HEADERS, 1, STATUS)],
        ),
    ] {
        let bytes = parts.concat();
        for size in 1..=bytes.len() {
            assert_eq!(passed(sender, &bytes, size), Ok(bytes.clone()), "{size}");
        }
    }
}

#[test]
fn a_block_in_frames_is_one_block() {
    let trailers = [
        frame(HEADERS, END_STREAM, 1, FIELD),
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, END_HEADERS, 1, STATUS),
    ]
    .concat();
    let bytes = [frame(HEADERS, END_HEADERS, 1, STATUS), trailers.clone()].concat();
    let passed_whole = passed(Sender::Client, &bytes, bytes.len()).unwrap();
    assert_eq!(passed_whole[bytes.len() - trailers.len() + 4], 0);
    assert_eq!(passed(Sender::Client, &bytes, 7), Err(Malformed));
}

#[test]
fn what_cannot_be_read_is_left_to_h2() {
    let bad = frame(HEADERS, WHOLE, 1, &[0xff]);
    let bytes = [frame(HEADERS, END_HEADERS, 1, STATUS), bad.clone(), bad].concat();
    assert_eq!(passed(Sender::Client, &bytes, 5), Ok(bytes.clone()));
    let endless = [
        frame(HEADERS, 0, 1, FIELD),
        frame(CONTINUATION, 0, 1, &[0; 255]).repeat(1000),
    ]
    .concat();
    let mut blocks = Blocks::new(Sender::Client, 0);
    for piece in endless.chunks(4096) {
        blocks
            .read(&mut piece.to_vec(), |_| Ok::<(), Malformed>(()))
            .unwrap();
        assert!(blocks.block.capacity() + blocks.frame.capacity() <= 2 * limits::HEAD_BYTES_MAX);
    }
    assert!(blocks.is_lost);
}

#[test]
fn streams_that_are_followed_have_a_limit() {
    let mut blocks = Blocks::new(Sender::Service, 0);
    for stream in 0..3 * limits::H2_BODIES_MAX as u32 {
        let mut bytes = frame(HEADERS, END_HEADERS, 0, STATUS);
        bytes[5..9].copy_from_slice(&(2 * stream + 1).to_be_bytes());
        blocks.read(&mut bytes, |_| Ok::<(), Malformed>(())).unwrap();
    }
    assert_eq!(blocks.bodies.len(), limits::H2_BODIES_MAX);
}
