// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compressed fields (RFC 7541) as clients may write them, and as they may not: a block that cannot be read ends the
//! connection, because nobody knows the table any more.

use super::frames::*;
use super::*;

const PROTOCOL: u32 = 1;

/// Method, scheme and path of a GET from the static table.
const START: [u8; 3] = [0x82, 0x86, 0x84];

fn head(stream: u32, rest: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &[&START[..], rest].concat())
}

/// `:authority: a` by the index of its name, not indexed.
const AUTHORITY: [u8; 3] = [0x01, 1, b'a'];

#[test]
fn every_way_to_write_a_field_is_read() {
    let site = Site::start();
    site.route_all(echo_origin());
    let mut connection = Connection::open(&site);
    let field = |bytes: &[u8]| [&AUTHORITY[..], bytes].concat();
    let ways: [(&str, Vec<u8>, &str); 9] = [
        ("indexed", field(&[0x90]), "accept-encoding: gzip, deflate"),
        ("indexed name, kept", field(&[0x7a, 1, b'k']), "user-agent: k"),
        (
            "from the table of this connection",
            field(&[0xbe]),
            "user-agent: k",
        ),
        ("new name, kept", field(&[0x40, 1, b'x', 1, b'1']), "x: 1"),
        (
            "indexed name, not kept",
            field(&[0x0f, 0x2b, 1, b'n']),
            "user-agent: n",
        ),
        ("new name, not kept", field(&[0x00, 1, b'y', 1, b'2']), "y: 2"),
        ("never kept", field(&[0x10, 1, b'z', 1, b'3']), "z: 3"),
        // `w` has seven bits; one bit of padding.
        ("Huffman", field(&[0x00, 0x81, 0xf1, 1, b'4']), "w: 4"),
        ("an index in two bytes", field(&[0x0f, 0x2b, 0]), "user-agent: "),
    ];
    for (n, (name, bytes, want)) in ways.iter().enumerate() {
        let stream = 2 * n as u32 + 1;
        connection.send(&head(stream, bytes));
        assert_eq!(connection.outcome(), Outcome::Status(stream, 200), "{name}");
        let seen = connection.wait_for(DATA).unwrap().payload;
        let seen = String::from_utf8(seen).unwrap();
        assert!(
            seen.lines().any(|line| line == *want),
            "{name}: no {want:?} in {seen}"
        );
    }
    // The table may be emptied at the beginning of a block, and what was in it is not there any more.
    connection.send(&frame(
        HEADERS,
        WHOLE,
        101,
        &[&[0x20], &START[..], &AUTHORITY].concat(),
    ));
    assert_eq!(connection.outcome(), Outcome::Status(101, 200));
    connection.send(&head(103, &field(&[0xbe])));
    assert_eq!(connection.outcome(), Outcome::GoAway(PROTOCOL));
}

#[test]
fn a_block_that_cannot_be_read_ends_the_connection() {
    let site = Site::start();
    site.route_all(patient_origin());
    let bad: [(&str, &[u8]); 12] = [
        ("2.3.3: an index beyond the tables", &[0xc6]),
        ("2.3.3: a name's index beyond the tables", &[0x7f, 0x0f, 1, b'x']),
        ("4.2: the table's size at the end of a block", &[0x20]),
        (
            "5.1: an integer without end",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        ("5.1: an integer that is cut", &[0xff]),
        ("5.2: a text beyond the block", &[0x00, 1, b'x', 9, b'y']),
        // `a` has five bits, 00011; the padding is longer than seven bits, of noughts, or the end of texts.
        (
            "5.2: padding of more than seven bits",
            &[0x00, 1, b'x', 0x82, 0x1f, 0xff],
        ),
        ("5.2: padding of noughts", &[0x00, 1, b'x', 0x81, 0x18]),
        (
            "5.2: the end of texts in one",
            &[0x00, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff],
        ),
        ("6.1: index nought", &[0x80]),
        ("6.3: a larger table than allowed", &[0x3f, 0xe2, 0x1f, 0x20]),
        ("6.2: a field that is cut", &[0x40, 1, b'x']),
    ];
    let mut wrong = Vec::new();
    for (n, (name, bytes)) in bad.iter().enumerate() {
        let mut connection = Connection::open(&site);
        connection.send(&head(1, &[&AUTHORITY[..], bytes].concat()));
        let outcome = connection.outcome();
        if outcome != Outcome::GoAway(PROTOCOL) {
            wrong.push(format!("{name}: {outcome:?}"));
            continue;
        }
        assert!(connection.next().is_none(), "{name}: the end");
        eventually(name, || site.refused("h2_frame_invalid") == n as u64 + 1);
    }
    // At the beginning the size may change, but not beyond what was allowed.
    let mut connection = Connection::open(&site);
    let block = [&[0x3f, 0xe2, 0x1f], &START[..], &AUTHORITY].concat();
    connection.send(&frame(HEADERS, WHOLE, 1, &block));
    let outcome = connection.outcome();
    if outcome != Outcome::GoAway(PROTOCOL) {
        wrong.push(format!("6.3: at the beginning: {outcome:?}"));
    }
    assert_eq!(wrong, [""; 0]);
    assert_eq!(site.get("/").status, 200);
}
